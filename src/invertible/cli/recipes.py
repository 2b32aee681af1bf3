"""`invertible recipes`: list the shipped recipes, or print one."""

from typing import Annotated

import typer


def recipes(name: Annotated[str | None, typer.Argument(help="A recipe to print.")] = None) -> None:
    """List the shipped recipes, or print one as YAML, to copy and change."""
    from invertible import recipes as shipped
    from invertible.cli.output import console, table

    if name is not None:
        typer.echo(shipped.text(name), nl=False)
        return
    made = table("recipes", "name", "what it trains")
    made.columns[1].justify = "left"
    for each in shipped.names():
        made.add_row(each, shipped.load(each).about)
    console().print(made)
