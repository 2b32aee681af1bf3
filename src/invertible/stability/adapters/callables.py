"""Any two maps that undo each other: functions, methods, or a module and the names of its directions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from invertible.bijection import Bijection
from invertible.errors import ConfigError, ShapeError
from invertible.stability.adapters.foreign import Foreign, Pair
from invertible.stability.adapters.levels import cut, joined
from invertible.stability.adapters.recognition import named

# Above this many numbers a sample no dense Jacobian is computed for want of a log-determinant.
DENSE = 256
INVERSES = ("inverse", "reverse", "backward_map", "decode", "inv")
FLAGS = ("reverse", "rev", "inverse", "invert")
LogDet = Callable[[Tensor, Tensor], Any] | float | int | None


class CallablePair(Foreign):
    """y = there(x), x = back(y), each returning the result alone or with its log-determinant.

    Where `there` gives a log-determinant and `back` none, that of the inverse is minus the one of `there` at the
    recovered x. Where neither does, `given` is used, or the Jacobian of autograd (D backward passes, D <= 256).

    Args:
        theirs: modules behind the two maps, to be registered.
        maps: the two maps; names are looked up in the only module.
        given: log-determinant of `there` as a function of (x, y), or a number; `None` if the maps give it.
        condition_features: 0, or width of the condition, the second argument of both maps.
    """

    def __init__(self, theirs: list[nn.Module], maps: tuple[Any, Any], given: LogDet, condition_features: int) -> None:
        super().__init__(nn.ModuleList(theirs), condition_features)
        self.maps, self.given = maps, given
        self.shapes: list[torch.Size] | None = None

    def there(self, x: Tensor, condition: Tensor | None) -> Pair:
        """The first map, and its log-determinant wherever that comes from."""
        y, log_det = self._call(0, x, condition)
        if y[:1].numel() != x[:1].numel():
            raise ShapeError(
                f"{type(self).__name__}: expected forward to give as many numbers a sample as it takes, "
                f"{x[:1].numel()}, got {y[:1].numel()}. Give a map that returns all of them as one tensor."
            )
        if self.given is not None:
            return y, self.given(x, y) if callable(self.given) else float(self.given)
        return (y, log_det) if log_det is not None else self._by_autograd(x, condition)

    def back(self, y: Tensor, condition: Tensor | None) -> Pair:
        """The second map; its log-determinant, or minus that of the first at the result."""
        x, log_det = self._call(1, y, condition)
        if log_det is None or self.given is not None:
            log_det = -torch.as_tensor(self.there(x, condition)[1])
        return x, log_det

    def _call(self, which: int, value: Tensor, condition: Tensor | None) -> tuple[Tensor, Any]:
        chosen, keywords = self.maps[which], {}
        if isinstance(chosen, str):
            chosen = getattr(self.theirs[0], chosen)
        elif isinstance(chosen, Flag):
            chosen, keywords = self.theirs[0], {chosen.name: True}
        elif isinstance(chosen, int):
            chosen = self.theirs[chosen]
        if which == 1 and self.shapes is not None:
            # A stack of levels that put out a list, as Glow's, wants it back, and says so by this argument.
            value = cut(value, self.shapes)  # pyright: ignore[reportAssignmentType]
            if "reconstruct" in inspect.signature(getattr(chosen, "forward", chosen)).parameters:
                keywords["reconstruct"] = True
        result = chosen(value, **keywords) if condition is None else chosen(value, condition, **keywords)
        return self._read(result, which)

    def _read(self, result: Any, which: int) -> tuple[Tensor, Any]:  # noqa: ANN401
        if isinstance(result, Tensor):
            return result, None
        if isinstance(result, tuple | list) and len(result) >= 2:
            first, second = result[0], result[1]
            if which == 0 and len(result) == 3 and isinstance(result[2], list | tuple):
                # (sum of log p, log-determinant, [z of each level]).
                self.shapes = [part.shape[1:] for part in result[2]]
                return joined(list(result[2])), second
            if isinstance(first, Tensor):
                return first, second
        raise ConfigError(
            f"adapt: expected {('forward', 'inverse')[which]} to return a tensor, or a tensor and a log-determinant, "
            f"got {type(result).__name__}. Wrap it in a function that does."
        )

    def _by_autograd(self, x: Tensor, condition: Tensor | None) -> Pair:
        size = x[:1].numel()
        if size > DENSE:
            raise ConfigError(
                f"adapt: expected a log-determinant, got none from forward, and x has {size} numbers a sample; a dense "
                f"Jacobian is computed up to {DENSE}. Let forward return (y, log_det), or pass log_det=... (a "
                "function of x and y, or a number)."
            )
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            leaf = x if keep and x.requires_grad else x.detach().requires_grad_()
            y, _ = self._call(0, leaf, condition)
            flat = y.reshape(len(x), -1)
            rows = [_gradient(column, leaf, keep=keep) for column in flat.unbind(1)]
            log_det = torch.linalg.slogdet(torch.stack([row.reshape(len(x), -1) for row in rows], 1))[1]
        return (y, log_det) if keep else (y.detach(), log_det.detach())


class Flag:
    """A direction taken by a flag: `module(y, reverse=True)`."""

    def __init__(self, name: str) -> None:
        self.name = name


def _gradient(column: Tensor, x: Tensor, *, keep: bool) -> Tensor:
    if not column.requires_grad:
        return torch.zeros_like(x)
    (row,) = torch.autograd.grad(
        column.sum(), x, retain_graph=True, create_graph=keep, allow_unused=True, materialize_grads=True
    )
    return row


def adapt_callables(
    obj: Any,  # noqa: ANN401
    forward: Any,  # noqa: ANN401
    inverse: Any,  # noqa: ANN401
    log_det: LogDet,
    condition_features: int,
) -> Bijection | None:
    """Two callables, or a module with two directions; `None` if there are none to be found.

    Args:
        obj: the module, a pair of callables, or `None`.
        forward: a callable, or the name of a method.
        inverse: likewise.
        log_det: log-determinant for maps that return none.
        condition_features: width of the condition, their second argument if it is not 0.

    Raises:
        ConfigError: if a name is no method of the object, or a direction is missing.
    """
    if isinstance(obj, tuple | list) and len(obj) == 2 and forward is None and inverse is None:
        (forward, inverse), obj = obj, None
    if obj is not None and inverse is None:
        inverse = _found(obj, forward)
        if inverse is None:
            return None
    if obj is None and not (callable(forward) and callable(inverse)):
        raise ConfigError(
            f"adapt: expected two callables, got forward={forward!r} and inverse={inverse!r}. "
            "Pass invertible.adapt(forward=..., inverse=...), or invertible.adapt((forward, inverse))."
        )
    for name in (forward, inverse):
        if isinstance(name, str) and not callable(getattr(obj, name, None)):
            raise ConfigError(
                f"adapt: expected the name of a method of {type(obj).__name__}, got {name!r}. It has "
                f"{', '.join(_methods(obj)) or 'none'}."
            )
    forward = forward if forward is not None else obj
    return _pair(obj, forward, inverse, log_det, condition_features)


def _pair(obj: Any, forward: Any, inverse: Any, log_det: LogDet, width: int) -> Bijection:  # noqa: ANN401
    modules: list[nn.Module] = [obj] if isinstance(obj, nn.Module) else []
    maps = []
    for chosen in (forward, inverse):
        if isinstance(chosen, str) and not modules:
            chosen = getattr(obj, chosen)
        owner = chosen if isinstance(chosen, nn.Module) else getattr(chosen, "__self__", None)
        if isinstance(owner, nn.Module) and not any(owner is each for each in modules):
            modules.append(owner)
        # A module is called through its place among the children, so that a copy calls its own.
        place = next((index for index, each in enumerate(modules) if each is chosen), chosen)
        maps.append(place)
    first = modules[0] if modules else obj
    name = type(first).__name__ if first is not None else getattr(forward, "__name__", type(forward).__name__)
    return named(CallablePair, name.replace("<lambda>", "function"))(modules, (maps[0], maps[1]), log_det, width)


def _found(obj: Any, forward: Any) -> str | Flag | None:  # noqa: ANN401
    """The inverse of a module that does not name it."""
    if not isinstance(obj, nn.Module) and forward is None:
        return None
    for name in INVERSES:
        if callable(getattr(obj, name, None)) and not isinstance(getattr(obj, name), nn.Module):
            return name
    named_arguments = inspect.signature(obj.forward).parameters if isinstance(obj, nn.Module) else {}
    return next((Flag(name) for name in FLAGS if name in named_arguments), None)


def _methods(obj: Any) -> list[str]:  # noqa: ANN401
    own = [name for cls in type(obj).__mro__ if cls not in nn.Module.__mro__ for name in vars(cls)]
    return sorted({name for name in own if not name.startswith("_") and callable(getattr(obj, name, None))})
