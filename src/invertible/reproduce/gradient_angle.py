"""Memory-saving gradients of classifiers in training: which ones turn away from the true ones, and what helps."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from invertible.memory import ReconstructionWarning
from invertible.reproduce.classifier_training import labelled_images
from invertible.reproduce.experiment import FULL, QUICK, Claim, Experiment, Found, Measurement, Progress, Run, Table
from invertible.reproduce.figures import BLUE, GREEN, MUTED, ORANGE, PURPLE, RED, new_figure
from invertible.reproduce.invertible_classifier import (
    CIFAR,
    DIGITS,
    accuracy,
    angles_of,
    inverses,
    standardised,
    started,
    training,
)
from invertible.reproduce.runs import with_config
from invertible.reproduce.wording import mean_and_deviation, number, over_seeds

SETTINGS = {
    QUICK: {**DIGITS, "steps": 200, "checkpoints": 5, "batches": 2, "judged": 360, "spectra": 12},
    FULL: {**CIFAR, "steps": 78_200, "checkpoints": 40, "batches": 42, "judged": 2000, "spectra": 4},
}
WEIGHTS = {
    QUICK: {"flow": 1e-4, "differences": 1e-3, "every": 3},
    # What the published code weighs them with on 32 x 32 images.
    FULL: {"flow": 1e-5, "differences": 1e-5, "every": 10},
}
SEEDS = 3
AFFINE, ADDITIVE, FLOW, DIFFERENCES = "affine", "additive", "affine + NF", "affine + FD"
UNGUARDED, GUARDED = "affine, memory-saving", "affine, guarded"
# Coupling, penalty, and how activations are kept in training.
VARIANTS = {
    AFFINE: ("affine", "", "stored"),
    ADDITIVE: ("additive", "", "stored"),
    FLOW: ("affine", "flow", "stored"),
    DIFFERENCES: ("affine", "differences", "stored"),
    UNGUARDED: ("affine", "", "memory-saving"),
    GUARDED: ("affine", "", "guarded"),
}
COLOURS = {AFFINE: RED, ADDITIVE: BLUE, FLOW: GREEN, DIFFERENCES: PURPLE, UNGUARDED: ORANGE, GUARDED: MUTED}
# Degrees below which gradients count as equal, and from which as turned away; factor by which they turn.
ALIGNED, GROWTH = 0.1, 100
# Relative error of the worst image that comes back, and points of accuracy that may be lost.
RETURNED, POINTS = 1e-3, 2.0


class GradientAngle(Experiment):
    """Figure 1 and the table of classifiers of Behrmann et al. (2021)."""

    name = "gradient-angle"
    title = (
        "Training turns the memory-saving gradient of an affine network away from the true one, up to NaN; not that of "
        "an additive one, nor with a penalty; and training on it diverges unless it is guarded."
    )
    source = "Behrmann et al. 2021, figure of gradient angles and table of classifiers, section 5.2"

    def departures(self, scale: str) -> Sequence[str]:
        """Data and size at the quick scale; how penalties are computed and which networks are trained at both."""
        common = (
            "three seeds in place of one; fixed permutations of channels, not 1 x 1 convolutions",
            "the affine network with finite differences is trained with stored activations, in the paper with "
            "memory-saving ones; the penalty takes unit directions for each sample",
        )
        if scale == FULL:
            return common
        return (
            "scikit-learn's digits, 2 levels of 16 steps with 32 hidden channels and 200 steps at a rate of 1e-3 in "
            "place of CIFAR-10, 3 levels with 128 hidden channels and 200 epochs at 1e-4",
            "weights of the penalties of 1e-4 (NF) and 1e-3 at every third step (FD), for these have 64 dimensions",
            *common,
        )

    def runs(self, scale: str, seed: int) -> list[Run]:
        """A run for each variant and seed."""
        made = []
        for each in range(seed, seed + SEEDS):
            for name, (coupling, penalty, memory) in VARIANTS.items():
                weights = {"flow": 0.0, "differences": 0.0, "every": WEIGHTS[scale]["every"]}
                if penalty:
                    weights[penalty] = WEIGHTS[scale][penalty]
                config = {**SETTINGS[scale], **weights, "coupling": coupling, "memory": memory}
                made.append(Run(f"{name}, seed {each}", {**config, "variant": name, "seed": each}))
        return made

    def measure(self, config: Mapping[str, Any], device: str, progress: Progress) -> Measurement:
        """Train; angles on fixed batches on the way, accuracy and inverses at the end."""
        data = labelled_images(config["data"], config["seed"])
        model, scaling = started(data, config, device)
        assert data.train.y is not None
        x, labels = data.train.x[: config["batches"] * config["batch"]], data.train.y
        batches = [
            (standardised(part, scaling), where.to(device))
            for part, where in zip(x.split(config["batch"]), labels.split(config["batch"]), strict=False)
        ]
        every = max(1, config["steps"] // config["checkpoints"])
        losses: list[float] = []
        angles = {"step": [0], **{key: [value] for key, value in angles_of(model, batches).items()}}
        with warnings.catch_warnings():
            # That the guard has to mend gradients is what this measures.
            warnings.simplefilter("ignore", ReconstructionWarning)
            for loss in training(model, data, scaling, config):
                # A loss is handed out before its step: so many steps are taken.
                if losses and len(losses) % every == 0:
                    _add(angles, len(losses), angles_of(model, batches))
                losses.append(loss)
                progress(len(losses) / config["steps"])
        _add(angles, len(losses), angles_of(model, batches))
        lost = None if len(losses) == config["steps"] and math.isfinite(losses[-1]) else len(losses) - 1
        numbers = {"angles": angles, "lost": lost, "accuracy": accuracy(model, data.test, scaling)}
        test = standardised(data.test.x[: config["judged"]], scaling)
        return Measurement({**numbers, **inverses(model, test, config["spectra"])}, {"loss": torch.tensor(losses)})

    def claims(self, found: Sequence[Found]) -> list[Claim]:
        """What turns away, what does not, and what that does to training."""
        short = "Training was too short for the inverse to be lost."
        affine = [_worst(each) for each in with_config(found, variant=AFFINE)]
        growth = [_growth(each) for each in with_config(found, variant=AFFINE)]
        additive = [_worst(each) for each in with_config(found, variant=ADDITIVE)]
        lost = [each.numbers["lost"] for each in with_config(found, variant=UNGUARDED)]
        return [
            Claim(
                "The memory-saving gradient of the affine network turns away from the true one, up to NaN.",
                all(value >= ALIGNED for value in affine) and all(value >= GROWTH for value in growth),
                f"largest angle {_degrees(affine)}, grown by {over_seeds(growth)}",
                f"at least {ALIGNED:g}° or NaN, grown at least {GROWTH}-fold, for every seed",
                short,
            ),
            Claim(
                "That of the additive network stays with it.",
                all(value < ALIGNED for value in additive),
                f"largest angle {_degrees(additive)}",
                f"below {ALIGNED:g}° throughout, for every seed",
            ),
            *(_penalty(found, variant, words) for variant, words in PENALTIES.items()),
            _unchanged(found),
            Claim(
                "An affine network trained on memory-saving gradients diverges.",
                all(step is not None for step in lost),
                "loss not finite at steps " + ", ".join("none" if step is None else str(step) for step in lost),
                "within the training, for every seed",
                short,
            ),
            _guarded(found),
        ]

    def tables(self, found: Sequence[Found]) -> list[Table]:
        """The table of classifiers."""
        head = ["network", "test accuracy, %", "largest angle, °", "lost inverses", "worst error", "σ_min", "condition"]
        return [
            Table("At the end of training, over three seeds: means, and the worst of each", head, [
                _row(name, with_config(found, variant=name)) for name in VARIANTS if with_config(found, variant=name)
            ])
        ]  # fmt: skip

    def figures(self, found: Sequence[Found]) -> Mapping[str, Any]:
        """Angles while training, and the loss of the affine network by how its gradients are taken."""
        figure = new_figure(9.2, 3.9)
        left, right = figure.subplots(1, 2)
        for name in (AFFINE, ADDITIVE, FLOW, DIFFERENCES):
            for index, each in enumerate(with_config(found, variant=name)):
                _draw_angles(left, each, COLOURS[name], name if index == 0 else None)
        left.axhline(ALIGNED, color=MUTED, linewidth=0.8, linestyle=":")
        left.set(yscale="log", xlabel="training step", ylabel="degrees")
        left.set_title("angle of stored and memory-saving gradient; ×: NaN")
        for name, label in ((AFFINE, "stored"), (UNGUARDED, "memory-saving"), (GUARDED, "memory-saving, guarded")):
            for index, each in enumerate(with_config(found, variant=name)):
                _draw_loss(right, each, COLOURS[name], label if index == 0 else None)
        right.set(yscale="log", xlabel="training step", title="training loss of the affine network; ×: not finite")
        for axes in (left, right):
            axes.grid(axis="y")
            axes.tick_params(length=0)
            axes.legend(loc="upper left" if axes is left else "lower left", fontsize=8)
        return {"gradient-angle": figure}


PENALTIES = {
    FLOW: "With the flow's likelihood as a penalty (NF) gradients stay aligned and every image comes back.",
    DIFFERENCES: "With finite differences (FD) as a penalty they do, too.",
}


def _add(angles: dict[str, list[Any]], step: int, values: Mapping[str, Any]) -> None:
    for key, value in {"step": step, **values}.items():
        angles[key].append(value)


def _worst(found: Found) -> float:
    """The largest angle of a run, infinite where one was NaN."""
    angles = found.numbers["angles"]
    return math.inf if any(angles["nan"]) else max(angles["degrees"])


def _growth(found: Found) -> float:
    return _worst(found) / max(found.numbers["angles"]["degrees"][0], 1e-9)


def _degrees(values: Sequence[float]) -> str:
    return ", ".join("NaN" if not math.isfinite(value) else f"{number(value)}°" for value in values)


def _penalty(found: Sequence[Found], variant: str, words: str) -> Claim:
    chosen = with_config(found, variant=variant)
    angles, worst = [_worst(each) for each in chosen], [each.numbers["worst"] for each in chosen]
    lost = [each.numbers["non_finite"] for each in chosen]
    ends = [each.numbers["angles"]["degrees"][-1] for each in chosen]
    trained = all(each.numbers["lost"] is None for each in chosen)
    aligned = all(value < ALIGNED for value in angles) and all(value <= RETURNED for value in worst)
    return Claim(
        words,
        trained and aligned and not any(lost),
        f"largest angle {_degrees(angles)}, at the end {_degrees(ends)}; worst relative error {over_seeds(worst)}, "
        f"{sum(lost)} images lost",
        f"below {ALIGNED:g}° throughout, errors of at most {RETURNED:g}, none lost, for every seed",
        "A gradient may jump for once, the inverse being good, where a rounding error crosses the kink of a ReLU.",
    )


def _unchanged(found: Sequence[Found]) -> Claim:
    means = {name: _accuracies(found, name) for name in (AFFINE, FLOW, DIFFERENCES)}
    least = min(statistics.fmean(means[name]) for name in (FLOW, DIFFERENCES))
    return Claim(
        "The penalties leave the accuracy as it is.",
        least >= statistics.fmean(means[AFFINE]) - POINTS,
        "; ".join(f"{name} {mean_and_deviation(values, 1)} %" for name, values in means.items()),
        f"means at most {POINTS:g} points below that of the affine network without",
    )


def _guarded(found: Sequence[Found]) -> Claim:
    guarded, stored = _accuracies(found, GUARDED), _accuracies(found, AFFINE)
    lost = [each.numbers["lost"] for each in with_config(found, variant=GUARDED) if each.numbers["lost"] is not None]
    return Claim(
        "With the guard, the default of the strategy 'reversible', it does not.",
        not lost and statistics.fmean(guarded) >= statistics.fmean(stored) - POINTS,
        f"{len(lost)} of {len(guarded)} runs lost; accuracy {mean_and_deviation(guarded, 1)} %, "
        f"{mean_and_deviation(stored, 1)} % with stored activations",
        f"no run lost, accuracy at most {POINTS:g} points lower",
    )


def _accuracies(found: Sequence[Found], variant: str) -> list[float]:
    return [each.numbers["accuracy"] for each in with_config(found, variant=variant)]


def _row(name: str, found: Sequence[Found]) -> list[str]:
    numbers = [each.numbers for each in found]
    images = sum(each["images"] for each in numbers)
    worst = max(_worst(each) for each in found)
    lost = sum(each["lost"] is not None for each in numbers)
    return [
        name + (f" ({lost} of {len(numbers)} diverged)" if lost else ""),
        mean_and_deviation([each["accuracy"] for each in numbers], 1),
        "NaN" if math.isinf(worst) else number(worst),
        f"{sum(each['non_finite'] for each in numbers)} of {images}",
        number(max(each["worst"] for each in numbers)),
        number(min(each["smallest"] for each in numbers)),
        number(max(each["condition"] for each in numbers)),
    ]


def _draw_angles(axes: Any, found: Found, colour: str, label: str | None) -> None:  # noqa: ANN401
    angles = found.numbers["angles"]
    axes.plot(angles["step"], angles["degrees"], color=colour, linewidth=1.3, marker=".", label=label)
    gone = [step for step, count in zip(angles["step"], angles["nan"], strict=True) if count]
    # At the upper edge: there is no number to draw them at.
    axes.plot(gone, [0.97] * len(gone), "x", color=colour, markersize=5, transform=axes.get_xaxis_transform())


def _draw_loss(axes: Any, found: Found, colour: str, label: str | None) -> None:  # noqa: ANN401
    loss = found.arrays["loss"].tolist()
    finite = [value if math.isfinite(value) else math.nan for value in loss]
    axes.plot(range(len(loss)), finite, color=colour, linewidth=0.9, alpha=0.85, label=label)
    if found.numbers["lost"] is not None:
        last = next((index for index in reversed(range(len(loss))) if math.isfinite(loss[index])), 0)
        axes.plot(last, loss[last], "x", color=colour, markersize=8, markeredgewidth=2)
