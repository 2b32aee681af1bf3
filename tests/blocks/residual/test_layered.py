"""Derivatives that are written out, against autograd's."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from invertible.blocks.lipschitz import LipschitzConvNet, LipschitzMLP
from invertible.blocks.residual.exact import ExactLogDet
from invertible.blocks.residual.layered import is_layered
from invertible.blocks.residual.map import ResidualMap
from invertible.blocks.residual.roulette import RussianRoulette
from invertible.blocks.residual.smooth import smooth
from tests.blocks.residual.contractions import gradients
from tests.tools import randomise

ACTIVATIONS = ["lipswish", "elu", "tanh", "softplus"]


def example(kind: str, activation: str, *, preactivation: bool, conditional: bool) -> tuple[ResidualMap, torch.Tensor]:
    options = {"activation": activation, "preactivation": preactivation, "condition_features": 2 if conditional else 0}
    if kind == "mlp":
        net, shape = LipschitzMLP(3, (7, 5), **options), (4, 3)
    else:
        net, shape = LipschitzConvNet(2, (5, 4), **options), (3, 2, 3, 4)
    net = randomise(net).double()
    condition = torch.randn(shape[0], 2, dtype=torch.float64, requires_grad=True) if conditional else None
    return ResidualMap(net, condition, net.lipschitz, 2.0), torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("conditional", [False, True], ids=["plain", "conditional"])
@pytest.mark.parametrize("preactivation", [False, True], ids=["linear-first", "activation-first"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_the_same_values_and_gradients(kind: str, activation: str, preactivation: bool, conditional: bool) -> None:
    g, x = example(kind, activation, preactivation=preactivation, conditional=conditional)
    assert is_layered(g.net, x)
    weights = torch.randn(len(x), dtype=torch.float64)
    for estimate in (RussianRoulette("poisson", probes=2), ExactLogDet()):
        results = []
        for written_out in (True, False):
            torch.manual_seed(3)
            value, log_det = estimate.estimate(replace(g, written_out=written_out), x, gradient="neumann")
            loss = (weights * log_det).sum() + (value * torch.linspace(-1, 2, value.numel()).view(value.shape)).sum()
            results.append([value, log_det, *gradients(g, loss, x)])
            with torch.no_grad():
                torch.manual_seed(3)
                again = estimate.estimate(replace(g, written_out=written_out), x, gradient="neumann")
            results[-1] += again
        for a, b in zip(*results, strict=True):
            assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_first_and_second_derivatives_of_activations(activation: str) -> None:
    module = LipschitzMLP(2, (3,), activation=activation).double().activations[0]
    function, z = smooth(module), torch.linspace(-3, 3, 40, dtype=torch.float64, requires_grad=True)
    assert function is not None
    b = function.parameter(module)
    value, slope, kept = function.first(z, b)
    assert torch.allclose(value, module(z), atol=1e-15)
    expected = torch.autograd.grad(module(z).sum(), z, create_graph=True)[0]
    assert torch.allclose(slope, expected, atol=1e-14)
    assert torch.allclose(
        function.second(z, slope, kept, b) * (1 if b is None else b),
        torch.autograd.grad(expected.sum(), z)[0],
        atol=1e-14,
    )


def test_second_derivatives_are_those_of_autograd() -> None:
    g, x = example("mlp", "lipswish", preactivation=True, conditional=False)
    found = []
    for written_out in (True, False):
        value, log_det = ExactLogDet().estimate(replace(g, written_out=written_out), x)
        (slope,) = torch.autograd.grad(value.square().sum() + log_det.sum(), x, create_graph=True)
        found.append(gradients(g, slope.square().sum(), x))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-11)


def test_what_watches_or_is_not_known_goes_the_general_way() -> None:
    x = torch.randn(2, 3)
    assert is_layered(LipschitzMLP(3, (4,)), x)
    assert not is_layered(LipschitzMLP(3, (4,), activation="maxmin"), x)
    assert not is_layered(LipschitzMLP(3, (4,)), x.double())
    assert not is_layered(nn.Sequential(nn.Linear(3, 3)), x)
    net = LipschitzMLP(3, (4,))
    net.layers[0].register_forward_hook(lambda *_: None)
    assert not is_layered(net, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_layered(LipschitzMLP(3, (4,)), x)
