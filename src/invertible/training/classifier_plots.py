"""Pictures of a classifier's training: its curves, and which classes it takes for which."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from invertible.errors import require
from invertible.training.classification import ClassificationScore
from invertible.training.pictures import write_atomically

INK, MUTED, GRID = "#22252b", "#7a808a", "#e3e5e9"
TRAIN, VALIDATION = "#3b6fd6", "#e08a1e"
SETTINGS = {"font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GRID}
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
        figure = _figure(8.6, 3.4)
        loss, error = figure.subplots(1, 2)
        for name, colour in (("train", TRAIN), ("validation", VALIDATION)):
            epochs, losses = _means(history, name)
            loss.plot(epochs, losses, color=colour, linewidth=1.8, label=name)
            epochs, accuracies = _means(history, f"{name}_accuracy")
            error.plot(epochs, [100 * (1 - each) for each in accuracies], color=colour, linewidth=1.8)
        best = [float(row["epoch"]) for row in history if row["validation"] and int(row["step"]) == best_step]
        for axes, title in ((loss, "cross-entropy in nats"), (error, "error rate in %")):
            for index, epoch in enumerate(best[:1]):
                label = "best model" if not index and axes is loss else None
                axes.axvline(epoch, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label=label, zorder=1)
            axes.set_title(title, loc="left", fontsize=9.5, color=INK)
            axes.set_xlabel("epoch", color=INK)
            axes.xaxis.set_major_locator(require("matplotlib.ticker", "train").MaxNLocator(integer=len(epochs) > 2))
            _log_or_linear(axes)
            axes.grid(axis="y", color=GRID, linewidth=0.6)
            axes.tick_params(length=0, colors=MUTED)
            axes.margins(x=0.02)
        figure.legend(loc="outside lower center", ncols=3, frameon=False, labelcolor=INK)
        _write(figure, path)


def _means(history: Sequence[dict[str, str]], name: str) -> tuple[list[float], list[float]]:
    """Epochs of the validations, and the mean of a column since the one before."""
    epochs, means, since = [], [], []
    for row in history:
        if row.get(name):
            since.append(float(row[name]))
        if row["validation"] and since:
            epochs.append(float(row["epoch"]))
            means.append(sum(since) / len(since))
            since = []
    return epochs, means


def _log_or_linear(axes: Any) -> None:  # noqa: ANN401
    values = [value for line in axes.lines[:2] for value in line.get_ydata()]
    positive = [value for value in values if value > 0]
    # Curves that reach 0, as training errors do, have no place on a log axis; others cover decades.
    if positive and min(positive) == min(values) and max(values) > 10 * min(values):
        ticker = require("matplotlib.ticker", "train")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axes.minorticks_off()
    else:
        axes.set_ylim(bottom=0)


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
        figure = _figure(side + 0.6, side)
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
        _write(figure, path)


def _square_root() -> Any:  # noqa: ANN401
    return require("matplotlib.colors", "train").PowerNorm(0.5, 0, 1)


def _numbers(axes: Any, score: ClassificationScore, shares: Any) -> None:  # noqa: ANN401
    for row, line in enumerate(score.confusion.tolist()):
        for column, count in enumerate(line):
            if count:
                colour = "white" if shares[row, column] > 0.4 else INK
                axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)


def _figure(width: float, height: float) -> Any:  # noqa: ANN401
    return require("matplotlib.figure", "train").Figure(figsize=(width, height), layout="constrained")


def _write(figure: Any, path: Path) -> None:  # noqa: ANN401
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())
