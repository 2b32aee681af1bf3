"""The i-RIM: published sizes, its inverse, its gradients under every strategy, what it keeps, what it starts from."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import invertible as inv
from invertible import Chain, ConfigError, ShapeError, memory
from invertible.models.inference_machine import InvertibleInferenceMachine
from invertible.models.irim import irim
from tests.models.observations import scan

pytestmark = pytest.mark.usefixtures("float64")
SMALL = {"channels": 10, "hidden": (6, 8, 6), "factors": (1, 4, 2), "multiplicity": 2}
VARIANTS = {"untied": {}, "tied": {"tied": True}, "output": {"output_channels": 2}}


def count(module: nn.Module | None) -> int:
    return sum(p.numel() for p in module.parameters()) if module is not None else 0


@pytest.mark.parametrize(
    ("preset", "machine", "output"),
    [("single-coil", 275_206_144, 41_408), ("multi-coil", 329_577_472, 92_832), ("denoising", 80_000, 0)],
)
def test_published_numbers_of_parameters(preset: str, machine: int, output: int) -> None:
    with torch.device("meta"):
        model, tied = irim(preset), irim(preset, tied=True)
    assert count(model.core.machine) == machine
    assert count(model.core.output) == output
    assert count(model) == machine + output
    assert count(tied.core.machine) * model.core.machine.count == machine


@pytest.mark.parametrize("variant", ["untied", "tied"])
def test_the_inverse_of_the_whole_recurrence(variant: str) -> None:
    model = irim(steps=8, **SMALL, **VARIANTS[variant])
    observation, image, _ = model.normalised(scan())
    state = model.core.start(observation, image)
    machine = model.core.machine
    with torch.no_grad():
        y = machine(state, observation)
        assert (y - state).abs().max() > 0.1
        assert (machine.inverse(y, observation) - state).abs().max() <= 1e-12
        assert torch.equal(machine.chain(observation)(state)[0], y)
        machine.float()
        y = machine(state.float(), observation)
        assert (machine.inverse(y, observation) - state).abs().max() <= 3e-5


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("every", [False, True])
def test_gradients_of_rebuilt_states_are_those_of_stored_ones(variant: str, every: bool) -> None:
    model, observation = irim(steps=8, **SMALL, **VARIANTS[variant]), scan()
    found = {}
    for strategy in ("store", "reversible", "checkpoint"):
        inv.set_memory(model, strategy)
        model.zero_grad()
        estimates = model.estimates(observation) if every else [model(observation)]
        sum(one.sin().square().mean() for one in estimates).backward()
        found[strategy] = torch.cat([p.grad.flatten() for p in model.parameters()])
    for strategy in ("reversible", "checkpoint"):
        assert (found[strategy] - found["store"]).norm() <= 1e-12 * found["store"].norm()
    report = memory.report(model)
    assert report.alarms == 0
    assert [chain.name for chain in report.chains] == ["core.machine"]


def test_what_is_kept_does_not_grow_with_steps_but_by_the_estimates() -> None:
    kept = {}
    for steps in (2, 12):
        model = irim(steps=steps, **SMALL)
        inv.set_memory(model, "reversible")
        observation = scan()
        model(observation)
        last = memory.report(model).bytes_kept
        model.estimates(observation)
        kept[steps] = last, memory.report(model).bytes_kept
    assert kept[2][0] == kept[12][0]
    image = 8 * math.prod(observation.backprojection().shape)
    assert kept[12][1] - kept[2][1] <= 10 * image


@pytest.mark.parametrize("variant", VARIANTS)
def test_estimates_end_with_the_result(variant: str) -> None:
    model, observation = irim(steps=3, **SMALL, **VARIANTS[variant]), scan()
    with torch.no_grad():
        estimates = model.estimates(observation)
        assert len(estimates) == 3
        assert torch.allclose(estimates[-1], model(observation), atol=1e-13)
        assert all(one.shape == observation.backprojection().shape for one in estimates)
        assert not torch.allclose(estimates[0], estimates[-1], atol=1e-3)


def test_starts_from_the_backprojection_and_keeps_it_where_the_networks_are_zero() -> None:
    model, observation = irim(steps=3, context_features=2, **SMALL), scan(context=2)
    scaled, image, deviations = model.normalised(observation)
    state = model.core.start(scaled, image)
    assert torch.equal(state[:, :4], image.repeat(1, 2, 1, 1))
    assert torch.equal(state[:, 4:8], torch.zeros_like(state[:, 4:8]))
    assert torch.equal(state[:, 8:], observation.context[..., None, None].expand_as(state[:, 8:]))
    assert torch.allclose(image.flatten(1).std(1, correction=0), torch.ones(2))
    assert deviations[1] > 10 * deviations[0]
    for module in model.modules():
        if hasattr(module, "up"):
            nn.init.zeros_(module.up.gain)
    for one in model.estimates(observation):
        assert torch.allclose(one, observation.backprojection(), atol=1e-13)


def test_the_context_matters_and_is_asked_for() -> None:
    model, observation = irim(steps=2, context_features=2, **SMALL), scan(context=2)
    with torch.no_grad():
        other = replace(observation, context=observation.context.flip(1))
        assert not torch.allclose(model(observation), model(other), atol=1e-6)
    for context, came in ((None, "none"), (torch.ones(2, 3), r"\(2, 3\)")):
        with pytest.raises(ShapeError, match=rf"context of shape \(2, 2\), got {came}"):
            model(replace(observation, context=context))


def test_volumes() -> None:
    model = irim(spatial_dims=3, steps=2, **SMALL)
    observation = scan(batch=1, size=6, slices=3)
    inv.set_memory(model, "reversible")
    y = model(observation)
    assert y.shape == (1, 2, 3, 6, 8)
    y.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    # The data's gradient is slice by slice; the networks see across.
    state = torch.randn(1, 10, 3, 6, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.core.machine(state, observation)[:, :2, 0].sum(), state)
    assert gradient[:, :, 1].abs().max() > 0


def test_coil_images_become_one_by_an_output_network() -> None:
    model = irim(image_channels=6, channels=12, hidden=(4,), factors=(2,), steps=2, output_channels=2)
    assert model(scan(coils=3)).shape == (2, 2, 13, 15)


def test_is_a_chain_for_every_tool_that_takes_one() -> None:
    model, observation = irim(steps=1, channels=4, hidden=(3,), factors=(2,)), scan(batch=1, size=2)
    chain = model.core.machine.chain(model.normalised(observation)[0])
    assert isinstance(chain, Chain)
    inv.testing.check_bijection(chain, torch.randn(3, 4, 2, 4))


def test_trains() -> None:
    model, observation = irim(steps=3, **SMALL), scan()
    truth = observation.backprojection() + torch.randn(2, 2, 1, 1)
    inv.set_memory(model, "reversible")
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (model(observation) - truth).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert losses[-1] < float((observation.backprojection() - truth).square().mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "large"}, "'single-coil'"),
        ({"channels": 7}, "channels of at least 8"),
        ({"hidden": (3, 4)}, "one length"),
        ({"steps": 0}, "steps"),
        ({"spatial_dims": 1}, "spatial_dims of 2 or 3"),
        ({"reflections": 0}, "reflections"),
        ({"coupled": (2, 2)}, "one length"),
    ],
)
def test_refuses_at_construction(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        irim(**{**SMALL, **options})


def test_a_machine_takes_a_network_a_step_or_one() -> None:
    with pytest.raises(ConfigError, match="a network for each of 3 steps, or one for all, got 2"):
        InvertibleInferenceMachine([[], []], steps=3, image_channels=2)
