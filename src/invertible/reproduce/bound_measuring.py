"""Bounds of a block and the largest singular values found, of random and of trained instances."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from invertible.bijection import Bijection, Domain
from invertible.blocks import Squeeze
from invertible.data import load
from invertible.reproduce.blocks_with_bounds import FEATURES, IMAGE, KINDS, VECTOR, Kind
from invertible.stability import FlowPenalty, lipschitz_bounds, singular_values
from invertible.without_log_det import without_log_det

# Of the boxes on which local bounds hold, and of those on which bounds of the whole space are tried as well.
RADIUS, FAR = 3.0, 30.0
# What a logit with alpha = 0.05 makes of [0, 1] ends at log 19 = 2.94.
UNIT = 0.98
# Of the noise on parameters, from near the start to strong.
DEVIATIONS = (0.1, 0.3, 1.0)
# Of the scaled part, along which σ_max of an affine coupling grows.
SIZES = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
BATCH, RATE = 128, 1e-2
# Jacobians are dense: larger samples are fewer.
MANY_DIMENSIONS, FEWER = 16, 4


def measure_kind(name: str, config: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
    """Bounds and maxima of random instances, and of a trained one if there is anything to train."""
    kind, data = KINDS[name], samples(KINDS[name]).to(device)
    found = []
    for index in range(config["instances"] * len(DEVIATIONS)):
        torch.manual_seed(1000 * config["seed"] + index)
        block = random_instance(kind, data, DEVIATIONS[index % len(DEVIATIONS)])
        found.append({"kind": name, "trained": False, **compared(kind, block, data, config["points"])})
    torch.manual_seed(config["seed"])
    block = trained_instance(kind, data, config["steps"])
    if block is not None:
        found.append({"kind": name, "trained": True, **compared(kind, block, data, config["points"])})
    return found


def measure_growth(name: str, config: Mapping[str, Any], device: str) -> dict[str, list[float]]:
    """The largest singular value of a coupling as the part that it transforms grows, the other one in [-1, 1]."""
    kind = KINDS[name]
    torch.manual_seed(config["seed"])
    block = random_instance(kind, samples(kind).to(device), DEVIATIONS[-1])
    half = FEATURES // 2
    passive = 2 * torch.rand(config["points"], half, dtype=torch.float64) - 1
    sign = torch.randn(config["points"], half, dtype=torch.float64).sign()
    points = [torch.cat((passive, size * sign), 1).to(device) for size in SIZES]
    return {"sizes": list(SIZES), "largest": [largest(block, x) for x in points]}


def samples(kind: Kind) -> Tensor:
    """Digits with the noise of dequantisation, as the block takes them: whole, squeezed, or six pixels of a row."""
    digits = load("digits")
    x = digits.train.x.double()
    x = (x + torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)) / (digits.levels or 1)
    if not kind.unit:
        x = (x - x.mean()) / x.std()
    if kind.shape == VECTOR:
        return x[:, 0, 3, 1:7]
    return Squeeze()(x)[0] if kind.shape == IMAGE else x


def random_instance(kind: Kind, data: Tensor, deviation: float) -> Bijection:
    """A block whose parameters are moved by noise, in eval mode and float64."""
    block = kind.build().to(data)
    with torch.no_grad():
        # What initialises itself from data, or keeps statistics of them, does so now.
        block(data[:BATCH])
        for parameter in block.parameters():
            parameter += kind.deviation * deviation * torch.randn(parameter.shape).to(parameter)
    return block.eval()


def trained_instance(kind: Kind, data: Tensor, steps: int) -> Bijection | None:
    """A block trained by maximum likelihood as a flow of its own; `None` if it has no parameters."""
    block = kind.build().to(data)
    parameters = list(block.parameters())
    if not parameters:
        return None
    optimizer, loss_of = torch.optim.Adam(parameters, RATE), FlowPenalty(1.0)
    for _ in range(steps):
        loss = loss_of(*block(data[torch.randint(len(data), (BATCH,))]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return block.eval()


def compared(kind: Kind, block: Bijection, data: Tensor, points: int) -> dict[str, Any]:
    """Bounds and maxima of both directions, and whether the bounds hold on the whole space."""
    everywhere = lipschitz_bounds(block)
    bounds = lipschitz_bounds(block, Domain(RADIUS, RADIUS)) if kind.local else everywhere
    x, y = inputs(kind, data, points), outputs(kind, block, data, points)
    with torch.no_grad():
        back = block.inverse(y)[0]
    return {
        "global": math.isfinite(everywhere.forward) and math.isfinite(everywhere.inverse),
        "forward": [bounds.forward, largest(block, x)],
        "inverse": [bounds.inverse, largest(block, back, inverse=True)],
    }


def inputs(kind: Kind, data: Tensor, points: int) -> Tensor:
    """Points of the box |x_i| <= R, its corners among them, and data; far points too where bounds hold everywhere."""
    count = points if data[0].numel() <= MANY_DIMENSIONS else max(2, points // FEWER)
    inside = torch.rand(count, *data.shape[1:]).to(data)
    if kind.unit:
        return torch.cat((inside, inside.round(), data[:count]))
    inside = RADIUS * (2 * inside - 1)
    x = torch.cat((inside, RADIUS * inside.sign(), data[:count].clamp(-RADIUS, RADIUS)))
    return x if kind.local else torch.cat((x, FAR / RADIUS * inside))


def outputs(kind: Kind, block: Bijection, data: Tensor, points: int) -> Tensor:
    """Likewise of the box |y_i| <= R, and its centre; of a logit's outputs those that it has on [0, 1] alone."""
    count = points if data[0].numel() <= MANY_DIMENSIONS else max(2, points // FEWER)
    with torch.no_grad():
        shape = block(data[:1])[0].shape[1:]
    inside = RADIUS * (2 * torch.rand(count, *shape).to(data) - 1)
    if kind.unit:
        return torch.cat((0 * inside[:1], inside * UNIT))
    y = torch.cat((0 * inside[:1], inside, RADIUS * inside.sign()))
    return y if kind.local else torch.cat((y, FAR / RADIUS * inside))


@without_log_det()
def largest(block: Bijection, x: Tensor, *, inverse: bool = False) -> float:
    """The largest singular value of the Jacobian of f, or of f^-1, at points x of f; infinite if one is lost."""
    spectrum = singular_values(block, x, method="dense")
    values = 1 / spectrum.smallest[:, 0] if inverse else spectrum.largest[:, 0]
    return float(values.max()) if bool(values.isfinite().all()) else math.inf
