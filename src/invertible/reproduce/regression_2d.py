"""A regression that no invertible map can fit: what it does to the inverse, and what a little likelihood saves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from invertible.bijection import Bijection
from invertible.blocks import ActNorm, AffineCoupling, Permutation
from invertible.chain import Chain
from invertible.reproduce.experiment import FULL, QUICK, Claim, Experiment, Found, Measurement, Progress, Run, Table
from invertible.reproduce.figures import BLUE, GRID, INK, MUTED, ORANGE, RED, new_figure
from invertible.reproduce.runs import with_config
from invertible.reproduce.strips import finite_or_nan
from invertible.reproduce.wording import number, over_seeds
from invertible.stability import singular_values

SETTINGS = {
    QUICK: {"points": 500, "steps": 12, "iterations": 10_000, "lr": 3e-4},
    FULL: {"points": 10_000, "steps": 24, "iterations": 40_000, "lr": 1e-4},
}
SEEDS = 3
# Of the likelihood in the loss, in nats; 0 for none.
WEIGHTS = (0.0, 1e-6)
NAMES = {0.0: "none", 1e-6: "1e-6 of the negative log-likelihood"}
COLOURS = {0.0: RED, 1e-6: BLUE}
# Errors from which an inverse counts as lost, and up to which as held; the pilot's held run ended at 9e-4.
LOST, HELD = 1.0, 1e-2
# An error of 1 from rounding of 6e-8 takes a singular value below.
SINGULAR = 1e-6
# Mean squared error of the regularized fit, of targets with variance 1.
FIT = 1e-4
LOGS, DRAWN = 40, 60
CURVES = ("iteration", "fit", "mean", "median", "worst", "smallest", "condition")


class Regression2D(Experiment):
    """Figure 5 of Behrmann et al. (2021): y = (0, b) from x = (a, b), a and b standard normal."""

    name = "regression-2d"
    title = (
        "Fitting a map that loses a dimension drives the smallest singular value to zero and the inverse to infinity; "
        "a millionth of the likelihood in the loss keeps it."
    )
    source = "Behrmann et al. 2021, figure 5"

    def departures(self, scale: str) -> Sequence[str]:
        """Three seeds, and at the quick scale a smaller task."""
        seeds = "three seeds in place of one"
        if scale == FULL:
            return (seeds,)
        return (
            "500 points, 12 steps and 10,000 iterations at a rate of 3e-4 in place of 10,000 points, 24 steps and "
            "40,000 iterations at 1e-4",
            seeds,
        )

    def runs(self, scale: str, seed: int) -> list[Run]:
        """A run for each weight and seed."""
        return [
            Run(f"weight {weight:g}, seed {each}", {**SETTINGS[scale], "weight": weight, "seed": each})
            for each in range(seed, seed + SEEDS)
            for weight in WEIGHTS
        ]

    def measure(self, config: Mapping[str, Any], device: str, progress: Progress) -> Measurement:
        """Train, and measure errors and singular values on the way."""
        torch.manual_seed(config["seed"])
        x = torch.randn(config["points"], 2).to(device)
        y = torch.stack([torch.zeros_like(x[:, 1]), x[:, 1]], 1)
        glow = regression_glow(config["steps"]).to(device)
        optimizer = torch.optim.Adam(glow.parameters(), config["lr"], fused=True)
        every = max(1, config["iterations"] // LOGS)
        rows = []
        for iteration in range(config["iterations"] + 1):
            z, log_det = glow(x)
            fit = (z - y).square().mean()
            if iteration % every == 0:
                rows.append([iteration, fit.item(), *errors_and_singular_values(glow, x)])
                progress(iteration / config["iterations"])
            optimizer.zero_grad(set_to_none=True)
            negative_log_likelihood = (z.square().sum(1) / 2 + math.log(2 * math.pi) - log_det).mean()
            (fit + config["weight"] * negative_log_likelihood).backward()
            optimizer.step()
        with torch.no_grad():
            shown = x[:DRAWN]
            forth = glow(shown)[0]
            back = glow.inverse(forth)[0]
            from_target = glow.inverse(y[:DRAWN])[0]
        curves = {name: [row[index] for row in rows] for index, name in enumerate(CURVES)}
        arrays = {"x": shown, "forth": forth, "back": back, "target": y[:DRAWN], "from_target": from_target}
        return Measurement(curves, arrays)

    def claims(self, found: Sequence[Found]) -> list[Claim]:
        """The inverse is lost without the likelihood and held with it."""
        without, held = with_config(found, weight=0.0), with_config(found, weight=WEIGHTS[1])
        worst = [max(each.numbers["worst"]) for each in without]
        smallest = [min(each.numbers["smallest"]) for each in without]
        kept = [each.numbers["worst"][-1] for each in held]
        fit = [each.numbers["fit"][-1] for each in held]
        return [
            Claim(
                "Without a regularizer the inverse explodes: the worst training point comes back elsewhere.",
                min(worst) >= LOST,
                f"worst error |x - f^-1(f(x))| of {over_seeds(worst)}",
                f"at least {LOST:g} for every seed",
                "Fewer or slower iterations end before the collapse.",
            ),
            Claim(
                "Its smallest singular value at that point goes to zero.",
                max(smallest) <= SINGULAR,
                f"smallest singular value {over_seeds(smallest)}",
                f"at most {SINGULAR:g} for every seed",
                "Fewer or slower iterations end before the collapse.",
            ),
            Claim(
                "A weight of 1e-6 on the negative log-likelihood keeps the inverse of every point.",
                max(kept) <= HELD,
                f"worst error at the end {over_seeds(kept)}",
                f"at most {HELD:g} for every seed",
                "The likelihood takes hold when the fit is as small as its weight; larger steps overshoot before.",
            ),
            Claim(
                "It hardly costs the fit.",
                max(fit) <= FIT,
                f"mean squared error {over_seeds(fit)}, beside "
                f"{over_seeds([each.numbers['fit'][-1] for each in without])} without",
                f"at most {FIT:g} for every seed",
            ),
        ]

    def tables(self, found: Sequence[Found]) -> list[Table]:
        """The end of every run."""
        head = ["regularizer", "seed", "mean squared error", "mean error", "median", "worst", "σ_min", "condition"]
        rows = [
            [
                NAMES[each.config["weight"]],
                str(each.config["seed"]),
                *(
                    number(each.numbers[name][-1])
                    for name in ("fit", "mean", "median", "worst", "smallest", "condition")
                ),
            ]
            for each in found
        ]
        return [Table("After the last iteration; singular values are those at the worst point", head, rows)]

    def figures(self, found: Sequence[Found]) -> Mapping[str, Any]:
        """Rays there and back, and the error and smallest singular value over the iterations."""
        figure = new_figure(9.2, 6.6)
        above, below = figure.subfigures(2, 1, height_ratios=(1.15, 1))
        for axes, weight in zip(above.subplots(1, 2, sharey=True), WEIGHTS, strict=True):
            _rays(axes, with_config(found, weight=weight)[0], f"regularizer: {NAMES[weight]}")
        errors, values = below.subplots(1, 2)
        for each in found:
            weight = each.config["weight"]
            first = each is with_config(found, weight=weight)[0]
            label = NAMES[weight] if first else None
            x = each.numbers["iteration"]
            errors.plot(x, finite_or_nan(each.numbers["worst"]), color=COLOURS[weight], linewidth=1.3, label=label)
            values.plot(x, each.numbers["smallest"], color=COLOURS[weight], linewidth=1.3)
        errors.set(yscale="log", title="worst error |x − f⁻¹(f(x))| of the training data", xlabel="iteration")
        values.set(yscale="log", title="smallest singular value at that point", xlabel="iteration")
        errors.legend(loc="upper left")
        for axes in (errors, values):
            axes.grid(axis="y")
            axes.tick_params(length=0)
        return {"regression-2d": figure}


def regression_glow(steps: int) -> Chain:
    """Steps of activation norm (from the identity), exchange, and Glow's affine coupling on two dimensions."""

    def net(in_features: int, out_features: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(in_features, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, out_features)
        )

    blocks: list[Bijection] = []
    for _ in range(steps):
        norm = ActNorm(2)
        norm.initialized.fill_(1)
        blocks += [norm, Permutation(2, "reverse"), AffineCoupling(2, net, scale="sigmoid", order="glow")]
    return Chain(*blocks)


@torch.no_grad()
def errors_and_singular_values(bijection: Bijection, x: Tensor) -> list[float]:
    """Mean, median and worst |x - f^-1(f(x))|; smallest singular value and condition of the Jacobian at the worst."""
    distance = (bijection.inverse(bijection(x)[0])[0].double() - x.double()).norm(dim=1)
    distance = distance.nan_to_num(nan=math.inf, posinf=math.inf)
    worst = int(distance.argmax())
    spectrum = singular_values(bijection, x[worst : worst + 1])
    largest, smallest = float(spectrum.largest[0, 0]), float(spectrum.smallest[0, 0])
    condition = largest / smallest if smallest else math.inf
    return [float(distance.mean()), float(distance.median()), float(distance.max()), smallest, condition]


def _rays(axes: Any, found: Found, title: str) -> None:  # noqa: ANN401
    x, target, back = (found.arrays[name].tolist() for name in ("x", "target", "from_target"))
    for (a, b), (c, d), (e, f) in zip(x, target, back, strict=True):
        axes.plot((a, c), (b, d), color=GRID, linewidth=0.9, zorder=1)
        if math.isfinite(e) and math.isfinite(f):
            axes.plot((c, e), (d, f), color=ORANGE, linewidth=0.8, alpha=0.7, zorder=2)
    axes.plot(*zip(*x, strict=True), "o", markersize=3, color=MUTED, zorder=3, label="data, with rays to the target")
    axes.plot(*zip(*target, strict=True), "o", markersize=3, color=INK, zorder=4, label="target")
    axes.plot([], [], color=ORANGE, label="inverse of the target")
    axes.set(xlim=(-8, 8), ylim=(-4.2, 4.2), title=title)
    axes.tick_params(length=0)
    if found.config["weight"] == 0:
        axes.legend(loc="lower left", fontsize=8)
