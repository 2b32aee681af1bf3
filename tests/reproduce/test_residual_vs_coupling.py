"""The residual and the coupling form: what runs measure, and claims that hold and fail as they should."""

import math

import pytest
import torch

from invertible.reproduce.experiment import Found
from invertible.reproduce.form_claims import INVERSES, NETWORK, SOLVED
from invertible.reproduce.form_measures import BUILDERS, COUPLING, RESIDUAL, OrthogonalTanh
from invertible.reproduce.residual_vs_coupling import MODELS, ResidualVsCoupling

EXPERIMENT = ResidualVsCoupling()
CONSTANTS = [0.5, 0.9, 2.0]
SILENT = lambda part: None  # noqa: E731


def row(form, constant, worst, **changed):
    lost = form != COUPLING and constant > 1 and worst
    figures = {"error": 1.0 if lost else 1e-6, "evaluations": 1.0 if form == COUPLING else 20.0, "lost": 0}
    return {"form": form, "constant": constant, "worst": worst, **figures, **changed}


def network(form, accuracy, **changed):
    inverse = {COUPLING: 1.0, RESIDUAL: 15.0}[form]
    counts = {"forward": 1.0, "inverse": inverse, "stored step": 1.0, "memory-saving step": 1 + inverse}
    numbers = {
        "parameters": 67_000, "accuracy": accuracy, "tested": 360, "error": 1e-6, "evaluations": counts,
        "seconds": dict.fromkeys(counts, 0.1), **changed,
    }  # fmt: skip
    return Found({"kind": NETWORK, "form": form}, numbers, {}, 1.0)


def made_up(rows=None, coupling=None, accuracies=(98.0, 98.5, 97.9)):
    """Good runs, but for what is said: rows by their place, and a network's figures."""
    names = ("residual, picard", SOLVED, COUPLING)
    blocks = [row(form, c, worst) for c in CONSTANTS for worst in (False, True) for form in names]
    for place, changed in (rows or {}).items():
        block = next(each for each in blocks if (each["form"], each["constant"], each["worst"]) == place)
        block.update(changed)
    found = [Found({"kind": INVERSES, "constants": CONSTANTS}, {"rows": blocks}, {}, 1.0)]
    found += [network(COUPLING, accuracy, **(coupling or {})) for accuracy in accuracies]
    return found + [network(RESIDUAL, accuracy) for accuracy in (98.1, 98.3, 97.8)]


def held(found):
    return [claim.holds for claim in EXPERIMENT.claims(found)]


def test_inverses_are_measured():
    config = {"kind": INVERSES, "features": 8, "batch": 4, "constants": [0.5, 2.0], "seed": 0}
    rows = EXPERIMENT.measure(config, "cpu", SILENT).numbers["rows"]
    coupled = [each for each in rows if each["form"] == COUPLING]
    assert len(rows) == 12
    assert all(each["error"] < 1e-5 and each["evaluations"] == 1 for each in coupled)
    solved = {(each["constant"], each["worst"]): each for each in rows if each["form"] == SOLVED}
    assert solved[0.5, True]["error"] < 1e-4
    assert solved[0.5, True]["evaluations"] >= 5


@pytest.mark.parametrize("form", [COUPLING, RESIDUAL])
def test_networks_are_measured(form):
    config = next(run.config for run in EXPERIMENT.runs("quick", 0) if run.config.get("form") == form)
    small = {"blocks": [1, 1], "hidden": [4, 4]} if form == COUPLING else {"blocks": [1, 1], "channels": [4, 4]}
    config = {**config, "steps": 1, "model": {**config["model"], **small}}
    found = EXPERIMENT.measure(config, "cpu", SILENT).numbers
    assert found["evaluations"]["forward"] == 1
    assert (found["evaluations"]["inverse"] == 1) == (form == COUPLING)
    assert found["error"] < 1e-4


def test_the_constant_is_exact_and_the_worst_case_folds():
    f = OrthogonalTanh(6, 1.5, worst=True)
    jacobian = torch.autograd.functional.jacobian(lambda x: x + f(x), torch.zeros(6))
    assert torch.allclose(jacobian, -0.5 * torch.eye(6), atol=1e-5)
    assert torch.linalg.matrix_norm(jacobian - torch.eye(6), 2) == pytest.approx(1.5, abs=1e-5)


def test_good_forms_hold():
    found = made_up()
    assert all(held(found))
    assert len(EXPERIMENT.tables(found)) == 3
    assert set(EXPERIMENT.figures(found)) == {"residual-vs-coupling"}


@pytest.mark.parametrize(
    ("changed", "claim"),
    [
        ({"rows": {(COUPLING, 2.0, False): {"error": math.inf}}}, 0),
        ({"rows": {(COUPLING, 0.5, True): {"evaluations": 2.0}}}, 0),
        ({"rows": {(SOLVED, 0.9, True): {"error": 1e-2}}}, 1),
        ({"rows": {(SOLVED, 0.5, False): {"evaluations": 2.0}}}, 1),
        ({"rows": {(SOLVED, 2.0, True): {"error": 1e-5}}}, 2),
        ({"coupling": {"evaluations": {"inverse": 2.0, "memory-saving step": 2.0, "forward": 1.0, "stored step": 1.0}}}, 3),
        ({"coupling": {"error": math.inf}}, 4),
        ({"coupling": {"parameters": 80_000}}, 5),
        ({"accuracies": (90.0, 90.5, 90.1)}, 5),
    ],
)  # fmt: skip
def test_what_is_worse_does_not_hold(changed, claim):
    assert held(made_up(**changed)) == [index != claim for index in range(6)]


def test_errors_that_are_not_finite_are_drawn():
    assert EXPERIMENT.figures(made_up(rows={(SOLVED, 2.0, True): {"error": math.inf}}))


@pytest.mark.parametrize("scale", ["quick", "full"])
def test_settings_build_with_as_many_parameters(scale):
    assert len(EXPERIMENT.runs(scale, 0)) == 9
    shape = {"quick": (1, 8, 8), "full": (3, 32, 32)}[scale]
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in BUILDERS[form](shape=shape, **model).parameters())
            for form, model in MODELS[scale].items()
        ]
    assert max(sizes) / min(sizes) < 1.01
