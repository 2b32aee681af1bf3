"""Does a classifier keep its inverse while it is trained, and its memory-saving gradient? Digits, small.

python benchmarks/exploding_classifier.py [--epochs 40] [--seeds 1] [--only additive affine ...]

The experiment of Behrmann et al. (2021, section 5.2) on scikit-learn's digits: 2 levels of 16 steps (activation norm,
fixed shuffle, coupling), no factor-out, a linear head on batch-normalised features; Adam 1e-3, batches of 128, stored
activations. `affine` is Glow's scale sigmoid(r + 2). Measured at the end: accuracy on 297 images, the angle between
the stored gradient and the one that reversible recomputation gives without its guard on 4 batches of training data,
and the inverse of every test image. Exit status 1 if a stable variant loses its inverse, or its angle is above 0.01
degrees, or accuracies of the stable variants differ by more than 1 point.
"""

import math
import sys
import time
from dataclasses import dataclass

import _record
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import invertible as inv
from invertible.stability import FiniteDifferencePenalty, FlowPenalty, gradient_angle, round_trip, singular_values

TRAIN, BATCH, LEVELS, DEPTH, HIDDEN = 1500, 128, 2, 16, 32
# Degrees, and points of accuracy between the best and the worst of the stable variants.
ANGLE, ACCURACY = 0.01, 0.01


class Classifier(nn.Module):
    """An invertible trunk, and a head that is not."""

    def __init__(self, coupling: str, scale: str) -> None:
        super().__init__()
        blocks: list[inv.Bijection] = []
        for level in range(LEVELS):
            channels = 4 ** (level + 1)
            blocks.append(inv.Squeeze())
            for step in range(DEPTH):
                blocks += [inv.ActNorm(channels), inv.Permutation(channels, seed=100 * level + step)]
                options = {"hidden": (HIDDEN, HIDDEN), "spatial_dims": 2}
                if coupling == "additive":
                    blocks.append(inv.AdditiveCoupling(channels, **options))
                else:
                    blocks.append(inv.AffineCoupling(channels, scale=scale, order="glow", **options))
        self.trunk = inv.Chain(*blocks)
        self.norm, self.head = nn.BatchNorm1d(64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, features and log-determinant."""
        z, log_det = self.trunk(x)
        return self.head(functional.relu(self.norm(z.flatten(1)))), z, log_det


@dataclass
class Variant:
    """A classifier, and what keeps it invertible."""

    coupling: str = "affine"
    scale: str = "sigmoid"
    flow: float = 0.0
    differences: float = 0.0
    every: int = 1
    stable: bool = True


VARIANTS = {
    "affine": Variant(stable=False),
    "additive": Variant("additive"),
    "half-sigmoid": Variant(scale="half-sigmoid"),
    "affine, FlowPenalty": Variant(flow=1e-4),
    "affine, FiniteDifferencePenalty": Variant(differences=1e-3, every=2),
}


def images() -> tuple[Tensor, Tensor]:
    """Standardised digits (B, 1, 8, 8), and labels."""
    data = load_digits()
    order = torch.randperm(len(data.data), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.images, dtype=torch.float32)[order, None]
    return (x - x[:TRAIN].mean()) / x[:TRAIN].std(), torch.tensor(data.target)[order]


def train(variant: Variant, x: Tensor, labels: Tensor, epochs: int, seed: int) -> tuple[Classifier, dict]:
    """Train with stored activations; stops where the loss is not finite, as a user's training would be lost."""
    torch.manual_seed(seed)
    model = Classifier(variant.coupling, variant.scale)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    flow = FlowPenalty(variant.flow) if variant.flow else None
    differences = None
    if variant.differences:
        differences = FiniteDifferencePenalty(variant.differences, every=variant.every, generator=seed)
    start, steps = time.perf_counter(), 0
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            logits, z, log_det = model(x[rows])
            loss = functional.cross_entropy(logits, labels[rows])
            if flow is not None:
                loss = loss + flow(z, log_det)
            if differences is not None:
                loss = loss + differences(model.trunk, x[rows], step=steps)
            if not math.isfinite(loss.item()):
                return model.eval(), {"lost_at_step": steps, "seconds": time.perf_counter() - start}
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            steps += 1
    return model.eval(), {"lost_at_step": None, "seconds": time.perf_counter() - start}


def cross_entropy(model: Classifier, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The loss whose gradients are compared."""
    return functional.cross_entropy(model(batch[0])[0], batch[1])


def judge(model: Classifier, x: Tensor, labels: Tensor) -> dict:
    """Accuracy, gradients and inverses."""
    unseen, truth = x[TRAIN:], labels[TRAIN:]
    with torch.no_grad():
        accuracy = float((model(unseen)[0].argmax(1) == truth).float().mean())
    batches = [(x[rows], labels[rows]) for rows in torch.arange(TRAIN).split(BATCH)[:4]]
    angles = [gradient_angle(model, cross_entropy, batch).total for batch in batches]
    trip = round_trip(model.trunk, unseen)
    spectrum = singular_values(model.trunk, unseen[:32])
    return {
        "accuracy": accuracy,
        "angles": [angle.degrees for angle in angles],
        "non_finite": trip.data.non_finite,
        "median": trip.data.median,
        "worst": trip.data.worst,
        "smallest": float(spectrum.smallest.min()),
        "condition": float(spectrum.condition_number.max()),
    }


def row(name: str, found: dict) -> list[str]:
    """A line of the table."""
    finite = [angle for angle in found["angles"] if math.isfinite(angle)]
    lost = len(found["angles"]) - len(finite)
    angle = f"{max(finite):.1e}" if finite else "-"
    return [
        name,
        f"{found['accuracy']:.3f}",
        angle + (f" ({lost} of {len(found['angles'])} NaN)" if lost else ""),
        f"{found['non_finite']} of 297",
        f"{found['median']:.1e}",
        f"{found['worst']:.1e}",
        f"{found['smallest']:.1e}",
        f"{found['condition']:.1e}",
        f"{found['seconds']:.0f}",
    ]


def failures(results: dict[str, dict]) -> list[str]:
    """What misses the limits."""
    stable = {name: one for name, one in results.items() if one["stable"]}
    missed = []
    for name, one in stable.items():
        if one["non_finite"] or one["lost_at_step"] is not None:
            missed.append(f"{name}: {one['non_finite']} inverses lost")
        if not all(angle <= ANGLE for angle in one["angles"]):
            missed.append(f"{name}: angles {one['angles']}")
    accuracies = [one["accuracy"] for one in stable.values()]
    if accuracies and max(accuracies) - min(accuracies) > ACCURACY:
        missed.append(f"accuracies from {min(accuracies):.3f} to {max(accuracies):.3f}")
    return missed


def main() -> int:
    parser = _record.parser(__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, labels = images()
    results = {}
    for seed in range(options.seeds):
        for name in options.only:
            variant = VARIANTS[name]
            model, trained = train(variant, x[:TRAIN], labels[:TRAIN], options.epochs, seed)
            found = judge(model, x, labels) | trained | {"stable": variant.stable}
            results[name if options.seeds == 1 else f"{name}, seed {seed}"] = found
            print(f"{name}: {found}", flush=True)
    titles = ["", "accuracy", "largest angle, degrees", "lost inverses", "median error", "worst error"]
    titles += ["smallest σ", "condition", "seconds"]
    text = f"{options.epochs} epochs; relative round-trip errors over 297 test images; σ over 32 of them.\n\n"
    text += _record.table(titles, [row(*entry) for entry in results.items()])
    missed = failures(results)
    text += "\n\n" + ("All limits met." if not missed else "Missed: " + "; ".join(missed) + ".")
    data = {"environment": _record.environment("invertible", "scikit-learn"), "results": results, "missed": missed}
    _record.write(options.out, "exploding-classifier", "Exploding inverses in a classifier", text, data)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
