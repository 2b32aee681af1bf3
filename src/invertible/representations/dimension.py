"""Dimension by depth: in how many directions the features of the data vary, and how many of them classify."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from invertible.representations.features import Labelled, chosen_depths, features_by_depth
from invertible.representations.probes import nearest_neighbour, support_vector_machine

SHARES = (0.90, 0.95, 0.99)
# Variances below this share of the largest are rounding.
RANK = 1e-12
# So many components are classified by, unless asked for more.
MOST = 300


@dataclass(frozen=True)
class DepthDimension:
    """Principal components at one depth.

    Attributes:
        depth: number of layers passed, 0 for the input.
        name: of the last one.
        features: number of features.
        components: how many explain 90, 95 and 99 % of the variance.
        participation: (sum_i v_i)^2 / sum_i v_i^2 of the variances v_i, a dimension without a threshold.
    """

    depth: int
    name: str
    features: int
    components: tuple[int, ...]
    participation: float


@dataclass(frozen=True)
class ComponentAccuracy:
    """Accuracies on the first components of the last features, 0 to 1."""

    components: int
    svm: float
    nearest: float


@dataclass(frozen=True)
class Dimension:
    """Principal components by depth.

    Attributes:
        points: in order of depth.
        accuracies: of the last features, by number of components.
        pooling: `"mean"` or `"flatten"`.
        samples: from which variances and components were taken.
    """

    points: tuple[DepthDimension, ...]
    accuracies: tuple[ComponentAccuracy, ...]
    pooling: str
    samples: int

    def __str__(self) -> str:
        """Two tables."""
        width = max(len(point.name) for point in self.points)
        what = "averaged over positions" if self.pooling == "mean" else "all numbers"
        shares = "".join(f"{share:>7.0%}" for share in SHARES)
        lines = [
            f"principal components that explain so much of the variance of {self.samples} samples; features: {what}",
            f"{'depth':>5}  {'':{width}}{'features':>10}{shares}{'participation':>15}",
        ]
        for point in self.points:
            counts = "".join(f"{count:7}" for count in point.components)
            lines.append(f"{point.depth:5}  {point.name:{width}}{point.features:10}{counts}{point.participation:15.1f}")
        lines += ["accuracy on the first components of the last features", f"{'components':>12}{'SVM':>9}{'1-NN':>9}"]
        lines += [f"{one.components:12}{one.svm:9.2%}{one.nearest:9.2%}" for one in self.accuracies]
        return "\n".join(lines)


def dimension(
    model: nn.Module,
    train: Labelled,
    test: Labelled,
    *,
    depths: int | None = None,
    pooling: str = "flatten",
    components: tuple[int, ...] | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> Dimension:
    """Principal components of the features of every depth, and how many of the last ones it takes to classify.

    The variances are the eigenvalues of the training features' covariance, in the network's own units: features are
    centred, not standardised. The components of the last features classify by a linear support vector machine and by
    the nearest neighbour, as in `separation` (Jacobsen et al. 2018, section 5.2); all components are divided by one
    number, so that distances keep their ratios.

    Args:
        model: as `layers` takes it; undisturbed.
        train: samples whose components are taken, and to learn from.
        test: samples to score.
        depths: how many, evenly spaced from the input to the last layer; all if `None`.
        pooling: `"flatten"` for all numbers, or `"mean"` over positions.
        components: numbers of components to classify by; 1, 2, 3, 5, 10, 20, ... up to 300, if `None`.
        progress: told the name of each depth before it is measured, and how many of how many are done.

    Raises:
        ConfigError: on an unknown pooling, too few depths, or too small a training set.
        DomainError: if features are not finite, naming the layer.
        MissingDependencyError: if scikit-learn is not installed.

    Example:
        >>> print(dimension(model, Labelled(train.x, train.y), Labelled(test.x, test.y)))
    """
    wanted = chosen_depths("dimension", model, depths)
    points = []
    pair: tuple[Tensor, ...] = (torch.empty(0), torch.empty(0))
    found = features_by_depth(model, (train, test), wanted, pooling)
    for depth, (name, pair) in zip(wanted, found, strict=True):
        if progress is not None:
            progress(name, len(points), len(wanted))
        variances = _principal(pair[0] - pair[0].mean(0))[0]
        points.append(DepthDimension(depth, name, pair[0].shape[1], *_dimensions(variances)))
    # Behind the loop the pair holds the last features.
    accuracies = _accuracies((pair[0], train.y), (pair[1], test.y), components)
    return Dimension(tuple(points), accuracies, pooling, len(train))


def _principal(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of squares along the principal directions, largest first, and these as columns, (D, rank).

    By the smaller one of X^T X and X X^T: an SVD of X itself takes many times as long, for digits that no share of the
    variance needs.
    """
    wide = centred.shape[1] > centred.shape[0]
    values, vectors = torch.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    known = values > RANK * values.max().clamp(min=torch.finfo(values.dtype).tiny)
    values, vectors = values[known].flip(0), vectors[:, known].flip(1)
    return values, centred.T @ vectors / values.sqrt() if wide else vectors


def _dimensions(variances: Tensor) -> tuple[tuple[int, ...], float]:
    total = variances.sum()
    if not len(variances):
        return tuple(0 for _ in SHARES), 0.0
    explained = variances.cumsum(0) / total
    counts = tuple(int((explained < share * (1 - 1e-12)).sum()) + 1 for share in SHARES)
    return counts, float(total.square() / variances.square().sum())


def _accuracies(
    known: tuple[Tensor, Tensor], unknown: tuple[Tensor, Tensor], components: tuple[int, ...] | None
) -> tuple[ComponentAccuracy, ...]:
    (train, train_y), (test, test_y) = known, unknown
    mean = train.mean(0)
    directions = _principal(train - mean)[1]
    train, test = (train - mean) @ directions, (test - mean) @ directions
    scale = train.square().mean().sqrt().clamp(min=torch.finfo(train.dtype).tiny)
    train, test = train / scale, test / scale
    found = []
    for count in components or _round_numbers(min(train.shape[1], MOST)):
        head = train[:, :count], train_y, test[:, :count], test_y
        found.append(
            ComponentAccuracy(head[0].shape[1], support_vector_machine(*head).accuracy, nearest_neighbour(*head))
        )
    return tuple(found)


def _round_numbers(most: int) -> tuple[int, ...]:
    """1, 2, 3, 5, 10, 20, 30, 50, ... up to `most`."""
    steps = sorted({digit * 10**power for power in range(6) for digit in (1, 2, 3, 5)})
    return (*(step for step in steps if step < most), most)
