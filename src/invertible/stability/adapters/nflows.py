"""Transforms and flows of nflows (Durkan et al. 2020): their forward maps data to noise, as ours does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from invertible.bijection import Bijection
from invertible.flow import Flow
from invertible.stability.adapters.bases import AdaptedBase, flow_of, like, seeded
from invertible.stability.adapters.foreign import Composite, Embedded, Foreign, Pair
from invertible.stability.adapters.levels import Levels
from invertible.stability.adapters.recognition import context_width, is_a, keeps, named

TRANSFORM = "nflows.transforms.base.Transform"
COMPOSITE = "nflows.transforms.base.CompositeTransform"
MULTISCALE = "nflows.transforms.base.MultiscaleCompositeTransform"
INVERSE = "nflows.transforms.base.InverseTransform"
FLOW = "nflows.flows.base.Flow"


class NflowsTransform(Foreign):
    """One transform: `forward` and `inverse` take (inputs, context) and return (outputs, logabsdet)."""

    def there(self, x: Tensor, condition: Tensor | None) -> Pair:
        """`forward`."""
        return self.theirs(x, condition)

    def back(self, y: Tensor, condition: Tensor | None) -> Pair:
        """`inverse`."""
        return self.theirs.inverse(y, condition)


class NflowsLevels(Levels):
    """`MultiscaleCompositeTransform`: each level puts out the first half along `split_dim`, the larger one if odd."""

    split_dim = 1

    def split(self, level: int, h: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Halves by `torch.chunk`."""
        out, rest = torch.chunk(h, 2, dim=self.split_dim)
        return out, rest, 0.0

    def merge(self, level: int, out: Tensor, h: Tensor) -> tuple[Tensor, Any]:
        """Halves put together."""
        return torch.cat((out, h), self.split_dim), 0.0


class NflowsBase(AdaptedBase):
    """A distribution of nflows: `log_prob(inputs, context)`, and samples of shape (rows of context, n, ...)."""

    def __init__(self, theirs: Any, embedding: nn.Module | None, condition_features: int, tensor: Tensor) -> None:  # noqa: ANN401
        rows = tensor.new_zeros(1, condition_features) if condition_features else None
        with torch.no_grad(), seeded(tensor.device, torch.Generator().manual_seed(0)):
            one = theirs.sample(1, rows if embedding is None or rows is None else embedding(rows))
        super().__init__(one.shape[1 if rows is None else 2 :], theirs, condition_features, tensor)
        self.embedding = embedding

    def _context(self, condition: Tensor | None) -> Tensor | None:
        return condition if self.embedding is None or condition is None else self.embedding(condition)

    def density(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """`log_prob`."""
        return self.theirs.log_prob(z, context=self._context(condition))

    def draw(self, n: int, condition: Tensor | None) -> Tensor:
        """`sample`: one a row of the condition, where there is one."""
        return self.theirs.sample(n if condition is None else 1, context=self._context(condition))

    def centre(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """Their mean where they have one."""
        try:
            mean = self.theirs.mean(context=self._context(condition))
        except Exception:  # nflows.distributions.base.NoMeanException, NotImplementedError
            return super().centre(z, condition)
        return mean.reshape(-1, *self.shape).view(-1, *(1,) * (z.dim() - 1 - len(self.shape)), *self.shape)


def adapt_nflows(obj: Any, condition_features: int | None) -> Bijection | Flow | None:  # noqa: ANN401
    """A transform as a bijection, a flow as a flow; `None` for anything else of nflows."""
    if is_a(obj, FLOW):
        return _flow(obj, context_width(obj, "context_features") if condition_features is None else condition_features)
    if is_a(obj, TRANSFORM):
        return _transform(
            obj, context_width(obj, "context_features") if condition_features is None else condition_features
        )
    return None


def _flow(obj: Any, width: int) -> Flow:  # noqa: ANN401
    embedding = None if isinstance(obj._embedding_net, nn.Identity) or not width else obj._embedding_net
    bijection = _transform(obj._transform, width)
    if embedding is not None:
        bijection = Embedded(bijection, embedding, width)
    return flow_of(obj, "nflows", bijection, NflowsBase(obj._distribution, embedding, width, like(obj)))


def _transform(obj: Any, width: int) -> Bijection:  # noqa: ANN401
    name = type(obj).__name__
    if keeps(obj, COMPOSITE, "forward", "inverse"):
        layers = [_transform(layer, width) for layer in obj._transforms]
        return named(Composite, name)(*layers, condition_features=width)
    if keeps(obj, INVERSE, "forward", "inverse"):
        return _transform(obj._transform, width).inverted
    if keeps(obj, MULTISCALE, "forward", "inverse"):
        layers = [_transform(layer, width) for layer in obj._transforms]
        levels = named(NflowsLevels, name)(layers, obj._output_shapes, condition_features=width)
        levels.split_dim = obj._split_dim
        return levels
    return named(NflowsTransform, name)(obj, width)
