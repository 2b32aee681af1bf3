"""Batches of slices as observations of inverse problems, and loaders of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader, Sampler

from invertible.data.mri.slices import MRISlice, SliceDataset
from invertible.errors import ConfigError, DataError, ShapeError, require_positive
from invertible.physics.fourier import centre_crop, root_sum_of_squares
from invertible.physics.mri import CartesianMRI
from invertible.physics.operator import Observation


@dataclass(frozen=True, eq=False)
class MRIBatch:
    """Slices of one shape as observations y = A x, with what they are compared to.

    Attributes:
        observation: A is `CartesianMRI` with the slices' masks; its data the measured k-space (B, coils, H, W).
        target: magnitudes (B, h, w); `None` if a slice has none.
        maximum: the largest value of the volume each slice belongs to, (B,); `None` if a slice has no target.
        volumes: name of each slice's file.
        indices: which slice of its volume each is.
        crop: (h, w), to which reconstructions are cropped.
    """

    observation: Observation
    target: Tensor | None
    maximum: Tensor | None
    volumes: tuple[str, ...]
    indices: tuple[int, ...]
    crop: tuple[int, int]

    def __len__(self) -> int:
        return len(self.volumes)

    def magnitude(self, x: Tensor) -> Tensor:
        """What is compared to the target: the root of the sum of squares of x's channels, cropped to the middle.

        Args:
            x: reconstructions (B, c, H, W), of any number of coils.

        Returns:
            (B, h, w); its gradient at zero is zero.
        """
        return root_sum_of_squares(centre_crop(x, self.crop), 1)

    def to(self, device: torch.device | str) -> MRIBatch:
        """The same on a device."""
        target = None if self.target is None else self.target.to(device)
        maximum = None if self.maximum is None else self.maximum.to(device)
        return replace(self, observation=self.observation.to(device), target=target, maximum=maximum)


def collate(
    slices: Sequence[MRISlice], *, acquisitions: Sequence[str] = (), context_features: int | None = None
) -> MRIBatch:
    """Put slices of one shape into a batch.

    Args:
        slices: at least one.
        acquisitions: names of pulse sequences in the order of their one-hot code, which becomes the context; no context
            without them.
        context_features: length of the code, at least the number of names, the rest zeros; that number by default.
            Putzky et al. use 8.

    Raises:
        ShapeError: if k-space or target of the slices differ in shape.
        DataError: if a slice's acquisition is none of those named.
        ConfigError: if `context_features` is too small, or some slices alone have sensitivities.
    """
    first = slices[0]
    for each in slices:
        if each.kspace.shape != first.kspace.shape or each.crop != first.crop:
            raise ShapeError(
                f"collate: expected k-space (coils, height, width) of {tuple(first.kspace.shape)} cropped to "
                f"{first.crop}, as {first.volume} has, got {tuple(each.kspace.shape)} cropped to {each.crop} in "
                f"{each.volume}. Batch by shape: batch_sampler=ShapeBatchSampler(dataset, ...), or give image_size."
            )
    mask = torch.stack([each.mask for each in slices])[:, None, None]
    kspace = torch.stack([each.kspace for each in slices]) * mask
    maps = _all("sensitivities", [each.sensitivities for each in slices])
    targets = [each.target for each in slices if each.target is not None]
    maxima = [each.maximum for each in slices if each.maximum is not None]
    return MRIBatch(
        observation=Observation(CartesianMRI(mask, maps), kspace, _context(slices, acquisitions, context_features)),
        target=torch.stack(targets) if len(targets) == len(slices) else None,
        maximum=torch.tensor(maxima, dtype=torch.float32) if len(maxima) == len(slices) else None,
        volumes=tuple(each.volume for each in slices),
        indices=tuple(each.index for each in slices),
        crop=first.crop,
    )


class ShapeBatchSampler(Sampler[list[int]]):
    """Batches of slices that share the shape of k-space and target: real volumes differ.

    Args:
        dataset: what to batch.
        batch_size: slices a batch; the last one of each shape may be smaller.
        shuffle: mix slices within each shape and batches over all, anew in each epoch.
        seed: of the mixing.
        drop_last: leave out the batches that are smaller.

    Raises:
        ConfigError: if `batch_size` is not an integer of at least 1.
    """

    def __init__(
        self, dataset: SliceDataset, batch_size: int, *, shuffle: bool = False, seed: int = 0, drop_last: bool = False
    ) -> None:
        require_positive("ShapeBatchSampler", batch_size=batch_size)
        self.batch_size, self.shuffle, self.seed, self.drop_last = batch_size, shuffle, seed, drop_last
        groups: dict[tuple[object, ...], list[int]] = {}
        for index in range(len(dataset)):
            crop = dataset.headers[dataset.rows[index][0]].crop
            groups.setdefault((*dataset.shape(index), crop), []).append(index)
        self._groups = list(groups.values())
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next: the order of a shuffled one depends on seed and epoch alone."""
        self._epoch = epoch

    def __len__(self) -> int:
        extra = 0 if self.drop_last else self.batch_size - 1
        return sum((len(group) + extra) // self.batch_size for group in self._groups)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + 2**20 * self._epoch)
        batches = []
        for group in self._groups:
            order = torch.randperm(len(group), generator=generator).tolist() if self.shuffle else range(len(group))
            cut = [[group[k] for k in order[start : start + self.batch_size]] for start in self._starts(group)]
            batches += [batch for batch in cut if len(batch) == self.batch_size or not self.drop_last]
        if self.shuffle:
            batches = [batches[k] for k in torch.randperm(len(batches), generator=generator).tolist()]
        yield from batches

    def _starts(self, group: list[int]) -> range:
        return range(0, len(group), self.batch_size)


def slice_loader(
    dataset: SliceDataset,
    batch_size: int,
    *,
    shuffle: bool = False,
    acquisitions: Sequence[str] = (),
    context_features: int | None = None,
    workers: int = 0,
    seed: int = 0,
    drop_last: bool = False,
) -> DataLoader[MRIBatch]:
    """A loader of `MRIBatch`es, each of slices of one shape.

    Args:
        dataset: the slices.
        batch_size: slices a batch; the last one of each shape may be smaller.
        shuffle: mix, anew in each epoch; `set_epoch` says which it is.
        acquisitions: as `collate` takes them.
        context_features: as `collate` takes them.
        workers: processes that read; they live on from epoch to epoch.
        seed: of the mixing.
        drop_last: leave out the batches that are smaller.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=ShapeBatchSampler(dataset, batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last),
        collate_fn=partial(collate, acquisitions=tuple(acquisitions), context_features=context_features),
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    # torch calls a loader by what its data set holds, whatever collate_fn makes of it.
    return cast("DataLoader[MRIBatch]", loader)


def set_epoch(loader: DataLoader[MRIBatch], epoch: int) -> None:
    """Say which epoch comes next: to the order of a loader's batches and to the masks of its data set."""
    for each in (loader.dataset, loader.batch_sampler):
        if isinstance(each, SliceDataset | ShapeBatchSampler):
            each.set_epoch(epoch)


def _all(name: str, values: list[Tensor | None]) -> Tensor | None:
    given = [value for value in values if value is not None]
    if given and len(given) < len(values):
        raise ConfigError(f"collate: expected {name} in all slices or in none, got them in {len(given)}.")
    return torch.stack(given) if given else None


def _context(slices: Sequence[MRISlice], acquisitions: Sequence[str], features: int | None) -> Tensor | None:
    features = len(acquisitions) if features is None else features
    if features < len(acquisitions):
        raise ConfigError(
            f"collate: expected context_features of at least {len(acquisitions)}, a place for each of "
            f"{', '.join(acquisitions)}, got {features}."
        )
    if not acquisitions:
        return None
    places = {name: place for place, name in enumerate(acquisitions)}
    for each in slices:
        if each.acquisition not in places:
            raise DataError(
                f"{each.volume}: expected an acquisition of {', '.join(acquisitions)}, got {each.acquisition!r}. Name "
                "it, or leave it out by Selection(acquisitions=...)."
            )
    return one_hot(torch.tensor([places[each.acquisition] for each in slices]), features).float()
