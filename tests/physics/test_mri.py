"""Cartesian MRI: what it measures, its dtypes, and what it refuses."""

import pytest
import torch

from invertible.errors import ConfigError, ShapeError
from invertible.physics.fourier import as_complex, as_real, centred_fft2
from invertible.physics.mri import CartesianMRI
from invertible.physics.norm import operator_norm

MASK = torch.arange(15) % 3 == 0


def test_only_the_columns_of_the_mask_are_measured():
    x = torch.randn(2, 4, 12, 15)
    k = centred_fft2(as_complex(x))
    y = CartesianMRI(MASK)(x)
    assert y.shape == (2, 2, 12, 15)
    torch.testing.assert_close(y[..., MASK], k[..., MASK])
    assert not y[..., ~MASK].any()


def test_a_mask_of_everything_loses_nothing():
    x = torch.randn(2, 4, 12, 15)
    operator = CartesianMRI(torch.ones(15))
    torch.testing.assert_close(operator.adjoint(operator(x)), x)
    torch.testing.assert_close(operator.normal(x), x)


def test_volumes_are_measured_slice_by_slice():
    mask, x = torch.rand(3, 1, 1, 15) < 0.5, torch.randn(3, 4, 5, 12, 15)
    operator = CartesianMRI(mask)
    slices = torch.stack([operator(x[:, :, depth]) for depth in range(5)], 2)
    torch.testing.assert_close(operator(x), slices)


def test_coil_images_are_those_of_the_sensitivities():
    maps, x = torch.randn(3, 5, 12, 15, dtype=torch.complex64), torch.randn(3, 2, 12, 15)
    coil_images = as_real(maps * as_complex(x))
    torch.testing.assert_close(CartesianMRI(MASK, maps)(x), CartesianMRI(MASK)(coil_images))


def test_sensitivities_keep_their_imaginary_parts_in_another_dtype():
    maps = torch.randn(3, 5, 12, 15, dtype=torch.complex64)
    operator = CartesianMRI(MASK, maps).to(torch.float64)
    assert torch.equal(operator.sensitivities, maps.to(torch.complex128))
    assert operator(torch.randn(3, 2, 12, 15, dtype=torch.float64)).dtype == torch.complex128


def test_normalised_sensitivities_have_norm_one():
    maps = torch.randn(2, 5, 12, 15, dtype=torch.complex128)
    maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    norms = operator_norm(CartesianMRI(torch.ones(15), maps), torch.zeros(2, 2, 12, 15, dtype=torch.float64))
    torch.testing.assert_close(norms, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("mask", "error", "expected"),
    [
        (torch.ones(2, 3, 4, 15), ShapeError, r"mask of shape .* got \(2, 3, 4, 15\)"),
        (torch.ones(1, 1, 1, 1, 15), ShapeError, "got \\(1, 1, 1, 1, 15\\)"),
        (torch.full((15,), 0.5), ConfigError, "boolean or of 0 and 1"),
        (torch.full((15,), torch.nan), ConfigError, "boolean or of 0 and 1"),
    ],
)
def test_masks_that_are_none(mask, error, expected):
    with pytest.raises(error, match=rf"^CartesianMRI: .*{expected}"):
        CartesianMRI(mask)


def test_sensitivities_that_are_none():
    with pytest.raises(ShapeError, match=r"sensitivities of shape .* got \(5, 12, 15\) of torch.float32"):
        CartesianMRI(MASK, torch.ones(5, 12, 15))
    with pytest.raises(ConfigError, match="finite sensitivities"):
        CartesianMRI(MASK, torch.full((5, 12, 15), torch.nan, dtype=torch.complex64))


def test_images_that_do_not_fit():
    plain = CartesianMRI(MASK.expand(2, 1, 1, 15))
    sense = CartesianMRI(MASK, torch.ones(5, 12, 15, dtype=torch.complex64))
    for operator, x, expected in [
        (plain, torch.ones(2, 2, 12, 16), "mask of shape .* got a batch of 2 with 12 x 16 pixels"),
        (plain, torch.ones(3, 2, 12, 15), "mask of shape .* got a batch of 3"),
        (plain, torch.ones(2, 2, 15), "x of shape \\(batch, 2 coils, height, width\\)"),
        (sense, torch.ones(2, 4, 12, 15), "x of shape \\(batch, 2, height, width\\)"),
        (sense, torch.ones(2, 2, 11, 15), "sensitivities of shape .* 11 x 15 pixels"),
        (CartesianMRI(torch.ones(12, 15)), torch.ones(2, 2, 1, 15), "mask of shape .* 1 x 15 pixels"),
    ]:
        with pytest.raises(ShapeError, match=rf"^CartesianMRI: expected .*{expected}"):
            operator(x)


def test_data_that_do_not_fit():
    sense = CartesianMRI(MASK, torch.ones(5, 12, 15, dtype=torch.complex64))
    with pytest.raises(ShapeError, match=r"of a complex dtype, got \(2, 5, 12, 15\) of torch.float32"):
        sense.adjoint(torch.ones(2, 5, 12, 15))
    with pytest.raises(ShapeError, match="expected 5 coils .* got 4"):
        sense.adjoint(torch.ones(2, 4, 12, 15, dtype=torch.complex64))
