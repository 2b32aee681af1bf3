"""Memory-saving gradients in training: what is measured, and that claims see what goes wrong."""

import math

import pytest
import torch

from invertible.reproduce.experiment import Found
from invertible.reproduce.gradient_angle import (
    ADDITIVE,
    AFFINE,
    DIFFERENCES,
    FLOW,
    GUARDED,
    UNGUARDED,
    VARIANTS,
    GradientAngle,
)
from invertible.reproduce.outcome import judge

TINY = {
    "depth": 1, "hidden": 2, "steps": 3, "checkpoints": 2, "batches": 1, "judged": 4, "spectra": 1, "batch": 16,
}  # fmt: skip
TURNS, DIVERGES, ALIGNED, NF, FD, ACCURATE, SAFE = 0, 5, 1, 2, 3, 4, 6


def one(variant, seed, **changed):
    """A run as the paper has it."""
    turns = variant in (AFFINE, UNGUARDED, GUARDED)
    angles = {"step": [0, 1, 2], "degrees": [1e-5, 0.01, 0.5 if turns else 0.01], "nan": [0, 0, int(turns)]}
    numbers = {
        "angles": angles, "lost": 1 if variant == UNGUARDED else None, "accuracy": 10.0 if variant == UNGUARDED else 97.0,
        "images": 8, "non_finite": 3 if turns else 0, "median": 1e-6, "worst": math.inf if turns else 1e-5,
        "smallest": 0.1, "condition": 10.0,
    }  # fmt: skip
    return Found({"variant": variant, "seed": seed}, {**numbers, **changed}, {"loss": torch.tensor([2.0, 1.0])}, 1.0)


def made_up(variant=None, **changed):
    """Three seeds of all variants, the last run of one of them changed."""
    return [
        one(name, seed, **(changed if name == variant and seed == 2 else {})) for seed in range(3) for name in VARIANTS
    ]


def verdicts(found):
    return [claim.holds for claim in GradientAngle().claims(found)]


def only(*broken):
    return [index not in broken for index in range(7)]


def test_what_the_paper_says_holds() -> None:
    assert verdicts(made_up()) == only()
    outcome = judge(GradientAngle(), "quick", 0, made_up())
    assert set(outcome.figures) == {"gradient-angle"}
    (table,) = outcome.tables
    assert [row[0].split(" (")[0] for row in table.rows] == list(VARIANTS)
    assert all(len(row) == len(table.head) for row in table.rows)
    assert table.rows[0][2:5] == ["NaN", "9 of 24", "infinite"]


LOST = {"step": [0, 1], "degrees": [1e-5, math.nan], "nan": [0, 1]}
TURNED = {"step": [0, 1], "degrees": [1e-5, 0.2], "nan": [0, 0]}
STRAIGHT = {"step": [0, 1], "degrees": [1e-5, 0.09], "nan": [0, 0]}


@pytest.mark.parametrize(
    ("variant", "changed", "broken"),
    [
        (AFFINE, {"angles": STRAIGHT}, (TURNS,)),
        (AFFINE, {"angles": {"step": [0, 1], "degrees": [0.1, 0.5], "nan": [0, 0]}}, (TURNS,)),
        (AFFINE, {"angles": TURNED}, ()),
        (ADDITIVE, {"angles": TURNED}, (ALIGNED,)),
        (ADDITIVE, {"angles": LOST}, (ALIGNED,)),
        (FLOW, {"angles": LOST}, (NF,)),
        (FLOW, {"non_finite": 1}, (NF,)),
        (FLOW, {"lost": 1}, (NF,)),
        (FLOW, {"accuracy": 80.0}, (ACCURATE,)),
        (DIFFERENCES, {"worst": 2e-3}, (FD,)),
        (DIFFERENCES, {"worst": math.inf}, (FD,)),
        (DIFFERENCES, {"accuracy": 80.0}, (ACCURATE,)),
        (UNGUARDED, {"lost": None}, (DIVERGES,)),
        (GUARDED, {"lost": 1}, (SAFE,)),
        (GUARDED, {"accuracy": 80.0}, (SAFE,)),
    ],
)
def test_a_run_that_is_otherwise_breaks_its_claim(variant: str, changed: dict, broken: tuple[int, ...]) -> None:
    assert verdicts(made_up(variant, **changed)) == only(*broken)


def test_every_variant_is_measured() -> None:
    experiment, found = GradientAngle(), []
    for run in experiment.runs("quick", 0)[: len(VARIANTS)]:
        measured = experiment.measure({**run.config, **TINY}, "cpu", lambda part: None)
        found.append(Found({**run.config, **TINY}, measured.numbers, measured.arrays, 1.0))
        assert measured.numbers["lost"] is None
        assert measured.numbers["angles"]["step"] == [0, 1, 2, 3]
        assert max(measured.numbers["angles"]["degrees"]) < 1e-3
        assert measured.arrays["loss"].shape == (3,)
    judge(experiment, "quick", 0, found)
    # Before they break all ways of keeping activations give the same training.
    stored, guarded = (each.arrays["loss"] for each in found if each.config["variant"] in (AFFINE, GUARDED))
    torch.testing.assert_close(stored, guarded)


def test_a_loss_that_is_not_finite_ends_the_run_and_tells_the_step() -> None:
    experiment = GradientAngle()
    config = {**experiment.runs("quick", 0)[0].config, **TINY, "lr": 1e30}
    numbers = experiment.measure(config, "cpu", lambda part: None).numbers
    assert numbers["lost"] == 1
    assert numbers["non_finite"] == TINY["judged"]
    assert math.isinf(numbers["worst"])
    assert numbers["angles"]["nan"][-1] == 1
    assert numbers["accuracy"] == 0


@pytest.mark.parametrize("scale", ["quick", "full"])
def test_runs_cover_all_variants_and_three_seeds(scale: str) -> None:
    experiment = GradientAngle()
    runs = experiment.runs(scale, 3)
    assert {(run.config["variant"], run.config["seed"]) for run in runs} == {
        (variant, seed) for variant in VARIANTS for seed in (3, 4, 5)
    }
    assert len({run.name for run in runs}) == len(runs)
    assert experiment.departures(scale)
    weights = {run.config["variant"]: (run.config["flow"], run.config["differences"]) for run in runs}
    assert weights[AFFINE] == weights[UNGUARDED] == (0.0, 0.0)
    assert weights[FLOW][0] > 0 == weights[FLOW][1]
    assert weights[DIFFERENCES][1] > 0 == weights[DIFFERENCES][0]


def test_the_full_settings_run_on_smaller_data() -> None:
    experiment = GradientAngle()
    config = {**experiment.runs("full", 0)[2].config, **TINY, "data": "digits", "levels": 2}
    assert experiment.measure(config, "cpu", lambda part: None).numbers["lost"] is None
