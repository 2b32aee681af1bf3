"""A flow of images is trained, and its inverse attacked inside the dequantisation cubes of training images."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from invertible.data.dataset import DataSet
from invertible.flow import Flow
from invertible.reproduce.experiment import Found, Measurement, Progress
from invertible.reproduce.image_flows import CIFAR_FLOWS, UNSEEN, WRONG, centred, image_flow, load_images, train
from invertible.reproduce.wording import number
from invertible.stability import attack, relative_error, round_trip

# Part of the progress that training takes.
TRAINING = 0.85
# On pixels as vectors: a network of couplings of several hundred pixels that trains in a minute.
QUICK_SETTINGS: dict[str, Any] = {
    "data": "fashion-mnist",
    "images": 2000,
    "realnvp": {"layers": 16, "hidden": [64, 64]},
    "residual": {"blocks": 4, "hidden": [64, 64]},
    "iterations": [600, 300],
    "lr": 4e-3,
    "batch": 64,
    "candidates": 2000,
    "attacked": 8,
    "steps": 100,
}
FULL_SETTINGS: dict[str, Any] = {**CIFAR_FLOWS, "candidates": 2000, "attacked": 8, "steps": 200}
QUICK_DEPARTURES = (
    "2,000 images of Fashion-MNIST, 28 x 28 at 256 grey levels, in place of CelebA, 64 x 64 at 32 grey levels",
    "RealNVP of 16 couplings with networks of 64 units on images as vectors, a Residual Flow of 4 blocks of 64 units, "
    "600 and 300 iterations of 64 images, and attacks of 100 steps, in place of convolutional flows of 4 scales of 16 "
    "blocks and 200 steps",
)
FULL_DEPARTURES = ("CIFAR-10 and Glow of 3 levels of 32 steps in place of CelebA and flows of 4 scales of 16 blocks",)
DEPARTURES = ("three seeds in place of one model each",)


def train_and_attack(config: Mapping[str, Any], device: str, progress: Progress) -> Measurement:
    """Train the flow of a run, and attack its inverse about training images."""
    torch.manual_seed(config["seed"])
    images = load_images(config)
    flow = image_flow(config, images).to(device)
    fit = train(flow, images, config, device, lambda part: progress(TRAINING * part))
    found = attack_in_cubes(flow, images, config, lambda part: progress(TRAINING + (1 - TRAINING) * part))
    return Measurement({**fit, **found.numbers}, found.arrays)


def attack_in_cubes(flow: Flow, images: DataSet, config: Mapping[str, Any], progress: Progress) -> Measurement:
    """Attack the training images that come back worst from the centres of their dequantisation cubes.

    With `with_lost` in the config those that do not come back are among them; without, only those whose reconstruction
    differs by no more than nobody sees. The radius is half a grey level: all points are images that the flow was
    trained on.
    """
    levels, device = images.levels or 256, next(flow.parameters()).device
    x = centred(images.train.x[: config["candidates"]], levels).to(device)
    errors = round_trip(flow.bijection, x, batch_size=64).data.relative
    rows = errors.argsort(descending=True)
    if not config.get("with_lost", False):
        rows = rows[errors[rows] <= UNSEEN]
    rows = rows[: config["attacked"]]
    numbers = {"candidates": len(x), "wrong at the centre": int((~(errors < WRONG)).sum()), "attacked": len(rows)}
    if not len(rows):
        return Measurement({**numbers, "start": [], "error": [], "first": [], "double": []})
    result = attack(
        flow, x[rows], 0.5 / levels, config["steps"], objective="error", restarts=1, limits=(0.0, 1.0),
        generator=config["seed"], progress=lambda done, total: progress(done / total),
    )  # fmt: skip
    numbers |= {
        "start": result.start_error.tolist(),
        "error": result.error.tolist(),
        "first": result.first_non_finite.tolist(),
        "double": errors_in_double(flow, result.worst_x).tolist(),
        "distance": float(result.distance.max()) * levels,
    }
    arrays = {
        "x": x[rows], "worst x": result.worst_x, "back": result.reconstruction, "history": result.history.float(),
    }  # fmt: skip
    return Measurement(numbers, arrays)


def errors_in_double(flow: Flow, x: Tensor) -> Tensor:
    """Relative errors of the same weights and images in float64: what is rounding becomes small there."""
    bijection = copy.deepcopy(flow.bijection).double()
    return relative_error(x.double(), round_trip(bijection, x.double()).reconstruction).cpu()


def worst_of(found: Found) -> float:
    """The largest error that the attack found; infinite if one is NaN, or if no image came back before it."""
    return largest(found.numbers["error"])


def largest(values: Sequence[float]) -> float:
    """The largest of them; infinite if one is NaN, or if there is none."""
    return max((math.inf if math.isnan(each) else each for each in values), default=math.inf)


def growth_of(found: Found) -> list[float]:
    """Error after the attack over error at the centre of the cube, for each image."""
    pairs: Sequence[tuple[float, float]] = list(zip(found.numbers["error"], found.numbers["start"], strict=True))
    return [error / max(start, torch.finfo(torch.float32).eps) for error, start in pairs]


def worst_first(found: Found) -> list[int]:
    """Attacked images, those that are lost first, then by their errors."""
    errors, first = found.numbers["error"], found.numbers["first"]
    keys = [(first[row] < 0, first[row], -errors[row]) for row in range(len(errors))]
    return sorted(range(len(errors)), key=keys.__getitem__)


def examples(found: Sequence[Found], count: int) -> list[tuple[Found, int | None]]:
    """So many of the worst images of each run; `None` where none was left to attack."""
    picked: list[tuple[Found, int | None]] = []
    for each in found:
        rows: list[int | None] = [*worst_first(each)[:count]]
        picked += [(each, row) for row in rows + [None] * (count - len(rows))]
    return picked


def pictures(picked: Sequence[tuple[Found, int | None]], name: str) -> Tensor:
    """The arrays of this name of examples; white where there is none."""
    blank = next(
        (torch.ones_like(each.arrays[name][0]) for each, row in picked if row is not None), torch.ones(1, 1, 1)
    )
    return torch.stack([blank if row is None else each.arrays[name][row] for each, row in picked])


def error_of(example: tuple[Found, int | None]) -> str:
    """What to write below a reconstruction."""
    each, row = example
    if row is None:
        return "none left"
    error = each.numbers["error"][row]
    if not math.isfinite(error):
        return "not finite"
    return f"off by {error:.0%}" if WRONG <= error < 10 else f"error {number(error, 1)}"
