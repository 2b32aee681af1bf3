"""Base distributions of other libraries, and their flows as `Flow`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from invertible.bijection import Bijection
from invertible.distributions import Base
from invertible.flow import Flow
from invertible.shapes import log_det_dtype
from invertible.stability.adapters.recognition import named


class AdaptedFlow(Flow):
    """Another library's flow: its transforms as `bijection`, its base distribution as `base`.

    log_prob, sample, encode and decode are those of `Flow`, on their parameters.
    """


class AdaptedBase(Base):
    """Another library's base distribution; its parameters are shared.

    A subclass defines `density` and `draw` in the other library's way. Latents at temperature T are m + T (z - m),
    z a draw, m the mean that `centre` gives; by default that of the draws.

    Args:
        shape: shape of one latent.
        theirs: their distribution; registered as a child if it is a module.
        condition_features: features of the condition that is handed on to it.
        like: a tensor of the dtype and on the device of the flow.
    """

    def __init__(self, shape: Sequence[int], theirs: Any, condition_features: int, like: Tensor) -> None:  # noqa: ANN401
        super().__init__(shape)
        self.theirs, self.condition_features = theirs, condition_features
        self.anchor = torch.empty(0, dtype=like.dtype, device=like.device)

    def density(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """Their log-density: (B, ...) with an entry for each sample, or for each of its numbers."""
        raise TypeError(f"{type(self).__name__}: define density(self, z, condition).")

    def draw(self, n: int, condition: Tensor | None) -> Tensor:
        """n latents of theirs, from torch's global generator."""
        raise TypeError(f"{type(self).__name__}: define draw(self, n, condition).")

    def centre(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """Their mean, or that of the draws z."""
        return z.mean(0, keepdim=True)

    def spread(self, z: Tensor, condition: Tensor | None, temperature: float) -> Tensor:
        """The draws z at a temperature."""
        centre = self.centre(z, condition).to(z)
        return centre + temperature * (z - centre)

    def log_prob(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Their log-density, shape (B,)."""
        density = self.density(z, condition)
        return density.reshape(len(z), -1).sum(1).to(log_det_dtype(z.dtype))

    @torch.no_grad()
    def sample(
        self,
        n: int,
        condition: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw n latents; theirs draw from the global generator, which is seeded from `generator` for the while."""
        with seeded(self.anchor.device, generator):
            z = self.draw(n, condition)
        if temperature != 1:
            z = self.spread(z, condition, temperature)
        return z.reshape(n, *self.shape).to(self.anchor)


@contextmanager
def seeded(device: torch.device, generator: torch.Generator | None = None) -> Iterator[None]:
    """The global generators seeded from `generator` within, and as before after; as they are if it is `None`."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class DistributionBase(AdaptedBase):
    """A base of `torch.distributions`; `given` makes it, from a condition where it depends on one."""

    def __init__(self, theirs: Any, condition_features: int, like: Tensor) -> None:  # noqa: ANN401
        self.condition_features = condition_features
        nothing = like.new_zeros(1, condition_features) if condition_features else None
        one = self._from(theirs, nothing)
        whole = one.batch_shape + one.event_shape
        self.batched = bool(condition_features) and one.batch_shape[:1] == (1,) and len(whole) > 1
        super().__init__(whole[1:] if self.batched else whole, theirs, condition_features, like)

    def _from(self, theirs: Any, condition: Tensor | None) -> Any:  # noqa: ANN401
        return theirs

    def density(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """`log_prob`, one for each independent number."""
        return self._from(self.theirs, condition).log_prob(z)

    def draw(self, n: int, condition: Tensor | None) -> Tensor:
        """`sample`: of a batch of distributions, one each."""
        distribution = self._from(self.theirs, condition)
        return distribution.sample() if self.batched else distribution.sample((n,))

    def centre(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """Their mean where they have one."""
        try:
            mean = self._from(self.theirs, condition).mean
        except (AttributeError, NotImplementedError):
            return super().centre(z, condition)
        return mean if bool(mean.isfinite().all()) else super().centre(z, condition)

    def spread(self, z: Tensor, condition: Tensor | None, temperature: float) -> Tensor:
        """At a temperature, but for numbers that would leave the support: those stay as drawn."""
        spread = super().spread(z, condition, temperature)
        try:
            inside = self._from(self.theirs, condition).support.check(spread)
        except (AttributeError, NotImplementedError):
            return spread
        return torch.where(inside.reshape(*inside.shape, *(1,) * (z.dim() - inside.dim())), spread, z)


class LazyDistributionBase(DistributionBase):
    """A base that a call with the condition makes, as zuko's."""

    def _from(self, theirs: Any, condition: Tensor | None) -> Any:  # noqa: ANN401
        return theirs(condition if self.condition_features else None)


class ConditionalDistributionBase(DistributionBase):
    """A base that `condition` makes, as Pyro's."""

    def _from(self, theirs: Any, condition: Tensor | None) -> Any:  # noqa: ANN401
        return theirs.condition(condition)


def flow_of(theirs: Any, library: str, bijection: Bijection, base: Base, classes: int = 0) -> Flow:  # noqa: ANN401
    """A `Flow` under the name of their class, such as `zuko.NSF`; with `classes`, labels may be its condition."""
    return named(AdaptedFlow, f"{library}.{type(theirs).__name__}")(bijection, base, classes=classes or None)


def like(theirs: Any) -> Tensor:  # noqa: ANN401
    """A tensor of an object's dtype and device: its first parameter or buffer of floating point."""
    tensors = [*theirs.parameters(), *theirs.buffers()] if isinstance(theirs, nn.Module) else []
    return next((each for each in tensors if each.is_floating_point()), torch.empty(0)).detach()
