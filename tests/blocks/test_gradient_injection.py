"""The data of an inverse problem as a block: the right gradient, in the right channels, undone exactly."""

import pytest
import torch
from torch import nn

import invertible as inv
from invertible import AdditiveCoupling, Chain, ConfigError, ShapeError, memory
from invertible.blocks.gradient_injection import GradientInjection
from invertible.physics.operator import LinearOperator, Observation

pytestmark = pytest.mark.usefixtures("float64")
SHAPE = (2, 3, 4)


class Dense(LinearOperator):
    """A matrix for every sample, which counts how often it is applied."""

    def __init__(self, batch: int, *, learned: bool = False) -> None:
        super().__init__()
        matrix = torch.randn(batch, 9, 24) / 5
        if learned:
            self.matrix = nn.Parameter(matrix)
        else:
            self.register_buffer("matrix", matrix)
        self.calls = []

    def forward(self, x):
        self.calls.append(len(x))
        return (self.matrix @ x.flatten(1)[..., None])[..., 0]

    def adjoint(self, y):
        return (self.matrix.mT @ y[..., None])[..., 0].unflatten(1, SHAPE)


def observed(batch: int = 3, *, learned: bool = False) -> Observation:
    return Observation(Dense(batch, learned=learned), torch.randn(batch, 9))


@pytest.mark.parametrize("multiplicity", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 3])
def test_adds_the_gradient_of_the_data_term_behind_every_estimate(multiplicity: int, batch: int) -> None:
    observation = observed(batch)
    block = GradientInjection(observation, 2, multiplicity)
    state = torch.randn(3, 14, 3, 4)
    width = 2 * multiplicity
    estimates = state[:, :width].clone().requires_grad_()
    loss = sum((observation.operator(one) - observation.data).square().sum() / 2 for one in estimates.split(2, 1))
    (gradient,) = torch.autograd.grad(loss, estimates)
    y, log_det = block(state)
    expected = state.clone()
    expected[:, width : 2 * width] += gradient
    assert torch.allclose(y, expected, atol=1e-13)
    assert torch.equal(log_det, torch.zeros(3))
    assert torch.allclose(block.inverse(y)[0], state, atol=1e-14)


def mixed(observation: Observation) -> Chain:
    """Injections between couplings that move the estimates."""
    injection = GradientInjection(observation, 2)
    net = lambda a, b: nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.Tanh())  # noqa: E731
    couplings = [AdditiveCoupling(6, net, flip=i % 2 == 0, spatial_dims=2) for i in range(3)]
    return Chain(*[block for coupling in couplings for block in (injection, coupling)], injection)


@pytest.mark.parametrize("strategy", ["reversible", "checkpoint", "recursive"])
@pytest.mark.parametrize("learned", [False, True])
def test_gradients_are_those_of_stored_training(strategy: str, learned: bool) -> None:
    observation = observed(learned=learned)
    observation.data.requires_grad_()
    x = torch.randn(3, 6, 3, 4, requires_grad=True)
    found = []
    for each in ("store", strategy):
        torch.manual_seed(1)
        chain = mixed(observation)
        inv.set_memory(chain, each)
        wanted = [x, observation.data, *chain.parameters()]
        assert (len([p for p in wanted if p.shape == (3, 9, 24)]) == 1) == learned
        gradients = torch.autograd.grad(chain(x)[0].sin().square().sum(), wanted)
        assert all(gradient.abs().max() > 0 for gradient in gradients)
        found.append(torch.cat([gradient.flatten() for gradient in gradients]))
    assert (found[1] - found[0]).norm() <= 1e-13 * found[0].norm()


def test_one_evaluation_in_the_backward_pass_that_saves_memory() -> None:
    observation = observed()
    chain = Chain(GradientInjection(observation, 2), memory=memory.Reversible(guard=False))
    y, _ = chain(torch.randn(3, 4, 3, 4, requires_grad=True))
    before = len(observation.operator.calls)
    y.square().sum().backward()
    assert len(observation.operator.calls) - before <= 1


def test_undone_to_the_bit_on_a_grid_of_numbers() -> None:
    chain = mixed(observed())
    inv.set_memory(chain, "exact")
    state = torch.randn(3, 6, 3, 4).mul(2**20).round().div(2**20)
    y, _ = chain(state)
    assert not torch.equal(y, state)
    assert torch.equal(chain.inverse(y)[0], state)


def test_moves_and_converts_with_its_operator() -> None:
    block = GradientInjection(observed(1), 2).float()
    y, _ = block(torch.randn(2, 4, 3, 4, dtype=torch.float32))
    assert y.dtype == torch.float32
    assert block.operator.matrix.dtype == torch.float32


@pytest.mark.parametrize(
    ("shape", "channels", "multiplicity", "message"),
    [
        ((3, 6, 3, 4), 3, 1, "images of 3 channels"),
        ((3, 6, 3, 4), 2, 2, "8 channels or more"),
        ((2, 6, 3, 4), 2, 1, r"expected x of shape \(3, "),
        ((3, 6, 4, 4), 2, 1, r"got \(3, 6, 4, 4\)"),
    ],
)
def test_refuses_what_does_not_fit(shape: tuple, channels: int, multiplicity: int, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        GradientInjection(observed(), channels, multiplicity)(torch.randn(shape))
    with pytest.raises(ConfigError, match="multiplicity"):
        GradientInjection(observed(), 2, 0)
