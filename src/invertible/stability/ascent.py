"""Which way the reconstruction error of a map grows: gradients of what an attack climbs, sample by sample."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from invertible.bijection import Bijection
from invertible.errors import ConfigError, DomainError, ShapeError
from invertible.stability.batches import per_row, rows_of
from invertible.stability.passage import LOST
from invertible.stability.products import Linearization, SolvedInverse, norm, times
from invertible.stability.projection import unit
from invertible.without_log_det import without_log_det

# Tolerance and iterations of the linear systems of an implicit gradient: a direction of ascent needs no more.
IMPLICIT_TOLERANCE, IMPLICIT_ITERATIONS = 1e-3, 30


@dataclass
class Climb:
    """What one evaluation at a batch of points gives.

    Attributes:
        reconstruction: f^-1(f(x)), of x's shape; NaN in rows for which the inverse raised an error.
        gradient: of the objective with respect to x, of x's shape; NaN in rows without one.
        probe: the next direction in latent space, for `"amplification"`.
    """

    reconstruction: Tensor
    gradient: Tensor
    probe: Tensor | None = None


class Climber:
    """Evaluates reconstructions and gradients, each row on its own.

    Args:
        f: the map, differentiable with respect to its input, parameters constant.
        inverse_gradient: `"autograd"`, `"implicit"`, or `"auto"`: by autograd if the inverse has a graph, else
            implicitly.

    Raises:
        ConfigError: if `inverse_gradient` is none of these.
    """

    def __init__(self, f: Bijection, inverse_gradient: str = "auto") -> None:
        if inverse_gradient not in ("auto", "autograd", "implicit"):
            raise ConfigError(
                "attack: expected inverse_gradient to be 'auto', 'autograd' or 'implicit', got "
                f"{inverse_gradient!r}. 'implicit' is for inverses that iterate without grad."
            )
        self.f, self.inverse_gradient = f, inverse_gradient

    def error(self, x: Tensor, condition: Tensor | None, probe: Tensor | None = None) -> Climb:
        """Climb |x - f^-1(f(x))|_2, as Behrmann et al. (2021) do.

        In exact arithmetic that is 0 everywhere. Autograd differentiates what was computed: f at x, and the inverse
        at the states that it went through, so that the gradient is (J_f^-1(x') J_f(x) - 1)^T e/|e|, small while the
        inverse is good and large where a small error of x' changes the Jacobian.
        """
        return self._by_halves(self._error, x, condition, None)

    def amplification(self, x: Tensor, condition: Tensor | None, probe: Tensor | None) -> Climb:
        """Climb |x - f^-1(f(x) + h v)|_2 / h, by how much the inverse multiplies an error h v of its input.

        v has norm 1 and h = sqrt(eps) |f(x)|_2. The gradient with respect to v is the next v: a power iteration on
        J^-T J^-1, so that the ascent follows the largest singular value of the inverse's Jacobian.
        """
        return self._by_halves(self._amplification, x, condition, probe)

    @torch.no_grad()
    def reconstruction(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """f^-1(f(x)); NaN in rows for which the inverse raised an error."""

        def plainly(x: Tensor, condition: Tensor | None, probe: Tensor | None) -> Climb:
            return Climb(self.f.inverse(self.f(x, condition)[0], condition)[0], torch.empty(0))

        return self._by_halves(plainly, x, condition, None).reconstruction

    def probe(self, x: Tensor, condition: Tensor | None, draw: Callable[[Tensor], Tensor]) -> Tensor:
        """A first direction in latent space."""
        with torch.no_grad():
            y, _ = self.f(x[:1], condition if condition is None else condition[:1])
        return draw(y.expand(len(x), *y.shape[1:]))

    def _error(self, x: Tensor, condition: Tensor | None, probe: Tensor | None) -> Climb:
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            back = self._back(self.f(leaf, condition)[0], condition)
            goal = _goal(back - leaf)
        return Climb(back.detach(), *torch.autograd.grad(goal, leaf))

    def _amplification(self, x: Tensor, condition: Tensor | None, probe: Tensor | None) -> Climb:
        assert probe is not None
        leaf, direction = x.detach().requires_grad_(), probe.detach().requires_grad_()
        with torch.enable_grad():
            y = self.f(leaf, condition)[0]
            size = norm(y.detach())
            shift = times(torch.finfo(x.dtype).eps ** 0.5 * torch.where(size > 0, size, 1), direction)
            goal = _goal(self._back(y + shift, condition) - leaf)
        gradient, turned = torch.autograd.grad(goal, (leaf, direction))
        with torch.no_grad():
            back = self.f.inverse(y.detach(), condition)[0]
        return Climb(back, gradient, _unit_or(turned, probe))

    def _back(self, y: Tensor, condition: Tensor | None) -> Tensor:
        if self.inverse_gradient != "implicit":
            back, _ = self.f.inverse(y, condition)
            if back.requires_grad:
                return back
            if self.inverse_gradient == "autograd":
                raise ConfigError(
                    "attack: expected an inverse that autograd can differentiate, got one without a graph. Use "
                    "inverse_gradient='implicit'."
                )
            self.inverse_gradient = "implicit"
        return _Implicit.apply(y, self.f, condition)  # pyright: ignore[reportReturnType]

    @without_log_det()
    def _by_halves(self, evaluate: Callable[..., Climb], x: Tensor, condition: Tensor | None, probe: Any) -> Climb:  # noqa: ANN401
        """Evaluate a batch; where an error about values is raised, halve it until the rows to blame stand alone."""
        try:
            return evaluate(x, condition, probe)
        except (ShapeError, ConfigError):
            raise
        except LOST as error:
            if len(x) == 1:
                self._check_domain(x, condition, error)
                lost = torch.full_like(x, torch.nan)
                return Climb(lost, lost, probe)
        pieces = [
            self._by_halves(evaluate, x[half], *(rows_of(each, half) for each in (condition, probe)))
            for half in torch.arange(len(x), device=x.device).tensor_split(2)
        ]
        probes = None if probe is None else torch.cat([each.probe for each in pieces if each.probe is not None])
        gradients = torch.cat([each.gradient for each in pieces]) if pieces[0].gradient.dim() > 1 else x
        return Climb(torch.cat([each.reconstruction for each in pieces]), gradients, probes)

    def _check_domain(self, x: Tensor, condition: Tensor | None, error: Exception) -> None:
        """An error of the inverse is what is sought; one of the map itself means that x is no valid data."""
        try:
            with torch.no_grad():
                self.f(x, condition)
        except DomainError:
            raise DomainError(
                f"attack: expected a ball of valid data, got a point outside the domain of the map: {error} "
                "Give limits=(low, high) of valid data."
            ) from error
        except LOST:
            return


def _goal(difference: Tensor) -> Tensor:
    """The sum of the rows' norms, each row up to a constant factor, which keeps the squares in range.

    Rows that are not finite are left out, and their gradients are 0 or NaN; other rows are not touched.
    """
    flat = difference.reshape(len(difference), -1)
    rows = flat.detach().isfinite().all(1).nonzero().flatten()
    flat = flat[rows]
    largest = flat.detach().abs().amax(1) if len(rows) else flat.new_ones(0)
    return torch.linalg.vector_norm(flat / torch.where(largest > 0, largest, 1)[:, None], dim=1).sum()


def _unit_or(direction: Tensor, otherwise: Tensor) -> Tensor:
    """Rows scaled to norm 1; those that are 0 or not finite replaced."""
    flat = direction.reshape(len(direction), -1)
    usable = flat.isfinite().all(1) & (flat != 0).any(1)
    return torch.where(per_row(usable, direction), unit(direction), otherwise)


class _Implicit(torch.autograd.Function):
    """x' = f^-1(y), computed without a graph; backward solves J_f(x')^T u = w (implicit function theorem)."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, f: Bijection, condition: Tensor | None) -> Tensor:  # noqa: ANN401
        with torch.no_grad():
            x, _ = f.inverse(y, condition)
        ctx.save_for_backward(x)
        ctx.f, ctx.condition, ctx.like = f, condition, y
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        (x,), (w,) = ctx.saved_tensors, gradients
        found = torch.zeros_like(ctx.like)
        flat = torch.cat((x.reshape(len(x), -1), w.reshape(len(w), -1)), 1)
        rows = flat.isfinite().all(1).nonzero().flatten()
        if len(rows):
            there = Linearization(ctx.f, x[rows], rows_of(ctx.condition, rows))
            found[rows] = SolvedInverse(there, IMPLICIT_TOLERANCE, IMPLICIT_ITERATIONS).vjp(w[rows])
        return found, None, None
