"""Data of a run, as Lightning asks for them."""

import lightning.pytorch as pl
from torch import Tensor

from invertible.data import DataSet, Split
from invertible.errors import ConfigError
from invertible.training.batches import ALONE, EvaluationBatches, Share, TrainingBatches, steps_per_epoch
from invertible.training.recipe import Recipe


class FlowData(pl.LightningDataModule):
    """Training and validation batches of a data set held in memory.

    The training stream begins at the trainer's step, so a resumed run continues it where it was left.

    Args:
        data: the data set.
        recipe: its sections data, training and conditions.

    Raises:
        ConfigError: if the recipe asks for labels of a data set that has none.
    """

    def __init__(self, data: DataSet, recipe: Recipe) -> None:
        super().__init__()
        self.data, self.recipe = data, recipe
        if recipe.conditions.labels and (data.train.y is None or data.classes is None):
            raise ConfigError(
                f"conditions.labels: expected a data set with labels, got {data.name}, which has none. Set it to false."
            )
        self.steps_per_epoch = steps_per_epoch(len(data.train.x), recipe.data.batch_size)

    def labels(self, split: Split) -> Tensor | None:
        """The split's labels if the flow is to have them."""
        return split.y if self.recipe.conditions.labels else None

    def stream(self, start: int = 0, share: Share = ALONE) -> TrainingBatches:
        """The training stream from a step on."""
        section, train = self.recipe.data, self.data.train
        seed, labels = self.recipe.training.seed, self.labels(train)
        return TrainingBatches(
            train.x, labels, section.batch_size, seed=seed, start=start, flip=section.flip, share=share
        )

    def train_dataloader(self) -> TrainingBatches:
        """The training stream from the trainer's step on."""
        return self.stream(self._trainer.global_step, self._share)

    def val_dataloader(self) -> EvaluationBatches:
        """The validation data."""
        split = self.data.validation
        return EvaluationBatches(split.x, self.labels(split), self.recipe.data.evaluation_batch_size, self._share)

    @property
    def _trainer(self) -> pl.Trainer:
        if self.trainer is None:
            raise ConfigError("FlowData: expected to be used by a trainer: trainer.fit(module, datamodule=data).")
        return self.trainer

    @property
    def _share(self) -> Share:
        return Share(self._trainer.global_rank, self._trainer.world_size)
