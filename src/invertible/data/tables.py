"""Tables of numbers as comma-separated values with a header."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from invertible.data.dataset import Split
from invertible.data.labels import number_labels
from invertible.data.reading import reading
from invertible.data.splits import Found
from invertible.errors import ConfigError, DataError

HIGHEST = float(np.finfo(np.float32).max)


def read_table(
    path: Path, *, label: str | None = None, columns: Sequence[str] | None = None, delimiter: str = ","
) -> Found:
    """Read vectors (N, D), with labels if there is a column for them.

    Args:
        path: the file, in UTF-8, whose first line names the columns.
        label: name of the column of labels, integers or text; by default `"label"` if there is such a column.
        columns: names of the columns to keep, in this order; all but the labels by default.
        delimiter: the character between cells.

    Raises:
        DataError: if the file is no such table, or a cell is no finite number; it names the line and the column.
        ConfigError: if a column is asked for that is not there.
    """
    if not isinstance(delimiter, str) or len(delimiter) != 1:
        raise ConfigError(f"data.load: expected delimiter to be one character, got {delimiter!r}.")
    with (
        reading(path, "a table of comma-separated values in UTF-8", "Save it so."),
        path.open(encoding="utf-8-sig", newline="") as file,
    ):
        lines = csv.reader(file, delimiter=delimiter, strict=True)
        rows = [(lines.line_num, row) for row in lines if row]
    header = _header(path, [cell.strip() for cell in rows[0][1]] if rows else [], delimiter)
    label = label if label is not None or "label" not in header else "label"
    columns = [name for name in header if name != label] if columns is None else list(columns)
    _check_columns(path, header, label, columns)
    if not rows[1:]:
        raise DataError(f"{path}: expected rows below the header, got none. Save it again.")
    x = _numbers(path, header, columns, rows[1:])
    names = None if label is None else _labels(path, header, label, rows[1:])
    y, classes = number_labels(path, {"train": (len(x), names)})
    return Found(Split(torch.from_numpy(x), y["train"]), str(path), classes=classes, columns=tuple(columns))


def _header(path: Path, header: list[str], delimiter: str) -> list[str]:
    numbers = [name for name in header if _number(name) is not None]
    if not header or numbers or "" in header or len(set(header)) != len(header):
        got = f"{delimiter.join(header)!r}" if header else "an empty file"
        raise DataError(
            f"{path}: expected a first line that names each column, each name once and none of them a number, got "
            f"{got[:120]}. Write one."
        )
    return header


def _check_columns(path: Path, header: list[str], label: str | None, columns: list[str]) -> None:
    for argument, names in (("label", [] if label is None else [label]), ("columns", columns)):
        for name in names:
            if name not in header:
                raise ConfigError(
                    f"data.load: expected {argument} to name columns of {path}, which are {', '.join(header)}, got "
                    f"{name!r}."
                )
    if not columns or label in columns or len(set(columns)) != len(columns):
        raise ConfigError(
            f"data.load: expected columns to name at least one column of numbers, each once and not the labels, got "
            f"{columns!r}."
        )


def _numbers(path: Path, header: list[str], columns: list[str], rows: list[tuple[int, list[str]]]) -> np.ndarray:
    """Cells as float32 (N, D)."""
    places = [(column, header.index(name)) for column, name in enumerate(columns)]
    x = np.empty((len(rows), len(columns)), np.float32)
    for index, (line, row) in enumerate(rows):
        if len(row) != len(header):
            raise DataError(
                f"{path}: expected {len(header)} cells in each line, as in the header, got {len(row)} in line {line}. "
                "Correct the line."
            )
        for column, place in places:
            number = _number(row[place])
            if number is None or not abs(number) <= HIGHEST:
                raise DataError(
                    f"{path}: expected a finite number in line {line}, column {header[place]!r}, got "
                    f"{row[place][:40]!r}. Correct the cell, or leave the column out: columns=[...], or label=... if "
                    "it holds classes."
                )
            x[index, column] = number
    return x


def _number(cell: str) -> float | None:
    # Python reads 1_000 as a number; tables mean something else by it.
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _labels(path: Path, header: list[str], label: str, rows: list[tuple[int, list[str]]]) -> np.ndarray:
    """Labels as integers if all of them are, so that 10 comes after 9; else as text."""
    cells = [row[header.index(label)].strip() for _, row in rows]
    if "" in cells:
        raise DataError(
            f"{path}: expected a label in line {rows[cells.index('')][0]}, column {label!r}, got an empty cell. "
            "Fill it in or leave the line out."
        )
    try:
        return np.array([int(cell) for cell in cells], dtype=np.int64)
    except (ValueError, OverflowError):
        return np.array(cells, dtype=np.str_)
