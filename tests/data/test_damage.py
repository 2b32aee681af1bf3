"""Files cut at any byte, or with any byte changed: data or a `DataError`, never a parser's own error."""

import gzip
import io

import numpy as np
import pytest
from PIL import Image

from invertible import data
from invertible.data.cifar import read_cifar
from invertible.data.idx import parse_idx
from invertible.data.mnist import read_mnist
from invertible.data.places import Where
from invertible.data.reading import read_bytes
from invertible.errors import DataError
from tests.data.examples import cifar_archive, cifar_files, mnist_files, noise, published, small_layout, with_checksum

NOISE = np.random.default_rng(2)


def npy():
    raw = io.BytesIO()
    np.save(raw, NOISE.normal(size=(5, 3)))
    return raw.getvalue()


def npz(save=np.savez):
    raw = io.BytesIO()
    save(raw, x=NOISE.integers(0, 256, (5, 3, 3), np.uint8), y=np.arange(5))
    return raw.getvalue()


def picture(kind):
    raw = io.BytesIO()
    Image.fromarray(NOISE.integers(0, 256, (4, 4, 3), np.uint8)).save(raw, kind)
    return raw.getvalue()


FILES = {
    "a.npy": npy(),
    "a.npz": npz(),
    "b.npz": npz(np.savez_compressed),
    "a.csv": b"a,b,label\n" + b"".join(b"%d,%d.5,x\n" % (k, k) for k in range(8)),
    "folder/a.png": picture("png"),
    "folder/a.jpg": picture("jpeg"),
    "folder/a.gif": picture("gif"),
    "folder/a.bmp": picture("bmp"),
    "folder/a.tiff": picture("tiff"),
    "folder/a.webp": picture("webp"),
    "folder/a.ppm": picture("ppm"),
}


def changes(raw, n=300):
    """Every cut, or about n of them, and as many changed bytes."""
    cuts = range(0, len(raw), max(1, len(raw) // n))
    yield from (raw[:cut] for cut in cuts)
    for place in cuts:
        yield raw[:place] + noise(1).tobytes() + raw[place + 1 :]


@pytest.mark.filterwarnings("ignore")  # a parser may well warn of what it finds in damaged files
@pytest.mark.parametrize("name", FILES)
def test_own_files(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    target = path.parent if path.parent != tmp_path else path
    messages = []
    for raw in changes(FILES[name]):
        path.write_bytes(raw)
        try:
            data.load(target)
        except DataError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert all(str(target) in message and "\n" not in message for message in messages)


def test_every_cut_of_idx(tmp_path):
    raw = mnist_files(train=1, test=1)["train-images-idx3-ubyte"]
    path = tmp_path / "x"
    for cut in range(len(raw)):
        with pytest.raises(DataError):
            parse_idx(path, raw[:cut], 3)


def test_every_cut_of_gzip(tmp_path):
    raw = gzip.compress(mnist_files()["train-labels-idx1-ubyte"])
    path = tmp_path / "x"
    for cut in range(2, len(raw)):
        path.write_bytes(raw[:cut])
        with pytest.raises(DataError, match="expected a whole gzip file"):
            read_bytes(path)


def test_changed_bytes_of_mnist(tmp_path):
    content = mnist_files(train=2, test=1)
    for name, raw in content.items():
        (tmp_path / name).write_bytes(raw)
    path = tmp_path / "train-images-idx3-ubyte"
    for raw in changes(content[path.name], 100):
        path.write_bytes(raw)
        if raw != content[path.name]:
            with pytest.raises(DataError):
                read_mnist(published(content), Where(tmp_path, download=False))


def test_cuts_of_an_archive_of_any_checksum(tmp_path):
    layout = small_layout(n=1)
    raw = cifar_archive(layout, cifar_files(layout, n=1))
    path, messages = tmp_path / layout.archive, []
    for changed in changes(raw, 60):
        path.write_bytes(changed)
        try:
            read_cifar(with_checksum(layout, changed), Where(tmp_path, download=False))
        except DataError as error:
            messages.append(str(error))
    assert messages
    assert all(str(path) in message for message in messages)
