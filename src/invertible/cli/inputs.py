"""What `invertible predict` classifies: image files as a classifier takes them, or a data set."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from invertible.classifier import Classifier
from invertible.cli.output import load_split
from invertible.data import names as data_names
from invertible.data.augment import EvaluationTransform
from invertible.data.folder import SUFFIXES, images_below, index_folder
from invertible.data.images import open_picture
from invertible.data.reading import reading
from invertible.errors import ConfigError, DataError, require

READERS = 4


@dataclass(frozen=True)
class Inputs:
    """Samples to classify.

    Attributes:
        batches: gives them in order, (B, C, H, W), so many a batch.
        samples: their number.
        names: name of each class.
        files: where each comes from; `None` for a data set that has no files.
        labels: class of each, (N,); `None` where it is not known.
    """

    batches: Callable[[int], Iterable[Tensor]]
    samples: int
    names: tuple[str, ...]
    files: Sequence[Path] | None = None
    labels: Tensor | None = None


def inputs_of_images(
    model: Classifier, paths: Sequence[Path], names: tuple[str, ...] | None, resize: int | None
) -> Inputs:
    """The images that are named, and those in the folders that are named.

    Args:
        model: the classifier.
        paths: files and folders.
        names: of its classes; numbers if `None`.
        resize: as `Pictures` takes it.
    """
    files = find_images(paths)
    known = names or tuple(map(str, range(model.classes)))
    return Inputs(Pictures(model, files, resize).batches, len(files), known, files)


def inputs_of_data(
    model: Classifier,
    data: str,
    split: str,
    data_dir: Path | None,
    names: tuple[str, ...] | None,
    resize: int | None,
) -> Inputs:
    """A part of a data set, or of a folder of a folder a class, whose images are read as they are needed.

    Raises:
        ConfigError: if model and data do not fit each other, or there is no such part.
        DataError: if the data are missing or damaged.
    """
    files = None
    if data not in data_names() and Path(data).expanduser().is_dir():
        folder = index_folder(Path(data).expanduser())
        part = folder.parts.get(split)
        if part is None:
            raise ConfigError(f"--split: expected one of {', '.join(folder.parts)}, which {data} has, got {split!r}.")
        files, labels, classes = [part.file(row) for row in range(len(part))], part.y, folder.classes
        batches, count = Pictures(model, files, resize).batches, len(part)
    else:
        found, chosen = load_split(data, split, data_dir, model)
        labels, classes, batches, count = chosen.y, found.classes, chosen.x.split, len(chosen)
    if labels is None or classes is None:
        raise ConfigError(f"--data {data}: expected data with classes, got some without. Name the images to classify.")
    if len(classes) != model.classes or (names is not None and classes != names):
        own = f"{model.classes} classes" if names is None else ", ".join(names)
        raise ConfigError(
            f"--data {data}: expected the classes that the model was trained on, {own}, got {len(classes)}: "
            f"{', '.join(classes)}."
        )
    return Inputs(batches, count, classes, files, labels)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The files that are named, and the images in the folders that are named and below.

    Raises:
        DataError: if there is nothing of that name, or no image in a folder.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            with reading(path, "a folder that can be listed", "Check its permissions."):
                names = images_below(path)
            if not names:
                raise DataError(f"{path}: expected image files ({', '.join(SUFFIXES)}), got none.")
            found += [path / name for name in names]
        elif path.exists():
            found.append(path)
        else:
            raise DataError(f"{path}: expected an image or a folder of images, found none. Check its name.")
    return found


class Pictures:
    """Image files as a classifier takes them.

    The middle of each image is taken, scaled to the size of the model's images, grey or in colour as they are, and its
    256 levels are brought to the model's: with L of them, x becomes round(x/255 (L - 1)). Colours are taken as they
    are: a model of light figures on a dark ground expects such.

    Args:
        model: the classifier.
        files: the images.
        resize: shorter side to which an image is scaled before its middle is cut out, as `EvaluationTransform` takes
            it; by default nothing of a square is cut off.

    Raises:
        ConfigError: if the model takes no grey or colour images, or `resize` is less than their shorter side.
    """

    def __init__(self, model: Classifier, files: Sequence[Path], resize: int | None = None) -> None:
        require("PIL.Image", "data")
        if len(model.shape) != 3 or model.shape[0] not in (1, 3):
            raise ConfigError(
                "the model: expected one of images of 1 or 3 channels, (channels, height, width), got one of data of "
                f"shape {model.shape}. Use model.predict in Python."
            )
        channels, height, width = model.shape
        self.files, self.levels = files, model.grey_levels
        self.transform = EvaluationTransform((height, width), resize, channels)

    def read(self, file: Path) -> Tensor:
        """One image, (C, H, W): integer levels, or on [0, 1] for a model of continuous data.

        Raises:
            DataError: naming the file, if it cannot be read.
        """
        x = self.transform(open_picture(file))
        if self.levels == 256:
            return x
        share = x.double() / 255
        if self.levels is None:
            return share
        return (share * (self.levels - 1)).round().to(torch.uint8 if self.levels < 256 else torch.int64)

    def batches(self, size: int) -> Iterable[Tensor]:
        """All images in order, (B, C, H, W)."""
        # Decoding leaves the interpreter's lock, so threads share the work.
        with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as pool:
            for start in range(0, len(self.files), size):
                yield torch.stack(list(pool.map(self.read, self.files[start : start + size])))
