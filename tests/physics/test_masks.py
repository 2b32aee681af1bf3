"""Masks of columns: counts, the centre, seeds, and fastMRI's own draws."""

import numpy as np
import pytest
import torch

from invertible.errors import ConfigError
from invertible.physics.masks import EquispacedColumns, RandomColumns

KINDS = pytest.mark.parametrize("kind", [RandomColumns, EquispacedColumns])
CHOICES = pytest.mark.parametrize(("fraction", "acceleration"), [(0.08, 4), (0.04, 8)])
WIDTHS = pytest.mark.parametrize("columns", [320, 368, 101])


@KINDS
@CHOICES
@WIDTHS
def test_the_centre_is_kept_and_the_rest_makes_up_the_acceleration(kind, fraction, acceleration, columns):
    masks = torch.stack([kind((fraction,), (acceleration,))(columns, seed) for seed in range(200)])
    centre = round(columns * fraction)
    first = (columns - centre + 1) // 2
    assert masks.dtype == torch.bool
    assert masks[:, first : first + centre].all()
    assert not masks[:, first - 1].all()
    assert not masks[:, first + centre].all()
    spread = 4 * (columns / acceleration) ** 0.5 / 200**0.5
    assert masks.sum(1).double().mean() == pytest.approx(columns / acceleration, abs=spread + 1)


@KINDS
def test_every_pair_is_drawn_alike_often(kind):
    counts = torch.stack([kind()(320, seed).sum() for seed in range(300)])
    assert 120 < (counts > 60).sum() < 180


@KINDS
def test_seeds_reproduce(kind):
    draw = kind((0.08,), (4,))
    for seed in (3, "file1000000.h5"):
        assert torch.equal(draw(320, seed), draw(320, seed))
    assert torch.equal(draw(320, torch.Generator().manual_seed(1)), draw(320, torch.Generator().manual_seed(1)))
    torch.manual_seed(5)
    first, second = draw(320), draw(320)
    torch.manual_seed(5)
    assert torch.equal(draw(320), first)
    masks = (first, second, draw(320, 3), draw(320, "file1000000.h5"))
    assert len({tuple(mask.tolist()) for mask in masks}) > (3 if kind is RandomColumns else 1)


def test_equispaced_columns_are_equispaced():
    mask = EquispacedColumns((0.08,), (4,))(320, 0)
    left = mask[:140].nonzero().flatten()
    distance = 4 * (26 - 320) / (26 * 4 - 320)
    assert set(left.diff().tolist()) <= {int(distance), int(distance) + 1}


def test_columns_are_those_that_the_definition_draws_from_the_same_seed():
    stream = np.random.RandomState(tuple(map(ord, "file1000001.h5")))
    assert stream.randint(0, 2) in (0, 1)
    choice = np.random.RandomState(tuple(map(ord, "file1000001.h5"))).randint(0, 2)
    centre, acceleration = (round(368 * (0.08, 0.04)[choice]), (4, 8)[choice])
    expected = stream.uniform(size=368) < (368 / acceleration - centre) / (368 - centre)
    expected[(368 - centre + 1) // 2 :][:centre] = True
    assert np.array_equal(RandomColumns()(368, "file1000001.h5").numpy(), expected)


@KINDS
def test_without_acceleration_everything_is_measured(kind):
    assert kind((0.08,), (1,))(64, 0).all()


@KINDS
@pytest.mark.parametrize(
    ("fractions", "accelerations", "expected"),
    [
        ((0.08,), (4, 8), "1 fractions and 2 accelerations"),
        ((), (), "0 fractions and 0 accelerations"),
        ((1.0,), (4,), "below 1, got 1.0"),
        ((0.1,), (0.5,), "at least 1, got 0.5"),
        ((0.1,), (float("nan"),), "at least 1, got nan"),
    ],
)
def test_wrong_arguments(kind, fractions, accelerations, expected):
    with pytest.raises(ConfigError, match=rf"^{kind.__name__}: expected .*{expected}"):
        kind(fractions, accelerations)


@KINDS
def test_a_centre_that_is_too_large(kind):
    with pytest.raises(ConfigError, match=r"fewer than 64 / 4 columns, got 19 \(centre fraction 0.3\)"):
        kind((0.3,), (4,))(64, 0)
    with pytest.raises(ConfigError, match="columns to be an integer of at least 1, got 0"):
        kind()(0, 0)
