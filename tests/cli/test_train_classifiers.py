"""`invertible train` of a classifier: what it prints and takes."""

import json

import pytest
import yaml

from invertible import cli
from tests.training.tiny import REVNET


@pytest.fixture
def typed(capsys, tmp_path, monkeypatch):
    """Run a command in a folder that holds the tiny recipe: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(REVNET))

    def run(line):
        return cli.main(line.split()), *capsys.readouterr()

    return run


def test_accuracies_are_printed_and_the_run_resumes(typed, tmp_path):
    line = "train tiny.yaml --accelerator cpu --memory reversible --set schedule.name=cosine --set schedule.at=[]"
    status, out, err = typed(f"{line} --set training.epochs=2")
    assert (status, err) == (0, "")
    run = tmp_path / "runs" / "tiny-revnet"
    metrics = json.loads((run / "metrics.json").read_text())
    assert all(column in out for column in ("accuracy in %", "cross-entropy in nats", "standard error", "not finite"))
    rows = {words[0]: words[1:] for words in (each.split() for each in out.splitlines()) if len(words) == 6}
    for name in ("train", "validation", "test"):
        score = metrics[name]
        percent = [f"{100 * score[key]:.2f}" for key in ("accuracy", "standard_error")]
        assert rows[name] == [*percent, f"{score['cross_entropy']:.4f}", "160", "0"]
    assert "% right" in out
    assert "runs/tiny-revnet/confusion.png" in out
    written = yaml.safe_load((run / "recipe.yaml").read_text())
    assert written["training"]["memory"] == "reversible"
    again = "train runs/tiny-revnet/recipe.yaml --out runs/tiny-revnet --resume last --accelerator cpu"
    status, out, err = typed(f"{again} --set training.epochs=3 --memory store")
    assert (status, err) == (0, "")
    assert json.loads((run / "metrics.json").read_text())["step"] in (5, 10, 15)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--memory reversable", "training.memory"),
        ("--set training.monitor={}", "training.monitor is for flows; revnet is a classifier. Leave it out."),
        ("--set classification.mixup=-1", "classification.mixup: expected a number of at least 0.0, got -1"),
        ("--set data.name=moons", "data.name: expected images to classify, got moons"),
        ("--set data.batch_size=500", "data.batch_size: expected at most the 160 training samples, got 500"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(typed, options, expected):
    status, _, err = typed(f"train tiny.yaml --accelerator cpu {options}")
    assert status == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err


def test_recipes_say_what_they_are(typed):
    status, out, _ = typed("recipes")
    assert status == 0
    for name in ("revnet38-digits", "irevnet-b-imagenet"):
        assert any(line.split()[:1] == [name] and len(line.split()) > 4 for line in out.splitlines())
    status, out, _ = typed("recipes revnet38-cifar10")
    assert yaml.safe_load(out)["schedule"] == {"name": "milestones", "at": [40000, 60000], "factor": 0.1}
