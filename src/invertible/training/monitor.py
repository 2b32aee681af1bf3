"""A callback that watches the inverse while a model trains, and acts before it is lost."""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from invertible.errors import MissingDependencyError, ShapeError
from invertible.training.inverse_check import InverseCheck, as_csv, check_inverse
from invertible.training.module import FlowModule
from invertible.training.monitor_plot import plot_inverse
from invertible.training.penalties import bijection_at
from invertible.training.pictures import write_atomically
from invertible.training.safeguards import Monitor
from invertible.training.snapshot import Snapshot, scale_learning_rates

HELD_OUT, FAR = "held-out", "out-of-distribution"
REMEDY = (
    "Bound the couplings' scale (half-sigmoid), add a FiniteDifferencePenalty, lower the learning rate, or train in "
    "float64."
)


class InverseMonitor(Callback):
    """Checks every so many steps how far f⁻¹(f(x)) is from x, and f(f⁻¹(z)) from z, on a fixed batch.

    A loss can go on falling while the inverse is being lost: samples, memory-saving gradients and densities are wrong
    from then on, and nothing else says so. When the worst relative error passes the tolerance, the monitor

    - `"warn"`: says so, once for every time that it happens;
    - `"stop"`: ends the training after this step;
    - `"rollback"`: puts weights, optimizer and averaged weights back to the last check that was good, multiplies the
      learning rate by `lr_factor`, and goes on with the next batch. After `max_rollbacks` the next one ends the
      training, in a state that is good. In a `FlowModule` on one device, a loss or gradient that is not finite is met
      in the same way, in place of the error.

    Logged to the module's loggers at every check, and to `trainer.callback_metrics` for other callbacks:
    `inverse/worst` and `inverse/median` (relative errors), `inverse/lost` (samples), `inverse/digits` (to trust, worst
    sample) and `inverse/condition` (largest condition number), and the same of data far from the training data as
    `inverse_far/...`. With a folder, `inverse.csv` holds every check and `inverse.png` shows them.

    Cost of a check: three passes in either direction over the probe for errors and digits, a copy of the weights, and
    the condition numbers of `spectra` samples, which take longest; a good check of a `"rollback"` copies weights and
    optimizer to the CPU besides. `seconds` adds it up.

    Args:
        probe: held-out data (B, ...), floating point, as the bijection takes them; 32 samples will do.
        options: how often, how far, and what to do.
        bijection: path of the map in the module, such as `"flow.bijection"`, which is that of a `FlowModule`.
        condition: of the probe, B rows.
        out_of_distribution: data unlike the training data, measured likewise; under the first rows of `condition`.
        folder: where to write; nothing is written if `None`.
        say: where messages go; Python warnings if `None`.

    Attributes:
        history: every check.
        events: (step, `"danger"`, `"rollback"` or `"stop"`).
        rollbacks: number of them.
        seconds: what all checks and copies took.

    Raises:
        ShapeError: if the probe is empty or not floating point.
        ConfigError: at the start of a fit, if the path leads to no `Bijection`.

    Example:
        >>> monitor = InverseMonitor(x_validation[:32], Monitor(every=50, on_danger="rollback"))
        >>> lightning.pytorch.Trainer(callbacks=[monitor]).fit(FlowModule(flow), loader)
    """

    def __init__(
        self,
        probe: Tensor,
        options: Monitor | None = None,
        *,
        bijection: str = "flow.bijection",
        condition: Tensor | None = None,
        out_of_distribution: Tensor | None = None,
        folder: Path | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.sets = {HELD_OUT: (probe, condition)}
        if out_of_distribution is not None:
            self.sets[FAR] = out_of_distribution, None if condition is None else condition[: len(out_of_distribution)]
        for name, (x, _) in self.sets.items():
            if not len(x) or not x.is_floating_point():
                raise ShapeError(
                    f"InverseMonitor: expected {name} data in floating point, not empty, got {x.dtype} of shape "
                    f"{tuple(x.shape)}. Dequantise integers: flow.dequantize(x)."
                )
        self.options, self.path = options or Monitor(), bijection
        self.folder, self.say = folder, say or _warn
        self.history: list[InverseCheck] = []
        self.events: list[tuple[int, str]] = []
        self.rollbacks, self.strikes, self.rate, self.seconds = 0, 0, 1.0, 0.0
        self._good: Snapshot | None = None
        self._resumed = False

    def state_dict(self) -> dict[str, Any]:
        """The checks so far, and what has been done about them."""
        return {
            "history": [asdict(check) for check in self.history],
            "events": [list(event) for event in self.events],
            **{name: getattr(self, name) for name in ("rollbacks", "strikes", "rate", "seconds")},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self.history = [InverseCheck(**check) for check in state_dict["history"]]
        self.events = [(step, what) for step, what in state_dict["events"]]
        for name in ("rollbacks", "strikes", "rate", "seconds"):
            setattr(self, name, state_dict[name])
        self._resumed = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the state to begin with, which is the first one to go back to."""
        if self.options.on_danger == "rollback" and trainer.world_size == 1 and isinstance(pl_module, FlowModule):
            pl_module.rescue = lambda: self._rescue(trainer, pl_module)
        if not self._resumed:
            self._check(trainer, pl_module)
        elif not self._danger(trainer, self._measure(trainer, pl_module))[1]:
            # Not recorded, so that the history is that of an uninterrupted run.
            self._keep(trainer, pl_module)

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """After a resumption, lower the learning rates as before: a `FlowModule` has just set them anew."""
        if self._resumed and isinstance(pl_module, FlowModule):
            scale_learning_rates(trainer, self.rate)
        self._resumed = False

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Check, if it is time."""
        if trainer.global_step % self.options.every == 0 and self._last_step != trainer.global_step:
            pl_module.log_dict(self._check(trainer, pl_module), logger=False, batch_size=1)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check what may be saved after the validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._last_step != trainer.global_step:
            self._check(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check what training leaves, and draw."""
        if self._last_step != trainer.global_step:
            self._check(trainer, pl_module)
        self._finish(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Draw what there is."""
        self._finish(pl_module)

    @property
    def _last_step(self) -> int:
        return self.history[-1].step if self.history else -1

    # A validation runs in inference mode, whose tensors an optimizer could not update afterwards.
    @torch.inference_mode(False)
    def _check(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
        start = time.perf_counter()
        checks = self._measure(trainer, module)
        self.history += checks
        values = self._log(trainer, checks)
        worst, danger = self._danger(trainer, checks)
        self.strikes = self.strikes + 1 if danger else 0
        if not danger:
            self._keep(trainer, module)
        elif worst.lost or self.strikes >= self.options.patience:
            self._act(trainer, module, self._described(worst))
        self.seconds += time.perf_counter() - start
        if self.folder is not None and trainer.is_global_zero:
            write_atomically(self.folder / "inverse.csv", as_csv(self.history).encode())
        return values

    def _measure(self, trainer: pl.Trainer, module: pl.LightningModule) -> list[InverseCheck]:
        bijection, step = bijection_at(module, self.path, "InverseMonitor"), trainer.global_step
        return [
            check_inverse(bijection, x, condition, step=step, name=name, spectra=self.options.spectra)
            for name, (x, condition) in self.sets.items()
        ]

    def _log(self, trainer: pl.Trainer, checks: list[InverseCheck]) -> dict[str, float]:
        values: dict[str, float] = {}
        for check in checks:
            prefix = "inverse" if check.name == HELD_OUT else "inverse_far"
            for name in ("worst", "median", "lost", "digits", "condition"):
                values[f"{prefix}/{name}"] = float(getattr(check, name))
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
        return values

    def _danger(self, trainer: pl.Trainer, checks: list[InverseCheck]) -> tuple[InverseCheck, bool]:
        """The worst of the watched sets, and whether it is beyond a limit."""
        watched = [check for check in checks if self.options.watch == "all" or check.name == HELD_OUT]
        worst = max(watched, key=self._urgency)
        danger = self._urgency(worst) > (0, 1)
        # A process that went back alone would train another model than the others.
        if trainer.world_size > 1:
            danger = trainer.strategy.reduce_boolean_decision(danger, all=False)
        return worst, danger

    def _urgency(self, check: InverseCheck) -> tuple[int, float]:
        """Lost samples first; then by how many times the limits are passed."""
        excess = 0.0 if math.isnan(check.worst) else check.worst / self.tolerance(check.name)
        few = self.options.digits > check.digits
        return check.lost, max(excess, 10 ** (self.options.digits - check.digits) if few else 0.0)

    def tolerance(self, name: str = HELD_OUT) -> float:
        """The error from which on the inverse of a set counts as in danger."""
        return self.options.tolerance or math.sqrt(torch.finfo(self.sets[name][0].dtype).eps)

    def _described(self, check: InverseCheck) -> str:
        lost = f", {check.lost} of {check.samples} samples do not come back" if check.lost else ""
        return (
            f"step {check.step}: the inverse is being lost: relative error {check.worst:.1e} on {check.name} data, "
            f"tolerance {self.tolerance(check.name):.1e}, {check.digits:.1f} digits to trust{lost}"
        )

    def _act(self, trainer: pl.Trainer, module: pl.LightningModule, what: str) -> None:
        if self.options.on_danger == "rollback" and self._roll_back(trainer, module, what):
            return
        again = self.events[-1:] and self.events[-1][1] == "danger" and self.strikes > 1
        if self.options.on_danger == "warn":
            if not again:
                self.events.append((trainer.global_step, "danger"))
                self.say(f"{what}. {REMEDY}")
            return
        none = " There is no good state to go back to." if self.options.on_danger == "rollback" else ""
        self._stop(trainer, f"{what}; training stops.{none} {REMEDY}")

    def _roll_back(self, trainer: pl.Trainer, module: pl.LightningModule, what: str) -> bool:
        if self._good is None:
            return False
        self._good.restore(trainer, module)
        self.strikes = 0
        back = f"{what}; back to the weights of step {self._good.step}"
        if self.rollbacks >= self.options.max_rollbacks:
            self._stop(trainer, f"{back}, and training stops after {self.rollbacks} rollbacks. {REMEDY}")
            return True
        self.rollbacks += 1
        self.rate *= self.options.lr_factor
        scale_learning_rates(trainer, self.options.lr_factor)
        self.events.append((trainer.global_step, "rollback"))
        self.say(f"{back}, learning rate times {self.rate:g} (rollback {self.rollbacks}).")
        return True

    def _stop(self, trainer: pl.Trainer, what: str) -> None:
        self.events.append((trainer.global_step, "stop"))
        trainer.should_stop = True
        self.say(what)

    def _rescue(self, trainer: pl.Trainer, module: pl.LightningModule) -> bool:
        return self._roll_back(trainer, module, f"step {trainer.global_step}: the loss or its gradient is not finite")

    def _keep(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.options.on_danger == "rollback":
            self._good = Snapshot.take(trainer, module)

    def _finish(self, module: pl.LightningModule) -> None:
        if isinstance(module, FlowModule):
            module.rescue = None
        self._good = None
        if self.folder is not None and self.history:
            try:
                plot_inverse(self.history, self.events, self.tolerance(), self.folder / "inverse.png")
            except MissingDependencyError as error:
                self.say(f"inverse.png was not drawn: {error}")


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)
