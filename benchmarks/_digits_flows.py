"""Flows on the digits of scikit-learn: data, training, and what is left of the inverse."""

import copy
import math
import time
from collections.abc import Callable

import torch
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor

import invertible as inv
from invertible.stability import attack

TRAIN, LEVELS, BATCH, EVERY = 1500, 17, 128, 25
RADII = (0.03, 0.1)
# The columns of the tables, and the sets of the audit that they show.
SETS = {
    "test": "test",
    "uniform": "uniform",
    "Rademacher": "rademacher",
    "constant": "constant",
    "photographs": "other",
    "inverted": "inverted",
    "× 10": "scaled x10",
    "z, T = 1": "latents T=1",
    "z, T = 5": "latents T=5",
    **{f"attack {radius:g}": f"attack {radius:g}" for radius in RADII},
}
# Worst finite relative error, lost samples, and samples.
Judgement = dict[str, tuple[float, int, int]]


def digits() -> tuple[Tensor, Tensor]:
    """All digits in random order, grey levels 0 to 16, (1797, 64); and those behind `TRAIN`, dequantised on [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    x = torch.tensor(load_digits().data, dtype=torch.float32)
    x = x[torch.randperm(len(x), generator=generator)]
    unseen = x[TRAIN:]
    return x, (unseen + torch.rand(unseen.shape, generator=generator)) / LEVELS


def patches(count: int) -> Tensor:
    """Patches of 8 x 8 pixels of photographs, in grey, on [0, 1], (count, 64)."""
    generator = torch.Generator().manual_seed(1)
    photographs = [torch.tensor(image).float().mean(2) / 256 for image in load_sample_images().images]
    made = []
    for index in range(count):
        image = photographs[index % len(photographs)]
        top = int(torch.randint(image.shape[0] - 8, (), generator=generator))
        left = int(torch.randint(image.shape[1] - 8, (), generator=generator))
        made.append(image[top : top + 8, left : left + 8].flatten())
    return torch.stack(made)


def train(
    flow: inv.Flow, x: Tensor, held_out: Tensor, steps: int, extra: Callable[[Tensor, int], Tensor] | None = None
) -> dict:
    """Adam 1e-3; the flow ends with its last weights.

    Returns:
        Held-out negative log-likelihoods in nats, the best and the last one, the step of the best and its weights, and
        seconds.
    """
    generator = torch.Generator().manual_seed(0)
    flow.validate = False
    with torch.no_grad():
        flow.log_prob((x[:256] + torch.rand(256, 64, generator=generator)) / LEVELS)
    optimizer = torch.optim.Adam(flow.parameters(), 1e-3)
    found = {"best": math.inf, "best_step": 0, "weights": copy.deepcopy(flow.state_dict())}
    start, fit = time.perf_counter(), math.inf
    for step in range(1, steps + 1):
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        batch = (x[rows] + torch.rand(BATCH, 64, generator=generator)) / LEVELS
        loss = -flow.log_prob(batch).mean()
        if extra is not None:
            loss = loss + extra(batch, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % EVERY == 0:
            with torch.no_grad():
                fit = float(-flow.log_prob(held_out).mean())
            if fit < found["best"]:
                found |= {"best": fit, "best_step": step, "weights": copy.deepcopy(flow.state_dict())}
    return found | {"last": fit, "seconds": time.perf_counter() - start}


def judge(flow: inv.Flow, x: Tensor) -> Judgement:
    """Both round trips on the sets of the audit, 256 samples each, and on samples found by attacks on 64."""
    report = inv.audit(flow, x, other=patches(256), sections=(), samples=256, temperatures=(1.0, 5.0), control=False)
    found = {}
    for one in report.record.sets:
        errors = [error for each in (one.data, one.latent) if each is not None for error in each.errors]
        found[one.name] = (largest_finite(errors), one.non_finite, one.samples)
    for radius in RADII:
        result = attack(flow, x[:64], radius, steps=50, step_size=radius / 10, generator=0)
        found[f"attack {radius:g}"] = (largest_finite(result.error.tolist()), result.non_finite, len(result.error))
    return found


def largest_finite(errors: list[float]) -> float:
    """The largest of those that are finite, infinite if none is."""
    return max((error for error in errors if math.isfinite(error)), default=math.inf)


def cells(found: Judgement) -> list[str]:
    """Worst finite error and lost samples of each of `SETS`."""
    return [cell(*found[name]) for name in SETS.values()]


def cell(worst: float, lost: int, samples: int) -> str:
    """The text for one set."""
    if lost == samples:
        return "all lost"
    return f"{worst:.0e}" + (f" ({lost} lost)" if lost else "")


def failures(found: Judgement, tolerance: float) -> list[str]:
    """The sets on which a sample is lost or off by more than the tolerance."""
    return [f"{name}: {cell(*entry)}" for name, entry in found.items() if entry[1] or not entry[0] <= tolerance]
