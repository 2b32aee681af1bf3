"""What a run trains: a model of one kind, with its data, its module and what it writes at the end."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch.callbacks import Callback

from invertible.chain import set_memory
from invertible.classifier import Classifier
from invertible.flow import Flow
from invertible.models.reconstructor import Reconstructor
from invertible.training.classifier_data import ClassifierData
from invertible.training.counting import Told
from invertible.training.datamodule import FlowData
from invertible.training.progress import Progress
from invertible.training.recipe import Recipe, Schedule
from invertible.training.recipe_module import RecipeModule
from invertible.training.scan_data import ScanData

Model = TypeVar("Model", Flow, Classifier, Reconstructor)


class Task:
    """The parts of a run that depend on the kind of model; a subclass a kind.

    Args:
        recipe: the recipe.
        data_dir: where data sets lie; the default of `invertible.data` if `None`.

    Attributes:
        module: the module that trains, with the recipe's model.
    """

    module: RecipeModule

    def __init__(self, recipe: Recipe, data_dir: Path | None) -> None:
        self.recipe, self.data_dir = recipe, data_dir

    @classmethod
    def provide(cls, recipe: Recipe, data_dir: Path | None, told: Told) -> None:
        """Make the data that a recipe wants made, before the task is set up; most want none.

        Args:
            recipe: the recipe.
            data_dir: where data sets lie.
            told: is told what is being made, and how much of it is done.
        """

    @property
    def data(self) -> FlowData | ClassifierData | ScanData:
        """The data, as Lightning asks for them."""
        raise NotImplementedError

    @property
    def steps(self) -> int:
        """Length of the run."""
        training = self.recipe.training
        return training.steps or self.data.steps_per_epoch * (training.epochs or 1)

    @property
    def schedule(self) -> Schedule:
        """The recipe's schedule in steps."""
        schedule = self.recipe.schedule
        if schedule.every_epochs is None:
            return schedule
        every = schedule.every_epochs * self.data.steps_per_epoch
        return schedule.model_copy(update={"every": every, "every_epochs": None})

    def prepared(self, model: Model) -> Model:
        """The model in the recipe's dtype, with its memory strategy."""
        training = self.recipe.training
        # Lightning would convert the weights only after their average was made.
        model = model.to(torch.float64 if training.precision == "64-true" else torch.float32)
        if training.memory != "store":
            set_memory(model, training.memory)
        return model

    @property
    def module_options(self) -> dict[str, Any]:
        """What every module is told of the run."""
        training = self.recipe.training
        return {"steps": self.steps, "gradient_clip": training.gradient_clip, "seed": training.seed}

    @property
    def remarks(self) -> Sequence[str]:
        """What to say of the data before the first step, a line each."""
        return ()

    @property
    def metadata(self) -> dict[str, str]:
        """What the header of the model's file says beside the model: strings by name."""
        return {}

    def initialise(self, device: torch.device) -> None:
        """Move the model to a device, and set what it takes from the data before the first step."""
        raise NotImplementedError

    def callbacks(self, folder: Path, interval: int, progress: Progress) -> list[Callback]:
        """Callbacks that this kind of model has beside those of every run.

        Args:
            folder: of the run.
            interval: steps between two validations.
            progress: where to say something.
        """
        raise NotImplementedError

    def write_results(
        self, folder: Path, best: dict[str, Any], device: torch.device, say: Callable[[str], None]
    ) -> dict[str, Any]:
        """Score the saved model, and write `metrics.json` and pictures.

        Args:
            folder: of the run, which holds the model.
            best: entries to add: step of the best validation, seconds of training.
            device: where to evaluate.
            say: where to say that something could not be drawn.

        Returns:
            What `metrics.json` holds.
        """
        raise NotImplementedError
