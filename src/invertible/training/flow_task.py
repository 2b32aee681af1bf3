"""A run that trains a flow."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from invertible import saving
from invertible.blocks.continuous import keep_energies
from invertible.data import load
from invertible.flow import Flow
from invertible.training.checkpoints import MODEL
from invertible.training.datamodule import FlowData
from invertible.training.evaluation import evaluate, unit_of
from invertible.training.module import FlowModule
from invertible.training.penalties import penalty_of
from invertible.training.preparation import build_flow, initialise
from invertible.training.probe import monitor_of
from invertible.training.progress import Progress
from invertible.training.recipe import Recipe
from invertible.training.records import SamplePictures
from invertible.training.summary import SPLITS, TRAIN_SAMPLES, write_metrics
from invertible.training.task import Task

SAMPLES_EVERY = 10


class FlowTask(Task):
    """Maximum likelihood, with pictures of samples and a monitor of the inverse.

    Args:
        recipe: the recipe.
        data_dir: where data sets lie; the default of `invertible.data` if `None`.
    """

    def __init__(self, recipe: Recipe, data_dir: Path | None) -> None:
        super().__init__(recipe, data_dir)
        self._data = FlowData(load(recipe.data.name, data_dir=data_dir, **recipe.data.options), recipe)
        self.flow = self.prepared(build_flow(recipe, self.data.data))
        penalty = penalty_of(recipe.training.penalty)
        self.module = FlowModule(self.flow, recipe.optimizer, self.schedule, penalty=penalty, **self.module_options)
        if recipe.training.energies is not None:
            keep_energies(self.flow)
            self.module.energies = recipe.training.energies

    @property
    def data(self) -> FlowData:
        """The data, held in memory."""
        return self._data

    def initialise(self, device: torch.device) -> None:
        """Set the ActNorms from the first batch."""
        initialise(self.flow.to(device), self.data, self.recipe.training.seed)

    def callbacks(self, folder: Path, interval: int, progress: Progress) -> list[Callback]:
        """The monitor if the recipe has one, and pictures of samples."""
        training = self.recipe.training
        epochs = SAMPLES_EVERY if training.samples_every is None else training.samples_every
        every = epochs * self.data.steps_per_epoch
        pictures = SamplePictures(folder / "samples", every, interval, progress, seed=training.seed)
        if training.monitor is None:
            return [pictures]
        return [monitor_of(training.monitor, self.flow, self.data, folder, progress.say), pictures]

    def write_results(
        self, folder: Path, best: dict[str, Any], device: torch.device, say: Callable[[str], None]
    ) -> dict[str, Any]:
        """Mean and standard error of the score of each split, both `null` where not finite.

        Beside them `non_finite`, the number of samples without a finite score.
        """
        flow = saving.load(folder / MODEL, device=device)
        assert isinstance(flow, Flow)
        scores = {name: self._score(flow, name) for name in SPLITS if len(getattr(self.data.data, name))}
        return write_metrics(folder, self.recipe, flow, unit_of(flow), {**best, **scores})

    def _score(self, flow: Flow, name: str) -> dict[str, Any]:
        split = getattr(self.data.data, name)
        n = TRAIN_SAMPLES if name == "train" else len(split)
        labels, size = self.data.labels(split), self.recipe.data.evaluation_batch_size
        y = None if labels is None else labels[:n]
        score = evaluate(flow, split.x[:n], y, batch_size=size, seed=self.recipe.training.seed)
        entry = {"mean": score.mean, "standard_error": score.standard_error}
        finite = {key: value if math.isfinite(value) else None for key, value in entry.items()}
        return {**finite, "samples": len(score.values), "non_finite": score.non_finite}
