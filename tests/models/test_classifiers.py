"""RevNet, ResNet and i-RevNet as published: parameters, what is kept, gradients, inverses, files, errors."""

import copy

import pytest
import torch
from torch.nn import functional

import invertible as inv
from invertible import ConfigError, DomainError, NotInvertibleError, ShapeError, memory, models
from invertible.models.irevnet import PUBLISHED as IREVNETS
from tests.memory.networks import assert_same, gradients

COUNTS = [
    ("revnet", {"depth": 38}, 464_890),
    ("revnet", {"depth": 38, "classes": 100}, 475_060),
    ("revnet", {"depth": 110}, 1_729_194),
    ("revnet", {"depth": 110, "classes": 100}, 1_740_804),
    ("revnet", {"depth": 164}, 1_748_778),
    ("revnet", {"depth": 164, "classes": 100}, 1_794_948),
    ("revnet", {"depth": 56, "classes": 1000}, 27_553_128),
    ("revnet", {"depth": 104, "classes": 1000}, 45_428_072),
    ("resnet", {"depth": 32}, 464_154),
    ("resnet", {"depth": 32, "classes": 100}, 470_004),
    ("resnet", {"depth": 110}, 1_727_962),
    ("resnet", {"depth": 110, "classes": 100}, 1_733_812),
    ("resnet", {"depth": 164}, 1_703_258),
    ("resnet", {"depth": 164, "classes": 100}, 1_726_388),
    ("resnet", {"depth": 50, "classes": 1000}, 25_549_352),
    ("resnet", {"depth": 101, "classes": 1000}, 44_541_480),
    ("irevnet", {"configuration": "a", "classes": 1000}, 180_999_016),
    ("irevnet", {"configuration": "b", "classes": 1000}, 29_201_092),
    ("irevnet", {"configuration": "b", "classes": 1000, "kernels": "released"}, 125_120_356),
    ("irevnet", {"configuration": "cifar"}, 6_274_826),
    ("irevnet", {"configuration": "cifar", "classes": 100}, 6_320_996),
]
SMALL = {
    "revnet": lambda: models.revnet(units=(2, 2), filters=(8, 8, 12), shape=(1, 8, 8), grey_levels=17),
    "revnet-bottleneck": lambda: models.revnet(
        units=(2, 2), filters=(8, 8, 16), bottleneck=True, shape=(3, 8, 8), classes=4
    ),
    "resnet": lambda: models.resnet(units=(2, 2), filters=(4, 4, 8), shape=(1, 8, 8), grey_levels=None),
    "resnet-bottleneck": lambda: models.resnet(units=(1, 2), filters=(8, 8, 16), bottleneck=True, shape=(3, 8, 8)),
    "irevnet": lambda: models.irevnet(
        shape=(1, 8, 8), squeeze=2, blocks=(2, 3), channels=(8, 32), strides=(2, 2), hidden=(8, 8), grey_levels=17
    ),
    "irevnet-paper": lambda: models.irevnet(
        shape=(3, 8, 8), squeeze=2, blocks=(3, 2), channels=(24, 96), strides=(2, 2), kernels="paper"
    ),
    "irevnet-padded": lambda: models.irevnet(shape=(3, 8, 8), blocks=(3, 3), channels=(8, 32), strides=(1, 2)),
    "irevnet-padded-later": lambda: models.irevnet(
        shape=(1, 8, 8), squeeze=2, blocks=(2, 3), channels=(8, 40), strides=(2, 2), hidden=(8, 8)
    ),
    "irevnet-dropout": lambda: models.irevnet(
        shape=(3, 8, 8), blocks=(3, 2), channels=(8, 32), strides=(1, 2), dropout=0.3
    ),
}
INVERTIBLE = [name for name in SMALL if name.startswith("irevnet")]


def made(name, dtype=torch.float64):
    """A small model with statistics and weights of a few steps, and data for it."""
    torch.manual_seed(0)
    model = SMALL[name]().to(dtype)
    x, y = torch.rand(12, *model.shape, dtype=dtype), torch.arange(12) % model.classes
    model.body[0].fit(x)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, x, y


@pytest.mark.parametrize(("name", "arguments", "count"), COUNTS, ids=[f"{n}-{a}" for n, a, _ in COUNTS])
def test_number_of_parameters_is_the_published_one(name, arguments, count):
    with torch.device("meta"):
        model = models.build(name, arguments)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(("depth", "floats"), [(38, 89_088), (110, 90_112), (164, 262_144)])
def test_stage_borders_hold_the_papers_numbers_and_no_more_is_kept(depth, floats):
    torch.manual_seed(0)
    model = models.revnet(depth)
    model.memory, batch = "reversible", 4
    inv.set_memory(model, "reversible")
    sizes = []
    first = [2, 2 + (len(model.body) - 2) // 3, 2 + 2 * (len(model.body) - 2) // 3]
    state = torch.rand(batch, 3, 32, 32)
    for index, block in enumerate(model.body):
        if index in first:
            sizes.append(state[0].numel())
        with torch.no_grad():
            state = block(state)[0] if isinstance(block, inv.Bijection) else block(state)
    sizes.append(state[0].numel())
    # Gomez et al. (2017) keep the input of every stage's first unit, and what the last one returns.
    assert sum(sizes) == floats
    model(torch.rand(batch, 3, 32, 32)).sum().backward()
    report = memory.report(model)
    # Ours inverts the first unit of all where it keeps its shape, and keeps the image instead of the stem's output.
    published = floats - (sizes[0] if depth != 164 else 0) + 3 * 32 * 32
    statistics = sum(x.numel() * x.element_size() for x in model.body.buffers())
    assert report.alarms == 0
    assert abs(report.bytes_kept - 4 * batch * published) <= statistics


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("strategy", ["checkpoint", "recursive", "reversible", "2MiB"])
def test_gradients_and_statistics_of_every_strategy_are_the_stored_ones(name, strategy):
    model, x, y = made(name)

    def step(strategy):
        other = copy.deepcopy(model).train()
        inv.set_memory(other, strategy)
        torch.manual_seed(3)
        functional.cross_entropy(other(x), y).backward()
        return gradients(other), dict(other.named_buffers()), memory.report(other).alarms

    (expected, buffers0, _), (found, buffers, alarms) = step("store"), step(strategy)
    assert_same(found, expected, 1e-10)
    assert all(torch.equal(buffers[key], buffers0[key]) for key in buffers0)
    assert alarms == 0


@pytest.mark.parametrize("name", SMALL)
def test_exact_gradients_are_those_of_the_stored_exact_network_to_the_bit(name):
    model, x, y = made(name, torch.float32)

    def step(strategy):
        other = copy.deepcopy(model).train()
        inv.set_memory(other, strategy)
        torch.manual_seed(3)
        functional.cross_entropy(other(x), y).backward()
        return gradients(other)

    expected, found = step(memory.Exact(keep="store")), step(memory.Exact())
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", INVERTIBLE)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_features_give_the_image_back(name, dtype, limit):
    model, x, _ = made(name, torch.float64)
    model, x = model.to(dtype).eval(), x.to(dtype)
    with torch.no_grad():
        features = model.features(x)
        assert (model.invert(features) - x).abs().max() < limit
    padded = [each for each in model.modules() if isinstance(each, inv.PaddedSwapResidual)]
    assert (features[0].numel() == x[0].numel()) == (not padded)


@torch.no_grad()
def test_cifar_form_inverts_to_float32_precision_at_the_start():
    torch.manual_seed(0)
    model = models.irevnet("cifar").eval()
    x = torch.rand(4, 3, 32, 32)
    assert (model.invert(model.features(x)) - x).abs().max() < 2e-6


@torch.no_grad()
def test_space_to_depth_has_the_channel_order_of_the_released_code():
    model = models.irevnet(shape=(3, 8, 8), squeeze=2, blocks=(1,), channels=(24,), strides=(2,)).double().eval()
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    squeezed = model.body[1](x)[0]
    for i in range(2):
        for j in range(2):
            for c in range(3):
                assert torch.equal(squeezed[:, (2 * i + j) * 3 + c], x[:, c, i::2, j::2])
    y, second = model.features(x), squeezed[:, 6:]
    for i in range(2):
        for j in range(2):
            assert torch.equal(y[:, :24][:, 6 * (2 * i + j) : 6 * (2 * i + j + 1)], second[:, :, i::2, j::2])


@pytest.mark.parametrize("name", SMALL)
def test_files_rebuild_the_model(name, tmp_path):
    model, x, _ = made(name, torch.float32)
    inv.save(model.eval(), tmp_path / "model.safetensors")
    again = inv.load(tmp_path / "model.safetensors")
    assert isinstance(again, inv.Classifier)
    assert again.config == model.config
    assert not again.training
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


@pytest.mark.parametrize("name", ["revnet", "irevnet"])
def test_integers_are_scaled_and_probabilities_are_the_softmax(name):
    model, _, _ = made(name, torch.float32)
    model.eval().requires_grad_(False)
    levels = torch.randint(17, (5, 1, 8, 8), dtype=torch.uint8)
    logits = model(levels)
    assert torch.equal(logits, model(levels.float() / 16))
    assert torch.allclose(model.probabilities(levels), logits.softmax(1))
    assert torch.equal(model.predict(levels), logits.argmax(1))


def test_bijective_body_is_a_bijection():
    model, x, _ = made("irevnet")
    body = model.eval().bijection
    assert len(body) == len(model.body)
    assert SMALL["irevnet-padded"]().bijection is None
    assert SMALL["revnet"]().bijection is None
    with torch.no_grad():
        y, log_det = body(x)
        jacobian = torch.autograd.functional.jacobian(lambda v: body(v[None])[0].flatten(), x[0]).flatten(1)
    assert jacobian.shape == (64, 64)
    assert torch.linalg.slogdet(jacobian)[1].item() == pytest.approx(log_det[0].item(), abs=1e-9)
    assert torch.equal(y, model.features(x))


def test_depth_costs_no_memory():
    def kept(units):
        torch.manual_seed(0)
        model = models.revnet(units=(units, units), filters=(8, 8, 16), shape=(1, 8, 8))
        inv.set_memory(model, "reversible")
        model(torch.rand(16, 1, 8, 8)).sum().backward()
        statistics = sum(x.numel() * x.element_size() for x in model.body.buffers())
        return memory.report(model).bytes_kept, statistics

    (few, few_statistics), (many, many_statistics) = kept(3), kept(30)
    # Statistics of the batch normalisations are remembered, which are parameters rather than activations.
    assert 0 <= many - few <= many_statistics - few_statistics


def test_wrong_data_are_refused():
    model = SMALL["irevnet"]().eval()
    for x, message in (
        (torch.rand(2, 3, 8, 8), r"Classifier: expected x of shape \(batch, 1, 8, 8\), got \(2, 3, 8, 8\)"),
        (torch.rand(2, 1, 8, 9), r"Resize or crop the images"),
        (torch.rand(2, 1, 8, 8).double(), r"expected x of torch.float32"),
    ):
        with pytest.raises(ShapeError, match=message):
            model(x)
    with pytest.raises(ShapeError, match=r"built for continuous data \(grey_levels=None\)"):
        SMALL["resnet"]()(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    x = torch.rand(3, 1, 8, 8)
    x[1, 0, 2, 3] = torch.nan
    with pytest.raises(DomainError, match="finite inputs, got NaN or infinity in 1 of 3 samples, first in sample 1"):
        model(x)
    model.validate = False
    assert model(x)[1].isnan().all()
    assert model(x)[[0, 2]].isfinite().all()
    with pytest.raises(ConfigError, match="expected eval mode, got training mode"):
        model.train().invert(torch.rand(2, 64, 1, 1))


def test_diverged_weights_are_refused():
    model = SMALL["irevnet"]().eval()
    with torch.no_grad():
        model.head[-1].bias[0] = torch.inf
    with pytest.raises(DomainError, match=r"finite results.*weights have diverged"):
        model(torch.rand(2, 1, 8, 8))


def test_networks_without_inverse_say_so():
    model = SMALL["revnet"]().eval()
    with pytest.raises(NotInvertibleError, match=r"member 1, Sequential, has no inverse"):
        model.invert(model.features(torch.rand(2, 1, 8, 8)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.revnet(37), r"models.revnet: expected depth to be one of 38, 110, 164, 56, 104, or None.*depth=37"),
        (lambda: models.revnet(), r"models.revnet: expected units of each stage.*Or give depth: 38"),
        (lambda: models.revnet(units=(2, 2), filters=(8, 8)), r"filters=\(8, 8\)"),
        (lambda: models.revnet(38, units=(2, 2)), r"or None beside units and filters"),
        (lambda: models.revnet(units=(2,), filters=(8, 9)), r"expected even filters, each half of them a stream, got 9"),
        (lambda: models.revnet(units=(2, 0), filters=(8, 8, 8)), r"expected units\[1\] to be an integer of at least 1, got 0"),
        (lambda: models.revnet(38, shape=(1, 2, 2)), r"height and width of at least 4.*got 2 x 2"),
        (lambda: models.revnet(38, shape=(8, 8)), r"expected shape \(channels, height, width\)"),
        (lambda: models.revnet(38, classes=0), r"expected classes to be an integer of at least 1, got 0"),
        (lambda: models.revnet(38, momentum=0.0), r"expected momentum in \(0, 1\], got 0.0"),
        (lambda: models.resnet(38), r"models.resnet: expected depth to be one of 32, 110, 164, 50, 101"),
        (lambda: models.irevnet("c"), r"models.irevnet: expected configuration to be one of 'a', 'b', 'cifar', got 'c'"),
        (lambda: models.irevnet(), r"expected blocks, channels and strides, got blocks=None.*Or give configuration: a, b, cifar"),
        (lambda: models.irevnet("cifar", kernels="wide"), r"expected kernels to be one of 'paper', 'released', got 'wide'"),
        (lambda: models.irevnet("cifar", kernels=(3, 2, 3)), r"expected three odd kernels.*got \(3, 2, 3\)"),
        (lambda: models.irevnet("cifar", squeeze=3), r"expected squeeze to be a power of two, got 3"),
        (lambda: models.irevnet("cifar", shape=(3, 30, 30)), r"height and width divisible by 4.*got 30 x 30"),
        (lambda: models.irevnet("cifar", strides=(1, 2, 3)), r"expected strides of 1 or 2, got \(1, 2, 3\)"),
        (lambda: models.irevnet("cifar", channels=(16, 64)), r"expected channels for each of 3 stages"),
        (lambda: models.irevnet("cifar", channels=(16, 32, 256)), r"channels\[1\] of at least 64 and divisible by 4.*got 32"),
        (lambda: models.irevnet("cifar", dropout=1.0), r"expected dropout in \[0, 1\)"),
        (lambda: models.build("revnet", {"deepness": 3}), r"models.revnet: got an unexpected keyword argument 'deepness'"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_published_configurations_follow_from_free_ones():
    own = IREVNETS["cifar"]
    free = models.irevnet(blocks=own.blocks, channels=own.channels, strides=own.strides, dropout=0.1, shape=own.shape)
    named = models.irevnet("cifar")
    assert [p.shape for p in free.parameters()] == [p.shape for p in named.parameters()]
    revnet = models.revnet(units=(3, 3, 3), filters=(32, 32, 64, 112))
    assert [p.shape for p in revnet.parameters()] == [p.shape for p in models.revnet(38).parameters()]
