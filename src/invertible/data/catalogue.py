"""All data sets by name, and files by their kind."""

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invertible.data.arrays import read_arrays
from invertible.data.cifar import CIFAR10, CIFAR100, read_cifar
from invertible.data.dataset import DataSet
from invertible.data.digits import read_digits
from invertible.data.images import read_images
from invertible.data.mnist import FASHION_MNIST, MNIST, read_mnist
from invertible.data.places import Where
from invertible.data.splits import Cut, Found, cut
from invertible.data.tables import read_table
from invertible.data.toys import read_toy
from invertible.errors import ConfigError, DataError


@dataclass(frozen=True)
class Request:
    """What the user asked for: the name or path, the seed, where to look, and the options of this kind of data."""

    name: str
    seed: int
    where: Where
    options: dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A data set or a kind of file.

    Attributes:
        line: what it is, in one line.
        read: reads it.
        options: names of the options it takes, besides those that all take.
    """

    line: str
    read: Callable[[Request], Found]
    options: tuple[str, ...] = ()


def _toy(line: str) -> Entry:
    return Entry(line, lambda asked: read_toy(asked.name, seed=asked.seed, **asked.options), ("samples",))


SETS = {
    "digits": Entry("1797 handwritten digits, 1x8x8, 17 levels, 10 classes; in scikit-learn", lambda _: read_digits()),
    "mnist": Entry(
        "70,000 handwritten digits, 1x28x28, 256 levels, 10 classes; 11 MB to download",
        lambda asked: read_mnist(MNIST, asked.where),
        ("mirror",),
    ),
    "fashion-mnist": Entry(
        "70,000 pictures of clothes, 1x28x28, 256 levels, 10 classes; 30 MB to download",
        lambda asked: read_mnist(FASHION_MNIST, asked.where),
        ("mirror",),
    ),
    "cifar10": Entry(
        "60,000 photographs, 3x32x32, 256 levels, 10 classes; 170 MB to download",
        lambda asked: read_cifar(CIFAR10, asked.where),
        ("mirror",),
    ),
    "cifar100": Entry(
        "60,000 photographs, 3x32x32, 256 levels, 100 classes; 169 MB to download",
        lambda asked: read_cifar(CIFAR100, asked.where),
        ("mirror",),
    ),
    "moons": _toy("two half circles that reach into each other, in the plane, 2 classes"),
    "circles": _toy("two circles, in the plane, 2 classes"),
    "rings": _toy("four circles, in the plane, 4 classes"),
    "checkerboard": _toy("the dark fields of a board, in the plane"),
    "two-gaussians": _toy("two normal distributions, in the plane, 2 classes"),
    "eight-gaussians": _toy("eight normal distributions on a circle, in the plane, 8 classes"),
    "pinwheel": _toy("five bent arms, in the plane, 5 classes"),
    "two-spirals": _toy("two spirals, in the plane, 2 classes"),
    "swiss-roll": _toy("one spiral, in the plane"),
    "s-curve": _toy("two half circles that make an S, in the plane"),
}
ARRAYS = Entry(
    "arrays of images or vectors", lambda asked: read_arrays(Path(asked.name), **asked.options), ("layout", "levels")
)
KINDS = {
    "a folder": Entry(
        "image files", lambda asked: read_images(Path(asked.name), **asked.options), ("size", "channels")
    ),
    ".npy": ARRAYS,
    ".npz": ARRAYS,
    ".csv": Entry(
        "table of numbers",
        lambda asked: read_table(Path(asked.name), **asked.options),
        ("label", "columns", "delimiter"),
    ),
}
COMMON = ("test", "standardise")


def names() -> dict[str, str]:
    """The data sets that `load` knows by name, with a line on each."""
    return {name: entry.line for name, entry in SETS.items()}


def load(
    name: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
    validation: float = 0.1,
    seed: int = 0,
    limit: int | None = None,
    **options: Any,  # noqa: ANN401
) -> DataSet:
    """Load a data set by its name, or from a folder of images, an `.npy`, `.npz` or `.csv` file.

    The same arguments give the same samples in the same order. The test part is the set's own; where it has none, it is
    drawn once and for all, whatever the seed (a toy set is drawn anew for each seed). Validation samples are taken from
    the training part, never from the test part.

    Args:
        name: a key of `names()`, or a path.
        data_dir: folder to look in for downloaded sets, before the environment variable `INVERTIBLE_DATA_DIR` and
            the cache.
        download: download what is not found.
        validation: fraction of the training samples set aside.
        seed: of the cut, and of what is drawn.
        limit: samples of each part, at most.
        **options: for all: `test`, the fraction set aside where there is no test part (0.1), and `standardise`, which
            shifts and scales the features of vectors by the training samples'. For toys: `samples`. For downloads:
            `mirror`, the URL of a folder. For folders: `size`, `channels`. For arrays: `layout`, `levels`. For tables:
            `label`, `columns`, `delimiter`.

    Raises:
        DataError: if the data are missing, damaged or of another kind; it names the file and the remedy.
        ConfigError: if an argument is unknown or out of its range.
        MissingDependencyError: if a package that reads or downloads these data is not installed.

    Example:
        >>> from invertible import data
        >>> data.load("moons", samples=1000)
        DataSet('moons': vectors (2,), 2 classes; 810 train, 90 validation, 100 test)
    """
    text = os.fspath(name)
    entry = _entry(text)
    _check_options(text, entry, options)
    how = Cut(
        validation=validation,
        seed=seed,
        limit=limit,
        **{key: options.pop(key) for key in COMMON if key in options},
    )
    where = Where(None if data_dir is None else Path(data_dir).expanduser(), download, options.pop("mirror", None))
    path = text if text in SETS else str(Path(text).expanduser())
    return cut(text, entry.read(Request(path, seed, where, options)), how)


def _entry(name: str) -> Entry:
    if name in SETS:
        return SETS[name]
    path = Path(name).expanduser()
    # Not path.exists(): it raises where a name is too long or a folder may not be entered.
    exists = os.path.exists(path)
    kind = "a folder" if os.path.isdir(path) else path.suffix.lower()
    if exists and kind in KINDS:
        return KINDS[kind]
    if exists:
        raise DataError(f"{name}: expected {', '.join(KINDS)}, got {kind or 'a file without suffix'}. Convert it.")
    near = difflib.get_close_matches(name.lower().replace("_", "-"), SETS, n=1)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    raise DataError(
        f"data.load: expected the path of a file or folder, or one of {', '.join(SETS)}, got {name!r}.{meant}"
    )


def _check_options(name: str, entry: Entry, options: dict[str, Any]) -> None:
    unknown = [key for key in options if key not in (*COMMON, *entry.options)]
    if unknown:
        raise ConfigError(
            f"data.load: expected options of {name} to be among {', '.join((*COMMON, *entry.options))}, got "
            f"{unknown[0]!r}."
        )
