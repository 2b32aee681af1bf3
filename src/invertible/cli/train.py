"""`invertible train`: train a model from a recipe."""

import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from invertible.cli.options import command
from invertible.errors import ConfigError, require

FOLDER_VARIABLE = "INVERTIBLE_RUN_FOLDER"


@dataclass(frozen=True)
class TrainOptions:
    """What `invertible train` takes."""

    recipe: Annotated[str, typer.Argument(help="A shipped recipe ('invertible recipes' lists them) or a YAML file.")]
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value, as in optimizer.lr=1e-3. May be repeated."),
    ] = None
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; runs/NAME, or the first free runs/NAME-2, ..., if left out.")
    ] = None
    resume: Annotated[
        str | None, typer.Option(metavar="last|best|PATH", help="Continue from a checkpoint of the run in --out.")
    ] = None
    devices: Annotated[str, typer.Option(help="Number of devices, or auto for all.")] = "1"
    accelerator: Annotated[str, typer.Option(help="auto, cpu, gpu, ...")] = "auto"
    precision: Annotated[str | None, typer.Option(help="32-true, bf16-mixed, 16-mixed or 64-true.")] = None
    memory: Annotated[
        str | None,
        typer.Option(metavar="STRATEGY", help="store, checkpoint, recursive, reversible, exact, or a budget: 512MiB."),
    ] = None
    seed: Annotated[int | None, typer.Option(help="Seed of weights, data order, noise and samples.")] = None
    data_dir: Annotated[Path | None, typer.Option(help="Where data sets lie.")] = None
    max_time: Annotated[
        str | None, typer.Option(metavar="TIME", help="Stop in good order after this long: 90s, 10m, 1h30m.")
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False


@command(TrainOptions)
def train(options: TrainOptions) -> None:
    """Train a model from a recipe.

    Ctrl-C saves the run and says how to continue it; the exit status is then 130.
    """
    for package in ("pydantic", "yaml", "lightning", "torchmetrics"):
        require(package, "train")
    from invertible import recipes
    from invertible.cli.output import console
    from invertible.cli.run_report import report
    from invertible.training import RunOptions, run

    recipe = recipes.load(options.recipe, _overrides(options))
    if options.resume is not None and options.out is None:
        raise ConfigError("--resume: expected the folder of the run, too: --out runs/NAME --resume last.")
    seconds = None if options.max_time is None else parse_time(options.max_time)
    where = RunOptions(
        devices=_devices(options.devices), accelerator=_accelerator(options.accelerator), data_dir=options.data_dir,
        max_seconds=seconds, console=console(), quiet=options.quiet,
    )  # fmt: skip
    result = run(recipe, options.out or _folder(recipe.name), resume=options.resume, options=where)
    if result.interrupted is not None and _is_first_process():
        name = signal.Signals(result.interrupted).name
        typer.echo(f"{name}: stopped after step {result.step}; everything is saved. To continue:")
        typer.echo(f"  invertible train {result.folder}/recipe.yaml --out {result.folder} --resume last")
    if result.interrupted is not None:
        raise typer.Exit(128 + result.interrupted)
    if result.metrics:
        report(result.folder, result.metrics)


def _is_first_process() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _folder(name: str) -> Path:
    # Lightning starts the other processes of a run by this same command, when the folder exists already.
    if _is_first_process():
        os.environ[FOLDER_VARIABLE] = str(free_folder(Path("runs"), name))
    return Path(os.environ[FOLDER_VARIABLE])


def _overrides(options: TrainOptions) -> list[str]:
    overrides = list(options.overrides or [])
    if options.precision is not None:
        overrides.append(f"training.precision={options.precision}")
    if options.memory is not None:
        overrides.append(f"training.memory={options.memory}")
    if options.seed is not None:
        overrides.append(f"training.seed={options.seed}")
    return overrides


def _devices(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"--devices: expected a number of at least 1, or auto, got {text!r}.")
    return int(text)


def _accelerator(text: str) -> str:
    import torch

    choices = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
    if text not in choices:
        raise ConfigError(f"--accelerator: expected one of {', '.join(choices)}, got {text!r}.")
    if text in ("gpu", "cuda") and not (
        torch.cuda.is_available() or (text == "gpu" and torch.backends.mps.is_available())
    ):
        raise ConfigError(f"--accelerator {text}: expected a GPU on this machine, found none. Use --accelerator cpu.")
    return text


def parse_time(text: str) -> float:
    """Seconds in a text like `"90s"`, `"10m"`, `"1h30m"` or `"600"`.

    Raises:
        ConfigError: if it is none.
    """
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    if not text.strip() or match is None:
        raise ConfigError(f"--max-time: expected a time such as 90s, 10m or 1h30m, got {text!r}.")
    hours, minutes, seconds = (float(each or 0) for each in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def free_folder(parent: Path, name: str) -> Path:
    """`parent/name`, or the first of `parent/name-2`, `parent/name-3`, ... that does not exist."""
    folder, count = parent / name, 1
    while folder.exists():
        count += 1
        folder = parent / f"{name}-{count}"
    return folder
