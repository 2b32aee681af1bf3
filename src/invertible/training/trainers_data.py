"""Data that know the trainer they are used by."""

import lightning.pytorch as pl

from invertible.errors import ConfigError
from invertible.training.batches import Share


class TrainersData(pl.LightningDataModule):
    """Data whose stream begins at the trainer's step, and which give every process its rows."""

    @property
    def attached(self) -> pl.Trainer:
        """The trainer.

        Raises:
            ConfigError: if there is none.
        """
        if self.trainer is None:
            owner = type(self).__name__
            raise ConfigError(f"{owner}: expected to be used by a trainer: trainer.fit(module, datamodule=data).")
        return self.trainer

    @property
    def share(self) -> Share:
        """The rows of this process."""
        return Share(self.attached.global_rank, self.attached.world_size)
