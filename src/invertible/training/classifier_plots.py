"""Pictures of a classifier's training: its curves, and which classes it takes for which."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from invertible.errors import require
from invertible.training.classification import ClassificationScore
from invertible.training.plot_style import (
    INK,
    MUTED,
    SETTINGS,
    TRAIN,
    VALIDATION,
    finish,
    log_or_linear,
    mark_best,
    means,
    new_figure,
    write_figure,
)

# Up to so many classes, their names and the numbers of samples are legible.
NAMED, NUMBERED = 40, 20


def plot_curves(history: Sequence[dict[str, str]], best_step: int, path: Path) -> None:
    """Draw loss and error rate of training and validation data over the epochs, and mark the best model.

    What is logged of the training data at single steps is averaged from one validation to the next.

    Args:
        history: rows of a `history.csv`.
        best_step: of the model that was saved.
        path: of the PNG.

    Raises:
        MissingDependencyError: if matplotlib is not installed.
    """
    with require("matplotlib", "train").rc_context(SETTINGS):
        figure = new_figure(8.6, 3.4)
        loss, error = figure.subplots(1, 2)
        for name, colour in (("train", TRAIN), ("validation", VALIDATION)):
            epochs, losses = means(history, name)
            loss.plot(epochs, losses, color=colour, linewidth=1.8, label=name)
            epochs, accuracies = means(history, f"{name}_accuracy")
            error.plot(epochs, [100 * (1 - each) for each in accuracies], color=colour, linewidth=1.8)
        mark_best(loss, history, best_step, label="best model")
        mark_best(error, history, best_step)
        finish(loss, "cross-entropy in nats", ticks=epochs)
        finish(error, "error rate in %", ticks=epochs)
        log_or_linear(loss)
        log_or_linear(error)
        figure.legend(loc="outside lower center", ncols=3, frameon=False, labelcolor=INK)
        write_figure(figure, path)


def plot_confusion(score: ClassificationScore, classes: Sequence[str], title: str, path: Path) -> None:
    """Draw the confusion matrix: of the samples of a true class (row), the share predicted as each class (column).

    Colour says the share. Up to 20 classes a cell holds the number of samples, up to 40 the axes name the classes.

    Args:
        score: what `evaluate_classifier` measured.
        classes: name of each label.
        title: what was classified.
        path: of the PNG.

    Raises:
        MissingDependencyError: if matplotlib is not installed.
    """
    counts = score.confusion.double()
    shares = (counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
    n = len(classes)
    with require("matplotlib", "train").rc_context(
        {**SETTINGS, "axes.spines.left": False, "axes.spines.bottom": False}
    ):
        side = min(8.0, 2.4 + 0.38 * n)
        figure = new_figure(side + 0.6, side)
        axes = figure.subplots()
        # The square root lifts the few mistakes out of the paper's white.
        image = axes.imshow(shares, cmap="Blues", norm=_square_root(), interpolation="nearest")
        if n <= NUMBERED:
            _numbers(axes, score, shares)
        names = list(classes) if n <= NAMED else []
        turned = (
            {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names), default=0) > 3 else {}
        )
        axes.set_xticks(range(len(names)), names, **turned)
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(length=0, colors=INK, labelsize=9.5 if n <= NUMBERED else 6)
        axes.set_xlabel("predicted class" + ("" if names else f", 0 to {n - 1} from the left"), color=INK)
        axes.set_ylabel("true class" + ("" if names else f", 0 to {n - 1} from the top"), color=INK)
        text = f"{title}: {100 * score.accuracy:.2f} % of {score.samples} right"
        axes.set_title(text, loc="left", fontsize=9.5, color=INK)
        bar = figure.colorbar(image, ax=axes, shrink=0.75, ticks=(0, 0.05, 0.2, 0.5, 1))
        bar.ax.set_yticklabels(["0", "5 %", "20 %", "50 %", "100 %"])
        bar.ax.tick_params(length=0, colors=MUTED)
        bar.outline.set_visible(False)
        bar.set_label("share of the true class", color=MUTED)
        write_figure(figure, path)


def _square_root() -> Any:  # noqa: ANN401
    return require("matplotlib.colors", "train").PowerNorm(0.5, 0, 1)


def _numbers(axes: Any, score: ClassificationScore, shares: Any) -> None:  # noqa: ANN401
    for row, line in enumerate(score.confusion.tolist()):
        for column, count in enumerate(line):
            if count:
                colour = "white" if shares[row, column] > 0.4 else INK
                axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
