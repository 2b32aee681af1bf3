"""Runs in processes of their own, ended by signals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.training.tiny import MOONS, curves, recipe

SOURCE = Path(__file__).parents[2] / "src"
LENGTH = "training.steps=600"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "invertible", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run, in a process of its own."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "moons.yaml").write_text(yaml.safe_dump(MOONS))
    done = subprocess.run(
        command("train", str(folder / "moons.yaml"), "--out", str(folder / "run"), "--set", LENGTH, "--accelerator", "cpu"),
        env=environment(), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    return folder


def start_and_signal(whole: Path, out: Path, number: signal.Signals) -> subprocess.CompletedProcess:
    """Start the run, and send the signal when it has written a few rows."""
    arguments = ["train", str(whole / "moons.yaml"), "--out", str(out), "--set", LENGTH, "--accelerator", "cpu"]
    process = subprocess.Popen(
        command(*arguments), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    history, deadline = out / "history.csv", time.monotonic() + 120
    while not (history.is_file() and history.read_bytes().count(b"\n") > 6) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


def stopped_by(number: signal.Signals, whole: Path, out: Path) -> subprocess.CompletedProcess:
    stopped = start_and_signal(whole, out, number)
    assert stopped.returncode == 128 + number, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert f"{number.name}: stopped after step" in stopped.stdout
    return stopped


def test_a_run_that_is_terminated_saves_and_says_so(whole, tmp_path):
    stopped_by(signal.SIGTERM, whole, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def test_an_interrupted_run_goes_on(whole, tmp_path):
    stopped = stopped_by(signal.SIGINT, whole, tmp_path / "run")
    resume = stopped.stdout.splitlines()[-1].split()
    assert resume[:2] == ["invertible", "train"]
    done = subprocess.run(
        command(*resume[1:], "--accelerator", "cpu"), env=environment(), capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert curves(tmp_path / "run") == curves(whole / "run")


def test_a_killed_run_loses_the_last_interval_at_most(whole, tmp_path):
    out = tmp_path / "run"
    killed = start_and_signal(whole, out, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    reached = max(int(row["step"]) for row in curves(out))
    line = ["train", str(out / "recipe.yaml"), "--out", str(out), "--resume", "last", "--accelerator", "cpu"]
    from invertible.training.checkpoints import check_checkpoint

    step = check_checkpoint(out / "checkpoints" / "last.ckpt", recipe(MOONS, LENGTH))
    assert reached - MOONS["training"]["checkpoint_every"] <= step <= reached + 1
    done = subprocess.run(command(*line), env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert curves(out) == curves(whole / "run")
