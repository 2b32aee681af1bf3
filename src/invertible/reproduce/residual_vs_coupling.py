"""The residual form y = x + F(x) beside the coupling form: what each costs, what each inverts, how each classifies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from invertible.reproduce.experiment import FULL, QUICK, Claim, Experiment, Found, Measurement, Progress, Run, Table
from invertible.reproduce.figures import BLUE, INK, ORANGE, RED, new_figure
from invertible.reproduce.form_claims import (
    FORMS,
    INVERSES,
    NETWORK,
    SOLVED,
    accuracies,
    constants,
    each,
    judged,
    mean,
    networks,
    numbers,
    rows,
    values,
)  # fmt: skip
from invertible.reproduce.form_measures import COUPLING, RESIDUAL, inverses_of, network_of
from invertible.reproduce.strips import finite_or_nan
from invertible.reproduce.wording import mean_and_deviation, number, over_seeds

MEASURES: Mapping[str, Callable[..., Measurement]] = {INVERSES: inverses_of, NETWORK: network_of}
CONSTANTS = (0.5, 0.7, 0.9, 0.97, 1.0, 1.1, 1.3, 1.6, 2.0, 4.0)
SWEEP = {"features": 64, "batch": 32, "constants": list(CONSTANTS)}
SETTINGS = {
    QUICK: {
        "data": "digits", "steps": 264, "batch": 64, "lr": 0.1, "decay": 5e-4, "nesterov": True, "milestones": [],
        "fall": 0.1, "flip": False, "crop": 0, "clip": 5.0,
    },
    FULL: {
        "data": "cifar10", "steps": 78_000, "batch": 128, "lr": 0.1, "decay": 5e-4, "nesterov": True,
        "milestones": [23_400, 46_800, 62_400], "fall": 0.2, "flip": True, "crop": 4, "clip": 5.0,
    },
}  # fmt: skip
# Of as many parameters: 67,314 and 67,086, eight blocks each; 4,873,146 and 4,878,242.
MODELS: Mapping[str, Mapping[str, dict[str, Any]]] = {
    QUICK: {
        RESIDUAL: {"blocks": [4, 4], "channels": [38, 38], "strides": [2, 2], "momentum": 0.1},
        COUPLING: {"squeeze": 2, "blocks": [4, 4], "channels": [2, 8], "strides": [1, 2], "hidden": [26, 26]},
    },
    FULL: {RESIDUAL: {"configuration": "cifar"}, COUPLING: {"configuration": "cifar", "hidden": [4, 16, 50]}},
}
SEEDS = 3
NAMES = {RESIDUAL: "i-ResNet", COUPLING: "i-RevNet"}
COLOURS = {RESIDUAL: ORANGE, COUPLING: BLUE}
LINES = (
    (SOLVED, False, ORANGE, "-", "x + F(x), random F"),
    (SOLVED, True, RED, "-", "x + F(x), worst F"),
    (COUPLING, True, BLUE, "-", "coupling, worst F"),
)


class ResidualVsCoupling(Experiment):
    """Gomez et al. (2017), section 3; Dinh et al. (2014), section 3; with Behrmann et al. (2019), theorem 1."""

    name = "residual-vs-coupling"
    title = (
        "A coupling inverts any F by one evaluation of it; y = x + F(x) needs a Lipschitz constant below 1 and many; "
        "networks of either classify alike."
    )
    source = "Dinh et al. 2014 (NICE); Gomez et al. 2017 (RevNet), section 3"

    def departures(self, scale: str) -> Sequence[str]:
        """Neither paper compares the two as is done here."""
        data = "8 x 8 digits" if scale == QUICK else "CIFAR-10"
        return (
            "neither paper measures this: the papers state the coupling's inverse and its cost, and leave y = x + F(x) "
            "as the form that has none; its inverse by iteration is that of Behrmann et al. (2019)",
            "F is c A tanh(B x) with orthogonal A and B, whose constant c is known; for the worst A = -B^T",
            f"networks are an i-ResNet and an i-RevNet of as many parameters on {data}, {SEEDS} seeds",
        )

    def runs(self, scale: str, seed: int) -> list[Run]:
        """Inverses of each seed; a network of each form and seed."""
        seeds = range(seed, seed + SEEDS)
        return [
            *(Run(f"inverses, seed {one}", {"kind": INVERSES, **SWEEP, "seed": one}) for one in seeds),
            *(
                Run(
                    f"{NAMES[form]}, seed {one}",
                    {"kind": NETWORK, "form": form, "model": MODELS[scale][form], **SETTINGS[scale], "seed": one},
                )
                for one in seeds
                for form in FORMS
            ),
        ]

    def measure(self, config: Mapping[str, Any], device: str, progress: Progress) -> Measurement:
        """As the run's kind has it."""
        torch.manual_seed(config["seed"])
        return MEASURES[config["kind"]](config, device, progress)

    def claims(self, found: Sequence[Found]) -> list[Claim]:
        """What each inverts, what it costs, how it classifies."""
        return judged(found)

    def tables(self, found: Sequence[Found]) -> list[Table]:
        """Inverses over constants, costs, accuracies."""
        inverses = [
            [f"{constant:g}", *(cell for form, worst in COLUMNS for cell in _cells(found, form, constant, worst=worst))]
            for constant in constants(found)
        ]
        head = ["c", *(f"{words}, {what}" for words in COLUMNS.values() for what in ("error", "evaluations"))]
        costs = [
            [what, *(cell for form in FORMS for cell in (_evaluations(found, form, what), _seconds(found, form, what)))]
            for what in networks(found, RESIDUAL)[0].numbers["seconds"]
        ]
        trained = [
            [NAMES[form], FORMS[form], f"{networks(found, form)[0].numbers['parameters']:,}",
             mean_and_deviation(accuracies(found, form)), over_seeds(values(found, form, "error"))]
            for form in FORMS
        ]  # fmt: skip
        both = [f"{NAMES[form]}, {what}" for form in FORMS for what in ("evaluations", "milliseconds")]
        return [
            Table("Inverse of one block, F of constant c: worst relative error, mean evaluations of F", head, inverses),
            Table("Cost of trained networks: evaluations of each F a sample, time of 64 samples", ["", *both], costs),
            Table(
                "Networks of as many parameters",
                ["network", "form", "parameters", "test accuracy, %, mean ± deviation", "worst error of the inverse"],
                trained,
            ),
        ]

    def figures(self, found: Sequence[Found]) -> Mapping[str, Any]:
        """Error and evaluations over the constant, and times of trained networks."""
        figure = new_figure(10.2, 3.9)
        errors, evaluations, times = figure.subplots(1, 3)
        scale = constants(found)
        for form, worst, colour, line, words in LINES:
            look = {"color": colour, "linestyle": line, "marker": "o", "markersize": 3.5, "linewidth": 1.4}
            blocks = [rows(found, form, constant, worst=worst) for constant in scale]
            errors.plot(scale, finite_or_nan([max(each(block, "error")) for block in blocks]), label=words, **look)
            evaluations.plot(scale, [mean(each(block, "evaluations")) for block in blocks], **look)
        errors.set(title="worst relative error of the inverse", yscale="log")
        evaluations.set(title="evaluations of F, an inverse", yscale="log")
        for axes in (errors, evaluations):
            axes.set_xscale("log")
            axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
            axes.set_xticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"])
            axes.minorticks_off()
            axes.set_xlabel("c, Lipschitz constant of F")
        errors.legend(loc="center right", fontsize=8)
        _bars(times, found)
        for axes in (errors, evaluations, times):
            axes.grid(axis="y")
            axes.tick_params(length=0)
        return {"residual-vs-coupling": figure}


COLUMNS = {
    ("residual, picard", True): "x + F(x), worst F, plain iteration",
    (SOLVED, True): "x + F(x), worst F",
    (SOLVED, False): "x + F(x), random F",
    (COUPLING, True): "coupling, worst F",
}


def _bars(axes: Any, found: Sequence[Found]) -> None:  # noqa: ANN401
    """Times over the forward pass of the same network."""
    names = [name for name in networks(found, RESIDUAL)[0].numbers["seconds"] if name != "forward"]
    for index, form in enumerate(FORMS):
        heights = [
            mean([each["seconds"][name] / each["seconds"]["forward"] for each in numbers(found, form)])
            for name in names
        ]
        places = [place + 0.38 * index for place in range(len(names))]
        bars = axes.bar(places, heights, 0.36, color=COLOURS[form], label=f"{NAMES[form]}: {FORMS[form]}")
        axes.bar_label(bars, [f"{height:.1f}" for height in heights], fontsize=8, padding=1)
    axes.set_xticks([place + 0.19 for place in range(len(names))], [name.replace(" step", "\nstep") for name in names])
    axes.set(title="time / forward pass, trained networks")
    axes.margins(y=0.18)
    axes.legend(loc="upper left", fontsize=8)


def _cells(found: Sequence[Found], form: str, constant: float, *, worst: bool) -> tuple[str, str]:
    blocks = rows(found, form, constant, worst=worst)
    return number(max(each(blocks, "error"))), f"{mean(each(blocks, 'evaluations')):.0f}"


def _evaluations(found: Sequence[Found], form: str, what: str) -> str:
    return f"{mean([one['evaluations'][what] for one in numbers(found, form)]):.1f}"


def _seconds(found: Sequence[Found], form: str, what: str) -> str:
    return f"{1000 * mean([one['seconds'][what] for one in numbers(found, form)]):.1f}"
