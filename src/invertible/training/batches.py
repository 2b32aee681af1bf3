"""Batches of data held in memory."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.errors import ConfigError
from invertible.training.randomness import generator_for

Batch = tuple[Tensor, Tensor] | tuple[Tensor]


@dataclass(frozen=True)
class Share:
    """The part of every batch that one process takes: rows rank, rank + world, ..."""

    rank: int = 0
    world: int = 1


ALONE = Share()


class TrainingBatches:
    """An endless stream of shuffled batches, each a function of the seed and the step alone.

    Every epoch is a new permutation; samples that do not fill a batch are left out until the next one. Starting the
    stream at a step gives what an uninterrupted one gives there.

    Args:
        x: data (N, ...).
        y: labels (N,), or `None`.
        batch_size: samples a step over all processes.
        seed: of the order and the flips.
        start: the step of the first batch.
        flip: mirror half of the samples along the last axis.
        crop_padding: cut each image (C, H, W) anew from one with so many zeros more on every side.
        share: which rows of each batch to give.

    Raises:
        ConfigError: if the data do not fill one batch, the batch cannot be shared equally, or what is to be cut is no
            image.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor | None,
        batch_size: int,
        *,
        seed: int,
        start: int = 0,
        flip: bool = False,
        crop_padding: int = 0,
        share: Share = ALONE,
    ) -> None:
        check_share(batch_size, share)
        if crop_padding and x.dim() != 4:
            raise ConfigError(f"data.crop_padding: expected 0 for data that are no images, got {crop_padding}.")
        self.x, self.y, self.batch_size, self.seed, self.start = x, y, batch_size, seed, start
        self.flip, self.crop_padding, self.share = flip, crop_padding, share
        self.steps_per_epoch = steps_per_epoch(len(x), batch_size)

    def __iter__(self) -> Iterator[Batch]:
        step, order, epoch = self.start, torch.empty(0, dtype=torch.int64), -1
        while True:
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = torch.randperm(len(self.x), generator=generator_for("cpu", "order", self.seed, epoch))
            first = step % self.steps_per_epoch * self.batch_size
            rows = order[first : first + self.batch_size]
            yield self._take(rows, step)
            step += 1

    def _take(self, rows: Tensor, step: int) -> Batch:
        mine = slice(self.share.rank, None, self.share.world)
        x = self.x[rows[mine]]
        if self.crop_padding:
            # Drawn for the whole batch, so that a sample's cut does not depend on the number of processes.
            noise = generator_for("cpu", "crop", self.seed, step)
            corners = torch.randint(2 * self.crop_padding + 1, (2, len(rows)), generator=noise)[:, mine]
            x = crop(x, corners, self.crop_padding)
        if self.flip:
            mirrored = torch.rand(len(rows), generator=generator_for("cpu", "flip", self.seed, step))[mine] < 0.5
            x = torch.where(mirrored.view(-1, *[1] * (x.dim() - 1)), x.flip(-1), x)
        return (x,) if self.y is None else (x, self.y[rows[mine]])


def check_share(batch_size: int, share: Share) -> None:
    """Refuse a batch that the processes cannot share equally.

    Raises:
        ConfigError: naming the key.
    """
    if batch_size % share.world:
        raise ConfigError(
            f"data.batch_size: expected a multiple of the {share.world} devices, got {batch_size}. It counts the "
            "samples of a step over all devices."
        )


def crop(x: Tensor, corners: Tensor, padding: int) -> Tensor:
    """Cut every image out of itself with zeros around it.

    Args:
        x: images (N, C, H, W).
        corners: upper left corners in the padded images, (2, N): rows and columns, each 0 .. 2 padding.
        padding: zeros on every side.

    Returns:
        (N, C, H, W); x itself where both are `padding`.
    """
    height, width = x.shape[2:]
    padded = torch.nn.functional.pad(x, [padding] * 4).permute(0, 2, 3, 1)
    rows = corners[0, :, None] + torch.arange(height)
    columns = corners[1, :, None] + torch.arange(width)
    return padded[torch.arange(len(x))[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Number of full batches in the data.

    Raises:
        ConfigError: if there is none.
    """
    if samples < batch_size:
        raise ConfigError(f"data.batch_size: expected at most the {samples} training samples, got {batch_size}.")
    return samples // batch_size


class EvaluationBatches:
    """All samples once, in order, in batches of at most `batch_size`.

    Args:
        x: data (N, ...).
        y: labels (N,), or `None`.
        batch_size: samples a batch.
        share: which samples to give.
    """

    def __init__(self, x: Tensor, y: Tensor | None, batch_size: int, share: Share = ALONE) -> None:
        mine = slice(share.rank, None, share.world)
        self.x, self.y, self.batch_size = x[mine], None if y is None else y[mine], batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.x) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.x), self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield (self.x[rows],) if self.y is None else (self.x[rows], self.y[rows])
