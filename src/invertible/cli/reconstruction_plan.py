"""Which volumes `invertible reconstruct` takes, and where their reconstructions go, before the first is begun."""

import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from invertible.cli.reconstruction_options import ReconstructOptions, slice_range
from invertible.data.mri import VolumeFolder, VolumeHeader
from invertible.errors import ConfigError
from invertible.physics.baselines import Method
from invertible.reconstruction import uses_sensitivities

SLICES_SHOWN = 3


@dataclass(frozen=True)
class Job:
    """One volume, where its reconstruction goes, which slices, and which of these to show."""

    header: VolumeHeader
    out: Path
    slices: tuple[int, int]
    shown: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What is to be done, and why volumes are left out, by name; those that fail later are added."""

    jobs: list[Job]
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def slices(self) -> int:
        """Number of slices of all jobs."""
        return sum(end - first for first, end in (job.slices for job in self.jobs))


def plan(source: Path, method: Method, options: ReconstructOptions) -> Plan:
    """Look at all volumes before the first is reconstructed.

    Raises:
        ConfigError: if none of them can be reconstructed, or something is there already.
        DataError: if there are none.
    """
    with warnings.catch_warnings():
        # Files that are damaged are told at the end, with all others that are left out.
        warnings.simplefilter("ignore", UserWarning)
        folder = VolumeFolder(source)
    wanted = None if options.slices is None else slice_range(options.slices)
    problems, fitting = dict(folder.problems), []
    for header in folder:
        reason = _misfit(header, method, options.mask, wanted)
        if reason is None:
            first, end = wanted or (0, header.slices)
            fitting.append((header, (first, min(end, header.slices))))
        else:
            problems[header.name] = reason
    if not fitting:
        raise ConfigError(next(iter(problems.values())))
    outs = _outs(source, options.out, [header for header, _ in fitting], force=options.force)
    shown = _shown([slices for _, slices in fitting])
    jobs = [Job(header, out, slices, which) for (header, slices), out, which in zip(fitting, outs, shown, strict=True)]
    return Plan(jobs, problems)


def _misfit(header: VolumeHeader, method: Method, mask: str, slices: tuple[int, int] | None) -> str | None:
    """Why a volume cannot be reconstructed; `None` if it can."""
    if mask == "file" and not header.measured:
        return f"{header.path}: expected a mask in the file, as --mask file asks for, got none. Choose --mask random."
    if slices is not None and slices[0] >= header.slices:
        return f"{header.path}: expected slices below {header.slices}, got --slices from {slices[0]}."
    try:
        uses_sensitivities(method, header)
    except ConfigError as error:
        return str(error)
    return None


def _outs(source: Path, out: Path, headers: list[VolumeHeader], *, force: bool) -> list[Path]:
    is_file = source.is_file() and out.suffix in (".h5", ".hdf5") and not out.is_dir()
    if not is_file and (out.is_file() or out.suffix in (".h5", ".hdf5")):
        raise ConfigError(f"--out: expected a folder for {source}, got {out}. Name one without a suffix.")
    found = [out] if is_file else [out / header.name for header in headers]
    for path, header in zip(found, headers, strict=True):
        if path.exists() and header.path.exists() and path.samefile(header.path):
            raise ConfigError(f"--out: expected another place than the k-space itself, got {path}. It would be lost.")
    there = [path for path in found if path.exists()]
    if there and not force:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise ConfigError(f"--out: expected nothing there, got {there[0]}{more}. Choose another place, or --force.")
    place = out.parent if is_file else out
    place.mkdir(parents=True, exist_ok=True)
    if not os.access(place, os.W_OK):
        raise ConfigError(f"--out: expected a folder that can be written, got {place}.")
    return found


def _shown(ranges: list[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Which slices of each volume to show: equally spaced over all slices of all."""
    lengths = [end - first for first, end in ranges]
    total = sum(lengths)
    chosen = {int((k + 0.5) / SLICES_SHOWN * total) for k in range(SLICES_SHOWN)}
    found, start = [], 0
    for length in lengths:
        found.append(tuple(sorted(each - start for each in chosen if start <= each < start + length)))
        start += length
    return found
