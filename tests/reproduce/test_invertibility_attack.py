"""Growth of errors under attack, judged both ways."""

import math

import pytest

from invertible.reproduce.invertibility_attack import InvertibilityAttack
from tests.reproduce.attacked import TINY, attacked, none_attacked, of_seeds

EXPERIMENT = InvertibilityAttack()
GOOD = {"affine": (math.inf, 3), "half_sigmoid": (5e-6,), "residual": (2e-6,)}


@pytest.mark.parametrize("flow", ["half-sigmoid", "residual"])
def test_a_run_measures_what_claims_tables_and_figures_need(flow):
    measured = EXPERIMENT.measure({**TINY, "flow": flow, "seed": 1}, "cpu", lambda part: None)
    made_up = attacked(flow, 1, 1e-6)
    assert set(measured.numbers) == set(made_up.numbers)
    assert measured.arrays["history"].shape == (3, 3)
    assert max(measured.numbers["error"]) < 1e-4


def test_claims_hold_where_the_affine_flow_explodes():
    assert [claim.holds for claim in EXPERIMENT.claims(of_seeds(**GOOD))] == [True] * 4
    later = EXPERIMENT.claims(of_seeds(**GOOD | {"half_sigmoid": (math.inf, 9)}))
    assert [claim.holds for claim in later] == [True, True, False, True]


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({"affine": (5e-4,)}, [0]),
        ({"half_sigmoid": (math.inf, 3)}, [1, 2]),
        ({"half_sigmoid": (math.nan, 9)}, [2]),
        ({"residual": (2e-4,)}, [3]),
        ({"residual": (math.nan,)}, [3]),
    ],
)
def test_claims_do_not_hold_otherwise(changed, failed):
    claims = EXPERIMENT.claims(of_seeds(**GOOD | changed))
    assert [index for index, claim in enumerate(claims) if not claim.holds] == failed


def test_a_flow_that_keeps_nothing_fails():
    found = of_seeds(**GOOD)
    found[2] = none_attacked("residual", 0)
    assert not EXPERIMENT.claims(found)[3].holds
    assert EXPERIMENT.tables(found)[0].rows[2][3] == "0"
    assert set(EXPERIMENT.figures(found)) == {"invertibility-attack"}


def test_the_papers_settings_build():
    runs = EXPERIMENT.runs("full", 3)
    assert len(runs) == 9
    assert {run.config["seed"] for run in runs} == {3, 4, 5}
    assert EXPERIMENT.departures("full") != EXPERIMENT.departures("quick")
