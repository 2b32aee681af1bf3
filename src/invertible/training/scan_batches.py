"""Batches of slices of MRI scans, in the order of a training and of an evaluation."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch.utils.data import Dataset, Sampler

from invertible.data.mri import MRIBatch, MRISlice, ShapeBatchSampler, SliceDataset, collate
from invertible.errors import InvertibleError
from invertible.training.batches import ALONE, Share
from invertible.training.streamed_images import SizedStreamedBatches


class Parcel:
    """A batch on its way through Lightning, which takes any other object apart to convert what it finds in it.

    Args:
        batch: the batch.
    """

    def __init__(self, batch: MRIBatch) -> None:
        self.batch = batch

    def to(self, device: torch.device | str, **_: object) -> "Parcel":
        """The same on a device."""
        return Parcel(self.batch.to(device))


class TrainingScans:
    """An endless stream of training batches, epoch after epoch, that begins at a step.

    Args:
        slices: what is read.
        keys: the order of an epoch.
        batches: an epoch.
        start: the step of the first batch.
    """

    def __init__(self, slices: SliceDataset, keys: "EpochKeys", batches: SizedStreamedBatches, start: int) -> None:
        self.slices, self.keys, self.batches, self.start = slices, keys, batches, start

    def __iter__(self) -> Iterator[Parcel]:
        epoch, self.keys.skip = divmod(self.start, len(self.keys))
        while True:
            # An epoch is read to its end before its successor is told: processes that read ahead see the right one.
            self.slices.set_epoch(epoch)
            self.keys.order.set_epoch(epoch)
            yield from self.batches
            epoch, self.keys.skip = epoch + 1, 0


class EpochKeys(Sampler[list[int]]):
    """The slices of every batch of an epoch, for one process.

    Args:
        order: the batches of all processes.
        share: which rows of each batch to give; of a batch too small for all, the first.

    Attributes:
        skip: number of batches to leave out at the start.
    """

    def __init__(self, order: ShapeBatchSampler, share: Share = ALONE) -> None:
        self.order, self.share, self.skip = order, share, 0

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[list[int]]:
        for rows in islice(self.order, self.skip, None):
            yield rows[self.share.rank :: self.share.world] or rows[:1]


class VolumeKeys(Sampler[list[int]]):
    """Slices in batches of one volume each, one volume after the other.

    Args:
        slices: what is read.
        batch_size: slices a batch, at most.
        share: which volumes to give.
    """

    def __init__(self, slices: SliceDataset, batch_size: int, share: Share = ALONE) -> None:
        rows: dict[int, list[int]] = {}
        for row, (volume, _) in enumerate(slices.rows):
            rows.setdefault(volume, []).append(row)
        mine = list(rows.values())[share.rank :: share.world]
        self.batches = [each[first : first + batch_size] for each in mine for first in range(0, len(each), batch_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


class ReadSlices(Dataset[MRISlice | InvertibleError]):
    """Slices, or the errors of those that cannot be read: raised where they are read, a loader would wrap them.

    Args:
        slices: what is read.
    """

    def __init__(self, slices: SliceDataset) -> None:
        self.slices = slices

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> MRISlice | InvertibleError:
        try:
            return self.slices[index]
        except InvertibleError as error:
            return error


class Opened:
    """The batches of parcels.

    Args:
        parcels: the parcels.
    """

    def __init__(self, parcels: SizedStreamedBatches) -> None:
        self.parcels = parcels

    def __len__(self) -> int:
        return len(self.parcels)

    def __iter__(self) -> Iterator[MRIBatch]:
        return (parcel.batch for parcel in self.parcels)


def packed(slices: list[MRISlice], *, acquisitions: tuple[str, ...], context_features: int | None) -> Parcel:
    """Slices of one shape as a batch, as `data.mri.collate` makes it."""
    return Parcel(collate(slices, acquisitions=acquisitions, context_features=context_features))
