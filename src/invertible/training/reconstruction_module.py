"""The Lightning module that trains a model that reconstructs."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from invertible.data.mri import MRIBatch
from invertible.errors import ConfigError
from invertible.models.reconstructor import Reconstructor
from invertible.training.randomness import drawing_from
from invertible.training.recipe import Optimizer, Reconstruction, Schedule
from invertible.training.recipe_module import RecipeModule
from invertible.training.reconstruction import METRICS, VolumeScores, in_precision_of, slice_losses
from invertible.training.scan_batches import Parcel


class ReconstructionModule(RecipeModule):
    """Learns to reconstruct images from observations with targets, in any `lightning.pytorch.Trainer`.

    A batch is a `Parcel` of an `MRIBatch`, or the batch itself. The validation has a loader for each name: the slices
    of one volume after the other. Dropout depends on seed, step and process alone, so that a resumed run sees that of
    an uninterrupted one.

    Logged: `train` and `validation`, the mean loss of a slice; for each name `validation_nmse_NAME`,
    `validation_psnr_NAME` and `validation_ssim_NAME`, means over volumes; `gradient_norm`, `learning_rate`, and
    `validation_non_finite`, the number of slices that are not finite. With several processes each scores whole volumes.

    Args:
        reconstructor: the model.
        optimizer: the optimizer; Adam if `None`.
        schedule: the learning rate over the steps; constant if `None`.
        reconstruction: the loss; 1 - structural similarity of the last estimate if `None`.
        names: of the loaders of the validation, such as `("4x", "8x")`.
        steps: length of the run, for schedules that end; the trainer's own estimate if `None`.
        gradient_clip: largest 2-norm of the gradient; `None` for no limit.
        seed: of dropout.

    Raises:
        NonFiniteLossError: in training, at the first step whose loss or gradient is not finite.
        ConfigError: in training, if the loss has other weights than the model has steps.
        DataError: on a batch without targets.

    Example:
        >>> module = ReconstructionModule(models.irim("small"), Optimizer(lr=1e-4), names=("4x", "8x"))
        >>> lightning.pytorch.Trainer(max_steps=1000).fit(module, train_loader, [loader_4x, loader_8x])
    """

    remedy: ClassVar[str] = "a schedule.warmup of some hundred steps, or training.gradient_clip"

    def __init__(
        self,
        reconstructor: Reconstructor,
        optimizer: Optimizer | None = None,
        schedule: Schedule | None = None,
        reconstruction: Reconstruction | None = None,
        *,
        names: Sequence[str] = ("all",),
        steps: int | None = None,
        gradient_clip: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer, schedule, steps=steps, gradient_clip=gradient_clip, seed=seed)
        self.reconstructor, self.reconstruction = reconstructor, reconstruction or Reconstruction()
        self.names, self.unit = tuple(names), f"{self.reconstruction.loss}_loss"
        self.metric_names = [f"validation_{metric}_{name}" for name in self.names for metric in METRICS]
        self.validation_figures = ("validation", *self.metric_names, "validation_non_finite")
        self.means = nn.ModuleList(MeanMetric(nan_strategy="disable") for _ in self.metric_names)
        self.scores = [VolumeScores() for _ in self.names]

    @property
    def model(self) -> Reconstructor:
        """What is trained."""
        return self.reconstructor

    def forward(self, batch: MRIBatch) -> list[Tensor]:
        """The estimates that the loss is of, (B, c, H, W) each, the result last; not finite where the model breaks."""
        validate, self.reconstructor.validate = self.reconstructor.validate, False
        try:
            if self.reconstruction.over == "all":
                return self.reconstructor.estimates(batch.observation)
            return [self.reconstructor(batch.observation)]
        finally:
            self.reconstructor.validate = validate

    def criterion(self, figures: dict[str, float]) -> tuple[float, ...]:
        """1 - the structural similarity, over volumes and names alike; infinite if a slice is not finite."""
        if figures["validation_non_finite"]:
            return (torch.inf,)
        return (1 - sum(figures[f"validation_ssim_{name}"] for name in self.names) / len(self.names),)

    def remark(self, figures: dict[str, float]) -> str:
        """The structural similarities."""
        return "SSIM " + ", ".join(f"{figures[f'validation_ssim_{name}']:.3f} ({name})" for name in self.names)

    def training_step(self, batch: Parcel | MRIBatch, batch_idx: int) -> Tensor:
        """The mean loss of a batch."""
        scans = self._opened(batch)
        with drawing_from(self.device, "dropout", self.seed, self.global_step, self.global_rank):
            estimates = self(scans)
        loss = self._losses(scans, estimates).mean()
        self.require_finite("loss", loss)
        self.log("train", loss.detach(), batch_size=len(scans))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        super().on_validation_epoch_start()
        self.scores = [VolumeScores() for _ in self.names]

    def validation_step(self, batch: Parcel | MRIBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add the losses of a batch to the mean, and its slices to their volume."""
        scans = self._opened(batch)
        estimates = self(scans)
        self.add_validation(self._losses(scans, estimates))
        self.scores[dataloader_idx].add(scans, scans.magnitude(estimates[-1]))

    def on_validation_epoch_end(self) -> None:
        """Log the means over all processes."""
        super().on_validation_epoch_end()
        found = [scores.score() for scores in self.scores]
        values = [[getattr(each, metric) for each in score.volumes] for score in found for metric in METRICS]
        for name, mean, each in zip(self.metric_names, self.means, values, strict=True):
            mean.reset()  # pyright: ignore[reportCallIssue]
            mean.update(torch.tensor(each, device=self.device))  # pyright: ignore[reportCallIssue]
            self.log(name, mean.compute(), sync_dist=True)  # pyright: ignore[reportCallIssue]

    def _losses(self, batch: MRIBatch, estimates: list[Tensor]) -> Tensor:
        """Of each slice, (B,): the weighted mean over the estimates."""
        weights = self.reconstruction.weights or (1.0,) * len(estimates)
        if len(weights) != len(estimates):
            raise ConfigError(
                f"reconstruction.weights: expected {len(estimates)}, one for each step of the model, got "
                f"{len(weights)}."
            )
        losses = [slice_losses(self.reconstruction.loss, batch, estimate) for estimate in estimates]
        return sum(w * each for w, each in zip(weights, losses, strict=True)) / sum(weights)  # pyright: ignore[reportReturnType]

    def _opened(self, batch: Parcel | MRIBatch) -> MRIBatch:
        scans = batch.batch if isinstance(batch, Parcel) else batch
        return in_precision_of(next(self.reconstructor.parameters()), scans)
