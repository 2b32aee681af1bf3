"""How close reconstructed images are: NMSE, PSNR and SSIM of a volume, as fastMRI computes them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from invertible.errors import DomainError, ShapeError
from invertible.shapes import at_least_float32

WINDOW = 7
K1, K2 = 0.01, 0.03


@dataclass(frozen=True)
class Quality:
    """How close a volume is to its target, as fastMRI measures it.

    Attributes:
        nmse: normalised mean squared error.
        psnr: peak signal-to-noise ratio in decibels.
        ssim: structural similarity.
    """

    nmse: float
    psnr: float
    ssim: float

    @classmethod
    def of(cls, target: Tensor, prediction: Tensor, maximum: float | None = None) -> Quality:
        """Judge magnitudes (slices, h, w); `maximum` is the volume's largest, the target's by default."""
        judged = nmse(target, prediction), psnr(target, prediction, maximum), ssim(target, prediction, maximum)
        return cls(*map(float, judged))


def nmse(target: Tensor, prediction: Tensor) -> Tensor:
    """Normalised mean squared error, |target - prediction|^2 / |target|^2, of a whole volume.

    Args:
        target: true magnitudes (slices, h, w).
        prediction: (slices, h, w).

    Returns:
        A 0-dim tensor, float64.

    Raises:
        ShapeError: if the volumes are of different shapes or not of three axes.
        DomainError: if a value is not finite, or the target is zero everywhere.

    Reference:
        Zbontar et al., 2018, "fastMRI: An open dataset and benchmarks for accelerated MRI", section 5.
    """
    target, prediction = _volumes("nmse", target, prediction)
    energy = target.square().sum()
    if energy == 0:
        raise DomainError("nmse: expected a target that is not zero everywhere, got zeros. Leave the volume out.")
    return (target - prediction).square().sum() / energy


def psnr(target: Tensor, prediction: Tensor, maximum: float | None = None) -> Tensor:
    """Peak signal-to-noise ratio, 10 log10(maximum^2 / mean |target - prediction|^2) dB, of a whole volume.

    It is infinite where the two are equal.

    Args:
        target: true magnitudes (slices, h, w).
        prediction: (slices, h, w).
        maximum: the largest value there can be; the target's own by default, as fastMRI has it.

    Returns:
        A 0-dim tensor, float64, in decibels.

    Raises:
        ShapeError: if the volumes are of different shapes or not of three axes.
        DomainError: if a value is not finite, or the maximum not positive.
    """
    target, prediction = _volumes("psnr", target, prediction)
    maximum = _maximum("psnr", target, maximum)
    return 10 * torch.log10(maximum**2 / (target - prediction).square().mean())


def ssim(target: Tensor, prediction: Tensor, maximum: float | None = None) -> Tensor:
    """Structural similarity, the mean over a volume's slices; 1 for equal volumes.

    Uniform 7x7 windows that lie within the image, unbiased covariances, K1 = 0.01, K2 = 0.03 and the volume's maximum
    as the range of the data: what fastMRI reports, and scikit-image's `structural_similarity` by default.

    Args:
        target: true magnitudes (slices, h, w), h and w at least 7.
        prediction: (slices, h, w).
        maximum: the largest value there can be; the target's own by default, over all slices.

    Returns:
        A 0-dim tensor, float64, at most 1.

    Raises:
        ShapeError: if the volumes are of different shapes, not of three axes, or smaller than a window.
        DomainError: if a value is not finite, or the maximum not positive.

    Reference:
        Wang et al., 2004, "Image quality assessment: from error visibility to structural similarity", equation 13.
    """
    target, prediction = _volumes("ssim", target, prediction)
    maximum = _maximum("ssim", target, maximum)
    return structural_similarity(target, prediction, target.new_full((len(target),), maximum)).mean()


def structural_similarity(target: Tensor, prediction: Tensor, maximum: Tensor) -> Tensor:
    """Structural similarity of each image of a batch, differentiable; `ssim` says which.

    Args:
        target: true magnitudes (B, h, w), h and w at least 7.
        prediction: (B, h, w).
        maximum: the largest value there can be, of the volume each image belongs to, (B,), positive.

    Returns:
        (B,), in float32 at least.

    Raises:
        ShapeError: if shapes do not agree, or images are smaller than a window.
    """
    _check_batch(target, prediction, maximum)
    # Divided by the maximum first: E[x^2] - E[x]^2 keeps its digits against C2 whatever the scanner's units are.
    scale = at_least_float32(maximum)[:, None, None]
    x, y = at_least_float32(target) / scale, at_least_float32(prediction) / scale
    mean_x, mean_y, xx, yy, xy = (
        functional.avg_pool2d(each, WINDOW, stride=1) for each in (x, y, x.square(), y.square(), x * y)
    )
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    variance_x, variance_y = unbiased * (xx - mean_x.square()), unbiased * (yy - mean_y.square())
    covariance = unbiased * (xy - mean_x * mean_y)
    c1, c2 = K1**2, K2**2
    above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    below = (mean_x.square() + mean_y.square() + c1) * (variance_x + variance_y + c2)
    return (above / below).mean((-2, -1))


def ssim_loss(target: Tensor, prediction: Tensor, maximum: Tensor) -> Tensor:
    """1 - structural similarity, the mean over a batch, to be minimised; its gradient is that of `prediction`.

    Args:
        target: true magnitudes (B, h, w), h and w at least 7.
        prediction: (B, h, w).
        maximum: of the volume each image belongs to, (B,), positive.

    Returns:
        A 0-dim tensor, from 0 for equal images.

    Raises:
        ShapeError: if shapes do not agree, or images are smaller than a window.
    """
    return 1 - structural_similarity(target, prediction, maximum).mean()


def _volumes(owner: str, target: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64, checked."""
    if target.dim() != 3 or target.shape != prediction.shape or not target.numel():
        raise ShapeError(
            f"{owner}: expected target and prediction of one shape (slices, height, width), got {tuple(target.shape)} "
            f"and {tuple(prediction.shape)}. Metrics are a volume's; crop the prediction to the target."
        )
    for name, each in (("target", target), ("prediction", prediction)):
        if each.is_complex():
            raise ShapeError(f"{owner}: expected {name} to hold magnitudes, got {each.dtype}. Take its absolute value.")
        if not each.isfinite().all():
            raise DomainError(f"{owner}: expected finite values in {name}, got NaN or infinity.")
    return target.double(), prediction.double()


def _maximum(owner: str, target: Tensor, maximum: float | None) -> float:
    maximum = float(target.max()) if maximum is None else maximum
    if not 0 < maximum < math.inf:
        raise DomainError(f"{owner}: expected a positive maximum, got {maximum}. It is the volume's largest value.")
    return maximum


def _check_batch(target: Tensor, prediction: Tensor, maximum: Tensor) -> None:
    if target.dim() != 3 or target.shape != prediction.shape or maximum.shape != target.shape[:1]:
        raise ShapeError(
            "structural_similarity: expected target and prediction of shape (batch, height, width) and maximum of "
            f"shape (batch,), got {tuple(target.shape)}, {tuple(prediction.shape)} and {tuple(maximum.shape)}."
        )
    if min(target.shape[1:]) < WINDOW:
        raise ShapeError(
            f"structural_similarity: expected images of at least {WINDOW} x {WINDOW} pixels, the size of a window, got "
            f"{tuple(target.shape[1:])}."
        )
