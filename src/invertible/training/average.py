"""Exponential moving average of the weights."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from invertible.models import AnyModel
from invertible.training.recipe_module import RecipeModule


class MovingAverage(WeightAveraging):
    """Exponential moving average of the weights, used in validation and, after the fit, in the model.

    After step t (from 0) the average moves by 1 - min(decay, (1 + t)/(10 + t)) towards the weights, so that the first
    steps do not stay in it for 1/(1 - decay) steps. Buffers are copied: an average of flags means nothing.

    Args:
        decay: of the average, in [0, 1).
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=self._average)
        self.decay, self._step = decay, 0

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """After every step."""
        if step_idx is not None:
            self._step = step_idx
        return step_idx is not None

    @torch.no_grad()
    def _average(self, averages: Any, weights: Any, count: Any) -> None:  # noqa: ANN401
        decay = min(self.decay, (1 + self._step) / (10 + self._step))
        get_ema_multi_avg_fn(decay)(averages, weights, count)

    @property
    def model(self) -> AnyModel | None:
        """The model with averaged weights, during a fit."""
        module = None if self._average_model is None else self._average_model.module
        return module.model if isinstance(module, RecipeModule) else None


def best_model(trainer: pl.Trainer, module: RecipeModule) -> AnyModel:
    """The model to show, to score and to save: with averaged weights where there is an average."""
    for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(callback, MovingAverage) and callback.model is not None:
            return callback.model
    return module.model
