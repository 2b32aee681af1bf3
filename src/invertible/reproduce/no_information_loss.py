"""An i-RevNet looked into: its features give the image back, and separate the classes more with every layer."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from invertible.models.irevnet import irevnet
from invertible.representations import Labelled, Separation, separation
from invertible.reproduce.classifier_training import accuracy, labelled_images, standardise, train_classifier
from invertible.reproduce.experiment import FULL, QUICK, Claim, Experiment, Found, Measurement, Progress, Run, Table
from invertible.reproduce.feature_inverses import interpolations, inverses
from invertible.reproduce.figures import BLUE, MUTED, ORANGE, new_figure
from invertible.reproduce.strips import show
from invertible.reproduce.wording import number, over_seeds

SHARED = {"lr": 0.1, "clip": 0.0}
SETTINGS = {
    QUICK: {
        **SHARED, "data": "digits", "steps": 440, "batch": 64, "decay": 5e-3, "nesterov": True, "milestones": [],
        "fall": 0.1, "flip": False, "crop": 0, "depths": 15, "samples": [1437, 360], "pairs": 60,
        "model": {"squeeze": 2, "blocks": [6, 6], "channels": [2, 8], "strides": [1, 2], "hidden": [32, 32]},
    },
    FULL: {
        **SHARED, "data": "cifar10", "steps": 78_000, "batch": 128, "decay": 5e-4, "nesterov": False,
        "milestones": [23_400, 46_800, 62_400], "fall": 0.2, "flip": True, "crop": 4, "depths": 14,
        "samples": [10_000, 2_000], "pairs": 200, "model": {"configuration": "cifar"},
    },
}  # fmt: skip
SEEDS = 3
DRAWN = 6
# Errors relative to the image; rounded to grey levels, none may show.
SINGLE, DOUBLE = 1e-4, 1e-12
# What a bijection of 64 pixels reached in the pilots, 97.8 to 98.3, less one point.
ACCURACY = 97.0
# Pairs of depths in which the deeper one separates at least as well, %, and the gain from first to last, points.
ORDERED, GAIN = 80.0, 50.0
PROBES = {"svm": "linear support vector machine", "nearest": "nearest neighbour"}
COLOURS = {"svm": BLUE, "nearest": ORANGE}


class NoInformationLoss(Experiment):
    """Sections 4 and 5 of Jacobsen et al. (2018)."""

    name = "no-information-loss"
    title = (
        "A network that loses nothing classifies: its features give the image back, separate the classes more with "
        "every layer, and can be interpolated."
    )
    source = "Jacobsen et al. 2018, sections 4 and 5"

    def departures(self, scale: str) -> Sequence[str]:
        """Data and network."""
        always = (
            "progressive separation on the network's own test images of all ten classes, in place of 100 classes of "
            "ImageNet; a bijection of few channels knows little more than brightness at its input",
            f"{SEEDS} seeds",
            "that interpolations look natural is judged by distances to real images, where the paper shows pictures",
        )
        if scale == FULL:
            return ("the paper's CIFAR-10 network in place of those for ImageNet", *always)
        return (
            "8 x 8 digits in place of ImageNet; a bijection from 64 pixels to 64 features, of twelve blocks in two "
            "stages",
            *always,
        )

    def runs(self, scale: str, seed: int) -> list[Run]:
        """A run for each seed."""
        return [Run(f"seed {each}", {**SETTINGS[scale], "seed": each}) for each in range(seed, seed + SEEDS)]

    def measure(self, config: Mapping[str, Any], device: str, progress: Progress) -> Measurement:
        """Train, then invert, separate and interpolate."""
        data = labelled_images(config["data"], config["seed"])
        torch.manual_seed(config["seed"])
        model = irevnet(shape=data.shape, grey_levels=data.levels, **config["model"]).to(device)
        known, unknown = config["samples"]
        train, test = (
            Labelled(part.x[:count].to(device), part.y[:count].to(device))  # pyright: ignore[reportOptionalSubscript]
            for part, count in ((data.train, known), (data.test, unknown))
        )
        standardise(model, train.x)
        before = separation(model, train, test, depths=config["depths"])
        train_classifier(model, data, config, device, lambda part: progress(0.8 * part))
        back, inverse = inverses(model, test.x, data.levels)
        found = separation(model, train, test, depths=config["depths"])
        progress(0.95)
        lines, pictures = interpolations(model, data, config["pairs"], device)
        numbers = {
            "accuracy": accuracy(model, data.test),
            **inverse,
            "depth": [point.depth for point in found.points],
            **by_depth(found),
            "untrained": by_depth(before),
            **lines,
        }
        images = {"x": model.scaled(test.x[:DRAWN]), "back": back[:DRAWN], **pictures}
        return Measurement(numbers, images)

    def claims(self, found: Sequence[Found]) -> list[Claim]:
        """Inverse, accuracy, separation, interpolation."""
        numbers = [each.numbers for each in found]
        wrong, single = [one["wrong"] for one in numbers], [one["float32"] for one in numbers]
        double, right = [one["float64"] for one in numbers], [one["accuracy"] for one in numbers]
        lost, ratios = [one["lost"] for one in numbers], [_ratio(one) for one in numbers]
        return [
            Claim(
                "Features give the image back.",
                max(wrong) == 0 and max(single) <= SINGLE and max(double) <= DOUBLE,
                f"{sum(wrong)} of {sum(one['inverted'] for one in numbers)} test images differ at their grey levels; "
                f"worst relative error {over_seeds(single)} in float32, {over_seeds(double)} in float64",
                f"none; {SINGLE:g} and {DOUBLE:g}",
            ),
            Claim(
                "To lose nothing does not hurt the accuracy.",
                statistics.fmean(right) >= ACCURACY,
                f"test accuracy {over_seeds(right, 3)} %",
                f"mean of at least {ACCURACY:g} %",
            ),
            *(_separation_claim(numbers, probe) for probe in PROBES),
            Claim(
                "Every point on a line between features has an image.",
                max(lost) == 0,
                f"{sum(lost)} inverses are not finite",
                "none",
            ),
            Claim(
                "Images half-way between features look natural: as near to real ones as half-way between pixels.",
                max(ratios) <= 1,
                f"their distance to the nearest training image is {over_seeds(ratios)} times that of blended pixels",
                "at most 1 for every seed, medians over pairs",
                "Nothing in the training of a classifier keeps lines between features near images, and in small ones "
                "many pixels leave the range of grey levels on the way.",
            ),
        ]

    def tables(self, found: Sequence[Found]) -> list[Table]:
        """A row a seed, and a row a depth."""
        rows = [
            [str(each.config["seed"]), f"{n['accuracy']:.1f}", number(n["float32"]), number(n["float64"]),
             *(f"{n[name]:.2f}" for name in ("features_distance", "pixels_distance", "test_distance")),
             number(n["off_range"])]
            for each in found for n in [each.numbers]
        ]  # fmt: skip
        depths = [
            [str(depth), *(over_seeds([each.numbers[probe][index] for each in found], 3) for probe in PROBES)]
            for index, depth in enumerate(found[0].numbers["depth"])
        ]
        distances = ["half-way by features", "half-way by pixels", "test images"]
        return [
            Table(
                "Accuracy in %, worst relative error of the inverse, median distance to the nearest training image",
                ["seed", "accuracy", "float32", "float64", *distances, "features off the range"],
                rows,
            ),
            Table("Accuracy on averaged features by depth, %", ["depth", *PROBES.values()], depths),
        ]

    def figures(self, found: Sequence[Found]) -> Mapping[str, Any]:
        """Separation over depth, images and their inverses, and interpolations."""
        figure = new_figure(9.2, 7.4)
        above, below = figure.subfigures(2, 1, height_ratios=(1, 1.35))
        left, right = above.subfigures(1, 2, width_ratios=(1.15, 1))
        _separation_curves(left.subplots(), found)
        first = found[0].arrays
        right.suptitle("test images, and what their features give back", x=0.02, ha="left", fontsize=9.5)
        halves = [(kind, first[key], part) for part in (0, 1) for kind, key in (("image", "x"), ("inverse", "back"))]
        show(right, [(kind, images.chunk(2)[part]) for kind, images, part in halves])
        below.suptitle(
            "a line between two images, by features and by pixels; below, the two classes' probabilities",
            x=0.01, ha="left", fontsize=9.5,
        )  # fmt: skip
        show(below, _strips(first), notes=_chances(found[0]), colour=MUTED)
        return {"no-information-loss": figure}


def by_depth(found: Separation) -> dict[str, list[float]]:
    """Accuracies of both simple classifiers in percent."""
    return {probe: [100 * getattr(point, probe) for point in found.points] for probe in PROBES}


def _ratio(numbers: Mapping[str, Any]) -> float:
    return numbers["features_distance"] / numbers["pixels_distance"]


def _separation_claim(numbers: Sequence[Mapping[str, Any]], probe: str) -> Claim:
    shares = [100 * ordered(one[probe]) for one in numbers]
    gains = [one[probe][-1] - one[probe][0] for one in numbers]
    learnt = [one[probe][-1] - one["untrained"][probe][-1] for one in numbers]
    return Claim(
        f"Classes come apart with depth, to a {PROBES[probe]}.",
        min(shares) >= ORDERED and min(gains) >= GAIN and min(learnt) > 0,
        f"the deeper of two layers is at least as good in {over_seeds(shares, 3)} % of pairs; "
        f"{over_seeds(gains, 3)} points from the input to the last layer, there {over_seeds(learnt, 3)} above the "
        "untrained network",
        f"for every seed at least {ORDERED:g} % and {GAIN:g} points, and above the untrained network",
    )


def ordered(values: Sequence[float]) -> float:
    """Share of pairs in which the later value is at least the earlier one; NaN counts against it."""
    pairs = [(a, b) for index, a in enumerate(values) for b in values[index + 1 :]]
    return sum(b >= a for a, b in pairs) / len(pairs)


def _separation_curves(axes: Any, found: Sequence[Found]) -> None:  # noqa: ANN401
    for probe, words in PROBES.items():
        for index, each in enumerate(found):
            depth, look = each.numbers["depth"], {"color": COLOURS[probe]}
            label = words if index == 0 else None
            axes.plot(depth, each.numbers[probe], linewidth=1.3, marker="o", markersize=2.5, label=label, **look)
            axes.plot(depth, each.numbers["untrained"][probe], linewidth=0.8, linestyle=":", **look)
    axes.plot([], [], color=MUTED, linewidth=0.8, linestyle=":", label="the same, untrained")
    axes.set(xlabel="layers passed", ylim=(0, 102), title="accuracy on averaged features, %, one line a seed")
    axes.legend(loc="upper left", fontsize=7.5, borderaxespad=0)
    axes.grid(axis="y")
    axes.tick_params(length=0)


def _strips(arrays: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    return [(kind, arrays[kind][pair]) for pair in range(len(arrays["features"])) for kind in ("features", "pixels")]


def _chances(found: Found) -> list[list[str]]:
    classes, (features, pixels) = found.numbers["classes"], found.numbers["chances"]
    return [
        [
            "  ".join(f"{name}: {value:.2f}" for name, value in zip(classes[pair], step, strict=True))
            for step in kind[pair]
        ]
        for pair in range(len(features))
        for kind in (features, pixels)
    ]
