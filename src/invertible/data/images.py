"""Folders of image files, read into memory."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from invertible.data.dataset import Split
from invertible.data.folder import index_folder
from invertible.data.reading import reading
from invertible.data.splits import Found
from invertible.errors import ConfigError, DataError, require

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
else:
    # pillow is loaded by those who read images.
    Picture = object

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
    require("PIL.Image", "data")
    found = index_folder(folder)
    arrays = {name: [_read(file, size) for file in part.files] for name, part in found.parts.items()}
    files = [file for part in found.parts.values() for file in part.files]
    if channels is None:
        channels = 3 if any(array.ndim == 3 for part in arrays.values() for array in part) else 1
    _check_sizes(files, [array for part in arrays.values() for array in part])
    splits = {name: Split(_stack(arrays[name], channels), part.y) for name, part in found.parts.items()}
    return Found(
        splits["train"],
        str(folder),
        validation=splits.get("validation"),
        test=splits.get("test"),
        levels=256,
        classes=found.classes,
    )


def open_picture(file: Path) -> Picture:
    """Read one image file: grey (mode L) or colour (RGB), turned upright, without transparency.

    Raises:
        DataError: naming the file, if it cannot be read or has more than 8 bits a channel.
        MissingDependencyError: if pillow is not installed.
    """
    image, operations = require("PIL.Image", "data"), require("PIL.ImageOps", "data")
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
        return picture.convert("L" if picture.mode in GREY else "RGB")


def _read(file: Path, size: int | None) -> np.ndarray:
    """One image, uint8: (H, W) if it is grey, else (H, W, 3)."""
    picture = open_picture(file)
    if size is not None:
        lanczos = require("PIL.Image", "data").Resampling.LANCZOS
        picture = require("PIL.ImageOps", "data").fit(picture, (size, size), lanczos)
    return np.asarray(picture)


def _check_sizes(files: list[Path], arrays: list[np.ndarray]) -> None:
    for file, array in zip(files, arrays, strict=True):
        if array.shape[:2] != arrays[0].shape[:2]:
            (height, width), (h, w) = arrays[0].shape[:2], array.shape[:2]
            raise DataError(
                f"{file}: expected {width}x{height} pixels, as {files[0]} has, got {w}x{h}. Bring all to one size, for "
                f"example with size={min(height, width)}."
            )


def _stack(arrays: list[np.ndarray], channels: int) -> Tensor:
    """Images (N, channels, H, W)."""
    image = require("PIL.Image", "data")
    if channels == 1:
        arrays = [array if array.ndim == 2 else np.asarray(image.fromarray(array).convert("L")) for array in arrays]
        return torch.from_numpy(np.stack(arrays)).unsqueeze(1)
    arrays = [np.repeat(array[..., None], 3, 2) if array.ndim == 2 else array for array in arrays]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
