"""The power series of log det(I + J), and the Neumann series of its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invertible.blocks.residual.map import Linearisation, ResidualMap, linearise
from invertible.blocks.residual.once import differentiable_once
from invertible.shapes import at_least_float32


def weighted_series(
    g: ResidualMap, x: Tensor, v: Tensor, weights: Sequence[float], gradient: str
) -> tuple[Tensor, Tensor]:
    """g(x), and sum_k a_k (-1)^(k+1)/k v^T J^k v for k = 1 .. n, the mean over P probes v, with gradients in grad mode.

    `"autograd"` keeps the graph of all n products. `"neumann"` (Chen et al. 2019, equation 8 and appendix C) keeps that
    of one: d log det(I + J) = tr((I + J)^-1 dJ), estimated by w^T dJ v with w = sum_k (-1)^k a_k (J^T)^k v, a_0 = 1,
    k = 0 .. n, computed without a graph. Both are per sample, so that any loss may weigh its samples as it likes.

    Args:
        g: the map.
        x: (B, ...).
        v: probes, (P, B, ...).
        weights: a_1 .. a_n.
        gradient: `"neumann"` or `"autograd"`.

    Returns:
        Shapes (B, ...) and (B,), the second in float32 at least.
    """
    through = gradient == "autograd" and torch.is_grad_enabled()
    at = linearise(g, x, v, graph=through)
    if through:
        return at.value, _sum(at, v, weights, graph=True)[0].mean(0)
    with torch.no_grad():
        series, w = _sum(at, v, weights, graph=False)
    if torch.is_grad_enabled():
        slope = dot(at.pull(w, graph=True), v) if at.push is None else dot(w, at.push)
        series = series + differentiable_once(slope - slope.detach())
    return at.value, series.mean(0) if len(series) > 1 else series[0]


def _sum(at: Linearisation, v: Tensor, weights: Sequence[float], *, graph: bool) -> tuple[Tensor, Tensor]:
    """The series' value, (P, B), and w."""
    u, w, sign = v, v, 1.0
    terms = []
    for k, weight in enumerate(weights, 1):
        u = at.pull(u, graph=graph)
        terms.append(dot(u, v) * (sign * weight / k))
        sign = -sign
        w = torch.add(w, u, alpha=sign * weight)
    return torch.stack(terms).sum(0), w


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Sums of products over all axes but the first two, in float32 at least: (P, B, ...) -> (P, B)."""
    return (at_least_float32(a) * at_least_float32(b)).flatten(2).sum(2)
