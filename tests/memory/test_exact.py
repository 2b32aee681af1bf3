"""Exact mode: inverse and gradients to the bit."""

import copy

import pytest
import torch
from torch import nn

import invertible as inv
from invertible import memory
from invertible.rounding import round_to_grid
from tests.memory.networks import convnet, loss_of, mlp, residual_chain
from tests.memory.test_guard import Tanh


def exact_pair(net: inv.Chain, bits: int = 20) -> tuple[inv.Chain, inv.Chain]:
    """One network with stored activations and rebuilt from its output."""
    stored, rebuilt = copy.deepcopy(net), copy.deepcopy(net)
    stored.memory, rebuilt.memory = memory.Exact(bits=bits, keep="store"), memory.Exact(bits=bits)
    return stored, rebuilt


def same_gradients(stored: inv.Chain, rebuilt: inv.Chain, x: torch.Tensor, passes: int = 2) -> None:
    """Outputs and gradients of everything are equal to the bit."""
    found = []
    for chain in (stored, rebuilt):
        for _ in range(passes):
            chain.zero_grad()
            own = x.clone().requires_grad_()
            torch.manual_seed(0)
            y, log_det = chain(own)
            loss_of(y, log_det).backward()
        found.append([y, own.grad, *(p.grad for p in chain.parameters()), *chain.buffers()])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("depth", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_deep_chains_of_gain_one_have_the_stored_gradients_to_the_bit(depth: int) -> None:
    stored, rebuilt = exact_pair(residual_chain(depth, Tanh))
    same_gradients(stored, rebuilt, torch.randn(16, 16))
    assert rebuilt.memory_log.alarms == 0
    assert rebuilt.memory_log.worst_error == 0.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: mlp(3),
        lambda: mlp(3, nn.Dropout(0.5)),
        lambda: mlp(3, nn.LayerNorm(8)),
        lambda: mlp(3, nn.BatchNorm1d(8)),
        lambda: mlp(3).bfloat16(),
    ],
    ids=["mlp", "dropout", "layernorm", "batchnorm", "bfloat16"],
)
def test_inner_networks_of_every_kind(make) -> None:
    same_gradients(*exact_pair(residual_chain(6, make)), torch.randn(8, 6))


def test_under_autocast() -> None:
    stored, rebuilt = exact_pair(residual_chain(6, lambda: mlp(3)))
    with torch.autocast("cpu", torch.bfloat16):
        same_gradients(stored, rebuilt, torch.randn(8, 6))


def test_images_squeezes_permutations_and_factored_out_latents() -> None:
    net = inv.Chain(
        inv.Squeeze(),
        inv.Permutation(8, seed=0),
        inv.AdditiveCoupling(8, hidden=(6,), spatial_dims=2),
        inv.FactorOut(inv.Chain(inv.ReversibleResidual(convnet(2), convnet(2)))),
        inv.Squeeze().inverted,
        inv.Flatten((2, 8, 8)),
        inv.AdditiveCoupling(128, hidden=(8,), flip=True),
    )
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    stored, rebuilt = exact_pair(net)
    x = torch.randn(4, 2, 8, 8)
    same_gradients(stored, rebuilt, x)
    x = round_to_grid(x, 20)
    with torch.no_grad():
        y, log_det = rebuilt(x)
        assert torch.equal(rebuilt.inverse(y)[0], x)
    assert y.dtype == torch.float64
    assert torch.equal(log_det, torch.zeros(4, dtype=torch.float64))


def test_the_inverse_is_exact_at_gain_one_where_float32_loses_everything() -> None:
    net = residual_chain(300, Tanh)
    x = torch.randn(8, 16)
    with torch.no_grad():
        assert (net.inverse(net(x)[0])[0] - x).abs().max() > 1e-3
        net.memory = "exact"
        grid = round_to_grid(x, 20)
        assert torch.equal(net.inverse(net(grid)[0])[0], grid)


def test_float32_results_hold_all_bits_of_small_numbers() -> None:
    net = residual_chain(20, lambda: Tanh(3, 0.1), memory=memory.Exact(bits=12))
    x = round_to_grid(torch.randn(8, 6), 12).float()
    with torch.no_grad():
        y, _ = net(x)
        assert y.dtype == torch.float32
        assert y.abs().max() < 2**12
        assert torch.equal(net.inverse(y)[0], x)


def test_training_through_the_exact_inverse() -> None:
    stored, rebuilt = exact_pair(residual_chain(5))
    y = torch.randn(8, 6)
    for chain in (stored, rebuilt):
        loss_of(*chain.inverse(y)).backward()
    for a, b in zip(stored.parameters(), rebuilt.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_close_to_the_network_without_a_grid() -> None:
    net = residual_chain(6).double()
    x = torch.randn(8, 6, dtype=torch.float64)
    expected, _ = net(x)
    for bits in (10, 20, 30):
        net.memory = memory.Exact(bits=bits)
        assert (net(x)[0] - expected).abs().max() < 32 * 2.0**-bits


def test_grad_or_no_grad_the_map_is_the_same() -> None:
    net = residual_chain(6, memory="exact")
    x = torch.randn(8, 6)
    with torch.no_grad():
        expected, _ = net(x)
    assert torch.equal(net(x)[0], expected)
    assert torch.allclose(torch.func.vmap(lambda row: net(row[None])[0][0])(x), expected, atol=1e-5)


def test_a_flipped_bit_is_noticed(monkeypatch) -> None:
    net = residual_chain(4, memory="exact")
    x = torch.randn(8, 6)
    loss_of(*net(x)).backward()
    expected = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    loss = loss_of(*net(x))
    reconstruct = memory.rebuilding.ReversibleTape.reconstruct

    def flipped(self, index, state):
        source, saved = reconstruct(self, index, state)
        if index == 5:
            source[0][2, 1] += 2.0**-20
        return source, saved

    monkeypatch.setattr(memory.rebuilding.ReversibleTape, "reconstruct", flipped)
    with pytest.warns(memory.ReconstructionWarning, match="step 5"):
        loss.backward()
    for a, b in zip(expected, net.parameters(), strict=True):
        assert torch.equal(a, b.grad)


@pytest.mark.parametrize(
    "block", [inv.AffineCoupling(4), inv.SplineCoupling(4), inv.ActNorm(4), inv.InvertibleLinear(4), inv.Logit()]
)
def test_blocks_without_an_exact_form_name_the_alternative(block: inv.Bijection) -> None:
    message = f"{type(block).__name__} has no exact form: its inverse rounds. Exact mode takes AdditiveCoupling, "
    with pytest.raises(inv.ConfigError, match=message):
        inv.Chain(block, memory="exact")(torch.rand(2, 4))


def test_rounding_to_the_grid() -> None:
    x = torch.tensor([0.3, -0.75, 0.5, 2.5, -2.5, 1e9, float("inf")], dtype=torch.float64)
    assert torch.equal(round_to_grid(x, 0)[2:5], torch.tensor([0.0, 2.0, -2.0], dtype=torch.float64))
    grid = round_to_grid(x, 8)
    assert torch.equal(grid[:6] * 256, (grid[:6] * 256).round())
    assert (grid[:6] - x[:6]).abs().max() <= 2.0**-9
    assert torch.isinf(grid[6])
    y = torch.randn(4, requires_grad=True)
    round_to_grid(y, 4).sum().backward()
    assert torch.equal(y.grad, torch.ones(4))
    assert y.grad.dtype == torch.float32
