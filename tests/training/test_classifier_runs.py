"""Runs that train classifiers: what they leave, resume, memory, several processes."""

import csv
import json
import math
import os
import signal
import subprocess
import sys

import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from invertible.errors import ConfigError, DataError
from invertible.saving import load
from invertible.training.recipe_module import NonFiniteLossError
from tests.training.test_resume import Signal
from tests.training.test_runs import Spoil
from tests.training.tiny import IREVNET, REVNET, curves, recipe, train


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Twenty steps of each recipe in one go; an epoch has five."""
    folders = {}
    for raw in (REVNET, IREVNET):
        folders[raw["name"]] = tmp_path_factory.mktemp(raw["name"])
        assert train(raw, folders[raw["name"]]).step == 20
    return folders


@pytest.mark.parametrize(("raw", "step"), [(REVNET, 4), (REVNET, 10), (REVNET, 13), (IREVNET, 7)])
def test_a_resumed_run_is_the_run(whole, tmp_path, raw, step):
    stopped = train(raw, tmp_path, callbacks=(Signal(step),))
    assert (stopped.interrupted, stopped.step) == (signal.SIGINT, step)
    assert train(raw, tmp_path, resume="last").step == 20
    assert curves(tmp_path) == curves(whole[raw["name"]])
    first, second = (load_file(folder / "model.safetensors") for folder in (tmp_path, whole[raw["name"]]))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_a_run_leaves(whole):
    folder = whole["tiny-revnet"]
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names >= {"recipe.yaml", "model.safetensors", "history.csv", "metrics.json", "curves.png", "confusion.png"}
    assert not [name for name in names if "tmp" in name or name.startswith("samples")]
    for name in ("curves.png", "confusion.png"):
        with Image.open(folder / name) as picture:
            assert picture.size[0] > 400
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["class_names"]) == [str(digit) for digit in range(10)]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["unit"] == "nats"
    for name in ("train", "validation", "test"):
        score = metrics[name]
        assert score["standard_error"] == pytest.approx(math.sqrt(score["accuracy"] * (1 - score["accuracy"]) / 160))
        assert (score["samples"], score["non_finite"]) == (160, 0)
    classes = metrics["classes"]
    assert (classes["split"], classes["names"]) == ("test", [str(digit) for digit in range(10)])
    confusion = torch.tensor(classes["confusion"])
    assert int(confusion.sum()) == 160
    assert float(confusion.trace()) / 160 == pytest.approx(metrics["test"]["accuracy"])
    assert classes["accuracy"] == pytest.approx((confusion.diagonal() / confusion.sum(1)).tolist())
    model = load(folder / "model.safetensors")
    assert (model.classes, model.grey_levels, model.shape) == (10, 17, (1, 8, 8))
    assert float(model.body.blocks[0].deviation) != 1


def test_the_history_has_losses_and_accuracies(whole):
    with (whole["tiny-revnet"] / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "step", "epoch", "seconds", "train", "train_accuracy", "validation", "validation_accuracy",
        "validation_non_finite", "gradient_norm", "learning_rate",
    ]  # fmt: skip
    assert [row["step"] for row in rows if row["validation_accuracy"]] == ["5", "10", "15", "20"]
    # LambdaLR sets the rate of a step before it.
    rates = [float(row["learning_rate"]) for row in rows if row["learning_rate"]]
    assert rates == pytest.approx([0.05] * 12 + [0.005] * 4 + [0.0005] * 4)


def test_the_saved_model_has_the_fewest_errors(whole):
    metrics = json.loads((whole["tiny-irevnet"] / "metrics.json").read_text())
    rows = [row for row in curves(whole["tiny-irevnet"]) if row["validation"]]
    values = {int(row["step"]): (1 - float(row["validation_accuracy"]), float(row["validation"])) for row in rows}
    assert min(values, key=lambda step: values[step]) == metrics["step"]
    best = values[metrics["step"]]
    assert metrics["validation"]["accuracy"] == pytest.approx(1 - best[0])
    assert metrics["validation"]["cross_entropy"] == pytest.approx(best[1], rel=1e-5)


@pytest.mark.parametrize("raw", [REVNET, IREVNET], ids=["revnet", "irevnet"])
def test_it_learns(tmp_path, raw):
    changes = ["data.options={limit: 600}", "training.epochs=6", "optimizer.lr=0.2", "data.crop_padding=0"]
    changes += ["training.ema=0.0", "classification=null", "schedule={name: cosine, warmup: 10}"]
    assert train(raw, tmp_path, *changes).metrics["test"]["accuracy"] > 0.75


@pytest.mark.parametrize("memory", ["reversible", "checkpoint", "recursive", "400kB"])
@pytest.mark.parametrize("raw", [REVNET, IREVNET], ids=["revnet", "irevnet"])
def test_memory_strategies_train_alike(whole, tmp_path, raw, memory):
    train(raw, tmp_path, f"training.memory={memory}", "training.epochs=1", "schedule={name: constant}")
    losses = [
        [float(row["train"]) for row in curves(folder) if row["train"]][:5] for folder in (tmp_path, whole[raw["name"]])
    ]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)


def test_a_loss_that_is_not_finite_stops_at_once(tmp_path):
    with pytest.raises(NonFiniteLossError, match=r"expected a finite loss at step 5, got nan.*lower optimizer.lr"):
        train(REVNET, tmp_path, callbacks=(Spoil(4, math.nan),))
    assert [row["step"] for row in curves(tmp_path) if row["train"]] == ["1", "2", "3", "4"]


def test_what_cannot_be_classified(tmp_path):
    with pytest.raises(ConfigError, match="data.name: expected images to classify, got moons"):
        train(REVNET, tmp_path, "data={name: moons}")
    with pytest.raises(
        ConfigError, match=r"model.arguments.classes: expected 10, as the data set digits has it, got 3"
    ):
        train(REVNET, tmp_path, "model.arguments.classes=3")
    with pytest.raises(DataError, match="digit"):
        train(REVNET, tmp_path, "data.name=digit")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("data.crop_padding=2", "data.crop_padding"),
        ("classification.mixup=0.5", "classification.mixup"),
        ("classification.label_smoothing=0.0", "classification.label_smoothing"),
        ("optimizer.decay=all", "optimizer.decay"),
    ],
)
def test_what_a_resumed_run_may_not_change(whole, change, key):
    with pytest.raises(ConfigError, match=f"expected {key} as the run began with"):
        train(REVNET, whole["tiny-revnet"], change, resume="last")


def test_pictures_that_fail_end_nothing(tmp_path, monkeypatch, capsys):
    from invertible.training import classifier_task

    monkeypatch.setattr(classifier_task, "plot_confusion", lambda *_: 1 / 0)
    assert train(REVNET, tmp_path, "training.steps=2", "schedule={name: constant}").metrics["step"] == 2
    assert "pictures of the results could not be drawn: division by zero" in capsys.readouterr().out


def test_two_processes_share_the_rows_and_the_running_averages(tmp_path):
    made = recipe(REVNET, "training.epochs=3", "training.ema=0.0", "schedule={name: cosine}")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(made.model_dump(mode="json")))
    command = [sys.executable, "-m", "invertible", "train", "tiny.yaml", "--accelerator", "cpu", "--devices", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "runs" / "tiny-revnet"
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = {int(row["step"]): row for row in curves(folder) if row["validation"]}
    assert sorted(rows) == [5, 10, 15]
    # The validation of both processes together is that of the one model that was saved.
    best = rows[metrics["step"]]
    assert float(best["validation"]) == pytest.approx(metrics["validation"]["cross_entropy"], rel=1e-4)
    assert float(best["validation_accuracy"]) == pytest.approx(metrics["validation"]["accuracy"])
    assert metrics["validation"]["samples"] == 160
