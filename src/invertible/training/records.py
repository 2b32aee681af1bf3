"""What a run writes down: a CSV of its curves, and pictures of samples."""

import csv
import io
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from invertible.flow import Flow
from invertible.training.average import best_model
from invertible.training.module import FlowModule
from invertible.training.pictures import Picture, draw, sample_image, write_atomically
from invertible.training.progress import Progress
from invertible.training.randomness import generator_for
from invertible.training.recipe_module import RecipeModule

TIME = ("step", "epoch", "seconds")


class History(Callback):
    """Appends to `history.csv`: a row every few steps, and one at each validation.

    A resumed run first drops the rows of steps that it will take again.

    Args:
        path: the file.
        every: steps between two rows.
        steps_per_epoch: for the column `epoch`.
        module: whose figures to record.
    """

    def __init__(self, path: Path, every: int, steps_per_epoch: int, module: RecipeModule) -> None:
        self.path, self.every, self.steps_per_epoch = path, every, steps_per_epoch
        self.training, self.validation = module.training_figures, module.validation_figures
        self.columns = columns_of(module)
        self._seconds, self._since = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training, over all parts of a resumed run."""
        return self._seconds + time.monotonic() - self._since

    def state_dict(self) -> dict[str, Any]:
        """The seconds so far."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the seconds."""
        self._seconds = state_dict["seconds"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the rows up to the step where this part begins."""
        self._since = time.monotonic()
        if not trainer.is_global_zero:
            return
        rows = read_history(self.path) if trainer.global_step and self.path.is_file() else []
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row in rows if int(row["step"]) <= trainer.global_step)
        write_atomically(self.path, text.getvalue().encode())

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Append a row of the training loss."""
        if trainer.global_step % self.every == 0:
            self._append(trainer, self.training)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Append a row of the validation."""
        self._append(trainer, self.validation)

    def _append(self, trainer: pl.Trainer, names: tuple[str, ...]) -> None:
        if not trainer.is_global_zero:
            return
        step, metrics = trainer.global_step, trainer.callback_metrics
        row = {"step": step, "epoch": f"{step / self.steps_per_epoch:.4f}", "seconds": f"{self.seconds:.2f}"}
        row |= {name: f"{float(metrics[name]):.9g}" for name in names if name in metrics}
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(row)


def columns_of(module: RecipeModule) -> tuple[str, ...]:
    """The columns of a module's history: time, losses and accuracies, and what explains them."""
    figures = (*module.training_figures, *module.validation_figures)
    scores = [name for name in figures if name.startswith(("train", "validation"))]
    return (*TIME, *scores, *(name for name in figures if name not in scores))


def read_history(path: Path) -> list[dict[str, str]]:
    """The complete rows of a `history.csv`; a row cut short by a killed run is left out."""
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["step"].isdigit() and None not in row.values()]


class SamplePictures(Callback):
    """Draws samples after a validation, from the same noise each time: a PNG, and an image in TensorBoard.

    Samples that are not finite are counted and marked. A failure to draw is reported and never ends the run.

    Args:
        folder: where the PNGs go.
        every: steps between two pictures, rounded up to the next validation; 0 for none.
        validation_every: steps between two validations.
        n: samples a picture; of points, 16 times as many.
        seed: of the noise.
        progress: where to say so.
    """

    def __init__(
        self, folder: Path, every: int, validation_every: int, progress: Progress, *, n: int = 64, seed: int = 0
    ) -> None:
        self.folder, self.every, self.validation_every = folder, every, validation_every
        self.progress, self.n, self.seed = progress, n, seed

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, if it is time or the run ends."""
        step = trainer.global_step
        due = bool(self.every) and (step % self.every < self.validation_every or trainer.should_stop)
        if not due or not trainer.is_global_zero or not isinstance(pl_module, FlowModule):
            return
        try:
            picture = self._draw(trainer, pl_module)
            picture.save(self.folder / f"step_{step:07d}.png")
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image("samples", picture.pixels, step, dataformats="HWC")
        except Exception as error:
            self.progress.say(f"step {step}: samples could not be drawn: {error}")
            return
        if picture.non_finite:
            self.progress.say(f"step {step}: {picture.non_finite} of {picture.samples} samples are not finite")

    def _draw(self, trainer: pl.Trainer, module: FlowModule) -> Picture:
        flow = best_model(trainer, module)
        assert isinstance(flow, Flow)
        device = flow.base.anchor.device
        vectors = isinstance((flow.config or {}).get("arguments", {}).get("shape"), int)
        n = 16 * self.n if vectors else self.n
        condition = None
        if flow.classes is not None:
            condition = torch.arange(n, device=device) % flow.classes
        return sample_image(draw(flow, n, condition, 1.0, generator_for(device, "samples", self.seed)))
