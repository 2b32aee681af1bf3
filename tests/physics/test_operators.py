"""What the operators compute, against definitions and other implementations, and what they refuse."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from invertible.errors import ConfigError, ShapeError
from invertible.physics.blur import Blur
from invertible.physics.composition import Composition, Stack
from invertible.physics.denoising import Denoising
from invertible.physics.inpainting import Inpainting, random_pixels
from invertible.physics.kernels import gaussian_kernel, motion_kernel
from invertible.physics.matrix import MatrixOperator
from invertible.physics.noise import add_noise
from invertible.physics.norm import operator_norm
from invertible.physics.operator import Observation
from invertible.physics.super_resolution import AveragePooling, Downsampling


@pytest.mark.parametrize(
    ("padding", "mode"), [("circular", "wrap"), ("reflect", "mirror"), ("replicate", "nearest"), ("zero", "constant")]
)
@pytest.mark.parametrize("kernel", [(3, 3), (4, 5), (5, 2)])
def test_blur_is_scipys_convolution(padding, mode, kernel):
    h, x = torch.randn(kernel, dtype=torch.float64), torch.randn(1, 1, 9, 8, dtype=torch.float64)
    defined = convolved(x[0, 0].numpy(), h.numpy(), mode)
    np.testing.assert_allclose(Blur(h, padding)(x)[0, 0].numpy(), defined, atol=1e-12)
    if all(k % 2 for k in kernel):
        np.testing.assert_allclose(defined, ndimage.convolve(x[0, 0].numpy(), h.numpy(), mode=mode), atol=1e-12)


def convolved(x, h, mode):
    """The sum over k of h[k] x[n + c - k], c = K // 2, with numpy's padding."""
    names = {"wrap": "wrap", "mirror": "reflect", "nearest": "edge", "constant": "constant"}
    padded = np.pad(x, 6, mode=names[mode])
    y = np.zeros_like(x)
    for i, j in np.ndindex(*h.shape):
        top, left = 6 + h.shape[0] // 2 - i, 6 + h.shape[1] // 2 - j
        y += h[i, j] * padded[top : top + x.shape[0], left : left + x.shape[1]]
    return y


def test_valid_blur_is_the_inside_of_the_zero_padded_one():
    h, x = torch.randn(3, 3), torch.randn(2, 3, 8, 9)
    torch.testing.assert_close(Blur(h, "valid")(x), Blur(h, "zero")(x)[..., 1:-1, 1:-1])


def test_circular_and_direct_convolution_agree_inside():
    h, x = torch.randn(3, 4, dtype=torch.float64), torch.randn(2, 3, 8, 9, dtype=torch.float64)
    inside = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(Blur(h)(x)[inside], Blur(h, "zero")(x)[inside])


def test_gaussian_kernels():
    kernel = gaussian_kernel(1.5)
    assert kernel.shape == (13, 13)
    assert kernel.sum() == pytest.approx(1)
    offsets = torch.arange(-6, 7.0)
    assert float((kernel.sum(0) * offsets**2).sum()) == pytest.approx(2.25, rel=1e-2)
    assert gaussian_kernel([1.0, 2.0, 3.0]).shape == (9, 17, 25)
    assert gaussian_kernel(1.0, spatial_dims=3).shape == (9, 9, 9)


@pytest.mark.parametrize("angle", [0, 30, 90, 135])
def test_motion_kernels_have_the_line_s_moments(angle):
    kernel = motion_kernel(9, angle).double()
    along = torch.arange(len(kernel), dtype=torch.float64) - len(kernel) // 2
    rows, columns = along[:, None], along[None]
    radians = torch.deg2rad(torch.tensor(float(angle), dtype=torch.float64))
    direction = columns * radians.cos() - rows * radians.sin()
    across = columns * radians.sin() + rows * radians.cos()
    assert float(kernel.sum()) == pytest.approx(1)
    assert float((kernel * direction).sum()) == pytest.approx(0, abs=1e-6)
    assert float((kernel * direction**2).sum()) == pytest.approx(81 / 12, rel=0.1)
    assert float((kernel * across**2).sum()) < 0.3


def test_downsampling_keeps_every_other_pixel_of_the_blurred_image():
    h, x = gaussian_kernel(1.0), torch.randn(2, 3, 16, 18)
    torch.testing.assert_close(Downsampling(2, h)(x), Blur(h)(x)[..., ::2, ::2])
    assert torch.equal(Downsampling(2)(x), x[..., ::2, ::2])


def test_pooling_averages():
    x = torch.randn(2, 3, 6, 9, dtype=torch.float64)
    operator = AveragePooling(3)
    torch.testing.assert_close(operator(x), x.unflatten(3, (3, 3)).unflatten(2, (2, 3)).mean((3, 5)))
    torch.testing.assert_close(operator(operator.adjoint(operator(x))) * 9, operator(x))


def test_matrices_are_what_they_say():
    matrix, z = torch.randn(4, 6, dtype=torch.complex128), torch.randn(3, 6, dtype=torch.complex128)
    x = torch.view_as_real(z).flatten(1)
    torch.testing.assert_close(MatrixOperator(matrix)(x), z @ matrix.T)
    moved = MatrixOperator(matrix).to(torch.float32)
    assert torch.equal(moved.matrix, matrix.to(torch.complex64))


def test_composition_applies_from_the_right():
    x = torch.randn(2, 3, 8, 8)
    mask = random_pixels((8, 8), 0.5, generator=0)
    both = Composition(Inpainting(mask), Blur(gaussian_kernel(1.0, truncate=2)))
    torch.testing.assert_close(both(x), Blur(gaussian_kernel(1.0, truncate=2))(x) * mask)


def test_the_norm_is_that_of_the_matrix():
    matrices = torch.randn(3, 7, 30, dtype=torch.float64)
    exact = torch.linalg.matrix_norm(matrices, 2)
    operator, like = MatrixOperator(matrices), torch.zeros(3, 30, dtype=torch.float64)
    torch.testing.assert_close(operator_norm(operator, like), exact, rtol=1e-10, atol=0)
    few = [operator_norm(operator, like, iterations=n) for n in (1, 2, 4)]
    assert (torch.stack([*few, exact]).diff(dim=0) > 0).all()


def test_the_norm_of_projections_and_of_zero():
    like = torch.zeros(2, 1, 8, 8)
    assert operator_norm(Inpainting(random_pixels((8, 8), 0.5, generator=0)), like).tolist() == pytest.approx([1, 1])
    assert operator_norm(Inpainting(torch.zeros(8, 8)), like).tolist() == [0, 0]
    with pytest.raises(ValueError, match="finite A\\^H A x"):
        operator_norm(MatrixOperator(torch.full((2, 2), 1e30)), torch.zeros(1, 2))


def test_noise_has_its_deviation_in_every_real_number():
    sigma = torch.tensor([0.5, 2.0])
    noise = add_noise(torch.zeros(2, 1, 100, 100, dtype=torch.complex128), sigma, 0)
    for part in (noise.real, noise.imag):
        torch.testing.assert_close(part.flatten(1).std(1), sigma.double(), rtol=0.03, atol=0)
    real = add_noise(torch.zeros(2, 100, 100), 0.5, 0)
    assert real.std() == pytest.approx(0.5, rel=0.03)
    assert torch.equal(real, add_noise(torch.zeros(2, 100, 100), 0.5, torch.Generator().manual_seed(0)))
    assert not torch.equal(real, add_noise(torch.zeros(2, 100, 100), 0.5, 1))


IMAGE = torch.ones(2, 3, 8, 8)
REFUSED = {
    "mask": (lambda: Inpainting(torch.full((8, 8), 0.3)), ConfigError, "Inpainting: expected mask to be boolean"),
    "mask-size": (
        lambda: Inpainting(torch.ones(7, 8))(IMAGE),
        ShapeError,
        "Inpainting: .* mask, .7, 8., got .2, 3, 8, 8.",
    ),
    "mask-row": (lambda: Inpainting(torch.ones(1, 8))(IMAGE), ShapeError, "only batch and channels may be shared"),
    "fraction": (lambda: random_pixels((2, 2), 1.5), ConfigError, "random_pixels: .* from 0 to 1, got 1.5"),
    "padding": (
        lambda: Blur(torch.ones(3, 3), "same"),
        ConfigError,
        "Blur: expected padding to be one of .* got 'same'",
    ),
    "kernel-axes": (lambda: Blur(torch.ones(2, 2, 2, 2)), ConfigError, "Blur: expected kernel of 1 to 3 spatial axes"),
    "kernel-nan": (lambda: Blur(torch.full((3, 3), torch.nan)), ConfigError, "finite real numbers"),
    "kernel-integer": (lambda: Blur(torch.ones(3, 3, dtype=torch.long)), ConfigError, "finite real numbers"),
    "kernel-batch": (
        lambda: Blur(torch.ones(3, 1, 3, 3), spatial_dims=2)(IMAGE),
        ShapeError,
        "batch and channels .* .3, 1., got .2, 3.",
    ),
    "kernel-large": (lambda: Blur(torch.ones(9, 3))(IMAGE), ShapeError, "x of at least .9, 3. pixels"),
    "kernel-large-valid": (lambda: Blur(torch.ones(9, 3), "valid")(IMAGE), ShapeError, "x of at least .9, 3. pixels"),
    "kernel-large-reflect": (
        lambda: Blur(torch.ones(17, 1), "reflect")(IMAGE),
        ShapeError,
        "at least 9 pixels .* got 8",
    ),
    "spatial": (lambda: Blur(torch.ones(3))(IMAGE), ShapeError, "Blur: expected x of shape"),
    "sigma": (lambda: gaussian_kernel(0.0), ConfigError, "gaussian_kernel: expected sigma .* positive, got 0.0"),
    "length": (lambda: motion_kernel(-1.0), ConfigError, "motion_kernel: .* positive length .* got -1.0"),
    "factor": (lambda: Downsampling(0), ConfigError, "Downsampling: expected factor to be an integer of at least 1"),
    "factor-valid": (
        lambda: Downsampling(2, torch.ones(3, 3), "valid"),
        ConfigError,
        "Downsampling: .* keeps the size",
    ),
    "multiple": (lambda: AveragePooling(3)(IMAGE), ShapeError, "AveragePooling: .* multiples of 3, got .2, 3, 8, 8."),
    "matrix": (lambda: MatrixOperator(torch.ones(3)), ConfigError, "MatrixOperator: expected matrix of shape"),
    "matrix-nan": (lambda: MatrixOperator(torch.full((2, 2), torch.inf)), ConfigError, "finite numbers"),
    "matrix-shape": (lambda: MatrixOperator(torch.ones(3, 4), (5,)), ConfigError, "shape of 4 numbers.*got .5,."),
    "matrix-x": (lambda: MatrixOperator(torch.ones(3, 4))(torch.ones(2, 5)), ShapeError, "x of shape .batch, 4"),
    "matrix-y": (
        lambda: MatrixOperator(torch.ones(3, 4)).adjoint(torch.ones(2, 5)),
        ShapeError,
        "data of shape .batch, 3.",
    ),
    "matrix-batch": (lambda: MatrixOperator(torch.ones(3, 3, 4))(torch.ones(2, 4)), ShapeError, "a batch of 3"),
    "composition": (lambda: Composition(), ConfigError, "Composition: expected at least one operator"),
    "stack": (lambda: Stack(Denoising(), AveragePooling(2))(IMAGE), ShapeError, "Stack: expected data of one shape"),
    "stack-data": (lambda: Stack(Denoising()).adjoint(IMAGE), ShapeError, "Stack: expected data of shape .batch, 1"),
    "noise": (lambda: add_noise(IMAGE, -1.0), ConfigError, "add_noise: .* at least 0, got -1.0"),
    "noise-shape": (lambda: add_noise(IMAGE, torch.ones(3)), ConfigError, "add_noise: expected sigma of shape"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, error, expected = REFUSED[name]
    with pytest.raises(error, match=expected) as found:
        call()
    assert str(found.value).endswith(".")


def test_a_class_that_is_no_operator_is_refused_with_the_way_to_wrap_it(unchecked_types):
    with unchecked_types(), pytest.raises(ConfigError, match="as_operator"):
        Stack(torch.nn.Identity())


def test_contexts_have_a_row_a_sample():
    with pytest.raises(ShapeError, match=r"context of shape \(2, k\), got \(3, 4\)"):
        Observation(Denoising(), IMAGE, torch.ones(3, 4))


def test_observations_scale_sample_by_sample():
    observation = Observation(Denoising(), IMAGE).scaled(torch.tensor([1.0, 3.0]))
    assert observation.data[:, 0, 0, 0].tolist() == [1, 3]
