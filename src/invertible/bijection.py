"""The protocol that every block, chain and model speaks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from invertible.errors import ConfigError
from invertible.memory.step import Step
from invertible.partition import Partition, Parts
from invertible.shapes import check_condition, check_input
from invertible.steps import BlockStep, PartsStep, between_cuts


class ChannelAffine(NamedTuple):
    """An affine map of the channels, the same at every position: y = W x + b.

    Attributes:
        weight: W of shape (C, C), or its diagonal (C,).
        bias: b of shape (C,).
        log_abs_det: log|det W|, a scalar.
    """

    weight: Tensor
    bias: Tensor
    log_abs_det: Tensor


class Reconstruction(NamedTuple):
    """An input recovered from its output, and the local graph rebuilt from it.

    Attributes:
        x: the recovered input, a leaf that requires grad.
        y: f(x), differentiable with respect to x, the parameters and the condition.
        log_det: log|det df/dx| of shape (B,), differentiable likewise.
    """

    x: Tensor
    y: Tensor
    log_det: Tensor


@dataclass(frozen=True)
class Domain:
    """Two boxes, one on either side of a map: all x with |x_i| <= x, and all y with |y_i| <= y.

    Attributes:
        x: radius of the box of inputs, on which Lip(f) must hold.
        y: radius of the box of outputs, on which Lip(f^-1) must hold.
    """

    x: float
    y: float

    def __post_init__(self) -> None:
        if not (self.x >= 0 and self.y >= 0):
            raise ConfigError(f"Domain: expected radii x >= 0 and y >= 0, got x={self.x}, y={self.y}.")

    @property
    def turned(self) -> Domain:
        """The two sides exchanged: the domain of the inverse map."""
        return Domain(self.y, self.x)


@dataclass(frozen=True)
class LipschitzBounds:
    """Certified upper bounds of the Lipschitz constants of a map and of its inverse, in the 2-norm.

    Attributes:
        forward: at least sup_x sigma_max(J_f(x)); `math.inf` where no bound is known.
        inverse: at least sup_x 1/sigma_min(J_f(x)); `math.inf` where no bound is known.
    """

    forward: float
    inverse: float

    def __matmul__(self, other: LipschitzBounds) -> LipschitzBounds:
        """Bounds of a composition: Lip(f o g) <= Lip(f) Lip(g), and likewise for the inverses."""
        return LipschitzBounds(_product(self.forward, other.forward), _product(self.inverse, other.inverse))

    @property
    def swapped(self) -> LipschitzBounds:
        """The bounds of the inverse map."""
        return LipschitzBounds(self.inverse, self.forward)


def _product(a: float, b: float) -> float:
    return 0.0 if 0.0 in (a, b) and math.inf in (a, b) else a * b


class Bijection(nn.Module):
    """A differentiable bijection y = f(x | c) with a tractable log-determinant.

    x is the data side, y the latent side. A block of one's own defines `forward` and `inverse`; both return the
    result and the per-sample log-determinant of the direction taken, of shape (B,), in nats.
    `invertible.testing.check_bijection` then proves the block.

    Attributes:
        partition: for a block that transforms one part of its input given the other, how the two are cut apart.
            A `Chain` keeps the parts of consecutive blocks apart that share a partition: see `forward_parts`.
        condition_features: number of features of the condition that the block takes, 0 for none.
        spatial_dims: number of spatial axes of x, `None` for any.
        volume_preserving: the claim that log_det is 0.
        exact: the claim that the inverse is exact to the bit. `check_bijection` measures both claims.

    Example:
        >>> class Shift(Bijection):
        ...     def forward(self, x, condition=None):
        ...         return x + 1, x.new_zeros(len(x))
        ...     def inverse(self, y, condition=None):
        ...         return y - 1, y.new_zeros(len(y))
    """

    partition: Partition | None = None
    condition_features: int = 0
    spatial_dims: int | None = None
    volume_preserving: bool = False
    exact: bool = False

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latent: y = f(x | c) and log|det df/dx|, shape (B,)."""
        raise TypeError(f"{type(self).__name__}: define forward(self, x, condition=None), returning (y, log_det).")

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latent to data: x = f^-1(y | c) and log|det df^-1/dy|, shape (B,)."""
        raise TypeError(f"{type(self).__name__}: define inverse(self, y, condition=None), returning (x, log_det).")

    def reconstruct(self, y: Tensor, condition: Tensor | None = None) -> Reconstruction:
        """Recover x from y and rebuild the local graph, for training that stores no activations.

        The default inverts without grad and runs `forward` again, which serves any bijection at two evaluations of
        its inner networks; blocks that can do with one override it.

        Args:
            y: output of `forward`, shape (B, ...); its own graph is not used.
            condition: the condition of that call; a leaf, if gradients are to flow to it.
        """
        with torch.no_grad():
            x, _ = self.inverse(y.detach(), condition)
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            return Reconstruction(x, *self(x, condition))

    def steps(self) -> list[Step]:
        """The block as the steps that a strategy of `invertible.memory` drives: one, unless it consists of several.

        Their states are pairs of parts for blocks with a `partition`, else single tensors.
        """
        if self.partition is not None:
            return [PartsStep(self, self.forward_parts, self.inverse_parts)]
        return [BlockStep(self, one_pass=type(self).reconstruct is not Bijection.reconstruct)]

    def whole_steps(self) -> list[Step]:
        """`steps` on whole tensors."""
        return self.steps() if self.partition is None else between_cuts(self.partition, self.steps())

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """Certified bounds of Lip(f) and Lip(f^-1).

        Args:
            domain: the boxes on which they must hold; the whole space if `None`.

        Returns:
            The bounds, `math.inf` where none is known: what a block without bounds of its own answers.
        """
        return LipschitzBounds(math.inf, math.inf)

    def image(self, domain: Domain) -> Domain:
        """The boxes into which the boxes of `domain` are mapped.

        The bounds of a chain on a domain follow the boxes from block to block. The default knows nothing.

        Returns:
            `y` holds f(x) for all |x_i| <= domain.x, and `x` holds f^-1(y) for all |y_i| <= domain.y.
        """
        return Domain(math.inf, math.inf)

    def forward_parts(self, parts: Parts, condition: Tensor | None) -> tuple[Parts, Tensor | None]:
        """`forward` on the two parts of x kept apart; only for blocks with a `partition`.

        Returns:
            The parts of y, and a tensor (B, ...) whose sum over all axes but the first is log_det, or `None` for 0:
            a chain adds these up and sums once.
        """
        raise TypeError(f"{type(self).__name__}: a block with a partition defines forward_parts.")

    def inverse_parts(self, parts: Parts, condition: Tensor | None) -> tuple[Parts, Tensor | None]:
        """`inverse` on the two parts of y kept apart; returns as `forward_parts` does."""
        raise TypeError(f"{type(self).__name__}: a block with a partition defines inverse_parts.")

    @property
    def is_channel_affine(self) -> bool:
        """Whether the block is now an affine map of the channels: a `Chain` makes one matrix of neighbours that are."""
        return False

    def channel_affine(self) -> ChannelAffine:
        """The map as a matrix; only where `is_channel_affine`."""
        raise TypeError(f"{type(self).__name__}: a block that is affine in the channels defines channel_affine.")

    def inverse_channel_affine(self) -> ChannelAffine:
        """The inverse as a matrix; only where `is_channel_affine`."""
        raise TypeError(
            f"{type(self).__name__}: a block that is affine in the channels defines inverse_channel_affine."
        )

    @property
    def inverted(self) -> Bijection:
        """The same map the other way round; the parameters are shared."""
        return Inverted(self)

    def _check(
        self,
        x: Tensor,
        condition: Tensor | None,
        channels: int | None = None,
        spatial_dims: int | None = None,
        reference: Tensor | None = None,
    ) -> None:
        owner = type(self).__name__
        check_input(owner, x, channels, spatial_dims, reference)
        check_condition(owner, condition, x, self.condition_features)


class Inverted(Bijection):
    """A bijection taken the other way round: forward is its inverse, inverse is its forward.

    Log-determinant, cost and numerics are those of the other direction.

    Args:
        bijection: the map to turn round; its parameters are shared, not copied.
    """

    def __init__(self, bijection: Bijection) -> None:
        super().__init__()
        self.bijection = bijection
        self.condition_features, self.exact = bijection.condition_features, bijection.exact

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The inverse of the wrapped map."""
        return self.bijection.inverse(x, condition)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The wrapped map."""
        return self.bijection(y, condition)

    def steps(self) -> list[Step]:
        """The wrapped map's steps, each the other way round, in reverse order."""
        return [step.inverted for step in reversed(self.bijection.whole_steps())]

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """The wrapped map's bounds, swapped."""
        return self.bijection.bounds(None if domain is None else domain.turned).swapped

    def image(self, domain: Domain) -> Domain:
        """The wrapped map's image, swapped."""
        return self.bijection.image(domain.turned).turned

    @property
    def inverted(self) -> Bijection:
        """The wrapped map itself."""
        return self.bijection
