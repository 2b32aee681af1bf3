"""The inverse under attack: how fast points are found that do not come back, for three kinds of flows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from invertible.reproduce.experiment import FULL, QUICK, Claim, Experiment, Found, Measurement, Progress, Run, Table
from invertible.reproduce.figures import new_figure
from invertible.reproduce.image_attacks import (
    DEPARTURES,
    FULL_DEPARTURES,
    FULL_SETTINGS,
    QUICK_DEPARTURES,
    QUICK_SETTINGS,
    error_of,
    examples,
    growth_of,
    largest,
    pictures,
    train_and_attack,
    worst_first,
    worst_of,
)
from invertible.reproduce.image_flows import COLOURS, NAMES, RESIDUAL, of_flow
from invertible.reproduce.runs import runs_by_seed
from invertible.reproduce.strips import show
from invertible.reproduce.wording import number, over_seeds

SETTINGS = {QUICK: QUICK_SETTINGS, FULL: FULL_SETTINGS}
SEEDS = 3
FLOWS = ("affine", "half-sigmoid", RESIDUAL)
# Growth of the error by which an image counts as exploding, and up to which an inverse counts as standing.
EXPLODED, STANDING = 1e3, 100.0
# Images drawn of each flow.
DRAWN = 2


class InvertibilityAttack(Experiment):
    """Figure 4 of Behrmann et al. (2021): reconstruction error against iterations of an attack."""

    name = "invertibility-attack"
    title = (
        "An attack within the dequantisation noise makes the reconstruction of an affine flow explode, that of one "
        "with bounded scale later or not at all, that of a Residual Flow never."
    )
    source = "Behrmann et al. 2021, figure 4"

    def departures(self, scale: str) -> Sequence[str]:
        """Data, flows, seeds, and the images attacked."""
        return (
            *(FULL_DEPARTURES if scale == FULL else QUICK_DEPARTURES),
            *DEPARTURES,
            "of the training images that come back, those that come back worst are attacked, in place of the first one",
            "gradients through the Residual Flow's inverse are those of its solution, not of four steps towards it",
        )

    def runs(self, scale: str, seed: int) -> list[Run]:
        """A run for each flow and seed."""
        return runs_by_seed(FLOWS, SETTINGS[scale], range(seed, seed + SEEDS))

    def measure(self, config: Mapping[str, Any], device: str, progress: Progress) -> Measurement:
        """Train and attack."""
        return train_and_attack(config, device, progress)

    def claims(self, found: Sequence[Found]) -> list[Claim]:
        """The affine flow explodes, the bounded one later or not, the Residual Flow stands."""
        affine, bounded, residual = (of_flow(found, flow) for flow in FLOWS)
        exploded = [_part_exploded(each) for each in affine]
        first, later = ([_first_loss(each) for each in group] for group in (affine, bounded))
        growth, standing = ([largest(growth_of(each)) for each in group] for group in (bounded, residual))
        return [
            Claim(
                "The error of the affine flow explodes.",
                min(exploded) >= 0.5,
                f"it grows by {EXPLODED:g} or more, or to what is not finite, on {over_seeds(exploded)} of the images",
                "on half of the images at least, for every seed",
                "So few pixels, couplings and iterations may leave less room for it than the paper's.",
            ),
            Claim(
                "With a scale in (1/2, 1) values that are not finite come later, or never.",
                all(b > a or b == math.inf for a, b in zip(first, later, strict=True)),
                f"first at step {_steps(later)}, beside {_steps(first)} of the affine flow",
                "later than those of the affine flow, or never, for every seed",
            ),
            Claim(
                "With a scale in (1/2, 1) the error stays small.",
                max(growth) <= STANDING,
                f"growth of the error of an image by {over_seeds(growth)} at most",
                f"by {STANDING:g} at most, for every seed",
            ),
            Claim(
                "The error of the Residual Flow stays small.",
                max(standing) <= STANDING,
                f"growth of the error of an image by {over_seeds(standing)} at most",
                f"by {STANDING:g} at most, and always finite, for every seed",
            ),
        ]

    def tables(self, found: Sequence[Found]) -> list[Table]:
        """Every run."""
        head = [
            "flow", "seed", "bits per dimension, unseen", "attacked", "worst before", "worst after", "median growth",
            "lost", "first lost at step", "worst in float64",
        ]  # fmt: skip
        rows = []
        for each in found:
            numbers, growth = each.numbers, sorted(growth_of(each))
            rows.append([
                NAMES[each.config["flow"]], str(each.config["seed"]), number(numbers["validation bits"], 3),
                str(numbers["attacked"]), number(max(numbers["start"], default=math.inf)), number(worst_of(each)),
                number(growth[len(growth) // 2] if growth else math.inf),
                str(sum(step >= 0 for step in numbers["first"])), _steps([_first_loss(each)]),
                number(max(numbers["double"], default=math.inf)),
            ])  # fmt: skip
        return [Table("Errors |x − f⁻¹(f(x))|/|x| before and after the attack", head, rows)]

    def figures(self, found: Sequence[Found]) -> Mapping[str, Any]:
        """Error of the worst image against the iteration, and the pictures of the first seed."""
        figure = new_figure(9.2, 8.0)
        above, below = figure.subfigures(2, 1, height_ratios=(1, 1.05))
        axes = above.subplots()
        for flow in FLOWS:
            for each in of_flow(found, flow):
                _curve(axes, each, NAMES[flow] if each is of_flow(found, flow)[0] else None)
        axes.set(yscale="log", xlabel="iteration of the attack", ylabel="|x − f⁻¹(f(x))| / |x|")
        axes.set_title("the worst image of each flow and seed; × where the reconstruction is no longer finite")
        axes.margins(y=0.2)
        axes.legend(loc="upper left", fontsize=8, ncols=3)
        axes.grid(axis="y")
        axes.tick_params(length=0)
        picked = examples([of_flow(found, flow)[0] for flow in FLOWS], DRAWN)
        titles = {"x": "original", "worst x": "perturbed", "back": "reconstruction"}
        rows = [(title, pictures(picked, name)) for name, title in titles.items()]
        notes = [[each.config["flow"] for each, _ in picked], [""] * len(picked), [*map(error_of, picked)]]
        show(below, rows, notes=notes)
        return {"invertibility-attack": figure}


def _part_exploded(found: Found) -> float:
    """Part of the attacked images; if none comes back before the attack, all are lost."""
    growth = growth_of(found)
    return sum(not each < EXPLODED for each in growth) / len(growth) if growth else 1.0


def _first_loss(found: Found) -> float:
    """The step of the first reconstruction that is not finite; infinite if there is none."""
    if not found.numbers["attacked"]:
        return 0.0
    return min((step for step in found.numbers["first"] if step >= 0), default=math.inf)


def _steps(values: Sequence[float]) -> str:
    return ", ".join("never" if value == math.inf else f"{value:.0f}" for value in values)


def _curve(axes: Any, found: Found, label: str | None) -> None:  # noqa: ANN401
    """The error of the image that is worst, up to the last finite one."""
    if not found.numbers["attacked"]:
        return
    colour = COLOURS[found.config["flow"]]
    row = worst_first(found)[0]
    errors = [found.numbers["start"][row], *found.arrays["history"][:, row].tolist()]
    finite = [each for each in errors if math.isfinite(each)]
    axes.plot(range(len(finite)), finite, color=colour, linewidth=1.3, label=label)
    if len(finite) < len(errors):
        axes.plot([len(finite)], [finite[-1]], "x", color=colour, markersize=8, markeredgewidth=1.8)
