"""The commands put together."""

from typing import Annotated

import typer

from invertible.cli import (
    audit,
    bench,
    data,
    demo,
    inspect,
    predict,
    recipes,
    reconstruct,
    reproduce,
    sample,
    score,
    train,
)

app = typer.Typer(
    name="invertible",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _version(wanted: bool) -> bool:  # noqa: FBT001
    if not wanted:
        return wanted
    import torch

    from invertible import __version__

    typer.echo(f"invertible {__version__} (torch {torch.__version__})")
    raise typer.Exit


@app.callback()
def _main(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Invertible neural networks whose inverses can be trusted.

    Exit status: 0 done, 1 a check failed, 2 wrong use.
    """


app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("sample")(sample.sample)
app.command("score")(score.score)
app.command("predict")(predict.predict)
app.command("reconstruct")(reconstruct.reconstruct)
app.command("audit")(audit.audit)
app.command("inspect")(inspect.inspect)
app.command("reproduce")(reproduce.reproduce)
app.command("recipes")(recipes.recipes)
app.add_typer(data.app, name="data")
# Options that are not its own belong to the benchmark.
app.command("bench", context_settings={"ignore_unknown_options": True})(bench.bench)
