"""The command line: what it prints, writes and returns."""

import ast
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from invertible import cli, errors
from invertible.cli.app import app
from invertible.cli.train import free_folder, parse_time
from invertible.models import glow, realnvp
from invertible.saving import save
from tests.training.tiny import DIGITS, MOONS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models of digits, class-conditional digits and moons, untrained, and two recipes."""
    folder = tmp_path_factory.mktemp("cli")
    torch.manual_seed(0)
    small = {"levels": 1, "depth": 1, "hidden": 4, "grey_levels": 17}
    x = torch.randint(0, 17, (64, 1, 8, 8), dtype=torch.uint8)
    for name, flow in {"digits": glow((1, 8, 8), **small), "classes": glow((1, 8, 8), **small, classes=10)}.items():
        flow.bits_per_dim(x, torch.arange(64) % 10 if flow.classes else None)
        save(flow, folder / f"{name}.safetensors")
    flow = realnvp(2, layers=2, hidden=(8,))
    flow.log_prob(torch.randn(64, 2))
    save(flow, folder / "moons.safetensors")
    for name, raw in {"digits": DIGITS, "moons": MOONS}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(raw))
    return folder


@pytest.fixture
def typed(capsys, folder, tmp_path, monkeypatch):
    """Run a command in an empty folder: exit status, stdout, stderr. `{}` stands for the folder of the models."""
    monkeypatch.chdir(tmp_path)

    def run(line):
        status = cli.main([each.replace("{}", str(folder)) for each in line.split()])
        return status, *capsys.readouterr()

    return run


WRONG = {
    "no command": ("fly", "No such command 'fly'"),
    "no option": ("train digits-glow --sed 3", "No such option: --sed"),
    "no recipe": ("train digits-glwo", "recipe 'digits-glwo' is unknown. Did you mean digits-glow?"),
    "no file": ("train none.yaml", "recipe none.yaml|none.yaml: expected a recipe in YAML, found no file"),
    "no key": (
        "train digits-glow --set optimizer.lrr=1",
        "recipe digits-glow: optimizer.lrr is unknown. Did you mean optimizer.lr?",
    ),
    "no number": ("train digits-glow --set optimizer.lr=x", "optimizer.lr: expected a number, got 'x'"),
    "no data": ("train digits-glow --set data.name=digit", "'digit'. Did you mean 'digits'?"),
    "no precision": ("train digits-glow --precision 8", "training.precision: expected one of '32-true'"),
    "no accelerator": ("train digits-glow --accelerator abacus", "--accelerator: expected one of auto, cpu"),
    "no devices": (
        "train digits-glow --devices none",
        "--devices: expected a number of at least 1, or auto, got 'none'",
    ),
    "no time": ("train digits-glow --max-time soon", "--max-time: expected a time such as 90s"),
    "no folder to resume": ("train digits-glow --resume last", "--resume: expected the folder of the run"),
    "nothing to resume": (
        "train digits-glow --resume last --out x",
        "expected a checkpoint at x/checkpoints/last.ckpt, found none",
    ),
    "too large a batch": ("train {}/moons.yaml --set data.batch_size=1000", "data.batch_size: expected at most the"),
    "no model": ("sample none.safetensors", "expected a model file at none.safetensors, found none"),
    "no model file": ("sample {}/moons.yaml", "expected a safetensors file"),
    "no picture": ("sample {}/digits.safetensors -o a.jpg", "--out: expected a name that ends in .png or .npz"),
    "no samples": ("sample {}/digits.safetensors -n 0", "Invalid value for '-n'"),
    "no classes": (
        "sample {}/digits.safetensors --condition 3",
        "--condition: expected none, for the model has no classes",
    ),
    "no such class": (
        "sample {}/classes.safetensors --condition 10",
        "--condition: expected a class in 0 .. 9, got 10",
    ),
    "no device": ("sample {}/digits.safetensors --device toaster", "--device: expected a device of this machine"),
    "other data": (
        "score {}/digits.safetensors --data moons",
        r"--data moons: expected data of shape \(1, 8, 8\) with 17 levels",
    ),
    "no such data": ("score {}/digits.safetensors --data digit", "Did you mean 'digits'?"),
    "no data named": ("score {}/digits.safetensors", "Missing option '--data'"),
    "no split": (
        "score {}/digits.safetensors --data digits --split all",
        "--split: expected one of train, validation, test, got 'all'",
    ),
    "no recipe to print": ("recipes none", "recipe 'none' is unknown"),
    "no benchmark": ("bench none", "bench: expected"),
}


@pytest.mark.parametrize(("line", "expected"), WRONG.values(), ids=WRONG.keys())
def test_wrong_use_is_one_line_and_status_2(typed, tmp_path, line, expected):
    status, _, err = typed(line)
    assert status == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert re.search(expected, err)
    assert not list(tmp_path.glob("*.png"))


def test_debug_shows_the_traceback(typed):
    assert "Traceback" not in typed("recipes none")[2]
    for line in ("--debug recipes none", "recipes none --debug"):
        status, _, err = typed(line)
        assert status == 2
        assert "Traceback" in err
        assert "ConfigError" in err


def test_a_bug_is_not_hidden(typed, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("invertible.recipes.text", broken)
    with pytest.raises(ZeroDivisionError):
        typed("recipes digits-glow")


def test_version_and_help(typed):
    status, out, _ = typed("--version")
    assert (status, out.split()[0]) == (0, "invertible")
    status, out, _ = typed("")
    assert status == 0
    for name in ("demo", "train", "sample", "score", "audit", "recipes", "data", "bench"):
        assert name in out
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


def test_recipes(typed):
    status, out, _ = typed("recipes")
    assert status == 0
    assert "digits-glow-conditional" in out
    status, out, _ = typed("recipes moons-spline")
    assert status == 0
    assert yaml.safe_load(out)["model"]["name"] == "realnvp"


def test_data(typed):
    status, out, _ = typed("data")
    assert status == 0
    rows = {line.split()[0]: line.split()[1] for line in out.splitlines() if len(line.split()) > 2}
    assert rows["digits"] == rows["moons"] == "yes"
    assert "cifar10" in rows


def test_samples(typed, tmp_path):
    status, out, _ = typed("sample {}/digits.safetensors -n 9 -o a/x.png")
    assert (status, out) == (0, "9 samples at temperature 1, 0 of them not finite: a/x.png\n")
    with Image.open(tmp_path / "a" / "x.png") as picture:
        assert picture.size[0] == picture.size[1] > 100
    assert typed("sample {}/moons.safetensors -n 300 --temperature 0.5 --seed 3 -o m.npz")[0] == 0
    assert typed("sample {}/moons.safetensors -n 300 --temperature 0.5 --seed 3 -o n.npz")[0] == 0
    assert typed("sample {}/moons.safetensors -n 300 --temperature 0.5 --seed 4 -o o.npz")[0] == 0
    first, second, other = (np.load(tmp_path / f"{name}.npz")["samples"] for name in "mno")
    assert first.shape == (300, 2)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_samples_of_classes(typed, tmp_path):
    assert typed("sample {}/classes.safetensors -n 4 --condition 7 -o a.npz")[0] == 0
    assert np.load(tmp_path / "a.npz")["labels"].tolist() == [7] * 4
    assert typed("sample {}/classes.safetensors -n 12 -o b.npz")[0] == 0
    assert np.load(tmp_path / "b.npz")["labels"].tolist() == [*range(10), 0, 1]


def test_broken_samples_are_counted_and_fail(typed, folder, tmp_path):
    flow = realnvp(2, layers=2, hidden=(8,)).eval()
    with torch.no_grad():
        next(flow.parameters()).fill_(float("nan"))
    save(flow, tmp_path / "broken.safetensors")
    status, out, _ = typed("sample broken.safetensors -n 5 -o a.png")
    assert status == 1
    assert "5 of them not finite" in out
    status, out, _ = typed("score broken.safetensors --data moons --json a.json")
    assert status == 1
    assert "not finite" in out
    record = json.loads((tmp_path / "a.json").read_text())
    assert (record["mean"], record["non_finite"]) == (None, 1000)


@pytest.mark.parametrize("name", ["digits", "classes"])
def test_scores(typed, tmp_path, name):
    line = f"score {{}}/{name}.safetensors --data digits --split validation --worst 3 --json a.json"
    status, out, _ = typed(line)
    assert status == 0
    assert "bits/dim" in out
    record = json.loads((tmp_path / "a.json").read_text())
    assert f"{record['mean']:.4f}" in out
    assert (record["samples"], record["non_finite"], len(record["worst"])) == (162, 0, 3)
    assert typed(line)[1] == out
    assert "nats/dim" in typed("score {}/moons.safetensors --data moons")[1]


def test_no_colour_and_no_control_codes_when_piped(typed):
    for line in ("recipes", "data", "score {}/digits.safetensors --data digits", "--help"):
        out = typed(line)[1]
        assert "\x1b" not in out
        assert all(len(text) < 240 for text in out.splitlines())


def test_training_and_everything_after_it(typed, tmp_path):
    status, out, err = typed("train {}/digits.yaml --set training.samples_every=4 --seed 5 --accelerator cpu")
    assert (status, err) == (0, "")
    assert "bits/dim" in out
    run = tmp_path / "runs" / "tiny-digits"
    assert (run / "model.safetensors").is_file()
    assert yaml.safe_load((run / "recipe.yaml").read_text())["training"]["seed"] == 5
    assert typed("train {}/digits.yaml --quiet --set training.steps=1 --accelerator cpu")[0] == 0
    assert (tmp_path / "runs" / "tiny-digits-2").is_dir()
    status, _, err = typed("train {}/digits.yaml --out runs/tiny-digits --accelerator cpu")
    assert status == 2
    assert "holds a run already" in err
    assert typed("score runs/tiny-digits --data digits")[0] == 0
    assert typed("sample runs/tiny-digits -n 4")[0] == 0
    skip = " ".join(f"--skip {name}" for name in ("attack", "digits", "spectrum", "bounds"))
    line = f"audit runs/tiny-digits --data digits --samples 8 {skip} -o a.html --json a.json --tolerance"
    status, out, _ = typed(f"{line} 1e6")
    assert status in (0, 1)
    assert (tmp_path / "a.html").read_text().lstrip().lower().startswith("<!doctype html")
    passed = json.loads((tmp_path / "a.json").read_text())
    assert passed
    assert typed(f"{line} 1e-12")[0] == 1


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("2h", 7200), ("1h2m3.5s", 3723.5)]
)
def test_times(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "s", "10x", "-3s", "m10"])
def test_what_is_no_time(text):
    with pytest.raises(errors.ConfigError, match="--max-time"):
        parse_time(text)


def test_folders_are_never_shared(tmp_path):
    for expected in ("a", "a-2", "a-3"):
        assert free_folder(tmp_path, "a") == tmp_path / expected
        (tmp_path / expected).mkdir()


IMPORTS = """
import sys
import invertible.cli.app
from invertible.cli import main
assert main(["recipes"]) == 0 and main(["--version"]) == 0
wrong = [name for name in ("lightning", "tensorboard", "matplotlib", "sklearn") if name in sys.modules]
sys.exit(f"imported {wrong}" if wrong else 0)
"""


def test_the_command_line_does_not_import_lightning():
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_import_loads_neither_the_compiler_nor_other_packages():
    code = """
import sys, torch
before = set(sys.modules)
import invertible
print([name for name in set(sys.modules) - before if not name.startswith("invertible")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    more = [n for n in ast.literal_eval(done.stdout) if n.split(".")[0] not in sys.stdlib_module_names]
    assert not more


@pytest.mark.parametrize(
    ("missing", "extra", "line"),
    [
        ("typer", "cli", "recipes"),
        ("rich", "cli", "recipes"),
        ("torchmetrics", "train", "train digits-glow"),
        ("lightning", "train", "train digits-glow"),
        ("jinja2", "report", "audit {}/digits.safetensors --data digits"),
    ],
)
def test_a_missing_extra_gives_the_install_line(typed, monkeypatch, missing, extra, line):
    monkeypatch.setitem(sys.modules, missing, None)
    status, _, err = typed(line)
    assert status == 2
    assert err == f"error: {missing} is not installed: run pip install 'invertible[{extra}]'.\n"


def test_bench_hands_its_arguments_on(typed, monkeypatch):
    called = []
    monkeypatch.setattr(
        subprocess, "run", lambda command, check: called.append(command) or subprocess.CompletedProcess(command, 1)
    )
    status, *_ = typed("bench memory --lengths 4 8 --quick")
    assert status == 1
    assert called[0][1].endswith("memory.py")
    assert called[0][2:] == ["--lengths", "4", "8", "--quick"]
