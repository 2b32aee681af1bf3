"""Scores of a model that reconstructs, volume by volume, and the losses it learns by."""

import math
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from invertible.data.mri import MRIBatch
from invertible.errors import DataError
from invertible.image_metrics import Quality, structural_similarity
from invertible.models.reconstructor import Reconstructor
from invertible.physics.operator import Observation
from invertible.training.scoring import scoring

METRICS = ("nmse", "psnr", "ssim")


def _ssim(target: Tensor, magnitude: Tensor, maximum: Tensor) -> Tensor:
    return 1 - structural_similarity(target, magnitude, maximum)


def _l1(target: Tensor, magnitude: Tensor, maximum: Tensor) -> Tensor:
    return (target - magnitude).abs().mean((1, 2)) / maximum


def _mse(target: Tensor, magnitude: Tensor, maximum: Tensor) -> Tensor:
    return (target - magnitude).square().mean((1, 2)) / maximum.square()


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"ssim": _ssim, "l1": _l1, "mse": _mse}


def slice_losses(loss: str, batch: MRIBatch, estimate: Tensor) -> Tensor:
    """The loss of each slice of a batch, its magnitude cropped to the target and divided by its volume's maximum.

    Args:
        loss: `"ssim"`, 1 - structural similarity; `"l1"`, mean |x - t|/max; `"mse"`, mean |x - t|^2/max^2.
        batch: with targets.
        estimate: (B, c, H, W).

    Returns:
        (B,).

    Raises:
        DataError: if the batch has no targets.
    """
    target, maximum = _targets(batch)
    return LOSSES[loss](target, batch.magnitude(estimate), maximum)


@dataclass(frozen=True)
class VolumeScore:
    """Metrics of one volume, as fastMRI computes them.

    Attributes:
        volume: name of its file.
        slices: number of slices.
        nmse: normalised mean squared error.
        psnr: peak signal-to-noise ratio in decibels.
        ssim: structural similarity.
        non_finite: slices whose reconstruction is not finite; the metrics are then NaN.
    """

    volume: str
    slices: int
    nmse: float
    psnr: float
    ssim: float
    non_finite: int = 0


@dataclass(frozen=True)
class ReconstructionScore:
    """What `evaluate_reconstructor` measured.

    Attributes:
        volumes: metrics of each volume.
    """

    volumes: tuple[VolumeScore, ...]

    def mean(self, metric: str) -> float:
        """Mean of `"nmse"`, `"psnr"` or `"ssim"` over the volumes; NaN without volumes, or if one is not finite."""
        values = self._values(metric)
        return float(values.mean()) if len(values) else math.nan

    def deviation(self, metric: str) -> float:
        """Standard deviation over the volumes; NaN for fewer than two."""
        values = self._values(metric)
        return float(values.std()) if len(values) > 1 else math.nan

    @property
    def slices(self) -> int:
        """Number of slices."""
        return sum(each.slices for each in self.volumes)

    @property
    def non_finite(self) -> int:
        """Number of slices whose reconstruction is not finite."""
        return sum(each.non_finite for each in self.volumes)

    def _values(self, metric: str) -> Tensor:
        return torch.tensor([getattr(each, metric) for each in self.volumes], dtype=torch.float64)


class VolumeScores:
    """Puts volumes together from batches of slices, one volume after the other, and scores each when it is whole.

    No more than one volume is held.
    """

    def __init__(self) -> None:
        self._scores: list[VolumeScore] = []
        self._name = ""
        self._slices: list[tuple[Tensor, Tensor]] = []

    def add(self, batch: MRIBatch, magnitude: Tensor) -> None:
        """Add the magnitudes (B, h, w) of a batch's slices.

        Raises:
            DataError: if the batch has no targets.
        """
        target, _ = _targets(batch)
        for name, *images in zip(batch.volumes, target.cpu(), magnitude.detach().cpu(), strict=True):
            if name != self._name:
                self._close()
            self._name = name
            self._slices.append((images[0], images[1]))

    def score(self) -> ReconstructionScore:
        """Metrics of all volumes; the last one counts as whole."""
        self._close()
        return ReconstructionScore(tuple(self._scores))

    def _close(self) -> None:
        if not self._slices:
            return
        target, magnitude = (torch.stack(each) for each in zip(*self._slices, strict=True))
        broken = int((~magnitude.isfinite()).flatten(1).any(1).sum())
        found = Quality(math.nan, math.nan, math.nan) if broken else Quality.of(target, magnitude)
        self._scores.append(VolumeScore(self._name, len(target), **vars(found), non_finite=broken))
        self._slices = []


@torch.no_grad()
def evaluate_reconstructor(
    model: Reconstructor, batches: Iterable[MRIBatch], *, zero_filled: bool = False
) -> ReconstructionScore:
    """Score a model on volumes, in eval mode and where it is; nothing about it is changed.

    Args:
        model: the model.
        batches: slices with targets, one volume after the other.
        zero_filled: score the zero-filled image A^H y in place of what the model makes of it.

    Raises:
        DataError: if there are no targets.

    Example:
        >>> loader = slice_loader(SliceDataset("validation", RandomColumns((0.08,), (4,))), 8)
        >>> print(evaluate_reconstructor(model, loader).mean("ssim"))
    """
    scores, like = VolumeScores(), next(model.parameters())
    with scoring(model):
        for each in batches:
            batch = in_precision_of(like, each.to(like.device))
            observation = batch.observation
            scores.add(batch, batch.magnitude(observation.backprojection() if zero_filled else model(observation)))
    return scores.score()


def in_precision_of(like: Tensor, batch: MRIBatch) -> MRIBatch:
    """A batch in float64 where a model's parameter is, else as it is: observations are of no lower precision."""
    if like.dtype != torch.float64:
        return batch
    given = batch.observation
    operator = deepcopy(given.operator).double()
    observation = Observation(operator, given.data.to(torch.complex128), _double(given.context))
    return replace(batch, observation=observation, target=_double(batch.target), maximum=_double(batch.maximum))


def _double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.double()


def _targets(batch: MRIBatch) -> tuple[Tensor, Tensor]:
    if batch.target is None or batch.maximum is None:
        raise DataError(
            f"{batch.volumes[0]}: expected slices with a target and its maximum, got none. fastMRI's test files have "
            "none; use its training or validation files."
        )
    return batch.target, batch.maximum
