"""Scores of a classifier on data."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from invertible.classifier import Classifier
from invertible.errors import ShapeError
from invertible.training.scoring import scoring


@dataclass(frozen=True)
class ClassificationScore:
    """What `evaluate_classifier` measured.

    Attributes:
        confusion: number of samples by true class (rows) and predicted class (columns), (classes, classes), int64.
            Samples without finite logits are in no column.
        losses: cross-entropy of each sample in nats, (N,), float64; not finite where the model broke.
        labels: true class of each sample, (N,).
        predicted: predicted class of each sample, (N,); -1 where its logits are not finite.
    """

    confusion: Tensor
    losses: Tensor
    labels: Tensor
    predicted: Tensor

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.losses)

    @property
    def accuracy(self) -> float:
        """Share of the samples whose class is right; NaN without samples."""
        return float(self.confusion.trace()) / self.samples if self.samples else math.nan

    @property
    def standard_error(self) -> float:
        """Of the accuracy a: sqrt(a (1 - a)/N), that of a binomial proportion."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.samples) if self.samples else math.nan

    @property
    def cross_entropy(self) -> float:
        """Mean over all samples in nats; not finite if one of them is not."""
        return float(self.losses.mean())

    @property
    def non_finite(self) -> int:
        """Number of samples whose loss is not finite; they count as wrong."""
        return int((~torch.isfinite(self.losses)).sum())

    @property
    def per_class(self) -> list[float]:
        """Accuracy of the samples of each class; NaN for a class without samples."""
        counts = torch.bincount(self.labels, minlength=len(self.confusion)).double()
        return (self.confusion.diagonal().double() / counts).tolist()

    def __str__(self) -> str:
        broken = f", {self.non_finite} without a finite loss" if self.non_finite else ""
        return (
            f"accuracy {100 * self.accuracy:.2f} % ± {100 * self.standard_error:.2f} on {self.samples} samples, "
            f"cross-entropy {self.cross_entropy:.4f} nats{broken}"
        )


@torch.no_grad()
def evaluate_classifier(model: Classifier, batches: Iterable[tuple[Tensor, Tensor]]) -> ClassificationScore:
    """Score a classifier on data, sample by sample, in eval mode and where it is; nothing about it is changed.

    Samples whose logits are not finite count as wrong; they are never dropped.

    Args:
        model: the classifier.
        batches: (x, y): images (B, C, H, W), integer levels or floating-point numbers on [0, 1], and labels (B,).

    Raises:
        ShapeError: if a label is none of the model's classes.

    Example:
        >>> digits = data.load("digits")
        >>> print(evaluate_classifier(model, [(digits.test.x, digits.test.y)]))
    """
    losses, labels, predicted = [], [], []
    with scoring(model):
        for x, y in batches:
            _check_labels(y, model.classes)
            x = x.to(model.anchor) if x.is_floating_point() else x.to(model.anchor.device)
            logits = model(x).double().cpu()
            losses.append(functional.cross_entropy(logits, y.cpu(), reduction="none"))
            predicted.append(torch.where(logits.isfinite().all(1), logits.argmax(1), -1))
            labels.append(y.cpu())
    return _score(model.classes, losses, labels, predicted)


def _score(classes: int, losses: list[Tensor], labels: list[Tensor], predicted: list[Tensor]) -> ClassificationScore:
    none = torch.empty(0, dtype=torch.int64)
    y, p = torch.cat([none, *labels]), torch.cat([none, *predicted])
    pairs = (y * classes + p)[p >= 0]
    confusion = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    return ClassificationScore(confusion, torch.cat([torch.empty(0, dtype=torch.float64), *losses]), y, p)


def _check_labels(y: Tensor, classes: int) -> None:
    if y.is_floating_point() or (len(y) and not 0 <= int(y.min()) <= int(y.max()) < classes):
        raise ShapeError(
            f"evaluate_classifier: expected labels 0 .. {classes - 1}, integers, as the model has them, got "
            f"{y.dtype} in {float(y.min()):g} .. {float(y.max()):g}."
        )
