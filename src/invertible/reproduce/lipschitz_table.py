"""The table of Lipschitz bounds, each beside the largest singular value that is found."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from invertible.reproduce.blocks_with_bounds import FAMILIES, KINDS
from invertible.reproduce.bound_measuring import measure_growth, measure_kind
from invertible.reproduce.experiment import FULL, QUICK, Claim, Experiment, Found, Measurement, Progress, Run, Table
from invertible.reproduce.figures import BLUE, GREEN, GRID, INK, MUTED, ORANGE, RED, new_figure
from invertible.reproduce.wording import number

SETTINGS = {
    QUICK: {"instances": 2, "points": 64, "steps": 100},
    FULL: {"instances": 20, "points": 512, "steps": 2000},
}
SEEDS = 3
# Of what float64 rounds in Jacobians and their singular values, not of the bounds.
SLACK = 1 + 1e-9
# Of bounds that a point attains, whatever the parameters; some of them at the edge of the box alone.
ATTAINED = 0.999
# σ_max of an affine coupling is proportional to |x_2| far out: the slope of its logarithm.
SLOPES = (0.9, 1.1)
SIDES = {"forward": "Lip(f)", "inverse": "Lip(f⁻¹)"}


class LipschitzTable(Experiment):
    """Tables 1 and 2 of Behrmann et al. (2021), in the tighter form that the library certifies."""

    name = "lipschitz-table"
    title = (
        "Every block's Lipschitz bounds hold; additive couplings, residual blocks and continuous flows have them on "
        "the whole space, affine couplings on boxes alone."
    )
    source = "Behrmann et al. 2021, tables 1 and 2"

    def departures(self, scale: str) -> Sequence[str]:
        """The paper's table is one of formulas: everything measured is added."""
        counts = SETTINGS[scale]
        return (
            "the paper's tables are formulas; here each bound is compared with dense singular values in float64 of "
            f"{SEEDS * 3 * counts['instances']} random blocks of 6 to 64 dimensions and of {SEEDS} trained ones",
            "bounds are norms of 2 x 2 matrices of the norms of parts, in place of the paper's larger sums of norms",
        )

    def runs(self, scale: str, seed: int) -> list[Run]:
        """A run for each family of blocks and seed."""
        return [
            Run(f"{family}, seed {each}", {**SETTINGS[scale], "family": family, "seed": each})
            for each in range(seed, seed + SEEDS)
            for family in FAMILIES
        ]

    def measure(self, config: Mapping[str, Any], device: str, progress: Progress) -> Measurement:
        """Bounds and maxima of every instance, and the growth of couplings' singular values with their input."""
        family = FAMILIES[config["family"]]
        instances, growth = [], {}
        for index, name in enumerate(family):
            instances += measure_kind(name, config, device)
            if name.startswith("affine") or name == "additive":
                growth[name] = measure_growth(name, config, device)
            progress((index + 1) / len(family))
        return Measurement({"instances": instances, "growth": growth})

    def claims(self, found: Sequence[Found]) -> list[Claim]:
        """Bounds hold, some are attained, and who has one on the whole space."""
        ratios = [(ratio(each[side]), each["kind"]) for each in _instances(found) for side in SIDES]
        broken = sorted({kind for value, kind in ratios if not value <= SLACK})
        highest = max((math.inf if math.isnan(value) else value for value, _ in ratios), default=math.nan)
        attained = {kind: min(_largest(found, kind, side) for side in SIDES) for kind in KINDS if KINDS[kind].tight}
        least = min(attained, key=lambda kind: attained[kind])
        return [
            Claim(
                "No singular value exceeds its bound, in either direction.",
                not broken,
                f"largest σ/bound {_beside_one(highest)} in {len(ratios)} comparisons"
                + (f"; broken: {', '.join(broken)}" if broken else ""),
                "at most 1 + 1e-9, which is rounding",
            ),
            Claim(
                "Bounds of scalings, matrices, index moves and additive couplings with a linear t are attained.",
                attained[least] >= ATTAINED,
                f"largest σ/bound of each at least {number(attained[least], 5)} ({least})",
                f"at least {ATTAINED} both ways",
            ),
            *_scope(found),
        ]

    def tables(self, found: Sequence[Found]) -> list[Table]:
        """Formula, bound and maximum of every block, a table for each direction."""
        return [
            Table(
                f"{label}: bound and largest singular value of a trained block, and σ/bound over all instances",
                ["block", "holds on", "formula", "bound", "largest σ", "σ/bound, median", "largest"],
                [_row(found, kind, side) for kind in KINDS],
            )
            for side, label in SIDES.items()
        ]

    def figures(self, found: Sequence[Found]) -> Mapping[str, Any]:
        """Bounds beside maxima, and the growth of affine couplings."""
        return {"lipschitz-table": _bounds_figure(found), "lipschitz-table-growth": _growth_figure(found)}


def ratio(pair: Sequence[float]) -> float:
    """The largest singular value over its bound; infinite where it is lost, 0 where there is no bound."""
    bound, largest = pair
    if not math.isfinite(largest):
        return math.inf
    return 0.0 if math.isinf(bound) else largest / bound


def slope(growth: Mapping[str, Sequence[float]]) -> float:
    """Decades of the largest singular value over decades of the input, over its last two."""
    sizes, largest = growth["sizes"], growth["largest"]
    if not all(map(math.isfinite, largest)):
        return math.nan
    return math.log(largest[-1] / largest[-3]) / math.log(sizes[-1] / sizes[-3])


def _scope(found: Sequence[Found]) -> list[Claim]:
    """Who has bounds on the whole space, as it is declared, and as singular values grow."""
    everywhere = {kind: [each["global"] for each in _instances(found) if each["kind"] == kind] for kind in KINDS}
    without = sorted(kind for kind, values in everywhere.items() if not KINDS[kind].local and not all(values))
    slopes = [
        (slope(values), name) for each in found for name, values in each.numbers["growth"].items() if KINDS[name].local
    ]
    flat = [slope(each.numbers["growth"]["additive"]) for each in found if "additive" in each.numbers["growth"]]
    off = sorted({name for value, name in slopes if not SLOPES[0] <= value <= SLOPES[1]})
    values = [value for value, _ in slopes]
    return [
        Claim(
            "Additive couplings, residual blocks and continuous flows have bounds on the whole space.",
            not without and all(abs(value) <= 1 - SLOPES[0] for value in flat),
            f"{len(KINDS) - sum(kind.local for kind in KINDS.values()) - len(without)} kinds with finite bounds; "
            f"σ_max of additive couplings grows as |x|^{max(flat, key=abs):.3f}",
            "finite for each but the affine couplings, and no growth with |x| (an exponent of 0 ± 0.1)",
        ),
        Claim(
            "An affine coupling has none, whatever its scale: its singular values grow with the part that it scales.",
            not off and not any(any(each) for kind, each in everywhere.items() if KINDS[kind].local),
            f"σ_max grows as |x₂|^n, n from {min(values):.3f} to {max(values):.3f}, for all scales and "
            "both orders" + (f"; not: {', '.join(off)}" if off else ""),
            f"n from {SLOPES[0]} to {SLOPES[1]} for |x₂| from 1e3 to 1e5, and no finite bound declared",
        ),
    ]


def _beside_one(value: float) -> str:
    return f"1 {'-' if value < 1 else '+'} {abs(value - 1):.1e}" if math.isfinite(value) else "infinite"


def _instances(found: Sequence[Found]) -> list[Mapping[str, Any]]:
    return [each for one in found for each in one.numbers["instances"]]


def _of(found: Sequence[Found], kind: str) -> list[Mapping[str, Any]]:
    return [each for each in _instances(found) if each["kind"] == kind]


def _largest(found: Sequence[Found], kind: str, side: str) -> float:
    return max((ratio(each[side]) for each in _of(found, kind)), default=math.nan)


def _shown(found: Sequence[Found], kind: str) -> Mapping[str, Any]:
    """The first trained instance, or the first one of a kind without parameters."""
    instances = _of(found, kind)
    return next((each for each in instances if each["trained"]), instances[0])


def _row(found: Sequence[Found], kind: str, side: str) -> list[str]:
    bound, largest = _shown(found, kind)[side]
    ratios = [ratio(each[side]) for each in _of(found, kind)]
    where = "boxes" if KINDS[kind].local else "[0, 1]" if KINDS[kind].unit else "everywhere"
    middle, top = number(statistics.median(ratios)), number(max(ratios))
    return [kind, where, getattr(KINDS[kind], side), number(bound, 3), number(largest, 3), middle, top]


def _bounds_figure(found: Sequence[Found]) -> Any:  # noqa: ANN401
    figure = new_figure(9.2, 8.6)
    panels = figure.subplots(1, 3, sharey=True, width_ratios=(1, 1, 0.9))
    for axes, (side, label) in zip(panels, SIDES.items(), strict=False):
        for row, kind in enumerate(KINDS):
            bound, largest = _shown(found, kind)[side]
            axes.plot((largest, bound), (row, row), color=GRID, linewidth=3, zorder=1)
            axes.plot(largest, row, "o", color=BLUE, markersize=4.5, zorder=3)
            axes.plot(bound, row, "|", color=ORANGE, markersize=9, markeredgewidth=2, zorder=2)
        axes.set(xscale="log", title=f"{label} of a trained block", xlabel="largest σ, and its bound")
    panels[0].plot([], [], "o", color=BLUE, markersize=4.5, label="largest singular value found")
    panels[0].plot([], [], "|", color=ORANGE, markersize=9, markeredgewidth=2, label="certified bound")
    for row, kind in enumerate(KINDS):
        for trained, colour in ((False, MUTED), (True, GREEN)):
            chosen = [each for each in _of(found, kind) if each["trained"] is trained]
            ratios = [ratio(each[side]) for each in chosen for side in SIDES]
            panels[2].plot(ratios, [row] * len(ratios), ".", color=colour, markersize=4, alpha=0.7)
    panels[2].plot([], [], ".", color=MUTED, label="random blocks")
    panels[2].plot([], [], ".", color=GREEN, label="trained blocks")
    panels[2].axvline(1.0, color=RED, linewidth=1)
    panels[2].set(xscale="log", title="all instances, both ways", xlabel="largest σ / bound")
    panels[0].set_yticks(range(len(KINDS)), list(KINDS), color=INK)
    panels[0].set_ylim(len(KINDS) - 0.4, -0.6)
    for axes in panels:
        axes.grid(axis="x")
        axes.tick_params(length=0)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _growth_figure(found: Sequence[Found]) -> Any:  # noqa: ANN401
    figure = new_figure(9.2, 3.4)
    left, right = figure.subplots(1, 2, sharey=True)
    curves = {name: values for each in reversed(found) for name, values in each.numbers["growth"].items()}
    for axes, order in ((left, "RealNVP"), (right, "Glow")):
        names = [name for name in curves if order in name]
        for index, name in enumerate(names):
            label = name.split(", ")[1]
            style = ("-", "--", ":")[index // 3]
            colour = (BLUE, GREEN, ORANGE)[index % 3]
            axes.plot(
                curves[name]["sizes"],
                curves[name]["largest"],
                style,
                color=colour,
                marker=".",
                label=label,
                linewidth=1.3,
            )
        if "additive" in curves:
            axes.plot(
                curves["additive"]["sizes"], curves["additive"]["largest"], color=RED, marker=".", label="additive"
            )
        axes.set(xscale="log", yscale="log", title=f"{order}'s order", xlabel="size of the part that is scaled, |x₂ᵢ|")
        axes.grid(axis="y")
        axes.tick_params(length=0)
    left.set_ylabel("largest singular value")
    left.legend(loc="upper left", fontsize=8, ncols=2)
    return figure
