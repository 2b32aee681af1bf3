"""Recognising another library's objects without importing it, and bearing the names of their classes."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from torch import nn

M = TypeVar("M", bound=type)


@cache
def named(kind: M, name: str) -> M:
    """The class `kind` under the name of the class that it wraps.

    An instance copies as any other; it pickles as an instance of `kind` and finds its name again.
    """
    rebuild = lambda self, _: (_rebuilt, (kind, name), self.__getstate__())  # noqa: E731
    return type(name, (kind,), {"__reduce_ex__": rebuild, "__doc__": kind.__doc__, "__module__": kind.__module__})  # pyright: ignore[reportReturnType]


def _rebuilt(kind: type, name: str) -> Any:  # noqa: ANN401
    made = named(kind, name)
    return made.__new__(made)


def is_a(obj: object, *names: str) -> bool:
    """Whether one of an object's classes has one of these full names, such as `zuko.lazy.Flow`."""
    return any(f"{cls.__module__}.{cls.__qualname__}" in names for cls in type(obj).__mro__)


def keeps(obj: object, name: str, *methods: str) -> bool:
    """Whether an object is of a class and has its methods as they are: only then may its parts stand for it."""
    original = next((c for c in type(obj).__mro__ if f"{c.__module__}.{c.__qualname__}" == name), None)
    return original is not None and all(getattr(type(obj), m) is getattr(original, m) for m in methods)


def context_width(theirs: Any, *attributes: str) -> int:  # noqa: ANN401
    """Features of the condition that the nets inside an object say they take, 0 if none says so.

    Args:
        theirs: the object.
        attributes: under which of its modules' names the number stands; beside them a linear `context_layer` tells it.
    """
    for module in theirs.modules() if isinstance(theirs, nn.Module) else ():
        layer: Any = getattr(module, "context_layer", None)
        told = [getattr(module, name, None) for name in attributes]
        told.append(layer.in_features if isinstance(layer, nn.Linear) else None)
        width = next((each for each in told if isinstance(each, int) and each > 0), 0)
        if width:
            return width
    return 0
