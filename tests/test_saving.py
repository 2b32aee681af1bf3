"""Models as files: what is saved is what is loaded, and nothing else is accepted."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import invertible as inv
from tests.models.examples import MODELS, data_for
from tests.tools import randomise


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_of_every_model(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    flow = randomise(MODELS[name]().to(dtype), 0.05)
    x, condition = data_for(flow, dtype)
    flow.log_prob(x, condition)
    path = tmp_path / "model.safetensors"
    inv.save(flow.eval(), path)
    again = inv.load(path)
    assert again.config == flow.config
    assert not again.training
    assert torch.equal(again.log_prob(x, condition), flow.log_prob(x, condition))
    again.train()
    assert torch.equal(again.log_prob(x + 0.01, condition), flow.log_prob(x + 0.01, condition))


def test_loading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    inv.save(MODELS["realnvp"](), tmp_path / "m.safetensors")
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    inv.load(tmp_path / "m.safetensors")
    assert torch.equal(torch.randn(3), expected)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    inv.save(MODELS["realnvp"](), path)
    before = path.read_bytes()

    def broken(tensors: dict, filename: Path, metadata: dict) -> None:
        Path(filename).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("invertible.saving.save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        inv.save(MODELS["realnvp"](), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def tampered(source: Path, target: Path, **changes: str) -> Path:
    from safetensors import safe_open

    with safe_open(source, "pt") as file:
        header = {**file.metadata(), **changes}
    save_file(load_file(source), target, header)
    return target


def test_refuses_what_does_not_fit(tmp_path: Path) -> None:
    path, other = tmp_path / "m.safetensors", tmp_path / "other.safetensors"
    flow = inv.models.realnvp(4, layers=2, hidden=(8,))
    inv.save(flow, path)
    config = flow.config
    wider = json.dumps({**config, "arguments": {**config["arguments"], "hidden": [9]}})
    deeper = json.dumps({**config, "arguments": {**config["arguments"], "layers": 3}})
    with pytest.raises(inv.ConfigError, match=r"expected .* of shape \(4, 9\), got \(4, 8\)"):
        inv.load(tampered(path, other, config=wider))
    with pytest.raises(inv.ConfigError, match="the file holds no tensor"):
        inv.load(tampered(path, other, config=deeper))
    with pytest.raises(inv.ConfigError, match="expected name to be one of 'ffjord', 'glow', .*, got 'os'"):
        inv.load(tampered(path, other, config=json.dumps({"model": "os", "arguments": {}})))
    with pytest.raises(inv.ConfigError, match="unexpected keyword argument 'evil'"):
        inv.load(tampered(path, other, config=json.dumps({"model": "nice", "arguments": {"shape": 4, "evil": 1}})))
    with pytest.raises(inv.ConfigError, match="expected a config of model and arguments"):
        inv.load(tampered(path, other, config="[]"))
    with pytest.raises(inv.ConfigError, match="JSON"):
        inv.load(tampered(path, other, config="{"))
    with pytest.raises(inv.DataError, match="format"):
        inv.load(tampered(path, other, format="pt"))


def test_refuses_missing_damaged_and_pickled_files(tmp_path: Path) -> None:
    with pytest.raises(inv.DataError, match="found none"):
        inv.load(tmp_path / "none.safetensors")
    path = tmp_path / "m.safetensors"
    torch.save({"x": torch.zeros(2)}, path)
    with pytest.raises(inv.DataError, match="cannot be read"):
        inv.load(path)
    inv.save(MODELS["nice"](), path)
    whole = path.read_bytes()
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(inv.DataError, match="cannot be read"):
            inv.load(path)


def test_refuses_a_flow_without_config(tmp_path: Path) -> None:
    flow = inv.Flow(inv.DiagonalScaling(2), inv.StandardNormal((2,)))
    with pytest.raises(inv.ConfigError, match=r"expected a model made by invertible\.models"):
        inv.save(flow, tmp_path / "m.safetensors")
