"""An ordinary differential equation solved by reversible steps, as a bijection whose discrete inverse is exact."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from invertible.bijection import Bijection, Domain, LipschitzBounds
from invertible.blocks.affine_kick import AffineKick
from invertible.blocks.coupling_step import CouplingStep
from invertible.errors import ConfigError, ShapeError
from invertible.memory.step import Step
from invertible.norms import lipschitz_bound, outward, shear_norm
from invertible.partition import Halves, Partition, Parts
from invertible.shapes import check_placement, log_det_dtype, zero_log_det
from invertible.solvers.ode.algebraic import AlgebraicallyReversible
from invertible.solvers.ode.reversible import ReversibleSolver
from invertible.solvers.ode.shear import Kick, Shear
from invertible.solvers.ode.solver import State


class ReversibleODE(Bijection):
    """x' = v(t, x | c) on half the features, solved by N reversible steps that move both halves (y, z) of the input.

    With `ReversibleSolver` over a one-step method Psi and coupling l (McCallum & Foster 2024) a step is

        y' = l y + (1 - l) z + Psi_h(t, z | c),  z' = z - Psi_-h(t + h, y' | c),

    with the inverse z = z' + Psi_-h(t + h, y' | c), y = (y' - (1 - l) z - Psi_h(t, z | c))/l; with
    `AsynchronousLeapfrog`, z is the velocity of y. What the forward pass computes is itself a bijection, inverted in
    closed form: no tolerance, no solver in the inverse, unlike a continuous flow that is integrated backward.
    log_det = N (D/2) log l, or N (D/2) log|1 - 2 eta| for a damping eta; 0 for l = 1 and eta = 1: volume preserving.

    Two halves that differ are two solutions in turn, each driven by the other; with equal halves they approach one
    solution of the equation. Mix features between such blocks as between couplings.

    Args:
        net: v, a module with `net(t, x)` or `net(t, x, condition)`: t a scalar tensor of x's dtype, x and the result of
            shape (B, D/2, ...). Its `condition_features`, if it has any, are the block's.
        solver: the steps. A coupling of 1, the default here, keeps the volume; the default coupling of
            `ReversibleSolver` itself contracts y - z by e^-7, as is good for solutions that begin with y = z.
        time: t at the beginning and at the end.

    Shapes:
        x, y: (B, D, ...) with D even, any number of axes behind; log_det: (B,).

    Cost: 2 N s evaluations of v for a method of s stages, N for the leapfrog, forward, inverse and in reconstruction:
    its steps are those that memory strategies drive, so that "reversible" holds no activations, and "exact" keeps every
    bit for l = 1 and eta = 1.

    Numerics: errors of a round trip are those of N additions, amplified by at most `bounds`: a product over steps of
    the shears' norms, known where `net` has a certified Lipschitz bound.

    Raises:
        ConfigError: if net is no module, solver not algebraically reversible, or the times are equal.
        ShapeError: if D is odd, or v changes the shape.

    Reference: McCallum & Foster (2024); Zhuang et al. (2021), MALI.

    Example:
        >>> block = ReversibleODE(TimeNet(3), solver=ReversibleSolver("rk4", steps=4, coupling=1.0))
        >>> y, log_det = block(torch.randn(8, 6))
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        solver: AlgebraicallyReversible = ReversibleSolver("midpoint", steps=8, coupling=1.0),  # noqa: B008
        time: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise ConfigError(f"ReversibleODE: expected net to be a torch.nn.Module, got {type(net).__name__}.")
        if not isinstance(solver, AlgebraicallyReversible):
            raise ConfigError(
                f"ReversibleODE: expected an algebraically reversible solver, got {type(solver).__name__}. Take "
                "ReversibleSolver or AsynchronousLeapfrog; ContinuousBlock takes any."
            )
        if not (math.isfinite(time[0]) and math.isfinite(time[1]) and time[0] != time[1]):
            raise ConfigError(f"ReversibleODE: expected two different finite times, got {time}.")
        self.net, self.solver, self.time, self.cut = net, solver, (float(time[0]), float(time[1])), Halves()
        self.condition_features = int(getattr(net, "condition_features", 0))
        self.spatial_dims = getattr(net, "spatial_dims", None)
        self._shears = _all_shears(solver, *self.time)
        self.volume_preserving = all(abs(shear.keep) == 1 for shear in self._shears)

    @property
    def partition(self) -> Partition:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Two halves of axis 1."""
        return self.cut

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """N steps from t_0 to t_1."""
        self._check(x, condition, None, self.spatial_dims)
        parts, _ = self.forward_parts(self.cut.split(x), condition)
        return self.cut.merge(*parts), self._log_det(x, 1)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The N steps undone, from t_1 to t_0."""
        self._check(y, condition, None, self.spatial_dims)
        parts, _ = self.inverse_parts(self.cut.split(y), condition)
        return self.cut.merge(*parts), self._log_det(y, -1)

    def forward_parts(self, parts: Parts, condition: Tensor | None) -> tuple[Parts, Tensor | None]:
        """`forward` on halves."""
        halves = list(parts)
        for shear in self._shears:
            passive = halves[1 - shear.active]
            offset = self._offset(shear, passive, condition)
            halves[shear.active] = AffineKick(shear.keep).forward(halves[shear.active], offset)[0]
        return (halves[0], halves[1]), self._log_slope(halves[0], 1)

    def inverse_parts(self, parts: Parts, condition: Tensor | None) -> tuple[Parts, Tensor | None]:
        """`inverse` on halves."""
        halves = list(parts)
        for shear in reversed(self._shears):
            passive = halves[1 - shear.active]
            offset = self._offset(shear, passive, condition)
            halves[shear.active] = AffineKick(shear.keep).inverse(halves[shear.active], offset)[0]
        return (halves[0], halves[1]), self._log_slope(halves[0], -1)

    def steps(self) -> list[Step]:
        """One for every shear of the N steps: two, or three for the leapfrog, each of which changes one half."""
        return [
            CouplingStep(
                type(self).__name__, self.net, self._offset_of(shear), AffineKick(shear.keep), active=shear.active
            )
            for shear in self._shears
        ]

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """Products over shears of their norms, for a net with a certified Lipschitz bound at all times."""
        slope, forward, inverse = lipschitz_bound(self.net), 1.0, 1.0
        for shear in self._shears:
            keep, kick = abs(shear.keep), shear.kick
            moved = 0.0 if kick is None else abs(kick.factor) * kick.method.lipschitz(slope, kick.size)
            offset = outward(abs(shear.mix) + moved, 64)
            forward = outward(forward * shear_norm(keep, offset))
            inverse = outward(inverse * shear_norm(outward(1 / keep), outward(offset / keep)))
        return LipschitzBounds(forward, inverse)

    def _offset(self, shear: Shear, passive: Tensor, condition: Tensor | None) -> Tensor:
        """mix b + factor Psi(b)."""
        if shear.kick is None:
            return shear.mix * passive
        moved = self._increment(shear.kick, passive, condition)
        return (
            torch.add(shear.mix * passive, moved, alpha=shear.kick.factor) if shear.mix else shear.kick.factor * moved
        )

    def _offset_of(self, shear: Shear) -> _Offset:
        return _Offset(self, shear)

    def _increment(self, kick: Kick, x: Tensor, condition: Tensor | None) -> Tensor:
        given = () if condition is None else (condition,)

        def field(t: Tensor, state: State) -> State:
            return (self.net(t, state[0], *given).to(state[0].dtype),)

        try:
            return kick(field, (x,))[0]
        except ShapeError:
            raise
        except RuntimeError:
            check_placement(type(self).__name__, x, next(self.net.parameters(), None))
            raise

    def _log_det(self, x: Tensor, sign: int) -> Tensor:
        slope = self._log_slope(self.cut.split(x)[0], sign)
        return zero_log_det(x) if slope is None else slope.squeeze(1)

    def _log_slope(self, half: Tensor, sign: int) -> Tensor | None:
        if self.volume_preserving:
            return None
        total = sum(math.log(abs(shear.keep)) for shear in self._shears) * math.prod(half.shape[1:])
        return half.new_full((len(half), 1), sign * total, dtype=log_det_dtype(half.dtype))

    def extra_repr(self) -> str:
        """Solver and span."""
        return f"{self.solver}, time=({self.time[0]:g}, {self.time[1]:g})"


class _Offset:
    """The conditioner of a step; a function would not be found by copy and pickle."""

    def __init__(self, block: ReversibleODE, shear: Shear) -> None:
        self.block, self.shear = block, shear

    def __call__(self, passive: Tensor, condition: Tensor | None) -> Tensor:
        return self.block._offset(self.shear, passive, condition)


def _all_shears(solver: AlgebraicallyReversible, start: float, end: float) -> Sequence[Shear]:
    size = (end - start) / solver.steps
    return [shear for index in range(solver.steps) for shear in solver.shears(index, start, size)]
