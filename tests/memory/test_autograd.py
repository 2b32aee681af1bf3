"""Autograd's manners under every strategy."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

import invertible as inv
from tests.memory.networks import STRATEGIES, assert_same, copies, gradients, loss_of, mlp, residual_chain

each_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
X = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def both(strategy: str, use, depth: int = 4) -> None:
    """`use(chain)` gives the same list of tensors with stored activations and under the strategy."""
    stored, other = copies(residual_chain(depth).double(), STRATEGIES[strategy])
    expected = use(stored)
    for _ in range(2):
        assert_same(use(other), expected)


@each_strategy
def test_inputs_without_grad(strategy: str) -> None:
    def use(chain):
        chain.zero_grad()
        loss_of(*chain(X)).backward()
        return gradients(chain)

    both(strategy, use)


@each_strategy
def test_frozen_parameters(strategy: str) -> None:
    def use(chain):
        chain.zero_grad()
        for index, parameter in enumerate(chain.parameters()):
            parameter.requires_grad_(index % 3 != 0)
        loss_of(*chain(X)).backward()
        return gradients(chain)

    both(strategy, use)


@each_strategy
def test_frozen_first_blocks_take_no_part(strategy: str) -> None:
    def use(chain):
        chain.zero_grad()
        chain[:2].requires_grad_(False)
        loss_of(*chain(X)).backward()
        return gradients(chain)

    both(strategy, use)


@each_strategy
def test_one_half_of_the_output_used(strategy: str) -> None:
    def use(chain):
        chain.zero_grad()
        chain(X)[0][:, :3].square().sum().backward()
        return gradients(chain)

    both(strategy, use)


@each_strategy
def test_several_losses_on_one_output(strategy: str) -> None:
    def use(chain):
        chain.zero_grad()
        x = X.clone().requires_grad_()
        y, _ = chain(x)
        y.square().sum().backward(retain_graph=True)
        y.sin().sum().backward(retain_graph=True)
        y.exp().sum().backward()
        return [*gradients(chain), x.grad]

    both(strategy, use)


@each_strategy
def test_gradients_asked_for_one_by_one(strategy: str) -> None:
    def use(chain):
        x = X.clone().requires_grad_()
        loss = loss_of(*chain(x))
        (of_x,) = torch.autograd.grad(loss, x, retain_graph=True)
        parameters = list(chain.parameters())
        some = torch.autograd.grad(loss, parameters[:3], retain_graph=True)
        middle = torch.autograd.grad(loss, parameters[9:11], retain_graph=True)
        chain.zero_grad()
        loss.backward(inputs=parameters[4:6])
        return [of_x, *some, *middle, *gradients(chain)]

    both(strategy, use)


@each_strategy
def test_double_backward(strategy: str) -> None:
    def use(chain):
        chain.zero_grad()
        x = X.clone().requires_grad_()
        loss = loss_of(*chain(x))
        (g,) = torch.autograd.grad(loss, x, create_graph=True)
        (g.square().sum() + loss).backward()
        return [g.detach(), *gradients(chain), x.grad]

    both(strategy, use)


@each_strategy
def test_parameters_shared_between_blocks(strategy: str) -> None:
    f = mlp(3).double()
    net = inv.Chain(*[inv.ReversibleResidual(f, mlp(3).double()) for _ in range(3)])
    found = []
    for chain in copies(net, STRATEGIES[strategy]):
        loss_of(*chain(X)).backward()
        found.append(gradients(chain))
    assert_same(found[1], found[0])


@each_strategy
def test_tapped_inner_tensors_are_those_of_the_graph_from_the_first_pass_on(strategy: str) -> None:
    stored, other = copies(residual_chain(3).double(), STRATEGIES[strategy])
    found = []
    for chain in (stored, other):
        tap, handles = {}, []
        for block in chain:
            handles.append(
                block.f[0].register_forward_hook(lambda module, args, out, tap=tap: tap.update({module: out}))
            )
        for _ in range(2):
            chain.zero_grad()
            (loss_of(*chain(X)) + sum(out.square().sum() for out in tap.values())).backward()
            found.append(gradients(chain))
    assert_same(found[2], found[0])
    assert_same(found[3], found[1])


def test_a_tensor_kept_from_a_recomputation_is_refused() -> None:
    net = residual_chain(3, memory="reversible").double()
    tap = {}
    net[1].f[0].register_forward_hook(lambda module, args, out: tap.update(out=out))
    loss_of(*net(X)).backward()
    with pytest.raises(inv.memory.ReplayError, match="a gradient was asked for through a tensor of a recomputation"):
        tap["out"].tanh().sum().backward()


@each_strategy
def test_tapped_intermediates_and_the_callers_tensors_stay_whole(strategy: str) -> None:
    def use(chain):
        chain.zero_grad()
        taps: list[torch.Tensor] = []
        handle = chain[1].f.register_forward_hook(lambda module, args, out: taps.append(out))
        x = X.clone()
        window = x[1:3]
        before = window.clone()
        y, log_det = chain(x)
        seen = y.detach().clone()
        (loss_of(y, log_det) + taps[0].square().sum()).backward()
        handle.remove()
        assert torch.equal(window, before)
        assert torch.equal(y, seen)
        return gradients(chain)

    both(strategy, use)


@each_strategy
def test_the_output_changed_in_place(strategy: str) -> None:
    def use(chain):
        chain.zero_grad()
        x = X.clone().requires_grad_()
        y, log_det = chain(x)
        y.mul_(2.0)
        loss_of(y, log_det).backward()
        return [*gradients(chain), x.grad]

    both(strategy, use)


def test_an_output_that_nothing_else_holds_is_missed_when_changed_in_place() -> None:
    net = inv.Chain(inv.AffineCoupling(6), inv.InvertibleLinear(6), memory=inv.memory.Reversible(on_failure="raise"))
    y, _ = net(torch.randn(4, 6))
    y.mul_(2.0)
    with pytest.raises(inv.NotInvertibleError, match="nothing is kept to compute it from"):
        y.sum().backward()


def test_hooks_on_blocks_see_whole_tensors() -> None:
    net = residual_chain(3, memory="reversible").double()
    seen = []
    net[1].register_forward_hook(lambda module, args, out: seen.append(out[0].shape))
    loss_of(*net(X)).backward()
    expected = gradients(net)
    net.memory = "store"
    net.zero_grad()
    loss_of(*net(X)).backward()
    assert_same(expected, gradients(net))
    assert set(seen) == {X.shape}


def test_a_network_that_changes_its_input_in_place_is_refused() -> None:
    net = inv.Chain(
        inv.ReversibleResidual(mlp(3), nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 3))), memory="reversible"
    )
    with pytest.raises(inv.memory.ReplayError, match=r"ReversibleResidual.g: modifies its input in place"):
        net(torch.randn(4, 6))


def test_function_transforms_run_with_stored_activations() -> None:
    net = residual_chain(3, memory="reversible").double()
    stored = copy.deepcopy(net)
    stored.memory = "store"
    for chain, expected in ((net, stored),):
        f = lambda x, c=chain: c(x[None])[0].square().sum()  # noqa: E731
        g = lambda x, c=expected: c(x[None])[0].square().sum()  # noqa: E731
        assert torch.allclose(torch.func.vmap(torch.func.grad(f))(X), torch.func.vmap(torch.func.grad(g))(X))
        assert torch.allclose(torch.func.jvp(f, (X[0],), (X[1],))[1], torch.func.jvp(g, (X[0],), (X[1],))[1])


@each_strategy
def test_inside_a_checkpoint_and_under_saved_tensor_hooks(strategy: str) -> None:
    def use(chain):
        chain.zero_grad()
        x = X.clone().requires_grad_()
        y = torch.utils.checkpoint.checkpoint(lambda x: chain(x)[0], x, use_reentrant=False)
        with torch.autograd.graph.save_on_cpu():
            z, _ = chain(y)
        z.square().sum().backward()
        return [*gradients(chain), x.grad]

    both(strategy, use)


@pytest.mark.parametrize("memory", ["store", "checkpoint", "reversible", "exact"])
def test_tensors_modified_in_place_after_use_are_refused_as_autograd_does(memory: str) -> None:
    class Doubled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return torch.sigmoid(self.linear(x)).mul_(2.0)

    net = inv.Chain(*[inv.ReversibleResidual(Doubled(), mlp(3)) for _ in range(3)], memory=memory)
    with pytest.raises(
        RuntimeError, match="modified by an inplace operation|was modified in place after it had been used"
    ):
        loss_of(*net(torch.randn(4, 6))).backward()


def test_forward_mode_differentiation_runs_with_stored_activations() -> None:
    from torch.autograd import forward_ad

    net = residual_chain(3, memory="reversible").double()
    found = []
    for memory in ("reversible", "store"):
        net.memory = memory
        with forward_ad.dual_level():
            y, _ = net(forward_ad.make_dual(X, torch.ones_like(X)))
            found.append(forward_ad.unpack_dual(y).tangent)
    assert torch.equal(*found)


def test_where_hooks_are_disabled_activations_are_stored() -> None:
    net = residual_chain(3, memory="reversible").double()
    with torch.autograd.graph.disable_saved_tensors_hooks("not here"):
        y, _ = net(X)
    y.sum().backward()
    assert net.memory_log.passes == 0


def test_post_accumulate_hooks_fire_block_by_block_while_the_backward_runs() -> None:
    net = residual_chain(4, memory="reversible").double()
    order: list[int] = []
    for index, block in enumerate(net):
        for parameter in block.parameters():
            parameter.register_post_accumulate_grad_hook(lambda _, index=index: order.append(index))
    loss_of(*net(X)).backward()
    assert order == sorted(order, reverse=True)
    assert len(order) == len(list(net.parameters()))


def test_nothing_stays_alive_after_the_backward() -> None:
    net = residual_chain(4, memory="reversible").double()
    gc.collect()
    gc.disable()
    try:
        x = X.clone()
        alive = weakref.ref(x)
        y, log_det = net(x)
        loss = loss_of(y, log_det)
        loss.backward()
        del x, y, log_det, loss
        assert alive() is None
        y, _ = net(X.clone())
        tape = weakref.ref(_tape_of(y))
        del y
        assert tape() is None
    finally:
        gc.enable()


def _tape_of(y: torch.Tensor):
    tapes = [o for o in gc.get_objects() if type(o).__name__ == "ReversibleTape"]
    return tapes[-1]


def test_gradients_reach_the_condition_in_every_mode() -> None:
    net = inv.Chain(*[inv.AffineCoupling(6, condition_features=2) for _ in range(3)]).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    for strategy in STRATEGIES.values():
        found = []
        for chain in copies(net, strategy):
            source = torch.ones(5, 2, dtype=torch.float64, requires_grad=True)
            loss_of(*chain(X, source.sin())).backward()
            found.append([source.grad])
        assert_same(found[1], found[0])


def test_a_condition_changed_in_place_is_refused() -> None:
    net = inv.Chain(*[inv.AffineCoupling(6, condition_features=2) for _ in range(3)], memory="reversible").double()
    condition = torch.ones(5, 2, dtype=torch.float64)
    loss = loss_of(*net(X, condition))
    condition.add_(1)
    with pytest.raises(inv.memory.ReplayError, match="the condition was modified in place"):
        loss.backward()
