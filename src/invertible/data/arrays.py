"""Arrays in numpy's own formats, `.npy` and `.npz`; files that hold pickles are refused."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invertible.data.dataset import Split
from invertible.data.labels import number_labels
from invertible.data.reading import reading
from invertible.data.splits import Found
from invertible.errors import ConfigError, DataError

CHANNELS = (1, 2, 3, 4)
LAYOUTS = {"NCHW": (0, 1, 2, 3), "NHWC": (0, 3, 1, 2)}
KEYS = {"train": ("x_train", "x"), "validation": ("x_validation",), "test": ("x_test",)}
SAMPLES = tuple(key for keys in KEYS.values() for key in keys)
LABELS = tuple(key.replace("x", "y", 1) for key in SAMPLES)
REMEDY = "Save arrays of numbers by numpy.save or numpy.savez."


def read_arrays(path: Path, *, layout: str | None = None, levels: int | None = None) -> Found:
    """Read images or vectors, with labels if the file is an `.npz` that holds them.

    An `.npz` holds `x` (or `x_train`), and if it has them `y`, `x_validation`, `y_validation`, `x_test`, `y_test`; a
    single array may have any name. Images are uint8, (N, H, W), (N, C, H, W) or (N, H, W, C); vectors are
    (N, D) of any real dtype and become float32. Labels are integers or strings (N,) and are numbered 0, 1, … in
    sorted order.

    Args:
        path: the file.
        layout: `"NCHW"` or `"NHWC"` for images whose sizes leave it open; by default the axis of size 1 to 4 holds
            the channels.
        levels: number of grey levels of images, 256 by default.

    Raises:
        DataError: if the file is damaged, holds pickles, other arrays than these, or numbers that are not finite.
        ConfigError: if an argument is out of its range, or given for vectors.
    """
    _check_options(layout, levels)
    arrays = _open(path)
    x = {part: _samples(path, key, arrays[key], layout) for part, keys in KEYS.items() for key in keys if key in arrays}
    labels = {part: arrays.get(_label_key(arrays, part)) for part in x}
    y, classes = number_labels(path, {part: (len(x[part]), labels[part]) for part in x})
    is_image = x["train"].dim() == 4
    _check_agreement(path, x)
    levels = _check_levels(path, x, levels) if is_image else _no_levels(path, layout, levels)
    parts = {part: Split(x[part], y[part]) for part in x}
    return Found(
        parts["train"],
        str(path),
        validation=parts.get("validation"),
        test=parts.get("test"),
        levels=levels,
        classes=classes,
    )


def _open(path: Path) -> dict[str, np.ndarray]:
    with reading(path, "an array of numbers in numpy's format", REMEDY):
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}
        with loaded:
            arrays = {key: loaded[key] for key in loaded.files}
    if len(arrays) == 1 and not set(arrays) & {*SAMPLES, *LABELS}:
        return {"x": next(iter(arrays.values()))}
    unknown = set(arrays) - {*SAMPLES, *LABELS}
    if unknown or not {"x", "x_train"} & set(arrays) or {"x", "x_train"} <= set(arrays):
        raise DataError(
            f"{path}: expected arrays named x and y, or x_train, y_train, x_validation, y_validation, x_test, y_test, "
            f"got {', '.join(arrays) or 'none'}. Rename them: numpy.savez(path, x=..., y=...)."
        )
    orphans = [key for key in arrays if key[0] == "y" and key.replace("y", "x", 1) not in arrays]
    if orphans:
        raise DataError(f"{path}: expected samples for the labels {orphans[0]}, got none. Add or rename the array.")
    return arrays


def _label_key(arrays: Mapping[str, object], part: str) -> str:
    key = next(key for key in KEYS[part] if key in arrays)
    return key.replace("x", "y", 1)


def _samples(path: Path, key: str, array: np.ndarray, layout: str | None) -> Tensor:
    if array.dtype == np.uint8 and array.ndim in (3, 4):
        samples = array[:, None] if array.ndim == 3 else array.transpose(_order(path, key, array.shape, layout))
        _check_filled(path, key, array)
        return torch.from_numpy(np.ascontiguousarray(samples))
    if array.ndim == 2 and array.dtype.kind in "fiu":
        _check_filled(path, key, array)
        with np.errstate(over="ignore"):
            samples = np.ascontiguousarray(array, dtype=np.float32)
        wrong = np.argwhere(~np.isfinite(samples))
        if len(wrong):
            row, column = wrong[0].tolist()
            raise DataError(
                f"{path}: expected finite float32 numbers in {key}, got {array[row, column]} in row {row}, column "
                f"{column}. Leave such rows out or fill them in."
            )
        return torch.from_numpy(samples)
    raise DataError(
        f"{path}: expected {key} to be images (N, H, W), (N, H, W, C) or (N, C, H, W) of dtype uint8, or vectors "
        f"(N, D) of real numbers, got shape {array.shape} of dtype {array.dtype}. Images in 0 .. 1 become levels by "
        "(255 * x).round().astype('uint8')."
    )


def _order(path: Path, key: str, shape: tuple[int, ...], layout: str | None) -> tuple[int, ...]:
    if layout is not None:
        return LAYOUTS[layout]
    first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if first == last:
        raise DataError(
            f"{path}: expected one of the axes 1 and 3 of {key} to hold 1 to 4 channels, got shape {shape}. "
            "Say which: layout='NCHW' or layout='NHWC'."
        )
    return LAYOUTS["NCHW" if first else "NHWC"]


def _check_filled(path: Path, key: str, array: np.ndarray) -> None:
    if array.size == 0:
        raise DataError(f"{path}: expected {key} to hold samples, got shape {array.shape}. Save it again.")


def _check_agreement(path: Path, x: dict[str, Tensor]) -> None:
    for part in x.values():
        if part.shape[1:] != x["train"].shape[1:] or part.dtype != x["train"].dtype:
            raise DataError(
                f"{path}: expected samples of one shape and kind in all parts, got {tuple(x['train'].shape[1:])} for "
                f"training and {tuple(part.shape[1:])} in another. Bring them to one shape."
            )


def _check_options(layout: str | None, levels: int | None) -> None:
    if layout is not None and layout not in LAYOUTS:
        raise ConfigError(f"data.load: expected layout to be 'NCHW' or 'NHWC', got {layout!r}.")
    if levels is not None and (isinstance(levels, bool) or not isinstance(levels, int) or not 2 <= levels <= 256):
        raise ConfigError(f"data.load: expected levels to be an integer, 2 .. 256, got {levels!r}.")


def _check_levels(path: Path, x: dict[str, Tensor], levels: int | None) -> int:
    levels = levels or 256
    highest = max(int(part.max()) for part in x.values())
    if highest >= levels:
        raise DataError(
            f"{path}: expected grey levels 0 .. {levels - 1}, got {highest}. Set levels={highest + 1} or higher."
        )
    return levels


def _no_levels(path: Path, layout: str | None, levels: int | None) -> None:
    for name, value in (("layout", layout), ("levels", levels)):
        if value is not None:
            raise ConfigError(f"data.load: expected no {name}=, since {path} holds vectors, got {value!r}.")
