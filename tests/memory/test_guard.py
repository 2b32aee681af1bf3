"""A backward pass that rebuilds wrongly is noticed in the same pass, and mended."""

import copy
import warnings

import pytest
import torch
from torch import nn

import invertible as inv
from invertible import memory
from invertible.memory import ReplayError, guard
from invertible.memory.guard import checksum, discrepancy, witness
from tests.memory.networks import assert_same, copies, gradients, loss_of, mlp, residual_chain, train

quiet = pytest.mark.filterwarnings("ignore::invertible.memory.ReconstructionWarning")


class OwnRandomness(nn.Module):
    """A mask drawn from a generator that nobody restores."""

    def __init__(self, broken: bool = True):
        super().__init__()
        self.linear, self.broken = nn.Linear(3, 3), broken
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        mask = torch.rand(x.shape, generator=self.generator, dtype=x.dtype) > 0.5 if self.broken else 1.0
        return self.linear(x).tanh() * mask


class HiddenCounter(nn.Module):
    """A scale that grows with every call, in no buffer."""

    def __init__(self):
        super().__init__()
        self.linear, self.calls = nn.Linear(3, 3), 0

    def forward(self, x):
        self.calls += 1
        return self.linear(x).tanh() * self.calls


class HiddenPowerIteration(nn.Module):
    """Spectral norm whose vector is a plain attribute."""

    def __init__(self):
        super().__init__()
        self.linear, self.u = nn.Linear(3, 3), torch.ones(3, dtype=torch.float64)

    def forward(self, x):
        with torch.no_grad():
            self.u = nn.functional.normalize(self.linear.weight @ (self.linear.weight.T @ self.u), dim=0)
        sigma = torch.dot(self.u, self.linear.weight @ (self.linear.weight.T @ self.u)).sqrt()
        return nn.functional.linear(x, self.linear.weight / sigma).tanh()


def restart(*nets: nn.Module) -> None:
    """Bring what the modules hide into one state."""
    for net in nets:
        for module in net.modules():
            if isinstance(module, OwnRandomness):
                module.generator = torch.Generator().manual_seed(1)
            if isinstance(module, HiddenCounter):
                module.calls = 3
            if isinstance(module, HiddenPowerIteration):
                module.u = torch.tensor([1.0, -1.0, 2.0], dtype=torch.float64)


class LikeTF32(nn.Module):
    """A layer whose input is rounded to 10 bits, and whose last bit is another one in every run."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, width)
        nn.init.orthogonal_(self.linear.weight, 1.5)
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        bits = x.detach().contiguous().view(torch.int32)
        rounded = ((bits + 0x1000) & ~0x1FFF).view(torch.float32)
        noise = 1 + 6e-8 * torch.randn(x.shape, generator=self.generator)
        return (self.linear(x + (rounded - x).detach()) * noise).tanh()


@pytest.mark.parametrize("module", [OwnRandomness, HiddenCounter, HiddenPowerIteration])
def test_what_cannot_be_run_again_is_stored_from_the_first_pass(module) -> None:
    net = inv.Chain(*[inv.ReversibleResidual(mlp(3), module()) for _ in range(3)]).double()
    stored, other = copies(net, "reversible")
    x = torch.randn(6, 6, dtype=torch.float64)
    with pytest.warns(
        memory.ReconstructionWarning, match=r"ReversibleResidual.g \(step 2, pass 1\): its forward gives"
    ):
        y, log_det = other(x)
    loss_of(y, log_det).backward()
    assert [q.mode for q in memory.report(other).quarantined] == ["stored"] * 3
    restart(stored, other)
    expected = train(stored, x, passes=1)
    assert_same(train(other, x, passes=1), expected, 1e-9)


def test_the_pass_that_finds_it_has_right_gradients() -> None:
    net = inv.Chain(inv.ReversibleResidual(mlp(3), OwnRandomness()), inv.ReversibleResidual(mlp(3), mlp(3))).double()
    x = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)
    net.memory = "reversible"
    restart(net)
    with pytest.warns(memory.ReconstructionWarning):
        y, log_det = net(x)
    loss_of(y, log_det).backward()
    found = [*gradients(net), x.grad]
    stored = copy.deepcopy(net)
    stored.memory = "store"
    stored.zero_grad()
    restart(stored)
    again = x.detach().clone().requires_grad_()
    loss_of(*stored(again)).backward()
    assert_same(found, [*gradients(stored), again.grad], 1e-9)


def test_a_network_that_breaks_later_is_caught_in_the_same_pass() -> None:
    net = inv.Chain(*[inv.ReversibleResidual(mlp(3), OwnRandomness(broken=False)) for _ in range(3)]).double()
    net.memory = "reversible"
    x = torch.randn(6, 6, dtype=torch.float64)
    train(net, x)
    net[1].g.broken = True
    loss = loss_of(*net(x))
    with pytest.raises(
        memory.ReplayError, match=r"ReversibleResidual.g \(step 4, pass 3\): its forward gives other values"
    ):
        loss.backward()
    (found,) = memory.report(net).quarantined
    assert found.mode == "stored"
    net.zero_grad()
    loss_of(*net(x)).backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def contracting(scale: float, depth: int) -> inv.Chain:
    """Affine couplings whose scale nearly vanishes: their inverse blows rounding errors up."""
    blocks = []
    for index in range(depth):
        block = inv.AffineCoupling(4, lambda a, b: mlp_to(a, b), scale="exp", flip=index % 2 == 1)
        with torch.no_grad():
            block.net[-1].bias[:2] -= scale
        blocks.append(block)
    return inv.Chain(*blocks).double()


def mlp_to(a: int, b: int) -> nn.Module:
    return nn.Sequential(nn.Linear(a, 8), nn.Tanh(), nn.Linear(8, b))


def test_exploding_inverses_of_affine_couplings_are_mended() -> None:
    net = contracting(6.0, 12)
    x = torch.randn(8, 4, dtype=torch.float64)
    stored, other = copies(net, "reversible")
    _, blind = copies(net, memory.Reversible(guard=False))
    expected = train(stored, x, passes=1)
    with pytest.warns(memory.ReconstructionWarning, match="relative error") as seen:
        found = train(other, x, passes=1)
    assert_same(found, expected, 1e-6)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(train(other, x, passes=1), expected, 1e-6)
    assert other.memory_log.repairs + len(other.memory_log.quarantined) > 0
    wrong = max(float((a - b).abs().max()) for a, b in zip(train(blind, x, passes=1), expected, strict=True))
    assert wrong > 1e-3 * max(float(b.abs().max()) for b in expected)


def test_an_inverse_that_overflows_is_mended() -> None:
    net = contracting(60.0, 6).float()
    x = torch.randn(8, 4)
    stored, other = copies(net, "reversible")
    expected = train(stored, x, passes=1)
    with pytest.warns(memory.ReconstructionWarning):
        assert_same(train(other, x, passes=1), expected, 1e-6)


class Tanh(nn.Module):
    def __init__(self, width: int = 8, gain: float = 1.0):
        super().__init__()
        self.linear = nn.Linear(width, width)
        nn.init.normal_(self.linear.weight, std=gain / width**0.5)

    def forward(self, x):
        return torch.tanh(self.linear(x))


@quiet
@pytest.mark.parametrize("depth", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_deep_chains_of_gain_one_are_mended(depth: int) -> None:
    net = residual_chain(depth, Tanh).double()
    x = torch.randn(16, 16, dtype=torch.float64)
    stored, other = copies(net, "reversible")
    expected = train(stored, x, passes=1)
    assert_same(train(other, x, passes=1), expected, 1e-6)
    assert depth < 1000 or other.memory_log.repairs > 0
    repairs = other.memory_log.repairs
    assert_same(train(other, x, passes=1), expected, 1e-6)
    assert other.memory_log.repairs == repairs


@quiet
def test_float32_within_the_tolerance_that_is_asked_for() -> None:
    net = contracting(1.0, 16).float()
    x = torch.randn(16, 4)
    stored, _ = copies(net, "store")
    expected = train(stored, x, passes=1)
    for tolerance, limit in ((1e-4, 1e-3), (1e-6, 1e-5)):
        _, other = copies(net, memory.Reversible(tolerance=tolerance))
        assert_same(train(other, x, passes=1), expected, limit)


def test_a_changed_memory_format_changes_no_more_than_rounding() -> None:
    class ChannelsLast(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last, self.calls = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 2, 3, padding=1), 0

        def forward(self, x):
            self.calls += 1
            return self.last(torch.tanh(self.first(x.contiguous(memory_format=torch.channels_last))))

    net = residual_chain(4, ChannelsLast)
    stored, other = copies(net, "reversible")
    x = torch.randn(4, 4, 8, 8)
    expected = train(stored, x)
    assert_same(train(other, x.contiguous(memory_format=torch.channels_last)), expected, 1e-5)
    assert other.memory_log.alarms == 0


def test_raising_names_block_error_and_step() -> None:
    net = contracting(4.0, 12)
    net.memory = memory.Reversible(on_failure="raise")
    with pytest.raises(
        inv.NotInvertibleError, match=r"AffineCoupling \(step \d+, pass 1\): .*relative error"
    ) as caught:
        train(net, torch.randn(8, 4, dtype=torch.float64), passes=1)
    assert caught.value.block == "AffineCoupling"
    assert caught.value.error > 0


def test_report_tells_bytes_blocks_and_errors() -> None:
    flow = inv.set_memory(inv.models.realnvp(4, layers=6), "reversible")
    assert str(memory.report(flow)) == "No chain has run with grad under a strategy other than 'store'."
    for _ in range(2):
        flow.log_prob(torch.randn(32, 4)).mean().backward()
    found = memory.report(flow)
    assert "bijection: Reversible(" in str(found)
    assert found.bytes_kept >= 2 * 32 * 4 * 4
    assert found.alarms == 0
    assert found.worst_error < 1e-5
    assert not found.quarantined


def test_no_false_alarm_in_clean_training() -> None:
    clean_steps(50)


@pytest.mark.slow
def test_no_false_alarm_in_ten_thousand_clean_steps() -> None:
    clean_steps(10_000)


def clean_steps(count: int) -> None:
    net = residual_chain(3, lambda: mlp(3, nn.Dropout(0.1)), memory="reversible")
    flow = inv.set_memory(inv.models.realnvp(6, layers=4, hidden=(16,)), "reversible")
    optimizer = torch.optim.Adam([*net.parameters(), *flow.parameters()], 1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for index in range(count):
            x = torch.randn(1 + index % 7, 6) + 0.1 * index % 3
            optimizer.zero_grad()
            (net(x)[0].square().mean() - flow.log_prob(torch.cat((x, x + 0.1))).mean()).backward()
            optimizer.step()
    assert memory.report(net).alarms == memory.report(flow).alarms == 0


@pytest.mark.parametrize("strategy", ["reversible", "checkpoint", "recursive", "exact"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_not_finite_are_no_alarm(strategy: str, value: float) -> None:
    net = residual_chain(4).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    x[2, 1] = value
    chains = copies(net, strategy)
    if strategy == "exact":
        chains[0].memory = memory.Exact(keep="store")
    found = []
    for chain in chains:
        own = x.clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            y, _ = chain(own)
            y.square().sum().backward()
        found.append([own.grad.nan_to_num(7.0), *(p.grad.nan_to_num(7.0) for p in chain.parameters())])
    assert_same(found[1], found[0])
    assert not memory.report(chains[1]).quarantined


def test_witness_does_not_depend_on_the_memory_format() -> None:
    x = torch.randn(3, 4, 5, 6)
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(witness(x), witness(last), atol=1e-5)
    assert torch.allclose(witness(x.transpose(1, 2).contiguous().transpose(1, 2)), witness(x), atol=1e-5)
    large = torch.randn(2, 64, 160, 160)
    assert torch.allclose(
        witness(large), witness(large.contiguous(memory_format=torch.channels_last)), rtol=1e-3, atol=1e-1
    )


def test_witness_estimates_the_error() -> None:
    x = torch.randn(64, 300)
    for size in (1e-3, 1e-2):
        changed = x + size * torch.randn_like(x)
        found = discrepancy(changed, witness(x), witness, 1e-6)
        assert 0.5 * size < found < 2 * size
    assert discrepancy(x.clone(), witness(x), witness, 1e-6) == 0.0
    assert discrepancy(x.clone().fill_(float("nan")), witness(x), witness, 1e-6) == float("inf")
    assert discrepancy(x.clone().index_fill_(0, torch.tensor(3), 0.0), witness(x), witness, 1e-4) > 0.05


def test_checksum_sees_every_single_changed_element_of_the_grid() -> None:
    x = torch.round(torch.randn(2, 50, dtype=torch.float64) * 2**20) / 2**20
    before = checksum(x)
    for index in range(50):
        changed = x.clone()
        changed[1, index] += 2.0**-20
        assert checksum(changed)[1] != before[1]
        assert checksum(changed)[0] == before[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: memory.Reversible(tolerance=0.0), "Reversible: expected a positive tolerance, got 0.0"),
        (
            lambda: memory.Reversible(on_failure="mend"),
            "Reversible: expected on_failure to be one of 'repair', 'raise', got 'mend'",
        ),
        (lambda: memory.Reversible(every=0), "Reversible: expected every to be an integer of at least 1, got 0"),
        (lambda: memory.Checkpoint(segments=0), "Checkpoint: expected segments to be an integer of at least 1, got 0"),
        (lambda: memory.Recursive(slots=0), "Recursive: expected slots to be an integer of at least 1, got 0"),
        (
            lambda: memory.Budget("12 apples"),
            "Budget: expected memory to be a positive number of bytes.*got '12 apples'",
        ),
        (lambda: memory.Budget(0), "Budget: expected memory to be a positive number of bytes.*got 0"),
        (lambda: memory.Exact(bits=0), r"Exact: expected bits to be an integer in 1 .. 40, got 0"),
        (lambda: memory.Exact(keep="input"), "Exact: expected keep to be one of 'output', 'store', got 'input'"),
        (
            lambda: inv.ReversibleResidual(torch.tanh, nn.Tanh()),
            "ReversibleResidual: expected f to be a torch.nn.Module, got",
        ),
        (
            lambda: inv.ReversibleResidual(nn.Linear(2, 3), nn.Identity())(torch.zeros(1, 4)),
            r"ReversibleResidual: expected f to keep the shape of half of x, \(1, 2\), got \(1, 3\)",
        ),
        (
            lambda: inv.ReversibleResidual(nn.Identity(), nn.Identity())(torch.zeros(1, 5)),
            r"Halves: expected x with an even size of axis 1, got \(1, 5\)",
        ),
    ],
)
def test_errors(make, message, unchecked_types) -> None:
    with unchecked_types(), pytest.raises(inv.InvertibleError, match=message):
        make()


def test_what_tf32_makes_of_a_last_bit_is_no_other_value(monkeypatch) -> None:
    """Seen on a GPU: rounding takes 1e-7, by which two runs differ, to more than float32 is allowed to lose."""
    torch.manual_seed(1)
    net = inv.Chain(*[inv.ReversibleResidual(LikeTF32(32), LikeTF32(32)) for _ in range(64)])
    x = torch.randn(8, 64)
    stored, tf32 = copies(net, memory.Reversible(tolerance=2e-4))
    float32 = copy.deepcopy(tf32)
    with pytest.raises(ReplayError, match="gives other values"):
        train(float32, x, passes=1)
    monkeypatch.setattr(guard, "_in_tf32", lambda x, convolutions: x.dtype == torch.float32)
    with pytest.warns(memory.ReconstructionWarning):
        found = train(tf32, x, passes=1)
    assert memory.report(tf32).alarms > 0
    first, second = (train(stored, x, passes=1) for _ in range(2))
    assert distance(found, first) <= 3 * distance(second, first)


def distance(found, expected) -> float:
    """Of lists of gradients, relative."""
    found, expected = (torch.cat([each.flatten() for each in tensors]) for tensors in (found, expected))
    return float((found - expected).norm() / expected.norm())


def test_tolerances_in_tf32(monkeypatch) -> None:
    """Of images where convolutions are rounded, torch's default; of vectors they are float32's."""
    monkeypatch.setattr(guard, "_in_tf32", lambda x, convolutions: convolutions and x.dtype == torch.float32)
    vectors, signals, images = torch.zeros(1, 1), torch.zeros(1, 1, 1), torch.zeros(1, 1, 1, 1)
    default, own = guard.Guard(), guard.Guard(tolerance=1e-5)
    assert [default.allowed(x) for x in (vectors, signals, images)] == [2e-4, 2e-4, 2e-3]
    assert [default.allowed_again(x) for x in (vectors, signals, images)] == [2e-4, 2e-2, 2e-2]
    assert (default.allowed(images.double()), default.allowed_again(images.double())) == (1e-9, 1e-9)
    assert (own.allowed(images), own.allowed_again(images)) == (1e-5, 2e-2)
