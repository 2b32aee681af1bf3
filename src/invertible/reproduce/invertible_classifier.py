"""A classifier around an invertible network, as it is trained to see what becomes of its inverse."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from invertible.bijection import Bijection
from invertible.blocks import ActNorm, AdditiveCoupling, AffineCoupling, Permutation, Squeeze
from invertible.chain import Chain
from invertible.data import Split
from invertible.memory import Reversible, Strategy
from invertible.reproduce.classifier_training import LabelledImages
from invertible.stability import FiniteDifferencePenalty, FlowPenalty, gradient_angle, round_trip, singular_values
from invertible.training.batches import TrainingBatches

Batch = tuple[Tensor, Tensor]
# Settings of training; a penalty's weight of 0 is none. Rates fall tenfold at the milestones.
DIGITS = {
    "data": "digits", "levels": 2, "depth": 16, "hidden": 32, "batch": 128, "lr": 1e-3, "milestones": [],
    "flip": False, "crop": 0,
}  # fmt: skip
# The paper's: 200 epochs of 391 steps, of which the rate falls at the 60th, 120th and 160th.
CIFAR = {
    "data": "cifar10", "levels": 3, "depth": 16, "hidden": 128, "batch": 128, "lr": 1e-4,
    "milestones": [23_460, 46_920, 62_560], "flip": True, "crop": 4,
}  # fmt: skip
# Images from which activation norms take their start.
FIRST = 512
STRATEGIES: dict[str, str | Strategy] = {
    "stored": "store",
    "memory-saving": Reversible(guard=False),
    "guarded": "reversible",
}


class InvertibleClassifier(nn.Module):
    """Glow without a split, and a head of batch normalisation, ReLU and a linear layer (Behrmann et al. 2021, 5.2).

    Args:
        shape: of an image, (C, H, W).
        config: `levels`, `depth` and `hidden` of the network; `coupling`, `"additive"` or `"affine"`, which is Glow's.
    """

    def __init__(self, shape: tuple[int, ...], config: Mapping[str, Any]) -> None:
        super().__init__()
        blocks: list[Bijection] = []
        channels = shape[0]
        for level in range(config["levels"]):
            channels *= 4
            blocks.append(Squeeze())
            for step in range(config["depth"]):
                blocks += [ActNorm(channels), Permutation(channels, seed=100 * level + step)]
                blocks.append(_coupling(config["coupling"], channels, config["hidden"]))
        self.trunk = Chain(*blocks, memory=STRATEGIES[config["memory"]])
        features = math.prod(shape)
        self.norm, self.head = nn.BatchNorm1d(features), nn.Linear(features, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, features and log-determinant."""
        z, log_det = self.trunk(x)
        return self.head(functional.relu(self.norm(z.flatten(1)))), z, log_det


def _coupling(kind: str, channels: int, hidden: int) -> Bijection:
    widths = (hidden, hidden)
    if kind == "additive":
        return AdditiveCoupling(channels, hidden=widths, spatial_dims=2)
    return AffineCoupling(channels, hidden=widths, scale="sigmoid", order="glow", spatial_dims=2)


def started(data: LabelledImages, config: Mapping[str, Any], device: str) -> tuple[InvertibleClassifier, Tensor]:
    """A classifier before training, its activation norms set, and mean and deviation of the data by channel."""
    x = data.train.x.float()
    statistics = torch.stack([x.mean((0, 2, 3)), x.std((0, 2, 3))])[:, :, None, None].to(device)
    torch.manual_seed(config["seed"])
    model = InvertibleClassifier(data.shape, config).to(device)
    with torch.no_grad():
        model.trunk(standardised(data.train.x[:FIRST], statistics))
    return model, statistics


def standardised(x: Tensor, statistics: Tensor) -> Tensor:
    """Grey levels (N, C, H, W) with the mean 0 and deviation 1 of the training data, on the device of these."""
    return (x.to(statistics) - statistics[0]) / statistics[1]


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """The loss whose gradients are compared."""
    return functional.cross_entropy(model(batch[0])[0], batch[1])


def training(
    model: InvertibleClassifier, data: LabelledImages, statistics: Tensor, config: Mapping[str, Any]
) -> Iterator[float]:
    """Train by cross-entropy and the penalties of the config; yields the loss before each step, which it takes next.

    Ends after `config["steps"]`, or after a loss that is not finite, with which a user's training would be lost.
    """
    assert data.train.y is not None
    flow = FlowPenalty(config["flow"]) if config["flow"] else None
    differences = None
    if config["differences"]:
        differences = FiniteDifferencePenalty(config["differences"], every=config["every"], generator=config["seed"])
    optimizer = torch.optim.Adam(model.parameters(), config["lr"], fused=True)
    batches = TrainingBatches(
        data.train.x, data.train.y, config["batch"],
        seed=config["seed"], flip=config["flip"], crop_padding=config["crop"],
    )  # fmt: skip
    for step, (levels, *labels) in zip(range(config["steps"]), batches, strict=False):
        model.train()
        x = standardised(levels, statistics)
        logits, z, log_det = model(x)
        loss = entropy = functional.cross_entropy(logits, labels[0].to(x.device))
        if flow is not None:
            loss = loss + flow(z, log_det)
        if differences is not None:
            loss = loss + differences(model.trunk, x, step=step)
        yield entropy.item()
        if not math.isfinite(loss.item()):
            return
        for group in optimizer.param_groups:
            group["lr"] = config["lr"] * 0.1 ** sum(step >= milestone for milestone in config["milestones"])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model: InvertibleClassifier, split: Split, statistics: Tensor) -> float:
    """Share of right answers in percent, in eval mode; logits that are not finite are wrong."""
    assert split.y is not None
    model.eval()
    right = 0
    for x, labels in zip(split.x.split(500), split.y.split(500), strict=True):
        logits = model(standardised(x, statistics))[0].cpu()
        right += int(((logits.argmax(1) == labels) & logits.isfinite().all(1)).sum())
    return 100 * right / len(split)


def angles_of(model: InvertibleClassifier, batches: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """The largest finite angle over batches in degrees, and the number of batches without one; in eval mode."""
    model.eval()
    degrees = [gradient_angle(model, cross_entropy, batch).total.degrees for batch in batches]
    finite = [each for each in degrees if math.isfinite(each)]
    return {"degrees": max(finite, default=math.nan), "nan": len(degrees) - len(finite)}


def inverses(model: InvertibleClassifier, x: Tensor, spectra: int) -> dict[str, Any]:
    """Errors of the inverse on test images, and singular values at some of them."""
    model.eval()
    errors = round_trip(model.trunk, x).data
    spectrum = singular_values(model.trunk, x[:spectra])
    smallest, condition = spectrum.smallest[:, 0], spectrum.condition_number
    return {
        "images": len(x),
        "non_finite": errors.non_finite,
        "median": errors.median,
        "worst": errors.worst,
        "smallest": float(smallest.nan_to_num(nan=0.0).min()),
        "condition": float(condition.nan_to_num(nan=math.inf).max()),
    }
