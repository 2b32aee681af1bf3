"""Progressive separation: how well simple classifiers do on the features of each depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from invertible.representations.features import Labelled, chosen_depths, features_by_depth, standardised
from invertible.representations.probes import nearest_neighbour, support_vector_machine


@dataclass(frozen=True)
class DepthAccuracy:
    """Accuracies at one depth, 0 to 1.

    Attributes:
        depth: number of layers passed, 0 for the input.
        name: of the last one.
        features: number of features.
        svm: accuracy of the linear support vector machine.
        penalty: its C.
        converged: whether its fits met their tolerance.
        nearest: accuracy of the nearest neighbour.
    """

    depth: int
    name: str
    features: int
    svm: float
    penalty: float
    converged: bool
    nearest: float


@dataclass(frozen=True)
class Separation:
    """Accuracies by depth.

    Attributes:
        points: in order of depth.
        pooling: `"mean"` or `"flatten"`.
        train: number of samples learnt from.
        test: number of samples scored.
    """

    points: tuple[DepthAccuracy, ...]
    pooling: str
    train: int
    test: int

    def __str__(self) -> str:
        """A table."""
        width = max(len(point.name) for point in self.points)
        what = "averaged over positions" if self.pooling == "mean" else "all numbers"
        lines = [
            f"accuracy on {self.test} samples, learnt from {self.train}; features: {what}, standardised",
            f"{'depth':>5}  {'':{width}}{'features':>10}{'SVM':>9}{'1-NN':>9}",
        ]
        for point in self.points:
            note = "" if point.converged else "  (SVM not converged)"
            figures = f"{point.features:10}{point.svm:9.2%}{point.nearest:9.2%}"
            lines.append(f"{point.depth:5}  {point.name:{width}}{figures}{note}")
        return "\n".join(lines)


def separation(
    model: nn.Module,
    train: Labelled,
    test: Labelled,
    *,
    depths: int | None = None,
    pooling: str = "mean",
    progress: Callable[[str, int, int], object] | None = None,
) -> Separation:
    """Accuracy of a linear support vector machine and of the nearest neighbour on the features of every depth.

    As Jacobsen et al. 2018, section 5.1: features are averaged over positions and standardised, C is cross-validated,
    and both accuracies grow with depth if the network pulls classes apart step by step. What the network itself was
    trained on should not be the test set.

    Averaging leaves one number a channel, which for a bijection of few channels is little: the input of a grey image
    becomes its mean brightness, so that early accuracies tell how much that alone is worth. `pooling="flatten"` keeps
    all numbers: then early ones tell how far the pixels already separate the classes.

    Args:
        model: as `layers` takes it; undisturbed.
        train: samples to learn from.
        test: samples to score.
        depths: how many, evenly spaced from the input to the last layer; all if `None`. One takes seconds for some
            thousand samples.
        pooling: `"mean"` over positions, or `"flatten"`.
        progress: told the name of each depth before it is measured, and how many of how many are done.

    Raises:
        ConfigError: on an unknown pooling, too few depths, or too small a training set.
        DomainError: if features are not finite, naming the layer.
        MissingDependencyError: if scikit-learn is not installed.

    Example:
        >>> found = separation(model, Labelled(train.x, train.y), Labelled(test.x, test.y))
        >>> print(found)
    """
    wanted = chosen_depths("separation", model, depths)
    found = []
    for depth, (name, pair) in zip(wanted, features_by_depth(model, (train, test), wanted, pooling), strict=True):
        if progress is not None:
            progress(name, len(found), len(wanted))
        known, unknown = standardised(*pair)
        margin = support_vector_machine(known, train.y, unknown, test.y)
        nearest = nearest_neighbour(known, train.y, unknown, test.y)
        accuracies = margin.accuracy, margin.penalty, margin.converged, nearest
        found.append(DepthAccuracy(depth, name, known.shape[1], *accuracies))
    return Separation(tuple(found), pooling, len(train), len(test))
