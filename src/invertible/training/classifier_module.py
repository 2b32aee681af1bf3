"""The Lightning module that trains a classifier."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric

from invertible.classifier import Classifier
from invertible.errors import ShapeError
from invertible.training.mixup import draw_mix
from invertible.training.randomness import drawing_from
from invertible.training.recipe import Classification, Optimizer, Schedule
from invertible.training.recipe_module import RecipeModule


class ClassifierModule(RecipeModule):
    """Cross-entropy for a classifier, in any `lightning.pytorch.Trainer`.

    A batch is (x, y): images (B, C, H, W), integer levels or floating-point numbers on [0, 1], and labels (B,), int64.
    Dropout and mixup depend on seed, step and process alone, so a resumed run sees those of an uninterrupted one.

    Logged: `train`, the loss that is minimised, with label smoothing and mixup where there are any; `train_accuracy`;
    `validation`, the plain mean cross-entropy in nats; `validation_accuracy`; `gradient_norm`, `learning_rate`, and
    `validation_non_finite`, the number of validation samples without a finite loss, which count as wrong. Accuracies
    are fractions. With several processes the running averages of batch normalisation are averaged over them for
    every validation.

    Args:
        classifier: the model. Call `Standardise.fit` of its first block before the fit.
        optimizer: the optimizer; Adam if `None`.
        schedule: the learning rate over the steps; constant if `None`.
        classification: label smoothing and mixup; neither if `None`.
        steps: length of the run, for schedules that end; the trainer's own estimate if `None`.
        gradient_clip: largest 2-norm of the gradient; `None` for no limit.
        seed: of dropout and mixup.

    Raises:
        NonFiniteLossError: in training, at the first step whose loss or gradient is not finite.
        ShapeError: on a batch that is no pair.

    Example:
        >>> module = ClassifierModule(models.revnet(38), Optimizer(name="sgd", lr=0.1))
        >>> lightning.pytorch.Trainer(max_epochs=10).fit(module, train_loader, validation_loader)
    """

    unit = "nats"
    training_figures: tuple[str, ...] = ("train", "train_accuracy", "gradient_norm", "learning_rate")
    validation_figures: tuple[str, ...] = ("validation", "validation_accuracy", "validation_non_finite")
    remedy: ClassVar[str] = "a schedule.warmup of some hundred steps, or training.gradient_clip"

    def __init__(
        self,
        classifier: Classifier,
        optimizer: Optimizer | None = None,
        schedule: Schedule | None = None,
        classification: Classification | None = None,
        *,
        steps: int | None = None,
        gradient_clip: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer, schedule, steps=steps, gradient_clip=gradient_clip, seed=seed)
        self.classifier, self.classification = classifier, classification or Classification()
        self.validation_right = MeanMetric()

    @property
    def model(self) -> Classifier:
        """The classifier."""
        return self.classifier

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes), not finite where the model breaks."""
        validate, self.classifier.validate = self.classifier.validate, False
        try:
            return self.classifier(x)
        finally:
            self.classifier.validate = validate

    def criterion(self, figures: dict[str, float]) -> tuple[float, ...]:
        """Error rate, then cross-entropy; infinite if a sample has no finite loss."""
        if figures["validation_non_finite"]:
            return torch.inf, torch.inf
        return 1 - figures["validation_accuracy"], figures["validation"]

    def remark(self, figures: dict[str, float]) -> str:
        """The accuracy."""
        return f"{100 * figures['validation_accuracy']:.1f} % right"

    def training_step(self, batch: Tensor | Sequence[Tensor], batch_idx: int) -> Tensor:
        """The mean loss of a batch."""
        x, y = self._unpack(batch)
        smoothing, alpha = self.classification.label_smoothing, self.classification.mixup
        with drawing_from(x.device, "dropout", self.seed, self.global_step, self.global_rank):
            if alpha:
                mix = draw_mix(alpha, len(x), x.device, self.seed, self.global_step, self.global_rank)
                logits = self(mix.inputs(self.classifier.scaled(x)))
                loss, accuracy = mix.loss(logits, y, smoothing), mix.accuracy(logits, y)
            else:
                logits = self(x)
                loss = functional.cross_entropy(logits, y, label_smoothing=smoothing)
                accuracy = (logits.argmax(1) == y).float().mean()
        self.require_finite("loss", loss)
        self.log("train", loss.detach(), batch_size=len(x))
        self.log("train_accuracy", accuracy, batch_size=len(x))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation; give all processes the same running averages."""
        super().on_validation_epoch_start()
        self.validation_right.reset()
        if self.trainer.world_size > 1 and not self.trainer.sanity_checking:
            for buffer in _running_averages(self.classifier):
                buffer.copy_(self.trainer.strategy.reduce(buffer.clone(), reduce_op="mean"))

    def validation_step(self, batch: Tensor | Sequence[Tensor], batch_idx: int) -> None:
        """Add the cross-entropies of a batch to the mean, and the right classes to the accuracy."""
        x, y = self._unpack(batch)
        logits = self(x)
        values = functional.cross_entropy(logits.float(), y, reduction="none")
        self.add_validation(values)
        self.validation_right.update(((logits.argmax(1) == y) & values.isfinite()).float())

    def on_validation_epoch_end(self) -> None:
        """Log the means over all processes."""
        super().on_validation_epoch_end()
        self.log("validation_accuracy", self.validation_right.compute(), sync_dist=True)

    def _unpack(self, batch: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        if isinstance(batch, Tensor) or len(batch) != 2:
            raise ShapeError(
                "ClassifierModule: expected a batch (x, y) of images and labels, got "
                f"{'one tensor' if isinstance(batch, Tensor) else f'{len(batch)} parts'}."
            )
        x, y = batch
        return x.to(self.classifier.anchor.dtype) if x.is_floating_point() else x, y


def _running_averages(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            yield from (each for each in (module.running_mean, module.running_var) if each is not None)
