"""Folders of images, arrays and tables, and what is wrong with them."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from invertible import data
from invertible.errors import ConfigError, DataError, MissingDependencyError
from tests.data.examples import noise

NOISE = np.random.default_rng(1)


def picture(path, size=(6, 5), mode="RGB"):
    """Write noise of (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], len(Image.new(mode, (1, 1)).getbands()))
    array = noise(*shape)
    image = Image.fromarray(array[..., 0] if shape[2] == 1 else array, mode if shape[2] > 1 else None)
    image.save(path)
    return array


def fill(folder, n=10, **options):
    return [picture(folder / f"{k:02}.png", **options) for k in range(n)]


# Folders of images.


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_a_folder_of_images(tmp_path, mode, channels):
    arrays = fill(tmp_path, mode=mode)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image either")
    loaded = data.load(tmp_path)
    assert loaded.shape == (channels, 5, 6)
    assert loaded.levels == 256
    assert loaded.classes is None
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (8, 1, 1)
    got = {
        part.tobytes()
        for x in (loaded.train.x, loaded.validation.x, loaded.test.x)
        for part in x.permute(0, 2, 3, 1).contiguous().numpy()
    }
    assert got == {array.tobytes() for array in arrays}


def test_subfolders_are_classes(tmp_path):
    fill(tmp_path / "dog", 4)
    fill(tmp_path / "cat" / "nested", 6)
    loaded = data.load(str(tmp_path))
    assert loaded.classes == ("cat", "dog")
    labels = torch.cat([part.y for part in (loaded.train, loaded.validation, loaded.test)])
    assert labels.bincount().tolist() == [6, 4]


def test_parts_given_as_folders(tmp_path):
    for part, n in (("train", 5), ("val", 2), ("test", 3)):
        for name in ("a", "b"):
            fill(tmp_path / part / name, n)
    loaded = data.load(tmp_path)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (10, 4, 6)
    assert loaded.classes == ("a", "b")
    assert loaded.test.y.tolist() == [0] * 3 + [1] * 3


def test_grey_and_colour_together_become_colour(tmp_path):
    grey = picture(tmp_path / "grey.png", mode="L")
    for k, mode in enumerate(["RGB", "RGBA", "P", "LA", "1"]):
        path = tmp_path / f"{k}.png"
        Image.fromarray(noise(5, 6, 3)).convert(mode).save(path)
    loaded = data.load(tmp_path, validation=0)
    assert loaded.shape == (3, 5, 6)
    everything = torch.cat([loaded.train.x, loaded.test.x])
    repeated = torch.from_numpy(grey.transpose(2, 0, 1).repeat(3, 0))
    assert any(torch.equal(x, repeated) for x in everything)
    assert data.load(tmp_path, channels=1).shape == (1, 5, 6)


def test_sizes_are_brought_together(tmp_path):
    for k, size in enumerate([(40, 20), (20, 40), (30, 30)]):
        picture(tmp_path / f"{k}.png", size=size)
    assert data.load(tmp_path, size=16).shape == (3, 16, 16)


def test_the_middle_is_cut_out(tmp_path):
    array = np.zeros((8, 24, 3), np.uint8)
    array[:, 8:16] = 255
    for k in range(3):
        Image.fromarray(array).save(tmp_path / f"{k}.png")
    assert int(data.load(tmp_path, size=8).train.x.min()) == 255


def test_the_camera_s_orientation_is_applied(tmp_path):
    for k in range(3):
        image = Image.fromarray(noise(5, 6, 3))
        exif = image.getexif()
        exif[0x0112] = 6  # turned by a quarter
        image.save(tmp_path / f"{k}.png", exif=exif)
    assert data.load(tmp_path).shape == (3, 6, 5)


def damaged(folder):
    fill(folder)
    path = folder / "05.png"
    path.write_bytes(path.read_bytes()[:60])


def sixteen_bits(folder):
    Image.fromarray(noise(5, 6).astype(np.uint16) * 256).save(folder / "deep.png")


FOLDERS = {
    "damaged": (damaged, r"05.png: expected an image, got .*\. Remove it or get it again"),
    "no image": (lambda f: (f / "a.png").write_text("text"), "a.png: expected an image, got UnidentifiedImageError"),
    "sixteen bits": (sixteen_bits, "deep.png: expected an image of 8 bits a channel, got mode 'I;16'. Convert it"),
    "sizes": (
        lambda f: (fill(f), picture(f / "x.png", size=(7, 5))),
        r"x.png: expected 6x5 pixels, as .*00.png has, got 7x5. Bring all to one size, for example with size=5",
    ),
    "empty": (lambda _: None, r"expected image files \(.png, .*\), got none. Add some"),
    "empty class": (lambda f: (fill(f / "a"), (f / "b").mkdir()), r"b: expected image files"),
    "both": (
        lambda f: (fill(f), fill(f / "a")),
        "expected images, or subfolders named as classes, got both: 00.png and a",
    ),
    "third part": (
        lambda f: (fill(f / "train"), fill(f / "extra")),
        "expected subfolders train, validation and test, .* got 'extra' too",
    ),
    "other classes": (
        lambda f: (fill(f / "train" / "a"), fill(f / "test" / "b")),
        "expected in test the classes of train, a, got b",
    ),
    "classes in one": (
        lambda f: (fill(f / "train" / "a"), fill(f / "test")),
        "expected in test the classes of train, a, got none",
    ),
}


@pytest.mark.parametrize(("make", "message"), FOLDERS.values(), ids=FOLDERS.keys())
def test_wrong_folders(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        data.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_pillow_is_needed(tmp_path, monkeypatch):
    fill(tmp_path, 2)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'invertible\[data\]'"):
        data.load(tmp_path)


# Arrays.


def images(*shape):
    return NOISE.integers(0, 256, shape, np.uint8)


ARRAYS = {
    "grey": (images(10, 6, 5), {}, (1, 6, 5)),
    "NCHW": (images(10, 3, 6, 5), {}, (3, 6, 5)),
    "NHWC": (images(10, 6, 5, 3), {}, (3, 6, 5)),
    "said": (images(10, 3, 6, 3), {"layout": "NCHW"}, (3, 6, 3)),
    "float64": (NOISE.normal(size=(10, 4)), {}, (4,)),
    "integers": (np.arange(40).reshape(10, 4), {}, (4,)),
    "big endian": (NOISE.normal(size=(10, 4)).astype(">f4"), {}, (4,)),
    "fortran": (np.asfortranarray(NOISE.normal(size=(10, 4))), {}, (4,)),
}


@pytest.mark.parametrize(("array", "options", "shape"), ARRAYS.values(), ids=ARRAYS.keys())
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays(tmp_path, array, options, shape, suffix):
    path = tmp_path / f"a.{suffix}"
    np.save(path, array) if suffix == "npy" else np.savez(path, anything=array)
    loaded = data.load(path, **options)
    assert loaded.shape == shape
    assert loaded.levels == (256 if len(shape) == 3 else None)
    everything = torch.cat([part.x for part in (loaded.train, loaded.validation, loaded.test)])
    assert abs(everything.double().sum() - array.astype(np.float64).sum()) < 1e-4


def test_arrays_with_labels_and_parts(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x_train=noise(10, 6, 5), y_train=np.arange(10) % 3 + 5, x_test=noise(4, 6, 5), y_test=np.full(4, 7))
    loaded = data.load(path)
    assert loaded.classes == ("5", "6", "7")
    assert loaded.test.y.tolist() == [2] * 4
    assert (len(loaded.train), len(loaded.validation)) == (9, 1)


def test_fewer_levels(tmp_path):
    np.save(tmp_path / "a.npy", noise(10, 6, 5) % 4)
    assert data.load(tmp_path / "a.npy", levels=4).levels == 4


def saved(**arrays):
    return lambda path: np.savez(path, **arrays)


ones = np.ones((4, 2))
PICKLE = np.array([{"a": 1}], dtype=object)
WRONG_ARRAYS = {
    "pickle": (lambda p: np.savez(p, x=PICKLE, allow_pickle=True), {}, "Object arrays cannot be loaded"),
    "text": (
        lambda p: p.write_text("hello"),
        {},
        "expected an array of numbers in numpy's format, got .* Save arrays of numbers",
    ),
    "empty": (lambda p: p.write_bytes(b""), {}, "expected an array of numbers in numpy's format, got EOFError"),
    "names": (saved(a=ones, b=ones), {}, "expected arrays named x and y, or x_train, .*, got a, b. Rename them"),
    "two": (saved(x=ones, x_train=ones), {}, "got x, x_train"),
    "no samples": (saved(x_test=ones), {}, "expected arrays named x and y"),
    "orphans": (saved(x=ones, y_test=np.zeros(4, int)), {}, "expected samples for the labels y_test, got none"),
    "float images": (
        saved(x=np.ones((4, 6, 6))),
        {},
        r"expected x to be images .* got shape \(4, 6, 6\) of dtype float64. Images in 0 .. 1 become levels",
    ),
    "complex": (saved(x=ones.astype(complex)), {}, "of dtype complex128"),
    "nothing": (saved(x=np.ones((0, 2))), {}, r"expected x to hold samples, got shape \(0, 2\)"),
    "nan": (
        saved(x=np.array([[1, 2], [3, np.nan]])),
        {},
        "expected finite float32 numbers in x, got nan in row 1, column 1",
    ),
    "overflow": (saved(x=np.array([[1e39, 2]])), {}, "got 1e[+]39 in row 0, column 0"),
    "which axis": (
        saved(x=images(4, 3, 6, 3)),
        {},
        r"expected one of the axes 1 and 3 .* got shape \(4, 3, 6, 3\). Say which: layout='NCHW'",
    ),
    "no channels": (saved(x=images(4, 6, 6, 6)), {}, "expected one of the axes 1 and 3"),
    "levels": (
        saved(x=np.full((4, 6, 6), 9, np.uint8)),
        {"levels": 8},
        "expected grey levels 0 .. 7, got 9. Set levels=10 or higher",
    ),
    "label count": (
        saved(x=ones, y=np.zeros(3, int)),
        {},
        r"expected labels of shape \(4,\) that are integers or text for train, got shape \(3,\)",
    ),
    "label kind": (saved(x=ones, y=np.zeros(4)), {}, "of dtype float64. Give an integer or a string"),
    "labels in one": (
        saved(x=ones, y=np.zeros(4, int), x_test=ones),
        {},
        "expected labels in all parts or in none, got none for test",
    ),
    "shapes": (
        saved(x_train=ones, x_test=np.ones((4, 3))),
        {},
        r"expected samples of one shape and kind in all parts, got \(2,\) for training and \(3,\)",
    ),
    "constant": (
        saved(x=np.arange(20.0).reshape(10, 2) % 2),
        {"standardise": True},
        "expected every feature to vary .* got a constant one, number 0",
    ),
}


@pytest.mark.parametrize(("write", "options", "message"), WRONG_ARRAYS.values(), ids=WRONG_ARRAYS.keys())
def test_wrong_arrays(tmp_path, write, options, message):
    path = tmp_path / "a.npz"
    write(path)
    with pytest.raises(DataError, match=message) as caught:
        data.load(path, **options)
    assert str(caught.value).startswith(str(path))


# Tables.

TABLE = "a,b,label\n1,2.5,x\n-3,4e2,y\n 5 ,6,x\n7,8,y\n"


def test_a_table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("﻿" + TABLE + "\n", encoding="utf-8")
    loaded = data.load(path, validation=0)
    assert loaded.shape == (2,)
    assert loaded.classes == ("x", "y")
    rows = {
        tuple(x): y
        for part in (loaded.train, loaded.test)
        for x, y in zip(part.x.tolist(), part.y.tolist(), strict=True)
    }
    assert rows == {(1, 2.5): 0, (-3, 400): 1, (5, 6): 0, (7, 8): 1}
    assert data.load(path, columns=["b"]).shape == (1,)


def test_labels_are_sorted_as_numbers(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a;kind\n" + "".join(f"{k};{k % 3 + 8}\n" for k in range(9)))
    loaded = data.load(path, label="kind", delimiter=";", standardise=True)
    assert loaded.classes == ("8", "9", "10")
    assert abs(loaded.train.x.mean()) < 1e-6


TABLES = {
    "text": (
        "a,b\n1,2\n3,four\n",
        {},
        "expected a finite number in line 3, column 'b', got 'four'. Correct the cell, or leave",
    ),
    "empty cell": ("a,b\n1,\n", {}, "line 2, column 'b', got ''"),
    "infinite": ("a,b\n1,inf\n", {}, "got 'inf'"),
    "too large": ("a,b\n1,1e39\n", {}, "got '1e39'"),
    "underscore": ("a,b\n1,1_0\n", {}, "got '1_0'"),
    "cells": ("a,b\n1,2\n\n3\n", {}, "expected 2 cells in each line, as in the header, got 1 in line 4"),
    "no header": ("1,2\n3,4\n", {}, "expected a first line that names each column, .* got '1,2'. Write one"),
    "twice": ("a,a\n3,4\n", {}, "got 'a,a'"),
    "nameless": ("a,\n3,4\n", {}, "got 'a,'"),
    "no label": ("a,label\n1,x\n2, \n", {}, "expected a label in line 3, column 'label', got an empty cell"),
    "empty": ("", {}, "got an empty file"),
    "header only": ("a,b\n", {}, "expected rows below the header, got none"),
    "quote": ('a,b\n1,"2\n', {}, "expected a table of comma-separated values in UTF-8, got Error"),
    "code": (b"a,b\n1,\xff\n", {}, "in UTF-8, got UnicodeDecodeError"),
    "constant": ("a,b\n" + "1,2\n" * 5, {"standardise": True}, "got a constant one, a. Leave it out"),
}


@pytest.mark.parametrize(("text", "options", "message"), TABLES.values(), ids=TABLES.keys())
def test_wrong_tables(tmp_path, text, options, message):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message) as caught:
        data.load(path, **options)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


OPTIONS = {
    "size": ("", {"size": 0}, "expected size to be an integer of at least 1, got 0"),
    "channels": ("", {"channels": 2}, "expected channels to be 1 or 3, got 2"),
    "folder's": ("", {"levels": 2}, "to be among test, standardise, size, channels, got 'levels'"),
    "layout": ("a.npy", {"layout": "HWC"}, "expected layout to be 'NCHW' or 'NHWC', got 'HWC'"),
    "levels": ("a.npy", {"levels": 1}, "expected levels to be an integer, 2 .. 256, got 1"),
    "vectors": ("a.npy", {"levels": 2}, "expected no levels=, since .*a.npy holds vectors, got 2"),
    "label": ("t.csv", {"label": "c"}, "expected label to name columns of .*t.csv, which are a, b, label, got 'c'"),
    "columns": ("t.csv", {"columns": ["c"]}, "expected columns to name columns of .*, got 'c'"),
    "labels as features": ("t.csv", {"columns": ["a", "label"]}, "and not the labels, got"),
    "no columns": ("t.csv", {"columns": []}, "expected columns to name at least one column"),
    "delimiter": ("t.csv", {"delimiter": "ab"}, "expected delimiter to be one character, got 'ab'"),
}


@pytest.mark.parametrize(("file", "options", "message"), OPTIONS.values(), ids=OPTIONS.keys())
def test_wrong_options(tmp_path, file, options, message):
    np.save(tmp_path / "a.npy", np.ones((9, 2)))
    (tmp_path / "t.csv").write_text(TABLE)
    with pytest.raises(ConfigError, match=message):
        data.load(tmp_path / file, **options)


def test_own_test_part_and_a_fraction(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=ones, x_test=ones)
    with pytest.raises(ConfigError, match="since .* has a test part of its own, got 0.5"):
        data.load(tmp_path / "a.npz", test=0.5)


def test_unknown_kinds(tmp_path):
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(DataError, match="expected a folder, .npy, .npz, .csv, got .xlsx"):
        data.load(tmp_path / "a.xlsx")
