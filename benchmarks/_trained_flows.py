"""Flows after a short training, and latents of data, of data far away, and drawn at two temperatures."""

import copy
from collections.abc import Callable

import torch
from _random_networks import Truth, singular_values
from torch import Tensor

import invertible as inv

STEPS, BATCH, SAMPLES = 150, 128, 64
Pairs = Callable[[inv.Bijection, Truth, int], Tensor]


def _flows() -> dict[str, tuple[inv.Flow, Tensor]]:
    """Flows by name, and their data in [0, 1] or in the plane."""
    digits, moons = inv.data.load("digits"), inv.data.load("moons")
    x = (digits.train.x.float() + 0.5) / digits.levels
    return {
        "moons, RealNVP, exp": (inv.models.realnvp(2, layers=16, hidden=(64, 64), scale="exp"), moons.train.x.float()),
        "digits, RealNVP": (inv.models.realnvp(64, layers=8, hidden=(64, 64)), x.flatten(1)),
        "digits, RealNVP, exp": (inv.models.realnvp(64, layers=8, hidden=(64, 64), scale="exp"), x.flatten(1)),
        "digits, splines": (inv.models.realnvp(64, layers=6, hidden=(64, 64), coupling="spline"), x.flatten(1)),
        "digits, Glow, sigmoid": (inv.models.glow((1, 8, 8), levels=2, depth=6, hidden=32, scale="sigmoid"), x),
    }


def _train(flow: inv.Flow, x: Tensor, generator: torch.Generator) -> None:
    optimizer = torch.optim.Adam(flow.parameters(), 2e-3)
    for _ in range(STEPS):
        batch = x[torch.randint(len(x), (BATCH,), generator=generator)]
        loss = -flow.log_prob(batch + 0.02 * torch.randn(batch.shape, generator=generator)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
        optimizer.step()
    flow.eval()


def trained_pairs(pairs_of: Pairs) -> dict[str, Tensor]:
    """Pairs of every flow with latents of data, of data stretched and mirrored, and at temperatures 1 and 2."""
    found = {}
    for index, name in enumerate(_flows()):
        torch.manual_seed(index)
        generator = torch.Generator().manual_seed(index)
        flow, x = _flows()[name]
        flow.log_prob(x[:BATCH] + 0.02 * torch.randn(x[:BATCH].shape, generator=generator))
        _train(flow, x, generator)
        chosen = x[:SAMPLES]
        sources = (chosen, 1 - chosen, 3 * chosen - 1, torch.rand(chosen.shape, generator=generator))
        with torch.no_grad():
            latents = [flow.bijection(each)[0] for each in sources]
        latents += [flow.base.sample(SAMPLES, None, temperature, generator) for temperature in (1.0, 2.0)]
        y = torch.cat(latents)
        y = y[y.isfinite().flatten(1).all(1)]
        double = copy.deepcopy(flow.bijection).double()
        with torch.no_grad():
            exact, _ = double.inverse(y.double())
        found[name] = pairs_of(flow.bijection, Truth(y, exact.numpy(), singular_values(double, exact)), index)
    return found
