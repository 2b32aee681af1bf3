"""What a run leaves, and what ends it."""

import json
import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from invertible.errors import ConfigError
from invertible.models import glow, realnvp
from invertible.saving import load
from invertible.training import FlowModule, Optimizer, Schedule, evaluate, run
from invertible.training.average import MovingAverage
from invertible.training.module import NonFiniteLossError
from invertible.training.runs import RunOptions
from tests.training.tiny import DIGITS, MOONS, curves, recipe, train


class Spoil(Callback):
    """Puts a value into the weights after a step."""

    def __init__(self, step, value):
        self.step, self.value = step, value

    def on_train_batch_end(self, trainer, module, *args):
        if trainer.global_step == self.step:
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.fill_(self.value)


@pytest.mark.parametrize("memory", ["reversible", "checkpoint", "40kB"])
def test_memory_strategies_train_alike(tmp_path, memory):
    losses = []
    for name, override in (("stored", "store"), ("other", memory)):
        train(DIGITS, tmp_path / name, f"training.memory={override}", "training.epochs=2")
        losses.append([float(row["train"]) for row in curves(tmp_path / name) if row["train"]])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_an_unknown_memory_strategy_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"training.memory.*expected one of 'store', 'checkpoint'.*got 'reversable'"):
        train(DIGITS, tmp_path, "training.memory=reversable")


def test_what_a_run_leaves(tmp_path):
    result = train(DIGITS, tmp_path, "training.samples_every=2", "conditions.labels=true")
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    expected = [
        "recipe.yaml",
        "model.safetensors",
        "history.csv",
        "metrics.json",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
    ]
    assert names >= {*expected, "samples/step_0000010.png", "samples/step_0000020.png"}
    assert any("tfevents" in name for name in names)
    assert not [name for name in names if "tmp" in name]
    with Image.open(tmp_path / "samples" / "step_0000020.png") as picture:
        assert picture.size[0] > 100
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics == result.metrics
    assert metrics["unit"] == "bits_per_dim"
    assert metrics["test"]["samples"] == 160
    assert metrics["test"]["non_finite"] == 0
    assert load(tmp_path / "model.safetensors").classes == 10
    history = curves(tmp_path)
    assert [row["step"] for row in history if row["validation"]] == ["5", "10", "15", "20"]
    assert float(history[-2]["train"]) < float(history[0]["train"])


def test_the_saved_model_is_the_best_by_validation_with_averaged_weights(tmp_path):
    class Catch(Callback):
        def on_validation_epoch_start(self, trainer, module):
            self.averaged = {name: value.clone() for name, value in module.flow.state_dict().items()}

        def on_train_batch_end(self, trainer, module, *args):
            self.current = {name: value.clone() for name, value in module.flow.state_dict().items()}

    catch = Catch()
    result = train(DIGITS, tmp_path, callbacks=(catch,))
    saved = load(tmp_path / "model.safetensors").state_dict()
    assert result.metrics["step"] == 20
    assert all(torch.equal(saved[name], catch.averaged[name]) for name in saved)
    assert any(not torch.equal(saved[name], catch.current[name]) for name in saved)


def test_the_first_batch_initialises_actnorm_before_the_average_is_made(tmp_path):
    class Look(Callback):
        def on_fit_start(self, trainer, module):
            average = next(each for each in trainer.callbacks if isinstance(each, MovingAverage))
            self.flags = [
                value
                for flow in (module.flow, average.model)
                for name, value in flow.named_buffers()
                if "initialized" in name
            ]

    look = Look()
    train(DIGITS, tmp_path, "training.steps=1", callbacks=(look,))
    assert look.flags
    assert all(bool(flag) for flag in look.flags)


@pytest.mark.parametrize("value", [math.nan, 1e30])
def test_a_loss_that_is_not_finite_stops_at_once(tmp_path, value):
    with pytest.raises(
        NonFiniteLossError, match=r"expected a finite (loss|gradient norm) at step 5, got .*lower optimizer.lr"
    ) as caught:
        train(MOONS, tmp_path, callbacks=(Spoil(4, value),))
    assert "\n" not in str(caught.value)
    assert [row["step"] for row in curves(tmp_path) if row["train"]] == ["1", "2", "3", "4"]


def test_broken_samples_are_shown_and_counted_and_end_nothing(tmp_path, monkeypatch, capsys):
    from invertible.training import records

    drawn = records.draw

    def broken(*arguments):
        x = drawn(*arguments)
        x[:3] = math.nan
        return x

    monkeypatch.setattr(records, "draw", broken)
    train(DIGITS, tmp_path, "training.steps=5", "training.samples_every=1")
    assert "step 5: 3 of 64 samples are not finite" in capsys.readouterr().out
    monkeypatch.setattr(records, "draw", lambda *_: 1 / 0)
    train(DIGITS, tmp_path / "more", "training.steps=5", "training.samples_every=1")
    assert "step 5: samples could not be drawn: division by zero" in capsys.readouterr().out


def test_without_tensorboard(tmp_path, monkeypatch, capsys):
    from invertible.training import runs

    def missing(*_, **__):
        raise ModuleNotFoundError("Neither `tensorboard` nor `tensorboardX` is available.")

    monkeypatch.setattr(runs, "TensorBoardLogger", missing)
    assert train(MOONS, tmp_path, "training.steps=4").step == 4
    assert "no TensorBoard logs" in capsys.readouterr().out


def test_a_time_limit_ends_in_good_order(tmp_path):
    options = RunOptions(accelerator="cpu", quiet=True, max_seconds=0.0)
    result = run(recipe(DIGITS), tmp_path, options=options)
    assert result.step == 1
    assert result.metrics["step"] == 1
    assert train(DIGITS, tmp_path, resume="last").step == 20


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_precisions(tmp_path, precision):
    result = train(DIGITS, tmp_path, f"training.precision={precision}")
    assert result.metrics["validation"]["mean"] < 5
    dtype = torch.float64 if precision == "64-true" else torch.float32
    assert next(load(tmp_path / "model.safetensors").parameters()).dtype == dtype


def test_data_and_model_must_fit(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"model.arguments.shape: expected \[1, 8, 8\], as the data set digits has it, got \[1, 4, 4\]",
    ):
        train(DIGITS, tmp_path, "model.arguments.shape=[1, 4, 4]")
    with pytest.raises(ConfigError, match="conditions.labels: expected a data set with labels, got checkerboard"):
        train(MOONS, tmp_path, "data.name=checkerboard", "conditions.labels=true")


def test_the_seed_decides(tmp_path):
    for folder, seed in {"a": 1, "b": 1, "c": 2}.items():
        torch.manual_seed(len(folder))
        train(MOONS, tmp_path / folder, f"training.seed={seed}", "training.steps=4")
    assert curves(tmp_path / "a") == curves(tmp_path / "b")
    assert curves(tmp_path / "a") != curves(tmp_path / "c")


# The module in a trainer and loop of one's own.


def test_the_module_in_an_ordinary_trainer(tmp_path):
    flow = realnvp(2, layers=2, hidden=(8,))
    x = torch.randn(128, 2) * 3
    flow.log_prob(x)
    before = evaluate(flow, x).mean
    module = FlowModule(flow, Optimizer(lr=1e-2), Schedule(name="cosine"), gradient_clip=10.0)
    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    loader = DataLoader(TensorDataset(x), batch_size=32)
    trainer = pl.Trainer(max_epochs=5, accelerator="cpu", default_root_dir=tmp_path, **options)
    trainer.fit(module, loader, loader)
    assert evaluate(flow, x).mean < before
    assert float(trainer.callback_metrics["validation"]) == pytest.approx(evaluate(flow, x).mean, rel=1e-5)


def test_the_loss_is_bits_or_nats_per_dimension():
    x = torch.randint(0, 17, (8, 1, 4, 4), dtype=torch.uint8)
    images = FlowModule(glow((1, 4, 4), levels=1, depth=1, hidden=4, grey_levels=17))
    assert images.unit == "bits_per_dim"
    images(x)  # initialises
    noise = [torch.Generator().manual_seed(0) for _ in range(2)]
    assert torch.equal(images(x, None, noise[0]), images.flow.bits_per_dim(x, generator=noise[1]))
    vectors = FlowModule(realnvp(2, layers=2, hidden=(4,)).eval())
    x = torch.randn(8, 2)
    assert vectors.unit == "nats_per_dim"
    torch.testing.assert_close(vectors(x), -vectors.flow.log_prob(x) / 2)
