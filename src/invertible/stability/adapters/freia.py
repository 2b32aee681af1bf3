"""Networks and blocks of FrEIA (Ardizzone et al. 2018): `module(tuple, c=conditions, rev=..., jac=True)`.

Several inputs, outputs or conditions are joined to one tensor each, flattened and side by side, in FrEIA's order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from invertible.bijection import Bijection
from invertible.errors import ConfigError
from invertible.stability.adapters.foreign import Composite, Foreign, Pair
from invertible.stability.adapters.freia_graph import FreiaGraph
from invertible.stability.adapters.levels import cut, joined
from invertible.stability.adapters.recognition import is_a, keeps, named

MODULE = "FrEIA.modules.base.InvertibleModule"
SEQUENCE = "FrEIA.framework.sequence_inn.SequenceINN"
GRAPH = "FrEIA.framework.graph_inn.GraphINN"
Shapes = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Conditions:
    """How one tensor holds all conditions of a network, and which of them a block takes.

    Attributes:
        shapes: shapes of all conditions.
        chosen: indices of those that the block takes.
    """

    shapes: Shapes = ()
    chosen: Sequence[int] = ()

    @property
    def features(self) -> int:
        """Width of the tensor for those who take one of them."""
        if not self.shapes:
            return 0
        return self.shapes[0][0] if len(self.shapes) == 1 else sum(map(math.prod, self.shapes))

    def of(self, condition: Tensor | None) -> dict[str, list[Tensor]]:
        """The conditions of the block as FrEIA's argument."""
        if condition is None or not self.chosen:
            return {}
        parts = [condition] if len(self.shapes) == 1 else cut(condition, self.shapes)
        return {"c": [parts[index] for index in self.chosen]}


class FreiaBlock(Foreign):
    """One block, or a network whose structure is its own.

    Args:
        theirs: the module.
        inputs: shapes of its inputs.
        outputs: shapes of its outputs.
        conditions: those that it takes.
    """

    def __init__(self, theirs: Any, inputs: Shapes, outputs: Shapes, conditions: Conditions) -> None:  # noqa: ANN401
        super().__init__(theirs, conditions.features if conditions.chosen else 0)
        self.inputs, self.outputs, self.conditions = inputs, outputs, conditions

    def there(self, x: Tensor, condition: Tensor | None) -> Pair:
        """`rev=False`."""
        parts = tuple(cut(x, self.inputs)) if len(self.inputs) > 1 else (x,)
        result, log_det = self.theirs(parts, **self.conditions.of(condition), rev=False, jac=True)
        return _one(result), log_det

    def back(self, y: Tensor, condition: Tensor | None) -> Pair:
        """`rev=True`, whose Jacobian is that of the inverse."""
        parts = tuple(cut(y, self.outputs)) if len(self.outputs) > 1 else (y,)
        result, log_det = self.theirs(parts, **self.conditions.of(condition), rev=True, jac=True)
        return _one(result), log_det


def _one(result: Tensor | Sequence[Tensor]) -> Tensor:
    return result if isinstance(result, Tensor) else joined(result)


def adapt_freia(obj: Any, condition_features: int | None) -> Bijection | None:  # noqa: ANN401
    """A network or a block as a bijection; `None` for anything else of FrEIA.

    Raises:
        ConfigError: if `condition_features` is not what the module says it takes.
    """
    if not is_a(obj, MODULE):
        return None
    if keeps(obj, SEQUENCE, "forward"):
        adapted = _sequence(obj)
    elif keeps(obj, GRAPH, "forward"):
        adapted = _graph(obj)
    else:
        adapted = _block(obj)
    if condition_features not in (None, adapted.condition_features):
        raise ConfigError(
            f"adapt: expected condition_features={adapted.condition_features}, which {type(obj).__name__} was built "
            f"with, got {condition_features}. Leave it out."
        )
    return adapted


def _block(obj: Any) -> Bijection:  # noqa: ANN401
    inputs = [obj.dims_in] if obj.dims_in and isinstance(obj.dims_in[0], int) else obj.dims_in
    try:
        outputs = obj.output_dims(list(inputs))
    except ValueError:  # a network that gives bare tensors refuses to say
        outputs = inputs
    conditions = Conditions(tuple(map(tuple, obj.dims_c)), tuple(range(len(obj.dims_c))))
    return named(FreiaBlock, type(obj).__name__)(obj, inputs, outputs, conditions)


def _sequence(obj: Any) -> Bijection:  # noqa: ANN401
    pairs = list(zip(obj.module_list, obj.conditions, strict=True))
    shapes: dict[int, Sequence[int]] = {index: tuple(m.dims_c[0]) for m, index in pairs if index is not None}
    if sorted(shapes) != list(range(len(shapes))):
        raise ConfigError(f"adapt: expected conditions 0 .. n - 1 in {type(obj).__name__}, got {sorted(shapes)}.")
    every = tuple(shapes[index] for index in sorted(shapes))
    blocks = [
        named(FreiaBlock, type(m).__name__)(
            m, obj.shapes[k : k + 1], obj.shapes[k + 1 : k + 2], Conditions(every, () if index is None else (index,))
        )
        for k, (m, index) in enumerate(pairs)
    ]
    return named(Composite, type(obj).__name__)(*blocks)


def _graph(obj: Any) -> Bijection:  # noqa: ANN401
    special = [*obj.in_nodes, *obj.out_nodes, *obj.condition_nodes]
    nodes = [node for node in obj.node_list if node not in special]
    every = tuple(tuple(node.dims) for node in obj.condition_nodes)
    blocks = [
        named(FreiaBlock, type(node.module).__name__)(
            node.module,
            node.input_dims,
            node.output_dims,
            Conditions(every, tuple(obj.condition_nodes.index(c) for c in node.conditions)),
        )
        for node in nodes
    ]
    shapes = [(node.input_dims, node.output_dims) for node in nodes]
    place = {id(node): index for index, node in enumerate([*obj.in_nodes, *nodes])}
    wires = [[(place[id(source)], channel) for source, channel in node.inputs] for node in nodes]
    ends = [(place[id(node.inputs[0][0])], node.inputs[0][1]) for node in obj.out_nodes]
    starts = [tuple(node.dims) for node in obj.in_nodes]
    return named(FreiaGraph, type(obj).__name__)(blocks, shapes, wires, starts, ends, Conditions(every).features)
