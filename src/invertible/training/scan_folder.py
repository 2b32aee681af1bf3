"""Where the scans of a recipe lie; simulated first, where they lie nowhere and the recipe says how."""

import hashlib
import os
import shutil
from pathlib import Path

from invertible.data import places
from invertible.data.mri import SimulatedFile, Simulation, simulate_dataset
from invertible.errors import DataError
from invertible.training.counting import Told
from invertible.training.reconstruction_sections import Scans, Simulate

# What fastMRI calls the parts that have targets.
FASTMRI = {"train": "train", "validation": "val"}


def scan_folder(name: str, section: Scans, data_dir: Path | None) -> Path:
    """The folder of a name: from here, in `data_dir` or the environment variable's, or the one that was simulated.

    Raises:
        DataError: if there is none.
    """
    candidates = [base / Path(name).expanduser() for base in (Path(), *_bases(data_dir))]
    if section.simulate is not None:
        candidates.append(simulated_folder(name, section, data_dir))
    for place in candidates:
        if place.is_dir():
            return place
    raise DataError(
        f"data.name: expected a folder of MRI scans, found none at {' or '.join(dict.fromkeys(map(str, candidates)))}. "
        "Give the path of fastMRI's, as in --set data.name=/datasets/fastmri; or of one that 'invertible data "
        "mri-simulate' writes, or say data.scans.simulate."
    )


def simulated_folder(name: str, section: Scans, data_dir: Path | None) -> Path:
    """Where k-space is simulated to: a folder for each way to simulate it, so that none is taken for another."""
    how = f"{section.coils} coils, {section.simulate!r}"
    digest = hashlib.sha256(how.encode()).hexdigest()[:8]
    return [*_bases(data_dir), places.cache_dir()][0] / Path(name).expanduser().with_name(f"{Path(name).name}-{digest}")


def part_folder(folder: Path, part: str, coils: int) -> Path | None:
    """The folder of a part: its own name, or fastMRI's for one coil or for several; `None` if there is none."""
    kind = "singlecoil" if coils == 1 else "multicoil"
    names = [part, *([f"{kind}_{FASTMRI[part]}"] if part in FASTMRI else [])]
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def provide_scans(
    name: str, section: Scans, data_dir: Path | None, told: Told | None = None
) -> tuple[Path, list[SimulatedFile]]:
    """The folder of a name as `scan_folder` finds it, or else simulated.

    The folder appears when all of it is there. Of several processes that simulate at once, the first is taken.

    Args:
        name: the recipe's `data.name`.
        section: the recipe's `data.scans`.
        data_dir: where data lie.
        told: called with files done, files in all, and the name of the next one.

    Returns:
        The folder, and the files that were simulated now.

    Raises:
        DataError: if it is not there and cannot be simulated, with the line that installs what is missing.
    """
    try:
        return scan_folder(name, section, data_dir), []
    except DataError:
        if section.simulate is None:
            raise
    folder = simulated_folder(name, section, data_dir)
    staging = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        written = _simulate(staging, section.coils, section.simulate, told)
        if not folder.is_dir():
            os.replace(staging, folder)
    except OSError as error:
        raise DataError(
            f"{folder}: expected a folder to simulate k-space to, got {error.strerror}. Choose another by --data-dir."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder, written


def _simulate(out: Path, coils: int, section: Simulate, told: Told | None) -> list[SimulatedFile]:
    return simulate_dataset(
        out,
        Simulation(size=section.size, coils=coils, snr=section.snr, phase=section.phase),
        splits={part: names for part in ("train", "validation", "test") if (names := getattr(section, part))},
        axes=section.axes,
        slices_per_axis=section.slices_per_axis,
        seed=section.seed,
        progress=told,
    )


def _bases(data_dir: Path | None) -> list[Path]:
    named = [data_dir, os.environ.get(places.VARIABLE)]
    return [Path(each).expanduser() for each in named if each]
