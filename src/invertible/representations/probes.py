"""Two simple classifiers of features: what they get right tells how far classes are apart."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from torch import Tensor

from invertible.errors import ConfigError, require

# Weights of the errors against the margin among which the cross-validation chooses.
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
FOLDS = 3


@dataclass(frozen=True)
class Margin:
    """A linear support vector machine on test features.

    Attributes:
        accuracy: on the test features, 0 to 1.
        penalty: C, as the cross-validation chose it.
        converged: whether its fits met their tolerance.
    """

    accuracy: float
    penalty: float
    converged: bool


def support_vector_machine(train: Tensor, train_y: Tensor, test: Tensor, test_y: Tensor) -> Margin:
    """Fit a linear support vector machine, one class against the rest, and score it.

    C is the one of 0.001, 0.01, 0.1 and 1 with the best accuracy in a cross-validation of three folds of the training
    features.

    Args:
        train: features (N, D) to learn from, standardised.
        train_y: their classes (N,), at least two and three samples of each.
        test: features (M, D) to score.
        test_y: their classes (M,).

    Raises:
        ConfigError: if the training set is too small for the folds.
        MissingDependencyError: if scikit-learn is not installed.
    """
    smallest = int(train_y.unique(return_counts=True)[1].min())
    if smallest < FOLDS or len(train_y.unique()) < 2:
        raise ConfigError(
            f"separation: expected at least 2 classes with {FOLDS} training samples each, got "
            f"{len(train_y.unique())} classes, the smallest of {smallest}. Give more training samples."
        )
    svm, selection = require("sklearn.svm", "data"), require("sklearn.model_selection", "data")
    failed = require("sklearn.exceptions", "data").ConvergenceWarning
    machine = svm.LinearSVC(dual=False, tol=1e-3, max_iter=2000)
    folds = selection.StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    search = selection.GridSearchCV(machine, {"C": PENALTIES}, cv=folds)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        search.fit(train.numpy(), train_y.cpu().numpy())
    for each in caught:
        if not issubclass(each.category, failed):
            warnings.warn(each.message, each.category, stacklevel=2)
    converged = not any(issubclass(each.category, failed) for each in caught)
    accuracy = float(search.score(test.numpy(), test_y.cpu().numpy()))
    return Margin(accuracy, float(search.best_params_["C"]), converged)


def nearest_neighbour(train: Tensor, train_y: Tensor, test: Tensor, test_y: Tensor) -> float:
    """The accuracy of giving each of the test features (M, D) the class of the nearest of the training features (N, D).

    Raises:
        MissingDependencyError: if scikit-learn is not installed.
    """
    neighbours = require("sklearn.neighbors", "data").KNeighborsClassifier(1, algorithm="brute")
    neighbours.fit(train.numpy(), train_y.cpu().numpy())
    return float(neighbours.score(test.numpy(), test_y.cpu().numpy()))
