"""The rational-quadratic spline coupling block (Durkan et al. 2019)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from invertible.ball import like
from invertible.bijection import Domain, LipschitzBounds
from invertible.blocks.coupling import Coupling
from invertible.blocks.nets import NetFactory
from invertible.blocks.scale import TanhExp
from invertible.errors import ConfigError
from invertible.norms import outward, shear_norm, times


@dataclass(frozen=True)
class SplineMap:
    """A monotonic rational-quadratic spline with K bins on [-B, B] and the identity outside (Durkan et al. 2019).

    Of the 3K - 1 parameters of a number, K become widths and K heights by a softmax with a floor, and K - 1 become
    the derivatives at the inner knots, d = exp(c tanh(r/c)) with c = log(max_derivative); at the ends d = 1. So the
    slope is bounded both ways, which Durkan's softplus leaves unbounded above, and parameters of zero give the
    identity. The parameters lie bins first, (B, 3K - 1, d, ...): the softmax and the sums over bins then run over
    contiguous memory.

    Attributes:
        bins: K, at least 2.
        bound: B, half the length of the interval.
        min_bin: least width and height of a bin as a share of the interval, below 1/K. Durkan's 0.001 lets slopes
            reach 1000 and, in float32, the worst round trip of strong parameters reach the interval's own length;
            0.2/K keeps it near 1e-3.
        max_derivative: largest derivative at a knot, above 1; its reciprocal is the least.
    """

    bins: int = 8
    bound: float = 5.0
    min_bin: float = 0.025
    max_derivative: float = 10.0

    def __post_init__(self) -> None:
        if isinstance(self.bins, bool) or self.bins < 2:
            raise ConfigError(f"SplineCoupling: expected bins of at least 2, got {self.bins}.")
        if not 0 < self.bound < math.inf:
            raise ConfigError(f"SplineCoupling: expected a positive bound, got {self.bound}.")
        if not 0 < self.min_bin < 1 / self.bins:
            raise ConfigError(
                f"SplineCoupling: expected min_bin in (0, 1/bins = {1 / self.bins:.3g}), got {self.min_bin}."
            )
        if not 1 < self.max_derivative < math.inf:
            raise ConfigError(f"SplineCoupling: expected max_derivative above 1, got {self.max_derivative}.")

    saves = True

    @property
    def count(self) -> int:
        """Parameters per number: 3K - 1."""
        return 3 * self.bins - 1

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """y and log dy/dx (Durkan et al. 2019, equations 4 and 5)."""
        inside = x.abs() < self.bound
        knot = self._bin(torch.where(inside, x, 0.0), parameters, 0)
        theta = (torch.where(inside, x, knot.x0) - knot.x0) / knot.width
        denominator = knot.denominator(theta)
        y, log_slope = knot.value(theta, denominator), knot.log_slope(theta, denominator)
        return torch.where(inside, y, x), torch.where(inside, log_slope, 0.0)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """x and log dx/dy, by the stable root of the quadratic (Durkan et al. 2019, equations 6 to 8)."""
        inside = y.abs() < self.bound
        knot = self._bin(torch.where(inside, y, 0.0), parameters, 1)
        theta = knot.solve(torch.where(inside, y, knot.y0) - knot.y0)
        x, log_slope = torch.addcmul(knot.x0, theta, knot.width), knot.log_slope(theta, knot.denominator(theta))
        return torch.where(inside, x, y), torch.where(inside, -log_slope, 0.0)

    def on_grid(self, bits: int) -> None:
        """None: the map scales, and scaling rounds."""

    def bounds(self, lipschitz: float, offset: Domain, domain: Domain | None) -> LipschitzBounds:
        """Certified on the whole space: slopes of the spline, and how far its parameters move it.

        In a bin of width w and slope s with end derivatives d_0, d_1 <= d, theta = (x - x_0)/w, q = theta (1 - theta),
        the slope is t = s^2 N/D^2 with N a convex combination of d_0, s, d_1 and s/2 <= D <= max(s, (s + d)/2): at most
        4 max(s, d), at least s^2 min(s, d)/max(s, (s + d)/2)^2. With u in [0, 1] the share of the height reached,
        dy/dw = -theta t - s^2 du/ds, dy/dx_0 = -t, dy/dh = u + s du/ds in [0, 2], dy/dy_0 = 1, |s du/ds| <= 1, and
        |dy/d(d_0, d_1)| <= w/2. Widths and heights come from a softmax p of range 2 B (1 - K min_bin), and
        |p (g - p.g)|_2 <= (max g - min g)/(2 sqrt 2) for every g. The inverse moves by the same over t.
        """
        steep = (1 - (self.bins - 1) * self.min_bin) / self.min_bin
        flat, highest = 1 / steep, max(steep, self.max_derivative)
        lowest = min(flat, 1 / self.max_derivative)
        slope = 4 * highest
        reciprocal = (max(flat, (flat + self.max_derivative) / 2) / flat) ** 2 / lowest
        share = 2 * self.bound * (1 - self.bins * self.min_bin) / (2 * math.sqrt(2))
        widest = self.bound * (1 - (self.bins - 1) * self.min_bin)
        knots = widest * TanhExp(self.max_derivative).slope
        there = math.hypot(share * (slope + steep), share * 2, knots)
        back = math.hypot(share * (1 + steep * reciprocal), share * 2 * reciprocal, knots * reciprocal)
        return LipschitzBounds(
            outward(shear_norm(slope, times(there, lipschitz)), 16),
            outward(shear_norm(reciprocal, times(back, lipschitz)), 16),
        )

    def image(self, offset: Domain, domain: Domain) -> Domain:
        """The larger of the box and the interval."""
        return like(domain, max(domain.y, self.bound), max(domain.x, self.bound))

    def _bin(self, value: Tensor, parameters: Tensor, axis: int) -> "_Bin":
        """The bin that holds `value` on the axis of inputs (0) or of outputs (1)."""
        size, interval = self.bins, 2 * self.bound
        parameters = parameters.to(value.dtype).unflatten(1, (self.count, -1))
        shares = functional.softmax(parameters[:, : 2 * size].unflatten(1, (2, size)), 2)
        lengths = shares * ((1 - self.min_bin * size) * interval) + self.min_bin * interval
        inner = lengths[:, :, :-1].cumsum(2) - self.bound
        index = (value.unsqueeze(1) >= inner[:, axis]).sum(1, keepdim=True)
        both = index.unsqueeze(1).expand(-1, 2, *index.shape[1:])
        width, height = lengths.gather(2, both).squeeze(2).unbind(1)
        starts = torch.cat((torch.full_like(inner[:, :, :1], -self.bound), inner), 2)
        x0, y0 = starts.gather(2, both).squeeze(2).unbind(1)
        padding = (0, 0) * (value.dim() - 1) + (1, 1)
        raw = functional.pad(parameters[:, 2 * size :], padding).gather(1, torch.cat((index, index + 1), 1))
        limit = math.log(self.max_derivative)
        left, right = (torch.tanh(raw * (1 / limit)) * limit).exp().unbind(1)
        return _Bin(x0, y0, width, height, left, right)


@dataclass
class _Bin:
    """One bin: lower corner, size, and the derivatives at its ends."""

    x0: Tensor
    y0: Tensor
    width: Tensor
    height: Tensor
    left: Tensor
    right: Tensor

    @cached_property
    def slope(self) -> Tensor:
        """height / width."""
        return self.height / self.width

    @cached_property
    def bend(self) -> Tensor:
        """left + right - 2 slope."""
        return self.left + self.right - 2 * self.slope

    def denominator(self, theta: Tensor) -> Tensor:
        """slope + bend theta (1 - theta), of the value and of the slope at x = x0 + theta width."""
        return torch.addcmul(self.slope, self.bend, theta * (1 - theta))

    def value(self, theta: Tensor, denominator: Tensor) -> Tensor:
        """y at x = x0 + theta width."""
        rise = theta * (self.slope * theta + self.left * (1 - theta))
        return torch.addcdiv(self.y0, self.height * rise, denominator)

    def log_slope(self, theta: Tensor, denominator: Tensor) -> Tensor:
        """log dy/dx at x = x0 + theta width."""
        rest = 1 - theta
        numerator = theta * (self.right * theta + 2 * self.slope * rest) + self.left * rest.square()
        return torch.log((self.slope / denominator).square() * numerator)

    def solve(self, rise: Tensor) -> Tensor:
        """theta at y = y0 + rise."""
        bent = rise * self.bend
        a = self.height * (self.slope - self.left) + bent
        b = self.height * self.left - bent
        c = -self.slope * rise
        # A floor keeps the square root's gradient finite where rounding makes the discriminant zero or less.
        root = (b.square() - 4 * a * c).clamp_min(torch.finfo(rise.dtype).tiny).sqrt()
        return (2 * c / (-b - root)).clamp(0, 1)


class SplineCoupling(Coupling):
    """Spline coupling: y_2 = spline(x_2; net(x_1, c)), y_1 = x_1; rational-quadratic, linear tails (Durkan 2019).

    Inverse: the root of a quadratic in each bin; the identity outside [-bound, bound]. log_det = sum log dy_2/dx_2.
    Departs from the paper in the derivatives at the knots, which are bounded above too: see `SplineMap`.

    Args:
        features: size of axis 1.
        net: factory (in_features, out_features) -> Module of the 3K - 1 parameters per number, bins first:
            (B, (3K - 1) d, *spatial).
        hidden: widths of the default conditioner.
        bins: K, at least 2.
        bound: half the length of the interval on which the spline acts.
        min_bin: least width and height of a bin as a share of the interval; 0.2/bins if `None`.
        max_derivative: largest derivative at a knot; its reciprocal is the least.
        mask: as in `AdditiveCoupling`.
        flip: as in `AdditiveCoupling`.
        spatial_dims: 0 for vectors, 2 for images.
        condition_features: width of the condition, 0 for none.
        conditioner_bound: as in `AdditiveCoupling`.

    Shapes:
        x, y: (B, features, *spatial); log_det: (B,).

    Cost: one evaluation of the conditioner, and about 12 K elementwise operations a number.

    Numerics: any finite input is legal in both directions, boundaries included, and gradients are finite. The
    inverse loses digits where the slope is small; the slope is at least that of `SplineMap.bounds`.

    Raises:
        ConfigError: at construction, naming the argument.
        ShapeError: on an input or a condition of the wrong shape, dtype or device.

    Example:
        >>> block = SplineCoupling(64, bins=8, bound=5.0)
    """

    def __init__(
        self,
        features: int,
        net: NetFactory | None = None,
        *,
        hidden: Sequence[int] = (64, 64),
        bins: int = 8,
        bound: float = 5.0,
        min_bin: float | None = None,
        max_derivative: float = 10.0,
        mask: str | Tensor = "half",
        flip: bool = False,
        spatial_dims: int = 0,
        condition_features: int = 0,
        conditioner_bound: float = math.inf,
    ) -> None:
        elementwise = SplineMap(bins, bound, 0.2 / max(bins, 1) if min_bin is None else min_bin, max_derivative)
        super().__init__(
            elementwise,
            features,
            net=net,
            hidden=hidden,
            mask=mask,
            flip=flip,
            spatial_dims=spatial_dims,
            condition_features=condition_features,
            conditioner_bound=conditioner_bound,
        )
