"""Images in and out of distribution, sent there and back: measured in seconds, judged both ways."""

import math

import pytest
import torch

from invertible import data
from invertible.reproduce import Found
from invertible.reproduce.ood_reconstruction import FLOWS, SETS, OODReconstruction, image_sets, worst_row

TINY = {
    "data": "digits",
    "images": 40,
    "glow": {"levels": 1, "depth": 1, "hidden": 4},
    "residual": {"levels": 1, "blocks": 1, "hidden": [4, 4], "fully_connected": 0},
    "iterations": [3, 2],
    "lr": 1e-3,
    "batch": 16,
    "samples": 12,
}
EXPERIMENT = OODReconstruction()


def entry(worst):
    wrong = 0 if worst < 0.1 else 1
    lost = 0 if math.isfinite(worst) else 1
    return {"median": 1e-7, "worst": worst, "wrong": wrong, "lost": lost, "refused": 0, "samples": 20}


def found_with(changed, bits=None):
    """Made up: all comes back, but for the worst errors given by flow and set."""
    found = []
    for seed in range(3):
        for flow in FLOWS:
            sets = {name: entry(changed.get((flow, name), 1e-6)) for name in SETS}
            if flow == "residual":
                sets["scaled x3"] |= {"worst": 0.0, "refused": 20}
            x = torch.rand(4, 1, 8, 8)
            arrays = {f"{name}: {key}": x for name in SETS for key in ("x", "back")}
            numbers = {"bits": 2.5, "validation bits": (bits or {}).get(flow, 2.5), "skipped": 0, "sets": sets}
            found.append(Found({"flow": flow, "seed": seed}, numbers, arrays, 1.0))
    return found


GOOD = {("affine", "uniform"): 0.5, ("affine", "rademacher"): math.inf}


@pytest.mark.parametrize("flow", ["affine", "residual"])
def test_a_run_measures_what_claims_tables_and_figures_need(flow):
    measured = EXPERIMENT.measure({**TINY, "flow": flow, "seed": 0}, "cpu", lambda part: None)
    made_up = found_with({})[0]
    assert set(measured.numbers) == set(made_up.numbers)
    assert set(measured.arrays) == set(made_up.arrays)
    assert set(measured.numbers["sets"]["uniform"]) == set(made_up.numbers["sets"]["uniform"])
    assert max(one["worst"] for one in measured.numbers["sets"].values()) < 1e-4
    assert measured.numbers["sets"]["scaled x3"]["refused"] == (12 if flow == "residual" else 0)


def test_sets_are_drawn_from_the_seed_and_lie_on_the_levels():
    images = data.load("digits")
    sets, again = (image_sets(images, 10, 3) for _ in range(2))
    assert list(sets) == list(SETS)
    for name, x in sets.items():
        assert torch.equal(x, again[name])
        assert x.shape == (10, 1, 8, 8)
    assert sets["other"].std() > 0.05
    assert sets["scaled x3"].max() > 1


def test_claims_hold_where_the_affine_flow_alone_loses_strangers():
    claims = EXPERIMENT.claims(found_with(GOOD))
    assert [claim.holds for claim in claims] == [True] * 6
    assert "60 images outside of [0, 1] are refused" in claims[4].measured


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({("affine", "uniform"): 0.5}, [1]),
        ({**GOOD, ("affine", "test"): 0.2}, [0]),
        ({**GOOD, ("half-sigmoid", "constant"): 0.01}, [2]),
        ({**GOOD, ("additive", "other"): math.inf}, [3]),
        ({**GOOD, ("residual", "gaussian"): 0.01}, [4]),
    ],
)
def test_claims_do_not_hold_otherwise(changed, failed):
    claims = EXPERIMENT.claims(found_with(changed))
    assert [index for index, claim in enumerate(claims) if not claim.holds] == failed


def test_likelihoods_apart_tell_the_couplings_apart():
    assert not EXPERIMENT.claims(found_with(GOOD, {"additive": 3.0}))[5].holds
    assert not EXPERIMENT.claims(found_with(GOOD, {"affine": math.nan}))[5].holds


def test_what_is_lost_is_counted_and_drawn():
    found = found_with(GOOD)
    back = found[0].arrays["uniform: back"].clone()
    back[2, 0, 0, 0] = math.nan
    found[0].arrays["uniform: back"] = back
    assert worst_row(found[0], "uniform") == 2
    rows = {row[0]: row[1:] for row in EXPERIMENT.tables(found)[0].rows}
    assert rows["Rademacher"][0] == "1e-07, infinite; 3 of 60"
    assert rows["stretched × 3"][3].startswith("refused")
    assert set(EXPERIMENT.figures(found)) == {"ood-reconstruction"}


def test_the_papers_settings_build():
    runs = EXPERIMENT.runs("full", 0)
    assert len(runs) == 12
    assert {run.config["data"] for run in runs} == {"cifar10"}
    assert len(EXPERIMENT.departures("full")) < len(EXPERIMENT.departures("quick"))
