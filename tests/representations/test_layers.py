"""Layers and states: in order, complete, and the model undisturbed."""

import copy

import pytest
import torch
from torch import nn

from invertible.bijection import Inverted
from invertible.blocks import ActNorm, FactorOut, Squeeze
from invertible.chain import Chain
from invertible.errors import ConfigError, NotInvertibleError, ShapeError
from invertible.models import glow
from invertible.representations import layers, states
from invertible.representations.layers import prepare, undo, walk
from invertible.sequential import Sequential
from tests.representations.examples import Stretch, bijective, images, injective, lossy
from tests.tools import randomise


def last_state(model, x):
    return list(states(model, x))[-1][1]


def flow():
    made = glow((1, 8, 8), levels=3, depth=1, hidden=4, grey_levels=17)
    made.bijection(torch.rand(16, 1, 8, 8))
    return randomise(made, 0.05).eval()


@pytest.mark.parametrize("build", [bijective, injective, lossy])
def test_the_last_state_is_what_the_body_makes(build):
    model, x = build(), images(5).x
    expected = model.features(x)
    assert torch.allclose(last_state(model, x), expected, rtol=1e-5, atol=1e-6)


def test_the_layers_of_a_flow_give_its_latents():
    model, x = flow(), torch.rand(5, 1, 8, 8)
    assert torch.allclose(last_state(model, x), model.encode(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("build", [bijective, injective, flow])
def test_undoing_all_layers_gives_the_input_back(build):
    model, x = build(), images(4).x
    found = layers(model)
    with torch.no_grad():
        prepared, _ = prepare(model, x)
        *_, (_, state) = walk(found, (prepared,), None)
        assert torch.allclose(undo(found, state, None)[0], prepared, atol=1e-4)


def test_nested_chains_sequences_and_inverses_are_taken_apart():
    a, b, c = (Stretch(2.0, 3.0) for _ in range(3))
    model = Sequential(a, Sequential(Chain(b, Inverted(Chain(a, Chain(c))))), nn.ReLU())
    found = layers(model)
    assert [layer.module for layer in found] == [a, b, c, a, model[2]]
    assert found[2].name.endswith("inverted")
    assert [layer.inverse is None for layer in found] == [False] * 4 + [True]
    x = torch.rand(3, 2)
    assert torch.allclose(last_state(model, x), model(x))


def test_factored_out_latents_stay_part_of_the_state():
    model = Chain(Squeeze(), FactorOut(Chain(ActNorm(2), Squeeze(), Squeeze().inverted)))
    x = torch.rand(4, 1, 8, 8)
    model(x)
    model.eval()
    sizes = [state[0].numel() for _, state in states(model, x)]
    assert sizes == [64] * 7
    assert torch.allclose(last_state(model, x), model(x)[0])


def test_names_are_paths_in_the_model():
    model = bijective()
    for layer in layers(model):
        path = layer.name.partition(" ")[0]
        assert eval(f"model.{path}", {"model": model}) is layer.module


def test_batches_do_not_change_the_states():
    model, x = bijective(), images(10).x
    for (_, whole), (_, batched) in zip(states(model, x), states(model, x, batch_size=3), strict=True):
        assert torch.allclose(whole, batched, atol=1e-6)


def test_the_model_comes_out_undisturbed_even_half_way():
    model, x = bijective().train(), images(4).x
    before, seed = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    walked = states(model, x)
    for _ in range(4):
        next(walked)
        assert all(module.training for module in model.modules())
        assert torch.equal(torch.get_rng_state(), seed)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_layer_without_inverse_is_named():
    found = layers(lossy())
    with pytest.raises(NotInvertibleError, match="StageEntry") as caught:
        undo(found, (torch.zeros(1, 16, 4, 4),), None)
    assert "StageEntry" in (caught.value.block or "")


@pytest.mark.parametrize(
    ("model", "x", "error", "message"),
    [
        (nn.Linear(2, 2), torch.zeros(1, 2), ConfigError, "expected a Classifier, Flow, Sequential or Bijection"),
        (Sequential(), torch.zeros(1, 2), ConfigError, "got an empty Sequential"),
        (Stretch(1.0, 2.0), torch.zeros(0, 2), ShapeError, "with samples"),
        (Stretch(1.0, 2.0), torch.zeros(3, 2, dtype=torch.int64), ShapeError, r"Convert it: x\.float\(\)"),
        (bijective(), torch.zeros(2, 1, 9, 9), ShapeError, "expected x of shape"),
    ],
)
def test_wrong_use(model, x, error, message):
    with pytest.raises(error, match=message):
        list(states(model, x))
