"""FFJORD: shapes, conditions, files, training."""

import json

import pytest
import torch

import invertible as inv
from invertible.blocks.continuous import ContinuousBlock, energies
from invertible.errors import ConfigError
from invertible.models.ffjord import ffjord
from invertible.solvers.ode.adaptive import AdaptiveSolver
from invertible.solvers.ode.fixed_step import FixedStepSolver
from tests.tools import randomise

QUICK = {"method": "rk4", "steps": 4}
MODELS = {
    "vectors": (lambda **o: ffjord(3, hidden=(8,), **o), (3,)),
    "two blocks": (lambda **o: ffjord(3, blocks=2, hidden=(8,), layer="concat", activation="softplus", **o), (3,)),
    "batch norm": (lambda **o: ffjord(2, norm="batchnorm", hidden=(8,), **o), (2,)),
    "images": (lambda **o: ffjord((1, 4, 4), hidden=(4,), **o), (1, 4, 4)),
    "three levels": (lambda **o: ffjord((2, 8, 8), hidden=(4,), levels=3, norm="none", grey_levels=17, **o), (2, 8, 8)),
}


def blocks_of(flow):
    return [each for each in flow.modules() if isinstance(each, ContinuousBlock)]


@pytest.mark.parametrize("solver", [QUICK, {"method": "dopri5", "rtol": 1e-4, "atol": 1e-4}], ids=["rk4", "dopri5"])
@pytest.mark.parametrize(("build", "shape"), MODELS.values(), ids=MODELS.keys())
def test_density_and_samples(build, shape, solver) -> None:
    flow = randomise(build(solver=solver), 0.1)
    x = torch.rand(6, *shape)
    flow.log_prob(x)
    flow.eval()
    with torch.no_grad():
        z, log_det = flow.bijection(x)
        back, back_log_det = flow.bijection.inverse(z)
        assert flow.sample(4).shape == (4, *shape)
    assert torch.allclose(back, x, atol=1e-3)
    assert torch.allclose(log_det, -back_log_det, rtol=1e-3, atol=1e-2)


def test_starts_as_the_identity() -> None:
    flow = ffjord(3, norm="none")
    x = torch.randn(4, 3)
    z, log_det = flow.bijection(x)
    assert torch.equal(z, x)
    assert not log_det.any()


@pytest.mark.parametrize("shape", [3, (1, 4, 4)])
@pytest.mark.parametrize("how", ["features", "classes"])
def test_conditions_change_the_density(shape, how: str) -> None:
    options = {"condition_features": 2} if how == "features" else {"classes": 3}
    flow = randomise(ffjord(shape, hidden=(8,), solver=QUICK, **options), 0.3)
    x = torch.rand(4, *((shape,) if isinstance(shape, int) else shape))
    first, second = (
        (torch.zeros(4, 2), torch.ones(4, 2)) if how == "features" else (torch.zeros(4).long(), torch.ones(4).long())
    )
    flow.log_prob(x, first)
    flow.eval()
    with torch.no_grad():
        assert not torch.allclose(
            flow.bijection(x, flow._condition(first))[0], flow.bijection(x, flow._condition(second))[0]
        )


@pytest.mark.parametrize("solver", ["dopri5", QUICK, {"method": "adaptive-heun", "rtol": 1e-2}], ids=str)
def test_the_config_is_json_that_rebuilds_the_model(solver) -> None:
    flow = ffjord(2, hidden=(8,), solver=solver, energies=True)
    assert flow.config is not None
    config = json.loads(json.dumps(flow.config))
    again = ffjord(**config["arguments"])
    again.load_state_dict(flow.state_dict())
    x = torch.randn(4, 2)
    flow.log_prob(x)
    again.load_state_dict(flow.state_dict())
    assert torch.equal(again.eval().log_prob(x), flow.eval().log_prob(x))
    assert [block.solver for block in blocks_of(again)] == [block.solver for block in blocks_of(flow)]


def test_solvers_by_name() -> None:
    (block,) = blocks_of(ffjord(2, solver={"method": "dopri5", "rtol": 1e-7, "gradient": "adjoint"}))
    assert block.solver == AdaptiveSolver("dopri5", rtol=1e-7, gradient="adjoint")
    (block,) = blocks_of(ffjord(2, solver=QUICK))
    assert block.solver == FixedStepSolver("rk4", steps=4)
    (block,) = blocks_of(ffjord(2, solver={"method": "fixed-dopri5", "steps": 3}))
    assert block.solver == FixedStepSolver("dopri5", steps=3)


def test_training_fits_and_energies_shorten_the_paths() -> None:
    def trained(weight):
        torch.manual_seed(0)
        flow = ffjord(2, hidden=(16, 16), solver={"method": "midpoint", "steps": 6}, energies=True, norm="none")
        optimizer = torch.optim.Adam(flow.parameters(), lr=0.02)
        start = None
        for _ in range(40):
            x = 0.3 * torch.randn(64, 2) + 2 * torch.randint(0, 2, (64, 1)) - 1
            loss = -flow.log_prob(x).mean()
            kinetic, jacobian = (each.mean() for each in energies(flow))
            start = float(loss.detach()) if start is None else start
            optimizer.zero_grad()
            (loss + weight * (kinetic + jacobian)).backward()
            optimizer.step()
        return start, float(loss.detach()), float(kinetic.detach())

    start, end, kinetic = trained(0.0)
    assert end < start - 0.3
    _, regularised, less = trained(0.3)
    assert regularised < start - 0.2
    assert less < kinetic


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"shape": 2, "solver": "rk9"}, "models.ffjord: expected the solver's method to be one of"),
        ({"shape": 2, "solver": {"method": "rk4", "rtol": 1e-3}}, "rk4 does not take all of"),
        ({"shape": 2, "norm": "layer"}, "norm to be one of 'actnorm'"),
        ({"shape": 2, "activation": "relu"}, "smooth activation"),
        ({"shape": 2, "layer": "dense"}, "layer to be one of"),
        ({"shape": 2, "blocks": 0}, "blocks to be an integer"),
        ({"shape": (1, 5, 4)}, "divisible by 2"),
        ({"shape": 2, "classes": 3, "condition_features": 2}, "got both"),
    ],
)
def test_wrong_arguments(arguments, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        ffjord(**arguments)


def test_memory_strategies() -> None:
    flow, x = randomise(ffjord(2, blocks=2, hidden=(8,), solver=QUICK), 0.2), torch.randn(5, 2)
    flow.log_prob(x)
    gradients = []
    for memory in ("store", "reversible", "checkpoint"):
        inv.set_memory(flow, memory)
        gradients.append(torch.autograd.grad(flow.log_prob(x).mean(), list(flow.bijection.parameters())))
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other, strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
