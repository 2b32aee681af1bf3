"""What a run leaves on disk while it runs: the last and the best checkpoint, and the best model."""

import math
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint

from invertible import saving
from invertible.errors import ConfigError, DataError
from invertible.training.average import best_model
from invertible.training.interruption import InterruptedRunError, StopRequest
from invertible.training.recipe import Recipe
from invertible.training.recipe_module import RecipeModule

LAST, BEST, MODEL = "checkpoints/last.ckpt", "checkpoints/best.ckpt", "model.safetensors"
# What a resumed run may not change, by section; the empty tuple stands for all keys.
FIXED: dict[str, tuple[str, ...]] = {
    "model": (),
    "data": ("name", "options", "batch_size", "flip", "crop_padding", "stream", "scans"),
    "conditions": (),
    "classification": (),
    "reconstruction": (),
    "optimizer": ("name", "decay"),
    "training": ("seed", "ema"),
}


class Checkpoints(Checkpoint):
    """Writes `last.ckpt` every so many steps and after every validation, and the best model when there is one.

    A checkpoint holds what continues the run: weights, their average, optimizer, schedule, step, and the recipe. The
    order of data and the noise follow from seed and step. All files are written under a temporary name and renamed.

    Args:
        folder: of the run.
        recipe: kept in every checkpoint; says how often to write one.
        validation_every: steps between two validations.
        stop: the request to stop, looked at after every step.
        seconds: stop in good order after so many; `None` for no limit.
        metadata: strings for the header of the best model's file.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        validation_every: int,
        stop: StopRequest,
        seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.recipe, self.stop, self.metadata = folder, recipe, stop, metadata or {}
        self.every, self.validation_every = recipe.training.checkpoint_every, validation_every
        self.deadline = math.inf if seconds is None else time.monotonic() + seconds
        self.best: tuple[float, ...] = (math.inf,)
        self.best_step = -1

    def state_dict(self) -> dict[str, Any]:
        """The best validation so far."""
        return {"best": list(self.best), "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best validation so far."""
        best = state_dict["best"]
        self.best, self.best_step = tuple(best) if isinstance(best, list) else (best,), state_dict["best_step"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the recipe and the state of torch's own generator."""
        checkpoint["recipe"] = self.recipe.model_dump(mode="json")
        checkpoint["random_state"] = torch.get_rng_state()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the state of torch's own generator; with many processes each keeps its own."""
        if trainer.world_size == 1:
            torch.set_rng_state(checkpoint["random_state"].cpu())

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Save if it is time; stop if it was asked for."""
        step, interrupted = trainer.global_step, self._agreed(trainer, self.stop.number is not None)
        if step >= trainer.max_steps or self._agreed(trainer, time.monotonic() > self.deadline):
            # Lightning then validates once more before it ends.
            trainer.should_stop = True
        if trainer.should_stop or step % self.validation_every == 0:
            return
        if interrupted or step % self.every == 0:
            self._save_last(trainer)
        self._stop_if(interrupted)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last state, and the model if it is the best one; stop if it was asked for."""
        if trainer.state.fn != "fit" or not isinstance(pl_module, RecipeModule):
            return
        figures = {name: float(trainer.callback_metrics[name]) for name in pl_module.validation_figures}
        value = pl_module.criterion(figures)
        improved = value < self.best
        if improved:
            self.best, self.best_step = value, trainer.global_step
        self._save_last(trainer)
        if improved and trainer.is_global_zero:
            _copy(self.folder / LAST, self.folder / BEST)
            note = {"step": str(self.best_step), f"validation_{pl_module.unit}": f"{figures['validation']:.6f}"}
            saving.save(best_model(trainer, pl_module), self.folder / MODEL, metadata={**self.metadata, **note})
        self._stop_if(self._agreed(trainer, self.stop.number is not None))

    def _save_last(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.folder / LAST)

    def _stop_if(self, interrupted: bool) -> None:  # noqa: FBT001
        if interrupted:
            raise InterruptedRunError(self.stop.number or self.stop.SIGNALS[0])

    def _agreed(self, trainer: pl.Trainer, flag: bool) -> bool:  # noqa: FBT001
        # A signal reaches the processes at different steps; they must stop at the same one.
        return trainer.strategy.reduce_boolean_decision(flag, all=False) if trainer.world_size > 1 else flag


def _copy(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def find_checkpoint(folder: Path, resume: str | None) -> Path | None:
    """The checkpoint that `resume` names: `"last"`, `"best"`, a path, or `None`.

    Raises:
        DataError: if there is no such file.
    """
    if resume is None:
        return None
    path = {"last": folder / LAST, "best": folder / BEST}.get(resume, Path(resume))
    if not path.is_file():
        raise DataError(
            f"--resume {resume}: expected a checkpoint at {path}, found none. Start the run without --resume."
        )
    return path


def check_checkpoint(path: Path, recipe: Recipe) -> int:
    """Check that a checkpoint belongs to the recipe's model and data, and give the step it was written at.

    Raises:
        DataError: if it cannot be read as tensors and plain values, or was not written by a run of this library.
        ConfigError: if something differs that decides what the weights mean or what the next step is; a learning
            rate, a length, limits and intervals may.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        # Validated, so that what an older run did not know yet has the value that changes nothing.
        saved = Recipe.model_validate(checkpoint["recipe"]).model_dump(mode="json")
        step = int(checkpoint["global_step"])
    except Exception as error:
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path}: expected a checkpoint of a training run, got a file that is none: {problem}."
        ) from error
    current = recipe.model_dump(mode="json")
    for section, keys in FIXED.items():
        for key in keys or {**(saved[section] or {}), **(current[section] or {})}:
            before, now = (_decisive((each[section] or {}).get(key)) for each in (saved, current))
            if before != now:
                raise ConfigError(
                    f"{path}: expected {section}.{key} as the run began with, {before!r}, got {now!r}. Resume with the "
                    "recipe.yaml in the folder of the run."
                )
    return step


def _decisive(value: Any) -> Any:  # noqa: ANN401
    # How many processes read changes no picture.
    return {key: each for key, each in value.items() if key != "workers"} if isinstance(value, dict) else value
