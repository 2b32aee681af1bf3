"""What `invertible reconstruct` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from invertible.errors import ConfigError


@dataclass(frozen=True)
class ReconstructOptions:
    """What `invertible reconstruct` takes."""

    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL FILE.h5|FOLDER",
            help="A model file or the folder of a run, and a volume of fastMRI's format or a folder of them. No MODEL "
            "with --baseline.",
            show_default=False,
        ),
    ]
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File to write, or folder; a folder for a folder.", show_default=False)
    ]
    baseline: Annotated[
        str | None, typer.Option(metavar="zero-filled|tv|least-squares", help="Reconstruct without a model.")
    ] = None
    weight: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Of the penalty of a baseline: tv 0.001, of the largest zero-filled magnitude of a slice; "
            "least-squares 0.",
            show_default=False,
        ),
    ] = None
    mask: Annotated[
        str,
        typer.Option(metavar="random|equispaced|file", help="Columns to keep of files that have no mask."),
    ] = "random"
    acceleration: Annotated[
        float | None, typer.Option(min=1.0, help="All columns over those kept; 4 if left out.", show_default=False)
    ] = None
    center_fraction: Annotated[
        float | None,
        typer.Option(
            "--center-fraction", "--centre-fraction", min=0.0, max=1.0, show_default=False,
            help="Part of the columns that is kept in the middle; 0.32 / acceleration if left out, so 0.08 at 4.",
        ),
    ] = None  # fmt: skip
    slices: Annotated[
        str | None,
        typer.Option(metavar="FIRST:END", help="Slices from FIRST to END - 1; all if left out."),
    ] = None
    acquisitions: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...", help="Pulse sequences in the order of the model's context; the model file's if left out."
        ),
    ] = None
    batch: Annotated[int, typer.Option(min=1, help="Slices at a time.")] = 4
    memory: Annotated[
        str | None,
        typer.Option(metavar="STRATEGY", help="As the model was trained; without gradients only 'exact' matters."),
    ] = None
    png: Annotated[Path | None, typer.Option(help="Draw three slices beside truth and errors to this file.")] = None
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file, too.")] = None
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the masks; if left out the files' names, as fastMRI validates.")
    ] = None
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; a GPU if there is one.")] = None
    force: Annotated[bool, typer.Option("--force", help="Replace reconstructions that are there.")] = False


def slice_range(text: str) -> tuple[int, int]:
    """`"10:20"` as (10, 20); either may be left out.

    Raises:
        ConfigError: if it is not of that form, or empty.
    """
    first, colon, end = text.partition(":")
    if not colon or not all(part.strip().isdecimal() or not part.strip() for part in (first, end)):
        raise ConfigError(f"--slices: expected FIRST:END, such as 10:20, got {text!r}.")
    found = int(first or 0), int(end) if end.strip() else 2**31
    if found[0] >= found[1]:
        raise ConfigError(f"--slices: expected FIRST below END, got {text!r}.")
    return found
