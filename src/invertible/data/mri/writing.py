"""Volumes and reconstructions written as fastMRI writes them, under a temporary name that is then renamed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invertible.data.mri.scanner_header import compose_header
from invertible.data.mri.volume_file import HEADER, KSPACE, MASK, MULTI, SINGLE
from invertible.errors import DataError, DomainError, ShapeError, require

Array = Tensor | np.ndarray
RECONSTRUCTION = "reconstruction"


def write_volume(
    path: str | os.PathLike[str],
    kspace: Array,
    target: Array | None = None,
    *,
    mask: Array | None = None,
    attributes: Mapping[str, Any] | None = None,
    others: Mapping[str, Array] | None = None,
    compress: bool = False,
) -> None:
    """Write a volume in fastMRI's schema, as `read_header` and `SliceDataset` read it, and fastMRI's own code.

    Args:
        path: the file, which is replaced if it is there.
        kspace: complex (slices, H, W) of one coil, or (slices, coils, H, W) of several; written as complex64.
        target: magnitudes (slices, h, w), written as float32 under `reconstruction_esc` for one coil and
            `reconstruction_rss` for several, with their maximum and norm as attributes.
        mask: the measured columns (W,), if k-space holds these alone.
        attributes: further attributes, such as `acquisition` and `patient_id`.
        others: further data sets with a first axis of slices, by name.
        compress: by gzip; noise does not get smaller, images without noise do.

    Raises:
        ShapeError: if k-space, target or mask do not have these shapes.
        DomainError: if a value is not finite.
        DataError: if the file cannot be written.
        MissingDependencyError: if h5py is not installed.
    """
    k = _numpy(kspace)
    if k.ndim not in (3, 4) or k.dtype.kind != "c" or not k.size:
        raise ShapeError(
            "write_volume: expected kspace of shape (slices, height, width) or (slices, coils, height, width) and a "
            f"complex dtype, got {k.shape} of {k.dtype}."
        )
    sets = {KSPACE: k.astype(np.complex64)}
    described: dict[str, Any] = {"acquisition": "UNKNOWN", "patient_id": ""}
    crop = k.shape[-2:]
    if target is not None:
        magnitudes = _target(_numpy(target), k)
        crop = magnitudes.shape[1:]
        sets[SINGLE if k.ndim == 3 else MULTI] = magnitudes
        described |= {"max": magnitudes.max(), "norm": np.linalg.norm(magnitudes.astype(np.float64))}
    if mask is not None:
        sets[MASK] = _mask(_numpy(mask), k.shape[-1])
    sets |= {name: _numpy(each) for name, each in (others or {}).items()}
    for name, each in sets.items():
        if not np.isfinite(each).all():
            raise DomainError(f"write_volume: expected finite values in {name}, got NaN or infinity.")
    header = compose_header((k.shape[-2], k.shape[-1]), (crop[0], crop[1]), (0, k.shape[-1]))
    _write(Path(path), sets, described | dict(attributes or {}), header, compress=compress)


def write_reconstructions(
    out: str | os.PathLike[str], reconstructions: Mapping[str, Array], *, attributes: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write reconstructed volumes as fastMRI's evaluation and challenge take them: a data set `reconstruction` each.

    Args:
        out: a folder, into which each volume goes under its name; or for one volume a file that ends in `.h5`.
        reconstructions: magnitudes (slices, h, w) by the names of the files they were reconstructed from.
        attributes: of every file, such as the model's name.

    Returns:
        The files that were written, in the volumes' order.

    Raises:
        ShapeError: if a volume is not of three axes.
        DomainError: if a value is not finite.
        DataError: if a file cannot be written, or `out` names a file and there are several volumes.
        MissingDependencyError: if h5py is not installed.
    """
    out = Path(out)
    is_file = out.suffix in (".h5", ".hdf5") and not out.is_dir()
    if is_file and len(reconstructions) != 1:
        raise DataError(f"{out}: expected a folder for {len(reconstructions)} volumes, got the name of one file.")
    written = []
    for name, each in reconstructions.items():
        volume = _numpy(each)
        if volume.ndim != 3 or volume.dtype.kind not in "fui":
            raise ShapeError(
                f"write_reconstructions: expected {name} to be magnitudes (slices, height, width), got {volume.shape} "
                f"of {volume.dtype}."
            )
        if not np.isfinite(volume).all():
            raise DomainError(f"write_reconstructions: expected finite values in {name}, got NaN or infinity.")
        path = out if is_file else out / Path(name).name
        _write(path, {RECONSTRUCTION: volume.astype(np.float32)}, dict(attributes or {}), None, compress=False)
        written.append(path)
    return written


def _write(
    path: Path, sets: Mapping[str, np.ndarray], attributes: Mapping[str, Any], header: bytes | None, *, compress: bool
) -> None:
    h5py = require("h5py", "mri")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _fill(h5py, temporary, sets, attributes, header, compress=compress)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise DataError(f"{path}: expected a file that can be written, got {reason}. Choose another place.") from error


def _fill(
    h5py: Any,  # noqa: ANN401
    path: Path,
    sets: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
    header: bytes | None,
    *,
    compress: bool,
) -> None:
    with h5py.File(path, "w") as file:
        for name, each in sets.items():
            # A chunk a slice: slices are read one by one.
            how = {"compression": "gzip", "chunks": (1, *each.shape[1:])} if compress and each.ndim > 2 else {}
            file.create_dataset(name, data=each, **how)
        if header is not None:
            file[HEADER] = header
        for name, value in attributes.items():
            file.attrs[name] = value


def _numpy(array: Array) -> np.ndarray:
    return array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)


def _target(target: np.ndarray, kspace: np.ndarray) -> np.ndarray:
    fits = target.ndim == 3 and len(target) == len(kspace) and target.dtype.kind == "f"
    if not fits or any(a > b for a, b in zip(target.shape[1:], kspace.shape[-2:], strict=True)):
        raise ShapeError(
            f"write_volume: expected target to be magnitudes of {len(kspace)} slices of at most "
            f"{kspace.shape[-2]} x {kspace.shape[-1]} pixels, got {target.shape} of {target.dtype}."
        )
    return target.astype(np.float32)


def _mask(mask: np.ndarray, width: int) -> np.ndarray:
    if mask.shape != (width,):
        raise ShapeError(f"write_volume: expected mask of shape ({width},), a value a column, got {mask.shape}.")
    return mask.astype(bool)
