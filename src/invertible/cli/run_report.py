"""What `invertible train` prints when a run has come to its end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from invertible.cli.output import console, number, table

Rows = Iterator[tuple[str, ...]]
METRICS = {"ssim": "SSIM", "psnr": "PSNR in dB", "nmse": "NMSE"}


def report(folder: Path, metrics: dict[str, Any]) -> None:
    """Print the scores of a run as a table, a row a split, and where its files lie.

    Args:
        folder: of the run.
        metrics: what its `metrics.json` holds.
    """
    if "simulated" in metrics:
        columns, rows, pictures = _of_reconstructor(metrics)
    elif "classes" in metrics:
        columns, rows, pictures = _of_classifier(metrics)
    else:
        columns, rows, pictures = _of_flow(metrics)
    made = table(f"{metrics['recipe']}: best model, step {metrics['step']}", *columns)
    for row in rows:
        made.add_row(*row)
    out = console()
    out.print(made)
    if metrics.get("simulated"):
        out.print("k-space is SIMULATED, not measured.")
    out.print(f"model: {folder / 'model.safetensors'}", soft_wrap=True)
    if pictures:
        out.print(f"pictures: {', '.join(str(folder / name) for name in pictures)}", soft_wrap=True)


def _of_flow(metrics: dict[str, Any]) -> tuple[tuple[str, ...], Rows, tuple[str, ...]]:
    columns = "split", metrics["unit"].replace("_per_", "/"), "standard error", "samples", "not finite"
    rows = (
        (
            name,
            _number(score["mean"]),
            _number(score["standard_error"]),
            str(score["samples"]),
            str(score["non_finite"]),
        )
        for name, score in _splits(metrics)
    )
    return columns, rows, ()


def _of_classifier(metrics: dict[str, Any]) -> tuple[tuple[str, ...], Rows, tuple[str, ...]]:
    columns = "split", "accuracy in %", "standard error", "cross-entropy in nats", "samples", "not finite"
    rows = (
        (
            name,
            *(_number(score[key], 2, 100) for key in ("accuracy", "standard_error")),
            _number(score["cross_entropy"]),
            *_counts(score, "samples"),
        )
        for name, score in _splits(metrics)
    )
    return columns, rows, ("curves.png", "confusion.png")


def _of_reconstructor(metrics: dict[str, Any]) -> tuple[tuple[str, ...], Rows, tuple[str, ...]]:
    pairs = [column for name in METRICS.values() for column in (name, "zero-filled")]
    columns = "split", *pairs, "volumes", "not finite"
    rows = (
        (
            f"{split}, {name}",
            *(
                _with_deviation(entry[kind][key], 2 if key == "psnr" else 4)
                for key in METRICS
                for kind in ("reconstruction", "zero_filled")
            ),
            *_counts(entry, "volumes"),
        )
        for split, entries in _splits(metrics)
        for name, entry in entries.items()
    )
    return columns, rows, ("curves.png", "panels.png")


def _splits(metrics: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name, metrics[name]) for name in ("train", "validation", "test") if name in metrics)


def _counts(score: dict[str, Any], of: str) -> tuple[str, str]:
    return str(score[of]), str(score["non_finite"])


def _with_deviation(value: dict[str, float | None], digits: int) -> str:
    deviation = value["deviation"]
    return _number(value["mean"], digits) + ("" if deviation is None else f" ± {_number(deviation, digits)}")


def _number(value: float | None, digits: int = 4, factor: float = 1.0) -> str:
    return number(float("nan") if value is None else factor * value, digits)
