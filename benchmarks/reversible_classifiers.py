"""Is an invertible network weak? RevNet-38 beside ResNet-32 at equal parameters, and its gradients beside stored ones.

python benchmarks/reversible_classifiers.py [--data digits fashion-mnist] [--seeds 5 3] [--epochs 40 8] [--train 6000]

Both of `invertible.models`, 464,890 and 464,154 parameters, trained alike: SGD with momentum 0.9, learning rate 0.1 on
a cosine, weight decay 2e-4 on weights, batches of 100, batch normalisation with momentum 0.1, no augmentation on digits
(8 x 8), flips on Fashion-MNIST (28 x 28; a subset of its training images, 5,000 of its test images). A seed decides
weights and order, and on digits also which 360 of the 1797 images are the test set; both networks get the same. RevNet
trains with `memory="reversible"`. Every so many steps its gradient is measured against the stored one, by the angle in
float32 and by the relative error in float64, and its running statistics after a step against those of a stored step.

Exit status 1 if RevNet's mean accuracy is more than half a point below ResNet's, an angle reaches 0.01 degrees and that
of the stored gradient to its own in float64 as well, a float64 error reaches 1e-10, or a running statistic differs in
any bit.
With `--add FILE.json` the runs of an earlier call, of the same options but fewer seeds, are taken as they are.
"""

import argparse
import copy
import json
import math
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import _record
import torch
from torch import Tensor, nn
from torch.nn import functional

import invertible as inv
from invertible.stability import gradient_angle

BATCH, RATE, DECAY = 100, 0.1, 2e-4
POINTS, DEGREES, DOUBLE = 0.5, 0.01, 1e-10
NETWORKS = {"ResNet-32": (inv.models.resnet, 32), "RevNet-38": (inv.models.revnet, 38)}


@dataclass(frozen=True)
class Task:
    """Images and labels of a run; x uint8."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    levels: int
    flip: bool


def task(name: str, seed: int, limit: int) -> Task:
    """The data of a seed."""
    data = inv.data.load(name)
    if name == "digits":
        x, y = (torch.cat([getattr(s, key) for s in (data.train, data.validation, data.test)]) for key in ("x", "y"))
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        x, y = x[order], y[order]
        return Task((x[360:], y[360:]), (x[:360], y[:360]), data.levels, flip=False)
    train, test = data.train, data.test
    return Task((train.x[:limit], train.y[:limit]), (test.x[:5000], test.y[:5000]), data.levels, flip=True)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """SGD with decay of the weights of convolutions and linear layers alone."""
    weights = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": weights, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, RATE, momentum=0.9)


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The loss."""
    return functional.cross_entropy(model(batch[0]), batch[1])


def gradients(model: inv.Classifier, memory: str, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The whole gradient of a copy in training mode, and the buffers that the step leaves."""
    model = copy.deepcopy(model).train()
    inv.set_memory(model, memory)
    cross_entropy(model, batch).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()]), dict(model.named_buffers())


def compare(model: inv.Classifier, batch: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Reversible gradients and statistics beside stored ones."""
    model = copy.deepcopy(model).train()
    found = gradient_angle(model, cross_entropy, batch, reference=True)
    angle, own = found.total.degrees, found.reference.degrees if found.reference is not None else math.nan
    double = copy.deepcopy(model).double()
    (stored, _), (rebuilt, _) = (gradients(double, memory, batch) for memory in ("store", "reversible"))
    (_, before), (_, after) = (gradients(model, memory, batch) for memory in ("store", "reversible"))
    differing = sum(not torch.equal(before[name], after[name]) for name in before)
    error = float((rebuilt - stored).norm() / stored.norm())
    return {"degrees": angle, "stored_degrees": own, "double": error, "statistics": differing}


def train(network: str, data: Task, epochs: int, seed: int, checks: int) -> tuple[inv.Classifier, list[dict]]:
    """A trained network, and what was measured on the way."""
    torch.manual_seed(seed)
    build, depth = NETWORKS[network]
    x, y = data.train
    model = build(depth, shape=tuple(x.shape[1:]), momentum=0.1, grey_levels=data.levels)
    model.body[0].fit(model.scaled(x))
    reversible = network.startswith("Rev")
    inv.set_memory(model, "reversible" if reversible else "store")
    optimizer, steps = optimizer_of(model), epochs * (len(x) // BATCH)
    measured, step = [], 0
    while step < steps:
        for rows in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            images, labels = x[rows], y[rows]
            if data.flip:
                images = torch.where(torch.rand(len(rows), 1, 1, 1) < 0.5, images.flip(-1), images)
            if checks and reversible and step % max(1, steps // checks) == 0:
                with torch.random.fork_rng():
                    measured.append({"step": step} | compare(model, (images, labels)))
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 + math.cos(math.pi * step / steps)) / 2
            loss = cross_entropy(model, (images, labels))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
    return model.eval(), measured


@torch.no_grad()
def accuracy(model: inv.Classifier, data: tuple[Tensor, Tensor]) -> float:
    """In percent."""
    right = sum(int((model.predict(x) == y).sum()) for x, y in zip(*(part.split(250) for part in data), strict=True))
    return 100 * right / len(data[0])


def run(name: str, options: argparse.Namespace, seeds: int, epochs: int) -> list[dict]:
    """All runs on a data set; the networks take turns."""
    found = [one for one in options.earlier if one["data"] == name]
    for seed in range(seeds):
        if any(one["seed"] == seed for one in found):
            continue
        data = task(name, seed, options.train)
        for network in NETWORKS:
            start = time.perf_counter()
            model, measured = train(network, data, epochs, seed, options.checks if seed == 0 else 0)
            alarms = inv.memory.report(model).alarms
            result = {"data": name, "network": network, "seed": seed, "accuracy": accuracy(model, data.test)}
            found.append(result | {"seconds": time.perf_counter() - start, "alarms": alarms, "gradients": measured})
            print({key: value for key, value in found[-1].items() if key != "gradients"}, flush=True)
    return found


def spread(values: list[float]) -> str:
    """Mean and deviation."""
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values) if len(values) > 1 else math.nan:.2f}"


def summary(name: str, runs: list[dict]) -> tuple[list[list[str]], list[str]]:
    """Rows of the table, and what misses its limit."""
    rows, missed, means = [], [], {}
    for network in NETWORKS:
        values = [one["accuracy"] for one in runs if one["network"] == network]
        means[network] = statistics.mean(values)
        seconds = statistics.median(one["seconds"] for one in runs if one["network"] == network)
        rows.append([name, network, spread(values), f"{min(values):.2f}", str(len(values)), f"{seconds:.0f}"])
    gap = means["RevNet-38"] - means["ResNet-32"]
    rows.append([name, "difference of means", f"{gap:+.2f}", "", "", ""])
    if gap < -POINTS:
        missed.append(f"{name}: RevNet is {-gap:.2f} points below ResNet")
    for one in (each for run in runs for each in run["gradients"]):
        allowed = max(DEGREES, one.get("stored_degrees", 0.0))
        if not (one["degrees"] < allowed and one["double"] < DOUBLE and one["statistics"] == 0):
            missed.append(f"{name}: gradients at step {one['step']}: {one}")
    return rows, missed


def gradient_rows(runs: list[dict]) -> list[list[str]]:
    """The course of the gradient's errors, and the worst of them."""
    rows = []
    for name, one in ((run["data"], one) for run in runs for one in run["gradients"]):
        own = f"{one['stored_degrees']:.1e}" if "stored_degrees" in one else "-"
        errors = [f"{one['degrees']:.1e}", own, f"{one['double']:.1e}", str(one["statistics"])]
        rows.append([name, str(one["step"]), *errors])
    return rows


def main() -> int:
    parser = _record.parser(__doc__)
    parser.add_argument("--data", nargs="*", default=["digits", "fashion-mnist"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[5, 3])
    parser.add_argument("--epochs", nargs="*", type=int, default=[40, 8])
    parser.add_argument("--train", type=int, default=6000, help="training images of Fashion-MNIST")
    parser.add_argument("--checks", type=int, default=12, help="comparisons of gradients in the first run")
    parser.add_argument("--add", type=Path, help="results of an earlier call, to be added to")
    options = parser.parse_args()
    options.earlier = [] if options.add is None else json.loads(options.add.read_text())["runs"]
    torch.set_num_threads(1)
    runs, rows, missed = [], [], []
    for name, seeds, epochs in zip(options.data, options.seeds, options.epochs, strict=True):
        found = run(name, options, seeds, epochs)
        more, failed = summary(name, found)
        runs, rows, missed = runs + found, rows + more, missed + failed
    text = _record.table(["data", "network", "test accuracy, %", "worst seed", "seeds", "seconds a run"], rows)
    titles = ["data", "step", "angle, degrees (float32)", "stored to float64, degrees", "relative error (float64)"]
    titles += ["statistics that differ"]
    text += "\n\nReversible gradients of RevNet-38 beside stored ones, in the first run:\n\n"
    text += _record.table(titles, gradient_rows(runs))
    text += "\n\n" + ("All limits met." if not missed else "Missed: " + "; ".join(missed) + ".")
    data = {"environment": _record.environment("invertible"), "runs": runs, "missed": missed}
    _record.write(options.out, "reversible-classifiers", "RevNet-38 beside ResNet-32", text, data)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
