"""Residual and continuous flows beside coupling flows and other libraries', after equal seconds of training.

python benchmarks/globally_invertible.py [--data moons ...] [--models ...] [--seconds 60] [--seeds 2] [--add]

Every model trains by Adam, cosine to zero over its time, gradients clipped at norm 10, one thread, for the same seconds
of processor time, and is judged by its exact held-out negative log-likelihood, in nats: residual blocks by dense
Jacobians, continuous flows by exact traces and forty steps of rk4, whatever they were trained with. The planes are
drawn anew at each step; the 64 pixels of the digits are 1,437 images with uniform noise anew. The entropy of the data
stands above a table where it is known.
With --add the new models are merged into the newest result on this machine.
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Callable

import _record
import torch
from _equal_seconds import Competitor, finite_mean, normflows_residual, ours, parameters, zuko_cnf
from torch import Tensor

import invertible as inv
from invertible.data.toys import TOYS

PLANES = ("moons", "checkerboard", "eight-gaussians", "two-spirals")
BATCH, DIGITS_BATCH, HELD_OUT = 512, 128, 20_000
CLIP, CHUNK = 10.0, 2_000


def planes() -> dict[str, Callable[[Tensor], Competitor]]:
    """Models of the plane by name; `published` are the shapes of the papers' own experiments there."""
    models = inv.models
    return {
        "coupling, spline": lambda x: ours(models.realnvp(2, layers=8, hidden=(64, 64), coupling="spline"), x, lr=2e-3),
        "coupling, affine": lambda x: ours(models.realnvp(2, layers=16, hidden=(64, 64)), x, lr=2e-3),
        "residual": lambda x: ours(models.residual_flow(2, blocks=8, hidden=(64, 64)), x, lr=5e-3),
        "residual, published": lambda x: ours(
            models.residual_flow(2, blocks=100, hidden=(128, 128, 128, 128)), x, lr=1e-3
        ),
        "continuous": lambda x: ours(
            models.ffjord(2, hidden=(64, 64, 64), solver={"method": "midpoint", "steps": 8}), x, lr=2e-3
        ),
        "continuous, adaptive": lambda x: ours(models.ffjord(2, hidden=(64, 64, 64)), x, lr=2e-3),
        "continuous, reversible": lambda x: ours(
            models.ffjord(2, hidden=(64, 64, 64), solver={"method": "reversible-midpoint", "steps": 8}), x, lr=2e-3
        ),
        "continuous, published": lambda x: ours(
            models.ffjord(
                2,
                hidden=(64, 64, 64),
                solver={"method": "dopri5", "rtol": 1e-5, "atol": 1e-5, "gradient": "adjoint"},
                trace="hutchinson",
                time=0.5,
                norm="none",
            ),
            x,
        ),
        "normflows residual": lambda x: normflows_residual(2, x),
        "zuko continuous": lambda x: zuko_cnf(2),
    }


def digits() -> dict[str, Callable[[Tensor], Competitor]]:
    """Models of 64 pixels by name."""
    models = inv.models
    return {
        "coupling, spline": lambda x: ours(models.realnvp(64, layers=8, hidden=(128, 128), coupling="spline"), x),
        "coupling, affine": lambda x: ours(models.realnvp(64, layers=8, hidden=(128, 128)), x),
        "residual": lambda x: ours(models.residual_flow(64, blocks=8, hidden=(128, 128)), x),
        "continuous": lambda x: ours(
            models.ffjord(64, hidden=(128, 128), trace="hutchinson", solver={"method": "midpoint", "steps": 8}), x
        ),
        "normflows residual": lambda x: normflows_residual(64, x, blocks=8),
        "zuko continuous": lambda x: zuko_cnf(64, (128, 128), exact=False),
    }


class Plane:
    """Points of a toy density, standardised by its own scale so that all models start alike."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.generator = name, torch.Generator().manual_seed(seed)
        self.dimensions, self.batch_size = 2, BATCH
        self.held_out = self._draw(HELD_OUT, torch.Generator().manual_seed(10_000))

    def _draw(self, n: int, generator: torch.Generator) -> Tensor:
        return TOYS[self.name](n, generator)[0].float() / 2

    def batch(self) -> Tensor:
        """New points."""
        return self._draw(self.batch_size, self.generator)

    @property
    def floor(self) -> float | None:
        """Entropy in nats, where it has a closed form."""
        return math.log(32) - 2 * math.log(2) if self.name == "checkerboard" else None


class Digits:
    """The 64 pixels of scikit-learn's digits, on [-2, 2], with uniform noise on the grey levels."""

    floor = None

    def __init__(self, seed: int) -> None:
        data = inv.data.load("digits")
        self.generator = torch.Generator().manual_seed(seed)
        self.train, self.dimensions, self.batch_size = data.train.x.flatten(1).float(), 64, DIGITS_BATCH
        test = torch.cat([data.validation.x, data.test.x]).flatten(1).float()
        self.held_out = self._noisy(test, torch.Generator().manual_seed(10_000))

    def _noisy(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return 4 * (x + torch.rand(x.shape, generator=generator)) / 17 - 2

    def batch(self) -> Tensor:
        """Images drawn at random, with new noise."""
        rows = torch.randint(len(self.train), (self.batch_size,), generator=self.generator)
        return self._noisy(self.train[rows], self.generator)


def train(competitor: Competitor, data: Plane | Digits, seconds: float) -> int:
    """Train for so many seconds of processor time; the number of steps."""
    optimizer = torch.optim.Adam(competitor.module.parameters(), competitor.lr)
    competitor.module.train()
    start, steps = time.process_time(), 0
    while (spent := (time.process_time() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = competitor.lr * (1 + math.cos(math.pi * spent)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss = competitor.loss(data.batch())
        if not bool(loss.isfinite()):
            break
        loss.backward()
        torch.nn.utils.clip_grad_norm_(competitor.module.parameters(), CLIP)
        optimizer.step()
        competitor.after_step()
        steps += 1
    return steps


@torch.no_grad()
def judge(competitor: Competitor, data: Plane | Digits) -> float:
    """Exact mean negative log-likelihood of the held-out samples, in nats."""
    competitor.module.eval()
    return finite_mean(-torch.cat([competitor.log_prob(part) for part in data.held_out.split(CHUNK)]))


def run(name: str, chosen: list[str] | None, seconds: float, seeds: int) -> dict[str, dict]:
    """Train every model on one data set."""
    builders, found = (digits() if name == "digits" else planes()), {}
    for model in [each for each in builders if chosen is None or each in chosen]:
        fits, steps, size = [], [], 0
        for seed in range(seeds):
            torch.manual_seed(seed)
            data = Digits(seed) if name == "digits" else Plane(name, seed)
            competitor = builders[model](data.batch())
            steps.append(train(competitor, data, seconds))
            fits.append(judge(competitor, data))
            size = parameters(competitor)
        found[model] = {"nats": fits, "steps": steps, "parameters": size, "floor": data.floor}
        print(name, model, found[model], flush=True)
    return found


def tables(results: dict[str, dict[str, dict]]) -> str:
    """One table a data set."""
    parts = []
    for name, models in results.items():
        rows = []
        for model, found in models.items():
            spread = f"{statistics.stdev(found['nats']):.3f}" if len(found["nats"]) > 1 else ""
            cells = [f"{statistics.mean(found['nats']):.3f}", spread, round(statistics.mean(found["steps"]))]
            rows.append([model, *cells, f"{found['parameters']:,}"])
        floor = next(iter(models.values()))["floor"]
        known = "" if floor is None else f" (entropy of the data: {floor:.3f})"
        header = ["", "held-out nats", "deviation", "steps", "parameters"]
        parts.append(f"{name}{known}:\n\n{_record.table(header, rows)}")
    return "\n\n".join(parts)


def earlier(out: object) -> dict:
    """The newest result on this machine."""
    files = sorted(out.glob(f"globally-invertible_{_record.machine()}_*.json"))  # type: ignore[attr-defined]
    return json.loads(files[-1].read_text()) if files else {}


def main() -> int:
    parser = _record.parser(__doc__)
    parser.add_argument("--data", nargs="+", default=[*PLANES, "digits"])
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--add", action="store_true", help="merge into the newest result on this machine")
    options = parser.parse_args()
    torch.set_num_threads(1)
    old = earlier(options.out) if options.add else {}
    results: dict[str, dict[str, dict]] = old.get("results", {})
    for name in options.data:
        results.setdefault(name, {}).update(run(name, options.models, options.seconds, options.seeds))
        record = {
            "environment": _record.environment("invertible", "normflows", "zuko", "torchode"),
            "seconds": options.seconds,
            "results": results,
        }
        title = f"Held-out likelihood after {options.seconds:g} seconds of training"
        _record.write(options.out, "globally-invertible", title, tables(results), record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
