"""Linear systems of a batch, of which only products are known."""

import pytest
import torch

from invertible.solvers.krylov import gmres


def systems(batch, features, norm=0.9):
    a = torch.randn(batch, features, features, dtype=torch.float64)
    a = a * norm / torch.linalg.matrix_norm(a, 2)[:, None, None]
    return torch.eye(features, dtype=torch.float64) + a, torch.randn(batch, features, dtype=torch.float64)


def product(a):
    return lambda v: torch.einsum("bij,bj->bi", a.to(v.dtype), v)


@pytest.mark.parametrize("restart", [1, 2, 5, 30, 100])
@pytest.mark.parametrize("features", [1, 2, 20])
def test_solution(restart, features):
    a, b = systems(6, features)
    found = gmres(product(a), b, tolerance=1e-12, restart=restart)
    assert bool(found.converged.all())
    relative = (product(a)(found.x) - b).norm(dim=1) / b.norm(dim=1)
    assert float(relative.max()) <= 1e-12
    torch.testing.assert_close(found.residual, relative, rtol=1e-2, atol=1e-14)


def test_within_as_many_products_as_dimensions():
    a, b = systems(4, 12)
    assert gmres(product(a), b, tolerance=1e-13).products <= 13


def test_a_tolerance_for_every_sample():
    a, b = systems(3, 40, 0.99)
    tolerance = torch.tensor([1e-2, 1e-6, 1e-12], dtype=torch.float64)
    found = gmres(product(a), b, tolerance=tolerance)
    assert bool((found.residual <= tolerance).all())
    assert float(found.residual[0]) > 1e-6


def test_samples_do_not_know_of_each_other():
    a, b = systems(8, 30, 0.99)
    b = b * torch.logspace(-5, 5, 8, dtype=torch.float64)[:, None]
    a[3], b[5] = torch.eye(30, dtype=torch.float64), 0
    whole = gmres(product(a), b, tolerance=1e-3, restart=5)
    assert bool(whole.converged.all())
    assert torch.equal(whole.x[5], torch.zeros(30, dtype=torch.float64))
    for sample in range(8):
        alone = gmres(product(a[sample : sample + 1]), b[sample : sample + 1], tolerance=1e-3, restart=5)
        torch.testing.assert_close(alone.x[0], whole.x[sample], rtol=1e-9, atol=1e-12 * float(b[sample].norm()))


def test_what_has_no_solution_is_marked():
    a, b = systems(3, 4)
    a[1] = 0
    a[2] = torch.zeros(4, 4).fill_diagonal_(1).roll(1, 0)
    a[2, 0] = 0
    found = gmres(product(a), b, tolerance=1e-10)
    assert found.converged.tolist() == [True, False, False]
    assert bool(found.x.isfinite().all())
    assert found.products < 40


def test_ill_conditioned_to_the_floor_of_rounding():
    q = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64))[0]
    a = (q @ torch.diag(torch.logspace(-9, 0, 20, dtype=torch.float64)) @ q.T)[None]
    b = torch.randn(1, 20, dtype=torch.float64)
    found = gmres(product(a), b, tolerance=0.0)
    assert bool(found.converged.all())
    eps = torch.finfo(torch.float64).eps
    left = (product(a)(found.x) - b).norm()
    assert float(left) <= 16 * eps * float(b.norm() + found.x.norm()) * 1.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision(dtype):
    a, b = systems(5, 10)
    found = gmres(product(a), b.to(dtype), tolerance=4 * torch.finfo(dtype).eps)
    assert found.x.dtype == dtype
    assert bool(found.converged.all())
    truth = torch.linalg.solve(a, b.to(dtype).double())
    assert float((found.x - truth).norm() / truth.norm()) <= 200 * torch.finfo(dtype).eps


def test_empty_batch():
    assert gmres(lambda v: v, torch.zeros(0, 3), tolerance=1e-6).x.shape == (0, 3)
