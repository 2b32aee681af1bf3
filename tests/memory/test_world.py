"""What the forward pass saw, the recomputation sees again, and leaves no trace."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import invertible as inv
from tests.memory.networks import (
    STRATEGIES,
    assert_same,
    convnet,
    copies,
    gradients,
    loss_of,
    mlp,
    residual_chain,
    train,
)

each_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


@each_strategy
def test_dropout_draws_the_same_masks(strategy: str) -> None:
    net = residual_chain(4, lambda: mlp(3, nn.Dropout(0.5))).double()
    stored, other = copies(net, STRATEGIES[strategy])
    x = torch.randn(8, 6, dtype=torch.float64)
    train(stored, x), train(other, x)  # first passes are proved, and draw no more than others
    results = []
    for chain in (stored, other):
        torch.manual_seed(3)
        results.append((train(chain, x), torch.rand(1)))
    assert_same(results[1][0], results[0][0])
    assert results[0][1] == results[1][1]


@each_strategy
def test_dropout_behind_frozen_and_stored_blocks(strategy: str) -> None:
    class Own(nn.Module):
        """Gives other values when it is run again, so that it is stored; and draws from the default generator."""

        def __init__(self):
            super().__init__()
            self.linear, self.calls = nn.Linear(3, 3), 0

        def forward(self, x):
            self.calls += 1
            return nn.functional.dropout(self.linear(x), 0.5) * self.calls

    dropped = lambda: mlp(3, nn.Dropout(0.5))  # noqa: E731
    found = []
    for memory in ("store", STRATEGIES[strategy]):
        torch.manual_seed(0)
        net = residual_chain(2, dropped)
        own = Own()
        net = inv.Chain(
            *net, inv.ReversibleResidual(dropped(), own), *residual_chain(2, dropped), memory=memory
        ).double()
        net[0].requires_grad_(False)
        x = torch.randn(8, 6, dtype=torch.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if strategy not in ("unguarded", "raise", "checkpoint", "three-segments", "recursive", "one-slot"):
                loss_of(*net(x)).backward()
            else:
                own.forward = lambda x, own=own: nn.functional.dropout(own.linear(x), 0.5)
        net.zero_grad()
        own.calls = 5
        torch.manual_seed(1)
        loss_of(*net(x)).backward()
        found.append(gradients(net))
    assert_same(found[1], found[0])


def test_two_passes_before_one_backward_keep_their_own_masks() -> None:
    net = residual_chain(3, lambda: mlp(3, nn.Dropout(0.5))).double()
    found = []
    for chain in copies(net, "reversible"):
        torch.manual_seed(0)
        a, b = chain(torch.ones(4, 6, dtype=torch.float64)), chain(torch.ones(4, 6, dtype=torch.float64))
        torch.manual_seed(99)
        (loss_of(*a) + loss_of(*b)).backward()
        found.append(gradients(chain))
    assert_same(found[1], found[0])


@each_strategy
def test_batch_statistics_are_updated_once(strategy: str) -> None:
    net = residual_chain(3, lambda: convnet(2, nn.BatchNorm2d(6))).double()
    stored, other = copies(net, STRATEGIES[strategy])
    x = torch.randn(5, 4, 4, 4, dtype=torch.float64)
    assert_same(train(other, x), train(stored, x))
    for a, b in zip(other.buffers(), stored.buffers(), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=0)


@each_strategy
def test_spectral_norms_vectors_advance_once(strategy: str) -> None:
    net = residual_chain(3, lambda: nn.Sequential(spectral_norm(nn.Linear(3, 3)), nn.Tanh())).double()
    stored, other = copies(net, STRATEGIES[strategy])
    x = torch.randn(5, 6, dtype=torch.float64)
    assert_same(train(other, x, passes=3), train(stored, x, passes=3))
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(other.buffers(), stored.buffers(), strict=True))


@each_strategy
def test_autocast_is_entered_again(strategy: str) -> None:
    stored, other = copies(residual_chain(3, lambda: mlp(3)), STRATEGIES[strategy])
    x = torch.randn(8, 6)
    found = []
    for chain in (stored, other):
        with torch.autocast("cpu", torch.bfloat16):
            y, log_det = chain(x)
        loss_of(y, log_det).backward()
        found.append(gradients(chain))
    # One float32 digit of a reconstructed input may move a number to its neighbour in bfloat16.
    assert_same(found[1], found[0], 2e-2)


@each_strategy
def test_autocast_around_the_backward_alone_changes_nothing(strategy: str) -> None:
    stored, other = copies(residual_chain(3), STRATEGIES[strategy])
    x = torch.randn(8, 6)
    found = []
    for chain in (stored, other):
        loss = loss_of(*chain(x))
        with torch.autocast("cpu", torch.bfloat16):
            loss.backward()
        found.append(gradients(chain))
    assert_same(found[1], found[0], 1e-5)


@each_strategy
def test_mode_switched_before_the_backward(strategy: str) -> None:
    net = residual_chain(3, lambda: convnet(2, nn.BatchNorm2d(6))).double()
    x = torch.randn(5, 4, 4, 4, dtype=torch.float64)
    found = []
    for chain in copies(net, STRATEGIES[strategy]):
        loss = loss_of(*chain(x))
        chain.eval()
        loss.backward()
        assert not any(module.training for module in chain.modules())
        found.append(gradients(chain))
    assert_same(found[1], found[0])


@each_strategy
def test_initialisation_from_the_first_batch_happens_once(strategy: str) -> None:
    found = []
    for memory in ("store", STRATEGIES[strategy]):
        torch.manual_seed(0)
        net = inv.Chain(
            *[b for _ in range(3) for b in (inv.ActNorm(4), inv.InvertibleLinear(4))], memory=memory
        ).double()
        x = torch.randn(16, 4, dtype=torch.float64)
        found.append(train(net, x, passes=1))
        assert all(bool(block.initialized) for block in list(net)[::2])
    assert_same(found[1], found[0])


def test_a_user_module_that_counts_in_a_buffer_sees_its_count() -> None:
    class Scheduled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

        def forward(self, x):
            self.calls.add_(1)
            return self.linear(x) * (1 + 0.1 * self.calls)

    net = residual_chain(3, Scheduled).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    stored, other = copies(net, "reversible")
    assert_same(train(other, x, passes=4), train(stored, x, passes=4))
    assert [float(b) for b in other.buffers()] == [4.0] * 6
    assert other.memory_log.alarms == 0


def test_parameters_changed_before_the_backward_are_refused() -> None:
    for strategy in STRATEGIES.values():
        net = residual_chain(memory=strategy)
        loss = loss_of(*net(torch.randn(4, 6)))
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(1.0)
        with pytest.raises(RuntimeError, match="modified|was modified in place between the forward"):
            loss.backward()


def test_copies_and_pickles_after_use() -> None:
    import pickle

    net = residual_chain(3, memory="reversible").double()
    x = torch.randn(4, 6, dtype=torch.float64)
    expected = train(net, x)
    assert_same(train(copy.deepcopy(net), x), expected)
    again = pickle.loads(pickle.dumps(inv.Chain(inv.AffineCoupling(4), memory="reversible")))
    assert again.memory == inv.memory.Reversible()
    assert again.memory_log.passes == 0


@pytest.mark.parametrize("strategy", ["reversible", "checkpoint", "exact"])
def test_dropout_in_channels_last(strategy: str) -> None:
    """In another memory format dropout draws another mask: rebuilt tensors must come in the first one's."""

    def make():
        return nn.Sequential(nn.Dropout(0.5), convnet(8, nn.Dropout(0.5)))

    blocks = [
        b for _ in range(3) for b in (inv.Squeeze(), inv.ReversibleResidual(make(), make()), inv.Squeeze().inverted)
    ]
    net = inv.Chain(*blocks).double().to(memory_format=torch.channels_last)
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    chains = copies(net, strategy)
    if strategy == "exact":
        chains[0].memory = inv.memory.Exact(keep="store")
    found = []
    for chain in chains:
        loss_of(*chain(x)).backward()
        chain.zero_grad()
        torch.manual_seed(1)
        loss_of(*chain(x)).backward()
        found.append(gradients(chain))
    assert_same(found[1], found[0])
    assert chains[1].memory_log.alarms == 0


@each_strategy
def test_a_tensor_that_an_inner_module_keeps_is_that_of_the_first_run(strategy: str) -> None:
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.loss = nn.Linear(3, 3), None

        def forward(self, x):
            h = self.linear(x).tanh()
            self.loss = h.square().mean()
            return h

    found = []
    for chain in copies(residual_chain(3, Auxiliary).double(), STRATEGIES[strategy]):
        x = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        for _ in range(2):
            chain.zero_grad()
            loss = loss_of(*chain(x))
            (loss + sum(module.loss for module in chain.modules() if isinstance(module, Auxiliary))).backward()
            found.append(gradients(chain))
    assert_same(found[2], found[0])
    assert_same(found[3], found[1])
