"""The log-determinant from the dense Jacobian."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.blocks.residual.log_det import LogDet
from invertible.blocks.residual.map import ResidualMap, is_written_out, linearise
from invertible.errors import require_positive
from invertible.shapes import at_least_float32, full_precision

# Up to here the rows of J come one after the other from one evaluation of g, beyond from copies of the batch.
FEW = 4


@dataclass(frozen=True)
class ExactLogDet(LogDet):
    """log|det(I + J)| from the dense Jacobian: no error but rounding, in training and in eval mode.

    Recommended for few dimensions, where it is also the quickest, and for evaluation up to some hundred; not for images
    in training. Cost: D products with J^T and D^3 multiplications a sample; memory D times that of an evaluation of g,
    where gradients are wanted.

    Args:
        chunk: numbers of an input that are held in copies at once, where D > 4; more is quicker and takes more memory.

    Raises:
        ConfigError: if `chunk` is no positive integer.
    """

    chunk: int = 2**20

    def __post_init__(self) -> None:
        require_positive("ExactLogDet", chunk=self.chunk)

    def estimate(self, g: ResidualMap, x: Tensor, *, gradient: str = "autograd") -> tuple[Tensor, Tensor]:
        """g(x) and the exact log-determinant, differentiable as often as g is, whatever `gradient` says."""
        value, jacobian = self.jacobian(g, x)
        return value, _log_det(at_least_float32(jacobian))

    def jacobian(self, g: ResidualMap, x: Tensor) -> tuple[Tensor, Tensor]:
        """g(x), and its dense Jacobian (B, D, D), with graphs where grad mode is on."""
        dimensions = math.prod(x.shape[1:])
        units = torch.eye(dimensions, dtype=x.dtype, device=x.device).view(dimensions, 1, *x.shape[1:])
        if dimensions <= FEW and not is_written_out(g, x):
            return _one_by_one(g, x, units)
        size = max(1, self.chunk // max(1, x.numel()))
        parts = [_block(g, x, some.expand(-1, *x.shape)) for some in units.split(size)]
        return parts[0][0], torch.cat([rows for _, rows in parts], 1)


def _one_by_one(g: ResidualMap, x: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
    """Of few dimensions, from one evaluation of g."""
    graph = torch.is_grad_enabled()
    at = linearise(g, x, units[:1].expand(-1, *x.shape))
    rows = [at.pull(unit.expand(1, *x.shape), graph=graph).flatten(2)[0] for unit in units]
    return at.value, torch.stack(rows, 1)


def _block(g: ResidualMap, x: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
    """g(x), and rows of every sample's Jacobian or of its transpose, (B, P, D)."""
    at = linearise(g, x, units)
    products = at.pull(units, graph=torch.is_grad_enabled()) if at.push is None else at.push
    return at.value, products.flatten(2).transpose(0, 1)


def _log_det(jacobian: Tensor) -> Tensor:
    """log det(I + J) of (B, D, D); the determinant of a contraction plus I is positive."""
    dimensions = jacobian.shape[-1]
    if dimensions == 1:
        return jacobian[:, 0, 0].log1p()
    if dimensions == 2:
        (a, b), (c, d) = jacobian[:, 0].unbind(1), jacobian[:, 1].unbind(1)
        return (a + d + (a * d - b * c)).log1p()
    with full_precision(jacobian):
        identity = torch.eye(dimensions, dtype=jacobian.dtype, device=jacobian.device)
        return torch.linalg.slogdet(jacobian + identity)[1]
