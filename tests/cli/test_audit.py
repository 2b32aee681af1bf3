"""`invertible audit` as typed."""

import json
import shlex

import pytest
import torch

from invertible import auditing, cli, models, saving
from invertible.stability import AuditOptions
from invertible.stability import audit as measured
from invertible.stability.sections import AuditInterrupted
from tests.stability.maps import Shift


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    flow = models.glow((1, 8, 8), levels=2, depth=1, hidden=8, grey_levels=17)
    with torch.no_grad():
        flow.bijection(torch.rand(32, 1, 8, 8))
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    saving.save(flow, path)
    return path


@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(line):
        status = cli.main(shlex.split(line))
        return status, *capsys.readouterr()

    return run


def test_sections_can_be_left_out_and_effort_is_chosen(typed, model, tmp_path):
    line = f"audit {model} --data digits --samples 6 --skip attack --skip digits --skip spectrum --skip gradients"
    status, out, err = typed(f"{line} --json a.json")
    assert (status, err) == (0, "")
    assert "\x1b" not in out
    record = json.loads((tmp_path / "a.json").read_text())
    assert [each["name"] for each in record["sections"]] == ["round trips", "bounds"]
    assert (record["options"]["effort"], record["schema_version"]) == ("quick", 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--skip speed", "error: --skip: expected one of attack, digits, spectrum, bounds, gradients, got 'speed'."),
        ("--effort slow", "error: AuditOptions: expected effort to be one of 'quick', 'full', got 'slow'."),
        ("--attack-radius -1", "expected attack_radius to be positive"),
    ],
)
def test_wrong_use(typed, model, options, message):
    status, _, err = typed(f"audit {model} --data digits {options}")
    assert status == 2
    assert message in err


def test_an_interrupted_audit_shows_what_it_has(typed, model, monkeypatch, tmp_path):
    def stop(section, detail, done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(AuditInterrupted) as caught:
        measured(Shift(), torch.rand(9, 2), options=AuditOptions(samples=5), progress=stop)

    def interrupted(*_, **__):
        raise caught.value

    monkeypatch.setattr(auditing, "audit", interrupted)
    status, out, err = typed(f"audit {model} --data digits -o a.html")
    assert status == 130
    assert "Interrupted after 2 sets: nothing is decided." in out
    assert "uniform" in out
    assert err.startswith("interrupted:")
    assert not (tmp_path / "a.html").exists()


def test_a_bijective_classifier_is_audited_and_others_are_sent_elsewhere(typed, tmp_path):
    stages = {"blocks": (1, 1), "channels": (8, 32), "strides": (2, 2), "hidden": (8, 8)}
    whole = models.irevnet(shape=(1, 8, 8), grey_levels=17, squeeze=2, **stages)
    saving.save(whole, tmp_path / "whole.safetensors")
    sections = "--skip attack --skip digits --skip spectrum --skip gradients --skip bounds"
    status, _, err = typed(f"audit whole.safetensors --data digits --samples 6 {sections} --json a.json")
    assert (status, err) == (0, "")
    sets = json.loads((tmp_path / "a.json").read_text())["sets"]
    assert {each["status"] for each in sets} == {"passed"}
    saving.save(
        models.revnet(units=(1,), filters=(4, 4), shape=(1, 8, 8), grey_levels=17), tmp_path / "less.safetensors"
    )
    status, _, err = typed("audit less.safetensors --data digits")
    assert status == 2
    assert "expected a flow or a bijective classifier" in err
    assert "invertible inspect less.safetensors --data digits" in err
