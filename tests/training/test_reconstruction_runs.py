"""Runs that train models that reconstruct: what they leave, resume, learn; and the command."""

import csv
import json
import math
import signal
from pathlib import Path

import h5py
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from invertible import cli
from invertible.errors import ConfigError, DataError
from invertible.image_metrics import nmse, psnr, ssim
from invertible.physics.masks import RandomColumns
from invertible.physics.mri import CartesianMRI
from invertible.physics.operator import Observation
from invertible.saving import load
from invertible.training.recipe_module import NonFiniteLossError
from tests.training.scans import IRIM, UNET, write_scans
from tests.training.test_resume import Signal
from tests.training.test_runs import Spoil
from tests.training.tiny import curves, train


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.delenv("INVERTIBLE_DATA_DIR", raising=False)
        patch.setattr("invertible.data.places.cache_dir", lambda: folder)
        yield


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    """The override that names the scans."""
    return f"data.name={write_scans(tmp_path_factory.mktemp('scans'))}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory, at):
    """Eight steps of each recipe in one go; an epoch has two."""
    folders = {}
    for raw in (IRIM, UNET):
        folders[raw["name"]] = tmp_path_factory.mktemp(raw["name"])
        assert train(raw, folders[raw["name"]], at).step == 8
    return folders


@pytest.mark.parametrize(("raw", "step"), [(IRIM, 3), (UNET, 4)])
def test_a_resumed_run_is_the_run(whole, tmp_path, at, raw, step):
    stopped = train(raw, tmp_path, at, callbacks=(Signal(step),))
    assert (stopped.interrupted, stopped.step) == (signal.SIGINT, step)
    assert train(raw, tmp_path, at, resume="last").step == 8
    assert curves(tmp_path) == curves(whole[raw["name"]])
    first, second = (load_file(folder / "model.safetensors") for folder in (tmp_path, whole[raw["name"]]))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_a_run_leaves(whole):
    folder = whole["tiny-irim"]
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names >= {"recipe.yaml", "model.safetensors", "history.csv", "metrics.json", "curves.png", "panels.png"}
    assert not [name for name in names if "tmp" in name]
    for name in ("curves.png", "panels.png"):
        with Image.open(folder / name) as picture:
            assert picture.size[0] > 800
    with safe_open(folder / "model.safetensors", "pt") as file:
        header = file.metadata()
    assert json.loads(header["accelerations"]) == [2, 3.5]
    assert (header["simulated"], header["coils"], header["acquisitions"], header["image_size"]) == (
        "true", "1", "[]", "null",
    )  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["unit"], metrics["simulated"]) == ("ssim_loss", True)
    assert (metrics["test"]["2x"]["volumes"], metrics["test"]["2x"]["slices"]) == (1, 4)
    assert metrics["test"]["2x"]["reconstruction"]["ssim"]["deviation"] is None


def test_the_history_has_every_metric(whole):
    with (whole["tiny-irim"] / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    each = [f"validation_{metric}_{name}" for name in ("2x", "3.5x") for metric in ("nmse", "psnr", "ssim")]
    assert list(rows[0]) == [
        "step", "epoch", "seconds", "train", "validation", *each, "validation_non_finite", "gradient_norm",
        "learning_rate",
    ]  # fmt: skip
    assert [row["step"] for row in rows if row["validation_psnr_3.5x"]] == ["2", "4", "6", "8"]


def by_hand(model, path, fraction, acceleration):
    """Metrics of a volume and of its zero-filled image, all slices at once, read with h5py alone."""
    with h5py.File(path) as file:
        kspace = torch.from_numpy(file["kspace"][:])[:, None]
        target = torch.from_numpy(file["reconstruction_esc"][:])
    mask = RandomColumns((fraction,), (acceleration,))(kspace.shape[-1], path.name)
    observation = Observation(CartesianMRI(mask), kspace * mask)
    with torch.no_grad():
        images = model(observation), observation.backprojection()
    return [
        {
            name: float(metric(target, torch.linalg.vector_norm(image, dim=1)))
            for name, metric in {"nmse": nmse, "psnr": psnr, "ssim": ssim}.items()
        }
        for image in images
    ]


@pytest.mark.parametrize(("name", "fraction", "acceleration"), [("2x", 0.2, 2), ("3.5x", 0.1, 3.5)])
def test_metrics_are_those_of_the_saved_model_volume_by_volume(whole, at, name, fraction, acceleration):
    folder, scans = whole["tiny-irim"], Path(at.partition("=")[2])
    model = load(folder / "model.safetensors")
    metrics = json.loads((folder / "metrics.json").read_text())
    entry = metrics["validation"][name]
    found = {path.name: by_hand(model, path, fraction, acceleration) for path in (scans / "validation").iterdir()}
    assert len(found) == entry["volumes"] == 2
    for volume, (own, _) in found.items():
        assert entry["by_volume"][volume] == pytest.approx(own, rel=1e-4)
    for index, kind in enumerate(("reconstruction", "zero_filled")):
        for metric in ("nmse", "psnr", "ssim"):
            a, b = (pair[index][metric] for pair in found.values())
            assert entry[kind][metric]["mean"] == pytest.approx((a + b) / 2, rel=1e-4)
            assert entry[kind][metric]["deviation"] == pytest.approx(abs(a - b) / math.sqrt(2), rel=1e-2, abs=1e-6)
    # What was logged in the best validation, by which the model was saved.
    rows = {int(row["step"]): row for row in curves(folder) if row["validation"]}
    assert float(rows[metrics["step"]][f"validation_ssim_{name}"]) == pytest.approx(
        entry["reconstruction"]["ssim"]["mean"], rel=1e-4
    )
    best = max(rows, key=lambda step: sum(float(rows[step][f"validation_ssim_{each}"]) for each in ("2x", "3.5x")))
    assert best == metrics["step"]


def test_it_learns(tmp_path, at):
    changes = ["reconstruction.loss=mse", "training.steps=60", "training.validate_every=30", "optimizer.lr=1e-2"]
    result = train(IRIM, tmp_path, at, *changes)
    entry = result.metrics["validation"]["2x"]
    losses = [float(row["train"]) for row in curves(tmp_path) if row["train"]]
    assert entry["reconstruction"]["psnr"]["mean"] > entry["zero_filled"]["psnr"]["mean"] + 0.5
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])


@pytest.mark.parametrize("change", ["training.memory=reversible", "training.precision=64-true"])
def test_memory_and_precision_train_alike(whole, tmp_path, at, change):
    train(IRIM, tmp_path, at, change, callbacks=(Signal(3),))
    folders = tmp_path, whole["tiny-irim"]
    losses = [[float(row["train"]) for row in curves(each) if row["train"]][:3] for each in folders]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_epochs_of_a_schedule_are_those_of_the_data(tmp_path, at):
    changes = ["schedule={name: step, every_epochs: 2, factor: 0.1}", "optimizer.lr=0.01"]
    train(UNET, tmp_path, at, *changes, callbacks=(Signal(6),))
    rates = [float(row["learning_rate"]) for row in curves(tmp_path) if row["learning_rate"]]
    assert rates == pytest.approx([0.01] * 4 + [0.001] * 2)


def test_a_loss_that_is_not_finite_stops_at_once(tmp_path, at):
    with pytest.raises(NonFiniteLossError, match=r"expected a finite loss at step 3, got nan.*lower optimizer.lr"):
        train(UNET, tmp_path, at, callbacks=(Spoil(2, math.nan),))


def test_a_slice_that_cannot_be_read_is_named(tmp_path):
    scans = write_scans(tmp_path / "scans")
    with h5py.File(scans / "train" / "train1.h5", "r+") as file:
        file["kspace"][2, 3, 4] = math.nan
    with pytest.raises(DataError, match=r"train1.h5: expected finite values in kspace, got NaN .* in slice 2"):
        train(UNET, tmp_path / "run", f"data.name={scans}")


@pytest.mark.parametrize(
    ("change", "key"),
    [("data.scans.accelerations=[2, 3]", "data.scans"), ("reconstruction.loss=l1", "reconstruction.loss")],
)
def test_what_a_resumed_run_may_not_change(whole, at, change, key):
    with pytest.raises(ConfigError, match=f"expected {key} as the run began with"):
        train(UNET, whole["tiny-unet"], at, change, resume="last")


@pytest.fixture
def typed(capsys, tmp_path, monkeypatch):
    """Run a command in a folder that holds the tiny recipe: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(UNET))

    def run(line):
        return cli.main(line.split()), *capsys.readouterr()

    return run


def test_the_command_prints_metrics_beside_those_of_zero_filled(typed, tmp_path, at):
    status, out, err = typed(f"train tiny.yaml --accelerator cpu --set {at} --set training.epochs=1")
    assert (status, err) == (0, "")
    entry = json.loads((tmp_path / "runs" / "tiny-unet" / "metrics.json").read_text())["test"]["3.5x"]
    (row,) = (line for line in out.splitlines() if line.split()[:2] == ["test,", "3.5x"])
    expected = [
        f"{entry[kind][key]['mean']:.{digits}f}"
        for key, digits in (("ssim", 4), ("psnr", 2), ("nmse", 4))
        for kind in ("reconstruction", "zero_filled")
    ]
    assert row.split()[2:] == [*expected, "1", "0"]
    assert "SIMULATED" in out
    assert "SSIM 0." in out
    assert "runs/tiny-unet/panels.png" in out


def test_a_missing_folder_is_one_line(typed):
    status, _, err = typed("train tiny.yaml --accelerator cpu")
    assert status == 2
    assert err.startswith("error: data.name: expected a folder of MRI scans, found none at scans")
    assert err.count("\n") == 1
