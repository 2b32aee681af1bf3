"""The toys against what their formulas promise, with exact densities where they have one."""

import math

import pytest
import torch

from invertible.data.toys import TOYS

N = 20_000


def draw(name, n=N, seed=0):
    return TOYS[name](n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", TOYS)
def test_draws_are_reproducible(name):
    assert torch.equal(draw(name)[0], draw(name)[0])
    assert not torch.equal(draw(name)[0], draw(name, seed=1)[0])


@pytest.mark.parametrize("name", TOYS)
def test_classes_are_balanced(name):
    _, y = draw(name)
    if y is None:
        return
    counts = y.bincount().double()
    expected = N / len(counts)
    # Six deviations of a binomial count.
    assert (counts - expected).abs().max() < 6 * math.sqrt(expected)


def test_checkerboard_fills_the_dark_fields_evenly():
    x, _ = draw("checkerboard")
    field = ((x + 4) / 2).floor().long()
    assert int(field.min()) == 0
    assert int(field.max()) == 3
    assert (field.sum(1) % 2 == 0).all()
    counts = (4 * field[:, 0] + field[:, 1]).bincount(minlength=16)
    assert (counts > 0).sum() == 8
    assert counts[counts > 0].sub(N / 8).abs().max() < 6 * math.sqrt(N / 8)


@pytest.mark.parametrize(
    ("name", "radius", "deviation"), [("two-gaussians", 2, 0.5), ("eight-gaussians", 8**0.5, 8**-0.5)]
)
def test_gaussians(name, radius, deviation):
    x, y = draw(name)
    for label in y.unique().tolist():
        part = x[y == label]
        angle = 2 * math.pi * label / len(y.unique())
        centre = radius * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
        assert (part.mean(0) - centre).norm() < 6 * deviation / math.sqrt(len(part))
        assert (part.std(0) - deviation).abs().max() < 0.05 * deviation


@pytest.mark.parametrize(
    ("name", "radii", "blur"), [("circles", [3, 1.5], 0.24), ("rings", [3, 2.25, 1.5, 0.75], 0.08)]
)
def test_radii(name, radii, blur):
    x, y = draw(name)
    for label, radius in enumerate(radii):
        got = x[y == label].norm(dim=1)
        # E|x| of a blurred circle is radius + blur^2/(2 radius) + ...
        assert abs(float(got.mean()) - radius - blur**2 / (2 * radius)) < 0.02
        assert abs(float(got.std()) - blur) < 0.02


def test_moons_are_scikit_learn_s():
    """The same curves as `make_moons`, doubled and centred: distances to it are those of the noise."""
    datasets = pytest.importorskip("sklearn.datasets")
    curve, curve_y = datasets.make_moons(2000, noise=None, random_state=0)
    curve = 2 * (torch.from_numpy(curve) - torch.tensor([0.5, 0.25]))
    x, y = draw("moons", 2000)
    for label in (0, 1):
        part = torch.from_numpy(curve_y) == label
        distance = torch.cdist(x[y == label], curve[part]).amin(1)
        assert float(distance.max()) < 1.0
        assert abs(float(distance.square().mean().sqrt()) - 0.2) < 0.03


def test_spirals_mirror_each_other():
    x, y = draw("two-spirals")
    assert (x[y == 0].mean(0) + x[y == 1].mean(0)).abs().max() < 0.1
