"""Residual flows: round trips, densities, training, memory, files, what is published."""

import copy
import math

import pytest
import torch

from invertible import ConfigError, Flow, load, models, save, set_memory
from invertible.blocks.residual import ExactLogDet, ResidualBlock
from invertible.models.residual_flow import residual_flow
from tests.tools import randomise

SMALL = {
    "vectors": lambda: residual_flow(3, blocks=3, hidden=(16, 16)),
    "vectors-estimated": lambda: residual_flow(6, blocks=3, hidden=(16,), log_det="poisson"),
    "vectors-dense": lambda: residual_flow(4, blocks=2, hidden=(8, 8), net="dense"),
    "vectors-elu": lambda: residual_flow(2, blocks=2, hidden=(8,), activation="elu", lipschitz=0.9),
    "conditional": lambda: residual_flow(3, blocks=2, hidden=(8,), condition_features=2),
    "classes": lambda: residual_flow(3, blocks=2, hidden=(8,), classes=3),
    "images": lambda: residual_flow((1, 8, 8), levels=2, blocks=2, hidden=(8, 8), fully_connected=1, grey_levels=17),
    "images-factored-out": lambda: residual_flow(
        (2, 4, 4), levels=2, blocks=1, hidden=(8, 8), fully_connected=0, factor_out=True
    ),
    "images-dense": lambda: residual_flow((1, 4, 4), levels=2, blocks=1, hidden=(6, 6), net="dense"),
    "images-classes": lambda: residual_flow((1, 4, 4), levels=1, blocks=2, hidden=(8, 8), classes=3),
}


def data_for(flow: Flow, samples: int = 32) -> tuple[torch.Tensor, torch.Tensor | None]:
    assert flow.config is not None
    shape = flow.config["arguments"]["shape"]
    x = torch.rand(samples, *((shape,) if isinstance(shape, int) else tuple(shape)), dtype=flow.base.anchor.dtype)
    if flow.classes is not None:
        return x, torch.randint(flow.classes, (samples,))
    return x, torch.randn(samples, flow.condition_features, dtype=x.dtype) if flow.condition_features else None


def ready(name: str) -> tuple[Flow, torch.Tensor, torch.Tensor | None]:
    """In float64, with random parameters, ActNorm initialised."""
    flow = randomise(SMALL[name]().double(), 0.1)
    x, condition = data_for(flow)
    flow.log_prob(x, condition)
    return flow, x, condition


@pytest.mark.parametrize("name", list(SMALL))
@torch.no_grad()
def test_round_trips_far_from_the_data_too(name: str) -> None:
    flow, x, condition = ready(name)
    flow.eval()
    z = flow.encode(x, condition)
    # The logit layer's domain ends at the unit cube; latents have no end.
    for factor in (1.0, 10.0, 100.0):
        back = flow.bijection.inverse(factor * z, flow._given(flow.bijection, flow._condition(condition)))[0]
        if factor == 1.0:
            assert float((back - x).abs().max()) < 1e-10
        if name.startswith("images"):
            continue
        assert float((flow.encode(back, condition) - factor * z).abs().max()) < 1e-9 * factor
    assert bool(flow.sample(len(x), condition).isfinite().all())


@pytest.mark.parametrize("name", list(SMALL))
def test_log_prob_is_the_change_of_variables(name: str) -> None:
    flow, x, condition = ready(name)
    flow.eval()
    row, label = x[:1], None if condition is None else condition[:1]
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.encode(v, label).flatten(), row)
    expected = torch.linalg.slogdet(jacobian.reshape(x[0].numel(), -1))[1]
    base = flow.base.log_prob(flow.encode(row, label), flow._given(flow.base, flow._condition(label)))
    assert flow.log_prob(row, label).item() == pytest.approx((base + expected).item(), abs=1e-8)


@pytest.mark.parametrize("memory", ["reversible", "checkpoint"])
@pytest.mark.parametrize("name", ["vectors-estimated", "conditional", "images", "images-factored-out"])
def test_memory_strategies_give_the_stored_gradients(name: str, memory: str) -> None:
    flow, x, condition = ready(name)
    results = []
    for strategy in ("store", memory):
        copied = set_memory(copy.deepcopy(flow), strategy)
        torch.manual_seed(0)
        copied.log_prob(x, condition).mean().backward()
        results.append([p.grad for p in copied.parameters() if p.grad is not None])
    assert len(results[0]) == len(results[1]) > 0
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["vectors", "vectors-estimated", "images"])
def test_training_lowers_the_loss(name: str) -> None:
    flow = SMALL[name]()
    x, condition = data_for(flow, 64)
    optimizer = torch.optim.Adam(flow.parameters(), 3e-3)
    with torch.no_grad():
        flow.log_prob(x, condition)
        before = float(flow.eval().log_prob(x, condition).mean())
    flow.train()
    for _ in range(25):
        optimizer.zero_grad()
        (-flow.log_prob(x, condition).mean()).backward()
        optimizer.step()
    with torch.no_grad():
        assert float(flow.eval().log_prob(x, condition).mean()) > before + 0.02


@pytest.mark.parametrize("name", ["vectors", "images", "images-dense", "classes"])
@torch.no_grad()
def test_files_bring_the_same_map_back(name: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.BUILDERS, "residual_flow", residual_flow)
    flow = SMALL[name]()
    x, condition = data_for(flow)
    flow.log_prob(x, condition)
    save(flow, tmp_path / "flow.safetensors")
    again = load(tmp_path / "flow.safetensors")
    assert isinstance(again, Flow)
    assert torch.equal(again.log_prob(x, condition), flow.eval().log_prob(x, condition))


def test_bounds_are_those_of_the_blocks() -> None:
    flow, _, _ = ready("vectors")
    bounds = flow.bijection.bounds()
    assert 1 < bounds.forward < math.inf
    assert 1 < bounds.inverse < math.inf


def test_trained_blocks_keep_their_certificates() -> None:
    flow = residual_flow(2, blocks=3, hidden=(32, 32), lipschitz=0.9)
    x = torch.randn(256, 2) * torch.tensor([2.0, 0.2])
    optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        (-flow.log_prob(x).mean()).backward()
        optimizer.step()
    flow = flow.double().eval()
    points = 4 * torch.randn(400, 2, dtype=torch.float64)
    for block in flow.bijection.modules():
        if isinstance(block, ResidualBlock):
            with torch.no_grad():
                values = torch.linalg.svdvals(ExactLogDet().jacobian(block.residual_map(), points)[1])
            assert float(values.max()) <= block.bounds().forward - 1
            assert block.bounds().forward - 1 <= 0.9 * (1 + 1e-12)


def test_the_published_architecture() -> None:
    with torch.device("meta"):
        flow = residual_flow((3, 32, 32), grey_levels=256)
    blocks = [block for block in flow.bijection.modules() if isinstance(block, ResidualBlock)]
    assert len(blocks) == 3 * 16 + 4
    assert sum(p.numel() for p in flow.parameters()) == 25_174_129
    assert [tuple(layer.weight.shape) for layer in blocks[0].net.layers] == [
        (512, 3, 3, 3),
        (512, 512, 1, 1),
        (3, 512, 3, 3),
    ]
    assert [len(block.net.activations) for block in blocks[:2]] == [2, 3]
    assert tuple(blocks[47].net.layers[0].weight.shape) == (512, 48, 3, 3)
    assert tuple(blocks[48].net.layers[0].weight.shape) == (128, 3072)
    assert blocks[0].lipschitz == pytest.approx(0.98**3)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"shape": (1, 6, 6)}, "divisible by 4"),
        ({"shape": 2, "net": "unet"}, "net"),
        ({"shape": 2, "blocks": 0}, "blocks"),
        ({"shape": 2, "lipschitz": 1.0}, "lipschitz"),
        ({"shape": (1, 4, 4), "fully_connected": -1}, "fully_connected"),
        ({"shape": 2, "classes": 3, "condition_features": 2}, "classes"),
        ({"shape": 2, "log_det": "exactly"}, "log_det"),
        ({"shape": (1, 4, 4), "hidden": (8,)}, "kernel"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        residual_flow(**arguments)
