"""Predictions as tables, records and arrays."""

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from invertible.cli.inputs import Inputs
from invertible.cli.output import number, table
from invertible.cli.prediction import TOLERANCE, Predictions
from invertible.training.classification import ClassificationScore
from invertible.training.pictures import write_atomically

ORDINALS = ("2nd", "3rd")


def report(found: Predictions, inputs: Inputs, title: str, top: int, out: Console) -> dict[str, Any]:
    """Print what was found: of each image where the right classes are not known, else of all of them.

    Args:
        found: the predictions.
        inputs: what they are of.
        title: of the table.
        top: how many classes to show of each image.
        out: where to print.

    Returns:
        The figures, as JSON has them.
    """
    worst = None if found.errors is None else float(found.errors.max())
    if inputs.labels is None:
        images = image_records(found, inputs.files or [], inputs.names, top)
        out.print(image_table(images, min(top, len(inputs.names)), title))
        record: dict[str, Any] = {"images": images}
    else:
        record = score_record(found.score(inputs.labels), inputs.names, worst)
        for each in score_tables(record, title):
            out.print(each)
    broken = int((~found.finite).sum())
    if broken:
        out.print(f"{broken} of {inputs.samples} predictions are not finite")
    if worst is not None:
        said = f"{worst:.1e}" if math.isfinite(worst) else "not finite"
        out.print(f"largest error of the round trip: {said}; {int(found.lost.sum())} images above {TOLERANCE:g}")
    return record


def image_records(found: Predictions, files: Sequence[Path], names: Sequence[str], top: int) -> list[dict[str, Any]]:
    """What is known of each image, as JSON has it: `null` for what is not finite."""
    records = []
    probabilities, ranked, finite = found.probabilities, found.ranked(top).tolist(), found.finite.tolist()
    for row, file in enumerate(files):
        classes = [
            {"class": names[label], "label": label, "probability": float(probabilities[row, label])}
            for label in (ranked[row] if finite[row] else [])
        ]
        record: dict[str, Any] = {"file": str(file), "classes": classes}
        if found.errors is not None:
            record["round_trip_error"] = finite_or_none(float(found.errors[row]))
        records.append(record)
    return records


def image_table(records: Sequence[dict[str, Any]], top: int, title: str) -> Table:
    """A row an image: its most probable class and the probability, and the next ones."""
    further = [ORDINALS[each] if each < len(ORDINALS) else f"{each + 2}th" for each in range(top - 1)]
    checked = ["round trip error"] if records and "round_trip_error" in records[0] else []
    made = table(title, "image", "class", "probability", *further, *checked)
    for record in records:
        first, *rest = record["classes"] or [{"class": "", "probability": math.nan}]
        others = [f"{each['class']} {number(each['probability'])}" for each in rest]
        error = record.get("round_trip_error")
        made.add_row(
            record["file"], first["class"], number(first["probability"]), *others, *[""] * (top - 1 - len(others)),
            *(["not finite" if error is None else f"{error:.1e}"] if checked else []),
        )  # fmt: skip
    return made


def score_record(score: ClassificationScore, names: Sequence[str], errors: float | None) -> dict[str, Any]:
    """The figures of a data set, as JSON has them."""
    counts = score.labels.bincount(minlength=len(names)).tolist()
    record: dict[str, Any] = {
        "accuracy": finite_or_none(score.accuracy),
        "standard_error": finite_or_none(score.standard_error),
        "cross_entropy": finite_or_none(score.cross_entropy),
        "samples": score.samples,
        "non_finite": score.non_finite,
        "classes": [
            {"class": name, "accuracy": finite_or_none(accuracy), "samples": count}
            for name, accuracy, count in zip(names, score.per_class, counts, strict=True)
        ],
        "confusion": score.confusion.tolist(),
    }
    return record if errors is None else {**record, "round_trip_error": finite_or_none(errors)}


def score_tables(record: dict[str, Any], title: str) -> tuple[Table, Table]:
    """The accuracy over all samples, and that of each class."""
    whole = table(title, "accuracy in %", "standard error", "cross-entropy in nats", "samples", "not finite")
    whole.add_row(
        _percent(record["accuracy"]), _percent(record["standard_error"]), _figure(record["cross_entropy"]),
        str(record["samples"]), str(record["non_finite"]),
    )  # fmt: skip
    classes = table("each class", "class", "accuracy in %", "samples")
    for each in record["classes"]:
        classes.add_row(each["class"], _percent(each["accuracy"]) if each["samples"] else "", str(each["samples"]))
    return whole, classes


def write_features(path: Path, found: Predictions, inputs: Inputs) -> None:
    """Write an `.npz`: features (N, ...), float32; predicted (N,); and files and labels (N,) where there are any."""
    assert found.features is not None
    arrays: dict[str, Any] = {"features": found.features.numpy(), "predicted": found.logits.argmax(1).numpy()}
    if inputs.files is not None:
        arrays["files"] = np.array([str(file) for file in inputs.files])
    if inputs.labels is not None:
        arrays["labels"] = inputs.labels.numpy()
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record."""
    write_atomically(path, (json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())


def finite_or_none(value: float) -> float | None:
    """The value, or `None` in place of one that JSON does not have."""
    return value if math.isfinite(value) else None


def _percent(value: float | None) -> str:
    return _figure(None if value is None else 100 * value, 2)


def _figure(value: float | None, digits: int = 4) -> str:
    return number(math.nan if value is None else value, digits)
