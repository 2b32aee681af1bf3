"""Attacks on flows of images, made up."""

import math

import torch

from invertible.reproduce import Found

IMAGES = 4
# Seconds: digits as vectors.
TINY = {
    "data": "digits",
    "images": 40,
    "realnvp": {"layers": 2, "hidden": [8]},
    "residual": {"blocks": 1, "hidden": [8]},
    "iterations": [3, 2],
    "lr": 1e-3,
    "batch": 16,
    "candidates": 24,
    "attacked": 3,
    "steps": 2,
}


def attacked(flow, seed, error, first=-1, *, start=1e-6, double=1e-12):
    """An attack that ended with this error on every image, at the step `first` if it is not finite."""
    picture = torch.full((IMAGES, 1, 8, 8), 0.5)
    back = picture.clone()
    history = torch.full((11, IMAGES), start)
    if not math.isfinite(error):
        back[:, :, 2:4] = math.nan
        history[max(first, 0) :] = math.inf
    numbers = {
        "bits": 5.0, "validation bits": 5.2, "skipped": 0, "candidates": 100, "wrong at the centre": 1,
        "attacked": IMAGES, "start": [start] * IMAGES, "error": [error] * IMAGES, "first": [first] * IMAGES,
        "double": [double] * IMAGES, "distance": 0.5,
    }  # fmt: skip
    arrays = {"x": picture, "worst x": picture + 0.01, "back": back, "history": history}
    return Found({"flow": flow, "seed": seed}, numbers, arrays, 1.0)


def none_attacked(flow, seed):
    """A flow that keeps no training image, so that none is left to attack."""
    numbers = {
        "bits": math.inf, "validation bits": math.nan, "skipped": 3, "candidates": 100, "wrong at the centre": 100,
        "attacked": 0, "start": [], "error": [], "first": [], "double": [],
    }  # fmt: skip
    return Found({"flow": flow, "seed": seed}, numbers, {}, 1.0)


def of_seeds(**flows):
    """Three seeds of each flow, by the arguments of `attacked` after the seed."""
    return [attacked(flow.replace("_", "-"), seed, *given) for seed in range(3) for flow, given in flows.items()]
