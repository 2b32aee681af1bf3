"""The invertible residual block."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from invertible.bijection import Bijection, Domain, LipschitzBounds, Reconstruction
from invertible.blocks.lipschitz import contractive
from invertible.blocks.residual.choice import log_det_of, named
from invertible.blocks.residual.constants import Constants
from invertible.blocks.residual.log_det import LogDet, check_gradient
from invertible.blocks.residual.map import ResidualMap
from invertible.blocks.residual.step import ResidualStep
from invertible.errors import ConfigError
from invertible.memory.step import Step
from invertible.shapes import check_placement, zero_log_det
from invertible.solvers.fixed_point import FixedPoint, SolverOptions, solve_residual
from invertible.solvers.implicit import implicit_solution
from invertible.without_log_det import log_det_wanted


class ResidualBlock(Bijection):
    """y = x + g(x, c) with a contraction g: |g(a, c) - g(b, c)| <= L |a - b|, L < 1 (Behrmann et al. 2019, theorem 1).

    Inverse: the fixed point of x <- y - g(x, c), by Anderson's acceleration, each sample until its own residual
    |x + g(x, c) - y| is small; then |x - x*|_2 <= residual/(1 - L), which `last_inverse.error_bound` tells.
    log_det = log det(I + J), J the Jacobian of g in x: from the dense J, or by an estimate of its power series.

    L is certified: a product of upper bounds of the layers' operator norms, which holds at every call and in every
    mode, not a power iteration's guess. Both directions are Lipschitz on the whole space.

    Args:
        net: g: a contractive net of `blocks.lipschitz`, taken as it is, or an `nn.Sequential` of ordinary layers, which
            `contractive` makes one (its parameters are shared).
        lipschitz: L in (0, 1), for a net that is not contractive yet.
        log_det: in training mode: `"exact"`, `"power-series"` (biased), `"geometric"`, `"poisson"` (Russian roulette,
            unbiased), or a value object (`ExactLogDet`, `PowerSeries`, `RussianRoulette`); `"auto"` is exact up to 3
            dimensions, where that costs no more, and `"geometric"` beyond.
        eval_log_det: in eval mode, where results are deterministic; `"auto"` is exact up to 64 dimensions, or where
            `log_det` is, and `CertifiedSeries` beyond.
        norm: the norm in which g is to contract: 1, 2 or `math.inf`, for a net that is not contractive yet.
        gradient: of the estimates: `"neumann"`, the Neumann series (Chen et al. 2019, equation 8), whose memory does
            not grow with the number of terms, or `"autograd"`, through all terms. The former has first derivatives
            only: for penalties on gradients of log_det take the latter.
        tolerance: of the inverse, relative: residual <= tolerance (|x| + |g(x)| + |y|); by the dtype if `None`.
        max_evaluations: of g, a sample and inverse.

    Attributes:
        last_inverse: what the last inverse took and reached: `FixedPoint`, or `None` before the first; not saved.

    Shapes:
        x, y: (B, features), or (B, channels, *spatial) as g takes it; log_det: (B,).

    Cost: forward one evaluation of g, and n backward passes as far as x for an estimate of n terms, with one more that
    keeps its graph; inverse some 10 to 40 evaluations. Inverse and `reconstruct` hold no activations meanwhile.

    Numerics: in the 2-norm Lip(f) <= 1 + L and Lip(f^-1) <= 1/(1 - L); for L in another norm, times sqrt(D). Gradients
    of the inverse are by implicit differentiation, for a linear system is solved. In training the estimates of forward
    and inverse draw from the same generator: from the same state they take the same probes, and log_det of one is minus
    that of the other.

    Raises:
        ConfigError: if L is not below 1, or a name unknown.
        ConvergenceError: by the inverse, if a sample's residual does not reach the tolerance.
        DomainError: by the inverse, if y is not finite.
        SecondDerivativeError: where a derivative of the inverse's, or of a Neumann gradient, is taken.

    Example:
        >>> block = ResidualBlock(nn.Sequential(nn.Linear(2, 64), nn.ELU(), nn.Linear(64, 2)))
        >>> y, log_det = block(x)
        >>> x, _ = block.inverse(y)
        >>> block.last_inverse.error_bound.max()
    """

    def __init__(
        self,
        net: nn.Module,
        lipschitz: float = 0.97,
        *,
        log_det: str | LogDet = "auto",
        eval_log_det: str | LogDet = "auto",
        norm: float = 2,
        gradient: str = "neumann",
        tolerance: float | None = None,
        max_evaluations: int = 1000,
    ) -> None:
        super().__init__()
        self.net = net if _is_contractive(net) else contractive(net, _below_one(lipschitz), norm)
        _below_one(self.lipschitz)
        self.condition_features = int(getattr(self.net, "condition_features", 0))
        self.spatial_dims, self._channels = getattr(self.net, "spatial_dims", None), getattr(self.net, "channels", None)
        self.log_det, self.eval_log_det = named("log_det", log_det), named("eval_log_det", eval_log_det)
        self.gradient = check_gradient("ResidualBlock", gradient)
        self.solver = SolverOptions(tolerance=tolerance, max_evaluations=max_evaluations)
        self.last_inverse: FixedPoint | None = None

    @property
    def lipschitz(self) -> float:
        """L, certified."""
        return float(self.net.lipschitz)  # pyright: ignore[reportArgumentType]

    @property
    def norm(self) -> float:
        """The norm in which L holds."""
        return float(self.net.norm)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x + g(x, c)."""
        self._check(x, condition, self._channels, self.spatial_dims)
        g, log_det = self._estimate(x, condition)
        return x + g, log_det

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The solution of x + g(x, c) = y."""
        x = self.solve(y, condition).x
        g = self.residual_map(condition)
        x = implicit_solution(g, x, y, owner=type(self).__name__)
        return x, -self._estimate(x, condition)[1] if log_det_wanted() else zero_log_det(x)

    def solve(self, y: Tensor, condition: Tensor | None = None) -> FixedPoint:
        """x without a graph and without log_det, with its residual, error bound and evaluations, all per sample."""
        self._check(y, condition, self._channels, self.spatial_dims)
        dtype = next((p.dtype for p in self.net.parameters()), y.dtype)

        def g(x: Tensor, rows: Tensor) -> Tensor:
            chosen = None if condition is None else condition.detach()[rows]
            return self.residual_map(chosen)(x.to(dtype)).to(x.dtype)

        bound = self.lipschitz if self.norm == 2 else None
        with torch.no_grad():
            found = solve_residual(g, y, lipschitz=bound, options=self.solver, owner=type(self).__name__)
        self.last_inverse = found
        return found

    def reconstruct(self, y: Tensor, condition: Tensor | None = None) -> Reconstruction:
        """x by the solver, which draws no random numbers, and one pass forward from it with the graph."""
        x = self.solve(y.detach(), condition).x.detach().requires_grad_()
        with torch.enable_grad():
            return Reconstruction(x, *self(x, condition))

    def steps(self) -> list[Step]:
        """One."""
        return [ResidualStep(self)]

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """1 + L and 1/(1 - L), with L certified of the weights as they are, at most the target."""
        return Constants.of(self.net, self.lipschitz, self.norm).bounds(domain)

    def image(self, domain: Domain) -> Domain:
        """The boxes widened by what g adds at most; infinite for a conditional block."""
        return Constants.of(self.net, self.lipschitz, self.norm).image(self.net, domain)

    def residual_map(self, condition: Tensor | None = None) -> ResidualMap:
        """g of one batch of conditions."""
        return ResidualMap(self.net, condition, self.lipschitz, self.norm)

    def training_log_det(self, x: Tensor) -> LogDet:
        """The log-determinant that training mode takes for inputs like x."""
        return log_det_of(self.log_det, self.eval_log_det, x, in_training=True)

    def active_log_det(self, x: Tensor) -> LogDet:
        """The log-determinant that the mode now on takes for inputs like x."""
        return log_det_of(self.log_det, self.eval_log_det, x, in_training=self.training)

    def _estimate(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        if not (x.numel() and log_det_wanted()):
            return self.residual_map(condition)(x), zero_log_det(x)
        if torch.is_inference_mode_enabled():
            # Nothing can be differentiated there, not even in between.
            with torch.inference_mode(False), torch.no_grad():
                return self._estimate(x.clone(), None if condition is None else condition.clone())
        try:
            return self.active_log_det(x).estimate(self.residual_map(condition), x, gradient=self.gradient)
        except RuntimeError:
            check_placement(type(self).__name__, x, next(self.net.parameters(), None))
            raise

    def __getstate__(self) -> dict[str, object]:
        """Everything but the report of the last inverse."""
        return {**super().__getstate__(), "last_inverse": None}

    def extra_repr(self) -> str:
        """L, its norm and the log-determinants."""
        chosen = ", ".join(
            f"{name}={'auto' if value is None else value}"
            for name, value in (("log_det", self.log_det), ("eval_log_det", self.eval_log_det))
        )
        return f"lipschitz={self.lipschitz:g}, norm={self.norm:g}, {chosen}, gradient={self.gradient}"


def _is_contractive(net: nn.Module) -> bool:
    return all(hasattr(net, name) for name in ("lipschitz", "norm", "lipschitz_bound"))


def _below_one(lipschitz: float) -> float:
    if not 0 < lipschitz < 1 or math.isnan(lipschitz):
        raise ConfigError(
            f"ResidualBlock: expected lipschitz in (0, 1), got {lipschitz}. From 1 on x + g(x) need not be invertible; "
            "build the net with a smaller one."
        )
    return lipschitz
