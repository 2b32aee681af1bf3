"""The centred orthonormal transform, complex images as real channels, crops and coils."""

import cmath
import math

import numpy as np
import pytest
import torch

from invertible.errors import ConfigError, ShapeError
from invertible.physics.fourier import (
    as_complex,
    as_real,
    centre_crop,
    centred_fft2,
    centred_ifft2,
    root_sum_of_squares,
)

SIZES = pytest.mark.parametrize("size", [(8, 8), (7, 8), (8, 7), (5, 9)])


def turn(cycles):
    return cmath.exp(-2j * math.pi * cycles)


@SIZES
def test_the_transform_is_the_sum_that_defines_it(size):
    x = torch.randn(2, 3, *size, dtype=torch.complex128)
    matrices = [
        torch.tensor(
            [[turn((k - n // 2) * (p - n // 2) / n) / math.sqrt(n) for p in range(n)] for k in range(n)],
            dtype=x.dtype,
        )
        for n in size
    ]
    torch.testing.assert_close(centred_fft2(x), matrices[0] @ x @ matrices[1].T, rtol=1e-12, atol=1e-12)


@SIZES
def test_the_inverse_inverts_and_energy_is_kept(size):
    x = torch.randn(2, 3, *size, dtype=torch.complex128)
    torch.testing.assert_close(centred_ifft2(centred_fft2(x)), x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(centred_fft2(centred_ifft2(x)), x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.linalg.vector_norm(centred_fft2(x)), torch.linalg.vector_norm(x))


def test_a_constant_image_is_a_point_in_the_middle():
    k = centred_fft2(torch.ones(1, 1, 6, 9))
    assert k[0, 0, 3, 4].abs() == pytest.approx(math.sqrt(54))
    assert (k.abs() > 1e-5).sum() == 1


@pytest.mark.parametrize("shape", [(2, 4), (2, 6, 5), (2, 4, 3, 5), (2, 2, 3, 4, 5)])
def test_channels_are_real_and_imaginary_parts_in_turn(shape):
    x = torch.randn(shape)
    z = as_complex(x)
    assert torch.equal(z.real, x[:, ::2])
    assert torch.equal(z.imag, x[:, 1::2])
    assert torch.equal(as_real(z), x)


def test_half_precision_is_raised():
    assert as_complex(torch.ones(1, 2, 3, 3, dtype=torch.bfloat16)).dtype == torch.complex64


@pytest.mark.parametrize("x", [torch.ones(2, 3, 4, 4), torch.ones(2), torch.ones(2, 2, 4, 4, dtype=torch.long)])
def test_what_is_no_pair_of_channels_is_refused(x):
    with pytest.raises(ShapeError, match=r"^as_complex: expected x of shape \(batch, 2 c, \.\.\.\)"):
        as_complex(x)


def test_real_tensors_are_refused_where_complex_ones_are_wanted():
    with pytest.raises(ShapeError, match=r"^as_real: .* complex dtype, got \(2, 2, 4\) of torch.float32"):
        as_real(torch.ones(2, 2, 4))


def test_crops_begin_where_fastmri_begins():
    x = torch.arange(7 * 8).reshape(7, 8)
    assert torch.equal(centre_crop(x, (4, 4)), x[1:5, 2:6])
    assert torch.equal(centre_crop(x, (7, 8)), x)
    with pytest.raises(ShapeError, match=r"at least \(8, 8\) pixels, got \(7, 8\)"):
        centre_crop(x, (8, 8))
    with pytest.raises(ConfigError, match="height, width"):
        centre_crop(x, (0, 4))


def test_root_sum_of_squares_of_coils_and_of_their_channels():
    z = torch.randn(2, 5, 6, 7, dtype=torch.complex128)
    expected = np.sqrt((np.abs(z.numpy()) ** 2).sum(1))
    np.testing.assert_allclose(root_sum_of_squares(z, 1).numpy(), expected, rtol=1e-13)
    torch.testing.assert_close(root_sum_of_squares(as_real(z), 1), root_sum_of_squares(z, 1))


def test_the_gradient_of_root_sum_of_squares_is_finite_at_zero():
    x = torch.zeros(1, 4, 3, 3, requires_grad=True)
    root_sum_of_squares(x, 1).sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
