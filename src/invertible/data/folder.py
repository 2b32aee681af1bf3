"""A folder of images: which files there are, in which part and of which class, without reading one of them."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor

from invertible.data.reading import reading
from invertible.data.splits import TEST_SEED, Cut, divide, keep
from invertible.errors import ConfigError, DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm")
PARTS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}


class Files(Sequence[Path]):
    """Paths of files in one block of memory.

    A million paths as Python objects take hundreds of megabytes, and as every look at one of them writes to it (its
    count of references), each process that reads images would in time have a copy of them all.

    Args:
        folder: where they lie.
        names: their paths from there.
    """

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self.folder, self._text = folder, b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        """The path of a file, or of several."""
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        return self.folder / os.fsdecode(self._text[self._ends[row] : self._ends[row + 1]])


@dataclass(frozen=True, eq=False)
class Part:
    """Images of one part, by their files.

    Attributes:
        files: files of the folder the part was found in.
        rows: those that belong to it, (N,), int64.
        y: label of each, (N,), int64; `None` without classes.
    """

    files: Files
    rows: Tensor
    y: Tensor | None

    def __len__(self) -> int:
        return len(self.rows)

    def file(self, index: int) -> Path:
        """The file of sample `index`."""
        return self.files[int(self.rows[index])]

    def take(self, indices: Tensor) -> "Part":
        """The samples at these indices (n,), in their order."""
        return Part(self.files, self.rows[indices], None if self.y is None else self.y[indices])


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """What `index_folder` found.

    Attributes:
        path: the folder.
        train: samples to learn from.
        validation: samples to choose by, `None` if there are none.
        test: samples to judge by, `None` if there are none.
        classes: name of each label; `None` without classes.
    """

    path: Path
    train: Part
    validation: Part | None
    test: Part | None
    classes: tuple[str, ...] | None

    @property
    def parts(self) -> dict[str, Part]:
        """The parts that there are, by name."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}

    def cut(self, how: Cut) -> "ImageFolder":
        """Set validation samples aside if the folder has none, and test samples if that is asked for.

        As `invertible.data.load` does, with the same samples for the same seed, but that nothing is set aside for a
        test unless `how.test` says so: those who train on such folders compare by the validation part.

        Raises:
            ConfigError: if a test fraction is asked for and the folder has a test part.
            DataError: if the samples are too few to be cut.
        """
        name, train, validation, test = str(self.path), self.train, self.validation, self.test
        if test is not None and how.test is not None:
            raise ConfigError(f"{name}: expected no test=, since it has a test part, got {how.test!r}. Leave it out.")
        if how.test is not None:
            train, test = divide(name, train, how.test, TEST_SEED)
        if validation is None:
            train, validation = divide(name, train, how.validation, how.seed)
        return replace(
            self,
            train=keep(train, how.limit, how.seed),
            validation=keep(validation, how.limit, how.seed),
            test=None if test is None else keep(test, how.limit, TEST_SEED),
        )


def index_folder(folder: Path) -> ImageFolder:
    """List the images of a folder; subfolders are classes.

    Images lie in the folder, or in one subfolder a class, named as the class. The folder may instead hold `train` and,
    if it has them, `validation` (or `val`) and `test`, each of them such a folder, as ImageNet is laid out. Files that
    are no images by their suffix, and names that begin with a dot, are passed over. Files are in order of their names
    within each class, and classes in order of theirs.

    Raises:
        DataError: naming the folder, if it cannot be listed, holds no images, or its parts have other classes.
    """
    with reading(folder, "a folder that can be listed", "Check its permissions."):
        places = _parts(folder)
        listed = {part: _list(place) for part, place in places.items()}
    classes = _classes(folder, listed)
    parts = {part: _part(places[part], by_class, classes) for part, by_class in listed.items()}
    return ImageFolder(folder, parts["train"], parts.get("validation"), parts.get("test"), classes)


def images_below(folder: Path) -> list[str]:
    """Paths from the folder of all images in it and below, in order of their names."""
    return sorted(_walk(folder, ""), key=lambda name: name.split(os.sep))


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _walk(place: Path | str, prefix: str) -> Iterator[str]:
    # os.scandir knows the kind of an entry without asking the disk for every file.
    with os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, f"{prefix}{entry.name}{os.sep}")
            elif is_image_name(entry.name) and entry.is_file():
                yield prefix + entry.name


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


def _list(folder: Path) -> dict[str, list[str]]:
    """Paths of each class from the folder; under the empty name if there are no classes."""
    with os.scandir(folder) as entries:
        direct = sorted(entry.name for entry in entries if is_image_name(entry.name) and entry.is_file())
    classes = {
        place.name: [os.path.join(place.name, name) for name in images_below(place)] for place in _subfolders(folder)
    }
    if direct and classes:
        raise DataError(
            f"{folder}: expected images, or subfolders named as classes, got both: {direct[0]} and "
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


def _subfolders(folder: Path) -> list[Path]:
    return sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))


def _classes(folder: Path, listed: dict[str, dict[str, list[str]]]) -> tuple[str, ...] | None:
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


def _part(place: Path, by_class: dict[str, list[str]], classes: tuple[str, ...] | None) -> Part:
    files = Files(place, (name for names in by_class.values() for name in names))
    y = None
    if classes is not None:
        numbers = torch.tensor([classes.index(name) for name in by_class])
        y = numbers.repeat_interleave(torch.tensor([len(names) for names in by_class.values()]))
    return Part(files, torch.arange(len(files)), y)
