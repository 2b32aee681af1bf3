"""Energies of continuous flows in training, and what is drawn in a step."""

import pytest
import torch

from invertible import Flow, models
from invertible.blocks.continuous import energies
from invertible.errors import ConfigError
from invertible.training.flow_task import FlowTask
from invertible.training.module import FlowModule
from invertible.training.recipe import Recipe
from invertible.training.safeguards import EnergyWeights
from tests.tools import randomise

SOLVER = {"method": "midpoint", "steps": 3}


def recipe(training: dict, model: str = "ffjord", **arguments) -> Recipe:
    section = {"name": model, "arguments": arguments}
    data = {"name": "moons", "batch_size": 64}
    return Recipe.model_validate({"name": "test", "model": section, "data": data, "training": {"steps": 2, **training}})


def stepped(flow: Flow, weights: EnergyWeights | None) -> tuple[FlowModule, torch.Tensor]:
    module = FlowModule(flow)
    module.energies = weights
    module.log = lambda *_, **__: None
    module.log_dict = lambda *_, **__: None
    return module, module.training_step(torch.linspace(-1, 1, 32).reshape(16, 2), 0)


def test_energies_are_added_with_their_weights() -> None:
    torch.manual_seed(0)
    flow = randomise(models.ffjord(2, hidden=(8,), solver=SOLVER, energies=True))
    _, plain = stepped(flow, None)
    found = energies(flow)
    _, loss = stepped(flow, EnergyWeights(kinetic=0.5, jacobian=0.25))
    expected = plain + 0.5 * found.kinetic.mean() + 0.25 * found.jacobian.mean()
    assert found.kinetic.min() > 0
    assert torch.allclose(loss, expected, rtol=1e-5)
    loss.backward()
    assert all(parameter.grad is not None for parameter in flow.parameters())


def test_a_task_with_energies_keeps_them_in_every_block() -> None:
    task = FlowTask(recipe({"energies": {"kinetic": 0.1}}, hidden=[8], blocks=2, solver=SOLVER), None)
    assert task.module.energies == EnergyWeights(kinetic=0.1)
    _, loss = stepped(task.flow, task.module.energies)
    assert loss.isfinite()


def test_energies_of_other_flows_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^keep_energies: expected a model with continuous blocks, got Flow"):
        FlowTask(recipe({"energies": {}}, "realnvp", layers=2, hidden=[8]), None)


@pytest.mark.parametrize(
    ("training", "model", "message"),
    [
        ({"energies": {}, "memory": "reversible"}, "ffjord", "expected memory: store with energies"),
        ({"energies": {}}, "revnet", "training.energies is for flows"),
        ({"energies": {"kinetic": -1.0}}, "ffjord", "greater than or equal to 0"),
    ],
)
def test_recipes_that_cannot_be(training: dict, model: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(training, model)


def test_probes_of_a_step_depend_on_the_step_alone() -> None:
    torch.manual_seed(0)
    flow = models.residual_flow(6, blocks=2, hidden=(8,), log_det="poisson")
    module = FlowModule(flow, seed=3)
    module.log = lambda *_, **__: None
    x = torch.linspace(-1, 1, 48).reshape(8, 6)
    flow.log_prob(x)
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        losses.append(float(module.training_step(x, 0).detach()))
        assert torch.equal(torch.get_rng_state(), before)
    assert losses[0] == losses[1]
    other = FlowModule(flow, seed=4)
    other.log = lambda *_, **__: None
    assert float(other.training_step(x, 0).detach()) != losses[0]
