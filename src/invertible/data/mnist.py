"""MNIST and Fashion-MNIST: 28x28 grey images in four idx files."""

import os
from pathlib import Path

from invertible.data.dataset import Split
from invertible.data.download import download
from invertible.data.idx import parse_idx
from invertible.data.places import Published, Where, locate
from invertible.data.reading import GET_AGAIN, check_md5, read_bytes
from invertible.data.splits import Found
from invertible.errors import DataError

MNIST = Published(
    name="mnist",
    files={
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
    ),
    source="MNIST (LeCun, Cortes and Burges 1998; LeCun et al. 1998), CC BY-SA 3.0",
    folders=("MNIST/raw",),
    remark="They may be compressed by gzip.",
)
FASHION_MNIST = Published(
    name="fashion-mnist",
    files={
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets",
    ),
    source="Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747), Zalando SE, MIT licence",
    folders=("FashionMNIST/raw",),
    system=("/usr/share/datasets/fashion-mnist",),
    remark="They may be compressed by gzip. On Debian, `apt install dataset-fashion-mnist` brings them.",
)
CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
}
# Both sets' files bear the same names: in one folder, one is easily taken for the other.
OWNERS = {checksum: published.name for published in (MNIST, FASHION_MNIST) for checksum in published.files.values()}


def read_mnist(published: Published, where: Where) -> Found:
    """70,000 images (1, 28, 28) of 256 levels, 10 classes; 10,000 of them are the test part.

    The files may be compressed or not. Their content is checked, so that a repacked archive passes.

    Args:
        published: `MNIST` or `FASHION_MNIST`.
        where: where to look, and whether to download.

    Raises:
        DataError: if a file is missing, damaged, or not the published one.
    """
    files = locate(
        published, where, lambda place: _present(published, place), lambda place: _fetch(published, place, where)
    )
    train, test = (_part(published, files, part) for part in ("train", "t10k"))
    return Found(train, published.source, test=test, levels=256, classes=CLASSES[published.name])


def _present(published: Published, place: Path) -> dict[str, Path] | None:
    """The path of each file, plain or compressed, if all of them are in this folder."""
    files = {}
    for name in published.files:
        paths = _paths(place, name)
        if not paths:
            return None
        files[name] = paths[0]
    return files


def _paths(place: Path, name: str) -> list[Path]:
    return [path for path in (place / name, place / f"{name}.gz") if os.path.isfile(path)]


def _fetch(published: Published, place: Path, where: Where) -> None:
    for name, checksum in published.files.items():
        if not _paths(place, name):
            download(
                published,
                f"{name}.gz",
                place / f"{name}.gz",
                where,
                lambda part, checksum=checksum: check_md5(part, read_bytes(part), checksum, OWNERS),
            )


def _part(published: Published, files: dict[str, Path], part: str) -> Split:
    images, labels = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
    content = {name: read_bytes(files[name]) for name in (images, labels)}
    x, y = parse_idx(files[images], content[images], 3), parse_idx(files[labels], content[labels], 1)
    if len(x) != len(y):
        raise DataError(
            f"{files[labels]}: expected {len(x)} labels, one for each image of {files[images].name}, got {len(y)}. "
            "Do both files belong to one set?"
        )
    classes = len(CLASSES[published.name])
    if int(y.max()) >= classes:
        raise DataError(f"{files[labels]}: expected labels 0 .. {classes - 1}, got {int(y.max())}. {GET_AGAIN}")
    # Last, since the checks before it say better what is wrong.
    for name in (images, labels):
        check_md5(files[name], content[name], published.files[name], OWNERS)
    return Split(x.unsqueeze(1), y.long())
