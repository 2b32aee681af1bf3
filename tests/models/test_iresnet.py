"""i-ResNet as a classifier: inverses, memory, files, what is published."""

import copy

import pytest
import torch
from torch.nn import functional

from invertible import Chain, Classifier, ConfigError, load, models, save, set_memory
from invertible.blocks.residual import ResidualBlock
from invertible.models.iresnet import iresnet
from tests.tools import randomise

STAGES = {"shape": (1, 8, 8), "blocks": (2, 2), "channels": (8, 8), "strides": (1, 2), "classes": 5}
SMALL = {
    "bijective": lambda: iresnet(**STAGES, grey_levels=17),
    "padded": lambda: iresnet(**STAGES, padding=3, grey_levels=None),
    "plain": lambda: iresnet(**STAGES, actnorm=False, activation="maxmin", grey_levels=None),
}


def ready(name: str) -> tuple[Classifier, torch.Tensor]:
    model = randomise(SMALL[name]().double(), 0.1)
    x = torch.rand(12, 1, 8, 8, dtype=torch.float64)
    model(x)
    return model, x


@pytest.mark.parametrize("name", list(SMALL))
@torch.no_grad()
def test_features_give_the_image_back(name: str) -> None:
    model, x = ready(name)
    model.eval()
    assert float((model.invert(model.features(x)) - x).abs().max()) < 1e-10
    assert model(x).shape == (12, 5)


@torch.no_grad()
def test_without_padding_the_body_is_a_bijection_with_a_log_determinant() -> None:
    model, x = ready("bijective")
    assert isinstance(model.eval().bijection, Chain)
    features, log_det = model.bijection(x)
    assert torch.allclose(features, model.features(x), atol=1e-12)
    row = x[:1]
    with torch.enable_grad():
        jacobian = torch.autograd.functional.jacobian(lambda v: model.features(v).flatten(), row)
    assert torch.allclose(log_det[:1], torch.linalg.slogdet(jacobian.reshape(64, 64))[1], atol=1e-8)
    assert ready("padded")[0].bijection is None


@pytest.mark.parametrize("memory", ["reversible", "checkpoint"])
@pytest.mark.parametrize("name", list(SMALL))
def test_memory_strategies_give_the_stored_gradients(name: str, memory: str) -> None:
    model, x = ready(name)
    labels = torch.arange(12) % 5
    results = []
    for strategy in ("store", memory):
        copied = set_memory(copy.deepcopy(model), strategy)
        functional.cross_entropy(copied(x), labels).backward()
        results.append([p.grad for p in copied.parameters() if p.grad is not None])
    assert len(results[0]) == len(results[1]) > 0
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-9)


def test_it_learns() -> None:
    model = SMALL["padded"]()
    x = torch.rand(60, 1, 8, 8)
    labels = (x[:, 0, :4].mean((1, 2)) > x[:, 0, 4:].mean((1, 2))).long()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2


@torch.no_grad()
def test_files_bring_the_same_map_back(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.BUILDERS, "iresnet", iresnet)
    model = SMALL["padded"]()
    x = torch.rand(12, 1, 8, 8)
    model(x)
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert isinstance(again, Classifier)
    assert torch.equal(again(x), model.eval()(x))


def test_the_published_architecture() -> None:
    model = iresnet("cifar")
    blocks = [block for block in model.body.modules() if isinstance(block, ResidualBlock)]
    assert len(blocks) == 21
    assert sum(p.numel() for p in model.parameters()) == 4_873_146
    shapes = [tuple(blocks[i].net.layers[0].weight.shape) for i in (0, 7, 14)]
    assert shapes == [(32, 16, 3, 3), (64, 64, 3, 3), (128, 256, 3, 3)]
    assert blocks[0].lipschitz == pytest.approx(0.9**3)
    with torch.no_grad():
        assert model.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "blocks, channels and strides"),
        ({"configuration": "imagenet"}, "configuration"),
        ({**STAGES, "channels": (8,)}, "channels"),
        ({**STAGES, "strides": (1, 3)}, "strides"),
        ({**STAGES, "coefficient": 1.0}, "coefficient"),
        ({**STAGES, "padding": -1}, "padding"),
        ({**STAGES, "shape": (1, 7, 7)}, "divisible"),
        ({**STAGES, "activation": "relu6"}, "activation"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        iresnet(**arguments)
