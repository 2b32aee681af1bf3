"""i-RevNet looked into: what a run measures, and claims that hold and fail as they should."""

import math

import pytest
import torch

from invertible.reproduce.experiment import Found
from invertible.reproduce.no_information_loss import NoInformationLoss, ordered

EXPERIMENT = NoInformationLoss()


def made_up(**changed):
    numbers = {
        "accuracy": 98.0, "inverted": 10, "wrong": 0, "float32": 1e-6, "float64": 1e-15, "depth": [0, 1, 2],
        "svm": [10.0, 60.0, 97.0], "nearest": [12.0, 60.0, 97.0],
        "untrained": {"svm": [10.0, 20.0, 80.0], "nearest": [12.0, 20.0, 80.0]},
        "lost": 0, "off_range": 1e-7, "features_distance": 1.0, "pixels_distance": 1.2, "test_distance": 0.9,
        "classes": [[0, 1], [2, 3]], "chances": torch.rand(2, 2, 9, 2).tolist(), **changed,
    }  # fmt: skip
    arrays = {"x": torch.rand(6, 1, 8, 8), "back": torch.rand(6, 1, 8, 8)}
    arrays |= {kind: torch.rand(2, 9, 1, 8, 8) for kind in ("features", "pixels")}
    return Found({"seed": 0}, numbers, arrays, 1.0)


def held(*found):
    return [claim.holds for claim in EXPERIMENT.claims(found)]


def test_a_run_measures_all():
    config = {**EXPERIMENT.runs("quick", 0)[0].config, "steps": 2, "depths": 3, "samples": [100, 40], "pairs": 4}
    measured = EXPERIMENT.measure(config, "cpu", lambda part: None)
    found = [Found(config, measured.numbers, measured.arrays, 1.0)]
    assert measured.numbers["wrong"] == 0
    assert measured.numbers["depth"] == [0, 7, 14]
    assert measured.numbers["features_distance"] > 0
    assert len(EXPERIMENT.claims(found)) == 6
    assert len(EXPERIMENT.tables(found)) == 2
    assert set(EXPERIMENT.figures(found)) == {"no-information-loss"}


def test_a_good_network_holds():
    assert all(held(made_up(), made_up()))


@pytest.mark.parametrize(
    ("changed", "claim"),
    [
        ({"wrong": 1}, 0),
        ({"float32": math.inf}, 0),
        ({"float64": 1e-9}, 0),
        ({"accuracy": 90.0}, 1),
        ({"svm": [10.0, 97.0, 40.0]}, 2),
        ({"svm": [10.0, math.nan, 97.0]}, 2),
        # What the network separates without having learnt anything is no merit.
        ({"nearest": [12.0, 60.0, 79.0]}, 3),
        ({"lost": 1}, 4),
        ({"features_distance": 2.0}, 5),
        ({"features_distance": math.inf}, 5),
    ],
)
def test_one_worse_seed_does_not_hold(changed, claim):
    assert held(made_up(), made_up(**changed)) == [index != claim for index in range(6)]


def test_pictures_that_are_not_finite_are_drawn():
    found = made_up()
    found.arrays["features"][0, 3] = math.nan
    assert EXPERIMENT.figures([found])


def test_ordered_counts_not_a_number_as_a_fall():
    assert ordered([1.0, 2.0, 3.0]) == 1
    assert ordered([1.0, math.nan, 3.0]) == pytest.approx(1 / 3)


def test_full_settings_build():
    assert len(EXPERIMENT.runs("full", 0)) == 3
    assert EXPERIMENT.departures("full")
