"""`invertible audit`: can the inverse of a model be trusted?"""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from invertible.cli.options import command
from invertible.errors import ConfigError, require


@dataclass(frozen=True)
class AuditCommandOptions:
    """What `invertible audit` takes."""

    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")]
    data: Annotated[str, typer.Option(help="Name of the data set ('invertible data' lists them).")]
    split: Annotated[str, typer.Option(help="The split to audit on; the training data are audited, too.")] = "test"
    other: Annotated[
        str | None, typer.Option(help="Another data set of the same shape, as one more set of strangers.")
    ] = None
    effort: Annotated[
        str, typer.Option(metavar="quick|full", help="quick: a minute for images; full: more of everything.")
    ] = "quick"
    samples: Annotated[int | None, typer.Option(min=1, help="Samples of every set; the effort's if left out.")] = None
    skip: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SECTION", help="Leave out attack, digits, spectrum, bounds or gradients. May be repeated."
        ),
    ] = None
    attack_radius: Annotated[
        float | None, typer.Option(help="Largest change of each value by the attack; half a grey level if left out.")
    ] = None
    tolerance: Annotated[float, typer.Option(help="Largest relative error of a round trip.")] = 1e-3
    out: Annotated[Path, typer.Option("--out", "-o", help="The report, one HTML file.")] = Path("audit.html")
    json_path: Annotated[Path | None, typer.Option("--json", help="Write every figure to this file, too.")] = None
    seed: Annotated[int, typer.Option(min=0, help="Seed of noise, latents and the choice of samples.")] = 0
    data_dir: Annotated[Path | None, typer.Option(help="Where data sets lie.")] = None
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; a GPU if there is one.")] = None


@command(AuditCommandOptions)
def audit(options: AuditCommandOptions) -> None:
    """Audit a flow or a bijective classifier: round trips on its data, far from them and under attack; why they fail.

    The exit status is 1 if the audit fails. Ctrl-C shows what was measured until then; it is then 130.
    """
    require("jinja2", "report")
    require("matplotlib", "report")
    from invertible import auditing
    from invertible.classifier import Classifier
    from invertible.cli.output import console, labels_for, load_split, load_trained, with_labels
    from invertible.data import Split
    from invertible.reports.audit_progress import audit_progress
    from invertible.stability.audit_options import SECTIONS
    from invertible.stability.sections import AuditInterrupted

    unknown = sorted(set(options.skip or ()) - set(SECTIONS))
    if unknown:
        raise ConfigError(f"--skip: expected one of {', '.join(SECTIONS)}, got {unknown[0]!r}.")

    model = load_trained(options.model, options.device)
    if isinstance(model, Classifier) and model.bijection is None:
        raise ConfigError(
            f"{options.model}: expected a flow or a bijective classifier, got one whose features are not as many as "
            f"its pixels. 'invertible inspect {options.model} --data {options.data}' shows what its inverse loses."
        )

    def given(split: Split) -> Any:  # noqa: ANN401
        return model.scaled(split.x) if isinstance(model, Classifier) else with_labels(model, split)

    data, split = load_split(options.data, options.split, options.data_dir, model)
    train = given(data.train) if options.split != "train" else None
    other = None
    if options.other is not None:
        other = given(load_split(options.other, options.split, options.data_dir, model)[1])
    x, condition = (given(split), None) if isinstance(model, Classifier) else (split.x, labels_for(model, split))
    try:
        with audit_progress(console=console(stderr=True)) as progress:
            report = auditing.audit(
                model, x, condition=condition, train=train, other=other, generator=options.seed,
                effort=options.effort, samples=options.samples, tolerance=options.tolerance,
                sections=[each for each in SECTIONS if each not in (options.skip or ())],
                attack_radius=options.attack_radius, progress=progress,
            )  # fmt: skip
    except AuditInterrupted as stop:
        console().print(auditing.AuditReport(stop.record))
        typer.echo("interrupted: what was measured until then stands above; nothing is written.", err=True)
        raise typer.Exit(128 + signal.SIGINT) from None
    console().print(report)
    report.to_html(options.out)
    if options.json_path is not None:
        report.to_json(options.json_path)
    typer.echo(f"report: {options.out}")
    if not report.passed:
        raise typer.Exit(1)
