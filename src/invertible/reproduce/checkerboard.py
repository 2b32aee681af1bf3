"""Flows in the plane, on and off the square of their data: where the inverse, the Jacobian and its determinant fail."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from invertible import data, models
from invertible.errors import require
from invertible.flow import Flow
from invertible.reports.pictures import BROKEN
from invertible.reproduce.experiment import FULL, QUICK, Claim, Experiment, Found, Measurement, Progress, Run, Table
from invertible.reproduce.figures import INK, new_figure
from invertible.reproduce.runs import runs_by_seed
from invertible.reproduce.wording import number, over_seeds
from invertible.stability import round_trip, singular_values

SETTINGS = {
    QUICK: {"couplings": 16, "blocks": 8, "hidden": [64, 64], "iterations": 800, "batch": 256, "spacing": 0.25},
    FULL: {"couplings": 200, "blocks": 100, "hidden": [128] * 4, "iterations": 50_000, "batch": 500, "spacing": 0.05},
}
SEEDS = 3
FLOWS = {"affine": "sigmoid", "half-sigmoid": "half-sigmoid", "residual": ""}
# The coefficient of the paper's figure for each layer of a residual block.
COEFFICIENT = 0.8
# Half the sides of the board and of the grid.
SQUARE, GRID = 4.0, 8.0
# Errors of points, in a plane where fields of the board have sides of 2: what nobody sees, and what is another point.
SEEN, LOST = 1e-3, 0.1
# Limits of the maps, as in the paper's figure.
FAINTEST, STRONGEST = 1e-8, 1.0
MAPS = {"error": "|x − f⁻¹(f(x))|", "condition": "condition number of J", "log_det": "error of log|det J|"}


class Checkerboard(Experiment):
    """The two-dimensional flows of Behrmann et al. (2021): maps of errors on a grid of twice the data's square."""

    name = "checkerboard"
    title = (
        "Affine flows in the plane lose their inverse outside the square of the data, flows of bounded scale later or "
        "less, Residual Flows nowhere."
    )
    source = "Behrmann et al. 2021, section 4 (two-dimensional flows)"

    def departures(self, scale: str) -> Sequence[str]:
        """Three seeds, and at the quick scale smaller flows."""
        always = (
            "three seeds in place of one",
            "ReLU in place of Swish in the couplings' networks",
            "constants of residual blocks are certified, in place of estimates by power iteration",
            "errors of the log-determinant are those of float32 against singular values in float64",
        )
        if scale == FULL:
            return always
        return (
            "16 couplings, 8 residual blocks, two hidden layers of 64, 800 iterations of 256 points and a grid of 65 x "
            "65 in place of 200 couplings, 100 blocks, four layers of 128, 50,000 iterations of 500 points and 321 x "
            "321",
            *always,
        )

    def runs(self, scale: str, seed: int) -> list[Run]:
        """A run for each flow and seed."""
        return runs_by_seed(FLOWS, SETTINGS[scale], range(seed, seed + SEEDS))

    def measure(self, config: Mapping[str, Any], device: str, progress: Progress) -> Measurement:
        """Train, and measure on the grid."""
        torch.manual_seed(config["seed"])
        flow = plane_flow(config).to(device)
        fit = train(flow, config, device, progress)
        x = grid(config["spacing"]).to(device)
        maps = grid_maps(flow, x)
        inside = (x.cpu().abs() <= SQUARE).all(1)
        numbers: dict[str, Any] = {"fit": fit}
        for name, values in maps.items():
            numbers[name] = {
                "inside": float(values[inside].max()),
                "outside": float(values[~inside].max()),
                "lost inside": int(values[inside].isinf().sum()),
                "lost outside": int(values[~inside].isinf().sum()),
            }
        side = round(math.sqrt(len(x)))
        arrays = {name: values.float().reshape(side, side).T for name, values in maps.items()}
        progress(1.0)
        return Measurement(numbers, arrays)

    def claims(self, found: Sequence[Found]) -> list[Claim]:
        """What is lost where."""
        affine, bounded, residual = (_errors(found, flow) for flow in FLOWS)
        on = [each["inside"] for each in affine]
        off = [each["outside"] for each in affine]
        less = [each["outside"] for each in bounded]
        nowhere = [max(each["inside"], each["outside"]) for each in residual]
        size = "The paper's failure takes its 200 couplings and 50,000 iterations; fewer stretch the plane less."
        return [
            Claim(
                "An affine flow keeps its inverse on the square of the data.",
                max(on) <= SEEN,
                f"worst error of a point {over_seeds(on)}",
                f"at most {SEEN:g} for every seed",
            ),
            Claim(
                "Outside of the square it loses points.",
                min(off) >= LOST,
                f"worst error of a point {over_seeds(off)}",
                f"at least {LOST:g}, or not finite, for every seed",
                size,
            ),
            Claim(
                "With a scale in (1/2, 1) it errs less outside of the square.",
                all(bounded < free / 10 for bounded, free in zip(less, off, strict=True)),
                f"worst error of a point {over_seeds(less)}, beside {over_seeds(off)}",
                "below a tenth of that of the affine flow for every seed",
                f"Where neither loses anything there is nothing to gain. {size}",
            ),
            Claim(
                "A Residual Flow keeps its inverse on the whole grid.",
                max(nowhere) <= SEEN,
                f"worst error of a point {over_seeds(nowhere)}",
                f"at most {SEEN:g} for every seed",
            ),
        ]

    def tables(self, found: Sequence[Found]) -> list[Table]:
        """Worst values on and off the square."""
        head = ["flow", "seed", "nats", "error on", "off", "lost", "condition on", "off", "log-det error on", "off"]
        rows = []
        for each in found:
            error, condition, log_det = (each.numbers[name] for name in MAPS)
            worst = [one[where] for one in (condition, log_det) for where in ("inside", "outside")]
            rows.append([
                each.config["flow"], str(each.config["seed"]), number(each.numbers["fit"], 3),
                number(error["inside"]), number(error["outside"]), str(error["lost inside"] + error["lost outside"]),
                *map(number, worst),
            ])  # fmt: skip
        title = "Worst point on the square [-4, 4]² and off it up to [-8, 8]²; the least possible nats are 3.47"
        return [Table(title, head, rows)]

    def figures(self, found: Sequence[Found]) -> Mapping[str, Any]:
        """Maps of the first seed."""
        first = [next(each for each in found if each.config["flow"] == flow) for flow in FLOWS]
        figure = new_figure(9.2, 8.6)
        rows = figure.subplots(len(MAPS), len(FLOWS), sharex=True, sharey=True)
        for axes, (name, title) in zip(rows, MAPS.items(), strict=True):
            high = STRONGEST if name != "condition" else _highest([each.arrays[name] for each in first])
            low = FAINTEST if name != "condition" else 1.0
            shown = None
            for place, each in zip(axes, first, strict=True):
                shown = _map(place, each.arrays[name], (low, high))
                flow = each.config["flow"]
                place.set_title(f"{flow}: {title}", fontsize=8.5)
            axes[0].set_ylabel("x₂")
            figure.colorbar(shown, ax=list(axes), shrink=0.9, pad=0.015).outline.set_visible(False)
        for place in rows[-1]:
            place.set_xlabel("x₁")
        return {"checkerboard": figure}


def plane_flow(config: Mapping[str, Any]) -> Flow:
    """The flow of a run: couplings that take turns, without activation norm, or residual blocks."""
    if config["flow"] == "residual":
        hidden = config["hidden"]
        constant = COEFFICIENT ** (len(hidden) + 1)
        return models.residual_flow(2, blocks=config["blocks"], hidden=hidden, lipschitz=constant)
    return models.realnvp(
        2, layers=config["couplings"], hidden=config["hidden"], scale=FLOWS[config["flow"]], actnorm=False
    )


def train(flow: Flow, config: Mapping[str, Any], device: str, progress: Progress) -> float:
    """Adam at 1e-3 and a weight decay of 1e-5, as the paper's code; the mean nats of the last tenth of iterations."""
    board = data.load("checkerboard", seed=config["seed"], samples=20_000, validation=0.0).train.x.to(device)
    optimizer = torch.optim.Adam(flow.parameters(), 1e-3, weight_decay=1e-5)
    iterations, fits = config["iterations"], []
    for iteration in range(iterations):
        loss = -flow.log_prob(board[torch.randint(len(board), (config["batch"],))]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        fits.append(loss.detach())
        if iteration % 25 == 0:
            progress(0.9 * iteration / iterations)
    flow.eval()
    return float(torch.stack(fits[-max(1, iterations // 10) :]).mean())


def grid(spacing: float) -> Tensor:
    """Points of the grid, (n², 2), the first coordinate slower."""
    ticks = torch.arange(-GRID, GRID + spacing / 2, spacing)
    return torch.cartesian_prod(ticks, ticks)


def grid_maps(flow: Flow, x: Tensor) -> dict[str, Tensor]:
    """Error, condition number and error of the log-determinant of each point, float64; what is lost is infinite."""
    back = round_trip(flow.bijection, x, batch_size=4096).reconstruction
    with torch.no_grad():
        log_det = flow.bijection(x)[1].double()
    conditions, exact = [], []
    for part in x.split(4096):
        spectrum = singular_values(flow, part)
        conditions.append(spectrum.condition_number)
        exact.append(spectrum.largest[:, 0].log() + spectrum.smallest[:, 0].log())
    made = {
        "error": (back.double() - x.double()).norm(dim=1),
        "condition": torch.cat(conditions),
        "log_det": (log_det.cpu() - torch.cat(exact).cpu()).abs(),
    }
    return {name: values.cpu().nan_to_num(nan=math.inf, posinf=math.inf) for name, values in made.items()}


def _errors(found: Sequence[Found], flow: str) -> list[Mapping[str, float]]:
    return [each.numbers["error"] for each in found if each.config["flow"] == flow]


def _highest(maps: Sequence[Tensor]) -> float:
    """The end of a scale of colours, a power of ten."""
    finite = torch.cat([each[each.isfinite()] for each in maps])
    return 10 ** math.ceil(math.log10(max(10.0, float(finite.max()) if len(finite) else 10.0)))


def _map(axes: Any, values: Tensor, limits: tuple[float, float]) -> Any:  # noqa: ANN401
    """A map in decades; what is lost is magenta."""
    colours = require("matplotlib", "report").colormaps["viridis"].with_extremes(bad=BROKEN)
    norm = require("matplotlib.colors", "report").LogNorm(*limits)
    shown = torch.where(values.isinf(), math.nan, values.clamp(*limits))
    image = axes.imshow(
        shown.numpy(), origin="lower", extent=(-GRID, GRID, -GRID, GRID), cmap=colours, norm=norm,
        interpolation="nearest",
    )  # fmt: skip
    sides = (-SQUARE, SQUARE, SQUARE, -SQUARE, -SQUARE)
    axes.plot(sides, (-SQUARE, -SQUARE, SQUARE, SQUARE, -SQUARE), color="white", linewidth=1.0)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_edgecolor(INK)
    return image
