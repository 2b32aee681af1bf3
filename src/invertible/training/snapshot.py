"""The state of a training to go back to, held in memory."""

import copy
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from invertible.training.average import MovingAverage


@dataclass(frozen=True)
class Snapshot:
    """Weights, optimizers and averaged weights at a step, copied to the CPU.

    The step itself, the order of the data, the schedule and everything else go on: a training that is put back takes
    the next batches from better weights.

    Attributes:
        step: when it was taken.
        weights: of the whole module.
        optimizers: their states.
        averages: weights of every `MovingAverage`.
    """

    step: int
    weights: dict[str, Tensor]
    optimizers: list[dict[str, Any]]
    averages: list[dict[str, Tensor]]

    @classmethod
    def take(cls, trainer: pl.Trainer, module: pl.LightningModule) -> "Snapshot":
        """Copy the state: as much memory as the weights, the optimizer's state and the averages have."""
        return cls(
            trainer.global_step,
            _copied(module.state_dict()),
            [_copied(optimizer.state_dict()) for optimizer in trainer.optimizers],
            [_copied(average.state_dict()) for average in _averages(trainer)],
        )

    def restore(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Put the state back; learning rates stay as they are now."""
        module.load_state_dict(self.weights)
        for optimizer, state in zip(trainer.optimizers, self.optimizers, strict=True):
            rates = [{key: group[key] for key in ("lr", "initial_lr") if key in group} for group in _groups(optimizer)]
            # The optimizer keeps the very tensors that it is given, so it gets its own.
            optimizer.load_state_dict(copy.deepcopy(state))
            for group, rate in zip(_groups(optimizer), rates, strict=True):
                group.update(rate)
        for average, state in zip(_averages(trainer), self.averages, strict=True):
            average.load_state_dict(state)


def scale_learning_rates(trainer: pl.Trainer, factor: float) -> None:
    """Multiply the learning rate of every group, and what schedules compute it from."""
    for optimizer in trainer.optimizers:
        for group in _groups(optimizer):
            group.update({key: group[key] * factor for key in ("lr", "initial_lr") if key in group})
    for config in trainer.lr_scheduler_configs:
        if hasattr(config.scheduler, "base_lrs"):
            config.scheduler.base_lrs = [rate * factor for rate in config.scheduler.base_lrs]


def _groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return optimizer.param_groups


def _averages(trainer: pl.Trainer) -> list[torch.nn.Module]:
    callbacks = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    models = [each.model for each in callbacks if isinstance(each, MovingAverage)]
    return [model for model in models if model is not None]


def _copied(value: Any) -> Any:  # noqa: ANN401
    """Nested containers with every tensor copied to the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(each) for each in value)
    return copy.deepcopy(value)
