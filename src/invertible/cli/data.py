"""`invertible data`: the data sets, and which of them are on this machine."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from invertible.cli.mri_data import mri_simulate, mri_volumes


class _ListByDefault(TyperGroup):
    """`invertible data` alone, or with options only, is `invertible data list`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401
        """Put the command in front if none was given."""
        if not args or (args[0].startswith("-") and args[0] != "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_ListByDefault, help="List the data sets, or simulate MRI data.", rich_markup_mode="markdown")


@app.command("list")
def data(*, data_dir: Annotated[Path | None, typer.Option(help="Folder to look in first.")] = None) -> None:
    """List the data sets, and which of them are on this machine. Nothing is downloaded."""
    from invertible.cli.output import console, table
    from invertible.data import names
    from invertible.data.places import VARIABLE, cache_dir

    made = table("data sets", "name", "here", "what it is")
    for column in made.columns[1:]:
        column.justify = "left"
    for name, line in names().items():
        made.add_row(name, _state(name, data_dir), line)
    out = console()
    out.print(made)
    out.print(
        f"Looked for in --data-dir, in ${VARIABLE}, in {cache_dir()}; 'train' downloads into the last.", soft_wrap=True
    )


app.command("mri-volumes")(mri_volumes)
app.command("mri-simulate")(mri_simulate)


def _state(name: str, data_dir: Path | None) -> str:
    from invertible.data import load
    from invertible.errors import DataError, MissingDependencyError

    try:
        load(name, data_dir=data_dir, download=False, limit=2)
    except MissingDependencyError as error:
        return str(error).partition(": ")[2].rstrip(".")
    except DataError as error:
        # Files that are there but damaged are worth their own message.
        return "no" if "download=False" in str(error) else f"damaged: {error}"
    return "yes"
