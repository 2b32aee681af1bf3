"""`invertible inspect`: what the layers of a trained model make of the data, depth by depth."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from invertible.cli.options import command
from invertible.errors import ConfigError, require


@dataclass(frozen=True)
class InspectOptions:
    """What `invertible inspect` takes."""

    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")]
    data: Annotated[str, typer.Option(help="Name of the data set ('invertible data' lists them).")]
    split: Annotated[str, typer.Option(metavar="test|validation", help="The split to look at.")] = "test"
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the figures and of inspect.json.")] = Path(
        "inspect"
    )
    skip: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LOOK",
            help="Leave out separation, contraction, dimension, spectrum, interpolation or inverse_error. May be "
            "repeated.",
        ),
    ] = None
    depths: Annotated[int, typer.Option(min=2, help="At most so many depths, evenly spaced.")] = 16
    pooling: Annotated[
        str, typer.Option(metavar="mean|flatten", help="Features of the separation: averaged over positions, or all.")
    ] = "mean"
    samples: Annotated[int, typer.Option(min=4, help="Samples of the split, at most.")] = 1000
    train_samples: Annotated[int, typer.Option(min=6, help="Training samples to learn from, at most.")] = 4000
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of the interpolation.")] = 4
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of samples.")] = 0
    data_dir: Annotated[Path | None, typer.Option(help="Where data sets lie.")] = None
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; a GPU if there is one.")] = None


@command(InspectOptions)
def inspect(options: InspectOptions) -> None:
    """Look inside a model: separation, contraction, dimension, Jacobian, interpolation, inverse error by depth.

    Classifiers and flows. What needs an inverse is not available where a network has none. The exit status is 1 if an
    inverse or a Jacobian is not finite. Ctrl-C shows what was seen until then; it is then 130.
    """
    require("matplotlib", "report")
    from invertible.cli.inspection import load_labelled, write_figures
    from invertible.cli.output import console, load_trained
    from invertible.reports.audit_progress import audit_progress
    from invertible.representations import LOOKS, InspectionInterrupted, LookOptions
    from invertible.representations import inspect as look

    unknown = sorted(set(options.skip or ()) - set(LOOKS))
    if unknown:
        raise ConfigError(f"--skip: expected one of {', '.join(LOOKS)}, got {unknown[0]!r}.")
    chosen = LookOptions(
        looks=tuple(each for each in LOOKS if each not in (options.skip or ())), depths=options.depths,
        pooling=options.pooling, train=options.train_samples, test=options.samples, pairs=options.pairs,
    )  # fmt: skip
    model = load_trained(options.model, options.device)
    train, test = load_labelled(options.data, options.split, options.data_dir, model)
    try:
        with audit_progress(console=console(stderr=True)) as progress:
            found = look(model, train, test, options=chosen, generator=options.seed, progress=progress)
    except InspectionInterrupted as stop:
        typer.echo(str(stop.found))
        typer.echo("interrupted: what was seen until then stands above; nothing is written.", err=True)
        raise typer.Exit(128 + signal.SIGINT) from None
    typer.echo(str(found))
    written = write_figures(found, options.out)
    typer.echo(f"\nwritten to {options.out}: {', '.join(written)}")
    if found.non_finite:
        raise typer.Exit(1)
