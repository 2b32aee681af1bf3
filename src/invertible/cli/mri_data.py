"""`invertible data mri-volumes` and `mri-simulate`: volumes that packages ship, and k-space simulated from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from invertible.cli.options import command
from invertible.errors import ConfigError


def mri_volumes() -> None:
    """List the magnitude volumes that k-space can be simulated from, and how to get those that are not here."""
    from invertible.cli.output import console, table
    from invertible.data.mri import volumes

    made = table("volumes for mri-simulate", "name", "here", "subject", "what it is", "licence")
    for column in made.columns[1:]:
        column.justify = "left"
    for name, each in volumes().items():
        made.add_row(name, "yes" if each.is_here else each.install, each.subject, each.what, each.licence)
    console().print(made)


@dataclass(frozen=True)
class SimulateOptions:
    """What `invertible data mri-simulate` takes."""

    out: Annotated[Path, typer.Argument(help="Folder to write; new or empty.")]
    size: Annotated[int, typer.Option(min=8, help="Height and width of k-space and images.")] = 128
    coils: Annotated[int, typer.Option(min=1, help="Number of coils; 1 for single-coil files.")] = 1
    snr: Annotated[float, typer.Option(help="Signal to noise over the object in decibels; inf for no noise.")] = 30.0
    phase: Annotated[float, typer.Option(min=0.0, help="Deviation of the images' phase in radians.")] = 1.0
    axes: Annotated[str, typer.Option(help="Of sagittal, coronal, axial, with commas between.")] = (
        "sagittal,coronal,axial"
    )
    slices_per_axis: Annotated[
        int | None, typer.Option(min=1, help="At most so many slices of a volume and axis; all if left out.")
    ] = None
    train: Annotated[str, typer.Option(help="Volumes to train on, with commas between: names or NIfTI files.")] = (
        "ch2,ch2bet,inia19"
    )
    validation: Annotated[str, typer.Option(help="Volumes to validate on; of other subjects.")] = "kmeans-t1"
    test: Annotated[str, typer.Option(help="Volumes to test on; of other subjects.")] = "mni152"
    seed: Annotated[int, typer.Option(min=0, help="Of phases, coils and noise.")] = 0
    force: Annotated[bool, typer.Option("--force", help="Replace simulated volumes that are there.")] = False


@command(SimulateOptions)
def mri_simulate(options: SimulateOptions) -> None:
    """Simulate MRI k-space from magnitude volumes that packages ship, in the format of fastMRI.

    Training, validation and test volumes are of different subjects. Nothing is downloaded; volumes that are missing are
    named with the line that installs them; 'invertible data mri-volumes' lists all.
    """
    import math

    from invertible.cli.output import console
    from invertible.data.mri import Simulation, simulate_dataset
    from invertible.training.counting import counting

    snr = None if options.snr == math.inf else options.snr
    simulation = Simulation(size=options.size, coils=options.coils, snr=snr, phase=options.phase)
    parts = {"train": options.train, "validation": options.validation, "test": options.test}
    splits = {part: names for part, text in parts.items() if (names := _names(text))}
    with counting(console(stderr=True)) as told:
        told(0, 0, "reading volumes")
        written = simulate_dataset(
            options.out,
            simulation,
            splits=splits,
            axes=_names(options.axes),
            slices_per_axis=options.slices_per_axis,
            seed=options.seed,
            overwrite=options.force,
            progress=told,
        )
    out = console()
    out.print(_table(written, options.out))
    out.print(f"SIMULATED, not measured: {simulation}, seed {options.seed}.", soft_wrap=True)


def _names(text: str) -> list[str]:
    names = [each.strip() for each in text.split(",")]
    if text.strip() and not all(names):
        raise ConfigError(f"expected names with commas between, got {text!r}.")
    return [each for each in names if each]


def _table(written: list[Any], out: Path) -> Any:  # noqa: ANN401
    from invertible.cli.output import table

    made = table("simulated k-space", "file", "subject", "slices", "MB")
    made.columns[1].justify = "left"
    for each in written:
        made.add_row(str(each.path.relative_to(out)), each.subject, str(each.slices), f"{each.size / 1e6:.1f}")
    made.add_section()
    made.add_row(
        "all", "", str(sum(each.slices for each in written)), f"{sum(each.size for each in written) / 1e6:.1f}"
    )
    return made
