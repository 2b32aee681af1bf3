"""Which volumes and slices of a folder to take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from invertible.data.mri.volume_file import VolumeHeader
from invertible.errors import ConfigError


@dataclass(frozen=True)
class Selection:
    """Which volumes, and which of their slices; all by default.

    Attributes:
        acquisitions: names of pulse sequences, such as `("CORPD_FBK",)`; `None` for all.
        volume_fraction: part of the volumes, chosen by the seed, at least one; 0 < fraction <= 1.
        slice_fraction: part of the slices of all volumes together, chosen by the seed, at least one; 0 < fraction <= 1.
        drop_first: slices to leave out at the beginning of each volume, where there is often nothing but noise.
        drop_last: slices to leave out at its end.
        seed: of the choices.

    Raises:
        ConfigError: if a value is out of its range.
    """

    acquisitions: tuple[str, ...] | None = None
    volume_fraction: float = 1.0
    slice_fraction: float = 1.0
    drop_first: int = 0
    drop_last: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("volume_fraction", "slice_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"Selection: expected 0 < {name} <= 1, got {getattr(self, name)}.")
        for name in ("drop_first", "drop_last"):
            if getattr(self, name) < 0:
                raise ConfigError(f"Selection: expected {name} to be at least 0, got {getattr(self, name)}.")

    def volumes(self, headers: Iterable[VolumeHeader]) -> tuple[VolumeHeader, ...]:
        """The headers of the chosen volumes, in their order.

        Raises:
            ConfigError: naming the pulse sequences there are, if none of them is wanted.
        """
        headers = list(headers)
        wanted = self.acquisitions
        found = [header for header in headers if wanted is None or header.acquisition in wanted]
        if not found:
            there = ", ".join(sorted({repr(header.acquisition) for header in headers}))
            raise ConfigError(f"Selection: expected acquisitions to be of {there}, got {wanted}. No volume is left.")
        return tuple(found[k] for k in _choose(len(found), self.volume_fraction, self.seed))

    def rows(self, headers: Iterable[VolumeHeader]) -> list[tuple[int, int]]:
        """Pairs (number of the volume, number of the slice), in order.

        Raises:
            ConfigError: if no slice is left.
        """
        rows = [
            (volume, number)
            for volume, header in enumerate(headers)
            for number in range(self.drop_first, header.slices - self.drop_last)
        ]
        if not rows:
            raise ConfigError(
                f"Selection: expected slices to be left, got none with drop_first={self.drop_first} and "
                f"drop_last={self.drop_last}."
            )
        return [rows[k] for k in _choose(len(rows), self.slice_fraction, self.seed + 1)]


def _choose(n: int, fraction: float, seed: int) -> list[int]:
    if fraction == 1:
        return list(range(n))
    return sorted(np.random.default_rng(seed).permutation(n)[: max(1, round(fraction * n))].tolist())
