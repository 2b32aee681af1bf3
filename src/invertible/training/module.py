"""The Lightning module that trains a flow."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torchmetrics import MeanMetric

from invertible.errors import InvertibleError, NotInvertibleError
from invertible.flow import Flow
from invertible.stability.penalties import Penalty
from invertible.training.evaluation import losses, unit_of
from invertible.training.penalties import inputs_of
from invertible.training.randomness import generator_for
from invertible.training.recipe import Optimizer, Schedule
from invertible.training.schedules import factor

KINDS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adamax": torch.optim.Adamax, "sgd": torch.optim.SGD}


class NonFiniteLossError(InvertibleError, ArithmeticError):
    """Training met a loss or a gradient that is not finite."""


class FlowModule(pl.LightningModule):
    """Maximum likelihood for a flow, in any `lightning.pytorch.Trainer`.

    The loss is the mean negative log-likelihood: bits per dimension for a flow with `levels`, whose integer data are
    dequantised anew in every step, else nats per dimension. The noise depends on seed, step and process alone, so a
    resumed run sees the noise of an uninterrupted one.

    A batch is a tensor x, or a sequence (x,) or (x, y); y goes to the flow as its condition if the flow takes one.
    Logged: `train`, `validation`, `gradient_norm` and `learning_rate`, and `validation_non_finite`, the number of
    validation samples without a finite score; with a penalty, `penalty` where it is due, which `train` leaves out, and
    `penalty_skipped`.

    Args:
        flow: the model. Run one batch through it in training mode before the fit: its ActNorms take their scales
            from the first batch they see, and must have them before Lightning copies the parameters.
        optimizer: the optimizer; Adam if `None`.
        schedule: the learning rate over the steps; constant if `None`.
        steps: length of the run, for schedules that end; the trainer's own estimate if `None`.
        gradient_clip: largest 2-norm of the gradient; `None` for no limit.
        seed: of the noise.
        penalty: added to the loss of a step: see `invertible.stability.FiniteDifferencePenalty`.

    Attributes:
        rescue: asked when a loss or gradient is not finite, before the error; it returns whether it has put the module
            back into a state to go on from. `InverseMonitor` sets it.

    Raises:
        NonFiniteLossError: in training, at the first step whose loss or gradient is not finite.

    Example:
        >>> module = FlowModule(glow((1, 8, 8), levels=2, depth=4, grey_levels=17))
        >>> lightning.pytorch.Trainer(max_epochs=10).fit(module, train_loader, validation_loader)
    """

    def __init__(
        self,
        flow: Flow,
        optimizer: Optimizer | None = None,
        schedule: Schedule | None = None,
        *,
        steps: int | None = None,
        gradient_clip: float | None = None,
        seed: int = 0,
        penalty: Penalty | None = None,
    ) -> None:
        super().__init__()
        self.flow, self.optimizer, self.schedule = flow, optimizer or Optimizer(), schedule or Schedule()
        self.steps, self.gradient_clip, self.seed = steps, gradient_clip, seed
        self.penalty = penalty
        self.rescue: Callable[[], bool] | None = None
        self.unit = unit_of(flow)
        # "disable" keeps what is not finite in the mean; the default would drop it with a warning.
        self.validation_mean = MeanMetric(nan_strategy="disable")
        self.validation_broken = 0

    def forward(self, x: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """The loss of each sample, shape (B,)."""
        return losses(self.flow, x, condition, generator)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the penalty's count of samples left out."""
        if self.penalty is not None:
            checkpoint["penalty"] = self.penalty.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore it, if the run had a penalty then."""
        if self.penalty is not None and "penalty" in checkpoint:
            self.penalty.load_state_dict(checkpoint["penalty"])

    def on_train_start(self) -> None:
        """Take the optimizer's figures from its section: a checkpoint brings those that the run began with."""
        optimizers, schedulers = self.trainer.optimizers, [each.scheduler for each in self.trainer.lr_scheduler_configs]
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            figures = self._figures()
            group |= {**figures, "initial_lr": figures["lr"], "lr": figures["lr"] * self._factor(self.global_step)}
        for scheduler in schedulers:
            scheduler.base_lrs = [self.optimizer.lr for _ in scheduler.base_lrs]

    def training_step(self, batch: Tensor | Sequence[Tensor], batch_idx: int) -> Tensor:
        """The mean loss of a batch."""
        x, condition = self._unpack(batch)
        try:
            loss = self._finite_loss(x, condition)
        except NonFiniteLossError:
            if self.rescue is None or not self.rescue():
                raise
            loss = self._finite_loss(x, condition)
        self.log("train", loss.detach(), batch_size=len(x))
        return loss if self.penalty is None else loss + self._penalty(self.penalty, x, condition)

    def _finite_loss(self, x: Tensor, condition: Tensor | None) -> Tensor:
        noise = generator_for(x.device, "noise", self.seed, self.global_step, self.global_rank)
        try:
            loss = self(x, condition, noise).mean()
        except NotInvertibleError as error:
            raise self._broken("loss", "one that is not") from error
        self._require_finite("loss", loss)
        return loss

    def _penalty(self, penalty: Penalty, x: Tensor, condition: Tensor | None) -> Tensor:
        noise = generator_for(x.device, "penalty", self.seed, self.global_step, self.global_rank)
        x, condition = inputs_of(self.flow, x, condition, noise)
        value = penalty.of(self.flow.bijection, x, condition, step=self.global_step, generator=noise)
        if self.global_step % penalty.every == 0:
            self.log("penalty", value.detach(), batch_size=len(x))
            self.log("penalty_skipped", float(penalty.skipped), batch_size=len(x))
        return value

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
                raise self._broken("gradient norm", str(norm.item()))
            # Without gradients the optimizer takes no step.
            optimizer.zero_grad(set_to_none=True)
            return
        self.log("gradient_norm", norm)
        self.log("learning_rate", optimizer.param_groups[0]["lr"])

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self.validation_mean.reset()
        self.validation_broken = 0

    def validation_step(self, batch: Tensor | Sequence[Tensor], batch_idx: int) -> None:
        """Add a batch to the mean; the noise of each batch is the same in every validation."""
        x, condition = self._unpack(batch)
        noise = generator_for(x.device, "validation", self.seed, batch_idx, self.global_rank)
        validate, self.flow.validate = self.flow.validate, False
        try:
            values = self(x, condition, noise)
        finally:
            self.flow.validate = validate
        self.validation_mean.update(values)
        self.validation_broken += int((~torch.isfinite(values)).sum())

    def on_validation_epoch_end(self) -> None:
        """Log the mean over all processes."""
        mean = self.validation_mean.compute()
        self.log("validation", mean, sync_dist=True)
        self.log("validation_non_finite", float(self.validation_broken), sync_dist=True, reduce_fx="sum")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer, and the schedule by the step."""
        options = self._figures()
        if self.optimizer.name in ("adam", "adamw"):
            # Lightning cannot unscale float16 gradients for a fused optimizer before they are clipped.
            options["fused"] = self.trainer.precision != "16-mixed"
        optimizer = KINDS[self.optimizer.name](self.parameters(), **options)
        # A plain function: of any other callable, the scheduler would put the attributes into every checkpoint.
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self._factor(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def _figures(self) -> dict[str, Any]:
        section = self.optimizer
        figures: dict[str, Any] = {"lr": section.lr, "weight_decay": section.weight_decay}
        if section.name == "sgd":
            return {**figures, "momentum": section.momentum}
        return {**figures, "betas": section.betas, "eps": section.eps}

    def _factor(self, step: int) -> float:
        steps = self.steps or int(self.trainer.estimated_stepping_batches)
        return factor(self.schedule, step, steps)

    def _unpack(self, batch: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        x, *rest = (batch,) if isinstance(batch, Tensor) else batch
        if x.is_floating_point():
            x = x.to(self.flow.base.anchor.dtype)
        return x, rest[0] if rest and self.flow.condition_features else None

    def _require_finite(self, what: str, value: Tensor) -> None:
        if not math.isfinite(value.item()):
            raise self._broken(what, str(value.item()))

    def _broken(self, what: str, got: str) -> NonFiniteLossError:
        return NonFiniteLossError(
            f"training: expected a finite {what} at step {self.global_step + 1}, got {got}. Resume from the last "
            "checkpoint with a lower optimizer.lr, set training.gradient_clip (50 is usual), or bound the couplings' "
            "scale (model.arguments.scale: half-sigmoid)."
        )
