"""Separation, contraction and dimension on maps for which they are known."""

import pytest
import torch

from invertible.chain import Chain
from invertible.errors import ConfigError, DomainError, ShapeError
from invertible.representations import Labelled, contraction, dimension, separation
from invertible.representations.features import chosen_depths, matrix, standardised
from tests.representations.examples import Apart, Stretch, bijective, images, interleaved


def test_separation_rises_where_a_layer_pulls_classes_apart():
    train, test = interleaved(120, 0), interleaved(60, 1)
    found = separation(Chain(Apart(), Stretch(1.0, 1.0, 1.0)), train, test, pooling="flatten")
    before, after, same = found.points
    assert before.svm < 0.75
    assert before.nearest < 1.0
    assert (after.svm, after.nearest) == (1.0, 1.0)
    assert (same.svm, same.nearest) == (1.0, 1.0)
    assert [point.depth for point in found.points] == [0, 1, 2]
    assert "SVM" in str(found)


def test_labels_of_the_test_set_decide_the_accuracy():
    train, test = interleaved(120, 0), interleaved(60, 1)
    wrong = Labelled(test.x, 1 - test.y)
    model = Chain(Apart())
    right = separation(model, train, test, pooling="flatten").points[-1]
    turned = separation(model, train, wrong, pooling="flatten").points[-1]
    assert right.svm == 1 - turned.svm
    assert right.nearest == 1 - turned.nearest


def test_averaging_leaves_a_number_a_channel():
    model, data = bijective(), images(60)
    mean = separation(model, data, images(30), depths=3)
    flat = separation(model, data, images(30), depths=3, pooling="flatten")
    assert [point.features for point in mean.points] == [1, 4, 16]
    assert [point.features for point in flat.points] == [64, 64, 64]
    assert (mean.pooling, flat.pooling) == ("mean", "flatten")


def test_features_are_averages_over_positions():
    x = torch.rand(3, 2, 4, 4)
    assert torch.allclose(matrix((x,), "mean", ""), x.double().mean((2, 3)))
    both = torch.cat((x.flatten(1), x[:, :1, :2].flatten(1)), 1)
    assert torch.equal(matrix((x, x[:, :1, :2]), "flatten", ""), both.double())


def test_standardised_features_and_constant_ones():
    train = torch.tensor([[1.0, 5.0], [3.0, 5.0 + 1e-14]], dtype=torch.float64)
    known, unknown = standardised(train, torch.tensor([[2.0, 9.0]], dtype=torch.float64))
    assert known.tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert unknown.tolist() == [[0.0, 0.0]]


def test_distances_of_a_stretch():
    found = contraction(Chain(Stretch(3.0, 3.0, 3.0), Stretch(0.5, 0.5, 0.5)), interleaved(30, 0))
    for point, factor in zip(found.points, (1.0, 3.0, 1.5), strict=True):
        for spread in (point.local, point.within, point.between):
            assert spread.smallest == pytest.approx(factor, rel=1e-5)
            assert spread.largest == pytest.approx(factor, rel=1e-5)
        assert point.within_to_between == pytest.approx(found.points[0].within_to_between)


def test_pulling_classes_apart_shows_in_the_ratio_of_distances():
    data = interleaved(40, 0)
    before, after = contraction(Apart(), data).points
    rows = [[i for i in range(40) if data.y[i] == c] for c in (0, 1)]
    distances = torch.cdist(data.x.double(), data.x.double())
    within = torch.cat([distances[r][:, r][torch.triu_indices(len(r), len(r), 1).unbind()] for r in rows]).mean()
    assert before.within_to_between == pytest.approx(float(within / distances[rows[0]][:, rows[1]].mean()))
    assert after.within_to_between < 0.1 * before.within_to_between
    assert after.local.median == pytest.approx(1.0)
    assert after.between.smallest > 5 > after.within.largest


def test_the_seed_decides_samples_and_changes():
    data, model = interleaved(60, 0), Chain(Stretch(1.0, 2.0, 4.0))
    a, b, c = (contraction(model, data, samples=20, generator=seed) for seed in (1, 1, 2))
    assert a == b
    assert a != c


def test_components_of_a_known_covariance():
    source = torch.Generator().manual_seed(0)
    x, y = torch.randn(4000, 3, generator=source), torch.arange(4000) % 2
    found = dimension(Stretch(5.0, 1.0, 1e-3), Labelled(x, y), Labelled(x[:50], y[:50]), components=(1, 9))
    before, after = found.points
    assert before.components == (3, 3, 3)
    assert after.components == (1, 1, 2)
    assert before.participation == pytest.approx(3, abs=0.05)
    assert after.participation == pytest.approx(1.08, abs=0.03)
    assert [one.components for one in found.accuracies] == [1, 3]


def test_the_first_components_classify():
    x = torch.randn(200, 4)
    y = torch.arange(200) % 2
    x[:, 2] += 30.0 * y
    found = dimension(Stretch(1.0, 1.0, 1.0, 1.0), Labelled(x, y), Labelled(x[:50], y[:50]), components=(1,))
    assert found.accuracies[0].svm == found.accuracies[0].nearest == 1.0


def test_depths_are_spread_evenly():
    model = Chain(*[Stretch(1.0) for _ in range(10)])
    assert chosen_depths("test", model, None) == tuple(range(11))
    assert chosen_depths("test", model, 3) == (0, 5, 10)
    assert chosen_depths("test", model, 99) == tuple(range(11))


def test_what_is_not_finite_names_its_layer():
    model = Chain(Stretch(1.0, 1.0), Stretch(float("inf"), 1.0))
    data = Labelled(torch.ones(6, 2), torch.arange(6) % 2)
    with pytest.raises(DomainError, match=r"behind blocks\[1\] \(Stretch\) in 6 of 6"):
        contraction(model, Labelled(torch.rand(6, 2), data.y))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda d: separation(Apart(), d, d, pooling="max"), ConfigError, "pooling to be one of 'mean', 'flatten'"),
        (lambda d: separation(Apart(), d, d, depths=1), ConfigError, "depths of at least 2"),
        (lambda d: separation(Apart(), d.take(3, torch.Generator()), d), ConfigError, "3 training samples each"),
        (lambda d: contraction(Apart(), d, perturbation=0.0), ConfigError, "perturbation > 0"),
        (lambda d: contraction(Apart(), Labelled(d.x, 0 * d.y)), ShapeError, "pairs of different classes"),
        (lambda d: Labelled(d.x, d.y[:-1]), ShapeError, "a label for each sample"),
    ],
)
def test_wrong_use(call, error, message):
    with pytest.raises(error, match=message):
        call(interleaved(20, 0))


def test_equal_samples_have_no_ratio():
    data = interleaved(10, 0)
    same = Labelled(torch.cat((data.x, data.x[:1])), torch.cat((data.y, data.y[:1])))
    found = contraction(Apart(), same)
    assert found.points[0].within.smallest == found.points[0].within.largest == 1.0
    alike = Labelled(torch.ones(6, 3), torch.arange(6) % 2)
    assert contraction(Apart(), alike).points[-1].within.median != contraction(Apart(), alike).points[-1].within.median


def test_components_of_fewer_samples_than_features():
    x = torch.zeros(12, 20)
    x[:, 3], x[:, 7] = torch.randn(12), 0.01 * torch.randn(12)
    y = torch.arange(12) % 2
    found = dimension(Stretch(*[1.0] * 20), Labelled(x, y), Labelled(x, y))
    assert found.points[0].components == (1, 1, 1)
    assert [one.components for one in found.accuracies] == [1, 2]
    assert [one.nearest for one in found.accuracies] == [1.0, 1.0]
