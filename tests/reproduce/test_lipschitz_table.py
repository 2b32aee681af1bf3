"""The table of Lipschitz bounds: what is measured, and that a broken bound is caught."""

import math

import pytest

from invertible.reproduce.blocks_with_bounds import FAMILIES, KINDS
from invertible.reproduce.bound_measuring import measure_growth, measure_kind
from invertible.reproduce.experiment import Found
from invertible.reproduce.lipschitz_table import SLACK, LipschitzTable, ratio, slope
from invertible.reproduce.outcome import judge

TINY = {"instances": 1, "points": 4, "steps": 2, "seed": 0}
SIZES = [1.0, 10.0, 100.0, 1e3]


def instance(kind, forward=(2.0, 1.0), inverse=(2.0, 1.0), *, trained=False):
    if KINDS[kind].tight:
        forward = inverse = (2.0, 2.0)
    return {
        "kind": kind, "trained": trained, "global": not KINDS[kind].local, "forward": list(forward),
        "inverse": list(inverse),
    }  # fmt: skip


def made_up():
    """Everything as it should be."""
    instances = [instance(kind, trained=trained) for kind in KINDS for trained in (False, True)]
    growth = {kind: {"sizes": SIZES, "largest": [3.0, 10.0, 100.0, 1e3]} for kind in KINDS if KINDS[kind].local}
    growth["additive"] = {"sizes": SIZES, "largest": [2.0] * 4}
    return Found({"seed": 0}, {"instances": instances, "growth": growth}, {}, 1.0)


def verdicts(found):
    return [claim.holds for claim in LipschitzTable().claims([found])]


def test_what_is_as_it_should_be_holds() -> None:
    assert verdicts(made_up()) == [True] * 4
    outcome = judge(LipschitzTable(), "quick", 0, [made_up()])
    assert set(outcome.figures) == {"lipschitz-table", "lipschitz-table-growth"}
    for table in outcome.tables:
        assert len(table.rows) == len(KINDS)
        assert all(len(row) == len(table.head) for row in table.rows)


@pytest.mark.parametrize("side", ["forward", "inverse"])
@pytest.mark.parametrize("largest", [2.0 * (1 + 1e-6), math.inf, math.nan])
def test_a_singular_value_above_its_bound_or_lost_breaks_the_claim(side: str, largest: float) -> None:
    found = made_up()
    found.numbers["instances"].append({**instance("residual"), side: [2.0, largest]})
    assert verdicts(found) == [False, True, True, True]
    claim = LipschitzTable().claims([found])[0]
    assert "residual" in claim.measured


def test_a_bound_that_is_not_attained_breaks_its_claim() -> None:
    found = made_up()
    for each in found.numbers["instances"]:
        if each["kind"] == "Haar":
            each["inverse"] = [2.0, 1.9]
    assert verdicts(found) == [True, False, True, True]


def test_claims_on_the_whole_space_see_what_is_declared_and_what_grows() -> None:
    found = made_up()
    for each in found.numbers["instances"]:
        if each["kind"] == "continuous":
            each["global"] = False
    assert verdicts(found) == [True, True, False, True]
    found = made_up()
    found.numbers["growth"]["additive"] = {"sizes": SIZES, "largest": [1.0, 10.0, 100.0, 1e3]}
    assert verdicts(found) == [True, True, False, True]
    found = made_up()
    for largest in ([2.0] * 4, [1.0, 2.0, math.inf, math.inf]):
        found.numbers["growth"]["affine, exp, Glow order"] = {"sizes": SIZES, "largest": largest}
        assert verdicts(found) == [True, True, True, False]
    found = made_up()
    found.numbers["instances"].append({**instance("affine, exp, Glow order"), "global": True})
    assert verdicts(found) == [True, True, True, False]


def test_ratios_and_slopes() -> None:
    assert ratio((2.0, 1.0)) == 0.5
    assert ratio((math.inf, 1.0)) == 0.0
    assert ratio((math.inf, math.nan)) == ratio((2.0, math.inf)) == math.inf
    assert slope({"sizes": SIZES, "largest": [1.0, 3.0, 30.0, 300.0]}) == pytest.approx(1.0)
    assert math.isnan(slope({"sizes": SIZES, "largest": [1.0, 3.0, math.nan, 300.0]}))


@pytest.mark.parametrize("family", ["affine, Glow order", "elementwise and linear"])
def test_measured_bounds_hold(family: str) -> None:
    measured = LipschitzTable().measure({**TINY, "family": family}, "cpu", lambda part: None)
    instances = measured.numbers["instances"]
    assert {each["kind"] for each in instances} == set(FAMILIES[family])
    for each in instances:
        assert each["global"] is not KINDS[each["kind"]].local
        assert all(0 < ratio(each[side]) <= SLACK for side in ("forward", "inverse"))


def test_a_config_decides_what_is_measured() -> None:
    assert measure_kind("spline coupling", TINY, "cpu") == measure_kind("spline coupling", TINY, "cpu")
    assert measure_growth("additive", TINY, "cpu") == measure_growth("additive", TINY, "cpu")


@pytest.mark.parametrize("scale", ["quick", "full"])
def test_runs_cover_all_families_and_three_seeds(scale: str) -> None:
    experiment = LipschitzTable()
    runs = experiment.runs(scale, 5)
    assert {(run.config["family"], run.config["seed"]) for run in runs} == {
        (family, seed) for family in FAMILIES for seed in (5, 6, 7)
    }
    assert len({run.name for run in runs}) == len(runs)
    assert experiment.departures(scale)
