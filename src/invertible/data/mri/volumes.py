"""Magnitude volumes of heads that packages ship, each read from where its package puts it."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from invertible.data.reading import reading
from invertible.errors import DataError, choose, require

Axis = Literal["sagittal", "coronal", "axial"]
AXES: tuple[Axis, ...] = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class Shipped:
    """A volume that comes with a package.

    Attributes:
        name: its name here.
        subject: whose head it is; splits are made by this.
        what: what it shows.
        licence: what the package says of it.
        install: how to get it.
        file: its place: absolute, or below the folder of `package`.
        package: the Python package that holds it, if one does.
    """

    name: str
    subject: str
    what: str
    licence: str
    install: str
    file: str
    package: str | None = None

    @property
    def path(self) -> Path | None:
        """Where it should be on this machine; `None` if its Python package is not installed."""
        if self.package is None:
            return Path(self.file)
        # The package itself is not imported: that takes seconds.
        found = importlib.util.find_spec(self.package)
        folders = found.submodule_search_locations if found else None
        return Path(next(iter(folders))) / self.file if folders else None

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine."""
        return self.path is not None and self.path.is_file()


SHIPPED = (
    Shipped(
        name="ch2",
        subject="one person (Colin27), mean of 27 scans",
        what="T1-weighted head with skull, 1 mm (Holmes et al., 1998)",
        licence="Debian states BSD-3 for its package; upstream states no terms for the template",
        install="apt install mricron-data",
        file="/usr/share/mricron/templates/ch2.nii.gz",
    ),
    Shipped(
        name="ch2bet",
        subject="one person (Colin27), mean of 27 scans",
        what="ch2 without skull, 1 mm",
        licence="Debian states BSD-3 for its package; upstream states no terms for the template",
        install="apt install mricron-data",
        file="/usr/share/mricron/templates/ch2bet.nii.gz",
    ),
    Shipped(
        name="kmeans-t1",
        subject="one person, of ITK's examples",
        what="T1-weighted head, 2 x 2 x 3 mm",
        licence="Apache-2.0, as ITK",
        install="apt install insighttoolkit5-examples",
        file="/usr/share/doc/insighttoolkit5-examples/examples/Data/KmeansTest_T1UCharRaw.nii.gz",
    ),
    Shipped(
        name="mni152",
        subject="average of 152 people",
        what="T1-weighted template without skull, ICBM 2009a symmetric, 1 mm (Fonov et al., 2011)",
        licence="nilearn states none for the template; the package is BSD-3",
        install="pip install nilearn",
        file="datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
        package="nilearn",
    ),
    Shipped(
        name="inia19",
        subject="average of 19 rhesus macaques",
        what="T1-weighted brain without skull, 0.5 mm (Rohlfing et al., 2012)",
        licence="Debian states BSD-3 for its package; upstream states no terms for the template",
        install="apt install mricron-data",
        file="/usr/share/mricron/templates/inia19-t1-brain.nii.gz",
    ),
    Shipped(
        name="example4d",
        subject="one person, of nibabel's tests",
        what="echo-planar head, first of two times, 2 x 2 x 2.2 mm",
        licence="MIT, as nibabel",
        install="pip install nibabel",
        file="tests/data/example4d.nii.gz",
        package="nibabel",
    ),
    Shipped(
        name="dipy-s0",
        subject="one person, of DIPY's tests",
        what="head without diffusion weighting, 10 axial slices, 2 x 2 mm, with true background noise",
        licence="BSD-3, as DIPY",
        install="pip install dipy",
        file="data/files/S0_10slices.nii.gz",
        package="dipy",
    ),
)


@dataclass(frozen=True, eq=False, repr=False)
class Volume:
    """Magnitudes of a head.

    Attributes:
        name: what it was loaded by.
        data: (right, anterior, superior), float32, at least 0, axes growing in these directions.
        voxel: edges of a voxel along the three axes, in millimetres.
        subject: whose head it is.
        source: what it is, where it comes from, and its licence.
    """

    name: str
    data: Tensor
    voxel: tuple[float, float, float]
    subject: str
    source: str

    def __repr__(self) -> str:
        edges = " x ".join(f"{edge:g}" for edge in self.voxel)
        return f"Volume({self.name!r}: {tuple(self.data.shape)} voxels of {edges} mm, {self.subject})"

    def slices(self, axis: str) -> tuple[Tensor, tuple[float, float]]:
        """Slices across an axis as a radiologist hangs them, top up, and the edges of their pixels in millimetres.

        Args:
            axis: `"sagittal"`, `"coronal"` or `"axial"`.

        Returns:
            (n, h, w) and (height, width) of a pixel.

        Raises:
            ConfigError: if it is another axis.
        """
        across = choose("Volume.slices", "axis", axis, {name: number for number, name in enumerate(AXES)})
        columns, rows = (number for number in range(3) if number != across)
        return self.data.permute(across, rows, columns).flip(1), (self.voxel[rows], self.voxel[columns])


def volumes() -> dict[str, Shipped]:
    """The volumes known here, by name, on this machine or not."""
    return {each.name: each for each in SHIPPED}


def load_volume(name: str | Path) -> Volume:
    """Read a volume that a package ships, or a NIfTI or Analyze file of one's own.

    Nothing is downloaded. Axes are turned to (right, anterior, superior); of several times the first is taken.

    Args:
        name: a key of `volumes()`, or the path of a file that ends in `.nii`, `.nii.gz`, `.img` or `.hdr`.

    Raises:
        ConfigError: naming the volumes, if it is none of them.
        DataError: with the install line, if it is not on this machine; or if the file cannot be read, or holds values
            that are negative or not finite.
        MissingDependencyError: if nibabel is not installed.

    Example:
        >>> load_volume("ch2")      # doctest: +SKIP
        Volume('ch2': (181, 217, 181) voxels of 1 x 1 x 1 mm, one person (Colin27), mean of 27 scans)
    """
    if str(name).endswith((".nii", ".nii.gz", ".img", ".hdr")):
        path = Path(name)
        return _read(path, path.name.partition(".")[0], "one of your own", str(path))
    shipped: Shipped = choose("load_volume", "name", str(name), volumes())
    if shipped.path is None or not shipped.is_here:
        raise DataError(
            f"{shipped.name}: expected its file at {shipped.path or shipped.file}, found none. Run {shipped.install}."
        )
    return _read(shipped.path, shipped.name, shipped.subject, f"{shipped.what}; {shipped.licence}; {shipped.path.name}")


def _read(path: Path, name: str, subject: str, source: str) -> Volume:
    nibabel = require("nibabel", "mri")
    with reading(path, "a volume in the NIfTI format"):
        image: Any = nibabel.as_closest_canonical(nibabel.load(path))
        data = np.asarray(image.dataobj, dtype=np.float32)
        edges = [float(edge) for edge in image.header.get_zooms()[:3]]
    if data.ndim == 4:
        data = data[..., 0]
    if data.ndim != 3 or not data.size or not all(0 < edge < math.inf for edge in edges):
        raise DataError(f"{path}: expected a volume of three axes, got shape {data.shape}, voxels {edges}.")
    if not np.isfinite(data).all() or data.min() < 0:
        raise DataError(f"{path}: expected magnitudes, finite and at least 0, got others. Clean the volume first.")
    return Volume(name, torch.from_numpy(np.ascontiguousarray(data)), (edges[0], edges[1], edges[2]), subject, source)
