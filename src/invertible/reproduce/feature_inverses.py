"""What features of a classifier give back: its images, and the images on lines between two of them."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from invertible.classifier import Classifier
from invertible.representations import interpolation
from invertible.reproduce.classifier_training import LabelledImages
from invertible.shapes import finite_rows
from invertible.stability import relative_error

# Steps of a line, and lines that are drawn.
STEPS, DRAWN_PAIRS = 9, 2


@torch.no_grad()
def inverses(model: Classifier, x: Tensor, levels: int) -> tuple[Tensor, dict[str, Any]]:
    """Images from their features; errors in float32 and float64, and how many differ once rounded to grey levels."""
    given = model.scaled(x)
    back = model.invert(model.features(given))
    grey = (back.double().nan_to_num(nan=-1.0) * (levels - 1)).round()
    differ = (grey != (given.double() * (levels - 1)).round()).flatten(1).any(1) | ~finite_rows(back)
    precise = copy.deepcopy(model).double()
    exact = precise.scaled(x)
    return back, {
        "inverted": len(x),
        "wrong": int(differ.sum()),
        "float32": float(relative_error(given, back).max()),
        "float64": float(relative_error(exact, precise.invert(precise.features(exact))).max()),
    }


@torch.no_grad()
def interpolations(
    model: Classifier, data: LabelledImages, pairs: int, device: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Lines between test images of two classes; how far their middles are from the nearest training image."""
    x, y = _unlike_pairs(data, pairs)
    found = interpolation(model, x.to(device), y.to(device), steps=STEPS)
    real = model.scaled(data.train.x.to(device)).cpu()
    middle = STEPS // 2
    numbers = {
        "lost": found.non_finite,
        "off_range": found.worst_off_range,
        "features_distance": _nearest(found.images[:, middle], real),
        "pixels_distance": _nearest(found.pixels[:, middle], real),
        "test_distance": _nearest(model.scaled(x.to(device)).cpu(), real),
        "classes": y.view(-1, 2)[:DRAWN_PAIRS].tolist(),
    }
    pictures = {"features": found.images[:DRAWN_PAIRS], "pixels": found.pixels[:DRAWN_PAIRS]}
    if found.probabilities is not None and found.pixel_probabilities is not None:
        numbers["chances"] = [
            found.probabilities[:DRAWN_PAIRS].tolist(), found.pixel_probabilities[:DRAWN_PAIRS].tolist()
        ]  # fmt: skip
    return numbers, pictures


def _unlike_pairs(data: LabelledImages, pairs: int) -> tuple[Tensor, Tensor]:
    """Test images in order, paired with the next one of another class."""
    assert data.test.y is not None
    rows = [
        row
        for first in range(0, len(data.test) - 1, 2)
        if data.test.y[first] != data.test.y[first + 1]
        for row in (first, first + 1)
    ][: 2 * pairs]
    return data.test.x[rows], data.test.y[rows]


def _nearest(x: Tensor, real: Tensor) -> float:
    """Median distance to the nearest real image; what is not finite is infinitely far."""
    distances = torch.cdist(x.flatten(1).double(), real.flatten(1).double()).amin(1)
    return float(distances.nan_to_num(nan=math.inf).median())
