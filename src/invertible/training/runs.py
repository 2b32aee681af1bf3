"""A training run from a recipe: set up, trained, interrupted, resumed, scored."""

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, Strategy
from rich.console import Console

from invertible.errors import ConfigError
from invertible.training.average import MovingAverage
from invertible.training.checkpoints import LAST, Checkpoints, check_checkpoint, find_checkpoint
from invertible.training.classifier_task import ClassifierTask
from invertible.training.counting import counting
from invertible.training.flow_task import FlowTask
from invertible.training.interruption import InterruptedRunError, StopRequest
from invertible.training.pictures import write_atomically
from invertible.training.progress import Progress
from invertible.training.recipe import Kind, Recipe
from invertible.training.recipe_module import NonFiniteLossError
from invertible.training.reconstruction_task import ReconstructionTask
from invertible.training.records import History
from invertible.training.task import Task

TASKS: dict[Kind, type[Task]] = {
    "flow": FlowTask,
    "classifier": ClassifierTask,
    "reconstructor": ReconstructionTask,
}


@dataclass(frozen=True)
class RunOptions:
    """Where and how to run; nothing that a recipe decides.

    Attributes:
        devices: number of devices, or `"auto"` for all there are.
        accelerator: `"auto"`, `"cpu"`, `"gpu"`, ... as Lightning names them.
        data_dir: where data sets lie; the default of `invertible.data` if `None`.
        max_seconds: stop in good order after so many seconds; `None` for no limit.
        console: where progress goes.
        quiet: show no progress.
        callbacks: further Lightning callbacks.
    """

    devices: int | str = 1
    accelerator: str = "auto"
    data_dir: Path | None = None
    max_seconds: float | None = None
    console: Console = field(default_factory=Console)
    quiet: bool = False
    callbacks: tuple[Callback, ...] = ()


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        folder: of the run.
        step: number of steps taken.
        interrupted: number of the signal that ended it, or `None` if it came to its end.
        metrics: what `metrics.json` holds; empty if it was interrupted.
    """

    folder: Path
    step: int
    interrupted: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)


def run(recipe: Recipe, folder: Path, *, resume: str | None = None, options: RunOptions = RunOptions()) -> RunResult:
    """Train a model from a recipe.

    Writes into the folder: `recipe.yaml` (complete, overrides included), `model.safetensors` (the best model by
    validation, with averaged weights where there is an average), `checkpoints/last.ckpt` and `checkpoints/best.ckpt`,
    `history.csv`, TensorBoard logs in `tensorboard/`, and at the end `metrics.json`; of a flow `samples/*.png`,
    and with a monitor `inverse.csv` and `inverse.png`; of a classifier `curves.png` and `confusion.png`; of a model
    that reconstructs `curves.png` and `panels.png`.

    Ctrl-C and SIGTERM save `last.ckpt` at the end of the step and return; a second one raises `KeyboardInterrupt`.

    Args:
        recipe: what to train.
        folder: where to write; it must hold no run, unless `resume` is given.
        resume: `"last"`, `"best"` or the path of a checkpoint to continue from. The continued run takes the steps
            that an uninterrupted one would have taken.
        options: devices, limits, output.

    Raises:
        ConfigError: if recipe, folder or checkpoint do not fit each other.
        DataError: if data or checkpoint are missing or damaged.
        NonFiniteLossError: at the first step whose loss or gradient is not finite.
    """
    checkpoint = find_checkpoint(folder, resume)
    if checkpoint is None and (folder / LAST).exists():
        raise ConfigError(
            f"{folder}: holds a run already. Continue it with --resume last, or choose another folder with --out."
        )
    if checkpoint is not None:
        check_checkpoint(checkpoint, recipe)
    with StopRequest() as stop, _quiet_lightning():
        return _Run(recipe, folder, options, stop).go(checkpoint)


class _Run:
    """The parts of one run."""

    def __init__(self, recipe: Recipe, folder: Path, options: RunOptions, stop: StopRequest) -> None:
        self.recipe, self.folder, self.options = recipe, folder, options
        pl.seed_everything(recipe.training.seed, verbose=False)
        kind = TASKS[recipe.kind]
        with counting(options.console, quiet=options.quiet) as told:
            kind.provide(recipe, options.data_dir, told)
        self.task = kind(recipe, options.data_dir)
        self.module, self.steps, per_epoch = self.task.module, self.task.steps, self.task.data.steps_per_epoch
        self.log_every = max(1, self.steps // 2000)
        self.progress = Progress(options.console, self.module.unit, self.steps, quiet=options.quiet)
        self.history = History(folder / "history.csv", self.log_every, per_epoch, self.module)
        self.interval = min(self.steps, recipe.training.validate_every * per_epoch)
        self.checkpoints = Checkpoints(folder, recipe, self.interval, stop, options.max_seconds, self.task.metadata)
        self.trainer = self._trainer()

    def go(self, checkpoint: Path | None) -> RunResult:
        trainer, recipe = self.trainer, self.recipe
        if trainer.is_global_zero:
            text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            write_atomically(self.folder / "recipe.yaml", text.encode())
        device = trainer.strategy.root_device
        if checkpoint is None:
            self.task.initialise(device)
        self._announce(checkpoint)
        try:
            trainer.fit(self.module, datamodule=self.task.data, ckpt_path=checkpoint, weights_only=True)
        except InterruptedRunError as interruption:
            self.progress.close()
            return RunResult(self.folder, trainer.global_step, interruption.number)
        metrics = self._score(device) if trainer.is_global_zero else {}
        return RunResult(self.folder, trainer.global_step, None, metrics)

    def _score(self, device: torch.device) -> dict[str, Any]:
        if self.checkpoints.best_step < 0:
            raise NonFiniteLossError(
                f"training: expected a finite validation, got none in {self.steps} steps, so no model was saved; "
                f"the last state is in {self.folder / LAST}. Resume with a lower optimizer.lr."
            )
        best = {"step": self.checkpoints.best_step, "seconds": round(self.history.seconds, 2)}
        return self.task.write_results(self.folder, best, device, self.progress.say)

    def _trainer(self) -> pl.Trainer:
        recipe, options = self.recipe, self.options
        average = [MovingAverage(recipe.training.ema)] if recipe.training.ema else []
        own = self.task.callbacks(self.folder, self.interval, self.progress)
        return pl.Trainer(
            accelerator=options.accelerator,
            devices=options.devices,
            strategy=_strategy(options),
            precision=recipe.training.precision,
            # One stream without epochs: then every step is alike, and a run resumes at any of them.
            max_epochs=-1,
            max_steps=self.steps,
            check_val_every_n_epoch=None,
            val_check_interval=self.interval,
            num_sanity_val_steps=0,
            log_every_n_steps=self.log_every,
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=self.folder,
            logger=self._loggers(),
            callbacks=[*average, *own, self.history, self.progress, *options.callbacks, self.checkpoints],
        )

    def _loggers(self) -> list[Logger]:
        try:
            return [TensorBoardLogger(self.folder, name="tensorboard", version="", default_hp_metric=False)]
        except (ImportError, OSError) as error:
            self.progress.say(f"no TensorBoard logs: {str(error).splitlines()[0]}")
            return []

    def _announce(self, checkpoint: Path | None) -> None:
        if self.options.quiet or not self.trainer.is_global_zero:
            return
        count = sum(parameter.numel() for parameter in self.module.model.parameters())
        where = f"on {self.trainer.strategy.root_device}; {self.steps} steps into {self.folder}"
        self.progress.say(f"{self.recipe.name}: {self.recipe.model.name}, {count:,} parameters, {where}")
        for remark in self.task.remarks:
            self.progress.say(remark)
        if checkpoint is not None:
            self.progress.say(f"resuming from {checkpoint}")


def _strategy(options: RunOptions) -> str | Strategy:
    many = torch.cuda.device_count() > 1 and options.accelerator in ("auto", "gpu", "cuda")
    if options.devices == 1 or (options.devices in ("auto", -1, "-1") and not many):
        return "auto"
    # Buffers are set once, before the fit. Sending them in every forward would also tie together the validation
    # batches of processes that have different numbers of them. Newer versions of torch have renamed the option.
    parameters = inspect.signature(torch.nn.parallel.DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
    choice: dict[str, Any] = {name: False}
    return DDPStrategy(**choice)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Data lie in memory: workers would only copy them. The others are Lightning's own housekeeping.
            for message in (
                ".*does not have many workers.*",
                ".*LeafSpec.*",
                ".*pkg_resources.*",
                ".*isinstance.treespec.*",
            ):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
