"""Transforms and flows of `torch.distributions` and of Pyro, which builds on it.

Their log-determinants come with the event axes of each transform summed; here all axes behind the batch are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution, Transform, TransformedDistribution
from torch.distributions.transforms import IndependentTransform, _InverseTransform

from invertible.bijection import Bijection
from invertible.errors import ConfigError
from invertible.flow import Flow
from invertible.stability.adapters.bases import ConditionalDistributionBase, DistributionBase, flow_of, like
from invertible.stability.adapters.foreign import Composite, Foreign, Pair
from invertible.stability.adapters.recognition import context_width, is_a, keeps, named
from invertible.stability.adapters.torch_calls import CONDITIONAL, applied, nested

CONDITIONAL_COMPOSE = "pyro.distributions.conditional.ConditionalComposeTransformModule"
CONDITIONAL_INVERSE = "pyro.distributions.conditional._ConditionalInverseTransformModule"
CONDITIONAL_FLOW = "pyro.distributions.conditional.ConditionalTransformedDistribution"
CONSTANT = (
    "pyro.distributions.conditional.ConstantConditionalTransform",
    "pyro.distributions.conditional.ConstantConditionalDistribution",
)
COMPOSED = "torch.distributions.transforms.ComposeTransform"
ZUKO_COMPOSED = "zuko.transforms.ComposedTransform"


class TorchTransform(Foreign):
    """One transform: y = t(x), x = t.inv(y).

    A transform that is no module keeps its parameters where no module looks for them; those found are registered
    here. Caches are passed by and left as they are.
    """

    def __init__(self, theirs: Any, condition_features: int = 0) -> None:  # noqa: ANN401
        super().__init__(theirs, condition_features)
        for index, parameter in enumerate(_parameters(theirs)):
            self.register_parameter(f"parameter_{index}", parameter)

    def transform(self, condition: Tensor | None) -> Transform:
        """The transform to apply."""
        return self.theirs

    def there(self, x: Tensor, condition: Tensor | None) -> Pair:
        """The transform, and `log_abs_det_jacobian`."""
        return applied(self.transform(condition), x)

    def back(self, y: Tensor, condition: Tensor | None) -> Pair:
        """Its inverse."""
        return applied(self.transform(condition), y, backwards=True)


class ConditionedTransform(TorchTransform):
    """One of Pyro's conditional transforms: `condition(c)` gives the transform."""

    def transform(self, condition: Tensor | None) -> Transform:
        """The transform given the condition."""
        return self.theirs.condition(condition)


def _parameters(obj: Any) -> list[nn.Parameter]:  # noqa: ANN401
    """Parameters that stand in plain attributes of an object which is no module."""
    if isinstance(obj, nn.Module):
        return []
    inside = [obj, *(each for each in nested(obj, set()) if not isinstance(each, nn.Module))]
    found = [value for each in inside for value in vars(each).values() if isinstance(value, nn.Parameter)]
    return list({id(parameter): parameter for parameter in found}.values())


def adapt_torch(obj: Any, condition_features: int | None) -> Bijection | Flow | None:  # noqa: ANN401
    """A transform as a bijection, a transformed distribution as a flow; `None` for anything else.

    Raises:
        ConfigError: if a transform is not bijective, or the width of a condition is not known.
    """
    if isinstance(obj, TransformedDistribution):
        return _flow(obj, obj.transforms, condition_features or 0)
    if is_a(obj, CONDITIONAL_FLOW):
        width = condition_features or next((w for w in map(_width, obj.transforms) if w), 0)
        return _flow(obj, obj.transforms, width)
    if isinstance(obj, Transform) or is_a(obj, CONDITIONAL):
        return transform_of(obj, condition_features or _width(obj))
    return None


def _width(obj: Any) -> int:  # noqa: ANN401
    inside = [context_width(each, "context_dim") for each in (obj, *getattr(obj, "transforms", ()))]
    return next((width for width in inside if width), 0)


def _flow(obj: Any, transforms: Sequence[Any], width: int) -> Flow:  # noqa: ANN401
    """Theirs map the base's draws to data, in order: ours runs them backwards."""
    blocks = [transform_of(transform, width).inverted for transform in reversed(transforms)]
    bijection, base = Composite(*blocks), obj.base_dist
    if is_a(base, CONSTANT[1]):
        base = base.base_dist
    tensor = next((each for each in (*bijection.parameters(), *_tensors(base)) if each.is_floating_point()), like(obj))
    if isinstance(base, Distribution):
        adapted = DistributionBase(base, 0, tensor)
    else:
        adapted = ConditionalDistributionBase(base, width, tensor)
    for index, parameter in enumerate(_distribution_parameters(base)):
        adapted.register_parameter(f"parameter_{index}", parameter)
    library = "pyro" if type(obj).__module__.startswith("pyro") else "torch"
    return flow_of(obj, library, bijection, adapted)


def _tensors(obj: Any) -> list[Tensor]:  # noqa: ANN401
    inside = [obj, *(value for value in vars(obj).values() if isinstance(value, Distribution))]
    return [value.detach() for each in inside for value in vars(each).values() if isinstance(value, Tensor)]


def _distribution_parameters(obj: Any) -> list[nn.Parameter]:  # noqa: ANN401
    if isinstance(obj, nn.Module):
        return []
    own = [value for value in vars(obj).values() if isinstance(value, nn.Parameter)]
    return own + [p for v in vars(obj).values() if isinstance(v, Distribution) for p in _distribution_parameters(v)]


def transform_of(obj: Any, width: int = 0) -> Bijection:  # noqa: ANN401
    """A transform as a bijection, a composition as a chain of its parts."""
    name = type(obj).__name__
    if is_a(obj, CONSTANT[0]):
        return transform_of(obj.transform)
    if is_a(obj, CONDITIONAL_INVERSE):
        return transform_of(obj._transform, width).inverted
    if is_a(obj, CONDITIONAL_COMPOSE):
        return named(Composite, name)(*[transform_of(part, width) for part in obj.transforms])
    if is_a(obj, CONDITIONAL):
        if not width:
            raise ConfigError(
                f"adapt: expected the width of the condition that {name} takes, which it does not tell. "
                "Pass condition_features=..."
            )
        return named(ConditionedTransform, name)(obj, width)
    if isinstance(obj, _InverseTransform):
        return transform_of(obj.inv).inverted
    if keeps(obj, COMPOSED, "_call", "_inv_call"):
        return named(Composite, name)(*[transform_of(part) for part in obj.parts])
    if keeps(obj, ZUKO_COMPOSED, "_call", "_inverse", "call_and_ladj"):
        return named(Composite, name)(*[transform_of(part) for part in obj.transforms])
    if not obj.bijective:
        raise ConfigError(
            f"adapt: expected a bijective transform, got {name}, which says bijective=False. "
            "Adapt two maps that undo each other: invertible.adapt(forward=..., inverse=...)."
        )
    if isinstance(obj, IndependentTransform):
        return transform_of(obj.base_transform)
    return named(TorchTransform, name)(obj)
