"""A data set held in memory as Lightning asks for it."""

from torch import Tensor

from invertible.data import DataSet, Split
from invertible.training.batches import ALONE, EvaluationBatches, Share, TrainingBatches, steps_per_epoch
from invertible.training.recipe import Recipe
from invertible.training.trainers_data import TrainersData


class InMemory(TrainersData):
    """Training and validation batches of a data set held in memory.

    The training stream begins at the trainer's step, so a resumed run continues it where it was left.

    Args:
        data: the data set.
        recipe: its sections data and training.
        labels: give the labels beside the samples.
    """

    def __init__(self, data: DataSet, recipe: Recipe, *, labels: bool) -> None:
        super().__init__()
        self.data, self.recipe, self.with_labels = data, recipe, labels
        self.steps_per_epoch = steps_per_epoch(len(data.train.x), recipe.data.batch_size)

    def labels(self, split: Split) -> Tensor | None:
        """The split's labels if the model is to have them."""
        return split.y if self.with_labels else None

    def stream(self, start: int = 0, share: Share = ALONE) -> TrainingBatches:
        """The training stream from a step on."""
        section, train = self.recipe.data, self.data.train
        return TrainingBatches(
            train.x,
            self.labels(train),
            section.batch_size,
            seed=self.recipe.training.seed,
            start=start,
            flip=section.flip,
            crop_padding=section.crop_padding,
            share=share,
        )

    def train_dataloader(self) -> TrainingBatches:
        """The training stream from the trainer's step on."""
        return self.stream(self.attached.global_step, self.share)

    def val_dataloader(self) -> EvaluationBatches:
        """The validation data."""
        split = self.data.validation
        return EvaluationBatches(split.x, self.labels(split), self.recipe.data.evaluation_batch_size, self.share)
