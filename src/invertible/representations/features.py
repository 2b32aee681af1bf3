"""Features of a set of samples at chosen depths of a model, as matrices that statistics take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from invertible.errors import ConfigError, DomainError, ShapeError, choose
from invertible.memory.step import State
from invertible.representations.layers import layers, prepare, walk
from invertible.shapes import finite_rows

POOLINGS = {"mean": True, "flatten": False}


@dataclass(frozen=True)
class Labelled:
    """Samples and their classes.

    Attributes:
        x: data (N, ...), as the model takes them.
        y: classes, int64 (N,).
        condition: condition of x, of N rows; `None` for models without.

    Raises:
        ShapeError: if y is not a label for each sample, or there are none.
    """

    x: Tensor
    y: Tensor
    condition: Tensor | None = None

    def __post_init__(self) -> None:
        if self.y.dtype != torch.int64 or self.y.shape != self.x.shape[:1] or not len(self.y):
            raise ShapeError(
                f"Labelled: expected y of shape ({len(self.x)},) and dtype torch.int64, a label for each sample, got "
                f"{tuple(self.y.shape)} of {self.y.dtype}."
            )

    def __len__(self) -> int:
        return len(self.y)

    def take(self, count: int, generator: torch.Generator) -> Labelled:
        """As many samples, drawn without replacement; all of them if there are no more."""
        if count >= len(self):
            return self
        rows = torch.randperm(len(self), generator=generator)[:count].to(self.x.device)
        condition = None if self.condition is None else self.condition[rows]
        return Labelled(self.x[rows], self.y[rows], condition)


def chosen_depths(owner: str, model: nn.Module, depths: int | None) -> tuple[int, ...]:
    """So many depths, evenly spaced from the input (0) to the last layer; all if `None`.

    Raises:
        ConfigError: if there are fewer than two.
    """
    last = len(layers(model))
    if depths is not None and depths < 2:
        raise ConfigError(f"{owner}: expected depths of at least 2, the input and the last layer, got {depths}.")
    if depths is None or depths > last:
        return tuple(range(last + 1))
    return tuple(round(index * last / (depths - 1)) for index in range(depths))


def features_by_depth(
    model: nn.Module, sets: tuple[Labelled, ...], depths: tuple[int, ...], pooling: str
) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """At each of the depths: its name, and for each set the features (N, D), float64 on the CPU.

    The sets pass the layers side by side, so that no more than the states at one depth are kept.

    Raises:
        DomainError: if features are not finite, naming the layer.
        ConfigError: if `pooling` is unknown.
    """
    choose("features", "pooling", pooling, POOLINGS)
    walks = []
    for each in sets:
        x, condition = prepare(model, each.x, each.condition)
        walks.append(walk(layers(model), (x,), condition))
    for depth, stops in enumerate(zip(*walks, strict=True)):
        if depth in depths:
            name = stops[0][0]
            yield name, tuple(matrix(state, pooling, name) for _, state in stops)


def matrix(state: State, pooling: str, name: str) -> Tensor:
    """A state as features (N, D), float64 on the CPU: channels averaged over positions, or all numbers.

    Raises:
        DomainError: if they are not finite.
    """
    parts = [x.double().cpu().flatten(2) if x.dim() > 2 else x.double().cpu()[..., None] for x in state]
    found = torch.cat([x.mean(2) if POOLINGS[pooling] else x.flatten(1) for x in parts], 1)
    bad = (~finite_rows(found)).nonzero().flatten()
    if len(bad):
        raise DomainError(
            f"features: expected finite states, got NaN or infinity behind {name} in {len(bad)} of {len(found)} "
            f"samples, first in sample {int(bad[0])}. Leave them out, or see invertible.audit."
        )
    return found


def standardised(train: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Features shifted and scaled to mean 0 and deviation 1 on the training set; constant ones become 0."""
    mean, deviation = train.mean(0), train.std(0, correction=0)
    # Rounding makes a constant feature's deviation some eps of its size, and its noise must not become a feature.
    constant = deviation <= 1e-9 * train.abs().amax(0)
    factor = torch.where(constant, 0.0, 1 / torch.where(constant, 1.0, deviation))
    return tuple((each - mean) * factor for each in (train, *others))
