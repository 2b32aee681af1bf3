"""An interrupted run that is resumed is the run."""

import csv
import json
import os
import signal

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file

from invertible.errors import ConfigError, DataError
from tests.training.tiny import DIGITS, MOONS, curves, train


class Signal(Callback):
    """Sends this process a signal at the end of a step, as a person would."""

    def __init__(self, step, number=signal.SIGINT):
        self.step, self.number = step, number

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


def figures(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    return {key: value for key, value in metrics.items() if key != "seconds"}


def same_model(a, b):
    first, second = (load_file(folder / "model.safetensors") for folder in (a, b))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Twenty steps of the digits' recipe in one go; an epoch has five."""
    folder = tmp_path_factory.mktemp("whole")
    assert train(DIGITS, folder).step == 20
    return folder


# In the first epoch, before a validation, at one, after one, at a checkpoint, before the end, at the end.
@pytest.mark.parametrize("step", [1, 4, 5, 6, 9, 13, 19, 20])
def test_the_curve_is_that_of_the_whole_run(whole, tmp_path, step):
    stopped = train(DIGITS, tmp_path, callbacks=(Signal(step),))
    assert (stopped.interrupted, stopped.step) == (signal.SIGINT, step)
    assert not (tmp_path / "metrics.json").exists()
    resumed = train(DIGITS, tmp_path, resume="last")
    assert (resumed.interrupted, resumed.step) == (None, 20)
    assert curves(tmp_path) == curves(whole)
    assert same_model(tmp_path, whole)
    assert figures(tmp_path) == figures(whole)


@pytest.mark.parametrize("name", ["adamw", "adamax", "sgd"])
def test_every_optimizer_resumes(tmp_path, name):
    changes = [f"optimizer.name={name}", "optimizer.weight_decay=1e-3"]
    train(MOONS, tmp_path / "whole", *changes)
    train(MOONS, tmp_path / "parts", *changes, callbacks=(Signal(7, signal.SIGTERM),))
    train(MOONS, tmp_path / "parts", *changes, resume="last")
    assert curves(tmp_path / "parts") == curves(tmp_path / "whole")


def test_two_epochs_and_two_more_are_four(tmp_path):
    for folder, lengths in {"whole": [4], "parts": [2, 4]}.items():
        for index, epochs in enumerate(lengths):
            resume = "last" if index else None
            train(DIGITS, tmp_path / folder, f"training.epochs={epochs}", "schedule.name=constant", resume=resume)
    assert curves(tmp_path / "parts") == curves(tmp_path / "whole")
    assert same_model(tmp_path / "parts", tmp_path / "whole")


def test_a_run_that_is_done_stays_done(whole, tmp_path):
    train(MOONS, tmp_path)
    before = curves(tmp_path)
    assert train(MOONS, tmp_path, resume="last").step == 15
    assert curves(tmp_path) == before


def test_the_best_checkpoint_resumes_too(tmp_path):
    train(MOONS, tmp_path / "whole")
    train(MOONS, tmp_path / "parts", callbacks=(Signal(12),))
    train(MOONS, tmp_path / "parts", resume="best")
    assert curves(tmp_path / "parts") == curves(tmp_path / "whole")


def test_rows_cut_short_by_a_kill_are_dropped(tmp_path):
    train(MOONS, tmp_path / "whole")
    train(MOONS, tmp_path / "parts", callbacks=(Signal(8),))
    with (tmp_path / "parts" / "history.csv").open("a") as file:
        file.write("9,1.8000,0.5\n10,2.0")
    train(MOONS, tmp_path / "parts", resume="last")
    assert curves(tmp_path / "parts") == curves(tmp_path / "whole")


def test_a_lower_learning_rate_is_taken(tmp_path):
    train(MOONS, tmp_path, callbacks=(Signal(8),))
    train(MOONS, tmp_path, "optimizer.lr=1e-5", resume="last")
    with (tmp_path / "history.csv").open() as file:
        rates = {int(row["step"]): float(row["learning_rate"]) for row in csv.DictReader(file) if row["learning_rate"]}
    assert rates[8] == pytest.approx(1e-3)
    assert rates[9] == rates[15] == pytest.approx(1e-5)


def test_checkpoints_hold_plain_values_and_tensors_only(whole):
    checkpoint = torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 20
    assert checkpoint["recipe"]["name"] == "tiny-digits"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            ["model.arguments.depth=2"],
            r"expected model.arguments as the run began with, .*'depth': 1.* got .*'depth': 2",
        ),
        (["data.batch_size=16"], "expected data.batch_size as the run began with, 32, got 16"),
        (["training.seed=1"], "expected training.seed as the run began with, 0, got 1"),
        (["training.ema=0.0"], "expected training.ema as the run began with, 0.9, got 0.0"),
        (["optimizer.name=sgd"], "expected optimizer.name as the run began with, 'adam', got 'sgd'"),
    ],
)
def test_what_a_resumed_run_may_not_change(whole, changes, expected):
    with pytest.raises(ConfigError, match=expected):
        train(DIGITS, whole, *changes, resume="last")


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(DataError, match="--resume last: expected a checkpoint at .*last.ckpt, found none"):
        train(MOONS, tmp_path, resume="last")
    path = tmp_path / "other.ckpt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(DataError, match="expected a checkpoint of a training run"):
        train(MOONS, tmp_path, resume=str(path))
    torch.save({"state_dict": {}}, path)
    with pytest.raises(DataError, match="expected a checkpoint of a training run"):
        train(MOONS, tmp_path, resume=str(path))


def test_a_folder_that_holds_a_run_is_not_overwritten(whole):
    with pytest.raises(ConfigError, match="holds a run already. Continue it with --resume last"):
        train(DIGITS, whole)
