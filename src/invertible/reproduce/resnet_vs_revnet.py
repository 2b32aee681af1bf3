"""RevNet beside ResNet at equal parameters, and the gradients it trains with beside the stored ones."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from invertible.chain import set_memory
from invertible.classifier import Classifier
from invertible.models.resnet import resnet
from invertible.models.revnet import revnet
from invertible.reproduce.classifier_training import (
    Batch,
    accuracy,
    cross_entropy,
    labelled_images,
    train_classifier,
)
from invertible.reproduce.experiment import FULL, QUICK, Claim, Experiment, Found, Measurement, Progress, Run, Table
from invertible.reproduce.figures import BLUE, INK, MUTED, ORANGE, new_figure
from invertible.reproduce.means import below, difference
from invertible.reproduce.runs import with_config
from invertible.reproduce.wording import mean_and_deviation, number
from invertible.stability import gradient_angle

SHARED = {"lr": 0.1, "decay": 2e-4, "nesterov": False, "fall": 0.1, "batch": 100, "clip": 0.0}
SETTINGS = {
    QUICK: {
        **SHARED, "data": "digits", "steps": 168, "milestones": [], "flip": False, "crop": 0, "momentum": 0.1,
        "checks": 6,
    },
    FULL: {
        **SHARED, "data": "cifar10", "steps": 80_000, "milestones": [40_000, 60_000], "flip": True, "crop": 2,
        "momentum": 0.01, "checks": 80,
    },
}  # fmt: skip
SEEDS = 3
RESNET, REVNET = "ResNet-32", "RevNet-38"
COLOURS = {RESNET: ORANGE, REVNET: BLUE}
PARAMETERS = 0.01
# Degrees, as the test of gradients in the paper's code takes them; one ReLU that rounding turns is felt at once.
ANGLE, DOUBLE = 1.0, 1e-10


class ResNetVsRevNet(Experiment):
    """Tables 2 and 3 of Gomez et al. (2017), and their figure of the angle between gradients."""

    name = "resnet-vs-revnet"
    title = "RevNet classifies as well as a ResNet of as many parameters, and its rebuilt gradients stay aligned."
    source = "Gomez et al. 2017, section 4"

    def departures(self, scale: str) -> Sequence[str]:
        """Standardisation and seeds, and at the quick scale data and schedule."""
        always = (
            f"{SEEDS} seeds of each network",
            "data standardised by the mean and deviation of each channel, in place of subtracting the mean image",
        )
        if scale == FULL:
            return always
        return (
            "8 x 8 digits, 1437 to learn from and 360 to judge by, in place of CIFAR-10",
            "168 steps on a cosine in place of 80,000 with two falls, no crops and flips",
            "batch normalisation with momentum 0.1 in place of 0.01, which a run of 168 steps needs",
            *always,
        )

    def runs(self, scale: str, seed: int) -> list[Run]:
        """A run for each network and seed."""
        return [
            Run(f"{network}, seed {each}", {**SETTINGS[scale], "network": network, "seed": each})
            for each in range(seed, seed + SEEDS)
            for network in (REVNET, RESNET)
        ]

    def measure(self, config: Mapping[str, Any], device: str, progress: Progress) -> Measurement:
        """Train; on the way measure accuracies, and of RevNet the angles between gradients."""
        data = labelled_images(config["data"], config["seed"])
        torch.manual_seed(config["seed"])
        model = network(config, data.shape, data.levels).to(device)
        set_memory(model, "reversible" if config["network"] == REVNET else "store")
        every = max(1, config["steps"] // config["checks"])
        curve: dict[str, list[float]] = {"step": [], "accuracy": [], "loss": []}
        gradients: list[dict[str, float]] = []

        def watch(step: int, batch: Batch) -> None:
            if step % every:
                return
            with torch.no_grad():
                loss = float(cross_entropy(copy.deepcopy(model), batch))
            curve["step"].append(step)
            curve["accuracy"].append(accuracy(model, data.test))
            curve["loss"].append(loss)
            if config["network"] == REVNET:
                gradients.append({"step": step, **compare(model, batch)})

        train_classifier(model, data, config, device, progress, watch)
        curve["step"].append(config["steps"])
        curve["accuracy"].append(accuracy(model, data.test))
        names = ("step", "degrees", "reference", "double")
        return Measurement({
            "parameters": sum(p.numel() for p in model.parameters()),
            "accuracy": curve["accuracy"][-1],
            "tested": len(data.test),
            "curve": curve,
            "gradients": {name: [one[name] for one in gradients] for name in names},
        })  # fmt: skip

    def claims(self, found: Sequence[Found]) -> list[Claim]:
        """Parameters, accuracy, angles."""
        sizes = {name: with_config(found, network=name)[0].numbers["parameters"] for name in (RESNET, REVNET)}
        gap = difference(_accuracies(found, REVNET), _accuracies(found, RESNET))
        limit = below(_accuracies(found, REVNET), _accuracies(found, RESNET), one=100 / found[0].numbers["tested"])
        angles, doubles = _every(found, "degrees"), _every(found, "double")
        revnets = with_config(found, network=REVNET)
        return [
            Claim(
                "Both have as many parameters.",
                abs(sizes[REVNET] / sizes[RESNET] - 1) <= PARAMETERS,
                f"{sizes[REVNET]:,} and {sizes[RESNET]:,}",
                f"within {PARAMETERS:.0%}",
            ),
            Claim(
                "RevNet's test accuracy is ResNet's.",
                gap >= -limit,
                f"difference of means {gap:+.2f} points over {len(with_config(found, network=REVNET))} seeds",
                f"at least -{limit:.2f} points: two standard errors of the difference, at least one test image, at "
                "most one point",
            ),
            Claim(
                "The gradient by rebuilt activations stays aligned with the stored one throughout training.",
                max(angles) < ANGLE,
                f"largest angle {number(max(angles))} degrees, of {len(angles)} over {len(revnets)} seeds",
                f"below {ANGLE:g} degrees",
            ),
            Claim(
                "In float64 it is the stored one.",
                max(doubles) < DOUBLE,
                f"largest relative error {number(max(doubles))}",
                f"below {DOUBLE:g}",
            ),
        ]

    def tables(self, found: Sequence[Found]) -> list[Table]:
        """Accuracies, and angles of every seed."""
        rows = [
            [name, f"{with_config(found, network=name)[0].numbers['parameters']:,}",
             mean_and_deviation(_accuracies(found, name)), f"{min(_accuracies(found, name)):.2f}",
             f"{_seconds(found, name):.0f}"]
            for name in (RESNET, REVNET)
        ]  # fmt: skip
        gap = difference(_accuracies(found, REVNET), _accuracies(found, RESNET))
        rows.append(["difference of means", "", f"{gap:+.2f}", "", ""])
        angles = [
            [
                str(each.config["seed"]),
                *(_range(each.numbers["gradients"][name]) for name in ("degrees", "reference", "double")),
            ]
            for each in with_config(found, network=REVNET)
        ]
        head = ["seed", "angle to the stored gradient, float32, degrees"]
        return [
            Table(
                "Test accuracy, %",
                ["network", "parameters", "accuracy, mean ± deviation", "worst seed", "seconds a run"],
                rows,
            ),
            Table(
                "Gradients of RevNet on the way, from the smallest to the largest",
                [*head, "stored gradient to its own in float64, degrees", "relative error in float64"],
                angles,
            ),
        ]

    def figures(self, found: Sequence[Found]) -> Mapping[str, Any]:
        """Accuracy and angle over the steps."""
        figure = new_figure(9.2, 3.6)
        left, right = figure.subplots(1, 2)
        for name in (RESNET, REVNET):
            for index, each in enumerate(with_config(found, network=name)):
                curve = each.numbers["curve"]
                label = name if index == 0 else None
                left.plot(curve["step"], curve["accuracy"], color=COLOURS[name], linewidth=1.3, label=label)
        left.set(title="test accuracy, %, one line a seed", xlabel="training step", ylim=(0, 101))
        left.legend(loc="lower right")
        for index, each in enumerate(with_config(found, network=REVNET)):
            gradients = each.numbers["gradients"]
            look = {"linewidth": 1.3, "marker": "o", "markersize": 3}
            label = "rebuilt against stored" if index == 0 else None
            right.plot(gradients["step"], _drawn(gradients["degrees"]), color=BLUE, label=label, **look)
            label = "stored against float64" if index == 0 else None
            right.plot(gradients["step"], _drawn(gradients["reference"]), color=MUTED, label=label, **look)
        right.axhline(ANGLE, color=INK, linewidth=0.8, linestyle=":", label="tolerance")
        # Room for the legend above.
        right.set(
            yscale="log", title="angle between gradients of RevNet, degrees", xlabel="training step", ylim=(1e-5, 100)
        )
        right.legend(loc="upper right")
        for axes in (left, right):
            axes.grid(axis="y")
            axes.tick_params(length=0)
        return {"resnet-vs-revnet": figure}


def network(config: Mapping[str, Any], shape: Sequence[int], levels: int) -> Classifier:
    """RevNet-38 or ResNet-32."""
    build, depth = {RESNET: (resnet, 32), REVNET: (revnet, 38)}[config["network"]]
    return build(depth, shape=shape, momentum=config["momentum"], grey_levels=levels)


def compare(model: Classifier, batch: Batch) -> dict[str, float]:
    """The gradient by rebuilt activations against the stored one, in float32 and float64."""
    found = gradient_angle(copy.deepcopy(model).train(), cross_entropy, batch, reference=True)
    double = gradient_angle(copy.deepcopy(model).train().double(), cross_entropy, batch)
    reference = math.inf if found.reference is None else found.reference.degrees
    values = {"degrees": found.total.degrees, "reference": reference, "double": double.total.relative_error}
    return {name: value if math.isfinite(value) else math.inf for name, value in values.items()}


def _accuracies(found: Sequence[Found], name: str) -> list[float]:
    return [each.numbers["accuracy"] for each in with_config(found, network=name)]


def _every(found: Sequence[Found], key: str) -> list[float]:
    return [value for each in with_config(found, network=REVNET) for value in each.numbers["gradients"][key]]


def _seconds(found: Sequence[Found], name: str) -> float:
    return statistics.median(each.seconds for each in with_config(found, network=name))


def _range(values: Sequence[float]) -> str:
    return f"{number(min(values))} to {number(max(values))}"


def _drawn(values: Sequence[float]) -> list[float]:
    return [value if math.isfinite(value) else math.nan for value in values]
