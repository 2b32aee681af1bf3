"""What a classifier makes of data: classes, features, and whether the features give the data back."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from invertible.classifier import Classifier
from invertible.cli.output import model_file
from invertible.errors import ConfigError
from invertible.training.classification import ClassificationScore
from invertible.training.scoring import scoring

# Of a round trip, on data scaled to [0, 1]: a quarter of one of 256 grey levels.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Predictions:
    """What a classifier makes of N samples.

    Attributes:
        logits: (N, classes), float64.
        features: of the body, (N, ...), float32; `None` unless asked for.
        errors: largest absolute error of the round trip of each sample, (N,), on data scaled to [0, 1]; `None` unless
            asked for.
    """

    logits: Tensor
    features: Tensor | None
    errors: Tensor | None

    @property
    def finite(self) -> Tensor:
        """Whether all logits of a sample are finite, (N,)."""
        return self.logits.isfinite().all(1)

    @property
    def probabilities(self) -> Tensor:
        """p(class | x), (N, classes)."""
        return self.logits.softmax(1)

    def ranked(self, top: int) -> Tensor:
        """The most probable classes of each sample, (N, top), the first one first."""
        return self.logits.sort(dim=1, descending=True, stable=True).indices[:, :top]

    @property
    def lost(self) -> Tensor:
        """Whether a sample does not come back from its features, (N,); none if that was not asked for."""
        if self.errors is None:
            return torch.zeros(len(self.logits), dtype=torch.bool)
        # Not errors > TOLERANCE, which is false for NaN.
        return ~(self.errors <= TOLERANCE)

    @property
    def passed(self) -> bool:
        """Whether all predictions are finite, and no sample is lost."""
        return bool(self.finite.all()) and not self.lost.any()

    def score(self, labels: Tensor) -> ClassificationScore:
        """How often the classes are right, for labels (N,). Samples without finite logits count as wrong."""
        predicted = torch.where(self.finite, self.logits.argmax(1), -1)
        classes, known = self.logits.shape[1], predicted >= 0
        confusion = torch.bincount((labels * classes + predicted)[known], minlength=classes**2).view(classes, classes)
        return ClassificationScore(
            confusion, functional.cross_entropy(self.logits, labels, reduction="none"), labels, predicted
        )


@torch.no_grad()
def predictions(
    model: Classifier, batches: Iterable[Tensor], *, features: bool = False, check: bool = False
) -> Predictions:
    """Classify batches of data, (B, *shape), in eval mode and where the model is; nothing about it is changed.

    Args:
        model: the classifier.
        batches: integer levels, or floating-point numbers on [0, 1].
        features: keep the features of the body.
        check: invert the features, and compare with the data.
    """
    logits, kept, errors = [], [], []
    with scoring(model):
        for batch in batches:
            x = model.scaled(batch.to(model.anchor) if batch.is_floating_point() else batch)
            found = model.body(x)
            logits.append(model.head(found).double().cpu())
            if features:
                kept.append(found.float().cpu())
            if check:
                # The largest of a row with NaN is NaN.
                errors.append((model.invert(found) - x).abs().flatten(1).amax(1).double().cpu())
    return Predictions(torch.cat(logits), torch.cat(kept) if features else None, torch.cat(errors) if check else None)


def class_names(path: Path, classes: int) -> tuple[str, ...] | None:
    """Names of a model's classes, from its file or from the figures beside it in the folder of a run.

    Args:
        path: the model file, or the folder of a run.
        classes: how many there are.

    Returns:
        The names; `None` if there are none.

    Raises:
        ConfigError: if they are of another number, or no list of names.
    """
    file = model_file(path)
    names, where = header(file).get("class_names"), str(file)
    record = file.with_name("metrics.json")
    try:
        if names is not None:
            found = json.loads(names)
        elif record.is_file():
            where = str(record)
            found = json.loads(record.read_text(encoding="utf-8")).get("classes", {}).get("names")
        else:
            return None
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{where}: expected names of classes in JSON, got none that can be read.") from error
    if found is None:
        return None
    if not isinstance(found, list) or len(found) != classes:
        raise ConfigError(
            f"{where}: expected a list of {classes} names of classes, as the model has them, got {found!r}."
        )
    return tuple(map(str, found))


def default_resize(path: Path) -> int | None:
    """The shorter side to which images were scaled when the model was validated; `None` if its file does not say.

    Raises:
        ConfigError: if what the file says is no such number.
    """
    text = header(model_file(path)).get("resize")
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{model_file(path)}: expected resize to be an integer of at least 1, got {text!r}.")
    return int(text)


def header(file: Path) -> dict[str, str]:
    """The strings that `invertible.save(..., metadata=...)` put into a model file."""
    with safe_open(file, "pt") as opened:
        return opened.metadata() or {}
