"""Which columns of k-space an accelerated Cartesian scan measures, drawn as fastMRI draws them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from invertible.errors import ConfigError, require_positive

Seed = int | str | torch.Generator | None


@dataclass(frozen=True)
class ColumnMask(ABC):
    """A distribution of masks of columns: the centre is always measured, the rest by a rule.

    Of N columns the round(N f) in the middle are measured, f a centre fraction; they and the others together are
    N / a on average, a an acceleration. Every mask draws one pair (f, a) of those given, all alike probable.

    Given the same seed, fastMRI's mask functions of the same name draw the same columns (Zbontar et al., 2018,
    `fastmri/data/subsample.py`): numbers come from numpy's legacy Mersenne twister, in the same order.

    Args:
        centre_fractions: fractions f in [0, 1).
        accelerations: factors a >= 1, one for each fraction.

    Raises:
        ConfigError: if the two are empty or not of one length, or out of range.
    """

    centre_fractions: Sequence[float] = (0.08, 0.04)
    accelerations: Sequence[float] = (4, 8)

    def __post_init__(self) -> None:
        owner = type(self).__name__
        if not self.accelerations or len(self.centre_fractions) != len(self.accelerations):
            raise ConfigError(
                f"{owner}: expected one centre fraction for each acceleration, got {len(self.centre_fractions)} "
                f"fractions and {len(self.accelerations)} accelerations. Give two sequences of one length."
            )
        for fraction in self.centre_fractions:
            if not 0 <= fraction < 1:
                raise ConfigError(f"{owner}: expected centre_fractions of at least 0 and below 1, got {fraction}.")
        for acceleration in self.accelerations:
            if not 1 <= acceleration < float("inf"):
                raise ConfigError(f"{owner}: expected accelerations of at least 1, got {acceleration}.")

    def __call__(self, columns: int, seed: Seed = None) -> Tensor:
        """Draw a mask.

        Args:
            columns: N, the width of k-space.
            seed: an integer, a text such as a volume's file name (fastMRI's rule for validation), a generator from
                which a seed is drawn, or `None` for torch's own generator.

        Returns:
            Boolean, (N,), true where a column is measured.

        Raises:
            ConfigError: if the centre alone holds more than N / a columns.
        """
        require_positive(type(self).__name__, columns=columns)
        stream = _stream(seed)
        choice = stream.randint(0, len(self.accelerations))
        fraction, acceleration = self.centre_fractions[choice], self.accelerations[choice]
        centre = round(columns * fraction)
        if centre * acceleration >= columns and acceleration > 1:
            raise ConfigError(
                f"{type(self).__name__}: expected a centre of fewer than {columns} / {acceleration} columns, got "
                f"{centre} (centre fraction {fraction}). Lower the fraction or the acceleration."
            )
        mask = self._columns(columns, centre, acceleration, stream)
        first = (columns - centre + 1) // 2
        mask[first : first + centre] = True
        return torch.from_numpy(mask)

    @abstractmethod
    def _columns(self, columns: int, centre: int, acceleration: float, stream: np.random.RandomState) -> np.ndarray:
        """Columns beside those of the centre: boolean (N,)."""


@dataclass(frozen=True)
class RandomColumns(ColumnMask):
    """Columns beside the centre are measured independently, with probability (N / a - n) / (N - n), n in the centre.

    fastMRI's `RandomMaskFunc`, for knee data.

    Example:
        >>> mask = RandomColumns((0.08,), (4,))(320, seed="file1000000.h5")
    """

    def _columns(self, columns: int, centre: int, acceleration: float, stream: np.random.RandomState) -> np.ndarray:
        probability = (columns / acceleration - centre) / max(columns - centre, 1)
        return stream.uniform(size=columns) < probability


@dataclass(frozen=True)
class EquispacedColumns(ColumnMask):
    """Columns beside the centre are equally spaced from a random first one.

    Their distance a (N - n) / (N - a n), rounded column by column, is larger than a, so that with the n of the centre
    they are N / a on average: fastMRI's first `EquispacedMaskFunc`, called `EquispacedMaskFractionFunc` since, for
    brain data.
    """

    def _columns(self, columns: int, centre: int, acceleration: float, stream: np.random.RandomState) -> np.ndarray:
        mask = np.zeros(columns, dtype=bool)
        if acceleration == 1:
            return ~mask
        distance = acceleration * (centre - columns) / (centre * acceleration - columns)
        first = stream.randint(0, round(distance))
        mask[np.around(np.arange(first, columns - 1, distance)).astype(int)] = True
        return mask


def _stream(seed: Seed) -> np.random.RandomState:
    if isinstance(seed, str):
        return np.random.RandomState(tuple(map(ord, seed)) or 0)
    if seed is None or isinstance(seed, torch.Generator):
        seed = int(torch.randint(2**32, (), generator=seed))
    return np.random.RandomState(int(seed) % 2**32)
