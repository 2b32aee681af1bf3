"""Contractive networks with a certified constant of 0.97: random, trained as flows, and trained to use the constant."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import invertible as inv
from invertible.blocks.lipschitz import LipschitzMLP, contractive

LIPSCHITZ = 0.97
BATCH, SAMPLES = 128, 128
# Of a network, or of the blocks of a flow in their order: name, networks, and inputs of the first.
Case = tuple[str, list[nn.Module], Tensor]


def mlp(features: int, hidden: int = 128, activation: type[nn.Module] = nn.ELU) -> nn.Module:
    """Three layers."""
    layers = [nn.Linear(features, hidden), activation(), nn.Linear(hidden, hidden), activation()]
    return contractive(nn.Sequential(*layers, nn.Linear(hidden, features)), LIPSCHITZ)


def convnet(channels: int = 1, hidden: int = 16) -> nn.Module:
    """Convolutions of 3, 1 and 3 pixels, as in residual flows."""
    layers = [nn.Conv2d(channels, hidden, 3, padding=1), nn.ELU(), nn.Conv2d(hidden, hidden, 1), nn.ELU()]
    return contractive(nn.Sequential(*layers, nn.Conv2d(hidden, channels, 3, padding=1)), LIPSCHITZ)


def digits(pixels: int) -> Tensor:
    """Digits with their grey levels dequantised and standardised, (N, 1, pixels, pixels)."""
    x = inv.data.load("digits").train.x.float()
    x = (x + torch.rand(x.shape)) / 17
    if pixels != x.shape[-1]:
        x = nn.functional.interpolate(x, size=(pixels, pixels), mode="bilinear")
        x = x + 0.02 * torch.randn(x.shape)
    return (x - x.mean()) / x.std()


def exact_log_det(g: nn.Module, x: Tensor) -> Tensor:
    """log|det(I + J)| of every sample, by the dense Jacobian."""
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: g(v[None])[0]))(x)
    return torch.linalg.slogdet(torch.eye(x.shape[1]) + jacobian)[1]


def series_log_det(g: nn.Module, x: Tensor, terms: int = 5) -> Tensor:
    """The first terms of sum_k (-1)^(k+1) v^T J^k v / k, v a Rademacher probe."""
    point = x.detach().requires_grad_() if not x.requires_grad else x
    value = g(point)
    v = torch.randint(0, 2, x.shape) * 2.0 - 1
    w, total = v, torch.zeros(len(x))
    for k in range(1, terms + 1):
        w = torch.autograd.grad(value, point, w, create_graph=True)[0]
        total = total + (-1) ** (k + 1) / k * (w * v).flatten(1).sum(1)
    return total


def fit(nets: list[nn.Module], draw: Callable[[], Tensor], log_det: Callable, steps: int) -> list[nn.Module]:
    """Maximum likelihood of a residual flow with a standard normal base."""
    optimizer = torch.optim.Adam([p for g in nets for p in g.parameters()], 2e-3)
    for _ in range(steps):
        x = draw()
        total = torch.zeros(len(x))
        for g in nets:
            total = total + log_det(g, x)
            x = x + g(x)
        loss = (x.flatten(1).square().sum(1) / 2 - total).mean() / x[0].numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return nets


def stretch(net: nn.Module, draw: Callable[[], Tensor], steps: int) -> nn.Module:
    """Trained to move neighbours as far apart as it may, in random directions: |g(x + d) - g(x)| against |d|."""
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(steps):
        x = draw()
        d = 0.1 * torch.randn(x.shape)
        ratio = (net(x + d) - net(x)).flatten(1).norm(dim=1) / d.flatten(1).norm(dim=1)
        optimizer.zero_grad()
        (-ratio.log().mean()).backward()
        optimizer.step()
    return net


def compress(net: nn.Module, draw: Callable[[], Tensor], steps: int) -> nn.Module:
    """Trained towards x + g(x) = 0, a map that brings all points together: what makes log_det negative."""
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(steps):
        x = draw()
        loss = (x + net(x)).square().sum() / x.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def cases(scale: float) -> list[Case]:
    """All of them; `scale` shortens the training."""
    torch.manual_seed(0)
    steps = lambda n: max(2, int(n * scale))  # noqa: E731
    made: list[Case] = []
    for features in (2, 16, 64, 784):
        made.append((f"random MLP, {features}-D", [mlp(features)], torch.randn(SAMPLES, features)))
    wide = LipschitzMLP(64, hidden=(256, 256, 256), lipschitz=LIPSCHITZ)
    made.append(("random LipschitzMLP, 64-D", [wide], torch.randn(SAMPLES, 64)))
    made.append(("random convolutions, 784-D", [convnet()], torch.randn(32, 1, 28, 28)))
    for name in ("checkerboard", "two-spirals"):
        x = inv.data.load(name).train.x.float()
        nets = fit([mlp(2, 64) for _ in range(6)], drawing(x), exact_log_det, steps(300))
        made.append((f"flow of {name}, 2-D, 6 blocks", nets, x[:SAMPLES]))
    x = digits(8).flatten(1)
    nets = fit([mlp(64) for _ in range(4)], drawing(x), series_log_det, steps(150))
    made.append(("flow of digits, 64-D, 4 blocks", nets, x[:SAMPLES]))
    x = digits(28)
    nets = fit([convnet() for _ in range(4)], drawing(x, 32), series_log_det, steps(30))
    made.append(("flow of digits, convolutions, 784-D, 4 blocks", nets, x[:32]))
    for features in (2, 16, 64):
        draw = lambda features=features: torch.randn(BATCH, features)  # noqa: E731
        made.append((f"stretching, {features}-D", [stretch(mlp(features), draw, steps(150))], draw()))
        made.append((f"compressing, {features}-D", [compress(mlp(features), draw, steps(150))], draw()))
    return made


def drawing(x: Tensor, count: int = BATCH) -> Callable[[], Tensor]:
    """Batches of a data set at random."""
    return lambda: x[torch.randint(len(x), (count,))]
