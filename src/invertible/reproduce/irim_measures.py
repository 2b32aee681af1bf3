"""What is measured of the i-RIM: errors of inverse and gradient, bytes of a training step, and a reconstruction."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from invertible.bijection import Bijection
from invertible.chain import set_memory
from invertible.image_metrics import psnr
from invertible.models.irim import InvertibleRIM, irim
from invertible.models.reconstructor import Reconstructor
from invertible.physics.mri import CartesianMRI
from invertible.physics.operator import Observation
from invertible.reproduce.allocations import held_and_peak
from invertible.reproduce.experiment import Measurement, Progress
from invertible.reproduce.simulated_scans import (
    CENTRES,
    qualities,
    reconstructed,
    simulated_scans,
    train_reconstruction,
)
from invertible.stability import gradient_angle, round_trip

BATCH = 4


def precision_of(config: Mapping[str, Any], device: str, progress: Progress) -> Measurement:
    """Largest relative errors of the inverse of one layer and of the machine, and of the gradient."""
    model = irim(**config["model"]).to(device).eval()
    images = torch.randn(BATCH, 2, config["size"], config["size"], device=device)
    found = {}
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        one, observation = copy.deepcopy(model).to(dtype), _scan(images.to(dtype))
        core = one.core
        assert isinstance(core, InvertibleRIM)
        state = torch.randn(BATCH, core.channels, *images.shape[2:], dtype=dtype, device=device)
        layer = next(core.machine.networks())[0]
        found[name] = {
            "layer": _inverse_error(layer, state),
            "machine": _inverse_error(core.machine.chain(observation), state),
            "gradient": _gradient_error(one, observation),
        }
        progress(0.5)
    return Measurement(found)


def memory_of(config: Mapping[str, Any], device: str, progress: Progress) -> Measurement:
    """Bytes held and at the peak of a training step, stored and rebuilt."""
    hidden = [config["channels"]] * len(config["factors"])
    model = irim(channels=config["channels"], hidden=hidden, factors=config["factors"], steps=config["steps"])
    observation = _scan(torch.randn(1, 2, config["size"], config["size"], device=device))
    found = {}
    for memory in ("store", "reversible"):
        one = copy.deepcopy(model).to(device)
        set_memory(one, memory)

        def forward(one: Reconstructor = one) -> Tensor:
            return one(observation).square().mean()

        # Gradients are allocated, and the guard proves every step, in a first pass.
        forward().backward()
        held, peak = held_and_peak(forward, device)
        found[memory] = {"held": held, "peak": peak}
        progress(0.5)
    return Measurement(found)


def reconstruction_of(config: Mapping[str, Any], device: str, progress: Progress) -> Measurement:
    """Train on one head with `memory="reversible"`, and judge on another."""
    scans = simulated_scans(config["volumes"]["train"], config["slices"], config["size"], config["seed"])
    judged = simulated_scans(config["volumes"]["test"], config["judged"], config["size"], config["seed"])
    model = irim(**config["model"]).to(device)
    set_memory(model, "reversible")
    train_reconstruction(model, scans, config, device, progress)
    numbers: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters())}
    arrays = {}
    # In the middle of the last axis, the axial one.
    shown = len(judged.target) - config["judged"] // 2 - 1
    for acceleration in CENTRES:
        zero, images, _ = reconstructed(model, judged, acceleration, config["seed"], device)
        truth = judged.target[shown]
        numbers[str(acceleration)] = {
            "zero": qualities(judged, zero),
            "irim": qualities(judged, images),
            "shown": [_psnr(truth, each[shown], judged.maximum) for each in (zero, images)],
        }
        arrays[f"panel {acceleration}"] = torch.stack([truth, zero[shown], images[shown]]) / float(truth.max())
    return Measurement(numbers, arrays)


def _scan(images: Tensor) -> Observation:
    """Every fourth column of k-space, and four in the middle."""
    mask = torch.zeros(images.shape[-1], dtype=torch.bool, device=images.device)
    mask[::4], mask[len(mask) // 2 - 2 : len(mask) // 2 + 2] = True, True
    operator = CartesianMRI(mask)
    return Observation(operator, operator(images))


def _inverse_error(bijection: Bijection, x: Tensor) -> float:
    return round_trip(bijection, x).worst


def _gradient_error(model: Reconstructor, observation: Observation) -> float:
    """Relative, of the gradient by rebuilt activations; what is not finite is infinite."""
    found = gradient_angle(model.train(), lambda one, batch: one(batch).square().mean(), observation)
    error = found.total.relative_error
    return error if math.isfinite(error) else math.inf


def _psnr(truth: Tensor, image: Tensor, maximum: float) -> float:
    return float(psnr(truth[None], image[None], maximum)) if bool(image.isfinite().all()) else -math.inf
