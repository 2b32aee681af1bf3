"""Progress of a run: a bar on a terminal, plain lines elsewhere."""

import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from invertible.training.recipe_module import RecipeModule

PLAIN_SECONDS = 10.0


class Progress(Callback):
    """Shows step, loss, rate and remaining time.

    Args:
        console: where to; only a terminal gets a bar and colours.
        unit: of the loss, such as `"bits_per_dim"` or `"nats"`.
        steps: length of the run.
        quiet: show nothing but what `say` is told.
    """

    def __init__(self, console: Console, unit: str, steps: int, *, quiet: bool = False) -> None:
        self.console, self.unit, self.steps, self.quiet = console, unit.replace("_per_", "/"), steps, quiet
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._losses: list[float] = []
        self._validation = self._remark = ""
        self._begin = self._first = 0
        self._started = self._printed = 0.0

    def say(self, line: str) -> None:
        """Print a line, above the bar where there is one."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar."""
        self._begin = self._first = trainer.global_step
        self._started = self._printed = time.monotonic()
        if self.quiet or not trainer.is_global_zero or not self.console.is_terminal:
            return
        words = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
        self._bar = Bar(
            *words, TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(), console=self.console
        )
        self._bar.start()
        self._task = self._bar.add_task("training", total=self.steps, completed=self._begin, rate="")

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Take in the loss; refresh the bar, or print a line every ten seconds."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self._losses = [*self._losses[-49:], float(loss)]
        if self.quiet or not trainer.is_global_zero:
            return
        step, now = trainer.global_step, time.monotonic()
        if self._bar is not None:
            text = f"{self._mean:.3f}{self._validation} {self.unit}{self._remark}"
            self._bar.update(self._task, completed=step, description=text, rate=self._rate(step))
        elif now - self._printed > PLAIN_SECONDS:
            self._print(step, now)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the validation."""
        value = trainer.callback_metrics.get("validation")
        if value is None or not trainer.is_global_zero:
            return
        broken = int(trainer.callback_metrics.get("validation_non_finite", 0))
        self._validation = f" (validation {float(value):.3f})"
        if isinstance(pl_module, RecipeModule):
            remark = pl_module.remark({name: float(each) for name, each in trainer.callback_metrics.items()})
            self._remark = f", {remark}" if remark else ""
        if broken:
            self.say(f"step {trainer.global_step}: {broken} validation samples have no finite score")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        if self._bar is None and not self.quiet and trainer.is_global_zero and self._losses:
            self._print(trainer.global_step, time.monotonic())
        self.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @property
    def _mean(self) -> float:
        return sum(self._losses) / max(1, len(self._losses))

    def _rate(self, step: int) -> str:
        return f"{(step - self._begin) / max(1e-9, time.monotonic() - self._started):.1f} steps/s"

    def _print(self, step: int, now: float) -> None:
        rate = (step - self._begin) / max(1e-9, now - self._started)
        remaining = duration((self.steps - step) / rate) if rate else "?"
        loss = f"train {self._mean:.3f}{self._validation} {self.unit}{self._remark}"
        self.say(f"step {step}/{self.steps}  {loss}  {rate:.1f} steps/s  {remaining} left")
        self._printed = now


def duration(seconds: float) -> str:
    """Seconds as text: `"42 s"`, `"3 min 05 s"`, `"2 h 10 min"`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
