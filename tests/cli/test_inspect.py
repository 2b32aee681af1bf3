"""`invertible inspect` as typed."""

import json
import shlex

import pytest
import torch

from invertible import cli, models, representations, saving
from invertible.representations import InspectionInterrupted, Representations

FEW = "--depths 3 --samples 40 --train-samples 90 --pairs 1"
PICTURES = ["contraction", "dimension", "interpolation", "inverse_error", "separation", "spectrum"]


def saved(folder, model, calls):
    torch.manual_seed(0)
    made = model()
    made.train()
    with torch.no_grad():
        calls(made)
    path = folder / "model.safetensors"
    saving.save(made, path)
    return path


@pytest.fixture(scope="module")
def irevnet(tmp_path_factory):
    stages = {"blocks": (2, 2), "channels": (2, 8), "strides": (1, 2), "hidden": (8, 8)}
    return saved(
        tmp_path_factory.mktemp("irevnet"),
        lambda: models.irevnet(shape=(1, 8, 8), squeeze=2, grey_levels=17, momentum=1.0, **stages),
        lambda model: model(torch.rand(64, 1, 8, 8)),
    )


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    return saved(
        tmp_path_factory.mktemp("glow"),
        lambda: models.glow((1, 8, 8), levels=2, depth=1, hidden=8, grey_levels=17),
        lambda model: model.bijection(torch.rand(32, 1, 8, 8)),
    )


@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(line):
        status = cli.main(shlex.split(line))
        return status, *capsys.readouterr()

    return run


def test_pictures_tables_and_json_of_a_classifier(typed, irevnet, tmp_path):
    status, out, err = typed(f"inspect {irevnet} --data digits --out looks {FEW}")
    assert (status, err) == (0, "")
    assert "\x1b" not in out
    assert "body.blocks[2] (SwapResidual)" in out
    assert sorted(path.stem for path in (tmp_path / "looks").glob("*.png")) == PICTURES
    record = json.loads((tmp_path / "looks" / "inspect.json").read_text())
    assert record["separation"]["test"] == 40
    assert record["missing"] == {}


def test_flows_and_skipping(typed, flow, tmp_path):
    skipped = " ".join(f"--skip {name}" for name in ("separation", "dimension", "contraction"))
    status, out, _ = typed(f"inspect {flow} --data digits {skipped} --split validation {FEW}")
    assert status == 0
    assert "(AffineCoupling)" in out
    assert sorted(p.stem for p in (tmp_path / "inspect").glob("*.png")) == [
        "interpolation",
        "inverse_error",
        "spectrum",
    ]


def test_a_network_without_inverse(typed, tmp_path):
    revnet = saved(
        tmp_path,
        lambda: models.revnet(units=(1, 1), filters=(8, 8, 16), shape=(1, 8, 8), grey_levels=17),
        lambda model: model(torch.rand(16, 1, 8, 8)),
    )
    status, out, _ = typed(f"inspect {revnet} --data digits --skip separation --skip dimension {FEW}")
    assert status == 0
    assert "interpolation: not available" in out
    assert "nothing behind it leads back to the input" in out
    assert not (tmp_path / "inspect" / "interpolation.png").exists()


def test_a_broken_inverse_fails(typed, irevnet, tmp_path):
    model = saving.load(irevnet)
    model.body[0].deviation.fill_(0.0)
    saving.save(model, tmp_path / "broken.safetensors")
    looks = [name for name in representations.LOOKS if name != "spectrum"]
    skipped = " ".join(f"--skip {name}" for name in looks)
    status, out, _ = typed(f"inspect {tmp_path / 'broken.safetensors'} --data digits {skipped} {FEW}")
    assert status == 1
    assert "Jacobian" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--data digits --skip speed", "--skip: expected one of separation, contraction,"),
        ("--data digits --split train", "--split: expected one of test, validation, got 'train'"),
        ("--data digits --pooling max", "expected pooling to be one of 'mean', 'flatten', got 'max'"),
        ("--data digits --device nowhere", "--device: expected a device of this machine"),
        ("--data moons", "--data moons: expected data of shape (1, 8, 8) with 17 levels"),
    ],
)
def test_wrong_use(typed, irevnet, options, message):
    status, _, err = typed(f"inspect {irevnet} {options}")
    assert status == 2
    assert message in err


def test_an_interrupted_inspection_shows_what_it_has(typed, irevnet, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise InspectionInterrupted(Representations(("a layer",), {"spectrum": "too large"}))

    monkeypatch.setattr(representations, "inspect", interrupted)
    status, out, err = typed(f"inspect {irevnet} --data digits -o looks")
    assert status == 130
    assert "too large" in out
    assert err.startswith("interrupted:")
    assert not (tmp_path / "looks").exists()
