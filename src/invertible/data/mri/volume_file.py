"""One volume as fastMRI stores it in HDF5: what its header says, checked, and its slices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from invertible.data.mri.scanner_header import ScannerHeader, parse_header
from invertible.data.reading import reading
from invertible.errors import DataError, require

KSPACE, MASK, HEADER = "kspace", "mask", "ismrmrd_header"
SINGLE, MULTI = "reconstruction_esc", "reconstruction_rss"
SENSITIVITIES, NOISE_FREE = "sensitivities", "noise_free"


@dataclass(frozen=True)
class VolumeHeader:
    """What is known of a volume without reading its slices.

    Attributes:
        path: its file.
        slices: number of slices.
        coils: number of coils, 1 for single-coil files.
        multicoil: whether k-space has an axis of coils.
        shape: height and width of k-space.
        target: name of the reconstruction, `"reconstruction_esc"` or `"reconstruction_rss"`; `None` in fastMRI's test
            files, which have none.
        crop: height and width of the target; without one what the scanner's header says.
        maximum: largest value of the target; `None` if the file does not say.
        acquisition: name of the pulse sequence, such as `"CORPD_FBK"`.
        patient: an anonymous code; empty if there is none.
        acquired: first column that was acquired, and the one after the last; the others are padding.
        measured: whether the file has a mask of its own, so that k-space holds these columns alone.
        others: further data sets of the file with a first axis of slices, such as `"noise_free"`.
        simulated: whether k-space was computed from magnitude images, not measured.
        note: how it was made, if it was simulated.
    """

    path: Path
    slices: int
    coils: int
    multicoil: bool
    shape: tuple[int, int]
    target: str | None
    crop: tuple[int, int]
    maximum: float | None
    acquisition: str
    patient: str
    acquired: tuple[int, int]
    measured: bool
    others: tuple[str, ...] = ()
    simulated: bool = False
    note: str = ""

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.path.name


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An h5py file for reading; what goes wrong is a `DataError` that names it."""
    h5py = require("h5py", "mri")
    with reading(path, "an HDF5 file that is whole"):
        file = open_file(h5py, path)
    with file:
        yield file


def open_file(h5py: Any, path: Path) -> Any:  # noqa: ANN401
    """Open a file for reading, on file systems without locks too."""
    return h5py.File(path, "r", locking="best-effort")


def read_header(path: Path) -> VolumeHeader:
    """Read and check what a file of fastMRI's schema says of itself; slices are not read.

    Args:
        path: an HDF5 file with `kspace`, (slices, H, W) of one coil or (slices, coils, H, W) of several, complex; and
            if it has them `reconstruction_esc` or `reconstruction_rss` (slices, h, w), `mask` (W,), `ismrmrd_header`,
            attributes `acquisition`, `max` and `patient_id`.

    Raises:
        DataError: if it is no HDF5 file, is truncated, has no k-space, or its parts do not fit each other.
        MissingDependencyError: if h5py is not installed.

    Reference:
        Zbontar et al., 2018, "fastMRI: An open dataset and benchmarks for accelerated MRI", section 4.
    """
    with opened(path) as file, reading(path, "a volume of fastMRI's schema"):
        try:
            return _header(path, file)
        except DataError as error:
            raise DataError(f"{path}: {error}. Leave the file out or get it again.") from error


def _header(path: Path, file: Any) -> VolumeHeader:  # noqa: ANN401
    slices, coils, height, width, multicoil = _kspace(file)
    target = MULTI if multicoil else SINGLE
    scanner = parse_header(_bytes(file[HEADER][()])) if HEADER in file else None
    attributes = file.attrs
    maximum = float(attributes["max"]) if "max" in attributes else None
    if maximum is not None and not np.isfinite(maximum):
        raise DataError(f"expected a finite attribute max, got {maximum}")
    return VolumeHeader(
        path=path,
        slices=slices,
        coils=coils,
        multicoil=multicoil,
        shape=(height, width),
        target=target if target in file else None,
        crop=_target_shape(file, target, slices, (height, width)) or _crop(scanner, (height, width)),
        maximum=maximum,
        acquisition=_text(attributes.get("acquisition", "")),
        patient=_text(attributes.get("patient_id", "")),
        acquired=_acquired(scanner, width),
        measured=_is_measured(file, width),
        others=tuple(name for name in sorted(file) if name not in (KSPACE, MASK, HEADER, target)),
        simulated=bool(attributes.get("simulated", False)),
        note=_text(attributes.get("note", "")),
    )


def _kspace(file: Any) -> tuple[int, int, int, int, bool]:  # noqa: ANN401
    if KSPACE not in file:
        raise DataError(f"expected a data set kspace, got {', '.join(sorted(file)) or 'none at all'}")
    found = file[KSPACE]
    shape = _shape(found)
    if len(shape) not in (3, 4) or not all(shape) or found.dtype.kind != "c":
        raise DataError(
            "expected kspace of shape (slices, height, width) or (slices, coils, height, width) and a complex dtype, "
            f"got {shape} of {getattr(found, 'dtype', 'a group')}"
        )
    multicoil = len(shape) == 4
    return shape[0], shape[1] if multicoil else 1, shape[-2], shape[-1], multicoil


def _target_shape(file: Any, target: str, slices: int, shape: tuple[int, int]) -> tuple[int, int] | None:  # noqa: ANN401
    if target not in file:
        return None
    found = _shape(file[target])
    if len(found) != 3 or found[0] != slices or not all(0 < a <= b for a, b in zip(found[1:], shape, strict=True)):
        raise DataError(
            f"expected {target} of {slices} slices of at most {shape[0]} x {shape[1]} pixels, as kspace has, got shape "
            f"{found}"
        )
    return found[1], found[2]


def _is_measured(file: Any, width: int) -> bool:  # noqa: ANN401
    if MASK not in file:
        return False
    if _shape(file[MASK]) != (width,):
        raise DataError(f"expected mask of shape ({width},), the columns of kspace, got {_shape(file[MASK])}")
    return True


def _crop(scanner: ScannerHeader | None, shape: tuple[int, int]) -> tuple[int, int]:
    # Some brain scans were taken with fewer columns than the header asks for; fastMRI makes those square.
    if scanner is None:
        return shape
    rows, columns = scanner.reconstruction
    if columns > shape[1]:
        rows = columns = shape[1]
    return min(rows, shape[0]), columns


def _acquired(scanner: ScannerHeader | None, width: int) -> tuple[int, int]:
    if scanner is None or scanner.encoded_columns != width or scanner.acquired[0] >= scanner.acquired[1]:
        return 0, width
    return scanner.acquired


def _shape(found: Any) -> tuple[int, ...]:  # noqa: ANN401
    # Groups have none.
    return tuple(getattr(found, "shape", ()))


def _text(value: Any) -> str:  # noqa: ANN401
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _bytes(value: Any) -> bytes:  # noqa: ANN401
    return value if isinstance(value, bytes) else str(value).encode()
