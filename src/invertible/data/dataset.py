"""What `load` returns: samples and labels in three parts that share no sample."""

from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.errors import ShapeError


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Samples and their labels.

    Attributes:
        x: images (N, C, H, W), uint8 with values 0 .. levels - 1; or vectors (N, D), float32.
        y: labels (N,), int64, 0 .. classes - 1; `None` where there are none.

    Raises:
        ShapeError: if x or y is of another shape or dtype.
    """

    x: Tensor
    y: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.x.dim(), self.x.dtype) not in {(4, torch.uint8), (2, torch.float32)}:
            raise ShapeError(
                "Split: expected x to be images (N, C, H, W) of dtype torch.uint8 or vectors (N, D) of dtype "
                f"torch.float32, got {tuple(self.x.shape)} of dtype {self.x.dtype}. Convert or reshape it."
            )
        if self.y is not None and (self.y.shape != self.x.shape[:1] or self.y.dtype != torch.int64):
            raise ShapeError(
                f"Split: expected y of shape ({len(self.x)},) and dtype torch.int64, a label for each sample, "
                f"got {tuple(self.y.shape)} of dtype {self.y.dtype}."
            )

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        return f"Split({len(self)} samples, {'no labels' if self.y is None else 'with labels'})"

    def take(self, indices: Tensor) -> "Split":
        """The samples at these indices (n,), in their order, as a copy."""
        return Split(self.x[indices], None if self.y is None else self.y[indices])


@dataclass(frozen=True, eq=False, repr=False)
class DataSet:
    """A data set in three parts.

    Attributes:
        name: what it was loaded by.
        train: samples to learn from.
        validation: samples to choose by, taken from the training part unless the set brings its own.
        test: samples to judge by.
        levels: number of grey levels of images, 256 for eight bits; `None` for vectors.
        classes: name of each label; `None` without labels.
        source: where it comes from, citation and licence.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    levels: int | None
    classes: tuple[str, ...] | None
    source: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample: (C, H, W) or (D,)."""
        return tuple(self.train.x.shape[1:])

    @property
    def is_image(self) -> bool:
        """Whether samples are images; else they are vectors."""
        return self.train.x.dim() == 4

    def __repr__(self) -> str:
        kind = f"images {self.shape}, {self.levels} levels" if self.is_image else f"vectors {self.shape}"
        labels = f"{len(self.classes)} classes" if self.classes else "no labels"
        sizes = f"{len(self.train)} train, {len(self.validation)} validation, {len(self.test)} test"
        return f"DataSet({self.name!r}: {kind}, {labels}; {sizes})"
