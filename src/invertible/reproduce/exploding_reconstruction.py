"""Ordinary images of which an affine flow makes something else, found in dequantisation cubes of training images."""

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
    largest,
    pictures,
    train_and_attack,
    worst_of,
)
from invertible.reproduce.image_flows import NAMES, UNSEEN, WRONG, of_flow
from invertible.reproduce.runs import runs_by_seed
from invertible.reproduce.strips import show
from invertible.reproduce.wording import number, over_seeds

SETTINGS = {scale: {**each, "with_lost": True} for scale, each in ((QUICK, QUICK_SETTINGS), (FULL, FULL_SETTINGS))}
SEEDS = 3
FLOWS = ("affine", "additive")
# Examples drawn of each seed.
DRAWN = 2
# Of half a grey level, what rounding of the attack's steps may add to its radius.
SLACK = 1e-4


class ExplodingReconstruction(Experiment):
    """Figure 1 of Behrmann et al. (2021): x from inside a training image's dequantisation cube, and f^-1(f(x))."""

    name = "exploding-reconstruction"
    title = (
        "A trained affine flow reconstructs an ordinary image, from inside the dequantisation cube of a training "
        "image, wrongly or as NaN; an additive one reconstructs it."
    )
    source = "Behrmann et al. 2021, figure 1"

    def departures(self, scale: str) -> Sequence[str]:
        """Data, flows, seeds, and the images attacked."""
        return (
            *(FULL_DEPARTURES if scale == FULL else QUICK_DEPARTURES),
            *DEPARTURES,
            "the training images that come back worst are attacked, in place of the first one",
            "an additive flow beside the affine one",
        )

    def runs(self, scale: str, seed: int) -> list[Run]:
        """A run for each flow and seed."""
        return runs_by_seed(FLOWS, SETTINGS[scale], range(seed, seed + SEEDS))

    def measure(self, config: Mapping[str, Any], device: str, progress: Progress) -> Measurement:
        """Train, and search the cubes for points that do not come back."""
        return train_and_attack(config, device, progress)

    def claims(self, found: Sequence[Found]) -> list[Claim]:
        """The affine flow loses a training image, the additive one none."""
        affine, additive = (of_flow(found, flow) for flow in FLOWS)
        worst, held = [worst_of(each) for each in affine], [worst_of(each) for each in additive]
        inside = [each.numbers.get("distance", 0.0) for each in found]
        lost = [_wrong(each.numbers["error"]) for each in affine]
        return [
            Claim(
                "In the dequantisation cubes of training images are points that the affine flow reconstructs wrongly.",
                min(worst) >= WRONG,
                f"worst error, relative to |x|, of {over_seeds(worst)}; {', '.join(map(str, lost))} of "
                f"{found[0].numbers['attacked']} images attacked end off by {WRONG:.0%} or more, or not finite",
                f"at least {WRONG:g}, or not finite, for every seed",
                "So few pixels and iterations may end before the scales come near 0.",
            ),
            Claim(
                "They look like the training images, for they differ by no more than the noise of dequantisation.",
                max(inside) <= 0.5 + SLACK,
                f"pixels differ by {number(max(inside), 3)} grey levels at most",
                "at most half a grey level",
            ),
            Claim(
                "The additive flow reconstructs all that is found in the cubes.",
                max(held) <= UNSEEN,
                f"worst error, relative to |x|, of {over_seeds(held)}",
                f"at most {UNSEEN:g} for every seed",
            ),
        ]

    def tables(self, found: Sequence[Found]) -> list[Table]:
        """Every run."""
        head = [
            "flow", "seed", "bits per dimension, unseen", "training images lost at the centre", "attacked",
            "worst at the centre", "median in the cube", "worst", "lost or wrong", "the same in float64",
        ]  # fmt: skip
        rows = []
        for each in found:
            numbers = each.numbers
            errors = sorted(numbers["error"])
            rows.append([
                NAMES[each.config["flow"]], str(each.config["seed"]), number(numbers["validation bits"], 3),
                f"{numbers['wrong at the centre']} of {numbers['candidates']}", str(numbers["attacked"]),
                number(largest(numbers["start"])), number(errors[len(errors) // 2] if errors else math.nan),
                number(worst_of(each)), str(_wrong(errors)), str(_wrong(numbers["double"])),
            ])  # fmt: skip
        title = "Errors |x − f⁻¹(f(x))|/|x| of training images: at the centres of their cubes, and where an attack led"
        return [Table(title, head, rows)]

    def figures(self, found: Sequence[Found]) -> Mapping[str, Any]:
        """The worst examples of every seed: the training image, the point of its cube, and what came back."""
        rows, notes = [], []
        for flow in FLOWS:
            picked = examples(of_flow(found, flow), DRAWN)
            rows += [
                ("image", pictures(picked, "x")),
                ("x", pictures(picked, "worst x")),
                (f"{flow}:\nf⁻¹(f(x))", pictures(picked, "back")),
            ]
            notes += [
                [f"seed {each.config['seed']}" for each, _ in picked],
                [""] * len(picked),
                [*map(error_of, picked)],
            ]
        figure = new_figure(9.2, 9.6)
        show(figure, rows, notes=notes)
        return {"exploding-reconstruction": figure}


def _wrong(errors: Sequence[float]) -> int:
    """How many are off by what anyone sees, or not finite."""
    return sum(not error < WRONG for error in errors)
