"""ResNet against RevNet: what a run measures, and claims that hold and fail as they should."""

import math

import pytest

from invertible.reproduce.experiment import Found
from invertible.reproduce.means import below
from invertible.reproduce.resnet_vs_revnet import RESNET, REVNET, ResNetVsRevNet

EXPERIMENT = ResNetVsRevNet()


def made_up(revnet=(98.9, 99.1, 98.6), resnet=(98.9, 99.2, 98.6), angle=1e-3, double=1e-14, parameters=464_890):
    found = []
    for name, values in ((REVNET, revnet), (RESNET, resnet)):
        for seed, accuracy in enumerate(values):
            gradients = {"step": [0, 5], "degrees": [1e-5, angle], "reference": [1e-4, 1e-4], "double": [1e-15, double]}
            numbers = {
                "parameters": parameters if name == REVNET else 464_154,
                "accuracy": accuracy,
                "tested": 360,
                "curve": {"step": [0, 5], "accuracy": [10.0, accuracy], "loss": [2.3, 0.1]},
                "gradients": gradients if name == REVNET else {key: [] for key in gradients},
            }
            found.append(Found({"network": name, "seed": seed}, numbers, {}, 1.0))
    return found


def held(found):
    return [claim.holds for claim in EXPERIMENT.claims(found)]


def test_a_run_measures_accuracy_and_angles():
    small = {"steps": 2, "checks": 1, "batch": 16}
    measured = {}
    for run in EXPERIMENT.runs("quick", 0)[:2]:
        config = {**run.config, **small}
        measured[config["network"]] = EXPERIMENT.measure(config, "cpu", lambda part: None).numbers
    assert measured[REVNET]["gradients"]["step"] == [0]
    assert measured[REVNET]["gradients"]["double"][0] < 1e-10
    assert measured[RESNET]["gradients"]["degrees"] == []
    assert measured[RESNET]["curve"]["step"] == [0, 2]
    assert 0 <= measured[RESNET]["accuracy"] <= 100


def test_equal_networks_hold():
    found = made_up()
    assert all(held(found))
    assert len(EXPERIMENT.tables(found)) == 2
    assert set(EXPERIMENT.figures(found)) == {"resnet-vs-revnet"}


@pytest.mark.parametrize(
    ("changed", "claim"),
    [
        ({"parameters": 500_000}, 0),
        ({"revnet": (97.9, 98.0, 98.1)}, 1),
        # A wild spread is no excuse.
        ({"revnet": (99.0, 99.0, 60.0)}, 1),
        ({"angle": 1.5}, 2),
        ({"angle": math.inf}, 2),
        ({"double": math.inf}, 3),
        ({"double": 1e-8}, 3),
    ],
)
def test_what_is_worse_does_not_hold(changed, claim):
    assert held(made_up(**changed)) == [index != claim for index in range(4)]


def test_angles_that_are_not_finite_are_drawn():
    assert EXPERIMENT.figures(made_up(angle=math.inf))


def test_full_settings_build():
    configs = [run.config for run in EXPERIMENT.runs("full", 3)]
    assert {config["seed"] for config in configs} == {3, 4, 5}
    assert configs[0]["steps"] == 80_000
    assert EXPERIMENT.departures("full")


def test_the_allowance_lies_between_one_image_and_one_point():
    assert below([99.0, 99.0], [98.0, 98.0], one=0.3) == 0.3
    assert below([99.0, 60.0], [98.0, 98.0], one=0.3) == 1.0
