"""`invertible bench`: run a benchmark of a checkout."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from invertible.errors import ConfigError

FOLDER = Path(__file__).parents[3] / "benchmarks"


def bench(
    name: Annotated[str | None, typer.Argument(help="A benchmark; lists them if left out.")] = None,
    arguments: Annotated[list[str] | None, typer.Argument(help="Handed on, as in: memory --quick.")] = None,
) -> None:
    """Run a benchmark. They are part of a checkout, not of the installed package."""
    scripts = {path.stem: path for path in sorted(FOLDER.glob("[!_]*.py"))}
    if not scripts:
        raise ConfigError("bench: expected benchmarks/ beside the package, as a checkout has it, found none.")
    if name is None:
        typer.echo("\n".join(scripts))
        return
    if name not in scripts:
        raise ConfigError(f"bench: expected one of {', '.join(scripts)}, got {name!r}.")
    raise typer.Exit(subprocess.run([sys.executable, str(scripts[name]), *(arguments or [])], check=False).returncode)
