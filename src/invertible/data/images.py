"""Folders of image files."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invertible.data.dataset import Split
from invertible.data.reading import reading
from invertible.data.splits import Found
from invertible.errors import ConfigError, DataError, require

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm")
PARTS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
GREY = ("1", "L", "LA", "La")
EIGHT_BITS = (*GREY, "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


def read_images(folder: Path, *, size: int | None = None, channels: int | None = None) -> Found:
    """Read images (C, size, size) or (C, H, W) of 256 levels; subfolders are classes.

    Images lie in the folder, or in one subfolder a class, named as the class. The folder may instead hold `train` and,
    if it has them, `validation` (or `val`) and `test`, each of them such a folder. Files that are no images by their
    suffix, and names that begin with a dot, are passed over; transparency is dropped.

    Args:
        folder: where they are.
        size: scale each image until its shorter side is this long, and cut the middle out; by default all images must
            be of one size.
        channels: 1 for grey, 3 for colour; by default colour if any image has it.

    Raises:
        DataError: naming the file that cannot be read or is of another size, or the folder that holds no images.
        ConfigError: if `size` or `channels` is out of its range.
        MissingDependencyError: if pillow is not installed.
    """
    if channels not in (None, 1, 3):
        raise ConfigError(f"data.load: expected channels to be 1 or 3, got {channels!r}.")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ConfigError(f"data.load: expected size to be an integer of at least 1, got {size!r}.")
    image = require("PIL.Image", "data")
    with reading(folder, "a folder that can be listed", "Check its permissions."):
        listed = {part: _list(place) for part, place in _parts(folder).items()}
    classes = _classes(folder, listed)
    arrays = {
        part: [_read(image, file, size) for files in by_class.values() for file in files]
        for part, by_class in listed.items()
    }
    files = [file for by_class in listed.values() for files in by_class.values() for file in files]
    if channels is None:
        channels = 3 if any(array.ndim == 3 for part in arrays.values() for array in part) else 1
    _check_sizes(files, [array for part in arrays.values() for array in part])
    splits = {part: Split(_stack(image, arrays[part], channels), _labels(listed[part], classes)) for part in listed}
    return Found(
        splits["train"],
        str(folder),
        validation=splits.get("validation"),
        test=splits.get("test"),
        levels=256,
        classes=classes,
    )


def _parts(folder: Path) -> dict[str, Path]:
    """The folder of each part: those that are there by name, or the folder itself as the training part."""
    if not (folder / "train").is_dir():
        return {"train": folder}
    names = {name: part for part, names in PARTS.items() for name in names}
    parts = {}
    for place in _subfolders(folder):
        part = names.get(place.name)
        if part is None or part in parts:
            raise DataError(
                f"{folder}: expected subfolders train, validation and test, since there is one named train, got "
                f"{place.name!r} too. Move it away, or rename train if it is a class."
            )
        parts[part] = place
    return parts


def _list(folder: Path) -> dict[str, list[Path]]:
    """Files of each class in order of their names; under the empty name if there are no classes."""
    direct = _images(folder.iterdir())
    classes = {place.name: _images(place.rglob("*")) for place in _subfolders(folder)}
    if direct and classes:
        raise DataError(
            f"{folder}: expected images, or subfolders named as classes, got both: {direct[0].name} and "
            f"{next(iter(classes))}. Move the images into subfolders, or the subfolders away."
        )
    if not classes:
        classes = {"": direct}
    for name, files in classes.items():
        if not files:
            raise DataError(
                f"{folder / name}: expected image files ({', '.join(SUFFIXES)}), got none. Add some or "
                "remove the folder."
            )
    return classes


def _images(paths: Any) -> list[Path]:  # noqa: ANN401
    return sorted(
        path for path in paths if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))


def _classes(folder: Path, listed: dict[str, dict[str, list[Path]]]) -> tuple[str, ...] | None:
    names = {part: tuple(by_class) for part, by_class in listed.items()}
    known = names["train"]
    for part, found in names.items():
        unknown = set(found) - set(known)
        if unknown or (known == ("",)) != (found == ("",)):
            raise DataError(
                f"{folder}: expected in {part} the classes of train, {', '.join(known) or 'none'}, got "
                f"{', '.join(found) or 'none'}. Give all parts the same subfolders."
            )
    return None if known == ("",) else known


def _labels(by_class: dict[str, list[Path]], classes: tuple[str, ...] | None) -> Tensor | None:
    if classes is None:
        return None
    return torch.tensor([classes.index(name) for name, files in by_class.items() for _ in files], dtype=torch.int64)


def _read(image: ModuleType, file: Path, size: int | None) -> np.ndarray:
    """One image, uint8: (H, W) if it is grey, else (H, W, 3)."""
    operations = require("PIL.ImageOps", "data")
    with reading(file, "an image", "Remove it or get it again."):
        with image.open(file) as opened:
            # Cameras write down how they were held instead of turning the picture.
            picture = operations.exif_transpose(opened)
        if picture.mode not in EIGHT_BITS:
            raise DataError(
                f"{file}: expected an image of 8 bits a channel, got mode {picture.mode!r}. Convert it to 8 bits."
            )
        # By way of RGBA: pillow warns of transparency in a palette otherwise.
        picture = picture.convert("RGBA") if picture.mode in ("P", "PA") else picture
        picture = picture.convert("L" if picture.mode in GREY else "RGB")
        if size is not None:
            picture = operations.fit(picture, (size, size), image.Resampling.LANCZOS)
        return np.asarray(picture)


def _check_sizes(files: list[Path], arrays: list[np.ndarray]) -> None:
    for file, array in zip(files, arrays, strict=True):
        if array.shape[:2] != arrays[0].shape[:2]:
            (height, width), (h, w) = arrays[0].shape[:2], array.shape[:2]
            raise DataError(
                f"{file}: expected {width}x{height} pixels, as {files[0]} has, got {w}x{h}. Bring all to one size, for "
                f"example with size={min(height, width)}."
            )


def _stack(image: ModuleType, arrays: list[np.ndarray], channels: int) -> Tensor:
    """Images (N, channels, H, W)."""
    if channels == 1:
        arrays = [array if array.ndim == 2 else np.asarray(image.fromarray(array).convert("L")) for array in arrays]
        return torch.from_numpy(np.stack(arrays)).unsqueeze(1)
    arrays = [np.repeat(array[..., None], 3, 2) if array.ndim == 2 else array for array in arrays]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
