"""Metrics of reconstructions: by hand, against scikit-image, and what they refuse."""

import math

import numpy as np
import pytest
import torch

from invertible.errors import DomainError, ShapeError
from invertible.image_metrics import nmse, psnr, ssim, ssim_loss, structural_similarity


@pytest.fixture
def pair():
    """A smooth positive volume in a scanner's small units, and a noisy one."""
    grid = torch.linspace(0, 3, 24)
    target = 1e-4 * (1.2 + torch.sin(grid[:, None] * torch.arange(1, 4)[:, None, None] + grid))
    return target, target + 1e-5 * torch.randn_like(target)


def test_by_hand():
    target = torch.zeros(2, 8, 8)
    target[0, 0, 0], target[1, 3, 3] = 3.0, 4.0
    prediction = target.clone()
    prediction[1, 7, 7] = 2.0
    assert nmse(target, prediction).item() == 4 / 25
    assert psnr(target, prediction).item() == pytest.approx(10 * math.log10(16 / (4 / 128)), rel=1e-15)
    assert psnr(target, prediction, 8.0).item() == pytest.approx(10 * math.log10(64 / (4 / 128)), rel=1e-15)
    assert psnr(target, target).item() == math.inf
    assert ssim(target, target).item() == pytest.approx(1, abs=1e-15)


def test_ssim_of_constants_and_of_one_window():
    # Without structure there are the means alone: (2ab + C1) / (a^2 + b^2 + C1).
    a, b = torch.full((1, 9, 9), 1.0), torch.full((1, 9, 9), 0.5)
    assert ssim(a, b, 1.0).item() == pytest.approx((1 + 1e-4) / (1.25 + 1e-4), rel=1e-12)
    x, y = torch.rand(2, 1, 7, 7, dtype=torch.float64)
    c = torch.cov(torch.stack((x.flatten(), y.flatten())))
    mx, my = x.mean(), y.mean()
    by_hand = (2 * mx * my + 1e-4) * (2 * c[0, 1] + 9e-4) / ((mx**2 + my**2 + 1e-4) * (c[0, 0] + c[1, 1] + 9e-4))
    assert ssim(x, y, 1.0).item() == pytest.approx(by_hand.item(), rel=1e-12)


@pytest.mark.parametrize("maximum", [None, 3e-4])
def test_as_scikit_image_has_them(pair, maximum):
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    target, prediction = (each.double().numpy() for each in pair)
    top = target.max() if maximum is None else maximum
    theirs = np.mean(
        [metrics.structural_similarity(t, p, data_range=top) for t, p in zip(target, prediction, strict=True)]
    )
    assert ssim(*pair, maximum).item() == pytest.approx(theirs, abs=1e-6)
    their_psnr = metrics.peak_signal_noise_ratio(target, prediction, data_range=top)
    assert psnr(*pair, maximum).item() == pytest.approx(their_psnr, abs=1e-6)
    their_nmse = metrics.normalized_root_mse(target, prediction) ** 2
    assert nmse(*pair).item() == pytest.approx(their_nmse, rel=1e-6)


def test_the_loss_is_the_metric_and_units_do_not_matter(pair):
    target, prediction = pair
    maximum = target.new_full((3,), target.max())
    assert ssim_loss(target, prediction, maximum).item() == pytest.approx(1 - ssim(target, prediction).item(), abs=1e-5)
    scaled = ssim_loss(1e6 * target, 1e6 * prediction, 1e6 * maximum)
    assert scaled.item() == pytest.approx(ssim_loss(target, prediction, maximum).item(), abs=1e-6)


def test_each_image_has_its_own_maximum():
    x, y = torch.rand(2, 2, 12, 12, dtype=torch.float64)
    both = structural_similarity(x, y, torch.tensor([1.0, 5.0], dtype=torch.float64))
    for index, maximum in enumerate((1.0, 5.0)):
        assert both[index].item() == pytest.approx(
            ssim(x[index : index + 1], y[index : index + 1], maximum).item(), rel=1e-12
        )


def test_the_gradient_of_the_loss():
    x, y = torch.rand(2, 2, 9, 8, dtype=torch.float64)
    maximum = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda y: ssim_loss(x, y, maximum), y.requires_grad_())


@pytest.mark.parametrize("metric", [nmse, psnr, ssim], ids=lambda metric: metric.__name__)
def test_what_is_refused(metric):
    good = torch.rand(2, 8, 8)
    with pytest.raises(
        ShapeError, match=rf"{metric.__name__}: expected target and prediction of one shape .*\(1, 8, 8\)"
    ):
        metric(good, good[:1])
    with pytest.raises(ShapeError, match="Take its absolute value"):
        metric(good, good.to(torch.complex64))
    with pytest.raises(DomainError, match="finite values in prediction"):
        metric(good, torch.where(good == good.max(), math.nan, good))
    with pytest.raises(DomainError, match=metric.__name__):
        metric(torch.zeros_like(good), good)


def test_small_images_and_wrong_maxima_are_refused():
    with pytest.raises(ShapeError, match=r"at least 7 x 7 pixels.*\(6, 8\)"):
        ssim(torch.rand(1, 6, 8), torch.rand(1, 6, 8))
    with pytest.raises(ShapeError, match=r"maximum of shape \(batch,\)"):
        ssim_loss(torch.rand(2, 8, 8), torch.rand(2, 8, 8), torch.ones(1))
    with pytest.raises(DomainError, match="positive maximum, got -1"):
        psnr(torch.rand(1, 8, 8), torch.rand(1, 8, 8), -1.0)
