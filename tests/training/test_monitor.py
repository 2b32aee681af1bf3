"""The monitor measures, writes, and keeps a training from losing its inverse."""

import csv
import json
import math
import warnings

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from invertible.bijection import Bijection
from invertible.blocks import AffineCoupling, InvertibleLinear
from invertible.chain import Chain
from invertible.errors import ConfigError, ShapeError
from invertible.saving import load
from invertible.stability import round_trip
from invertible.training import InverseMonitor, Monitor, check_inverse
from invertible.training.average import MovingAverage
from invertible.training.module import NonFiniteLossError
from tests.stability.maps import Hole, UnitBox
from tests.training.test_resume import Signal
from tests.training.tiny import MOONS, curves, train

X = torch.randn(24, 2)


class Stretch(Bijection):
    """y = x diag(e^k, e^-k) R, R the rotation by 30 degrees: half of the digits are gone at k = 8/2 in float32."""

    def __init__(self):
        super().__init__()
        self.k = nn.Parameter(torch.zeros(()))

    def matrix(self):
        a, b = math.cos(math.pi / 6), math.sin(math.pi / 6)
        return torch.stack((self.k.exp(), (-self.k).exp())).diag() @ self.k.new_tensor([[a, b], [-b, a]])

    def forward(self, x, condition=None):
        return x @ self.matrix(), x.new_zeros(len(x))

    def inverse(self, y, condition=None):
        return y @ torch.linalg.inv(self.matrix()), y.new_zeros(len(y))


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = Stretch()
        self.other = nn.Parameter(torch.ones(2))

    def training_step(self, batch, batch_idx):
        return (self.other - 3).square().sum() + 0.0 * self.net(batch)[0].sum()

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0),
                "interval": "step",
            },
        }


class Set(Callback):
    """Puts a value into k after some steps, before the monitor looks."""

    def __init__(self, values):
        self.values = values

    def on_train_batch_end(self, trainer, module, *args):
        if trainer.global_step in self.values:
            with torch.no_grad():
                module.net.k.fill_(self.values[trainer.global_step])


class Watch(Callback):
    """Remembers weights, momentum and learning rate after every step, when the monitor has looked."""

    def __init__(self):
        self.seen = {}

    def on_train_batch_end(self, trainer, module, *args):
        optimizer = trainer.optimizers[0]
        self.seen[trainer.global_step] = {
            "k": float(module.net.k.detach()),
            "other": module.other.detach().clone(),
            "momentum": optimizer.state[module.other]["exp_avg"].clone(),
            "lr": optimizer.param_groups[0]["lr"],
            "rate": trainer.lr_scheduler_configs[0].scheduler.base_lrs[0],
        }


def fit(values, section, *, steps=10, module=None, more=(), folder=None, logger=False, say=None, **probe):
    said = []
    probe = {"bijection": "net", "folder": folder, "say": say or said.append, **probe}
    monitor = InverseMonitor(X, Monitor(**{"every": 2, **section}), **probe)
    watch = Watch()
    trainer = pl.Trainer(
        accelerator="cpu", logger=logger, enable_checkpointing=False, enable_progress_bar=False, max_epochs=-1,
        enable_model_summary=False, max_steps=steps, callbacks=[*more, Set(values), monitor, watch], log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module or Module(), DataLoader(X, batch_size=4))
    return monitor, watch.seen, said


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_a_check_measures():
    torch.manual_seed(0)
    net = Chain(AffineCoupling(4, hidden=(8,)), InvertibleLinear(4), AffineCoupling(4, hidden=(8,), flip=True)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(6, 4, dtype=torch.float64)
    check = check_inverse(net.train(), x, None, step=7, name="a", spectra=3)
    trips = round_trip(net.eval(), x)
    assert check.worst == trips.worst
    assert check.median == trips.data.median
    assert (check.step, check.name, check.lost, check.samples) == (7, "a", 0, 6)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: net(row[None])[0][0]))(x[:3])
    assert check.condition == pytest.approx(float(torch.linalg.cond(jacobian.detach()).max()), rel=1e-6)
    assert 10 < check.digits <= -math.log10(check.worst)
    assert math.isnan(check_inverse(net, x, None, step=0, name="a").condition)


def test_what_is_lost_is_never_dropped():
    x = torch.tensor([[0.0, 1.0], [3.0, 0.0], [1.0, 1.0]])
    # f itself is the identity but for a shift: its own Jacobian knows of nothing.
    check = check_inverse(Chain(Hole()), x, None, step=0, name="a", spectra=3)
    assert (check.worst, check.lost, check.digits, check.condition) == (math.inf, 1, 0.0, 1.0)
    refused = check_inverse(UnitBox(), 5 + X, None, step=0, name="a")
    assert math.isnan(refused.worst)
    assert (refused.lost, refused.digits) == (0, 0.0)


def test_a_good_inverse_is_left_alone(tmp_path):
    monitor, seen, said = fit({}, {"on_danger": "rollback"}, steps=7, folder=tmp_path, logger=CSVLogger(tmp_path))
    assert [check.step for check in monitor.history] == [0, 2, 4, 6, 7]
    assert (monitor.events, monitor.rollbacks, said) == ([], 0, [])
    assert {state["lr"] for state in seen.values()} == {0.1}
    rows = table(tmp_path / "inverse.csv")
    assert [int(row["step"]) for row in rows] == [0, 2, 4, 6, 7]
    assert float(rows[1]["worst"]) == pytest.approx(monitor.history[1].worst, rel=1e-5)
    with Image.open(tmp_path / "inverse.png") as picture:
        assert picture.size[0] > 500
    assert not list(tmp_path.glob(".*tmp"))
    (metrics,) = tmp_path.rglob("metrics.csv")
    logged = [row for row in table(metrics) if row["inverse/worst"]]
    assert [int(row["step"]) for row in logged] == [0, 2, 4, 6, 7]
    assert float(logged[2]["inverse/condition"]) == pytest.approx(1, abs=1e-6)


def test_the_training_is_not_disturbed():
    plain = Module()
    monitored = Module()
    fit({}, {"every": 1000}, module=plain)
    torch.manual_seed(5)
    fit({}, {"every": 1, "on_danger": "rollback"}, module=monitored)
    assert torch.equal(plain.other, monitored.other)


def test_warn_says_it_once_for_each_time():
    monitor, _, said = fit({2: 6.0, 6: 0.0, 8: 6.0}, {"on_danger": "warn"}, steps=10)
    assert monitor.events == [(2, "danger"), (8, "danger")]
    assert len(said) == 2
    assert "step 2: the inverse is being lost: relative error" in said[0]
    assert "tolerance 3.5e-04" in said[0]
    assert "half-sigmoid" in said[0]
    assert [check.worst > 3.5e-4 for check in monitor.history] == [False, True, True, False, True, True]


def test_without_a_place_for_messages_they_are_warnings():
    with pytest.warns(UserWarning, match="step 2: the inverse is being lost"):
        fit({2: 6.0}, {"on_danger": "warn"}, steps=2, say=lambda text: warnings.warn(text, stacklevel=1))
    monitor = InverseMonitor(X)
    with pytest.warns(UserWarning, match="something"):
        monitor.say("something")


def test_stop_ends_after_the_step():
    monitor, seen, said = fit({4: 6.0}, {"on_danger": "stop"})
    assert max(seen) == 4
    assert monitor.events == [(4, "stop")]
    assert "training stops" in said[0]


@pytest.mark.parametrize(("patience", "last"), [(1, 2), (2, 4), (3, 6)])
def test_patience(patience, last):
    _, seen, _ = fit({2: 6.0}, {"on_danger": "stop", "patience": patience})
    assert max(seen) == last


def test_a_lost_sample_needs_no_patience():
    monitor, seen, said = fit({4: math.nan}, {"on_danger": "stop", "patience": 5})
    assert max(seen) == 4
    assert monitor.history[-1].worst == math.inf
    assert "24 of 24 samples do not come back" in said[0]


def test_digits_can_be_the_limit():
    assert max(fit({4: 3.0}, {"on_danger": "stop"})[1]) == 10
    assert max(fit({4: 3.0}, {"on_danger": "stop", "digits": 4.5})[1]) == 4


def test_data_far_away_are_measured_and_watched_if_asked_for():
    class Far(Stretch):
        def inverse(self, y, condition=None):
            x, log_det = super().inverse(y)
            return torch.where(x.norm(dim=1, keepdim=True) > 50, math.inf, x), log_det

    for watch, last in (("held-out", 6), ("all", 0)):
        module = Module()
        module.net = Far()
        options = {"on_danger": "stop", "watch": watch}
        monitor, seen, _ = fit({}, options, steps=6, module=module, out_of_distribution=1e4 * X[:5])
        assert max(seen, default=0) <= max(last, 1)
        far = [check for check in monitor.history if check.name == "out-of-distribution"]
        assert {(check.lost, check.worst, check.samples) for check in far} == {(5, math.inf, 5)}
        assert bool(monitor.events) is (watch == "all")


def test_rollback_restores_weights_and_optimizer_and_lowers_the_rate():
    monitor, seen, said = fit({6: 6.0}, {"on_danger": "rollback", "lr_factor": 0.25}, steps=8)
    assert (monitor.rollbacks, monitor.events) == (1, [(6, "rollback")])
    assert "back to the weights of step 4, learning rate times 0.25 (rollback 1)" in said[0]
    assert seen[6]["k"] == seen[4]["k"] == 0
    assert torch.equal(seen[6]["other"], seen[4]["other"])
    assert torch.equal(seen[6]["momentum"], seen[4]["momentum"])
    assert not torch.equal(seen[5]["other"], seen[4]["other"])
    # Also after the schedule has computed it anew.
    assert [seen[step]["lr"] for step in (5, 6, 7, 8)] == pytest.approx([0.1, 0.025, 0.025, 0.025])
    assert seen[8]["rate"] == pytest.approx(0.025)
    assert not torch.equal(seen[8]["other"], seen[6]["other"])
    assert monitor.history[-1].worst < 1e-6


def test_a_snapshot_can_be_restored_twice():
    monitor, seen, _ = fit({4: 6.0, 6: 6.0}, {"on_danger": "rollback", "lr_factor": 1.0}, steps=8)
    assert monitor.rollbacks == 2
    for name in ("other", "momentum"):
        assert torch.equal(seen[4][name], seen[2][name])
        assert torch.equal(seen[6][name], seen[2][name])


def test_after_so_many_rollbacks_it_stops_in_a_good_state():
    monitor, seen, said = fit({4: 6.0, 6: 6.0}, {"on_danger": "rollback", "max_rollbacks": 1})
    assert max(seen) == 6
    assert monitor.events == [(4, "rollback"), (6, "stop")]
    assert "back to the weights of step 2, and training stops after 1 rollbacks" in said[1]
    assert seen[6]["k"] == 0


def test_what_training_leaves_is_checked_too():
    module = Module()
    monitor, _, _ = fit({5: 6.0}, {"on_danger": "rollback"}, steps=5, module=module)
    assert monitor.events == [(5, "rollback")]
    assert float(module.net.k.detach()) == 0


def test_a_bad_beginning_has_nothing_to_go_back_to():
    module = Module()
    with torch.no_grad():
        module.net.k.fill_(6.0)
    monitor, _, said = fit({}, {"on_danger": "rollback"}, module=module)
    assert monitor.events[0] == (0, "stop")
    assert "There is no good state to go back to" in said[0]


def test_its_state_is_plain(tmp_path):
    first, _, _ = fit({4: 6.0}, {"on_danger": "rollback"}, steps=6)
    state = first.state_dict()
    assert json.loads(json.dumps(state)) == state
    second = InverseMonitor(X, bijection="net")
    second.load_state_dict(state)
    assert (second.history, second.events, second.rollbacks, second.rate) == (first.history, first.events, 1, 0.5)


def test_wrong_use():
    with pytest.raises(ShapeError, match=r"held-out data in floating point.*torch.int64.*flow.dequantize"):
        InverseMonitor(torch.ones(3, 2, dtype=torch.int64))
    with pytest.raises(ShapeError, match=r"out-of-distribution data.*not empty.*\(0, 2\)"):
        InverseMonitor(X, out_of_distribution=X[:0])
    with pytest.raises(ConfigError, match=r"InverseMonitor: expected bijection='flow.bijection'.*It has net"):
        fit({}, {}, bijection="flow.bijection")


# A training that explodes: couplings with an exponential scale, and a learning rate of 0.3.

EXPLODING = (
    "model.arguments={layers: 6, hidden: [32], scale: exp, actnorm: false}",
    "optimizer.lr=0.3",
    "training.steps=30",
    "training.validate_every=3",
)


def watched(folder, mode, *more, **options):
    section = f"training.monitor={{every: 5, samples: 16, spectra: 0, on_danger: {mode}}}"
    return train(MOONS, folder, *EXPLODING, section, *more, **options)


def rows(folder):
    """The checks without what a clock wrote."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in table(folder / "inverse.csv")]


def test_an_exploding_training_ends_in_an_error_or_in_a_model_with_an_inverse(tmp_path, capsys):
    with pytest.raises(NonFiniteLossError):
        watched(tmp_path / "warn", "warn")
    assert (tmp_path / "warn" / "inverse.png").is_file()
    capsys.readouterr()
    result = watched(tmp_path / "back", "rollback", "training.ema=0.9")
    said = capsys.readouterr().out
    assert "the loss or its gradient is not finite; back to the weights of step 0" in said
    assert "the inverse is being lost" in said
    # What was left is measured, and what was saved.
    assert any(float(row["worst"]) > 3.5e-4 for row in rows(tmp_path / "back") if row["name"] == "held-out")
    flow = load(tmp_path / "back" / "model.safetensors")
    trips = round_trip(flow.bijection, torch.randn(200, 2))
    assert (trips.non_finite, result.metrics["test"]["non_finite"]) == (0, 0)
    assert trips.worst < 3.5e-4


def test_a_gradient_that_is_not_finite_is_met_by_a_rollback(tmp_path, capsys):
    class Break(Callback):
        def on_after_backward(self, trainer, module):
            if trainer.global_step == 7:
                next(module.flow.parameters()).grad.fill_(math.nan)

        def on_train_batch_end(self, trainer, module, *args):
            flat = torch.cat([each.detach().flatten().clone() for each in module.flow.parameters()])
            self.seen = {**getattr(self, "seen", {}), trainer.global_step: flat}

    caught = Break()
    train(MOONS, tmp_path, "training.monitor={every: 5, spectra: 0, on_danger: rollback}", callbacks=(caught,))
    assert "step 7: the loss or its gradient is not finite; back to the weights of step 5" in capsys.readouterr().out
    assert torch.equal(caught.seen[8], caught.seen[5])
    assert not torch.equal(caught.seen[7], caught.seen[5])
    assert not torch.equal(caught.seen[9], caught.seen[8])
    with pytest.raises(NonFiniteLossError, match="gradient norm at step 8"):
        train(MOONS, tmp_path / "warn", "training.monitor={every: 5, spectra: 0}", callbacks=(Break(),))


def test_stop_ends_an_exploding_training_in_good_order(tmp_path, capsys):
    result = watched(tmp_path, "stop", "optimizer.lr=0.08", "training.monitor.tolerance=1e-6")
    assert result.step < 30
    assert "training stops" in capsys.readouterr().out
    assert (tmp_path / "metrics.json").is_file()


def test_a_run_resumes_with_its_monitor(tmp_path):
    options = ("training.ema=0.9",)
    watched(tmp_path / "whole", "rollback", *options)
    watched(tmp_path / "parts", "rollback", *options, callbacks=(Signal(8),))
    watched(tmp_path / "parts", "rollback", *options, resume="last")
    assert curves(tmp_path / "parts") == curves(tmp_path / "whole")
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_an_average_goes_back_with_the_weights(tmp_path):
    class Look(Callback):
        def __init__(self):
            self.seen = {}

        def on_train_batch_end(self, trainer, module, *args):
            (average,) = [each for each in trainer.callbacks if isinstance(each, MovingAverage)]
            self.seen[trainer.global_step] = torch.cat([each.flatten().clone() for each in average.model.parameters()])

    look = Look()
    watched(tmp_path, "rollback", "training.ema=0.9", "optimizer.lr=0.02", "training.monitor.tolerance=3e-7",
            "training.monitor.max_rollbacks=100", callbacks=(look,))  # fmt: skip
    back = [line for line in rows(tmp_path) if float(line["worst"]) > 3e-7 and line["name"] == "held-out"]
    assert back
    good = [line for line in rows(tmp_path) if float(line["worst"]) <= 3e-7 and line["name"] == "held-out"]
    step = int(back[0]["step"])
    before = max(int(line["step"]) for line in good if int(line["step"]) < step)
    assert before > 0
    assert torch.equal(look.seen[step], look.seen[before])
