"""The models that reconstruct: sizes, scaling, independence of samples, files, errors; and what the baselines compute."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import invertible as inv
from invertible import ConfigError, DomainError, ShapeError, memory
from invertible.models.irim import irim
from invertible.models.rim import ConvGRUCell, rim
from invertible.models.unet import UNet, unet
from invertible.physics.operator import Observation
from tests.models.observations import scan

pytestmark = pytest.mark.usefixtures("float64")
MODELS = {
    "irim": lambda: irim(steps=2, channels=8, hidden=(4, 4), factors=(1, 2)),
    "irim-output": lambda: irim(steps=2, channels=6, hidden=(4,), factors=(2,), output_channels=2),
    "rim": lambda: rim(steps=3, hidden=(4, 6)),
    "unet": lambda: unet(channels=4, levels=2),
}
BUILDERS = {"irim": irim, "rim": rim, "unet": unet}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_published_numbers_of_parameters() -> None:
    with torch.device("meta"):
        assert parameters(rim()) == 94_464
        assert parameters(unet(image_channels=1)) == 7_756_097


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_result_scales_with_the_data(name: str) -> None:
    model, observation = MODELS[name]().eval(), scan()
    factors = torch.tensor([3.0, 1e-4])
    expected = model(observation) * factors.view(-1, 1, 1, 1)
    found = model(observation.scaled(factors))
    assert found.shape == observation.backprojection().shape
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert not torch.allclose(model(observation), observation.backprojection(), atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_samples_do_not_depend_on_each_other(name: str) -> None:
    model, observation = MODELS[name]().eval(), scan()
    changed = observation.data.clone()
    changed[1] = changed[1].flip(-1) * 7
    assert torch.allclose(model(replace(observation, data=changed))[0], model(observation)[0], atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_its_config_rebuilds_it(name: str) -> None:
    model, observation = MODELS[name](), scan()
    config = json.loads(json.dumps(model.config))
    again = BUILDERS[config["model"]](**config["arguments"])
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(observation), model(observation))


@pytest.mark.parametrize("name", MODELS)
def test_refuses_what_is_not_finite_or_does_not_fit(name: str) -> None:
    model, observation = MODELS[name](), scan()
    data = observation.data.clone()
    data[1, 0, 0, 0] = torch.nan
    with pytest.raises(
        DomainError, match="finite observation, got NaN or infinity in 1 of 2 samples, first in sample 1"
    ):
        model(replace(observation, data=data))
    with pytest.raises(ShapeError, match=r"expected x of shape \(batch, 2"):
        model(scan(coils=2))
    with torch.no_grad():
        next(p for p in model.parameters() if p.dim() > 1).fill_(torch.inf)
    with pytest.raises(DomainError, match="finite result"):
        model(observation)
    model.validate = False
    assert not model(observation).isfinite().all()


@torch.no_grad()
def test_an_image_without_signal_stays_so() -> None:
    observation = scan()
    model = unet(channels=4, levels=2)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    silent = Observation(observation.operator, torch.zeros_like(observation.data))
    assert torch.equal(model(silent), torch.zeros(2, 2, 13, 15))


def test_deviations_are_those_of_the_centre() -> None:
    observation = scan()
    image = observation.backprojection()
    _, scaled, deviations = unet(channels=4, levels=1, crop=5).normalised(observation)
    centre = image[..., 4:9, 5:10]
    assert torch.allclose(deviations, centre.flatten(1).std(1, correction=0))
    assert torch.allclose(scaled * deviations.view(-1, 1, 1, 1), image)


def test_the_recurrent_cell_is_that_of_torch_at_every_pixel() -> None:
    cell, theirs = ConvGRUCell(3, 5), nn.GRUCell(3, 5)
    with torch.no_grad():
        # torch has (reset, update, new), and h <- (1 - z) n + z h.
        for own, weight, bias in (
            (cell.of_input, theirs.weight_ih, theirs.bias_ih),
            (cell.of_state, theirs.weight_hh, theirs.bias_hh),
        ):
            own.bias.normal_()
            z, r, n = own.weight[..., 0, 0].chunk(3)
            weight.copy_(torch.cat((r, -z, n)))
            z, r, n = own.bias.chunk(3)
            bias.copy_(torch.cat((r, -z, n)))
    x, h = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    rows = theirs(x.movedim(1, -1).flatten(0, -2), h.movedim(1, -1).flatten(0, -2))
    assert torch.allclose(cell(x, h).movedim(1, -1).flatten(0, -2), rows, atol=1e-13)


@torch.no_grad()
def test_the_recurrent_machine_adds_what_its_network_makes_of_the_gradient() -> None:
    model, observation = rim(steps=2, hidden=(4,), kernels=(3, 3), dilations=(1, 1)), scan()
    scaled, image, _ = model.normalised(observation)
    (network,) = model.core.blocks
    estimate, hidden = image, network.start(image)
    for found in model.core.estimates(scaled, image, every=True):
        delta, hidden = network(torch.cat((estimate, scaled.gradient(estimate)), 1), hidden)
        estimate = estimate + delta
        assert torch.allclose(found, estimate, atol=1e-13)


@pytest.mark.parametrize("strategy", ["checkpoint", "recursive", "reversible"])
def test_the_recurrent_machine_under_other_strategies(strategy: str) -> None:
    model, observation = rim(steps=6, hidden=(4, 4)), scan()
    found = []
    for each in ("store", strategy):
        inv.set_memory(model, each)
        model.zero_grad()
        sum(one.square().mean() for one in model.estimates(observation)).backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.equal(*found)
    assert memory.report(model).chains[0].log.passes == 1


@pytest.mark.parametrize("sizes", [(8, 8), (9, 14), (5, 21)])
@torch.no_grad()
def test_the_u_net_takes_any_size(sizes: tuple[int, int]) -> None:
    net = UNet(2, 3, 4, 2, 0.0)
    x = torch.randn(1, 2, *sizes)
    assert net(x).shape == (1, 3, *sizes)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: rim(kernels=(5, 3)), "a kernel and a dilation more"),
        (lambda: rim(kernels=(4, 3, 3)), "odd kernels"),
        (lambda: rim(steps=0), "steps"),
        (lambda: unet(output_channels=1), "residual=False"),
        (lambda: unet(dropout=1.0), "dropout"),
        (lambda: unet(levels=0), "levels"),
        (lambda: irim(crop=0), "crop"),
    ],
)
def test_refuses_at_construction(build, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()
