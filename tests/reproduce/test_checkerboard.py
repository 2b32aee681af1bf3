"""Maps of flows in the plane: measured at a size of seconds, judged both ways."""

import math

import pytest
import torch

from invertible.reproduce import Found
from invertible.reproduce.checkerboard import FLOWS, MAPS, Checkerboard, grid

TINY = {"couplings": 2, "blocks": 2, "hidden": [8, 8], "iterations": 3, "batch": 16, "spacing": 4.0}
EXPERIMENT = Checkerboard()


def entry(inside, outside, lost=0):
    return {"inside": inside, "outside": outside, "lost inside": 0, "lost outside": lost}


def found_with(affine, bounded, residual):
    """Made up: errors on and off the square of each flow, the same for three seeds."""
    errors = dict(zip(FLOWS, (affine, bounded, residual), strict=True))
    side = 5
    return [
        Found(
            {"flow": flow, "seed": seed},
            {"fit": 3.6, "error": entry(*errors[flow]), "condition": entry(1e2, 1e4), "log_det": entry(1e-6, 1e-3)},
            {name: torch.full((side, side), 1e-3).log_normal_() for name in MAPS},
            1.0,
        )
        for seed in range(3)
        for flow in FLOWS
    ]


@pytest.mark.parametrize("flow", FLOWS)
def test_a_run_measures_what_claims_tables_and_figures_need(flow):
    torch.manual_seed(0)
    parts = []
    measured = EXPERIMENT.measure({**TINY, "flow": flow, "seed": 0}, "cpu", parts.append)
    if flow == "affine":
        again = EXPERIMENT.measure({**TINY, "flow": flow, "seed": 0}, "cpu", parts.append)
        assert measured.numbers == again.numbers
    assert measured.numbers["error"]["outside"] < 1e-3
    assert measured.numbers["log_det"]["inside"] < 1e-4
    assert measured.arrays["condition"].shape == (5, 5)
    assert parts[-1] == 1.0


def test_the_maps_have_the_first_coordinate_to_the_right():
    x = grid(4.0)
    assert x.reshape(5, 5, 2)[:, :, 0].T[0].tolist() == [-8.0, -4.0, 0.0, 4.0, 8.0]


def test_claims_hold_where_the_affine_flow_alone_fails():
    claims = EXPERIMENT.claims(found_with((1e-5, math.inf), (1e-5, 1e-2), (1e-6, 1e-6)))
    assert [claim.holds for claim in claims] == [True] * 4


@pytest.mark.parametrize(
    ("affine", "bounded", "residual", "failed"),
    [
        ((1.0, math.inf), (1e-5, 1e-2), (1e-6, 1e-6), [0]),
        ((1e-5, 4e-5), (1e-5, 5e-5), (1e-6, 1e-6), [1, 2]),
        ((1e-5, math.inf), (1e-5, math.inf), (1e-6, 1e-6), [2]),
        ((1e-5, math.inf), (1e-5, 1e-2), (1e-6, math.inf), [3]),
    ],
)
def test_claims_do_not_hold_otherwise(affine, bounded, residual, failed):
    claims = EXPERIMENT.claims(found_with(affine, bounded, residual))
    assert [index for index, claim in enumerate(claims) if not claim.holds] == failed


def test_lost_points_are_drawn_and_counted():
    found = found_with((1e-5, math.inf, 3), (1e-5, 1e-2), (1e-6, 1e-6))
    found[0].arrays["error"][0, 0] = math.inf
    assert set(EXPERIMENT.figures(found)) == {"checkerboard"}
    assert EXPERIMENT.tables(found)[0].rows[0][5] == "3"


def test_the_papers_settings_build():
    runs = EXPERIMENT.runs("full", 0)
    assert len(runs) == 9
    assert len(EXPERIMENT.departures("full")) < len(EXPERIMENT.departures("quick"))
    assert {run.config["couplings"] for run in runs} == {200}
