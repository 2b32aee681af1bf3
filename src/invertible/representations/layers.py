"""A model as named layers in a row, and the states between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from invertible.bijection import Bijection, Inverted
from invertible.blocks.multiscale import FactorOut
from invertible.chain import Chain
from invertible.classifier import Classifier
from invertible.errors import ConfigError, NotInvertibleError, ShapeError
from invertible.flow import Flow
from invertible.memory.step import State
from invertible.module_step import has_inverse
from invertible.sequential import Sequential
from invertible.stability.subject import condition_of
from invertible.stability.undisturbed import undisturbed

Move = Callable[[Tensor, Tensor | None], Tensor]
Rearrange = Callable[[State], State]
# Samples that pass a layer together.
BATCH = 256


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of a model: state to state, and back where there is a way.

    A state is a tuple of tensors (B, ...): the one that goes on, and behind it those that a `FactorOut` has set aside.

    Attributes:
        name: where it stands and what it is, such as `body.blocks[3] (SwapResidual)`.
        module: the module itself.
        forward: maps a state and a condition to a state.
        inverse: undoes it; `None` for a layer that loses information.
        residual: how far a state is off the layer's range, (B,), 0 for all of a bijection's; `None` where that is not
            known, or nothing is off the range.
    """

    name: str
    module: nn.Module
    forward: Callable[[State, Tensor | None], State]
    inverse: Callable[[State, Tensor | None], State] | None = None
    residual: Callable[[State], Tensor] | None = None


def layers(model: nn.Module) -> tuple[Layer, ...]:
    """The layers of a model in the order in which data pass them, those inside of others taken out.

    Of a `Classifier` its body, of a `Flow` its bijection. `Chain`, `Sequential`, their inverses and `FactorOut` are
    taken apart, however deeply nested; anything else is one layer, with the inverse that it has.

    Args:
        model: a `Classifier`, `Flow`, `Sequential`, or any `Bijection`.

    Raises:
        ConfigError: if it is none of these, or has no layer.

    Example:
        >>> for layer in layers(model):
        ...     print(layer.name, "has an inverse" if layer.inverse else "has none")
    """
    root, path = _root(model)
    found = tuple(_apart(root, path))
    if not found:
        raise ConfigError(f"layers: expected a model with layers, got an empty {type(root).__name__}.")
    return found


def states(
    model: nn.Module, x: Tensor, condition: Tensor | None = None, *, batch_size: int = BATCH
) -> Iterator[tuple[str, Tensor]]:
    """The input and what every layer makes of it, one after the other; only the newest is kept.

    Every layer runs in eval mode, without gradients, and comes out undisturbed. What a `FactorOut` has set
    aside is part of the state: where sizes differ, the state is one row of numbers a sample.

    Args:
        model: as `layers` takes it.
        x: data (B, ...): integer levels where the model was built for them, or floating-point numbers.
        condition: condition of x, of B rows; labels for a flow with classes.
        batch_size: samples that pass a layer together.

    Yields:
        Name and state: `input` first.

    Raises:
        ShapeError: if x is not what the model takes.

    Example:
        >>> for name, features in states(model, images):
        ...     print(name, tuple(features.shape))
    """
    prepared, condition = prepare(model, x, condition)
    for name, state in walk(layers(model), (prepared,), condition, batch_size):
        yield name, joined(state)


def walk(
    found: tuple[Layer, ...], state: State, condition: Tensor | None, batch_size: int = BATCH
) -> Iterator[tuple[str, State]]:
    """Names and states, the input first."""
    yield "input", state
    for layer in found:
        # One layer at a time, so that nothing is held while the caller has the state, or if they stop.
        with undisturbed(layer.module), torch.no_grad():
            state = passed(layer.forward, state, condition, batch_size)
        yield layer.name, state


def passed(
    move: Callable[[State, Tensor | None], State], state: State, condition: Tensor | None, batch_size: int = BATCH
) -> State:
    """A state moved batch by batch."""
    pieces = []
    for rows in torch.arange(len(state[0])).split(batch_size):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        pieces.append(move(tuple(x[part] for x in state), None if condition is None else condition[part]))
    return tuple(torch.cat(each) for each in zip(*pieces, strict=True))


def undo(found: tuple[Layer, ...], state: State, condition: Tensor | None) -> State:
    """The inverses of the layers, the last one first.

    Raises:
        NotInvertibleError: naming the layer that has none.
    """
    require_inverse("undo", found)
    for layer in reversed(found):
        assert layer.inverse is not None
        state = layer.inverse(state, condition)
    return state


def require_inverse(owner: str, found: tuple[Layer, ...]) -> None:
    """Check that all layers have an inverse.

    Raises:
        NotInvertibleError: naming the last one that has none.
    """
    for layer in reversed(found):
        if layer.inverse is None:
            raise NotInvertibleError(
                f"{owner}: expected a model with an inverse, but {layer.name} has none: it loses information.",
                block=layer.name,
            )


def prepare(model: nn.Module, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Data and condition as the first layer takes them.

    Integer levels become numbers on [0, 1]: levels/(n - 1) for a classifier, the middles of the bins (levels + 1/2)/n
    for a flow.

    Raises:
        ShapeError: on integers for a model of continuous data, no sample, or a condition of other length.
    """
    if x.dim() < 2 or not len(x):
        raise ShapeError(f"states: expected x of shape (batch, ...) with samples, got {tuple(x.shape)}.")
    if isinstance(model, Classifier):
        x = model.scaled(x)
    elif not x.is_floating_point():
        levels = getattr(model, "levels", None)
        if levels is None:
            raise ShapeError(
                f"states: got x of {x.dtype}, but the model takes floating-point numbers. Convert it: x.float()."
            )
        like = next(model.parameters(), torch.empty(0))
        x = (x.to(like) + 0.5) / levels
    if condition is not None and len(condition) != len(x):
        raise ShapeError(f"states: expected a condition of {len(x)} rows, one a sample, got {len(condition)}.")
    if isinstance(model, Flow):
        condition = condition_of(model, model.bijection, condition, x)
    return x, condition


def joined(state: State) -> Tensor:
    """A state as one tensor: several are flattened and set side by side, (B, D)."""
    return state[0] if len(state) == 1 else torch.cat([x.flatten(1) for x in state], 1)


def _root(model: nn.Module) -> tuple[nn.Module, str]:
    for kind, attribute in ((Classifier, "body"), (Flow, "bijection")):
        if isinstance(model, kind):
            return getattr(model, attribute), attribute
    if isinstance(model, Bijection | Sequential):
        return model, ""
    raise ConfigError(
        f"layers: expected a Classifier, Flow, Sequential or Bijection, got {type(model).__name__}. Put modules into "
        "an invertible.Sequential; give another library's flow as invertible.adapt(flow)."
    )


def _apart(module: nn.Module, path: str) -> Iterator[Layer]:
    if isinstance(module, Chain | Sequential):
        for index, block in enumerate(module):
            yield from _apart(block, f"{path}.blocks[{index}]".removeprefix("."))
    elif isinstance(module, FactorOut):
        aside, together = _rearranged(_set_aside(module)), _rearranged(_put_together)
        yield Layer(f"{path} (FactorOut: set aside)".strip(), module, aside, together)
        yield from _apart(module.inner, f"{path}.inner".removeprefix("."))
        yield Layer(f"{path} (FactorOut: put together)".strip(), module, together, aside)
    elif isinstance(module, Inverted) and isinstance(module.bijection, Chain | FactorOut):
        inside = f"{path}.bijection".removeprefix(".")
        for layer in reversed(list(_apart(module.bijection, inside))):
            assert layer.inverse is not None
            yield Layer(f"{layer.name} inverted", layer.module, layer.inverse, layer.forward)
    else:
        yield _single(module, f"{path} ({type(module).__name__})".strip())


def _single(module: nn.Module, name: str) -> Layer:
    if isinstance(module, Bijection):
        return Layer(name, module, _on_first(_direction(module, module)), _on_first(_direction(module, module.inverse)))
    undone = module.inverse if has_inverse(module) else None
    measure = module.residual if callable(getattr(module, "residual", None)) else None
    return Layer(
        name,
        module,
        _on_first(lambda x, _: module(x)),
        None if undone is None else _on_first(lambda y, _: undone(y)),  # pyright: ignore[reportCallIssue]
        None if measure is None else lambda state: measure(state[0]),  # pyright: ignore[reportCallIssue]
    )


def _direction(module: Bijection, run: Callable[..., tuple[Tensor, Tensor]]) -> Move:
    return lambda x, condition: run(x, condition if module.condition_features else None)[0]


def _on_first(move: Move) -> Callable[[State, Tensor | None], State]:
    return lambda state, condition: (move(state[0], condition), *state[1:])


def _set_aside(module: FactorOut) -> Rearrange:
    def change(state: State) -> State:
        x, *others = state
        kept = x.shape[1] // 2 if module.kept is None else module.kept
        return (x[:, :kept], x[:, kept:], *others)

    return change


def _put_together(state: State) -> State:
    x, aside, *others = state
    return (torch.cat((x, aside), 1), *others)


def _rearranged(change: Rearrange) -> Callable[[State, Tensor | None], State]:
    return lambda state, _: change(state)
