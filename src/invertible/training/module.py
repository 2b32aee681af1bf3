"""The Lightning module that trains a flow."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from invertible.blocks.continuous import energies
from invertible.errors import NotInvertibleError
from invertible.flow import Flow
from invertible.stability.penalties import Penalty
from invertible.training.evaluation import losses, unit_of
from invertible.training.penalties import inputs_of
from invertible.training.randomness import drawing_from, generator_for
from invertible.training.recipe import Optimizer, Schedule
from invertible.training.recipe_module import NonFiniteLossError, RecipeModule
from invertible.training.safeguards import EnergyWeights


class FlowModule(RecipeModule):
    """Maximum likelihood for a flow, in any `lightning.pytorch.Trainer`.

    The loss is the mean negative log-likelihood: bits per dimension for a flow with `levels`, whose integer data are
    dequantised anew in every step, else nats per dimension. The noise depends on seed, step and process alone, so a
    resumed run sees the noise of an uninterrupted one.

    A batch is a tensor x, or a sequence (x,) or (x, y); y goes to the flow as its condition if the flow takes one.
    What the flow draws in training, the probes of residual and continuous blocks, likewise.
    Logged: `train`, `validation`, `gradient_norm` and `learning_rate`, and `validation_non_finite`, the number of
    validation samples without a finite score; with a penalty, `penalty` where it is due, which `train` leaves out, and
    `penalty_skipped`; with energies, `kinetic` and `jacobian`, likewise.

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
        energies: weights of the energies of the flow's continuous blocks in the loss; `None` for none.
        rescue: asked when a loss or gradient is not finite, before the error; it returns whether it has put the module
            back into a state to go on from. `InverseMonitor` sets it.

    Raises:
        NonFiniteLossError: in training, at the first step whose loss or gradient is not finite.

    Example:
        >>> module = FlowModule(glow((1, 8, 8), levels=2, depth=4, grey_levels=17))
        >>> lightning.pytorch.Trainer(max_epochs=10).fit(module, train_loader, validation_loader)
    """

    remedy: ClassVar[str] = (
        "set training.gradient_clip (50 is usual), or bound the couplings' scale (model.arguments.scale: half-sigmoid)"
    )

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
        super().__init__(optimizer, schedule, steps=steps, gradient_clip=gradient_clip, seed=seed)
        self.flow, self.penalty = flow, penalty
        self.energies: EnergyWeights | None = None
        self.unit = unit_of(flow)

    @property
    def model(self) -> Flow:
        """The flow."""
        return self.flow

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
        if self.energies is not None:
            loss = loss + self._weighed(self.energies)
        return loss if self.penalty is None else loss + self._penalty(self.penalty, x, condition)

    def _finite_loss(self, x: Tensor, condition: Tensor | None) -> Tensor:
        noise = generator_for(x.device, "noise", self.seed, self.global_step, self.global_rank)
        try:
            with drawing_from(x.device, "probes", self.seed, self.global_step, self.global_rank):
                loss = self(x, condition, noise).mean()
        except NotInvertibleError as error:
            raise self.broken("loss", "one that is not") from error
        self.require_finite("loss", loss)
        return loss

    def _weighed(self, weights: EnergyWeights) -> Tensor:
        found = energies(self.flow)
        kinetic, jacobian = found.kinetic.mean(), found.jacobian.mean()
        self.log_dict({"kinetic": kinetic.detach(), "jacobian": jacobian.detach()}, batch_size=len(found.kinetic))
        return weights.kinetic * kinetic + weights.jacobian * jacobian

    def _penalty(self, penalty: Penalty, x: Tensor, condition: Tensor | None) -> Tensor:
        noise = generator_for(x.device, "penalty", self.seed, self.global_step, self.global_rank)
        x, condition = inputs_of(self.flow, x, condition, noise)
        value = penalty.of(self.flow.bijection, x, condition, step=self.global_step, generator=noise)
        if self.global_step % penalty.every == 0:
            self.log("penalty", value.detach(), batch_size=len(x))
            self.log("penalty_skipped", float(penalty.skipped), batch_size=len(x))
        return value

    def validation_step(self, batch: Tensor | Sequence[Tensor], batch_idx: int) -> None:
        """Add a batch to the mean; the noise of each batch is the same in every validation."""
        x, condition = self._unpack(batch)
        noise = generator_for(x.device, "validation", self.seed, batch_idx, self.global_rank)
        validate, self.flow.validate = self.flow.validate, False
        try:
            values = self(x, condition, noise)
        finally:
            self.flow.validate = validate
        self.add_validation(values)

    def _unpack(self, batch: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        x, *rest = (batch,) if isinstance(batch, Tensor) else batch
        if x.is_floating_point():
            x = x.to(self.flow.base.anchor.dtype)
        return x, rest[0] if rest and self.flow.condition_features else None
