"""`invertible reproduce`: make the figures and tables of the papers again, and judge their claims."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from invertible.cli.options import command
from invertible.errors import ConfigError, require
from invertible.reproduce.experiment import FULL, QUICK, Experiment, Found
from invertible.reproduce.outcome import Outcome, judge, write
from invertible.reproduce.page import page
from invertible.reproduce.registry import EXPERIMENTS
from invertible.reproduce.results import Results
from invertible.reproduce.work import Task, measure_all
from invertible.training.pictures import write_atomically

ALL = "all"


@dataclass(frozen=True)
class ReproduceOptions:
    """What `invertible reproduce` takes."""

    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="What to reproduce, or 'all'; lists them if left out.")
    ] = None
    listed: Annotated[bool, typer.Option("--list", help="List what there is.")] = False
    full: Annotated[
        bool, typer.Option("--full/--quick", help="The paper's settings, for a GPU, or minutes on two cores.")
    ] = False
    seed: Annotated[int, typer.Option(min=0, help="The first seed; statistical claims take those after it, too.")] = 0
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of figures, numbers, and results to use again.")] = (
        Path("reproduced")
    )
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time; as many as cores on a CPU, else one.")] = None
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; a GPU if there is one.")] = None
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure anew what was measured before.")] = False


@command(ReproduceOptions)
def reproduce(options: ReproduceOptions) -> None:
    """Make figures and tables of the papers again, and judge their claims one by one.

    The exit status is 1 if a claim does not hold. What is measured is kept by its settings in the folder results of
    --out: a second call draws at once, and one that was stopped goes on where it was.
    """
    if options.listed or not options.names:
        _list(list(EXPERIMENTS.values()))
        return
    chosen = _chosen(options.names, EXPERIMENTS)
    if options.out.exists() and not options.out.is_dir():
        raise ConfigError(f"--out: expected a folder, or a name for a new one, got a file: {options.out}.")
    require("matplotlib", "report")
    require("jinja2", "report")
    from invertible.cli.output import console, device_named

    scale = FULL if options.full else QUICK
    device = device_named(options.device)
    results = Results(options.out / "results", str(device))
    jobs = options.jobs or ((os.cpu_count() or 1) if device.type == "cpu" else 1)
    found = _measured(chosen, scale, options, results, jobs)
    outcomes, out = [], console()
    for experiment in chosen:
        outcome = judge(experiment, scale, options.seed, found[experiment.name])
        outcomes.append(outcome)
        paths = write(outcome, options.out / experiment.name)
        _show(outcome, out)
        typer.echo("written: " + ", ".join(str(path) for path in paths))
    path = options.out / ("index.html" if len(chosen) > 1 else f"{chosen[0].name}/index.html")
    write_atomically(path, page(outcomes).encode())
    typer.echo(f"page: {path}")
    if len(chosen) > 1:
        _sum_up(outcomes)
    if not all(outcome.holds for outcome in outcomes):
        raise typer.Exit(1)


def _sum_up(outcomes: Sequence[Outcome]) -> None:
    """How many claims hold, and which do not."""
    claims = [(outcome.experiment.name, claim) for outcome in outcomes for claim in outcome.claims]
    typer.echo(f"\n{sum(claim.holds for _, claim in claims)} of {len(claims)} claims hold")
    for name, claim in claims:
        if not claim.holds:
            typer.echo(f"does not hold: {name}: {claim.text}")


def _chosen(names: Sequence[str], experiments: dict[str, Experiment]) -> list[Experiment]:
    if ALL in names:
        return list(experiments.values())
    for name in names:
        if name not in experiments:
            raise ConfigError(f"reproduce: expected 'all' or one of {', '.join(experiments)}, got {name!r}.")
    return [experiments[name] for name in dict.fromkeys(names)]


def _list(experiments: Sequence[Experiment]) -> None:
    from invertible.cli.output import console, table

    made = table("reproductions", "name", "claim", "source")
    for column in made.columns[1:]:
        column.justify = "left"
    for each in experiments:
        made.add_row(each.name, each.title, each.source)
    console().print(made)


def _measured(
    chosen: Sequence[Experiment], scale: str, options: ReproduceOptions, results: Results, jobs: int
) -> dict[str, list[Found]]:
    """What the runs of the experiments measured, now or before."""
    tasks = [Task(each, run) for each in chosen for run in each.runs(scale, options.seed)]
    missing = [task for task in tasks if options.fresh or results.get(task.experiment, task.run) is None]
    if len(missing) < len(tasks):
        typer.echo(f"{len(tasks) - len(missing)} of {len(tasks)} runs were measured before.", err=True)
    with _bars(len(missing)) as listen:
        try:
            measure_all(missing, results, jobs=jobs, listen=listen)
        except KeyboardInterrupt:
            done = sum(results.get(task.experiment, task.run) is not None for task in tasks)
            typer.echo(
                f"interrupted: {done} of {len(tasks)} runs are measured and kept in {results.folder}; the same command "
                "goes on from there.",
                err=True,
            )
            raise typer.Exit(128 + signal.SIGINT) from None
    found: dict[str, list[Any]] = {each.name: [] for each in chosen}
    for task in tasks:
        kept = results.get(task.experiment, task.run)
        if kept is not None:
            found[task.experiment.name].append(kept)
    return found


@contextmanager
def _bars(total: int) -> Iterator[Callable[[Task, float], None]]:
    """A bar for all runs and one for each that is under way; without a terminal a line for each that ends."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from invertible.cli.output import console

    screen = console(stderr=True)
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(),
        console=screen, transient=True, disable=not screen.is_terminal,
    )  # fmt: skip
    whole = bars.add_task(f"{total} runs", total=max(total, 1))
    under_way: dict[str, tuple[Any, float]] = {}
    ended = 0

    def listen(task: Task, part: float) -> None:
        nonlocal ended
        name = str(task)
        if name not in under_way:
            under_way[name] = (bars.add_task(name, total=1.0), time.monotonic())
        bar, started = under_way[name]
        bars.update(bar, completed=part)
        if part >= 1.0:
            ended += 1
            bars.remove_task(bar)
            bars.update(whole, completed=ended, description=f"{ended} of {total} runs")
            if not screen.is_terminal:
                screen.print(f"{ended} of {total}: {name}, {time.monotonic() - started:.0f} s")

    with bars:
        yield listen


def _show(outcome: Outcome, out: Any) -> None:  # noqa: ANN401
    from invertible.cli.output import table

    out.print(f"\n{outcome.experiment.name}: {outcome.experiment.title} ({outcome.experiment.source})")
    for each in outcome.tables:
        made = table(each.title, *each.head)
        for row in each.rows:
            made.add_row(*row)
        out.print(made)
    for claim in outcome.claims:
        mark, colour = ("holds", "green") if claim.holds else ("does not hold", "red")
        out.print(f"[{colour}]{mark}[/]: {claim.text}", soft_wrap=True)
        why = f" {claim.why}" if claim.why and not claim.holds else ""
        out.print(f"    measured: {claim.measured}; expected: {claim.tolerance}.{why}", soft_wrap=True, markup=False)
