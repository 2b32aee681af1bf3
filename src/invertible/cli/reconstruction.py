"""What `invertible reconstruct` does: the method, the columns, and volume by volume the images."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from invertible.chain import set_memory
from invertible.cli.output import console, device_named, load_reconstructor, model_file
from invertible.cli.prediction import header as metadata
from invertible.cli.reconstruction_options import ReconstructOptions
from invertible.cli.reconstruction_plan import Job, Plan
from invertible.cli.waiting import progress_bar
from invertible.data.mri import MaskFunction, VolumeHeader, write_reconstructions
from invertible.data.mri.slices import seed_of
from invertible.errors import ConfigError, DataError, DomainError, choose
from invertible.image_metrics import Quality
from invertible.physics.baselines import Method, baseline
from invertible.physics.masks import ColumnMask, EquispacedColumns, RandomColumns
from invertible.reconstruction import ReconstructedVolume, reconstruct_volume

# fastMRI keeps 8 % of the columns in the middle at 4 times, 4 % at 8 times.
CENTRE = 0.32
MASKS = {"random": RandomColumns, "equispaced": EquispacedColumns, "file": None}


@dataclass(frozen=True)
class ChosenMethod:
    """How to reconstruct.

    Attributes:
        name: for titles, such as `"irim"` or `"tv"`.
        run: the model or baseline.
        device: where.
        model: the model's file; `None` for a baseline.
        acquisitions: pulse sequences of its context.
    """

    name: str
    run: Method
    device: str
    model: Path | None = None
    acquisitions: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Shown:
    """A slice for the panels: its number in the file, and magnitudes (h, w)."""

    index: int
    image: Tensor
    zero_filled: Tensor
    target: Tensor | None


@dataclass(frozen=True, eq=False)
class Done:
    """What is kept of a volume that was written: a folder of volumes does not fit into memory."""

    header: VolumeHeader
    out: Path
    slices: int
    mask: Tensor
    maximum: float | None
    seconds: float
    quality: Quality | None
    zero_filled_quality: Quality | None
    shown: tuple[Shown, ...]


def chosen_method(options: ReconstructOptions) -> tuple[Path, ChosenMethod]:
    """The volumes' path, and the model or baseline.

    Raises:
        ConfigError: if there are not as many paths as needed, or the model does not reconstruct.
    """
    wanted = 1 if options.baseline is not None else 2
    if len(options.paths) != wanted:
        names = "one path, of volumes, with --baseline" if wanted == 1 else "two paths, MODEL and FILE.h5 or FOLDER"
        raise ConfigError(f"reconstruct: expected {names}, got {' '.join(map(str, options.paths))}.")
    *models, source = options.paths
    if not source.exists():
        raise DataError(f"{source}: expected a volume or a folder of them, found nothing there. Check its name.")
    device = str(device_named(options.device))
    if options.baseline is not None:
        if options.memory is not None or options.acquisitions is not None:
            raise ConfigError("--baseline: expected no --memory and no --acquisitions, which are a model's.")
        return source, ChosenMethod(options.baseline, baseline(options.baseline, options.weight), device)
    if options.weight is not None:
        raise ConfigError("--weight: expected --baseline with it, got a model, which has no weight.")
    model = load_reconstructor(models[0], options.device)
    if options.memory is not None:
        set_memory(model, options.memory)
    name = str(model.config["model"]) if model.config else type(model).__name__
    acquisitions = _acquisitions(models[0], options.acquisitions)
    return source, ChosenMethod(name, model, device, models[0], acquisitions)


def chosen_mask(options: ReconstructOptions) -> MaskFunction | None:
    """The columns to keep of files without a mask of their own; `None` for all of them.

    Raises:
        ConfigError: naming the option that is wrong.
    """
    kind: type[ColumnMask] | None = choose("reconstruct", "--mask", options.mask, MASKS)
    if kind is None:
        if options.acceleration is not None or options.center_fraction is not None or options.seed is not None:
            raise ConfigError("--mask file: expected no --acceleration, --center-fraction or --seed beside it.")
        return None
    acceleration = options.acceleration or 4.0
    fraction = CENTRE / acceleration if options.center_fraction is None else options.center_fraction
    made = kind((fraction,), (acceleration,))
    return made if options.seed is None else partial(_seeded, made, options.seed)


def reconstruct_all(
    work: Plan, method: ChosenMethod, mask: MaskFunction | None, options: ReconstructOptions
) -> list[Done]:
    """Reconstruct and write volume by volume; those that cannot be read or do not come out finite become problems."""
    done: list[Done] = []
    try:
        with progress_bar(work.slices, "slices") as advance:
            for job in work.jobs:
                try:
                    done.append(_reconstruct(job, method, mask, options.batch, advance))
                except (DataError, DomainError) as error:
                    named = str(error) if str(job.header.path) in str(error) else f"{job.header.path}: {error}"
                    work.problems[job.header.name] = named
    except KeyboardInterrupt:
        told = f"{len(done)} of {len(work.jobs)} volumes are complete in {options.out}; nothing is there of the others."
        console(stderr=True).print(told, soft_wrap=True)
        raise
    return done


def _reconstruct(
    job: Job, method: ChosenMethod, mask: MaskFunction | None, batch: int, advance: Callable[[int], None]
) -> Done:
    found = reconstruct_volume(
        method.run,
        job.header.path,
        mask,
        slices=job.slices,
        batch_size=batch,
        acquisitions=method.acquisitions,
        device=method.device,
        progress=advance,
    )
    attributes = {"method": method.name, "acceleration": found.acceleration, "first_slice": job.slices[0]}
    attributes |= {"simulated": 1} if job.header.simulated else {}
    write_reconstructions(job.out, {job.out.name: found.images}, attributes=attributes)
    return Done(
        header=job.header,
        out=job.out,
        slices=len(found.indices),
        mask=found.mask,
        maximum=found.maximum,
        seconds=found.seconds,
        quality=found.quality,
        zero_filled_quality=found.zero_filled_quality,
        shown=tuple(_slice(found, place) for place in job.shown),
    )


def _slice(found: ReconstructedVolume, place: int) -> Shown:
    # Copies: a view would keep the whole volume.
    target = None if found.target is None else found.target[place].clone()
    return Shown(found.indices[place], found.images[place].clone(), found.zero_filled[place].clone(), target)


def _seeded(mask: ColumnMask, seed: int, columns: int, name: int | str) -> Tensor:
    return mask(columns, seed_of(seed, name))


def _acquisitions(model: Path, given: str | None) -> tuple[str, ...]:
    if given is not None:
        return tuple(name.strip() for name in given.split(",") if name.strip())
    try:
        found = json.loads(metadata(model_file(model)).get("acquisitions", "[]"))
    except ValueError as error:
        raise ConfigError(f"{model}: expected acquisitions as a list in JSON, got none that can be read.") from error
    if not isinstance(found, list):
        raise ConfigError(f"{model}: expected acquisitions as a list in JSON, got {found!r}.")
    return tuple(map(str, found))
