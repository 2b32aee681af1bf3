"""Multi-scale architecture: half of the channels leave early as latents."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from invertible.ball import like, norms_of
from invertible.bijection import Bijection, Domain, LipschitzBounds
from invertible.errors import ConfigError, ShapeError
from invertible.memory.step import OnPart, Step
from invertible.norms import outward
from invertible.steps import Cut, Merge


@dataclass(frozen=True)
class Resampling:
    """Draw factored-out latents anew in place of those given.

    Attributes:
        temperature: factor of their standard normal noise.
        generator: its source.
    """

    temperature: float
    generator: torch.Generator | None


class FactorOut(Bijection):
    """y = (inner(x_1), x_2): half of the channels go on, half are latents from here (Dinh et al. 2017, section 3.6).

    Inverse: x = (inner^-1(y_1), y_2). log_det = that of `inner`. All latents are kept, in one tensor of x's shape, so
    that encoding and decoding is exact. Drawing x_2 anew gives a variation of the image and no reconstruction:
    `resampled` does that, and only when asked to.

    Args:
        inner: a bijection of the kept part that keeps its shape.
        kept: channels that go on; the first half if `None`.

    Shapes:
        x, y: (B, C, ...); log_det: (B,).

    Cost: that of `inner`, and a copy.

    Raises:
        ConfigError: if `kept` is not positive.
        ShapeError: if the number of channels is odd and `kept` not given, or no larger than `kept`.

    Example:
        >>> block = FactorOut(AffineCoupling(6, spatial_dims=2))
        >>> y, log_det = block(torch.randn(2, 12, 4, 4))
    """

    def __init__(self, inner: Bijection, *, kept: int | None = None) -> None:
        super().__init__()
        if kept is not None and kept < 1:
            raise ConfigError(f"FactorOut: expected kept of at least 1, got {kept}.")
        self.inner, self.kept = inner, kept
        self.condition_features = inner.condition_features
        self.resampling: Resampling | None = None

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(inner(x_1), x_2)."""
        self._check(x, condition)
        kept, factored_out = self._split(x)
        y, log_det = self.inner(kept, condition)
        return _merge(y, factored_out), log_det

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(inner^-1(y_1), y_2); inside `resampled`, y_2 is drawn anew."""
        self._check(y, condition)
        kept, factored_out = self._split(y)
        x, log_det = self.inner.inverse(kept, condition)
        if self.resampling is not None:
            generator = self.resampling.generator
            noise = torch.randn(factored_out.shape, generator=generator, dtype=y.dtype, device=y.device)
            factored_out = self.resampling.temperature * noise
        return _merge(x, factored_out), log_det

    def steps(self) -> list[Step]:
        """The inner block's steps, on the kept part; the factored-out part passes by."""
        if self.resampling is not None:
            return super().steps()
        inner = [OnPart(step, 1) for step in self.inner.whole_steps()]
        return [Cut(self._split, _merge), *inner, Merge(self._split, _merge)]

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        channels = x.shape[1]
        kept = channels // 2 if self.kept is None else self.kept
        if (self.kept is None and channels % 2) or kept >= channels:
            raise ShapeError(
                f"FactorOut: expected x with an even number of channels, got {tuple(x.shape)}. Pass kept=..., the "
                "number of channels that go on, below that of x."
            )
        first, second = x.split((kept, channels - kept), 1)
        return first, second

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """The larger of the inner block's bounds and 1."""
        inner = self.inner.bounds(domain)
        return LipschitzBounds(max(inner.forward, 1.0), max(inner.inverse, 1.0))

    def image(self, domain: Domain) -> Domain:
        """The larger of the inner block's boxes and the same ones; lengths together."""
        inner = self.inner.image(domain)
        (x_norm, y_norm), (inner_x, inner_y) = norms_of(domain), norms_of(inner)
        x_norm, y_norm = math.hypot(inner_x, y_norm), math.hypot(inner_y, x_norm)
        return like(domain, max(inner.x, domain.y), max(inner.y, domain.x), outward(x_norm), outward(y_norm))


def _merge(kept: Tensor, factored_out: Tensor) -> Tensor:
    if kept.shape[2:] != factored_out.shape[2:]:
        raise ShapeError(
            f"FactorOut: expected inner to keep the size of its input, {tuple(factored_out.shape[2:])}, got "
            f"{tuple(kept.shape[2:])}. End the inner chain with Squeeze().inverted or the like."
        )
    return torch.cat((kept, factored_out), 1)


@contextmanager
def resampled(model: nn.Module, temperature: float = 1.0, generator: torch.Generator | None = None) -> Iterator[None]:
    """Within the context, `inverse` of every `FactorOut` in `model` draws its factored-out latents anew.

    Decoding then gives variations that share the kept latents (Kingma & Dhariwal 2018, figure 8), not reconstructions.

    Args:
        model: a flow, chain or any module.
        temperature: deviation of the latents drawn.
        generator: source of the noise.

    Raises:
        ConfigError: if `temperature` is negative, or `model` holds no `FactorOut`.
    """
    blocks = [module for module in model.modules() if isinstance(module, FactorOut)]
    if not blocks or temperature < 0:
        raise ConfigError(
            f"resampled: expected FactorOut blocks in model and temperature >= 0, got {len(blocks)} and {temperature}."
        )
    before = [block.resampling for block in blocks]
    try:
        for block in blocks:
            block.resampling = Resampling(temperature, generator)
        yield
    finally:
        for block, value in zip(blocks, before, strict=True):
            block.resampling = value
