"""Every strategy gives the gradients of stored activations, on every block and model."""

import pytest
import torch

import invertible as inv
from invertible import memory
from tests.memory.networks import STRATEGIES, assert_same, convnet, copies, residual_chain, train
from tests.registry import NAMES, make

FEW = ("checkpoint", "recursive", "reversible", "unguarded")


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_stored_ones_on_every_block(name: str) -> None:
    block, x, condition = make(name)
    for strategy in FEW:
        stored, other = copies(inv.Chain(block), STRATEGIES[strategy])
        expected = train(stored, x, condition)
        # A block that is far from well conditioned gives back its input with as many digits less.
        tolerance = 1e-12 if strategy in ("checkpoint", "recursive") else 1e-9
        assert_same(train(other, x, condition), expected, tolerance)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("make_chain", "shape", "condition_shape"),
    [
        (lambda: residual_chain(), (6,), None),
        (lambda: residual_chain(3, lambda: convnet(2)), (4, 4, 4), None),
        (
            lambda: inv.Chain(
                inv.ActNorm(6),
                inv.InvertibleLinear(6),
                inv.AffineCoupling(6, condition_features=2),
                inv.AdditiveCoupling(6, flip=True),
                inv.Permutation(6, seed=0),
                inv.SplineCoupling(6),
                inv.Chain(inv.AffineCoupling(6, mask="alternating", condition_features=2), inv.InvertibleLinear(6)),
            ),
            (6,),
            (2,),
        ),
        (
            lambda: inv.Chain(
                inv.Squeeze(),
                inv.ActNorm(8),
                inv.InvertibleConv1x1(8),
                inv.AffineCoupling(8, hidden=(6,), spatial_dims=2),
                inv.FactorOut(
                    inv.Chain(
                        inv.Haar(),
                        inv.AdditiveCoupling(16, hidden=(6,), spatial_dims=2),
                        inv.FactorOut(inv.AffineCoupling(8, hidden=(6,), spatial_dims=2)),
                        inv.Haar().inverted,
                    )
                ),
                inv.Squeeze().inverted,
            ),
            (2, 4, 4),
            None,
        ),
    ],
    ids=["residual", "convolutions", "everything", "multi-scale"],
)
def test_gradients_equal_stored_ones_in_chains(strategy, make_chain, shape, condition_shape) -> None:
    net = make_chain().double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(6, *shape, dtype=torch.float64)
    condition = None if condition_shape is None else torch.randn(6, *condition_shape, dtype=torch.float64)
    net(x, condition)
    stored, other = copies(net, STRATEGIES[strategy])
    assert_same(train(other, x, condition), train(stored, x, condition))
    assert other.memory_log.alarms == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_float32_gradients_within_1e_5(strategy: str) -> None:
    stored, other = copies(residual_chain(8), STRATEGIES[strategy])
    x = torch.randn(16, 6)
    assert_same(train(other, x), train(stored, x), 1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_training_through_the_inverse(strategy: str) -> None:
    net = inv.Chain(
        inv.AffineCoupling(4), inv.InvertibleLinear(4), inv.SplineCoupling(4), inv.AdditiveCoupling(4)
    ).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    stored, other = copies(net, STRATEGIES[strategy])
    x = torch.randn(5, 4, dtype=torch.float64)
    found = []
    for chain in (stored, other):
        y, log_det = chain.inverse(x)
        (y.square().sum() + log_det.sum()).backward()
        found.append([p.grad for p in chain.parameters()])
    assert_same(found[1], found[0])
    assert (other.memory_log.passes, other.inverse_memory_log.passes) == (0, 1)
    assert "chain (inverse): " in str(memory.report(other))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_step_that_is_no_bijection_may_stand_between_chains(strategy: str) -> None:
    torch.manual_seed(0)
    first, second = residual_chain(3, lambda: convnet(2)), residual_chain(3, lambda: convnet(4))
    down = torch.nn.Conv2d(4, 8, 3, stride=2, padding=1)
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    found = []
    for memory_strategy in ("store", STRATEGIES[strategy]):
        model = torch.nn.ModuleList([first, down, second]).double()
        inv.set_memory(model, memory_strategy)
        model.zero_grad()
        h = down(first(x)[0]).relu()
        second(h)[0].square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    assert_same(found[1], found[0])


class OwnBlock(inv.Bijection):
    """y = x + 0.3 sin(a x): ten lines, and an inverse that iterates."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x, condition=None):
        slope = 1 + 0.3 * self.a * torch.cos(self.a * x)
        return x + 0.3 * torch.sin(self.a * x), slope.log().sum(1)

    def inverse(self, y, condition=None):
        x = y
        for _ in range(60):
            x = y - 0.3 * torch.sin(self.a * x)
        return x, -self(x)[1]


class OneEvaluation(OwnBlock):
    """The same with a reconstruction of its own."""

    def reconstruct(self, y, condition=None):
        with torch.no_grad():
            x, _ = self.inverse(y)
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            return inv.Reconstruction(x, *self.forward(x))


class OtherGraph(OwnBlock):
    """A reconstruction whose graph saves other tensors than forward's."""

    def reconstruct(self, y, condition=None):
        with torch.no_grad():
            x, _ = self.inverse(y)
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            z = self.a * x
            return inv.Reconstruction(x, x + 0.3 * z.sin() * z.exp().log().exp().log().div(z), z.sum(1))


@pytest.mark.parametrize("block", [OwnBlock, OneEvaluation, OtherGraph])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.filterwarnings("ignore::invertible.memory.ReconstructionWarning")
def test_blocks_of_ones_own_work_from_their_first_line(strategy: str, block: type) -> None:
    if block is OtherGraph and strategy == "raise":
        pytest.skip("its first pass finds the other graph, and raises as told")
    stored, other = copies(inv.Chain(*[block() for _ in range(4)]), STRATEGIES[strategy])
    x = torch.randn(5, 3, dtype=torch.float64)
    assert_same(train(other, x), train(stored, x), 1e-11)


def test_no_grad_and_frozen_chains_run_as_they_are() -> None:
    net = residual_chain(memory="reversible")
    x = torch.randn(4, 6)
    with torch.no_grad():
        expected, _ = net(x)
    net.requires_grad_(False)
    y, _ = net(x)
    assert not y.requires_grad
    assert torch.equal(y, expected)
    assert net.memory_log.passes == 0


def test_strategies_are_chosen_by_name_and_kept_by_slices() -> None:
    net = residual_chain(memory="reversible")
    assert net[1:3].memory == memory.Reversible()
    assert inv.set_memory(inv.models.realnvp(4), "checkpoint").bijection.memory == memory.Checkpoint()
    with pytest.raises(inv.ConfigError, match=r"memory: expected one of 'store', .* got 'reversable'"):
        net.memory = "reversable"
    with pytest.raises(inv.ConfigError, match="set_memory: expected a model with chains inside, got Linear"):
        inv.set_memory(torch.nn.Linear(2, 2), "store")
