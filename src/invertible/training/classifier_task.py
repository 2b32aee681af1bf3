"""A run that trains a classifier."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from invertible import saving
from invertible.classifier import Classifier
from invertible.data import load
from invertible.training.checkpoints import MODEL
from invertible.training.classification import ClassificationScore, evaluate_classifier
from invertible.training.classifier_data import ClassifierData, ImagesInMemory
from invertible.training.classifier_module import ClassifierModule
from invertible.training.classifier_plots import plot_confusion, plot_curves
from invertible.training.preparation import build_classifier, standardise
from invertible.training.progress import Progress
from invertible.training.recipe import Recipe
from invertible.training.records import read_history
from invertible.training.summary import SPLITS, write_metrics
from invertible.training.task import Task


class ClassifierTask(Task):
    """Cross-entropy, with accuracies, a confusion matrix and curves at the end.

    Args:
        recipe: the recipe.
        data_dir: where data sets lie; the default of `invertible.data` if `None`.
    """

    def __init__(self, recipe: Recipe, data_dir: Path | None) -> None:
        super().__init__(recipe, data_dir)
        self._data = classifier_data(recipe, data_dir)
        self.classifier = self.prepared(build_classifier(recipe, self.data))
        sections = recipe.optimizer, self.schedule, recipe.classification
        self.module = ClassifierModule(self.classifier, *sections, **self.module_options)

    @property
    def data(self) -> ClassifierData:
        """The data, held in memory or read from a folder."""
        return self._data

    @property
    def metadata(self) -> dict[str, str]:
        """Names of the classes, and how images were scaled before they were cut: what `invertible predict` needs."""
        stream = self.recipe.data.stream
        names = {"class_names": json.dumps(list(self.data.classes))}
        return names if stream is None else {**names, "resize": str(stream.resize)}

    def initialise(self, device: torch.device) -> None:
        """Standardise by the training images."""
        standardise(self.classifier.to(device), self.data)

    def callbacks(self, folder: Path, interval: int, progress: Progress) -> list[Callback]:
        """None."""
        return []

    def write_results(
        self, folder: Path, best: dict[str, Any], device: torch.device, say: Callable[[str], None]
    ) -> dict[str, Any]:
        """Accuracy and cross-entropy of each split, and classes and confusion matrix of the last one: the test data.

        Draws `confusion.png` and `curves.png`. A failure to draw is reported and ends nothing.
        """
        model = saving.load(folder / MODEL, device=device)
        assert isinstance(model, Classifier)
        batches = {name: self.data.evaluation(name) for name in SPLITS}
        scores = {name: evaluate_classifier(model, each) for name, each in batches.items() if each is not None}
        results = {name: _entry(score) for name, score in scores.items()}
        last = list(scores)[-1]
        classes = {
            "split": last,
            "names": list(self.data.classes),
            "accuracy": [_finite(value) for value in scores[last].per_class],
            "confusion": scores[last].confusion.tolist(),
        }
        metrics = write_metrics(folder, self.recipe, model, self.module.unit, {**best, **results, "classes": classes})
        try:
            plot_confusion(
                scores[last], self.data.classes, f"{last} data of {self.data.name}", folder / "confusion.png"
            )
            plot_curves(read_history(folder / "history.csv"), best["step"], folder / "curves.png")
        except Exception as error:
            say(f"pictures of the results could not be drawn: {error}")
        return metrics


def classifier_data(recipe: Recipe, data_dir: Path | None) -> ClassifierData:
    """The data of a recipe: read from a folder while training if it says `data.stream`, else held in memory."""
    if recipe.data.stream is not None:
        from invertible.training.streaming import StreamedImages

        return StreamedImages(recipe, data_dir)
    return ImagesInMemory(load(recipe.data.name, data_dir=data_dir, **recipe.data.options), recipe)


def _entry(score: ClassificationScore) -> dict[str, Any]:
    return {
        "accuracy": _finite(score.accuracy),
        "standard_error": _finite(score.standard_error),
        "cross_entropy": _finite(score.cross_entropy),
        "samples": score.samples,
        "non_finite": score.non_finite,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
