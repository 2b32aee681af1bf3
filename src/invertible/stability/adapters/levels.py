"""Multi-scale flows: levels that hand on a part and put out the rest, all outputs joined to one vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from invertible.bijection import Bijection
from invertible.errors import ConfigError
from invertible.shapes import zero_log_det
from invertible.stability.adapters.foreign import Checked
from invertible.stability.adapters.translation import per_sample


class Levels(Checked):
    """h_0 = x; (out_k, h_(k+1)) = split(level_k(h_k)); y holds all out_k and what the last level gives, flattened.

    A subclass cuts as its library does, in `split` and `merge`.

    Args:
        levels: the levels, the first one applied to x.
        shapes: shapes of the outputs in the order of the levels; `None` where only a forward pass tells.
        last_first: whether the last level's output comes first in y.
        condition_features: features of the condition of all levels.
    """

    def __init__(
        self,
        levels: Sequence[Bijection],
        shapes: Sequence[Sequence[int]] | None,
        *,
        last_first: bool = False,
        condition_features: int = 0,
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.shapes = None if shapes is None else [tuple(shape) for shape in shapes]
        self.last_first, self.condition_features = last_first, condition_features

    def split(self, level: int, h: Tensor) -> tuple[Tensor, Tensor, Any]:
        """What a level puts out, what it hands on, and the log-determinant."""
        raise TypeError(f"{type(self).__name__}: define split(self, level, h).")

    def merge(self, level: int, out: Tensor, h: Tensor) -> tuple[Tensor, Any]:
        """The inverse of `split`, and its log-determinant."""
        raise TypeError(f"{type(self).__name__}: define merge(self, level, out, h).")

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Level after level; y of shape (B, D)."""
        self._check(x, condition)
        h, total, outputs = x, zero_log_det(x), []
        for index, level in enumerate(self.levels):
            h, log_det = level(h, condition)
            total = total + log_det
            if index < len(self.levels) - 1:
                out, h, log_det = self.split(index, h)
                outputs.append(out)
                total = total + per_sample(type(self).__name__, log_det, x)
        outputs.append(h)
        if self.shapes is None:
            self.shapes = [tuple(out.shape[1:]) for out in outputs]
        order = outputs[::-1] if self.last_first else outputs
        return torch.cat([out.reshape(len(x), -1) for out in order], 1), total

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The levels backwards, from y of shape (B, D)."""
        self._check(y, condition)
        outputs = self.parts(y)
        h, total = outputs[-1], zero_log_det(y)
        for index in reversed(range(len(self.levels))):
            if index < len(self.levels) - 1:
                h, log_det = self.merge(index, outputs[index], h)
                total = total + per_sample(type(self).__name__, log_det, y)
            level: Any = self.levels[index]
            h, log_det = level.inverse(h, condition)
            total = total + log_det
        return h, total

    def parts(self, y: Tensor) -> list[Tensor]:
        """The outputs of the levels, in their order, cut from y."""
        if self.shapes is None:
            raise ConfigError(
                f"{type(self).__name__}: expected to know the shapes of its latents, which a forward pass tells. "
                "Run it once on data."
            )
        return cut(y, self.shapes, backwards=self.last_first)


def cut(y: Tensor, shapes: Sequence[Sequence[int]], *, backwards: bool = False) -> list[Tensor]:
    """Cut (B, D) into tensors of these shapes; `backwards` if y holds the last one first."""
    order = list(reversed(shapes)) if backwards else list(shapes)
    sizes = [int(torch.Size(shape).numel()) for shape in order]
    pieces = [part.reshape(len(y), *shape) for part, shape in zip(y.split(sizes, 1), order, strict=True)]
    return pieces[::-1] if backwards else pieces


def joined(parts: Sequence[Tensor]) -> Tensor:
    """One tensor as it is, several flattened and side by side."""
    return parts[0] if len(parts) == 1 else torch.cat([part.reshape(len(part), -1) for part in parts], 1)
