"""Points of dequantisation cubes that do not come back: measured in seconds, judged both ways."""

import math

import pytest

from invertible.reproduce.exploding_reconstruction import ExplodingReconstruction
from invertible.reproduce.image_attacks import train_and_attack, worst_first
from tests.reproduce.attacked import TINY, attacked, none_attacked, of_seeds

EXPERIMENT = ExplodingReconstruction()
GOOD = {"affine": (math.inf, 3), "additive": (1e-6,)}


def test_a_run_measures_what_claims_tables_and_figures_need():
    parts = []
    measured = EXPERIMENT.measure({**TINY, "flow": "affine", "seed": 0}, "cpu", parts.append)
    made_up = attacked("affine", 0, 1e-6)
    assert set(measured.numbers) == set(made_up.numbers)
    assert set(measured.arrays) == set(made_up.arrays)
    assert measured.numbers["attacked"] == 3
    assert measured.numbers["distance"] <= 0.5001
    assert max(measured.numbers["double"]) < 1e-10 < max(measured.numbers["error"])
    assert measured.arrays["x"].shape == (3, 1, 8, 8)
    assert parts == sorted(parts)
    assert EXPERIMENT.measure({**TINY, "flow": "affine", "seed": 0}, "cpu", parts.append).numbers == measured.numbers


def test_images_that_do_not_come_back_before_the_attack_are_counted_not_attacked(monkeypatch):
    monkeypatch.setattr("invertible.reproduce.image_attacks.UNSEEN", 0.0)
    monkeypatch.setattr("invertible.reproduce.image_attacks.WRONG", 0.0)
    config = {**TINY, "flow": "additive", "seed": 0}
    numbers = train_and_attack(config, "cpu", lambda part: None).numbers
    assert (numbers["attacked"], numbers["wrong at the centre"]) == (0, 24)
    assert train_and_attack({**config, "with_lost": True}, "cpu", lambda part: None).numbers["attacked"] == 3


def test_claims_hold_where_the_affine_flow_alone_loses_images():
    assert [claim.holds for claim in EXPERIMENT.claims(of_seeds(**GOOD))] == [True] * 3
    assert EXPERIMENT.claims(of_seeds(**GOOD | {"affine": (0.2,)}))[0].holds


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({"affine": (1e-3,)}, [0]),
        ({"additive": (0.01,)}, [2]),
        ({"additive": (math.nan,)}, [2]),
        ({"additive": (math.inf, 0)}, [2]),
    ],
)
def test_claims_do_not_hold_otherwise(changed, failed):
    claims = EXPERIMENT.claims(of_seeds(**GOOD | changed))
    assert [index for index, claim in enumerate(claims) if not claim.holds] == failed


def test_one_seed_that_holds_out_is_enough_to_fail():
    found = of_seeds(**GOOD)
    found[0] = attacked("affine", 0, 0.05)
    assert not EXPERIMENT.claims(found)[0].holds


def test_what_float64_does_not_cure_is_in_the_table():
    found = [attacked(flow, seed, math.inf, 3, double=math.inf) for flow in GOOD for seed in range(3)]
    assert EXPERIMENT.tables(found)[0].rows[0][-2:] == ["4", "4"]


def test_a_flow_that_keeps_nothing_is_told_as_such():
    found = [none_attacked("affine", 0), *of_seeds(**GOOD)[1:]]
    assert "infinite" in EXPERIMENT.claims(found)[0].measured
    assert EXPERIMENT.tables(found)[0].rows[0][3] == "100 of 100"
    assert set(EXPERIMENT.figures(found)) == {"exploding-reconstruction"}


def test_the_image_lost_first_comes_first():
    found = attacked("affine", 0, 1e-6)
    found.numbers["error"][1:3], found.numbers["first"][1:3] = [math.inf, math.inf], [7, 2]
    assert worst_first(found)[:2] == [2, 1]


def test_the_papers_settings_build():
    runs = EXPERIMENT.runs("full", 0)
    assert len(runs) == 6
    assert {run.config["data"] for run in runs} == {"cifar10"}
    assert EXPERIMENT.departures("full") != EXPERIMENT.departures("quick")
