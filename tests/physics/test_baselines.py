"""Conjugate gradients and total variation: against exact solutions, on a phantom, and what they refuse."""

import pytest
import torch

from invertible.errors import ConfigError, DomainError, ShapeError
from invertible.physics.denoising import Denoising
from invertible.physics.fourier import as_complex, as_real, root_sum_of_squares
from invertible.physics.least_squares import least_squares
from invertible.physics.masks import RandomColumns
from invertible.physics.matrix import MatrixOperator
from invertible.physics.mri import CartesianMRI
from invertible.physics.noise import add_noise
from invertible.physics.operator import Observation
from invertible.physics.total_variation import differences, differences_adjoint, total_variation, variation

F64 = torch.float64


def phantom(n: int) -> torch.Tensor:
    """Ellipses of constant height with a linear phase: (1, 2, n, n), of magnitude at most 1."""
    rows, columns = torch.meshgrid(*(torch.linspace(-1, 1, n),) * 2, indexing="ij")
    image = torch.zeros(n, n)
    for height, y, x, b, a in [
        (1, 0, 0, 0.9, 0.7),
        (-0.7, 0, 0, 0.8, 0.6),
        (0.3, 0.3, 0.2, 0.2, 0.2),
        (0.4, -0.3, -0.2, 0.3, 0.15),
    ]:
        image = image + height * (((rows - y) / b) ** 2 + ((columns - x) / a) ** 2 < 1)
    return as_real((image * torch.exp(0.5j * columns))[None, None])


def psnr(estimate: torch.Tensor, truth: torch.Tensor) -> float:
    error = root_sum_of_squares(estimate, 1) - root_sum_of_squares(truth, 1)
    return float(10 * torch.log10(1 / error.square().mean()))


@pytest.mark.parametrize("regularisation", [0.0, 0.3])
def test_least_squares_solves_the_normal_equations(regularisation):
    matrices, y = torch.randn(3, 12, 8, dtype=F64), torch.randn(3, 12, dtype=F64)
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=F64) * regularisation
    solution = least_squares(Observation(MatrixOperator(matrices), y), weight, tolerance=1e-13, iterations=40)
    gram = matrices.mT @ matrices + weight[:, None, None] * torch.eye(8, dtype=F64)
    exact = torch.linalg.solve(gram, (matrices.mT @ y[..., None]))[..., 0]
    torch.testing.assert_close(solution.image, exact, rtol=1e-10, atol=1e-10)
    assert solution.converged.all()
    assert (solution.objective[-1] < solution.objective[0]).all()
    again = least_squares(Observation(MatrixOperator(matrices), y), weight, tolerance=1e-10, start=exact)
    assert again.iterations == (0, 0)


def test_rows_do_not_depend_on_each_other():
    matrices, y = torch.randn(3, 12, 8, dtype=F64), torch.randn(3, 12, dtype=F64)
    matrices[0] *= 1e4
    y[2] = 0
    together = least_squares(Observation(MatrixOperator(matrices), y), tolerance=1e-6).image
    for row in range(3):
        alone = least_squares(Observation(MatrixOperator(matrices[row : row + 1]), y[row : row + 1]), tolerance=1e-6)
        torch.testing.assert_close(together[row], alone.image[0], rtol=1e-9, atol=1e-12)
    assert not together[2].any()


def test_sense_recovers_what_coils_resolve():
    truth, torch_mask = phantom(32), torch.arange(32) % 2 == 0
    rows, columns = torch.meshgrid(*(torch.linspace(-1, 1, 32),) * 2, indexing="ij")
    maps = torch.stack(
        [torch.exp(-((rows - y) ** 2) - (columns - x) ** 2 + 1j * x * rows) for y in (-1, 1) for x in (-1, 1)]
    )
    operator = CartesianMRI(torch_mask, maps.to(torch.complex64))
    seen: list[int] = []
    solution = least_squares(
        Observation(operator, operator(truth)), progress=lambda number, _: seen.append(number), iterations=100
    )
    assert psnr(solution.image, truth) > 45
    assert seen == list(range(1, solution.iterations[-1] + 1))
    assert solution.residual[-1].max() <= 1e-5


def test_differences_have_their_adjoint_and_norm():
    x, p = torch.randn(2, 3, 5, 6, dtype=F64), torch.randn(2, 3, 2, 5, 6, dtype=F64)
    torch.testing.assert_close((differences(x) * p).sum(), (x * differences_adjoint(p)).sum())
    v = torch.randn(1, 1, 4, 4, 4, dtype=F64)
    assert (differences(v) ** 2).sum() <= 12 * (v**2).sum()
    step = torch.zeros(1, 2, 4, 4)
    step[:, 0, :, 2:], step[:, 1, :, 2:] = 3, 4
    assert variation(step).tolist() == [20]


def test_total_variation_denoises_a_step_as_the_formula_says():
    # On two pieces of m pixels each, of heights 0 and 1, the minimiser moves each by lambda / m towards the other.
    x = torch.zeros(1, 1, 20, dtype=F64)
    x[..., 10:] = 1
    solution = total_variation(Observation(Denoising(), x), 2.0, tolerance=1e-8, iterations=5000)
    assert solution.converged.all()
    torch.testing.assert_close(solution.image[0, 0], torch.tensor([0.2, 0.8], dtype=F64).repeat_interleave(10))


def test_total_variation_beats_the_zero_filled_image_at_4x_in_any_units():
    units = torch.tensor([1.0, 1e3, 1e-3, 1.0])
    truth = phantom(64).expand(4, -1, -1, -1)
    masks = torch.stack([RandomColumns((0.08,), (4,))(64, seed) for seed in range(4)])[:, None, None]
    operator = CartesianMRI(masks)
    observation = add_noise(Observation(operator, operator(truth)), 0.005, generator=0).scaled(units)
    looks = []
    solution = total_variation(observation, 3e-3 * units, progress=lambda number, worst: looks.append((number, worst)))
    assert solution.converged.all()
    assert [number for number, _ in looks] == list(solution.iterations)
    assert looks[-1][1] <= 1e-2 < looks[-2][1]
    scale = 1 / units[:, None, None, None]
    estimates, zero_filled = solution.image * scale, observation.backprojection() * scale
    gains = [
        psnr(x, truth[:1]) - psnr(z, truth[:1]) for x, z in zip(estimates.split(1), zero_filled.split(1), strict=True)
    ]
    assert min(gains) > 2
    assert sum(gains) / 4 > 10
    objective = torch.stack(solution.objective)
    assert (objective.diff(dim=0) < 1e-3 * objective[-1]).all()
    assert (objective[-1] < 0.9 * objective[0]).all(), objective[[0, -1]]
    error = (operator(solution.image) - observation.data).abs().double().square().flatten(1).sum(1)
    torch.testing.assert_close(objective[-1], error / 2 + 3e-3 * units * variation(solution.image), rtol=1e-5, atol=0)


def test_total_variation_treats_samples_alike_whatever_their_neighbours():
    truth = torch.cat((phantom(24), 10 * phantom(24).flip(-1), torch.zeros(1, 2, 24, 24)))
    masks = torch.stack([RandomColumns((0.08,), (3,))(24, seed) for seed in range(3)])[:, None, None]
    weight = torch.tensor([1e-2, 1e-1, 1e-2])
    together = total_variation(
        Observation(CartesianMRI(masks), CartesianMRI(masks)(truth)), weight, iterations=60, tolerance=0.0
    )
    for row in range(3):
        operator = CartesianMRI(masks[row])
        observation = Observation(operator, operator(truth[row : row + 1]))
        alone = total_variation(observation, float(weight[row]), iterations=60, tolerance=0.0)
        torch.testing.assert_close(together.image[row], alone.image[0], rtol=1e-4, atol=1e-5)
    assert as_complex(together.image)[2].abs().max() == 0


@pytest.mark.parametrize("solve", [least_squares, total_variation])
def test_what_is_refused(solve):
    observation = Observation(Denoising(), torch.ones(2, 1, 4, 4))
    name = solve.__name__
    for arguments, expected in [
        ((torch.ones(3),), "one number or one for each of 2 samples"),
        ((-1.0,), "got -1.0"),
        ((float("nan"),), "finite"),
    ]:
        with pytest.raises(ConfigError, match=f"^{name}: .*{expected}"):
            solve(observation, *arguments)
    with pytest.raises(ConfigError, match=f"^{name}: expected tolerance"):
        solve(observation, 0.1, tolerance=1.5)
    with pytest.raises(ConfigError, match=f"^{name}: expected iterations"):
        solve(observation, 0.1, iterations=0)
    with pytest.raises(ShapeError, match=f"^{name}: expected start of shape .2, 1, 4, 4. .* got .1, 1, 4, 4."):
        solve(observation, 0.1, start=observation.data[:1])
    broken = observation.data.clone()
    broken[1, 0, 2, 2] = torch.nan
    with pytest.raises(DomainError, match=f"^{name}: expected finite data, got NaN or infinity in sample 1"):
        solve(Observation(Denoising(), broken), 0.1)


def test_total_variation_needs_a_weight():
    with pytest.raises(ConfigError, match="weight to be finite and positive"):
        total_variation(Observation(Denoising(), torch.ones(1, 1, 4, 4)), 0.0)
