"""Every library's objects, adapted: what they compute is what the library computes, and it obeys the laws."""

import copy
import pickle

import pytest
import torch
from torch import nn

from invertible.bijection import Bijection
from invertible.flow import Flow
from invertible.stability import AuditOptions, audit, block_round_trips, round_trip
from invertible.stability.adapters import adapt
from invertible.testing import check_bijection
from tests.stability.theirs import CASES, make, modules_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:torch.triangular_solve is deprecated:UserWarning",
    "ignore:Converting a tensor:UserWarning",
    "ignore:torch.lu is deprecated:UserWarning",
)
every = pytest.mark.parametrize("name", CASES)


def adapted(name, dtype=torch.float64, samples=6):
    obj, x, condition = make(name, dtype, samples)
    ours = adapt(obj, **CASES[name].options)
    bijection = ours.bijection if isinstance(ours, Flow) else ours
    assert isinstance(bijection, Bijection)
    # Whatever initialises itself does so from data.
    bijection(x, given(bijection, condition))
    return obj, ours, bijection, x, condition


def given(bijection, condition):
    return condition if bijection.condition_features else None


@every
def test_values_are_theirs(name):
    obj, ours, bijection, x, condition = adapted(name)
    case = CASES[name]
    y, log_det = bijection(x, given(bijection, condition))
    assert log_det.shape == (len(x),)
    if case.forward is not None:
        torch.testing.assert_close(y, case.forward(obj, x, condition).reshape(y.shape), rtol=1e-12, atol=1e-12)
    if case.inverse is not None:
        back = case.inverse(obj, y, condition)
        torch.testing.assert_close(bijection.inverse(y, given(bijection, condition))[0], back, rtol=1e-9, atol=1e-9)
    assert (case.log_prob is not None) == isinstance(ours, Flow)
    if case.log_prob is not None:
        theirs = case.log_prob(obj, x, condition)
        torch.testing.assert_close(ours.log_prob(x, condition), theirs, rtol=1e-11, atol=1e-11)


@every
def test_laws(name):
    _, _, bijection, x, condition = adapted(name)
    check_bijection(bijection, x, given(bijection, condition), tolerance=CASES[name].tolerance)


@every
def test_the_object_stays_as_it_is(name):
    obj, x, condition = make(name, torch.float32, 40)
    modules = modules_of(obj)
    for module in modules:
        module.train()
        next(iter(module.children()), module).eval()
    before = [copy.deepcopy(module.state_dict()) for module in modules]
    seen = [(m, m.training, sorted(vars(m))) for module in modules for m in module.modules()]
    flags = [{k: v for k, v in vars(m).items() if isinstance(v, bool)} for m, _, _ in seen]
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    audit(obj, x, condition=condition, options=AuditOptions(samples=20, traced=4, temperatures=(2.0,), sections=()))
    assert torch.equal(torch.rand(3), expected)
    for module, state in zip(modules, before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    for (module, training, names), kept in zip(seen, flags, strict=True):
        assert module.training is training
        assert sorted(vars(module)) == names
        assert {k: v for k, v in vars(module).items() if isinstance(v, bool)} == kept
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@every
def test_parameters_are_theirs(name):
    obj, ours, *_ = adapted(name)
    theirs = {id(p) for module in modules_of(obj) for p in module.parameters()}
    assert {id(p) for p in ours.parameters()} == theirs


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.names])
def test_blocks_bear_their_names(name):
    _, _, bijection, x, condition = adapted(name)
    found = block_round_trips(bijection, x, given(bijection, condition))
    names = [block.path.rpartition("(")[2].rstrip(")") for block in found.blocks]
    # Permutations that zuko puts between its couplings, and merges that are no maps of their own.
    wanted = [each for each in CASES[name].names if each != "Merge"]
    assert [each for each in names if each != "PermutationTransform" or each in wanted] == wanted
    assert found.first_loss is None


@every
def test_stability_measures_it(name):
    obj, _, bijection, x, condition = adapted(name, torch.float32, 40)
    trip = round_trip(bijection, x, given(bijection, condition))
    assert trip.worst < 1e-4
    options = AuditOptions(samples=40, traced=8, ood=False, temperatures=(1.0,), sections=())
    record = audit(obj, x, condition=condition, options=options)
    assert record.sets[0].status == "passed"
    assert record.control_note == ""
    assert record.sets[0].control.worst < 1e-8


@every
def test_copies(name):
    _, _, bijection, x, condition = adapted(name)
    y, log_det = bijection(x, given(bijection, condition))
    other = copy.deepcopy(bijection)
    assert type(other) is type(bijection)
    assert not {id(p) for p in other.parameters()} & {id(p) for p in bijection.parameters()}
    again, log_det_again = other(x, given(bijection, condition))
    assert torch.equal(again, y)
    assert torch.equal(log_det_again, log_det)


@pytest.mark.parametrize("name", ["nflows-layer", "normflows-layer", "zuko-nsf"])
def test_adapted_layers_can_be_pickled(name):
    _, _, bijection, x, condition = adapted(name)
    other = pickle.loads(pickle.dumps(bijection))
    assert type(other) is type(bijection)
    assert torch.equal(other(x, condition)[0], bijection(x, condition)[0])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.log_prob is not None])
def test_samples_follow_the_temperature_and_the_seed(name):
    _, ours, _, _, condition = adapted(name, samples=400)
    base = ours.base
    row = condition[:1].expand(400, -1) if condition is not None and base.condition_features else None
    first, again = (base.sample(400, row, 1.0, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.shape == (400, *base.shape)
    assert torch.equal(first, again)
    half = base.sample(400, row, 0.5, torch.Generator().manual_seed(3))
    torch.testing.assert_close(half.std(0), first.std(0) / 2, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(half.mean(0) * 2 - first.mean(0), 2 * half.mean(0) - first.mean(0))
    assert ours.sample(5, None if condition is None else condition[:5], temperature=0.7).shape[0] == 5
    state = torch.random.get_rng_state()
    base.sample(3, None if row is None else row[:3], 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", ["nflows", "freia-sequence", "zuko-nsf"])
def test_their_layers_train_in_constant_memory(name):
    from invertible.chain import set_memory

    _, ours, bijection, x, condition = adapted(name)
    gradients = []
    for memory in ("store", "reversible"):
        set_memory(ours, memory)
        ours.zero_grad()
        y, log_det = bijection(x, condition)
        (y.square().sum() - log_det.sum()).backward()
        gradients.append([p.grad.clone() for p in ours.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 0
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_ours_come_back_as_they_are():
    from invertible.chain import Chain
    from invertible.distributions import StandardNormal

    chain = Chain()
    flow = Flow(chain, StandardNormal((2,)))
    assert adapt(chain) is chain
    assert adapt(flow) is flow


def test_nothing_is_imported():
    import subprocess
    import sys

    code = (
        "import sys, invertible.stability.adapters as a, torch; a.adapt(torch.distributions.ExpTransform());"
        "print([m for m in ('nflows', 'normflows', 'zuko', 'FrEIA', 'pyro') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


class Mixing(nn.Module):
    """A map that mixes nothing up but is called by no name that is known."""

    def there(self, x):
        return x


@pytest.mark.parametrize("obj", [None, nn.Linear(2, 2), 3, "nflows", torch.distributions.Normal(0.0, 1.0), Mixing()])
def test_what_cannot_be_adapted(obj):
    from invertible.errors import ConfigError

    with pytest.raises(
        ConfigError, match=r"adapt: expected flows, transforms .* got .*adapt\(forward=..., inverse=...\)"
    ):
        adapt(obj)


WHOLE = ["nflows-embedded", "normflows-multiscale", "zuko-realnvp", "freia-sequence", "torch-flow"]


@pytest.mark.parametrize("name", WHOLE)
def test_every_section_of_an_audit_runs(name):
    from invertible.auditing import audit

    obj, x, condition = make(name, torch.float32, 24)
    report = audit(obj, x, condition=condition, train=x if condition is None else (x, condition), samples=8, traced=2)
    broken = {one.name: one.message for one in report.record.sections if one.status not in ("done", "unsuited")}
    assert not broken
    name = report.record.model["name"]
    assert name.partition(".")[0] in ("nflows", "normflows", "zuko", "torch", "SequenceINN")
    assert str(report).splitlines()[0].split()[1].rstrip(":") == name
