"""`invertible score`: the likelihood of data under a model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from invertible.cli.options import command


@dataclass(frozen=True)
class ScoreOptions:
    """What `invertible score` takes."""

    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")]
    data: Annotated[str, typer.Option(help="Name of the data set ('invertible data' lists them).")]
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test"
    worst: Annotated[int, typer.Option(min=0, help="How many of the least likely samples to list.")] = 5
    batch_size: Annotated[int, typer.Option(min=1, help="Samples a batch.")] = 256
    seed: Annotated[int, typer.Option(min=0, help="Seed of the dequantisation noise.")] = 0
    data_dir: Annotated[Path | None, typer.Option(help="Where data sets lie.")] = None
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; a GPU if there is one.")] = None
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file, too.")] = None


@command(ScoreOptions)
def score(options: ScoreOptions) -> None:
    """Score data under a model: bits per dimension, or nats per dimension for continuous data.

    The exit status is 1 if a sample has no finite score.
    """
    from invertible.cli.output import console, labels_for, load_model, load_split, number, table
    from invertible.training.evaluation import evaluate
    from invertible.training.pictures import write_atomically

    flow = load_model(options.model, options.device)
    _, split = load_split(options.data, options.split, options.data_dir, flow)
    labels = labels_for(flow, split)
    result = evaluate(flow, split.x, labels, batch_size=options.batch_size, seed=options.seed)
    unit, out = result.unit.replace("_per_", "/"), console()
    made = table(f"{options.data}, {options.split}", unit, "standard error", "samples", "not finite")
    made.add_row(number(result.mean), number(result.standard_error), str(len(result.values)), str(result.non_finite))
    out.print(made)
    worst = result.worst(options.worst)
    if worst:
        rows = table("least likely samples", "index", unit, "label")
        for index in worst:
            rows.add_row(
                str(index), number(float(result.values[index])), "" if split.y is None else str(int(split.y[index]))
            )
        out.print(rows)
    if options.json_path is not None:
        figures = {"mean": result.mean, "standard_error": result.standard_error}
        record = {
            "model": str(options.model), "data": options.data, "split": options.split, "unit": result.unit,
            **{key: value if abs(value) < float("inf") else None for key, value in figures.items()},
            "samples": len(result.values), "non_finite": result.non_finite, "worst": worst, "seed": options.seed,
        }  # fmt: skip
        write_atomically(options.json_path, (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())
    if result.non_finite:
        raise typer.Exit(1)
