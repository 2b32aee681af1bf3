"""Interpolation, spectrum and inverse error on maps for which they are known."""

import copy
import math

import pytest
import torch
from torch import nn

from invertible.chain import Chain
from invertible.errors import ConfigError, NotInvertibleError, ShapeError
from invertible.representations import interpolation, inverse_error, spectrum
from invertible.sequential import Sequential
from tests.representations.examples import Coarse, Stretch, bijective, images, injective, linear_classifier, lossy


def test_interpolation_of_a_linear_map_is_that_of_the_pixels():
    x = torch.rand(4, 1, 2, 2)
    found = interpolation(linear_classifier(), x, torch.tensor([0, 1, 1, 0]), steps=5)
    assert torch.allclose(found.images, found.pixels, atol=1e-6)
    assert torch.allclose(found.images[:, 2], (x[0::2] + x[1::2]) / 2, atol=1e-6)
    assert torch.allclose(found.probabilities.sum(2), torch.ones(2, 5, dtype=torch.float64))
    assert found.classes.tolist() == [[0, 1], [1, 0]]
    assert found.worst_off_range < 1e-6


def test_both_ends_are_the_samples():
    model, data = bijective(), images(6)
    found = interpolation(model, data.x, data.y)
    ends = found.images[:, [0, -1]].flatten(0, 1)
    assert torch.allclose(ends, model.scaled(data.x), atol=1e-5)
    assert torch.allclose(found.pixels[:, 0], model.scaled(data.x[0::2]), atol=1e-6)
    expected = model.probabilities(data.x).double()
    assert torch.allclose(found.probabilities[:, 0, 0], expected[0::2].gather(1, data.y[0::2, None])[:, 0], atol=1e-5)
    assert found.non_finite == 0
    assert float(found.residual.max()) == 0


def test_features_between_images_lie_off_an_injective_networks_range():
    model, data = injective(), images(4)
    for parameter in model.parameters():
        parameter.data.mul_(2)
    found = interpolation(model, data.x, steps=5)
    assert float(found.off_range[:, [0, -1]].max()) < 1e-5
    assert float(found.off_range[:, 1:-1].min()) > 1e-4
    assert float(found.residual[:, 1:-1].min()) > 1e-3 > float(found.residual[:, [0, -1]].max())


def test_steps_that_are_not_finite_are_counted():
    model = linear_classifier()
    with torch.no_grad():
        model.body[0].factors[0] = 0.0
    found = interpolation(model, torch.rand(2, 1, 2, 2) + 1, steps=3)
    assert found.non_finite == 3
    assert math.isinf(found.worst_off_range)
    assert "3 not finite" in str(found)


def test_singular_values_of_a_stretch():
    found = spectrum(Chain(Stretch(4.0, 2.0, 1.0), Stretch(3.0, 1.0, 0.5)), torch.rand(2, 3))
    assert torch.allclose(found.values, torch.tensor([[12.0, 2.0, 0.5]] * 2, dtype=torch.float64))
    assert torch.allclose(found.condition_number, torch.full((2,), 24.0, dtype=torch.float64))
    assert torch.allclose(found.log_det, torch.full((2,), 12.0, dtype=torch.float64).log())
    assert float(found.inverse_error.max()) < 1e-6
    assert float(found.foretold[0]) == pytest.approx(24 * 2**-23)


@pytest.mark.parametrize("build", [bijective, injective, lossy])
def test_singular_values_are_those_of_autograds_jacobian(build):
    model, x = build(), images(2).x
    found = spectrum(model, x)
    double = copy.deepcopy(model).double()
    for values, sample in zip(found.values, double.scaled(x), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda one: double.body(one[None]).flatten(), sample)
        expected = torch.linalg.svdvals(jacobian.reshape(-1, 64))
        assert torch.allclose(values, expected, rtol=1e-6, atol=1e-9)
    assert found.features == model.features(x)[0].numel()


def test_what_loses_information_has_a_singular_value_of_zero():
    model = Sequential(nn.Linear(4, 2, bias=False))
    found = spectrum(model, torch.rand(3, 4))
    assert found.values.shape == (3, 4)
    assert float(found.values[:, 2:].max()) == 0
    assert bool(found.condition_number.isinf().all())
    assert bool(found.inverse_error.isnan().all())


def test_large_bijections_get_the_ends_of_their_spectrum():
    found = spectrum(Stretch(*[float(i) for i in range(1, 13)]), torch.rand(2, 12), k=2, limit=8)
    assert found.method == "iterative"
    assert torch.allclose(found.values[0], torch.tensor([12.0, 11.0, 2.0, 1.0], dtype=torch.float64), rtol=1e-3)
    with pytest.raises(ConfigError, match="at most 8 values where a model is no bijection"):
        spectrum(Sequential(nn.Linear(12, 2)), torch.rand(2, 12), limit=8)


def test_the_layer_that_loses_the_digits_is_named():
    model = Chain(Stretch(2.0, 3.0), Coarse(1e-3), Stretch(0.5, 2.0))
    found = inverse_error(model, torch.rand(5, 2) + 1)
    assert found.worst is found.points[1]
    assert found.points[1].own.worst == pytest.approx(1e-3, rel=1e-3)
    assert found.points[1].own.largest > 1e-3
    assert found.points[2].own.worst < 1e-6
    back = [point.to_input.worst for point in found.points]
    assert back[0] < 1e-6
    assert back[1] == pytest.approx(1e-3, rel=1e-2)
    assert back[2] == pytest.approx(1e-3, rel=1e-2)
    assert found.points[1].way_back.worst < 1e-6 < found.points[0].way_back.worst
    assert "<- worst" in str(found)


def test_growing_states_bury_the_data():
    class Shift(Stretch):
        def forward(self, x, condition=None):
            return x + self.factors, x.new_zeros(len(x))

        def inverse(self, y, condition=None):
            return y - self.factors, y.new_zeros(len(y))

    found = inverse_error(Shift(1e5, 1e5), torch.rand(20, 2))
    assert found.points[0].size > 1e5
    assert 1e-4 < found.points[0].to_input.worst < 1e-1


def test_float64_is_the_truth():
    model, x = bijective(), images(6).x
    single, double = inverse_error(model, x), inverse_error(copy.deepcopy(model).double(), x)
    assert 1e-9 < single.points[-1].there.worst < 1e-5
    assert double.points[-1].there.worst == 0
    assert double.points[-1].to_input.worst < 1e-13
    assert (single.dtype, double.dtype) == ("float32", "float64")


def test_behind_a_layer_without_inverse_nothing_leads_to_the_input():
    found = inverse_error(lossy(), images(4).x)
    entry = next(i for i, point in enumerate(found.points) if "StageEntry" in point.name)
    assert found.stopped_at == found.points[entry].name
    assert found.points[entry].own is None
    assert all(point.to_input is None for point in found.points[entry:])
    assert found.points[entry + 1].own.worst < 1e-5
    assert found.points[-1].way_back is not None
    assert "has no inverse" in str(found)


def test_lost_samples_are_counted():
    model = Chain(Stretch(1.0, 0.0), Stretch(1.0, 1.0))
    found = inverse_error(model, torch.rand(4, 2) + 1)
    assert found.points[0].own.non_finite == 4
    assert math.isinf(found.points[1].to_input.worst)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: interpolation(bijective(), x[:3]), ShapeError, "an even number of samples"),
        (lambda x: interpolation(bijective(), x, steps=1), ConfigError, "steps of at least 2"),
        (lambda x: interpolation(lossy(), x), NotInvertibleError, "StageEntry"),
        (lambda x: inverse_error(Sequential(nn.Flatten()), x.float()), NotInvertibleError, "loses information"),
        (lambda x: spectrum(bijective(), x, k=0), ConfigError, "k to be an integer of at least 1"),
    ],
)
def test_wrong_use(call, error, message):
    with pytest.raises(error, match=message):
        call(images(4).x)
