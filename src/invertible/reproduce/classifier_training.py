"""Training of a classifier by stochastic gradient descent, and the data of a seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from invertible.blocks import Standardise
from invertible.classifier import Classifier
from invertible.data import Split, load
from invertible.reproduce.experiment import Progress
from invertible.training.batches import TrainingBatches
from invertible.training.parameter_groups import parameter_groups

# Of the 1797 digits, which bring no test set of their own.
TEST_DIGITS = 360
EVALUATION_BATCH = 500
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and labels to learn from and to judge by.

    Attributes:
        train: to learn from.
        test: to judge by.
        levels: number of grey levels.
    """

    train: Split
    test: Split
    levels: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image."""
        return tuple(self.train.x.shape[1:])


def labelled_images(name: str, seed: int) -> LabelledImages:
    """The data of a seed: digits are divided anew by each, other sets come with their test images.

    Validation images are learnt from, too, since nothing is chosen by them.
    """
    data = load(name)
    parts = [data.train, data.validation, *([data.test] if name == "digits" else [])]
    x, y = torch.cat([part.x for part in parts]), torch.cat([_labels(part) for part in parts])
    levels = data.levels or 256
    if name != "digits":
        return LabelledImages(Split(x, y), data.test, levels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    known, unknown = order[TEST_DIGITS:], order[:TEST_DIGITS]
    return LabelledImages(Split(x[known], y[known]), Split(x[unknown], y[unknown]), levels)


def train_classifier(
    model: Classifier,
    data: LabelledImages,
    config: Mapping[str, Any],
    device: str,
    progress: Progress,
    watch: Callable[[int, Batch], object] = lambda step, batch: None,
) -> None:
    """Train by cross-entropy, with momentum 0.9 and weight decay on weights alone.

    Args:
        model: on the device; its first layer, which standardises the data, is fitted here.
        data: what to learn from.
        config: `steps`, `batch`, `lr`, `decay`, `nesterov`, `milestones` at which the rate falls by the factor `fall`
            (empty for a cosine to 0), `flip`, `crop` (zeros around an image that is cut anew), `clip` (a norm of the
            gradient, 0 for none), and `seed`.
        device: where to train.
        progress: told the part that is done.
        watch: told the step and its batch before each step.
    """
    model.train()
    # Not refused but counted as wrong: a network that diverges has an accuracy, too.
    model.validate = False
    standardise(model, data.train.x.to(device))
    weights, others = parameter_groups(model)
    groups = [{"params": weights, "weight_decay": config["decay"]}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, config["lr"], momentum=0.9, nesterov=config["nesterov"])
    batches = iter(
        TrainingBatches(
            data.train.x, _labels(data.train), config["batch"],
            seed=config["seed"], flip=config["flip"], crop_padding=config["crop"],
        )
    )  # fmt: skip
    for step in range(config["steps"]):
        x, y = (part.to(device) for part in next(batches))
        watch(step, (x, y))
        for group in optimizer.param_groups:
            group["lr"] = config["lr"] * _factor(step, config)
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(model, (x, y)).backward()
        if config["clip"]:
            nn.utils.clip_grad_norm_(model.parameters(), config["clip"])
        optimizer.step()
        progress(step / config["steps"])
    model.eval()


def standardise(model: Classifier, x: Tensor) -> None:
    """Fit the first layer to images."""
    first = model.body[0]
    assert isinstance(first, Standardise)
    first.fit(model.scaled(x))


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """The loss of a batch."""
    return functional.cross_entropy(model(batch[0]), batch[1])


@torch.no_grad()
def accuracy(model: Classifier, split: Split) -> float:
    """Share of right answers in percent, in eval mode; logits that are not finite are wrong."""
    training, device = model.training, model.anchor.device
    model.eval()
    right = 0
    for x, y in zip(split.x.split(EVALUATION_BATCH), _labels(split).split(EVALUATION_BATCH), strict=True):
        logits = model(x.to(device))
        right += int(((logits.argmax(1) == y.to(device)) & logits.isfinite().all(1)).sum())
    model.train(training)
    return 100 * right / len(split)


def _factor(step: int, config: Mapping[str, Any]) -> float:
    if config["milestones"]:
        return config["fall"] ** sum(step >= milestone for milestone in config["milestones"])
    return (1 + math.cos(math.pi * step / config["steps"])) / 2


def _labels(split: Split) -> Tensor:
    assert split.y is not None
    return split.y
