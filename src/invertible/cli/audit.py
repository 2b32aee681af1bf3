"""`invertible audit`: can the inverse of a model be trusted?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from invertible.cli.options import command
from invertible.errors import require


@dataclass(frozen=True)
class AuditCommandOptions:
    """What `invertible audit` takes."""

    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")]
    data: Annotated[str, typer.Option(help="Name of the data set ('invertible data' lists them).")]
    split: Annotated[str, typer.Option(help="The split to audit on; the training data are audited, too.")] = "test"
    other: Annotated[
        str | None, typer.Option(help="Another data set of the same shape, as one more set of strangers.")
    ] = None
    samples: Annotated[int, typer.Option(min=1, help="Samples a set.")] = 256
    tolerance: Annotated[float, typer.Option(help="Largest relative error of a round trip.")] = 1e-3
    out: Annotated[Path, typer.Option("--out", "-o", help="The report, one HTML file.")] = Path("audit.html")
    json_path: Annotated[Path | None, typer.Option("--json", help="Write every figure to this file, too.")] = None
    seed: Annotated[int, typer.Option(min=0, help="Seed of noise, latents and the choice of samples.")] = 0
    data_dir: Annotated[Path | None, typer.Option(help="Where data sets lie.")] = None
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; a GPU if there is one.")] = None


@command(AuditCommandOptions)
def audit(options: AuditCommandOptions) -> None:
    """Audit a model: round trips on its data, far from them, and for its samples.

    The exit status is 1 if the audit fails.
    """
    require("jinja2", "report")
    require("matplotlib", "report")
    from invertible import auditing
    from invertible.cli.output import console, labels_for, load_model, load_split, with_labels

    flow = load_model(options.model, options.device)
    data, split = load_split(options.data, options.split, options.data_dir, flow)
    train = with_labels(flow, data.train) if options.split != "train" else None
    other = None
    if options.other is not None:
        other = with_labels(flow, load_split(options.other, options.split, options.data_dir, flow)[1])
    report = auditing.audit(
        flow,
        split.x,
        condition=labels_for(flow, split),
        train=train,
        other=other,
        generator=options.seed,
        samples=options.samples,
        tolerance=options.tolerance,
    )
    console().print(report)
    report.to_html(options.out)
    if options.json_path is not None:
        report.to_json(options.json_path)
    typer.echo(f"report: {options.out}")
    if not report.passed:
        raise typer.Exit(1)
