"""A penalty beside any Lightning module's loss, and beside the likelihood of a recipe."""

import copy
import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from invertible.blocks import AffineCoupling, InvertibleLinear
from invertible.chain import Chain
from invertible.errors import ConfigError
from invertible.models import realnvp
from invertible.stability.finite_differences import FiniteDifferencePenalty
from invertible.stability.flow_penalty import FlowPenalty
from invertible.training import FlowModule, Optimizer, PenaltyCallback
from invertible.training.penalties import first_tensor
from invertible.training.randomness import generator_for
from tests.memory.test_distributed import finish, run
from tests.training.test_resume import Signal
from tests.training.tiny import DIGITS, MOONS, curves, train

X, LABELS = torch.randn(40, 4), torch.randint(3, (40,))


def trunk(memory="store"):
    torch.manual_seed(1)
    blocks = [AffineCoupling(4, hidden=(8,)), InvertibleLinear(4), AffineCoupling(4, hidden=(8,), flip=True)]
    net = Chain(*blocks, memory=memory)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


class Classifier(pl.LightningModule):
    """A user's module; with `penalty` its own step adds what the callback would."""

    def __init__(self, penalty=None, memory="store"):
        super().__init__()
        self.net, self.head, self.penalty = trunk(memory), nn.Linear(4, 3), penalty
        nn.init.zeros_(self.head.bias)
        nn.init.normal_(self.head.weight, generator=torch.Generator().manual_seed(0))
        self.steps = []

    def training_step(self, batch, batch_idx):
        x, labels = batch
        loss = nn.functional.cross_entropy(self.head(self.net(x)[0]), labels)
        if self.penalty is None:
            return loss
        noise = generator_for(x.device, "penalty", 0, self.global_step, batch_idx, self.global_rank)
        return loss + self.penalty.of(self.net, x, step=self.global_step, generator=noise)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Gradients(Callback):
    """Remembers what the optimizer is given."""

    def __init__(self):
        self.found = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.found.append(torch.cat([each.grad.flatten().clone() for each in module.parameters()]))


def fit(module, *callbacks, batches=None, validation=None, **options):
    seen = Gradients()
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[*callbacks, seen], **{"max_epochs": 1, **options},
    )  # fmt: skip
    trainer.fit(module, batches or DataLoader(TensorDataset(X, LABELS), batch_size=8), validation)
    return seen.found, trainer


def weights(module):
    return torch.cat([each.detach().flatten() for each in module.net.parameters()])


PENALTIES = {
    "finite differences": lambda: FiniteDifferencePenalty(0.3, every=2),
    "flow": lambda: FlowPenalty(0.3),
}
OPTIONS = {
    "plain": {},
    # Of five batches: three, and two.
    "accumulated": {"accumulate_grad_batches": 3},
    "clipped": {"gradient_clip_val": 0.1},
}


@pytest.mark.parametrize("make", PENALTIES.values(), ids=PENALTIES.keys())
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("memory", ["store", "reversible"])
def test_the_gradients_are_those_of_loss_plus_penalty(make, options, memory):
    by_hand, by_callback, without = Classifier(make(), memory), Classifier(memory=memory), Classifier(memory=memory)
    expected, _ = fit(by_hand, **options)
    found, _ = fit(by_callback, PenaltyCallback(make(), "net"), **options)
    assert len(found) == len(expected) >= 2
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5)
    fit(without, **options)
    assert float((weights(by_callback) - weights(without)).norm()) > 100 * float(
        (weights(by_callback) - weights(by_hand)).norm()
    )


def test_float16_gradients_are_scaled_alike():
    """The scaler multiplies the loss by 1024; the gradients reach the optimizer without it."""
    found = []
    for penalty, callbacks in ((FlowPenalty(0.3), []), (None, [PenaltyCallback(FlowPenalty(0.3), "net")])):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        plugin = MixedPrecision("16-mixed", "cpu", scaler)
        # In float16 the two would round apart; scaling alone is the matter here.
        plugin.autocast_context_manager = lambda: torch.autocast("cpu", enabled=False)
        found.append(fit(Classifier(penalty), *callbacks, plugins=[plugin], max_epochs=1)[0])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5)


def test_bfloat16_trains():
    module = Classifier()
    _, trainer = fit(module, PenaltyCallback(FiniteDifferencePenalty(0.3, every=2), "net"), precision="bf16-mixed")
    assert bool(weights(module).isfinite().all())
    assert float(trainer.callback_metrics["penalty"]) > 0
    assert float(trainer.callback_metrics["penalty_skipped"]) == 0


def test_frozen_parameters_stay_and_foreign_ones_get_nothing():
    module = Classifier()
    module.net[0].requires_grad_(False)
    before = copy.deepcopy(module.net[0].state_dict())

    class Look(Callback):
        def on_after_backward(self, trainer, module):
            self.head = module.head.weight.grad.clone()

    alone, beside = Look(), Look()
    fit_one = {"max_steps": 1, "max_epochs": -1}
    trainers = []
    for look, more in ((alone, []), (beside, [PenaltyCallback(FlowPenalty(1.0), "net")])):
        copied = copy.deepcopy(module)
        trainer = pl.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[*more, look], **fit_one,
        )  # fmt: skip
        trainer.fit(copied, DataLoader(TensorDataset(X, LABELS), batch_size=8))
        trainers.append(trainer)
        assert all(torch.equal(value, before[name]) for name, value in copied.net[0].state_dict().items())
    assert torch.equal(alone.head, beside.head)


def test_a_checkpoint_holds_what_was_left_out():
    callback = PenaltyCallback(FiniteDifferencePenalty(0.3), "net")
    callback.penalty.load_state_dict({"calls": 3, "skipped": 17})
    other = PenaltyCallback(FiniteDifferencePenalty(0.3), "net")
    other.load_state_dict(callback.state_dict())
    assert other.penalty.skipped == 17
    keys = {PenaltyCallback(FlowPenalty(), path).state_key for path in ("a", "b")} | {callback.state_key}
    assert len(keys) == 3


def test_inputs():
    assert torch.equal(first_tensor((X, LABELS))[0], X)
    assert torch.equal(first_tensor(X)[0], X)
    with pytest.raises(ConfigError, match=r"inputs: expected a batch that is a tensor.*got dict.*inputs=lambda"):
        first_tensor({"x": X})


def test_where_it_cannot_be():
    class ByHand(Classifier):
        automatic_optimization = False

        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

    with pytest.raises(ConfigError, match=r"automatic optimization, got ByHand.*penalty.of\(bijection, x\)"):
        fit(ByHand(), PenaltyCallback(FlowPenalty(), "net"))
    with pytest.raises(ConfigError, match=r"bijection='nte' to name a bijection of Classifier.*It has net, net"):
        fit(Classifier(), PenaltyCallback(FlowPenalty(), "nte"))
    with pytest.raises(ConfigError, match=r"bijection='head' to name a Bijection, got Linear.*adapt"):
        fit(Classifier(), PenaltyCallback(FlowPenalty(), "head"))


TWO_PROCESSES = """
from tests.training.test_penalties import Classifier, FiniteDifferencePenalty, PenaltyCallback, fit, weights

def trained(module, *callbacks):
    fit(module, *callbacks, devices=2, strategy="ddp_fork", accumulate_grad_batches=2)
    return weights(module)

def penalty():
    return FiniteDifferencePenalty(0.3, every=1)

by_hand, without = trained(Classifier(penalty())), trained(Classifier())
by_callback = trained(Classifier(), PenaltyCallback(penalty(), "net"))
assert float((by_callback - without).norm()) > 0.1
assert float((by_callback - by_hand).norm()) < 1e-4
"""


def test_two_processes_add_the_mean_of_their_gradients():
    finish(run(TWO_PROCESSES))


# In a FlowModule and in recipes.


def test_a_flow_module_adds_it_to_its_loss():
    def train_flow(penalty, *callbacks):
        torch.manual_seed(0)
        flow = realnvp(4, layers=2, hidden=(8,))
        flow.log_prob(X)
        module = FlowModule(flow, Optimizer(name="sgd", lr=0.05), penalty=penalty)
        batches = DataLoader(TensorDataset(X), batch_size=8)
        return fit(module, *callbacks, batches=batches, validation=batches, max_epochs=1)[0]

    inside = train_flow(FlowPenalty(0.5))
    beside = train_flow(None, PenaltyCallback(FlowPenalty(0.5), "flow.bijection"))
    for a, b in zip(inside, beside, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(inside[-1], train_flow(None)[-1], rtol=1e-3)


PENALTY = "training.penalty={weight: 0.1, every: 2}"


@pytest.mark.parametrize("raw", [MOONS, DIGITS], ids=["moons", "digits"])
def test_a_recipe_with_a_penalty_resumes_to_the_bit(raw, tmp_path):
    options = [PENALTY, "training.steps=10", "conditions.labels=true"] if raw is DIGITS else [PENALTY]
    train(raw, tmp_path / "whole", *options)
    train(raw, tmp_path / "parts", *options, callbacks=(Signal(7),))
    train(raw, tmp_path / "parts", *options, resume="last")
    assert curves(tmp_path / "parts") == curves(tmp_path / "whole")
    checkpoint = torch.load(tmp_path / "parts" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["penalty"] == {"calls": checkpoint["global_step"], "skipped": 0}
    train(raw, tmp_path / "without", *options[1:])
    assert curves(tmp_path / "without") != curves(tmp_path / "whole")


@pytest.mark.parametrize("memory", ["reversible", "checkpoint"])
def test_a_recipe_with_a_penalty_under_memory_strategies(memory, tmp_path):
    losses = []
    for name in ("store", memory):
        train(MOONS, tmp_path / name, PENALTY, f"training.memory={name}")
        losses.append([float(row["train"]) for row in curves(tmp_path / name) if row["train"]])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert all(math.isfinite(each) for each in losses[0])
