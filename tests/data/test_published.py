"""MNIST, Fashion-MNIST and CIFAR from small files in their formats, and from the real ones where they are."""

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from invertible import data
from invertible.data.cifar import CIFAR10, CIFAR100, read_cifar
from invertible.data.mnist import FASHION_MNIST, MNIST, read_mnist
from invertible.data.places import Where, places
from invertible.data.reading import md5
from invertible.errors import DataError
from tests.data.examples import (
    cifar_archive,
    cifar_files,
    idx,
    mnist_files,
    published,
    small_layout,
    with_checksum,
    write_mnist,
)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("place", ["", "mnist", "MNIST/raw"])
def test_mnist_in_every_place(tmp_path, place, compress):
    content = mnist_files()
    write_mnist(tmp_path / "data" / place, content, compress)
    found = read_mnist(published(content), Where(tmp_path / "data", download=False))
    raw = np.frombuffer(content["train-images-idx3-ubyte"], np.uint8, offset=16).reshape(20, 1, 28, 28)
    assert torch.equal(found.train.x, torch.from_numpy(raw.copy()))
    assert found.train.y.tolist() == [*range(10)] * 2
    assert found.test.x.shape == (10, 1, 28, 28)
    assert found.levels == 256
    assert len(found.classes) == 10


def test_the_order_of_places(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("INVERTIBLE_DATA_DIR", str(tmp_path / "b"))
    looked_in = places(FASHION_MNIST, tmp_path / "a")
    a, b = tmp_path / "a", tmp_path / "b"
    assert looked_in == [
        *(a / "fashion-mnist", a / "FashionMNIST/raw", a),
        *(b / "fashion-mnist", b / "FashionMNIST/raw", b),
        cache / "fashion-mnist",
        Path("/usr/share/datasets/fashion-mnist"),
    ]


def test_places_by_environment_cache_and_system(tmp_path, monkeypatch, cache):
    content = mnist_files()
    small = published(content)
    write_mnist(tmp_path / "system", content, compress=True)
    assert len(read_mnist(replace(small, system=(str(tmp_path / "system"),)), Where(download=False)).train) == 20
    with pytest.raises(DataError):
        read_mnist(small, Where(download=False))
    write_mnist(cache / "mnist", content)
    assert len(read_mnist(small, Where(download=False)).train) == 20
    other = mnist_files(train=30)
    write_mnist(tmp_path / "env", other)
    monkeypatch.setenv("INVERTIBLE_DATA_DIR", str(tmp_path / "env"))
    assert len(read_mnist(published(other), Where(download=False)).train) == 30


def test_fashion_mnist_from_the_system():
    """The real files, where the system has them: 6000 and 1000 images of each class."""
    if not Path(FASHION_MNIST.system[0], "t10k-images-idx3-ubyte.gz").is_file():
        pytest.skip("the package dataset-fashion-mnist is not installed")
    loaded = data.load("fashion-mnist", download=False, validation=0)
    assert loaded.train.y.bincount().tolist() == [6000] * 10
    assert loaded.test.y.bincount().tolist() == [1000] * 10
    assert abs(float(loaded.train.x.float().mean()) - 72.940) < 1e-3


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("form", ["archive", "folder", "flat"])
def test_cifar_in_every_form(tmp_path, name, form):
    layout = small_layout(name)
    content = cifar_files(layout)
    archive = cifar_archive(layout, content)
    layout = with_checksum(layout, archive)
    if form == "archive":
        (tmp_path / layout.archive).write_bytes(archive)
    else:
        folder = tmp_path / name / (layout.folder if form == "folder" else "")
        folder.mkdir(parents=True)
        for file, raw in content.items():
            (folder / file).write_bytes(raw)
    found = read_cifar(layout, Where(tmp_path, download=False))
    first = next(iter(layout.train))
    pixels = content[first][layout.label_bytes : layout.label_bytes + 3072]
    # Red, then green, then blue, each row by row.
    assert found.train.x[0].flatten().tolist() == list(pixels)
    assert found.train.y[:4].tolist() == [0, 1, 2, 3]
    assert (len(found.train), len(found.test)) == (4 * len(layout.train), 4)
    assert found.classes[:2] == ("class0", "class1")
    assert len(found.classes) == layout.classes


def test_the_real_layouts():
    assert sum(CIFAR10.train.values()) == sum(CIFAR100.train.values()) == 50_000
    assert sum(CIFAR10.test.values()) == sum(CIFAR100.test.values()) == 10_000


def broken(name, change):
    content = mnist_files()
    content[name] = change(content[name])
    return content


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
DAMAGE = {
    "cut in the data": (
        IMAGES,
        lambda raw: raw[:-1],
        r"expected 15696 bytes for images of sizes \(20, 28, 28\).* got 15695. It is cut short",
    ),
    "cut in the header": (
        IMAGES,
        lambda raw: raw[:10],
        "expected an idx file of images, with a header of 16 bytes, got 10 bytes",
    ),
    "empty": (LABELS, lambda _: b"", "with a header of 8 bytes, got 0 bytes"),
    "too long": (IMAGES, lambda raw: raw + b"x", "expected 15696 bytes .* got 15697"),
    "exchanged": (
        IMAGES,
        lambda _: idx(np.arange(99, dtype=np.uint8)),
        "begins with the bytes 00 00 08 03, got 00 00 08 01, those of labels. Check whether files are exchanged",
    ),
    "web page": (LABELS, lambda _: b"<!DOCTYPE html>", "got 3c 21 44 4f, perhaps a web page"),
    "wrong count": (
        LABELS,
        lambda _: idx(np.zeros(19, np.uint8)),
        "expected 20 labels, one for each image of train-images-idx3-ubyte, got 19",
    ),
    "wrong label": (LABELS, lambda _: idx(np.full(20, 17, np.uint8)), "expected labels 0 .. 9, got 17"),
    "no images": (IMAGES, lambda _: idx(np.zeros((0, 28, 28), np.uint8)), "It is cut short or damaged"),
    "giant": (IMAGES, lambda raw: raw[:4] + b"\xff" * 12 + raw[16:], "expected 79228162458924105385300197391 bytes"),
    "changed": (
        IMAGES,
        lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
        "expected MD5 [0-9a-f]{32}, got [0-9a-f]{32}: it is damaged or was changed. Delete it",
    ),
    "bad gzip": (LABELS, lambda raw: gzip.compress(raw)[:-4], r"expected a whole gzip file, got EOFError"),
}


@pytest.mark.parametrize(("name", "change", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_mnist(tmp_path, name, change, message):
    original = mnist_files()
    write_mnist(tmp_path, original | {name: change(original[name])})
    with pytest.raises(DataError, match=message) as caught:
        read_mnist(published(original), Where(tmp_path, download=False))
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_set_taken_for_the_other_is_named(tmp_path, monkeypatch):
    content = mnist_files()
    write_mnist(tmp_path, content)
    monkeypatch.setattr("invertible.data.mnist.OWNERS", {md5(content[IMAGES]): "fashion-mnist"})
    with pytest.raises(DataError, match="got that of fashion-mnist. Keep each set in a folder of its own name"):
        read_mnist(MNIST, Where(tmp_path, download=False))


CIFAR_DAMAGE = {
    "cut": ("data_batch_2.bin", lambda raw: raw[:-1], "expected 12292 bytes, 4 records of 3073, got 12291"),
    "one record short": (
        "test_batch.bin",
        lambda raw: raw[:-3073],
        "expected 12292 bytes, 4 records of 3073, got 9219",
    ),
    "wrong label": ("test_batch.bin", lambda raw: b"\x0a" + raw[1:], "expected labels 0 .. 9, got 10"),
    "names": ("batches.meta.txt", lambda _: b"cat\ndog\n", "expected 10 names of classes, one a line, got 2"),
    "names in no code": ("batches.meta.txt", lambda _: b"\xff\xfe", "expected 10 names of classes, one a line, got 1"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("name", "change", "message"), CIFAR_DAMAGE.values(), ids=CIFAR_DAMAGE.keys())
def test_damaged_cifar(tmp_path, name, change, message, packed):
    layout = small_layout()
    content = cifar_files(layout)
    content[name] = change(content[name])
    if packed:
        archive = cifar_archive(layout, content)
        layout = with_checksum(layout, archive)
        (tmp_path / layout.archive).write_bytes(archive)
    else:
        for file, raw in content.items():
            (tmp_path / file).write_bytes(raw)
    with pytest.raises(DataError, match=f"{name}: {message}"):
        read_cifar(layout, Where(tmp_path, download=False))


def test_damaged_archives(tmp_path):
    layout = small_layout()
    content = cifar_files(layout)
    archive = cifar_archive(layout, content)
    path = tmp_path / layout.archive
    path.write_bytes(archive[:-1])
    with pytest.raises(DataError, match=r"cifar-10-binary.tar.gz: expected MD5 .*, got .*: it is damaged"):
        read_cifar(with_checksum(layout, archive), Where(tmp_path, download=False))
    del content["data_batch_3.bin"]
    path.write_bytes(cifar_archive(layout, content))
    with pytest.raises(DataError, match="expected it to hold cifar-10-batches-bin/data_batch_3.bin, got no such file"):
        read_cifar(with_checksum(layout, path.read_bytes()), Where(tmp_path, download=False))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_what_is_not_there(name, tmp_path, cache):
    if name == "fashion-mnist" and Path(FASHION_MNIST.system[0]).is_dir():
        pytest.skip("the system has it")
    with pytest.raises(DataError) as caught:
        data.load(name, data_dir=tmp_path, download=False)
    message = str(caught.value)
    assert message.startswith(f"{name}: expected its files in one of {tmp_path / name}, ")
    assert f"into {cache / name}, or name their folder by data_dir or the environment variable" in message
    assert ("apt install dataset-fashion-mnist" in message) == (name == "fashion-mnist")
    assert ("pickles" in message) == name.startswith("cifar")
