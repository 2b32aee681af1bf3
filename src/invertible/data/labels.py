"""Labels as files have them, numbered from 0."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invertible.errors import DataError

REMEDY = "Give an integer or a string for each sample."


def number_labels(
    path: Path, parts: Mapping[str, tuple[int, np.ndarray | None]]
) -> tuple[dict[str, Tensor | None], tuple[str, ...] | None]:
    """Number the labels of all parts by one list of classes, in sorted order.

    Args:
        path: the file they come from.
        parts: for each part, its number of samples and its labels (N,), or `None`.

    Returns:
        The numbers of each part, int64 (N,), and the names of the classes; `None` without labels.

    Raises:
        DataError: if labels are missing in one part, of another number than the samples, or neither integers nor text.
    """
    given = {part: labels for part, (_, labels) in parts.items() if labels is not None}
    if not given:
        return dict.fromkeys(parts), None
    for part, (samples, labels) in parts.items():
        if labels is None:
            raise DataError(f"{path}: expected labels in all parts or in none, got none for {part}. {REMEDY}")
        if labels.shape != (samples,) or labels.dtype.kind not in "iuU":
            raise DataError(
                f"{path}: expected labels of shape ({samples},) that are integers or text for {part}, got shape "
                f"{labels.shape} of dtype {labels.dtype}. {REMEDY}"
            )
    classes, numbers = np.unique(np.concatenate(list(given.values())), return_inverse=True)
    cuts = np.cumsum([len(labels) for labels in given.values()])[:-1]
    numbered = {
        part: torch.from_numpy(numbers_of.astype(np.int64))
        for part, numbers_of in zip(given, np.split(numbers, cuts), strict=True)
    }
    return {**numbered}, tuple(str(name) for name in classes)
