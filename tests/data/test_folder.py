"""Folders of images, indexed without reading them."""

import pickle
from pathlib import Path

import pytest
import torch

from invertible import data
from invertible.data.folder import Files, images_below, index_folder
from invertible.data.splits import Cut
from invertible.errors import ConfigError, DataError
from tests.data.test_own_files import fill


def empty(folder, *names):
    """Files that are images by their name alone."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


@pytest.fixture
def folder(tmp_path):
    for part, n in (("train", 20), ("val", 4), ("test", 2)):
        empty(tmp_path, *(f"{part}/{name}/{k:02}.jpg" for name in ("b", "a") for k in range(n)))
    return tmp_path


def test_nothing_is_read(folder):
    found = index_folder(folder)
    assert {name: len(part) for name, part in found.parts.items()} == {"train": 40, "validation": 8, "test": 4}
    assert found.classes == ("a", "b")
    assert found.train.y.tolist() == [0] * 20 + [1] * 20
    assert found.train.file(21) == folder / "train" / "b" / "01.jpg"
    assert list(found.test.files) == [
        folder / "test" / name for name in ("a/00.jpg", "a/01.jpg", "b/00.jpg", "b/01.jpg")
    ]


def test_order_and_labels_are_those_of_load(tmp_path):
    """One test for both readers of folders: what is trained on is what load gives."""
    for name in ("dog", "cat"):
        fill(tmp_path / "train" / name, 6)
        fill(tmp_path / "val" / name, 3)
        fill(tmp_path / "test" / name, 2)
    found, loaded = index_folder(tmp_path), data.load(tmp_path)
    from invertible.data.augment import to_tensor
    from invertible.data.images import open_picture

    for part, split in ((found.train, loaded.train), (found.validation, loaded.validation), (found.test, loaded.test)):
        assert torch.equal(part.y, split.y)
        assert torch.equal(torch.stack([to_tensor(open_picture(part.file(k))) for k in range(len(part))]), split.x)


def test_names_in_order_of_their_parts(tmp_path):
    names = ["a-b/1.png", "a/2.PNG", "a/10.jpeg", "a/z/1.webp", "ä/1.png", "a.png"]
    empty(tmp_path, *names, "a/notes.txt", "a/.hidden.png", ".cache/1.png", "a/.ipynb_checkpoints/1.png", "png")
    (tmp_path / "folder.png").mkdir()
    assert images_below(tmp_path) == [str(path.relative_to(tmp_path)) for path in sorted(tmp_path / n for n in names)]


def test_files_are_a_sequence(tmp_path):
    names = [f"{'x' * (k % 5)}/ü{k}.png" for k in range(30)]
    files = Files(tmp_path, names)
    assert list(files) == [tmp_path / name for name in names]
    assert files[-1] == tmp_path / names[-1]
    assert files[3:7] == [tmp_path / name for name in names[3:7]]
    assert list(pickle.loads(pickle.dumps(files))) == list(files)
    assert list(Files(tmp_path, [])) == []
    with pytest.raises(IndexError):
        files[30]


def test_a_million_files_take_little(tmp_path):
    files = Files(tmp_path, (f"n{k // 1300:08}/n{k // 1300:08}_{k}.JPEG" for k in range(100_000)))
    assert len(pickle.dumps(files)) < 50 * len(files)


@pytest.mark.parametrize("seed", [0, 3])
def test_a_cut_takes_the_samples_that_load_takes(tmp_path, seed):
    for name in ("a", "b"):
        fill(tmp_path / "train" / name, 10)
        fill(tmp_path / "test" / name, 2)
    found, loaded = index_folder(tmp_path).cut(Cut(0.2, seed=seed)), data.load(tmp_path, validation=0.2, seed=seed)
    assert (len(found.train), len(found.validation), len(found.test)) == (16, 4, 4)
    assert torch.equal(found.train.y, loaded.train.y)
    assert torch.equal(found.validation.y, loaded.validation.y)


def test_parts_share_no_file(tmp_path):
    empty(tmp_path, *(f"{name}/{k}.jpg" for name in "ab" for k in range(50)))
    folder = index_folder(tmp_path)
    assert (folder.validation, folder.test) == (None, None)
    assert folder.cut(Cut()).test is None
    for how in (Cut(), Cut(test=0.2, seed=4), Cut(0.5, test=0.5)):
        cut = folder.cut(how)
        taken = [{part.file(k) for k in range(len(part))} for part in cut.parts.values()]
        assert sum(map(len, taken)) == 100
        assert set.union(*taken) == set(folder.train.files)
    limited = folder.cut(Cut(test=0.2, limit=7))
    assert [len(part) for part in limited.parts.values()] == [7, 7, 7]
    other = folder.cut(Cut(test=0.2, seed=1))
    same = folder.cut(Cut(test=0.2, seed=0))
    assert torch.equal(other.test.rows, same.test.rows)
    assert not torch.equal(other.validation.rows, same.validation.rows)


def test_a_test_part_is_not_cut(folder):
    with pytest.raises(ConfigError, match="expected no test=, since it has a test part, got 0.5. Leave it out"):
        index_folder(folder).cut(Cut(test=0.5))


def test_a_folder_that_is_missing(tmp_path):
    with pytest.raises(DataError, match="none: expected a folder that can be listed, got FileNotFoundError"):
        index_folder(Path(tmp_path, "none"))
