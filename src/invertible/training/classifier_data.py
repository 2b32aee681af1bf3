"""Data of a classifier, as a run asks for them."""

from collections.abc import Iterable

from torch import Tensor

from invertible.data import DataSet
from invertible.errors import ConfigError
from invertible.training.in_memory import InMemory
from invertible.training.recipe import Recipe
from invertible.training.summary import TRAIN_SAMPLES
from invertible.training.trainers_data import TrainersData


class ClassifierData(TrainersData):
    """Images and their classes in batches, wherever they lie.

    Batches are (x, y): images (B, C, H, W), uint8 with values 0 .. grey_levels - 1, and labels (B,), int64. The
    training stream is endless, begins at the trainer's step and gives each process its rows of every batch, so that a
    run resumes at any step.

    Attributes:
        name: of the data.
        shape: of an image as the model gets it, (channels, height, width).
        classes: name of each label.
        grey_levels: of the images.
        steps_per_epoch: batches in the training data.
    """

    name: str  # pyright: ignore[reportIncompatibleVariableOverride]
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    grey_levels: int
    steps_per_epoch: int

    def statistics_sample(self) -> Tensor:
        """Training images (N, C, H, W), uint8, to take mean and deviation from; the same on every process."""
        raise NotImplementedError

    def evaluation(self, split: str) -> Iterable[tuple[Tensor, Tensor]] | None:
        """Every sample of `"train"` (10,000 at most), `"validation"` or `"test"` once; `None` if there are none."""
        raise NotImplementedError


class ImagesInMemory(InMemory, ClassifierData):
    """A data set of labelled images that is held in memory.

    Args:
        data: the data set.
        recipe: its sections data and training.

    Raises:
        ConfigError: if the data are no images, have no labels, or no validation samples.
    """

    def __init__(self, data: DataSet, recipe: Recipe) -> None:
        if not data.is_image or data.levels is None:
            raise ConfigError(f"data.name: expected images to classify, got {data.name}, which has vectors.")
        if data.train.y is None or data.classes is None:
            raise ConfigError(f"data.name: expected data with labels, got {data.name}, which has none.")
        if not len(data.validation):
            raise ConfigError(
                f"data.options.validation: expected validation samples to choose the best model by, got none of "
                f"{data.name}. Leave it out."
            )
        super().__init__(data, recipe, labels=True)
        channels, height, width = data.shape
        self.name, self.shape, self.classes = data.name, (channels, height, width), data.classes
        self.grey_levels = data.levels

    def statistics_sample(self) -> Tensor:
        """All training images."""
        return self.data.train.x

    def evaluation(self, split: str) -> Iterable[tuple[Tensor, Tensor]] | None:
        """The samples of a part in order; of the training data the first 10,000."""
        part = getattr(self.data, split)
        if not len(part):
            return None
        n = TRAIN_SAMPLES if split == "train" else len(part)
        size = self.recipe.data.evaluation_batch_size
        return list(zip(part.x[:n].split(size), part.y[:n].split(size), strict=True))
