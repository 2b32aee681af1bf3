"""What a little likelihood in the loss does to the singular values of a network, on the data and away from them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from invertible.reproduce.classifier_training import LabelledImages, labelled_images
from invertible.reproduce.experiment import FULL, QUICK, Claim, Experiment, Found, Measurement, Progress, Run, Table
from invertible.reproduce.figures import BLUE, MUTED, RED, new_figure
from invertible.reproduce.invertible_classifier import CIFAR, DIGITS, accuracy, standardised, started, training
from invertible.reproduce.wording import mean_and_deviation, number, over_seeds
from invertible.stability import singular_values

SETTINGS = {
    QUICK: {**DIGITS, "depth": 8, "steps": 192, "checkpoints": 4, "samples": 8, "values": 64},
    FULL: {**CIFAR, "steps": 78_200, "checkpoints": 20, "samples": 8, "values": 4},
}
# Of the negative log-likelihood in nats: for 64 dimensions, and the paper's for 3072.
WEIGHTS = {QUICK: (0.0, 1e-4), FULL: (0.0, 1e-5)}
SEEDS = 3
SETS = {"data": "at test images", "noise": "at uniform noise"}
COLOURS = {False: RED, True: BLUE}
NAMES = {False: "without NF", True: "with NF"}
# Of accuracy that may be lost.
POINTS = 2.0


class NFObjective(Experiment):
    """Section 3.3.2 of Behrmann et al. (2021): the normalizing-flow objective as a regularizer."""

    name = "nf-objective"
    title = (
        "The normalizing-flow objective as a penalty raises small singular values more than large ones, and that on "
        "the data."
    )
    source = "Behrmann et al. 2021, section 3.3.2"

    def departures(self, scale: str) -> Sequence[str]:
        """The section argues and measures nothing; the networks are those of its classifiers."""
        common = (
            "the section is an argument: what it says is measured here on the affine classifiers of section 5.2",
            "three seeds; fixed permutations of channels, not 1 x 1 convolutions",
        )
        if scale == FULL:
            return common
        return (
            "scikit-learn's digits, 2 levels of 8 steps with 32 hidden channels and 192 steps at a rate of 1e-3 in "
            "place of CIFAR-10, 3 levels of 16 steps with 128 hidden channels and 200 epochs at 1e-4",
            *common,
        )

    def runs(self, scale: str, seed: int) -> list[Run]:
        """A run for each weight and seed."""
        rest = {**SETTINGS[scale], "coupling": "affine", "memory": "stored", "differences": 0.0, "every": 1}
        return [
            Run(f"weight {weight:g}, seed {each}", {**rest, "flow": weight, "seed": each})
            for each in range(seed, seed + SEEDS)
            for weight in WEIGHTS[scale]
        ]

    def measure(self, config: Mapping[str, Any], device: str, progress: Progress) -> Measurement:
        """Train, and take the spectra at test images and at noise on the way."""
        data = labelled_images(config["data"], config["seed"])
        model, scaling = started(data, config, device)
        points = {name: standardised(x, scaling) for name, x in _sets(data, config).items()}
        every = max(1, config["steps"] // config["checkpoints"])
        spectra, at, done = [spectra_of(model.trunk, points, config["values"])], [0], 0
        for _ in training(model, data, scaling, config):
            if done and done % every == 0:
                spectra.append(spectra_of(model.trunk, points, config["values"]))
                at.append(done)
            done += 1
            progress(done / config["steps"])
        spectra.append(spectra_of(model.trunk, points, config["values"]))
        numbers: dict[str, Any] = {
            "step": [*at, done], "accuracy": accuracy(model, data.test, scaling), "dimensions": math.prod(data.shape),
        }  # fmt: skip
        for name in SETS:
            ends = [each[name] for each in spectra]
            numbers[name] = {
                "largest": [float(high[:, 0].median()) for high, _ in ends],
                "smallest": [float(low[:, 0].median()) for _, low in ends],
                "condition": [float((high[:, 0] / low[:, 0]).max()) for high, low in ends],
            }
        last = spectra[-1]
        arrays = {f"{name}.{side}": last[name][index] for name in SETS for index, side in enumerate(("high", "low"))}
        return Measurement(numbers, arrays)

    def claims(self, found: Sequence[Found]) -> list[Claim]:
        """Small values gain, large ones less; away from the data nothing is held."""
        low, high = gains(found, "data", "smallest"), gains(found, "data", "largest")
        elsewhere = gains(found, "noise", "smallest")
        without, held = ([one.numbers["accuracy"] for one in _of(found, penalised=each)] for each in (False, True))
        return [
            Claim(
                "On the data it raises the small singular values.",
                all(value > 1 for value in low),
                f"σ_min with the penalty {over_seeds(low)} times that without, medians over samples",
                "above 1 for every seed",
            ),
            Claim(
                "It raises them more than it favours the large ones.",
                all(a > b for a, b in zip(low, high, strict=True)),
                f"σ_max {over_seeds(high)} times that without, σ_min {over_seeds(low)} times",
                "a larger factor for σ_min than for σ_max, for every seed",
            ),
            Claim(
                "It does so on the data, and less away from them.",
                all(a > b for a, b in zip(low, elsewhere, strict=True)),
                f"at noise σ_min is {over_seeds(elsewhere)} times that without, on the data {over_seeds(low)} times",
                "a larger factor on the data than at noise, for every seed",
            ),
            Claim(
                "Accuracy is not paid for it.",
                statistics.fmean(held) >= statistics.fmean(without) - POINTS,
                f"{mean_and_deviation(held, 1)} % with, {mean_and_deviation(without, 1)} % without",
                f"mean at most {POINTS:g} points lower",
            ),
        ]

    def tables(self, found: Sequence[Found]) -> list[Table]:
        """The end of every run."""
        head = ["", "seed", "accuracy, %"]
        head += [f"{value}, {name}" for name in SETS for value in ("σ_min", "σ_max", "condition")]
        rows = []
        for each in found:
            row = [NAMES[each.config["flow"] > 0], str(each.config["seed"]), number(each.numbers["accuracy"], 3)]
            for name in SETS:
                row += [number(each.numbers[name][key][-1]) for key in ("smallest", "largest", "condition")]
            rows.append(row)
        return [
            Table(
                "After training, at test images and at uniform noise: medians of σ, the worst condition number",
                head,
                rows,
            )
        ]

    def figures(self, found: Sequence[Found]) -> Mapping[str, Any]:
        """Ends of the spectrum through training, and all of it at the end."""
        figure = new_figure(9.2, 5.6)
        grid = figure.subplots(2, 2, sharey="row")
        for column, (name, words) in enumerate(SETS.items()):
            for each in found:
                first = each is _of(found, penalised=each.config["flow"] > 0)[0]
                _draw_ends(grid[0, column], each, name, labelled=first and column == 0)
                _draw_spectrum(grid[1, column], each, name)
            grid[0, column].set(yscale="log", title=f"{words}: largest and smallest", xlabel="training step")
            grid[1, column].set(yscale="log", title=f"{words}: after training", xlabel="rank of the singular value")
        for axes in grid.flat:
            axes.grid(axis="y")
            axes.tick_params(length=0)
        for row in (0, 1):
            grid[row, 0].set_ylabel("singular value")
        figure.legend(loc="outside lower center", ncols=4)
        return {"nf-objective": figure}


def spectra_of(trunk: nn.Module, points: Mapping[str, Tensor], values: int) -> dict[str, tuple[Tensor, Tensor]]:
    """The largest and the smallest singular values at each set; infinite and 0 where a Jacobian is not finite."""
    trunk.eval()
    found = {}
    for name, x in points.items():
        spectrum = singular_values(trunk, x, k=values)
        high, low = spectrum.largest, spectrum.smallest
        found[name] = (high.nan_to_num(nan=math.inf, posinf=math.inf), low.nan_to_num(nan=0.0))
    return found


def gains(found: Sequence[Found], name: str, key: str) -> list[float]:
    """A median singular value with the penalty over that without, seed by seed; NaN where one is lost."""
    pairs = zip(_of(found, penalised=True), _of(found, penalised=False), strict=True)
    values = [(a.numbers[name][key][-1], b.numbers[name][key][-1]) for a, b in pairs]
    return [a / b if b and math.isfinite(a) and math.isfinite(b) else math.nan for a, b in values]


def _sets(data: LabelledImages, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Grey levels of test images, and of noise that is uniform over all levels."""
    x = data.test.x[: config["samples"]]
    noise = torch.randint(data.levels, x.shape, generator=torch.Generator().manual_seed(config["seed"]))
    return {"data": x, "noise": noise.to(torch.uint8)}


def _of(found: Sequence[Found], *, penalised: bool) -> list[Found]:
    return [each for each in found if (each.config["flow"] > 0) is penalised]


def _draw_ends(axes: Any, found: Found, name: str, *, labelled: bool) -> None:  # noqa: ANN401
    penalised = found.config["flow"] > 0
    for key, style in (("largest", "-"), ("smallest", "--")):
        label = f"{NAMES[penalised]}, {key}" if labelled else None
        axes.plot(found.numbers["step"], found.numbers[name][key], style, color=COLOURS[penalised], label=label)


def _draw_spectrum(axes: Any, found: Found, name: str) -> None:  # noqa: ANN401
    """Medians over samples of the largest values from the left, and of the smallest from the right."""
    colour, dimensions = COLOURS[found.config["flow"] > 0], found.numbers["dimensions"]
    high, low = (found.arrays[f"{name}.{side}"].median(0).values for side in ("high", "low"))
    axes.plot(range(1, len(high) + 1), high.tolist(), color=colour, linewidth=1.3)
    axes.plot(range(dimensions, dimensions - len(low), -1), low.tolist(), color=colour, linewidth=1.3)
    axes.axhline(1.0, color=MUTED, linewidth=0.6)
