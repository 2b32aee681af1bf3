"""CIFAR-10 and CIFAR-100: 32x32 colour images, from their binary version.

The python version is never read: it holds pickles, and a pickle can run any code when it is opened.
"""

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from invertible.data.dataset import Split
from invertible.data.download import download
from invertible.data.places import Published, Where, locate
from invertible.data.reading import GET_AGAIN, check_md5, reading
from invertible.data.splits import Found
from invertible.errors import DataError

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """How a CIFAR archive is laid out.

    Attributes:
        published: name, checksum and mirrors of the archive.
        folder: the folder inside the archive.
        train: number of records of each training file.
        test: number of records of each test file.
        names: the file that names the classes, one a line.
        classes: number of classes.
        label_bytes: bytes before the pixels of a record, of which the last one is the label.
    """

    published: Published
    folder: str
    train: dict[str, int]
    test: dict[str, int]
    names: str
    classes: int
    label_bytes: int

    @property
    def archive(self) -> str:
        """Name of the archive."""
        return next(iter(self.published.files))

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files inside the folder that are read."""
        return (*self.train, *self.test, self.names)


SOURCE = "(Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images); no licence is stated"
CIFAR10 = Layout(
    Published(
        name="cifar10",
        files={"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
        mirrors=(
            "https://www.cs.toronto.edu/~kriz",
            "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10",
        ),
        source=f"CIFAR-10 {SOURCE}",
        remark="The python version is not read: it holds pickles, which can run any code.",
    ),
    folder="cifar-10-batches-bin",
    train={f"data_batch_{number}.bin": 10_000 for number in range(1, 6)},
    test={"test_batch.bin": 10_000},
    names="batches.meta.txt",
    classes=10,
    label_bytes=1,
)
CIFAR100 = Layout(
    Published(
        name="cifar100",
        files={"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"},
        mirrors=("https://www.cs.toronto.edu/~kriz",),
        source=f"CIFAR-100 {SOURCE}",
        remark="The python version is not read: it holds pickles, which can run any code.",
    ),
    folder="cifar-100-binary",
    train={"train.bin": 50_000},
    test={"test.bin": 10_000},
    names="fine_label_names.txt",
    classes=100,
    label_bytes=2,  # the coarse label comes first
)


def read_cifar(layout: Layout, where: Where) -> Found:
    """60,000 images (3, 32, 32) of 256 levels, 10 or 100 classes; 10,000 of them are the test part.

    Read from the archive as it is published, or from the folder it unpacks to.

    Args:
        layout: `CIFAR10` or `CIFAR100`.
        where: where to look, and whether to download.

    Raises:
        DataError: if a file is missing, damaged, or not the published one.
    """
    root = locate(
        layout.published, where, lambda place: _present(layout, place), lambda place: _fetch(layout, place, where)
    )
    content = _unpack(layout, root) if root.is_file() else _read_folder(layout, root)
    train, test = (
        _join([_records(root, name, content[name], count, layout) for name, count in part.items()])
        for part in (layout.train, layout.test)
    )
    return Found(
        train, layout.published.source, test=test, levels=256, classes=_class_names(root, content[layout.names], layout)
    )


def _present(layout: Layout, place: Path) -> Path | None:
    """The archive, or the folder with the unpacked files."""
    if os.path.isfile(place / layout.archive):
        return place / layout.archive
    for folder in (place / layout.folder, place):
        if all(os.path.isfile(folder / name) for name in layout.files):
            return folder
    return None


def _fetch(layout: Layout, place: Path, where: Where) -> None:
    download(layout.published, layout.archive, place / layout.archive, where, lambda part: _check(layout, part))


def _check(layout: Layout, path: Path) -> None:
    with reading(path, "a file that can be read"):
        content = path.read_bytes()
    check_md5(path, content, layout.published.files[layout.archive])


def _unpack(layout: Layout, archive: Path) -> dict[str, bytes]:
    """The content of the files needed, in one pass; nothing is written to the disk."""
    _check(layout, archive)
    content = {}
    with reading(archive, "a tar archive compressed by gzip"), tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            folder, _, name = member.name.rpartition("/")
            if folder == layout.folder and name in layout.files and (file := tar.extractfile(member)):
                content[name] = file.read()
    missing = [name for name in layout.files if name not in content]
    if missing:
        raise DataError(f"{archive}: expected it to hold {layout.folder}/{missing[0]}, got no such file. {GET_AGAIN}")
    return content


def _read_folder(layout: Layout, folder: Path) -> dict[str, bytes]:
    content = {}
    for name in layout.files:
        with reading(folder / name, "a file that can be read"):
            content[name] = (folder / name).read_bytes()
    return content


def _records(root: Path, name: str, content: bytes, count: int, layout: Layout) -> Split:
    size = layout.label_bytes + PIXELS
    if len(content) != count * size:
        raise DataError(
            f"{root / name}: expected {count * size} bytes, {count} records of {size}, got {len(content)}. "
            f"It is cut short or another file. {GET_AGAIN}"
        )
    records = torch.from_numpy(np.frombuffer(content, np.uint8).reshape(count, size).copy())
    y = records[:, layout.label_bytes - 1].long()
    if int(y.max()) >= layout.classes:
        raise DataError(
            f"{root / name}: expected labels 0 .. {layout.classes - 1}, got {int(y.max())}. It is damaged or another "
            f"file. {GET_AGAIN}"
        )
    return Split(records[:, layout.label_bytes :].reshape(count, 3, 32, 32), y)


def _join(parts: list[Split]) -> Split:
    return Split(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts if part.y is not None]))


def _class_names(root: Path, content: bytes, layout: Layout) -> tuple[str, ...]:
    names = tuple(content.decode("ascii", "replace").split())
    if len(names) != layout.classes:
        raise DataError(
            f"{root / layout.names}: expected {layout.classes} names of classes, one a line, got {len(names)}. "
            f"{GET_AGAIN}"
        )
    return names
