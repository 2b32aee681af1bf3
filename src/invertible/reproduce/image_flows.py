"""The flows of images whose inverses are compared: Glow with three couplings, and Residual Flow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from invertible import data, models
from invertible.blocks import Flatten
from invertible.chain import Chain
from invertible.data.dataset import DataSet
from invertible.flow import Flow
from invertible.reproduce.experiment import Found, Progress
from invertible.reproduce.figures import BLUE, GREEN, ORANGE, RED
from invertible.reproduce.runs import with_config

COUPLINGS: dict[str, dict[str, Any]] = {
    "affine": {"coupling": "affine", "scale": "sigmoid"},
    "half-sigmoid": {"coupling": "affine", "scale": "half-sigmoid"},
    "additive": {"coupling": "additive"},
}
RESIDUAL = "residual"
NAMES = {
    "affine": "affine, scale sigmoid(r + 2)",
    "half-sigmoid": "affine, scale in (1/2, 1)",
    "additive": "additive",
    RESIDUAL: "Residual Flow",
}
COLOURS = {"affine": RED, "half-sigmoid": ORANGE, "additive": GREEN, RESIDUAL: BLUE}
# Of |x|: an error that anyone sees, and one that nobody sees.
WRONG, UNSEEN = 0.1, 1e-3
# Flows of the size of the papers', and their training.
CIFAR_FLOWS: dict[str, Any] = {
    "data": "cifar10",
    "glow": {"levels": 3, "depth": 32, "hidden": 512},
    "residual": {"levels": 3, "blocks": 16},
    "iterations": 200_000,
    "lr": 1e-3,
    "batch": 64,
}
# Of the gradient's norm: a step on an unlikely batch must not undo the others.
CLIP = 50.0


def image_flow(config: Mapping[str, Any], images: DataSet) -> Flow:
    """The flow that a run's config names, with conditioners that see their input as it is, as the paper's.

    With `glow` in the config couplings are convolutional and the Residual Flow, too; with `realnvp` both take images as
    vectors of pixels.
    """
    levels: dict[str, Any] = {"grey_levels": images.levels}
    coupling = COUPLINGS.get(config["flow"])
    shape = images.shape if "glow" in config else math.prod(images.shape)
    if coupling is None:
        flow = models.residual_flow(shape, **config["residual"], **levels)
    elif isinstance(shape, int):
        flow = models.realnvp(shape, **config["realnvp"], **coupling, conditioner_bound=math.inf, **levels)
    else:
        flow = models.glow(shape, **config["glow"], **coupling, conditioner_bound=math.inf, **levels)
    if isinstance(shape, int):
        return Flow(Chain(Flatten(images.shape), flow.bijection), flow.base, levels=images.levels)
    return flow


def load_images(config: Mapping[str, Any]) -> DataSet:
    """The images of a run's config, at most `images` of each part."""
    return data.load(config["data"], limit=config.get("images"))


def train(flow: Flow, images: DataSet, config: Mapping[str, Any], device: str, progress: Progress) -> dict[str, float]:
    """Maximum likelihood by Adam; the flow ends in eval mode.

    Args:
        flow: on the device.
        images: to learn from.
        config: `iterations`, `batch` and `lr`, each but `batch` by kind of flow, see `chosen`.
        device: of the flow.
        progress: is told up to 1.

    Returns:
        Bits per dimension of the last tenth of iterations, `bits`, and of the validation images, `validation bits`;
        and the number of iterations left out because the loss was not finite, `skipped`.
    """
    x = images.train.x.to(device)
    iterations, lr = chosen(config, "iterations"), chosen(config, "lr")
    optimizer = torch.optim.Adam(flow.parameters(), lr)
    # What is not finite is counted here, and not trained on.
    flow.validate, skipped, bits = False, 0, []
    for iteration in range(iterations):
        loss = flow.bits_per_dim(x[torch.randint(len(x), (config["batch"],)).to(device)]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(flow.parameters(), CLIP)
        if bool(loss.isfinite() & norm.isfinite()):
            optimizer.step()
            bits.append(float(loss.detach()))
        else:
            skipped += 1
        progress((iteration + 1) / iterations)
    flow.eval()
    with torch.no_grad():
        unseen = flow.bits_per_dim(images.validation.x[:512].to(device)).mean()
    last = bits[-max(1, iterations // 10) :]
    trained = sum(last) / len(last) if last else math.inf
    return {"bits": trained, "validation bits": float(unseen), "skipped": skipped}


def chosen(config: Mapping[str, Any], setting: str) -> Any:  # noqa: ANN401
    """A setting that may differ for the Residual Flow, which then comes second."""
    value = config[setting]
    return value[config["flow"] == RESIDUAL] if isinstance(value, list) else value


def centred(levels: Tensor, grey_levels: int) -> Tensor:
    """Images at the centres of their dequantisation cubes, (k + 1/2)/levels."""
    return (levels.float() + 0.5) / grey_levels


def of_flow(found: Sequence[Found], flow: str) -> list[Found]:
    """What the runs of a flow found, by seed."""
    return sorted(with_config(found, flow=flow), key=lambda each: each.config["seed"])
