"""Slices of volumes, read one by one, each with the mask of the columns that a scan would have measured."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from invertible.data.mri.folder import VolumeFolder
from invertible.data.mri.open_files import OpenFiles
from invertible.data.mri.selection import Selection
from invertible.data.mri.volume_file import KSPACE, MASK, SENSITIVITIES, VolumeHeader
from invertible.errors import DataError, choose
from invertible.physics.fourier import centre_crop, centred_fft2, centred_ifft2

OWNER = "SliceDataset"


@runtime_checkable
class MaskFunction(Protocol):
    """Which columns of k-space are measured: `mask(columns, seed)` gives booleans (columns,), the same for a seed.

    The seed is a file's name or an integer. `invertible.physics.masks` has fastMRI's.
    """

    def __call__(self, columns: int, seed: int | str) -> Tensor:
        """The measured columns, true."""
        ...


@dataclass(frozen=True, eq=False)
class MRISlice:
    """One slice and what is known of it.

    Attributes:
        kspace: (coils, H, W), complex64, as the file holds it: not masked.
        mask: the columns to reconstruct from, (W,), boolean.
        target: the reconstruction from all columns, magnitudes (h, w), float32; `None` where there is none.
        maximum: the largest value of the volume's target; `None` where there is none.
        acquisition: name of the pulse sequence.
        volume: name of the file.
        index: which slice of the volume.
        crop: height and width to which reconstructions are cropped.
        sensitivities: complex (coils, H, W), complex64; `None` where they are not known or not asked for.
    """

    kspace: Tensor
    mask: Tensor
    target: Tensor | None
    maximum: float | None
    acquisition: str
    volume: str
    index: int
    crop: tuple[int, int]
    sensitivities: Tensor | None = None


class SliceDataset(Dataset[MRISlice]):
    """Slices of the volumes of a folder, in order of volumes and slices.

    Volumes are opened when first read, once a process; workers of a `DataLoader` open their own. Slices with a value
    that is not finite are refused by name.

    A mask is seeded by the name of its volume, so that all slices of a volume share it and every model is judged on the
    same ones, with fastMRI's mask functions those of its validation; or with `random_masks`, in training, by `seed`,
    the epoch, volume and slice. Files with a mask of their own keep it. Columns that the scanner's header calls padding
    are never measured.

    Args:
        folder: the volumes.
        mask: chooses the columns; all that were acquired by default.
        selection: which volumes and slices.
        random_masks: a mask a slice and epoch; `set_epoch` says which epoch it is.
        seed: of the random masks.
        image_size: crop images to this height and width before k-space is masked, where they are larger; Putzky et
            al. (2019) train so on 368 x 368. All of a volume's columns must be there for that.
        sensitivities: `"file"` to read the coils' sensitivities, which simulated volumes have; `"none"`.
        target: name of another data set of the files to take as the target, such as `"noise_free"`.

    Raises:
        ConfigError: if an argument is none of these, or no volume or slice is left.
        DataError: if a volume does not have what is asked for, or later if a slice cannot be read or is not finite.

    Example:
        >>> from invertible.physics.masks import RandomColumns                           # doctest: +SKIP
        >>> dataset = SliceDataset("singlecoil_val", RandomColumns((0.08,), (4,)))       # doctest: +SKIP
        >>> dataset[0].kspace.shape                                                      # doctest: +SKIP
        torch.Size([1, 640, 372])
    """

    def __init__(
        self,
        folder: VolumeFolder | Path | str,
        mask: MaskFunction | None = None,
        *,
        selection: Selection | None = None,
        random_masks: bool = False,
        seed: int = 0,
        image_size: tuple[int, int] | None = None,
        sensitivities: str = "none",
        target: str | None = None,
    ) -> None:
        self.folder = folder if isinstance(folder, VolumeFolder) else VolumeFolder(folder)
        selection = selection or Selection()
        self.headers = selection.volumes(self.folder)
        self.rows = selection.rows(self.headers)
        self.mask, self.random_masks, self.seed, self.image_size = mask, random_masks, seed, image_size
        self.with_sensitivities = choose(OWNER, "sensitivities", sensitivities, {"none": False, "file": True})
        self.target = target
        self._maxima: dict[int, float] = {}
        self._files = OpenFiles()
        # In shared memory: workers that live on from epoch to epoch see what the main process sets.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        for header in self.headers:
            self._check(header)

    @property
    def simulated(self) -> bool:
        """Whether any volume's k-space was computed from images instead of measured."""
        return any(header.simulated for header in self.headers)

    @property
    def acquisitions(self) -> tuple[str, ...]:
        """Names of the pulse sequences, in alphabetical order."""
        return tuple(sorted({header.acquisition for header in self.headers}))

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, for random masks."""
        self._epoch.fill_(epoch)

    def shape(self, index: int) -> tuple[int, int, int]:
        """Coils, height and width of a slice's k-space, without reading it."""
        header = self.headers[self.rows[index][0]]
        return header.coils, *_size(header.shape, self.image_size)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        number = sum(header.simulated for header in self.headers)
        origin = "measured" if not number else "SIMULATED" if number == len(self.headers) else f"{number} SIMULATED"
        return f"SliceDataset({len(self)} slices of {len(self.headers)} volumes, {origin} k-space)"

    def __getitem__(self, index: int) -> MRISlice:
        volume, number = self.rows[index]
        header = self.headers[volume]
        kspace = self._read(header, KSPACE, number).astype(np.complex64, copy=False)
        kspace = torch.from_numpy(kspace if header.multicoil else kspace[None])
        target = header.target if self.target is None else self.target
        image = None if target is None else torch.from_numpy(self._read(header, target, number).astype(np.float32))
        maps = torch.from_numpy(self._read(header, SENSITIVITIES, number)) if self.with_sensitivities else None
        if self.image_size is not None:
            size = _size(header.shape, self.image_size)
            kspace = centred_fft2(centre_crop(centred_ifft2(kspace), size))
            maps = None if maps is None else centre_crop(maps, size)
        crop = _size(header.crop if image is None else (image.shape[0], image.shape[1]), self.image_size)
        return MRISlice(
            kspace=kspace,
            mask=self._mask(header, number, kspace.shape[-1]),
            target=None if image is None else centre_crop(image, crop).contiguous(),
            maximum=self._maximum(volume),
            acquisition=header.acquisition,
            volume=header.name,
            index=number,
            crop=crop,
            sensitivities=maps,
        )

    def _read(self, header: VolumeHeader, name: str, number: int) -> np.ndarray:
        array = self._files.read(header.path, name, number)
        if not np.isfinite(array).all():
            raise DataError(
                f"{header.path}: expected finite values in {name}, got NaN or infinity in slice {number}. Leave the "
                "file out, or get it again."
            )
        return array

    def _mask(self, header: VolumeHeader, number: int, width: int) -> Tensor:
        if header.measured:
            mask = torch.from_numpy(self._files.read(header.path, MASK, ...).astype(bool))
        elif self.mask is not None:
            fresh = seed_of(self.seed, int(self._epoch), header.name, number) if self.random_masks else header.name
            mask = self.mask(width, fresh).to(torch.bool)
        else:
            mask = torch.ones(width, dtype=torch.bool)
        # A cropped image has no padding any more: its k-space is interpolated between columns.
        if width == header.shape[1]:
            columns = torch.arange(width)
            mask = mask & (columns >= header.acquired[0]) & (columns < header.acquired[1])
        return mask

    def _maximum(self, volume: int) -> float | None:
        header = self.headers[volume]
        target = header.target if self.target is None else self.target
        if target is None or (self.target is None and header.maximum is not None):
            return header.maximum
        if volume not in self._maxima:
            self._maxima[volume] = max(float(self._read(header, target, k).max()) for k in range(header.slices))
        return self._maxima[volume]

    def _check(self, header: VolumeHeader) -> None:
        wanted = [name for name in (self.target, SENSITIVITIES if self.with_sensitivities else None) if name]
        here = {*header.others, *([header.target] if header.target else [])}
        missing = [name for name in wanted if name not in here]
        if missing:
            raise DataError(
                f"{header.path}: expected data sets {', '.join(missing)}, got {', '.join(sorted(here)) or 'none'}. Ask "
                "for what the files have."
            )
        if header.measured and self.image_size is not None and header.shape[1] > self.image_size[1]:
            raise DataError(
                f"{header.path}: expected all columns of k-space, to crop images to {self.image_size}, got a file with "
                "a mask. Leave image_size out."
            )


def seed_of(*parts: str | int) -> int:
    """A seed made of names and numbers, the same on every machine: at least 0, below 2^63."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _size(shape: tuple[int, int], image_size: tuple[int, int] | None) -> tuple[int, int]:
    limits: tuple[float, float] = (math.inf, math.inf) if image_size is None else image_size
    return int(min(shape[0], limits[0])), int(min(shape[1], limits[1]))
