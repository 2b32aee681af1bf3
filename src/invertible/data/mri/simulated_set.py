"""A folder of simulated volumes for training, validation and test, from different subjects."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from invertible.data.mri.folder import SUFFIXES
from invertible.data.mri.simulation import OBJECT, Simulation, brightest, simulate
from invertible.data.mri.slices import seed_of
from invertible.data.mri.volume_file import NOISE_FREE, SENSITIVITIES, read_header
from invertible.data.mri.volumes import AXES, Volume, load_volume, volumes
from invertible.data.mri.writing import write_volume
from invertible.errors import ConfigError, DataError, choose, require_positive

OWNER = "simulate_dataset"
SPLITS: Mapping[str, tuple[str, ...]] = {
    # Heads with and without skull, for the test is without.
    "train": ("ch2", "ch2bet", "inia19"),
    "validation": ("kmeans-t1",),
    "test": ("mni152",),
}
# Slices with less tissue than this part of their pixels show next to nothing.
TISSUE = 0.1


@dataclass(frozen=True)
class SimulatedFile:
    """One file that was written.

    Attributes:
        path: where it lies.
        split: `"train"`, `"validation"` or `"test"`.
        volume: name of the volume it was simulated from.
        subject: whose head that is.
        axis: across which its slices are cut.
        slices: their number.
        size: bytes of the file.
    """

    path: Path
    split: str
    volume: str
    subject: str
    axis: str
    slices: int
    size: int


def simulate_dataset(
    out: str | os.PathLike[str],
    simulation: Simulation | None = None,
    *,
    splits: Mapping[str, Sequence[str]] | None = None,
    axes: Sequence[str] = AXES,
    slices_per_axis: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int, str], object] | None = None,
) -> list[SimulatedFile]:
    """Simulate k-space from volumes that packages ship, and write it in fastMRI's schema.

    `OUT/SPLIT/VOLUME-AXIS.h5` each hold the slices of a volume across an axis, those with more than a tenth of tissue.
    Beside what fastMRI has there are `noise_free`, the magnitudes without noise, for several coils their
    `sensitivities`, the attribute `simulated` = 1 and a `note` that says how. Splits do not share a subject: two slices
    of one head are nearly the same picture.

    Files are made in a hidden folder beside and moved when all are there. The same seed gives the same k-space, for
    each file whatever the others are. A volume is held in memory while it is written: 8 bytes a sample of k-space,
    about five times.

    Args:
        out: the folder to write, new or empty.
        simulation: how k-space is simulated.
        splits: names of volumes, or paths of NIfTI files, for each of `"train"`, `"validation"` and `"test"`; by
            default ch2, ch2bet and inia19; kmeans-t1; mni152.
        axes: of `"sagittal"`, `"coronal"`, `"axial"`.
        slices_per_axis: at most so many of each volume, equally spaced; all by default.
        seed: of everything that is drawn.
        overwrite: replace simulated volumes that are there; measured ones never.
        progress: called with files done, files in all, and the name of the next one.

    Returns:
        What was written, in order.

    Raises:
        ConfigError: if a name is unknown, or a volume or subject stands in two splits.
        DataError: if a volume is not on this machine (with the line that installs it), the folder is not empty, or a
            file cannot be written.
        MissingDependencyError: if h5py or nibabel is not installed.
    """
    simulation = simulation or Simulation()
    out = Path(out)
    jobs = _jobs(SPLITS if splits is None else splits, axes)
    if slices_per_axis is not None:
        require_positive(OWNER, slices_per_axis=slices_per_axis)
    _check_folder(out, overwrite=overwrite)
    volumes = _load(jobs)
    with _staging(out) as staging:
        found = []
        for number, (split, name, axis) in enumerate(jobs):
            path = Path(split, f"{volumes[name].name}-{axis}.h5")
            if progress:
                progress(number, len(jobs), str(path))
            count = _write(staging / path, volumes[name], axis, simulation, slices_per_axis, seed)
            size = (staging / path).stat().st_size
            found.append(SimulatedFile(out / path, split, volumes[name].name, volumes[name].subject, axis, count, size))
        if progress:
            progress(len(jobs), len(jobs), "")
        for old in _volumes_in(out):
            old.unlink()
        for each in found:
            each.path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / each.path.relative_to(out), each.path)
    return found


def tissue_slices(images: Tensor) -> Tensor:
    """Which slices have tissue on more than a tenth of their pixels: (n, h, w) to indices (m,)."""
    return ((images > OBJECT * brightest(images)).float().mean((1, 2)) > TISSUE).nonzero().flatten()


def _jobs(splits: Mapping[str, Sequence[str]], axes: Sequence[str]) -> list[tuple[str, str, str]]:
    """(split, volume, axis) of each file."""
    for split in splits:
        choose(OWNER, "splits", split, dict(SPLITS))
    for axis in axes:
        choose(OWNER, "axes", axis, dict.fromkeys(AXES))
    names = [str(name) for each in splits.values() for name in each]
    if not names or not axes or len(set(axes)) != len(axes):
        raise ConfigError(f"{OWNER}: expected volumes and axes, each axis once, got {names} and {list(axes)}.")
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"{OWNER}: expected each volume in one split, got {name!r} in several. Train and test on different "
                "subjects."
            )
    _check_subjects(splits)
    return [(split, str(name), axis) for split, each in splits.items() for name in each for axis in axes]


def _check_subjects(splits: Mapping[str, Sequence[str]]) -> None:
    """Two volumes that packages ship may show one head."""
    shipped, seen = volumes(), {}
    for split, names in splits.items():
        for name in names:
            if name not in shipped:
                continue
            first, where = seen.setdefault(shipped[name].subject, (name, split))
            if where != split:
                raise ConfigError(
                    f"{OWNER}: expected each subject in one split, got {first!r} in {where} and {name!r} in {split}, "
                    f"both of {shipped[name].subject}. Train and test on different subjects."
                )


def _load(jobs: list[tuple[str, str, str]]) -> dict[str, Volume]:
    """All volumes by what they were asked by, before the first is simulated: one that is missing is told at once."""
    loaded = {name: load_volume(name) for _, name, _ in jobs}
    split_of = {name: split for split, name, _ in jobs}
    owner: dict[str, str] = {}
    for name, volume in loaded.items():
        other = owner.setdefault(volume.name, name)
        if other != name:
            raise ConfigError(
                f"{OWNER}: expected volumes of different names, got {other!r} in {split_of[other]} and {name!r} in "
                f"{split_of[name]}. Rename one of the files."
            )
    return loaded


def _write(
    path: Path, volume: Volume, axis: str, simulation: Simulation, slices_per_axis: int | None, seed: int
) -> int:
    """Simulate and write one file; the number of its slices."""
    images, pixel = volume.slices(axis)
    chosen = tissue_slices(images)
    if not len(chosen):
        raise DataError(f"{volume.name}: expected {axis} slices with tissue on a tenth of them, got none.")
    if slices_per_axis is not None and slices_per_axis < len(chosen):
        middle = (torch.arange(slices_per_axis) + 0.5) / slices_per_axis
        chosen = chosen[(middle * len(chosen)).long()]
    scan = simulate(images[chosen], simulation, pixel=pixel, generator=seed_of(seed, volume.name, axis))
    others = {NOISE_FREE: scan.noise_free}
    if scan.sensitivities is not None:
        others[SENSITIVITIES] = scan.sensitivities[None]
    note = f"k-space SIMULATED from magnitude images of {volume.name} ({volume.source}), {axis} slices: {simulation}"
    attributes = {
        "acquisition": f"SIMULATED_{axis.upper()}",
        "patient_id": volume.name,
        "simulated": 1,
        "note": f"{note}, seed {seed}",
        "noise": scan.noise,
        "source_slices": chosen.numpy(),
    }
    write_volume(path, scan.kspace, scan.target, attributes=attributes, others=others)
    return len(chosen)


def _check_folder(out: Path, *, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: expected a folder to write to, got a file. Choose another name.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise DataError(
            f"{out}: expected a folder that is new or empty, got one with files. Choose another, or replace the "
            "simulated volumes in it by overwrite=True (--force)."
        )
    for path in _volumes_in(out):
        if not read_header(path).simulated:
            raise DataError(
                f"{path}: expected simulated volumes to replace, got a measured one. Choose another folder."
            )


def _volumes_in(out: Path) -> list[Path]:
    return sorted(path for split in SPLITS for path in (out / split).glob("*") if path.suffix in SUFFIXES)


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A hidden folder to make files in, gone afterwards, whatever happens."""
    was_there = out.is_dir()
    staging = out / f".simulating.{os.getpid()}"
    try:
        staging.mkdir(parents=True)
        yield staging
    except OSError as error:
        raise DataError(f"{out}: expected a folder to write to, got {error.strerror}. Choose another.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if not was_there and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
