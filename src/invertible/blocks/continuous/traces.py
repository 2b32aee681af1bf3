"""The trace of a vector field's Jacobian, exact or by Hutchinson's estimator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vjp, vmap

from invertible.errors import choose, require_positive

KINDS = ("auto", "exact", "hutchinson")
DISTRIBUTIONS = ("rademacher", "gaussian")
# Up to here the exact trace costs no more than about twice what one probe costs.
EXACT_IN_TRAINING = 4
# Up to here the exact trace is affordable where results must be deterministic.
EXACT_IN_EVALUATION = 64
# Rows of the Jacobian at once: bounds the memory.
CHUNK = 64

VectorField = Callable[[Tensor], Tensor]


class Divergence(NamedTuple):
    """A field's value and two invariants of its Jacobian J.

    Attributes:
        value: v(x), of x's shape.
        trace: tr J or an estimate, (B,).
        frobenius: |J|_F^2 or an estimate, (B,).
    """

    value: Tensor
    trace: Tensor
    frobenius: Tensor


@dataclass(frozen=True)
class Trace:
    """How tr J of a field with Jacobian J is computed along a solve.

    Exact: all D rows of J, D vector-Jacobian products. Hutchinson (1990): e^T J e for a random e with E[e e^T] = I,
    the mean over several; its variance is 2 (|S|_F^2 - sum S_ii^2), S = (J + J^T)/2, for Rademacher probes, and
    2 |S|_F^2 for Gaussian ones. One probe serves a whole solve, so that the equation stays smooth (Grathwohl et al.
    2019, section 3.1).

    In training mode a sample has its own probes, drawn from torch's global generator of the device; in eval mode
    probes are fixed and the same for all samples, so that a density is a function of its sample.

    Args:
        kind: `"exact"`, `"hutchinson"`, or `"auto"`: exact up to 4 dimensions in training mode and up to 64 in eval
            mode.
        distribution: `"rademacher"` (signs) or `"gaussian"`.
        training_probes: number of probes of Hutchinson's estimator in training mode.
        evaluation_probes: number of them in eval mode.
    """

    kind: str = "auto"
    distribution: str = "rademacher"
    training_probes: int = 1
    evaluation_probes: int = 8

    def __post_init__(self) -> None:
        choose("Trace", "kind", self.kind, dict.fromkeys(KINDS))
        choose("Trace", "distribution", self.distribution, dict.fromkeys(DISTRIBUTIONS))
        counts = {"training_probes": self.training_probes, "evaluation_probes": self.evaluation_probes}
        require_positive("Trace", **counts)

    def is_exact(self, dimensions: int, *, training: bool) -> bool:
        """Whether the trace of samples with that many numbers is exact."""
        limit = EXACT_IN_TRAINING if training else EXACT_IN_EVALUATION
        return self.kind == "exact" or (self.kind == "auto" and dimensions <= limit)

    def probes(self, x: Tensor, *, training: bool) -> Tensor | None:
        """Probes for a solve from x, (K, B, ...); `None` for an exact trace."""
        if self.is_exact(x[:1].numel() if len(x) else 1, training=training):
            return None
        if training:
            return self._draw((self.training_probes, *x.shape), x, None)
        generator = torch.Generator().manual_seed(0)
        fixed = self._draw((self.evaluation_probes, 1, *x.shape[1:]), x, generator)
        return fixed.expand(-1, *x.shape)

    def _draw(self, shape: tuple[int, ...], x: Tensor, generator: torch.Generator | None) -> Tensor:
        device = x.device if generator is None else generator.device
        if self.distribution == "gaussian":
            noise = torch.randn(shape, generator=generator, device=device, dtype=x.dtype)
        else:
            noise = torch.randint(0, 2, shape, generator=generator, device=device).to(x.dtype) * 2 - 1
        return noise.to(x.device)


def divergence(field: VectorField, x: Tensor, probes: Tensor | None) -> Divergence:
    """v(x), tr J and |J|_F^2, differentiable as often as the field is.

    Args:
        field: v, (B, ...) -> (B, ...), a sample's value depending on that sample alone.
        x: where, (B, ...).
        probes: (K, B, ...) for Hutchinson's estimates, of the squared norm by |J^T e|^2; `None` for exact values.
    """
    directions = basis(x) if probes is None else probes
    # Transforms of torch.func take no autograd inside, and the hooks by which memory strategies save no transforms.
    inside = torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]
    value, rows = (_transformed if inside else _differentiated)(field, x, directions)
    count = 1 if probes is None else len(directions)
    trace = (rows * directions).flatten(2).sum((0, 2)) / count
    return Divergence(value, trace, rows.square().flatten(2).sum((0, 2)) / count)


def _transformed(field: VectorField, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    value, pull, *_ = vjp(field, x)
    return value, vmap(lambda e: pull(e)[0])(directions.to(value.dtype))


def _differentiated(field: VectorField, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        at = x if graph and x.requires_grad else x.detach().requires_grad_()
        value = field(at)
        if not value.requires_grad:
            return value, torch.zeros_like(directions)
        if graph:
            return value, torch.stack([_product(value, at, e, graph=True) for e in directions])
    # At once: quicker by two for many directions, in chunks that bound the memory.
    chunks = directions.split(CHUNK)
    rows = [_product(value, at, e, graph=False) for e in chunks]
    return value.detach(), torch.cat(rows)


def _product(value: Tensor, x: Tensor, directions: Tensor, *, graph: bool) -> Tensor:
    """e^T J for one direction, or for several if there is no graph to keep."""
    (found,) = torch.autograd.grad(
        value,
        x,
        directions,
        retain_graph=True,
        create_graph=graph,
        is_grads_batched=not graph,
        allow_unused=True,
        materialize_grads=True,
    )
    return found


def basis(x: Tensor) -> Tensor:
    """The unit vectors of a sample's space for every sample, (D, B, ...)."""
    dimensions = x.shape[1:].numel()
    eye = torch.eye(dimensions, dtype=x.dtype, device=x.device)
    return eye.view(dimensions, 1, *x.shape[1:]).expand(-1, *x.shape)
