"""Flows and lazy transforms of zuko (Rozet et al. 2022): a call with the context gives the transform, data to noise."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributions import Transform

from invertible.bijection import Bijection
from invertible.flow import Flow
from invertible.stability.adapters.bases import LazyDistributionBase, flow_of, like
from invertible.stability.adapters.foreign import Composite, Foreign, Pair
from invertible.stability.adapters.recognition import is_a, keeps, named
from invertible.stability.adapters.torch_calls import applied
from invertible.stability.adapters.torch_distributions import adapt_torch

FLOW = "zuko.lazy.Flow"
TRANSFORM = "zuko.lazy.LazyTransform"
COMPOSED = "zuko.lazy.LazyComposedTransform"
INVERSE = "zuko.lazy.LazyInverse"


class ZukoTransform(Foreign):
    """One lazy transform: `theirs(c)` is the transform."""

    def _transform(self, condition: Tensor | None) -> Transform:
        return self.theirs(condition)

    def there(self, x: Tensor, condition: Tensor | None) -> Pair:
        """`call_and_ladj` of the transform."""
        return applied(self._transform(condition), x)

    def back(self, y: Tensor, condition: Tensor | None) -> Pair:
        """The same of its inverse."""
        return applied(self._transform(condition), y, backwards=True)


def adapt_zuko(obj: Any, condition_features: int | None) -> Bijection | Flow | None:  # noqa: ANN401
    """A flow as a flow, a lazy or plain transform as a bijection; `None` for anything else of zuko.

    A flow with a context does not tell how wide it is.
    """
    width = condition_features or 0
    if is_a(obj, FLOW):
        base = LazyDistributionBase(obj.base, width, like(obj))
        return flow_of(obj, "zuko", _transform(obj.transform, width), base)
    if is_a(obj, TRANSFORM):
        return _transform(obj, width)
    return adapt_torch(obj, condition_features)


def _transform(obj: Any, width: int) -> Bijection:  # noqa: ANN401
    name = type(obj).__name__
    if keeps(obj, COMPOSED, "forward"):
        layers = [_transform(layer, width) for layer in obj.transforms]
        return named(Composite, name)(*layers, condition_features=width)
    if keeps(obj, INVERSE, "forward"):
        return _transform(obj.transform, width).inverted
    # A wrapper that only holds a transform's class is named after that.
    wrapped = getattr(obj, "f", None)
    name = getattr(wrapped, "__name__", None) if is_a(obj, "zuko.lazy.UnconditionalTransform") else name
    return named(ZukoTransform, name or type(wrapped).__name__)(obj, width)
