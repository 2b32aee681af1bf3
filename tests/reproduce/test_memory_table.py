"""The memory table: what a step of a short chain measures, and claims that hold and fail as they should."""

import copy
import math

import pytest
import torch

from invertible.reproduce.allocations import held_and_peak
from invertible.reproduce.experiment import Found
from invertible.reproduce.growth import exponent
from invertible.reproduce.memory_table import MEMORY, STRATEGIES, WORK, MemoryTable

EXPERIMENT = MemoryTable()
LENGTHS = (4, 8, 16, 32, 64)
# Seconds of a forward pass, and of a backward pass, of one block.
FORWARD, BACKWARD = 1e-3, 2e-3


def made_up(**changed):
    """Runs in which every order of the table is exact, but for memory by the orders in `changed`."""
    found = []
    for n in LENGTHS:
        strategies = {}
        for name in STRATEGIES:
            order = changed.get(name, MEMORY[name])
            evaluations = {"store": 2 * n, "checkpoint": 4 * n, "reversible": 4 * n}.get(name, WORK[name](2 * n))
            seconds = evaluations / 2 * FORWARD + n * BACKWARD
            held = 1000 * order(2 * n)
            strategies[name] = {"held": held, "peak": held, "evaluations": evaluations, "seconds": [seconds] * 3}
        numbers = {"state": 1000, "forward": [n * FORWARD] * 3, "strategies": strategies}
        found.append(Found({"length": n}, numbers, {}, 1.0))
    return found


def held(found):
    return [claim.holds for claim in EXPERIMENT.claims(found)]


def test_a_step_is_measured_under_every_strategy():
    config = {"batch": 1, "channels": 4, "size": 4, "rounds": 1, "length": 3, "seed": 0}
    found = EXPERIMENT.measure(config, "cpu", lambda part: None).numbers["strategies"]
    assert found["store"]["evaluations"] == 6
    assert found["reversible"]["evaluations"] == 12
    assert found["store"]["held"] > found["reversible"]["held"] > 0
    assert all(each["peak"] >= each["held"] and len(each["seconds"]) == 1 for each in found.values())


def test_orders_as_in_the_table_hold():
    found = made_up()
    assert all(held(found))
    assert len(EXPERIMENT.tables(found)) == 3
    assert set(EXPERIMENT.figures(found)) == {"memory-table"}


@pytest.mark.parametrize(
    ("name", "order"),
    [("store", math.sqrt), ("checkpoint", lambda n: n), ("recursive", math.sqrt), ("reversible", math.log2)],
)
def test_memory_of_another_order_does_not_hold(name, order):
    verdicts = held(made_up(**{name: order}))
    assert not verdicts[STRATEGIES.index(name)]


def test_one_evaluation_too_many_does_not_hold():
    found = made_up()
    found[-1].numbers["strategies"]["reversible"]["evaluations"] += 1
    assert not held(found)[5]


def test_a_recursion_that_costs_nothing_more_and_one_that_costs_too_much_do_not_hold():
    for factor in (lambda n: 1.0, lambda n: n):
        found = made_up()
        for each in found:
            each.numbers["strategies"]["recursive"]["evaluations"] = (
                4 * each.config["length"] * factor(each.config["length"])
            )
        assert not held(found)[6]


def test_times_that_grow_faster_or_are_not_finite_do_not_hold():
    slow, broken = made_up(), copy.deepcopy(made_up())
    for each in slow:
        each.numbers["strategies"]["reversible"]["seconds"] = [each.config["length"] ** 2 * 1e-2] * 3
    assert held(slow)[-2:] == [False, False]
    broken[0].numbers["strategies"]["store"]["seconds"] = [math.nan] * 3
    assert not held(broken)[-2]


def test_full_settings_build():
    assert len({run.name for run in EXPERIMENT.runs("full", 0)}) == len(EXPERIMENT.runs("full", 0)) == 7
    assert EXPERIMENT.departures("full")


def test_bytes_follow_what_autograd_keeps():
    x = torch.randn(1000, requires_grad=True)
    x.grad = torch.zeros(1000)
    bytes_held, peak = held_and_peak(lambda: x.exp().exp().sum(), "cpu")
    assert 8000 <= bytes_held < 8100
    assert peak >= bytes_held


def test_exponents():
    assert exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    assert math.isnan(exponent([1, 2], [1, math.inf]))
    assert math.isnan(exponent([1], [1]))
