"""Small data sets in the formats of the published ones, and other small files."""

import gzip
import io
import struct
import tarfile
from dataclasses import replace

import numpy as np
import torch

from invertible.data.cifar import CIFAR10, CIFAR100
from invertible.data.mnist import FASHION_MNIST, MNIST
from invertible.data.reading import md5


def noise(*shape):
    """Random bytes, of the seed of the test."""
    return torch.randint(256, shape, dtype=torch.uint8).numpy()


def idx(array):
    """The bytes of an idx file."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist_files(train=20, test=10):
    """Content of the four files by name; labels run through 0 .. 9."""
    content = {}
    for part, n in (("train", train), ("t10k", test)):
        content[f"{part}-images-idx3-ubyte"] = idx(noise(n, 28, 28))
        content[f"{part}-labels-idx1-ubyte"] = idx(np.arange(n, dtype=np.uint8) % 10)
    return content


def write_mnist(folder, content, compress=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        path = folder / (f"{name}.gz" if compress else name)
        path.write_bytes(gzip.compress(data, mtime=0) if compress else data)


def published(content, name="mnist"):
    """MNIST or Fashion-MNIST with the checksums of these files, and found on no system."""
    original = {"mnist": MNIST, "fashion-mnist": FASHION_MNIST}[name]
    return replace(original, files={name: md5(data) for name, data in content.items()}, system=())


def cifar_files(layout, n=4):
    """Content of the files in the archive by name."""
    content = {layout.names: "".join(f"class{k}\n" for k in range(layout.classes)).encode()}
    for name in (*layout.train, *layout.test):
        records = noise(n, layout.label_bytes + 3072)
        records[:, layout.label_bytes - 1] = np.arange(n) % layout.classes
        content[name] = records.tobytes()
    return content


def cifar_archive(layout, content):
    """The bytes of the archive."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(f"{layout.folder}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return raw.getvalue()


def small_layout(name="cifar10", n=4):
    """CIFAR-10 or CIFAR-100 with n records a file."""
    layout = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    return replace(layout, train=dict.fromkeys(layout.train, n), test=dict.fromkeys(layout.test, n))


def with_checksum(layout, archive):
    """The layout with this archive's checksum."""
    return replace(layout, published=replace(layout.published, files={layout.archive: md5(archive)}))
