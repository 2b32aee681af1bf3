"""Contraction by depth: what happens to distances within classes, between classes, and to small changes."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from invertible.errors import ConfigError, ShapeError
from invertible.representations.features import Labelled, chosen_depths, features_by_depth
from invertible.representations.layers import prepare
from invertible.stability.subject import seeded


@dataclass(frozen=True)
class Spread:
    """Smallest, median and largest of some ratios."""

    smallest: float
    median: float
    largest: float

    @staticmethod
    def of(ratios: Tensor) -> Spread:
        """Of the numbers of a tensor that are finite: equal inputs have no ratio. NaN if there are none."""
        ratios = ratios[ratios.isfinite()]
        if not len(ratios):
            return Spread(math.nan, math.nan, math.nan)
        return Spread(float(ratios.min()), float(ratios.median()), float(ratios.max()))


@dataclass(frozen=True)
class DepthContraction:
    """Distances at one depth.

    Attributes:
        depth: number of layers passed, 0 for the input.
        name: of the last one.
        within_to_between: mean distance of two samples of one class over that of two samples of different classes.
        local: ratios |Phi(x + h) - Phi(x)| / |h| for small random h.
        within: ratios |Phi(x) - Phi(x')| / |x - x'| for pairs of one class.
        between: the same for pairs of different classes.
    """

    depth: int
    name: str
    within_to_between: float
    local: Spread
    within: Spread
    between: Spread


@dataclass(frozen=True)
class Contraction:
    """Distances by depth.

    Attributes:
        points: in order of depth.
        samples: number of samples, all pairs of which were measured.
        perturbation: |h| / |x|, the size of the small changes.
    """

    points: tuple[DepthContraction, ...]
    samples: int
    perturbation: float

    def __str__(self) -> str:
        """A table."""
        width = max(len(point.name) for point in self.points)
        lines = [
            f"distances of {self.samples} samples, all pairs; and ratios to the input's distances, in the median",
            f"{'depth':>5}  {'':{width}}{'within/between':>16}{'within':>10}{'between':>10}"
            f"{'small changes (range)':>34}",
        ]
        for point in self.points:
            local = f"{point.local.median:.3g} ({point.local.smallest:.3g} to {point.local.largest:.3g})"
            lines.append(
                f"{point.depth:5}  {point.name:{width}}{point.within_to_between:16.3f}{point.within.median:10.3g}"
                f"{point.between.median:10.3g}{local:>34}"
            )
        return "\n".join(lines)


def contraction(
    model: nn.Module,
    data: Labelled,
    *,
    depths: int | None = None,
    samples: int = 400,
    perturbation: float = 1e-4,
    generator: torch.Generator | int | None = None,
) -> Contraction:
    """Distances between features of every depth, against those between the inputs, in float64.

    With Phi_j(x) the whole state behind layer j, every number of it, in the 2-norm, over all pairs of the samples:

    - mean |Phi_j(x) - Phi_j(x')| over pairs of one class, divided by that over pairs of different classes. It falls
      where the network contracts classes more than it contracts the space, whatever its scale;
    - |Phi_j(x) - Phi_j(x')| / |x - x'| over the pairs, each kind by itself: secants of the map, below 1 where it
      contracts;
    - |Phi_j(x + h) - Phi_j(x)| / |h| for one random h a sample, |h| = `perturbation` |x|: what the map does to a small
      change without direction, the root mean square of J's singular values up to chance. Its worst direction is the
      business of `spectrum`.

    That classifiers contract, layer by layer, the space along classes is measured by Oyallon (2017, "Building a regular
    decision boundary with deep networks", section 4) and for i-RevNet by Jacobsen et al. (2018, section 5.1); neither
    takes these very ratios.

    Args:
        model: as `layers` takes it; undisturbed, a copy in float64 is measured.
        data: samples and their classes.
        depths: how many, evenly spaced from the input to the last layer; all if `None`.
        samples: how many of the data, drawn at random.
        perturbation: |h| / |x|.
        generator: a generator or a seed for samples and changes; seed 0 if `None`.

    Raises:
        ConfigError: on too few depths or samples, or a perturbation that is not positive.
        ShapeError: if no class has two samples, or there is but one class.
        DomainError: if features are not finite, naming the layer.

    Example:
        >>> print(contraction(model, Labelled(test.x, test.y)))
    """
    if samples < 4 or not perturbation > 0:
        raise ConfigError(
            f"contraction: expected samples of at least 4 and perturbation > 0, got {samples} and {perturbation}."
        )
    source = seeded(generator)
    data = data.take(samples, source)
    rows, columns = torch.triu_indices(len(data), len(data), 1)
    same = (data.y[rows] == data.y[columns]).cpu()
    if not bool(same.any()) or bool(same.all()):
        raise ShapeError(
            f"contraction: expected pairs of one class and pairs of different classes, got classes {data.y.tolist()}. "
            "Give more samples."
        )
    double = copy.deepcopy(model).double()
    moved = _in_double(double, data)
    noise = torch.randn(moved.x.shape, generator=source, dtype=torch.float64).to(moved.x)
    noise = noise * _per_row(perturbation * _norm(moved.x) / _norm(noise), noise)
    near = Labelled(moved.x + noise, data.y, data.condition)
    wanted = chosen_depths("contraction", model, depths)
    points: list[DepthContraction] = []
    size, start = _norm(noise).cpu(), torch.empty(0)
    for depth, (name, (at, beside)) in zip(
        wanted, features_by_depth(double, (moved, near), wanted, "flatten"), strict=True
    ):
        distances = torch.cdist(at, at, compute_mode="donot_use_mm_for_euclid_dist")[rows, columns]
        start = distances.clone() if not points else start
        ratio = distances / start
        kinds = Spread.of(ratio[same]), Spread.of(ratio[~same])
        within = float(distances[same].mean() / distances[~same].mean())
        points.append(DepthContraction(depth, name, within, Spread.of((beside - at).norm(dim=1) / size), *kinds))
    return Contraction(tuple(points), len(data), perturbation)


def _in_double(model: nn.Module, data: Labelled) -> Labelled:
    x, _ = prepare(model, data.x if not data.x.is_floating_point() else data.x.double(), data.condition)
    return Labelled(x, data.y, data.condition)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.dim() - 1))
