"""What the Lightning modules of all kinds of models share: optimizer, schedule, clipping, refusal of NaN."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torchmetrics import MeanMetric

from invertible.errors import ConfigError, InvertibleError
from invertible.models import AnyModel
from invertible.training.parameter_groups import parameter_groups
from invertible.training.recipe import Optimizer, Schedule
from invertible.training.schedules import factor

KINDS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adamax": torch.optim.Adamax, "sgd": torch.optim.SGD}


class NonFiniteLossError(InvertibleError, ArithmeticError):
    """Training met a loss or a gradient that is not finite."""


class RecipeModule(pl.LightningModule):
    """A Lightning module with the optimizer and the schedule of a recipe; a subclass has the model and its loss.

    Args:
        optimizer: the optimizer; Adam if `None`.
        schedule: the learning rate over the steps; constant if `None`.
        steps: length of the run, for schedules that end; the trainer's own estimate if `None`.
        gradient_clip: largest 2-norm of the gradient; `None` for no limit.
        seed: of what is drawn in training.

    Raises:
        ConfigError: if the schedule counts in epochs.

    Attributes:
        unit: of the loss.
        training_figures: names of what is logged at a step, by which a history records it.
        validation_figures: likewise, at a validation.
        remedy: what to do about a loss that is not finite, besides a lower learning rate.
        rescue: asked when a loss or gradient is not finite, before the error; it returns whether it has put the module
            back into a state to go on from.
    """

    unit: str
    training_figures: tuple[str, ...] = ("train", "gradient_norm", "learning_rate")
    validation_figures: tuple[str, ...] = ("validation", "validation_non_finite")
    remedy: ClassVar[str] = "set training.gradient_clip"

    def __init__(
        self,
        optimizer: Optimizer | None = None,
        schedule: Schedule | None = None,
        *,
        steps: int | None = None,
        gradient_clip: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.optimizer, self.schedule = optimizer or Optimizer(), schedule or Schedule()
        if self.schedule.every_epochs is not None:
            raise ConfigError(
                f"{type(self).__name__}: expected a schedule in steps, got every_epochs={self.schedule.every_epochs}. "
                "A module does not know its data: give every, or train from a recipe by training.run."
            )
        self.steps, self.gradient_clip, self.seed = steps, gradient_clip, seed
        self.rescue: Callable[[], bool] | None = None
        # "disable" keeps what is not finite in the mean; the default would drop it with a warning.
        self.validation_mean = MeanMetric(nan_strategy="disable")
        self.validation_broken = 0

    @property
    def model(self) -> AnyModel:
        """What is trained."""
        raise NotImplementedError

    def criterion(self, figures: dict[str, float]) -> tuple[float, ...]:
        """What the best model has least of, from the figures of a validation: compared from left to right."""
        return (figures["validation"],)

    def remark(self, figures: dict[str, float]) -> str:
        """What progress says of a validation beside its loss; nothing by default."""
        return ""

    def on_train_start(self) -> None:
        """Take the optimizer's figures from its section: a checkpoint brings those that the run began with."""
        for group in (group for optimizer in self.trainer.optimizers for group in optimizer.param_groups):
            figures = self._figures(decayed=group.get("decayed", True))
            group |= {**figures, "initial_lr": figures["lr"], "lr": figures["lr"] * self._factor(self.global_step)}
        for scheduler in (each.scheduler for each in self.trainer.lr_scheduler_configs):
            scheduler.base_lrs = [self.optimizer.lr for _ in scheduler.base_lrs]

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient's 2-norm, and refuse one that is not finite before it reaches the weights."""
        limit = math.inf if self.gradient_clip is None else self.gradient_clip
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), limit)
        # With float16 an overflow is expected now and then: the gradient scaler skips that step.
        if self.trainer.precision != "16-mixed" and not math.isfinite(norm.item()):
            if self.rescue is None or not self.rescue():
                raise self.broken("gradient norm", str(norm.item()))
            # Without gradients the optimizer takes no step.
            optimizer.zero_grad(set_to_none=True)
            return
        self.log("gradient_norm", norm)
        self.log("learning_rate", optimizer.param_groups[0]["lr"])

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self.validation_mean.reset()
        self.validation_broken = 0

    def add_validation(self, values: Tensor) -> None:
        """Add the losses of a batch, (B,), to the mean, and count those that are not finite."""
        self.validation_mean.update(values)
        self.validation_broken += int((~torch.isfinite(values)).sum())

    def on_validation_epoch_end(self) -> None:
        """Log the mean over all processes."""
        mean = self.validation_mean.compute()
        self.log("validation", mean, sync_dist=True)
        self.log("validation_non_finite", float(self.validation_broken), sync_dist=True, reduce_fx="sum")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer, and the schedule by the step."""
        options = self._figures(decayed=True)
        if self.optimizer.name in ("adam", "adamw"):
            # Lightning cannot unscale float16 gradients for a fused optimizer before they are clipped.
            options["fused"] = self.trainer.precision != "16-mixed"
        groups: Sequence[Any] = list(self.parameters())
        if self.optimizer.decay == "weights":
            decayed, rest = parameter_groups(self)
            groups = [
                {"params": decayed, "decayed": True},
                {"params": rest, "decayed": False, **self._figures(decayed=False)},
            ]
        optimizer = KINDS[self.optimizer.name](groups, **options)
        # A plain function: of any other callable, the scheduler would put the attributes into every checkpoint.
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self._factor(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def _figures(self, *, decayed: bool) -> dict[str, Any]:
        section = self.optimizer
        figures: dict[str, Any] = {"lr": section.lr, "weight_decay": section.weight_decay if decayed else 0.0}
        if section.name == "sgd":
            return {**figures, "momentum": section.momentum, "nesterov": section.nesterov}
        return {**figures, "betas": section.betas, "eps": section.eps}

    def _factor(self, step: int) -> float:
        steps = self.steps or int(self.trainer.estimated_stepping_batches)
        return factor(self.schedule, step, steps)

    def require_finite(self, what: str, value: Tensor) -> None:
        """Refuse a number that is not finite.

        Raises:
            NonFiniteLossError: with the step and what to do.
        """
        if not math.isfinite(value.item()):
            raise self.broken(what, str(value.item()))

    def broken(self, what: str, got: str) -> NonFiniteLossError:
        """The error that says so."""
        return NonFiniteLossError(
            f"training: expected a finite {what} at step {self.global_step + 1}, got {got}. Resume from the last "
            f"checkpoint with a lower optimizer.lr, {self.remedy}."
        )
