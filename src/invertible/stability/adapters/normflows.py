"""Flows of normflows (Stimper et al. 2023): their forward maps latent to data, so that ours is their inverse."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from invertible.bijection import Bijection
from invertible.errors import ConfigError
from invertible.flow import Flow
from invertible.stability.adapters.bases import AdaptedBase, flow_of, like, seeded
from invertible.stability.adapters.foreign import Composite, Foreign, Pair
from invertible.stability.adapters.levels import Levels, cut
from invertible.stability.adapters.recognition import context_width, is_a, keeps, named

LAYER = "normflows.flows.base.Flow"
WHOLE = ("normflows.core.NormalizingFlow", "normflows.core.ConditionalNormalizingFlow", "normflows.core.ClassCondFlow")
MULTISCALE = "normflows.core.MultiscaleFlow"
GLOW_BLOCK = "normflows.flows.affine.glow.GlowBlock"
COMPOSITE = "normflows.flows.base.Composite"
REVERSE = "normflows.flows.base.Reverse"
STOCHASTIC = "normflows.flows.stochastic."


class NormflowsFlow(Foreign):
    """One flow, from data to latent: their `inverse` there, their `forward` back, each (z, log_det)."""

    def _given(self, condition: Tensor | None) -> dict[str, Tensor]:
        return {} if condition is None else {"context": condition}

    def there(self, x: Tensor, condition: Tensor | None) -> Pair:
        """`inverse`."""
        return self.theirs.inverse(x, **self._given(condition))

    def back(self, y: Tensor, condition: Tensor | None) -> Pair:
        """`forward`."""
        return self.theirs(y, **self._given(condition))


class NormflowsLevels(Levels):
    """`MultiscaleFlow`: latents join in the order of their list, which begins with the innermost level's."""

    def __init__(
        self, levels: Sequence[Bijection], shapes: Sequence[Sequence[int]], merges: Sequence[nn.Module]
    ) -> None:
        super().__init__(levels, shapes, last_first=True)
        self.merges = nn.ModuleList(merges)

    def split(self, level: int, h: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Their merge backwards."""
        merge: Any = self.merges[level]
        (rest, out), log_det = merge.inverse(h)
        return out, rest, log_det

    def merge(self, level: int, out: Tensor, h: Tensor) -> tuple[Tensor, Any]:
        """Their merge."""
        merge: Any = self.merges[level]
        return merge([h, out])


class NormflowsBase(AdaptedBase):
    """A distribution of normflows: a call gives (z, log p); some have a `temperature` of their own."""

    def __init__(self, theirs: Any, argument: str, condition_features: int, tensor: Tensor) -> None:  # noqa: ANN401
        self.argument = argument
        rows = tensor.new_zeros(1, condition_features) if condition_features else None
        with torch.no_grad(), seeded(tensor.device, torch.Generator().manual_seed(0)):
            one = theirs(1, **({} if rows is None else {argument: rows}))[0]
        super().__init__(one.shape[1:], theirs, condition_features, tensor)

    def _given(self, condition: Tensor | None) -> dict[str, Tensor]:
        return {} if condition is None else {self.argument: condition}

    def density(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """`log_prob`."""
        return self.theirs.log_prob(z, **self._given(condition))

    def draw(self, n: int, condition: Tensor | None) -> Tensor:
        """A call."""
        return self.theirs(n, **self._given(condition))[0]

    def centre(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """The draw of temperature 0 where they know temperatures, which is the mean."""
        if not hasattr(self.theirs, "temperature"):
            return super().centre(z, condition)
        with _at(self.theirs, 0.0):
            return self.draw(len(z), condition)


class LevelsBase(AdaptedBase):
    """The distributions of all levels: log p(z) = sum_k log p_k(z_k)."""

    def __init__(self, levels: Sequence[NormflowsBase], condition_features: int, tensor: Tensor) -> None:
        self.parts = [level.shape for level in levels]
        size = sum(math.prod(shape) for shape in self.parts)
        super().__init__((size,), nn.ModuleList(levels), condition_features, tensor)

    def density(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """The sum."""
        pairs = zip(self.theirs, cut(z, self.parts), strict=True)
        return torch.stack([level.log_prob(part, condition) for level, part in pairs]).sum(0)

    def draw(self, n: int, condition: Tensor | None) -> Tensor:
        """One of each."""
        return torch.cat([level.draw(n, condition).reshape(n, -1) for level in self.theirs], 1)

    def centre(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """The mean of each."""
        pairs = zip(self.theirs, cut(z, self.parts), strict=True)
        means = [level.centre(part, condition).expand_as(part) for level, part in pairs]
        return torch.cat([mean.reshape(len(mean), -1) for mean in means], 1)


@contextmanager
def _at(theirs: Any, temperature: float) -> Iterator[None]:  # noqa: ANN401
    """Their distribution at a temperature; they add its logarithm, and exp(-inf) is 0."""
    before = theirs.temperature
    theirs.temperature = max(temperature, 1e-30)
    try:
        yield
    finally:
        theirs.temperature = before


def adapt_normflows(obj: Any, condition_features: int | None) -> Bijection | Flow | None:  # noqa: ANN401
    """A flow as a flow, a layer as a bijection; `None` for anything else of normflows."""
    if is_a(obj, MULTISCALE):
        return _multiscale(obj, condition_features)
    if is_a(obj, *WHOLE):
        return _whole(obj, condition_features)
    if is_a(obj, LAYER):
        return _layer(
            obj,
            context_width(obj, "context_features", "num_classes") if condition_features is None else condition_features,
        )
    return None


def _whole(obj: Any, condition_features: int | None) -> Flow:  # noqa: ANN401
    width = context_width(obj, "context_features", "num_classes") if condition_features is None else condition_features
    in_layers = width if is_a(obj, "normflows.core.ConditionalNormalizingFlow") else 0
    layers = [_layer(layer, in_layers) for layer in reversed(list(obj.flows))]
    of_class = is_a(obj, "normflows.core.ClassCondFlow")
    in_base = width if in_layers or of_class else 0
    base = NormflowsBase(obj.q0, "y" if of_class else "context", in_base, like(obj))
    bijection = named(Composite, type(obj).__name__)(*layers, condition_features=in_layers)
    return flow_of(obj, "normflows", bijection, base, width if of_class else 0)


def _multiscale(obj: Any, condition_features: int | None) -> Flow:  # noqa: ANN401
    width = (
        (context_width(obj, "context_features", "num_classes") if condition_features is None else condition_features)
        if obj.class_cond
        else 0
    )
    bases = [NormflowsBase(q0, "y", width, like(obj)) for q0 in obj.q0]
    # Data pass the levels from the last to the first, and the transform before them.
    levels = [Composite(*[_layer(layer, 0) for layer in reversed(list(flows))]) for flows in reversed(obj.flows)]
    shapes = [base.shape for base in reversed(bases)]
    bijection: Bijection = named(NormflowsLevels, type(obj).__name__)(levels, shapes, list(reversed(obj.merges)))
    if obj.transform is not None:
        bijection = Composite(_layer(obj.transform, 0), bijection)
    return flow_of(obj, "normflows", bijection, LevelsBase(bases, width, like(obj)), width)


def _layer(obj: Any, width: int) -> Bijection:  # noqa: ANN401
    name = type(obj).__name__
    if any(f"{cls.__module__}.".startswith(STOCHASTIC) for cls in type(obj).__mro__):
        raise ConfigError(
            f"adapt: expected layers that are bijections, got {name}, which moves its input at random. "
            "Adapt a flow without it."
        )
    if keeps(obj, GLOW_BLOCK, "forward", "inverse") or keeps(obj, COMPOSITE, "forward", "inverse"):
        layers = [_layer(layer, 0) for layer in reversed(list(getattr(obj, "flows", None) or obj._flows))]
        return named(Composite, name)(*layers)
    if keeps(obj, REVERSE, "forward", "inverse"):
        return _layer(obj.flow, width).inverted
    takes = "context" in inspect.signature(obj.forward).parameters
    return named(NormflowsFlow, name)(obj, width if takes else 0)
