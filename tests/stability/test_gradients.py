"""Angles between stored and memory-saving gradients: right to 1e-9 degrees, and wrong inverses show."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import invertible as inv
from invertible.errors import ConfigError, ConvergenceError
from invertible.stability.angles import angle
from invertible.stability.gradients import gradient_angle
from tests.stability.maps import Remembers
from tests.tools import randomise


class Classifier(nn.Module):
    """Two chains in a module, and a head."""

    def __init__(self, coupling="affine", scale="sigmoid", depth=6):
        super().__init__()
        self.first, self.second = (inv.Chain(*self._blocks(coupling, scale, depth)) for _ in range(2))
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 3)

    def _blocks(self, coupling, scale, depth):
        for _ in range(depth):
            yield inv.ActNorm(8)
            yield inv.Permutation(8)
            if coupling == "additive":
                yield inv.AdditiveCoupling(8, hidden=(16,))
            else:
                yield inv.AffineCoupling(8, hidden=(16,), scale=scale)

    def forward(self, x):
        return self.head(self.norm(self.second(self.first(x)[0])[0]))


def loss(model, batch):
    return cross_entropy(model(batch[0]), batch[1])


def made(*arguments, deviation=0.1):
    torch.manual_seed(0)
    model = Classifier(*arguments)
    x, labels = torch.randn(32, 8), torch.randint(3, (32,))
    model(x)
    return randomise(model, deviation).eval(), (x, labels)


def exploded(bias, deviation=0.1):
    """An affine classifier whose scales are about sigmoid(bias + 2)."""
    model, batch = made(deviation=deviation)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, inv.AffineCoupling):
                # The last layer's first half are the scales' arguments.
                last = [each for each in module.net.modules() if isinstance(each, nn.Linear)][-1]
                last.bias[: len(last.bias) // 2] = bias
                last.bias[len(last.bias) // 2 :] = 1
    return model, batch


# The angle itself.


@pytest.mark.parametrize("degrees", [0.0, 1e-9, 1e-6, 1e-3, 1.0, 45.0, 90.0, 179.0, 180.0])
@pytest.mark.parametrize("size", [1.0, 1e200, 1e-200])
def test_angles_are_right(degrees, size):
    radians = math.radians(degrees)
    u = torch.tensor([size, 0.0], dtype=torch.float64)
    v = 2 * size * torch.tensor([math.cos(radians), math.sin(radians)], dtype=torch.float64)
    found = angle("", [u[:1], u[1:]], [v[:1], v[1:]])
    assert found.degrees == pytest.approx(degrees, rel=1e-6, abs=1e-14)
    assert found.relative_norm == pytest.approx(2.0)
    assert found.relative_error == pytest.approx(math.hypot(2 * math.cos(radians) - 1, 2 * math.sin(radians)))


def test_float32_of_extreme_sizes():
    u = torch.tensor([3e38, 3e38, 0.0])
    assert angle("", [u], [1e-30 * u]).degrees == pytest.approx(0, abs=1e-5)
    assert angle("", [u], [torch.tensor([3e38, 0.0, 0.0])]).degrees == pytest.approx(45)


def test_zero_vectors():
    zero, one = torch.zeros(3), torch.ones(3)
    assert (angle("", [zero], [zero]).degrees, angle("", [zero], [zero]).relative_norm) == (0, 1)
    lost = angle("", [one], [zero])
    assert (lost.degrees, lost.relative_norm, lost.relative_error) == (pytest.approx(90), 0, pytest.approx(1))
    assert angle("", [zero], [one]).relative_norm == math.inf


def test_what_is_not_finite_is_counted_and_makes_no_angle():
    v = torch.tensor([1.0, math.nan, math.inf])
    found = angle("", [torch.ones(3)], [v])
    assert math.isnan(found.degrees)
    assert (found.non_finite, found.non_finite_expected, found.size) == (2, 0, 3)
    assert angle("", [v], [torch.ones(3)]).non_finite_expected == 2


# Models.


@pytest.mark.parametrize("arguments", [("additive",), ("affine", "half-sigmoid")], ids=lambda each: "-".join(each))
def test_stable_models_have_the_true_gradient(arguments):
    model, batch = made(*arguments)
    found = gradient_angle(model, loss, batch)
    assert found.total.degrees < 0.01
    assert all(group.degrees < 0.01 for group in found.groups)
    assert found.losses[0] == pytest.approx(found.losses[1], rel=1e-6)


def test_exploding_inverses_turn_the_gradient():
    model, batch = exploded(-7.0)
    found = gradient_angle(model, loss, batch)
    assert found.total.degrees > 0.1 or math.isnan(found.total.degrees)
    assert "AffineCoupling" in found.worst_group.name
    # Float32 itself is not at fault.
    reference = gradient_angle(model, loss, batch, reference=True).reference
    assert reference is not None
    assert reference.degrees < 0.01


def test_a_lost_inverse_is_nan_with_counts():
    model, batch = exploded(-60.0)
    found = gradient_angle(model, loss, batch)
    assert math.isnan(found.total.degrees)
    assert found.total.non_finite > 0
    assert found.total.non_finite_expected == 0
    assert math.isnan(found.worst_group.degrees)
    assert "nan" in str(found)


def test_own_memory_comes_with_its_guard_which_repairs():
    model, batch = exploded(-3.0, deviation=0.5)
    assert math.isnan(gradient_angle(model, loss, batch).total.degrees)
    inv.set_memory(model, inv.memory.Reversible(tolerance=1e-4))
    with pytest.warns(inv.memory.ReconstructionWarning):
        guarded = gradient_angle(model, loss, batch, memory="own")
    assert guarded.total.degrees < 0.1
    assert "tolerance=0.0001" in guarded.memory
    # What the model has is not what is compared with unless asked for.
    assert math.isnan(gradient_angle(model, loss, batch).total.degrees)


def test_angles_are_those_of_backward_passes():
    """The reported figures equal those of two plain backward passes, flattened."""
    model, batch = exploded(-7.0)
    found = gradient_angle(model, loss, batch)
    vectors = []
    for memory in ("store", inv.memory.Reversible(guard=False)):
        other = inv.set_memory(copy.deepcopy(model), memory)
        loss(other, batch).backward()
        vectors.append(torch.cat([p.grad.flatten() for p in other.parameters()]).double())
    u, v = vectors
    assert found.total.relative_error == pytest.approx(float((u - v).norm() / u.norm()), rel=1e-3)
    assert found.total.relative_norm == pytest.approx(float(v.norm() / u.norm()), rel=1e-9)
    assert found.total.degrees == pytest.approx(
        math.degrees(2 * math.atan2((u / u.norm() - v / v.norm()).norm(), (u / u.norm() + v / v.norm()).norm())),
        rel=1e-3,
    )
    assert found.total.size == len(u)


def test_groups_cover_all_parameters():
    model, batch = made()
    found = gradient_angle(model, loss, batch)
    names = [group.name for group in found.groups]
    assert "first.blocks.2 AffineCoupling" in names
    assert {"norm", "head"} <= set(names)
    assert sum(group.size for group in found.groups) == found.total.size
    optimizer = torch.optim.SGD([{"params": model.first.parameters()}, {"params": model.head.parameters()}], 0.1)
    found = gradient_angle(model, loss, batch, groups=optimizer)
    assert [group.name for group in found.groups] == ["group 0", "group 1"]
    found = gradient_angle(model, loss, batch, groups={"head": model.head.parameters()})
    assert [(group.name, group.size) for group in found.groups] == [("head", 27)]


def test_flows_and_nested_chains():
    torch.manual_seed(0)
    flow = inv.models.glow((1, 8, 8), levels=2, depth=2, hidden=8, grey_levels=17)
    x = torch.randint(17, (6, 1, 8, 8))
    found = gradient_angle(flow, lambda flow, x: flow.bits_per_dim(x).mean(), x)
    # The dequantisation noise is the same in both passes.
    assert found.losses[0] == pytest.approx(found.losses[1], rel=1e-6)
    assert found.total.degrees < 0.01
    assert math.isnan(found.losses[2])


def test_parameters_that_take_no_part_have_gradient_zero():
    model, batch = made("additive")
    model.unused = nn.Linear(2, 2)
    model.head.requires_grad_(False)
    found = gradient_angle(model, loss, batch)
    assert found.total.degrees < 0.01
    groups = {group.name: group for group in found.groups}
    assert groups["unused"].degrees == 0
    assert "head" not in groups


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_undisturbed(training):
    model, batch = made()
    model.first = inv.Chain(Remembers(), inv.ActNorm(8), *model.first)
    model.train(training)
    inv.set_memory(model, "checkpoint")
    loss(model, batch).backward()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    memory, log, passes = model.first.memory, model.first.memory_log, model.first.memory_log.passes
    gradient_angle(model, loss, batch, reference=True)
    gradient_angle(model, loss, batch, memory="own")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        assert p.grad is None if gradient is None else torch.equal(p.grad, gradient)
    assert all(module.training == training for module in model.modules())
    assert model.first.memory is memory
    assert model.first.memory_log is log
    assert log.passes == passes


def test_dropout_is_the_same_in_both_passes():
    torch.manual_seed(0)
    model, batch = made("additive")
    model.head = nn.Sequential(nn.Dropout(0.5), model.head)
    model.train()
    assert gradient_angle(model, loss, batch).total.degrees < 0.01
    a, b = (gradient_angle(model, loss, batch, generator=seed).losses[0] for seed in (1, 2))
    assert a != b


def test_an_inverse_that_raises_is_nan_with_the_reason():
    class Refuses(inv.Bijection):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.ones(()))

        def forward(self, x, condition=None):
            return x * self.factor, self.factor.log() * x[0].numel() * x.new_ones(len(x))

        def inverse(self, y, condition=None):
            raise ConvergenceError("Refuses: did not converge.")

    model = inv.Chain(inv.ActNorm(3), Refuses())
    x = torch.randn(4, 3)
    model(x)
    found = gradient_angle(model.eval(), lambda model, x: model(x)[0].square().mean(), x)
    assert math.isnan(found.total.degrees)
    assert "did not converge" in found.message
    assert "did not converge" in str(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": nn.Linear(8, 3)}, "chains inside, got Linear"),
        ({"memory": "own"}, "expects a model that saves memory"),
        ({"memory": "none"}, "expected one of"),
        ({"loss": lambda model, batch: model(batch[0])}, r"scalar tensor with a graph, got shape \(32, 3\)"),
        ({"loss": lambda model, batch: 1.0}, "got float"),
        ({"groups": {"other": [nn.Parameter(torch.zeros(1))]}}, "got none of them"),
    ],
)
def test_errors(change, message):
    model, batch = made()
    arguments = {"model": model, "loss": loss, "batch": batch}
    with pytest.raises(ConfigError, match=message):
        gradient_angle(**(arguments | change))


def test_nothing_to_train():
    model, batch = made()
    with pytest.raises(ConfigError, match="got none"):
        gradient_angle(model.requires_grad_(False), loss, batch)
