"""A bijective i-RevNet on digits, looked into: its Jacobian, its inverse, and how classes come apart with depth.

python benchmarks/irevnet_digits.py [--seeds 3] [--epochs 20] [--save irevnet.safetensors]

`models.irevnet` from 64 pixels to 64 features (8 x 8 digits, space-to-depth, twelve blocks in two stages), trained on
the 1455 training images: SGD with Nesterov's momentum 0.9, learning rate 0.1 on a cosine, weight decay 5e-3, batches of
64, no augmentation, `memory="reversible"`. A seed decides weights and order. Measured on the 180 test images: accuracy,
all 64 singular values of the Jacobian of 64 of them, the round trip in float32 and float64, the accuracy of a linear
support vector machine and of the nearest neighbour by depth, principal components by depth. `--save` keeps the first
seed's model, for `invertible inspect`.

Exit status 1 if an accuracy is below 97 %, an inverse not finite or off by 1e-4 in float32 or 1e-12 in float64, or
the accuracies on averaged features do not rise from the input to the last layer.
"""

import copy
import math
import statistics
import sys
import time
from pathlib import Path

import _record
import torch
from torch.nn import functional

import invertible as inv
from invertible.representations import Labelled, contraction, dimension, separation, spectrum
from invertible.stability import relative_error

STAGES = {"squeeze": 2, "blocks": (6, 6), "channels": (2, 8), "strides": (1, 2), "hidden": (32, 32)}
BATCH, RATE, DECAY = 64, 0.1, 5e-3
JACOBIANS = 64


def trained(digits: inv.data.DataSet, epochs: int, seed: int) -> inv.Classifier:
    """The network, in eval mode."""
    torch.manual_seed(seed)
    x, y = digits.train.x, digits.train.y
    model = inv.models.irevnet(shape=digits.shape, grey_levels=digits.levels, **STAGES)
    model.body[0].fit(model.scaled(x))
    inv.set_memory(model, "reversible")
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=DECAY, nesterov=True)
    steps, step = epochs * (len(x) // BATCH), 0
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 + math.cos(math.pi * step / steps)) / 2
            loss = functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
    return model.eval()


@torch.no_grad()
def accuracy(model: inv.Classifier, digits: inv.data.DataSet) -> float:
    """Of the test images, 0 to 1."""
    return float((model.predict(digits.test.x) == digits.test.y).double().mean())


@torch.no_grad()
def round_trip(model: inv.Classifier, digits: inv.data.DataSet) -> tuple[float, float]:
    """Largest relative error of all test images, in float32 and in float64."""
    found = []
    for each in (model, copy.deepcopy(model).double()):
        x = each.scaled(digits.test.x)
        found.append(float(relative_error(x, each.invert(each.features(x))).max()))
    return found[0], found[1]


def look(model: inv.Classifier, digits: inv.data.DataSet) -> dict:
    """All figures of one network."""
    train, test = (Labelled(part.x, part.y) for part in (digits.train, digits.test))
    jacobian = spectrum(model, test.x[:JACOBIANS])
    single, double = round_trip(model, digits)
    condition = jacobian.condition_number
    by_depth = {pooling: separation(model, train, test, pooling=pooling) for pooling in ("mean", "flatten")}
    return {
        "accuracy": accuracy(model, digits),
        "largest": float(jacobian.values.max()),
        "smallest": float(jacobian.values.min()),
        "condition_median": float(condition.median()),
        "condition_worst": float(condition.max()),
        "singular_values_median": jacobian.values.median(0).values.tolist(),
        "float32": single,
        "float64": double,
        "svm": {pooling: [point.svm for point in each.points] for pooling, each in by_depth.items()},
        "nearest": {pooling: [point.nearest for point in each.points] for pooling, each in by_depth.items()},
        "components": [point.components for point in dimension(model, train, test).points],
        "within_to_between": [point.within_to_between for point in contraction(model, test).points],
    }


def by_depth_rows(found: dict) -> list[list]:
    """One row a depth."""
    columns = [
        *(found[kind][pooling] for pooling in ("mean", "flatten") for kind in ("svm", "nearest")),
        found["within_to_between"],
    ]
    return [
        [depth, *(f"{100 * value:.1f}" for value in row[:4]), f"{row[4]:.3f}", *found["components"][depth]]
        for depth, row in enumerate(zip(*columns, strict=True))
    ]


def failures(runs: list[dict]) -> list[str]:
    """What misses its limit."""
    missed = []
    for run in runs:
        rises = all(run[kind]["mean"][-1] > run[kind]["mean"][0] for kind in ("svm", "nearest"))
        held = run["float32"] < 1e-4 and run["float64"] < 1e-12
        if not (rises and held and run["accuracy"] >= 0.97):
            missed.append(
                f"seed {run['seed']}: accuracy {run['accuracy']:.3f}, errors {run['float32']:.1e} and "
                f"{run['float64']:.1e}, accuracies {'rise' if rises else 'do not rise'}"
            )
    return missed


def main() -> int:
    parser = _record.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--save", type=Path, help="where to keep the first seed's model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    digits, runs = inv.data.load("digits"), []
    for seed in range(options.seeds):
        start = time.perf_counter()
        model = trained(digits, options.epochs, seed)
        seconds = time.perf_counter() - start
        if options.save and not seed:
            inv.save(model, options.save)
        runs.append({"seed": seed, "seconds": seconds} | look(model, digits))
        print(seed, f"{seconds:.0f} s", {k: v for k, v in runs[-1].items() if isinstance(v, float)}, flush=True)
    keys = ("largest", "smallest", "condition_median", "condition_worst", "float32", "float64")
    rows = [
        [run["seed"], f"{100 * run['accuracy']:.1f}", *(f"{run[key]:.2g}" for key in keys), f"{run['seconds']:.0f}"]
        for run in runs
    ]
    titles = ["seed", "test accuracy, %", "largest s", "smallest s", "condition, median", "condition, worst"]
    text = _record.table([*titles, "round trip float32", "round trip float64", "training, s"], rows)
    text += f"\n\nMean accuracy {100 * statistics.mean(run['accuracy'] for run in runs):.2f} %. s: singular values.\n\n"
    text += "Seed 0 by depth: accuracies in %, mean distance within classes over that between, components for 90, 95, "
    text += "99 % of the variance.\n\n"
    columns = ["SVM, averaged", "1-NN, averaged", "SVM, all", "1-NN, all", "within/between", "90 %", "95 %", "99 %"]
    text += _record.table(["depth", *columns], by_depth_rows(runs[0]))
    missed = failures(runs)
    text += "\n\n" + ("All limits met." if not missed else "Missed: " + "; ".join(missed) + ".")
    record = {"environment": _record.environment("invertible", "scikit-learn"), "runs": runs, "missed": missed}
    _record.write(options.out, "irevnet-digits", "A bijective i-RevNet on digits, looked into", text, record)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
