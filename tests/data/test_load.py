"""Names, cuts and what comes out: every set the same way."""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invertible import data
from invertible.data import DataSet, Split
from invertible.data.places import cache_dir
from invertible.data.splits import Cut, Found, cut
from invertible.data.toys import TOYS
from invertible.errors import ConfigError, DataError, MissingDependencyError, ShapeError

OFFLINE = ["digits", *TOYS]


@pytest.mark.parametrize("name", OFFLINE)
def test_shapes_types_and_ranges(name):
    loaded = data.load(name, **({} if name == "digits" else {"samples": 500}))
    assert isinstance(loaded, DataSet)
    assert loaded.name == name
    assert loaded.source
    for part in (loaded.train, loaded.validation, loaded.test):
        assert len(part) > 0
        assert tuple(part.x.shape[1:]) == loaded.shape
        assert part.x.isfinite().all()
        assert (part.y is None) == (loaded.classes is None)
        if part.y is not None:
            assert 0 <= int(part.y.min()) <= int(part.y.max()) < len(loaded.classes)
    assert loaded.is_image == (name == "digits")
    if loaded.is_image:
        assert loaded.train.x.dtype == torch.uint8
        assert int(loaded.train.x.max()) == loaded.levels - 1
    else:
        assert loaded.train.x.dtype == torch.float32
        assert loaded.levels is None
        assert loaded.shape == (2,)
        assert 1 < loaded.train.x.abs().max() < 5


def test_digits_are_the_real_ones():
    sklearn = pytest.importorskip("sklearn.datasets")
    loaded = data.load("digits")
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (1455, 162, 180)
    assert loaded.shape == (1, 8, 8)
    parts = torch.cat([part.x.flatten(1) for part in (loaded.train, loaded.validation, loaded.test)])
    original = torch.from_numpy(sklearn.load_digits().data).to(torch.uint8)
    assert sorted(map(tuple, parts.tolist())) == sorted(map(tuple, original.tolist()))


@pytest.mark.parametrize("name", ["digits", "moons"])
def test_the_seed_decides(name):
    first, again, other = data.load(name, seed=1), data.load(name, seed=1), data.load(name, seed=2)
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(first, part).x, getattr(again, part).x)
        assert torch.equal(getattr(first, part).y, getattr(again, part).y)
    assert not torch.equal(first.train.x, other.train.x)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    data.load("moons")
    data.load("digits")
    assert torch.equal(before, torch.get_rng_state())


def test_the_test_part_is_the_same_for_every_seed():
    assert torch.equal(data.load("digits", seed=1).test.x, data.load("digits", seed=2, validation=0.3).test.x)


def test_the_cut_is_the_one_that_was_published():
    """Should the generator ever change, results are no longer comparable: then this says so."""
    loaded = data.load("digits")
    assert loaded.test.y[:12].tolist() == [1, 6, 7, 5, 1, 8, 9, 4, 4, 1, 9, 5]
    assert loaded.train.y[:12].tolist() == [5, 1, 9, 4, 7, 3, 9, 5, 8, 2, 9, 4]


def numbered(n):
    return Split(torch.arange(n, dtype=torch.float32)[:, None], torch.arange(n))


@given(
    n=st.integers(3, 200),
    validation=st.floats(0, 0.4),
    test=st.floats(0.01, 0.4),
    seed=st.integers(0, 2**63 - 1),
    limit=st.none() | st.integers(1, 100),
)
def test_parts_share_no_sample(n, validation, test, seed, limit):
    found = Found(numbered(n), "here")
    loaded = cut("numbers", found, Cut(validation, test, seed, limit))
    parts = [loaded.train, loaded.validation, loaded.test]
    kept = torch.cat([part.y for part in parts])
    assert len(kept.unique()) == len(kept)
    assert len(loaded.train) > 0
    assert len(loaded.test) > 0
    assert (len(loaded.validation) > 0) == (validation > 0)
    if limit is None:
        assert len(kept) == n
    else:
        assert max(map(len, parts)) <= limit
    for part in parts:
        assert torch.equal(part.x[:, 0].long(), part.y)


@given(n=st.integers(3, 100), seed=st.integers(0, 100))
def test_own_parts_are_kept(n, seed):
    found = Found(numbered(n), "here", validation=numbered(3), test=numbered(5))
    loaded = cut("numbers", found, Cut(seed=seed))
    assert len(loaded.train) == n
    assert torch.equal(loaded.test.y, numbered(5).y)
    assert torch.equal(loaded.validation.y, numbered(3).y)


def test_standardised_features():
    loaded = data.load("pinwheel", standardise=True)
    assert loaded.train.x.mean(0).abs().max() < 1e-5
    assert (loaded.train.x.std(0, correction=0) - 1).abs().max() < 1e-5
    raw = data.load("pinwheel")
    scale = raw.train.x.double().std(0, correction=0)
    expected = (raw.test.x.double() - raw.train.x.double().mean(0)) / scale
    torch.testing.assert_close(loaded.test.x, expected.float())


def test_names_are_what_can_be_loaded():
    table = data.names()
    assert set(OFFLINE) | {"mnist", "fashion-mnist", "cifar10", "cifar100"} == set(table)
    assert all("\n" not in line and line for line in table.values())


def test_repr_is_one_short_line():
    loaded = data.load("moons", samples=100)
    assert repr(loaded) == "DataSet('moons': vectors (2,), 2 classes; 81 train, 9 validation, 10 test)"
    assert repr(loaded.train) == "Split(81 samples, with labels)"


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (
            torch.zeros(3, 2, dtype=torch.float64),
            None,
            "expected x to be images .* got \\(3, 2\\) of dtype torch.float64",
        ),
        (torch.zeros(3, 1, 2, 2), None, "of dtype torch.float32"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), "expected y of shape \\(3,\\) and dtype torch.int64"),
        (torch.zeros(3, 2), torch.zeros(3), "got \\(3,\\) of dtype torch.float32"),
    ],
)
def test_a_split_checks_itself(x, y, message):
    with pytest.raises(ShapeError, match=message):
        Split(x, y)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation": 1.0}, "expected validation to be a fraction .* got 1.0"),
        ({"validation": -0.1}, "0 <= validation < 1, got -0.1"),
        ({"test": 0}, "expected test to be a fraction .* 0 < test < 1, got 0"),
        ({"seed": -1}, "expected seed to be an integer, 0 <= seed < .*, got -1"),
        ({"seed": 1.5}, "got 1.5"),
        ({"limit": 0}, "expected limit to be None or an integer of at least 1, got 0"),
        ({"limit": True}, "got True"),
        ({"standardise": 1}, "expected standardise to be True or False, got 1"),
        ({"samples": 0}, "moons: expected samples to be an integer of at least 1, got 0"),
        ({"noise": 0.1}, "expected options of moons to be among test, standardise, samples, got 'noise'"),
    ],
)
def test_wrong_arguments(arguments, message, unchecked_types):
    with unchecked_types(), pytest.raises(ConfigError, match=message):
        data.load("moons", **arguments)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mooons", "got 'mooons'. Did you mean 'moons'"),
        ("fashion_mnist", "Did you mean 'fashion-mnist'"),
        (
            "nowhere/at/all.npz",
            "expected the path of a file or folder, or one of digits, mnist, .*got 'nowhere/at/all.npz'",
        ),
        ("x" * 5000, "expected the path of a file or folder"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(DataError, match=message):
        data.load(name)


def test_images_are_not_standardised():
    with pytest.raises(ConfigError, match="digits holds images, got True"):
        data.load("digits", standardise=True)


def test_too_few_samples():
    with pytest.raises(DataError, match="moons: expected enough samples to set a part of 0.1 of them aside, got 1"):
        data.load("moons", samples=1)


def test_a_missing_folder_is_not_passed_over(tmp_path):
    with pytest.raises(DataError, match="data_dir: expected a folder, got '.*nowhere'"):
        data.load("mnist", data_dir=tmp_path / "nowhere")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'invertible\[data\]'"):
        data.load("digits")


def test_the_cache_follows_the_system(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "invertible"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_dir().parts[-3:] == ("Library", "Caches", "invertible")
