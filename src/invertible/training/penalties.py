"""Penalties of `invertible.stability` in training: as a callback for any Lightning module, and from a recipe."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from invertible.bijection import Bijection
from invertible.errors import ConfigError
from invertible.flow import Flow
from invertible.stability.finite_differences import FiniteDifferencePenalty
from invertible.stability.penalties import Penalty
from invertible.training.randomness import generator_for
from invertible.training.safeguards import FiniteDifferences

Inputs = Callable[[Any], tuple[Tensor, Tensor | None]]


class PenaltyCallback(Callback):
    """Adds a penalty to the loss of a Lightning module whose `training_step` knows nothing of it.

    A callback cannot change a loss that is computed already, but the gradient of a sum is the sum of gradients: right
    after the module's backward pass, when its graph is gone, the penalty of the batch gets a pass of its own, and its
    gradient is added to that of the loss, with the factors that Lightning applied to that (1/accumulated batches, the
    scale of float16 gradients). So clipping, accumulation, mixed precision and the optimizer see what they would see of
    loss + penalty. With several processes the gradients are averaged over them.

    Logged: `penalty`, its value where it is due, and `penalty_skipped`, the samples left out so far.

    Where the latents are at hand in `training_step`, adding `FlowPenalty(...)(z, log_det)` to the loss there saves a
    pass.

    Args:
        penalty: a `FiniteDifferencePenalty` or `FlowPenalty`; its `every` counts optimizer steps.
        bijection: path of the map in the module, such as `"net.trunk"`.
        inputs: what to evaluate it on, (x, condition or `None`), from a batch; if `None`, the batch, or its first
            tensor.
        seed: of the directions, which depend on seed, step, batch and process alone: a resumed run repeats them.

    Raises:
        ConfigError: at the start of a fit, if the path leads to no `Bijection`, the module optimises by hand, or its
            parameters are spread over devices (FSDP, DeepSpeed). Then add the penalty in `training_step`.

    Example:
        >>> callback = PenaltyCallback(FiniteDifferencePenalty(1e-4), "trunk")
        >>> lightning.pytorch.Trainer(callbacks=[callback]).fit(module, loader)
    """

    def __init__(self, penalty: Penalty, bijection: str, inputs: Inputs | None = None, *, seed: int = 0) -> None:
        self.penalty, self.path, self.inputs, self.seed = penalty, bijection, inputs or first_tensor, seed
        self._batch: Any = None
        self._index = 0

    @property
    def state_key(self) -> str:
        """Different for every bijection, so that a module may have several."""
        return f"{type(self).__qualname__}({type(self.penalty).__qualname__}, {self.path})"

    def state_dict(self) -> dict[str, Any]:
        """That of the penalty."""
        return self.penalty.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore that of the penalty."""
        self.penalty.load_state_dict(state_dict)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse what would give other gradients than those of loss + penalty."""
        bijection_at(pl_module, self.path, "PenaltyCallback")
        if not pl_module.automatic_optimization:
            raise ConfigError(
                f"PenaltyCallback: expected a module with automatic optimization, got {type(pl_module).__name__}, "
                "which optimises by hand. Add penalty.of(bijection, x) to the loss in its training_step."
            )
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise ConfigError(
                f"PenaltyCallback: expected whole parameters on every device (one device, or DDP), got "
                f"{type(trainer.strategy).__name__}. Add penalty.of(bijection, x) to the loss in training_step."
            )

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Remember the batch."""
        self._batch, self._index = batch, batch_idx

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the penalty's gradient to that of the loss."""
        if trainer.global_step % self.penalty.every:
            return
        bijection = bijection_at(pl_module, self.path, "PenaltyCallback")
        x, condition = self.inputs(self._batch)
        x = in_dtype_of(bijection, x)
        noise = generator_for(x.device, "penalty", self.seed, trainer.global_step, self._index, trainer.global_rank)
        with torch.enable_grad():
            value = self.penalty.of(bijection, x, condition, step=trainer.global_step, generator=noise)
        self._add_gradient(trainer, bijection, value)
        pl_module.log("penalty", value.detach(), batch_size=len(x))
        pl_module.log("penalty_skipped", float(self.penalty.skipped), batch_size=len(x))

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Forget the batch."""
        self._batch = None

    def _add_gradient(self, trainer: pl.Trainer, bijection: nn.Module, value: Tensor) -> None:
        parameters = [each for each in bijection.parameters() if each.requires_grad]
        factor = _gradient_scale(trainer) / trainer.accumulate_grad_batches
        if value.requires_grad:
            gradients = torch.autograd.grad(value * factor, parameters, allow_unused=True)
        else:
            gradients = [None] * len(parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if trainer.world_size > 1:
                # Every process takes part for every parameter, also one all of whose samples were left out.
                own = torch.zeros_like(parameter) if gradient is None else gradient
                gradient = trainer.strategy.reduce(own, reduce_op="mean")
            if isinstance(gradient, Tensor):
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def _gradient_scale(trainer: pl.Trainer) -> float:
    """The factor of float16 gradients, 1 in other precisions."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())


def first_tensor(batch: Any) -> tuple[Tensor, None]:  # noqa: ANN401
    """A batch that is a tensor, or the first one of a sequence; no condition.

    Raises:
        ConfigError: for any other batch.
    """
    first = batch[0] if isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) else batch
    if not isinstance(first, Tensor):
        raise ConfigError(
            f"inputs: expected a batch that is a tensor or begins with one, got {type(batch).__name__}. Give a "
            "function that makes (x, condition) of a batch: inputs=lambda batch: (batch['image'], None)."
        )
    return first, None


def in_dtype_of(module: nn.Module, x: Tensor) -> Tensor:
    """Floating-point x in the dtype of the module's parameters."""
    own = next((each.dtype for each in module.parameters() if each.is_floating_point()), x.dtype)
    return x.to(own) if x.is_floating_point() else x


def bijection_at(module: nn.Module, path: str, owner: str) -> Bijection:
    """The bijection under a dotted path of attributes; the module itself for an empty path.

    Raises:
        ConfigError: if there is none.
    """
    try:
        found = attrgetter(path)(module) if path else module
    except AttributeError as error:
        names = ", ".join(name for name, each in module.named_modules() if isinstance(each, Bijection) and name)
        raise ConfigError(
            f"{owner}: expected bijection={path!r} to name a bijection of {type(module).__name__}, which has none of "
            f"that name. It has {names or 'none at all'}."
        ) from error
    if not isinstance(found, Bijection):
        raise ConfigError(
            f"{owner}: expected bijection={path!r} to name a Bijection, got {type(found).__name__}. Of other "
            "libraries, keep invertible.adapt(net) in the module."
        )
    return found


def penalty_of(section: FiniteDifferences | None) -> FiniteDifferencePenalty | None:
    """The penalty that a recipe asks for."""
    if section is None:
        return None
    return FiniteDifferencePenalty(
        section.weight, epsilon=section.epsilon, directions=section.directions, every=section.every
    )


def inputs_of(
    flow: Flow, x: Tensor, condition: Tensor | None, noise: torch.Generator | None
) -> tuple[Tensor, Tensor | None]:
    """What a flow's bijection is evaluated on: data dequantised where they are levels, labels as one-hot rows."""
    if not x.is_floating_point() and flow.dequantize is not None:
        x = flow.dequantize(x, noise, flow.base.anchor.dtype)
    if condition is None or not flow.bijection.condition_features:
        return x, None
    if flow.classes is not None and not condition.is_floating_point():
        condition = nn.functional.one_hot(condition.long(), flow.classes).to(flow.base.anchor.dtype)
    return x, condition
