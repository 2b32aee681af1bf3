"""`invertible demo`: the main job in small."""

from pathlib import Path
from typing import Annotated

import typer

from invertible.errors import require


def demo(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for all results.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of training, noise and test inputs.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller and shorter, to see that everything runs.")] = False,
) -> None:
    """Train two Glows of equal size and audit both: what a bounded scale does for the inverse."""
    for package in ("pydantic", "yaml", "lightning", "torchmetrics"):
        require(package, "train")
    require("sklearn", "data")
    require("jinja2", "report")
    from invertible import demo as shown
    from invertible.cli.output import console

    status = shown.run(out, seed, quick=quick, console=console())
    if status:
        raise typer.Exit(status)
