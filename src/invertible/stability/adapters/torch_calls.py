"""Calling a transform of `torch.distributions` so that it remembers nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributions import Transform

from invertible.errors import ShapeError
from invertible.stability.adapters.recognition import is_a

CONDITIONAL = "pyro.distributions.conditional.ConditionalTransform"


def applied(transform: Transform, x: Tensor, *, backwards: bool = False) -> tuple[Tensor, Tensor]:
    """A transform's result and log-determinant of shape (B,), without its caches.

    Raises:
        ShapeError: if the transform's events take in the batch axis.
    """
    with _as_new(transform, x):
        chosen = transform.inv if backwards else transform
        events = chosen.domain.event_dim
        if events >= x.dim():
            raise ShapeError(
                f"{type(transform).__name__}: expected x of shape (batch, ...) with {events} event axes behind the "
                f"batch, got {tuple(x.shape)}."
            )
        # zuko gives both at once.
        both = getattr(chosen, "call_and_ladj", None)
        y, log_det = both(x) if both is not None else _both(chosen, x)
    log_det = log_det.expand(x.shape[: x.dim() - events]) if log_det.dim() <= x.dim() - events else log_det
    return y, log_det.reshape(len(x), -1).sum(1) if len(x) else log_det.new_zeros(0)


def _both(transform: Transform, x: Tensor) -> tuple[Tensor, Tensor]:
    y: Any = transform(x)
    return y, transform.log_abs_det_jacobian(x, y)


@contextmanager
def _as_new(transform: Transform, like: Tensor) -> Iterator[None]:
    """Empty caches within, and plain tensors of x's dtype and device; all is as before after it.

    A cached inverse would return x whatever the inverse does; a scale kept in a plain attribute follows no `double()`.
    """
    kept = []
    for each in nested(transform, set()):
        memory = {name: value for name, value in vars(each).items() if _is_memory(name)}
        plain = {name: value for name, value in vars(each).items() if _is_plain(name, value)}
        kept.append((each, memory | plain))
        if "_cached_x_y" in memory:
            vars(each)["_cached_x_y"] = (None, None)
        vars(each).update({name: value.to(like) for name, value in plain.items()})
    try:
        yield
    finally:
        for each, before in kept:
            for name in [name for name in vars(each) if _is_memory(name)]:
                del vars(each)[name]
            vars(each).update(before)


def _is_memory(name: str) -> bool:
    return name == "_inv" or (name.startswith("_cache") and name != "_cache_size")


def _is_plain(name: str, value: Any) -> bool:  # noqa: ANN401
    known = isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
    return known and value.is_floating_point() and not _is_memory(name)


def nested(obj: Any, seen: set[int]) -> Iterator[Any]:  # noqa: ANN401
    """A transform and those inside it, each once."""
    if id(obj) in seen:
        return
    seen.add(id(obj))
    if isinstance(obj, Transform):
        yield obj
    children = obj if isinstance(obj, list | tuple) else list(vars(obj).values())
    if isinstance(obj, nn.Module):
        children = [*children, *obj.children()]
    for child in children:
        if isinstance(child, Transform | list | tuple) or is_a(child, CONDITIONAL):
            yield from nested(child, seen)
