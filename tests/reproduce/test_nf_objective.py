"""The likelihood as a penalty: what is measured of the spectrum, and that claims see what goes wrong."""

import math

import pytest
import torch

from invertible.reproduce.experiment import Found
from invertible.reproduce.nf_objective import SETS, NFObjective, gains
from invertible.reproduce.outcome import judge

TINY = {"depth": 1, "hidden": 2, "steps": 3, "checkpoints": 2, "samples": 2, "batch": 16}
RAISES, MORE, ALONE, ACCURATE = range(4)


def ends(largest, smallest, condition):
    return {"largest": [1.0, largest], "smallest": [1.0, smallest], "condition": [1.0, condition]}


def one(flow, seed, **changed):
    """A run as the paper has it."""
    numbers = {
        "step": [0, 1], "dimensions": 4, "accuracy": 97.0,
        "data": ends(2.0, 0.5, 5.0) if flow else ends(3.0, 0.01, 500.0),
        "noise": ends(10.0, 0.05, 50.0) if flow else ends(20.0, 0.01, 9000.0),
    }  # fmt: skip
    arrays = {f"{name}.{side}": torch.ones(2, 4, dtype=torch.float64) for name in SETS for side in ("high", "low")}
    return Found({"flow": flow, "seed": seed}, {**numbers, **changed}, arrays, 1.0)


def made_up(flow=None, **changed):
    """Three seeds of both, the last run of one of them changed."""
    return [one(w, seed, **(changed if w == flow and seed == 2 else {})) for seed in range(3) for w in (0.0, 1e-4)]


def verdicts(found):
    return [claim.holds for claim in NFObjective().claims(found)]


def test_what_the_paper_says_holds() -> None:
    assert verdicts(made_up()) == [True] * 4
    outcome = judge(NFObjective(), "quick", 0, made_up())
    assert set(outcome.figures) == {"nf-objective"}
    (table,) = outcome.tables
    assert len(table.rows) == 6
    assert all(len(row) == len(table.head) for row in table.rows)


@pytest.mark.parametrize(
    ("flow", "changed", "broken"),
    [
        (1e-4, {"data": ends(0.1, 0.009, 5.0)}, (RAISES, ALONE)),
        (1e-4, {"data": ends(2.0, 0.0, 5.0)}, (RAISES, MORE, ALONE)),
        (1e-4, {"data": ends(300.0, 0.5, 5.0)}, (MORE,)),
        (1e-4, {"data": ends(math.inf, 0.5, 5.0)}, (MORE,)),
        (0.0, {"data": ends(math.inf, 0.0, math.inf)}, (RAISES, MORE, ALONE)),
        (1e-4, {"noise": ends(2.0, 0.5, 5.0)}, (ALONE,)),
        (0.0, {"noise": ends(math.inf, 0.0, math.inf)}, (ALONE,)),
        (1e-4, {"accuracy": 80.0}, (ACCURATE,)),
    ],
)
def test_a_run_that_is_otherwise_breaks_its_claim(flow: float, changed: dict, broken: tuple[int, ...]) -> None:
    found = verdicts(made_up(flow, **changed))
    assert found == [index not in broken for index in range(4)]


def test_gains_are_quotients_seed_by_seed() -> None:
    assert gains(made_up(), "data", "smallest") == [pytest.approx(50.0)] * 3
    assert math.isnan(gains(made_up(0.0, data=ends(1.0, 0.0, 1.0)), "data", "smallest")[2])


def test_spectra_are_measured_on_and_off_the_data() -> None:
    experiment, found = NFObjective(), []
    for run in experiment.runs("quick", 0)[:2]:
        measured = experiment.measure({**run.config, **TINY}, "cpu", lambda part: None)
        found.append(Found({**run.config, **TINY}, measured.numbers, measured.arrays, 1.0))
        assert measured.numbers["step"] == [0, 1, 2, 3]
        for name in SETS:
            high, low = (measured.arrays[f"{name}.{side}"] for side in ("high", "low"))
            assert high.shape == low.shape == (2, 64)
            torch.testing.assert_close(high, low.flip(1))
            assert measured.numbers[name]["condition"][-1] == pytest.approx(float((high[:, 0] / low[:, 0]).max()))
    judge(experiment, "quick", 0, found)


@pytest.mark.parametrize("scale", ["quick", "full"])
def test_runs_are_of_both_weights_and_three_seeds(scale: str) -> None:
    experiment = NFObjective()
    runs = experiment.runs(scale, 3)
    assert [run.config["seed"] for run in runs] == [3, 3, 4, 4, 5, 5]
    assert all((a.config["flow"] == 0) and (b.config["flow"] > 0) for a, b in zip(runs[::2], runs[1::2], strict=True))
    assert experiment.departures(scale)


def test_the_full_settings_run_on_smaller_data() -> None:
    experiment = NFObjective()
    config = {**experiment.runs("full", 0)[1].config, **TINY, "data": "digits", "levels": 2}
    measured = experiment.measure(config, "cpu", lambda part: None)
    assert measured.arrays["noise.low"].shape == (2, 4)
