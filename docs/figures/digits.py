"""The picture of docs/guides/digits.md: predicted against true errors of float32 inverses.

python docs/figures/digits.py [--networks 60] [--out docs/images/digits.png]
"""

import argparse
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.colors import LogNorm

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from _random_networks import condition_numbers, random_network, scale_to, truth  # noqa: E402

from invertible.stability.digits import LOST_ABOVE, trusted_digits  # noqa: E402

EPS = torch.finfo(torch.float32).eps
SAMPLES = 12
LOW, HIGH, SHELF = 1e-8, 3.0, 12.0


def pairs(networks: int) -> torch.Tensor:
    """Condition number, and relative to |x|: true error, bound, eps |y|/s_min; a row for each flow and sample."""
    generator, found = torch.Generator().manual_seed(7), []
    for _ in range(networks):
        network = random_network(generator)
        scale_to(network, 10 ** (1 + 11 * float(torch.rand((), generator=generator))), generator)
        exact = truth(network, SAMPLES, generator)
        if not len(exact.y):
            continue
        bound = trusted_digits(network.chain, exact.y)
        naive = EPS * exact.y.double().flatten(1).norm(dim=1) / exact.values[:, -1]
        errors = torch.stack((exact.error(bound.x), bound.error, naive), 1) / exact.norm[:, None]
        found.append(torch.cat((condition_numbers(exact.values)[:, None], errors), 1))
    found = torch.cat(found)
    return found[found[:, 0] < 1e12]


def draw(axes: plt.Axes, values: torch.Tensor, title: str) -> mpl.collections.PathCollection:
    """One panel: what was predicted over what is true; what was called lost on a shelf at the top."""
    condition, true, predicted = values.T.clamp(max=1e30)
    optimistic = predicted < true
    shown = torch.where(predicted > LOST_ABOVE, SHELF, predicted) if title.startswith("trusted") else predicted
    order = condition.argsort()
    axes.plot([LOW, HIGH], [LOW, HIGH], color="0.15", lw=1.2)
    axes.plot([LOW, HIGH], [100 * LOW, 100 * HIGH], color="0.6", lw=1, ls="--")
    axes.fill_between([LOW, HIGH], [LOW / 100] * 2, [LOW, HIGH], color="#d62728", alpha=0.08, lw=0)
    points = axes.scatter(
        true[order].clamp(LOW * 1.2, HIGH / 1.2),
        shown[order].clamp(LOW * 1.2, SHELF),
        c=condition[order],
        norm=LogNorm(1, 1e12),
        cmap="viridis",
        s=9,
        alpha=0.75,
        linewidths=0,
    )
    share = float(optimistic.double().mean())
    axes.text(0.97, 0.05, f"too optimistic: {share:.1%}", transform=axes.transAxes, ha="right", color="#a01c1c")
    axes.text(2.2 * LOW, 3.2 * LOW, "exact", rotation=40, fontsize=8, color="0.15", ha="left", va="bottom")
    axes.text(2.2 * LOW, 330 * LOW, "100 x", rotation=40, fontsize=8, color="0.45", ha="left", va="bottom")
    axes.set(xscale="log", yscale="log", xlim=(LOW, HIGH), ylim=(LOW, 2 * SHELF), title=title)
    axes.set_xlabel("true relative error of the inverse")
    axes.spines[["top", "right"]].set_visible(False)
    return points


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=60)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "digits.png")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = pairs(options.networks)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.4), sharey=True, layout="constrained", dpi=150)
    points = draw(left, found[:, [0, 1, 2]], "trusted_digits: the bound")
    left.axhline(0.4 * SHELF, color="0.8", lw=0.8)
    left.text(1.6 * LOW, 0.55 * SHELF, "called lost", fontsize=8, color="0.35", va="bottom")
    draw(right, found[:, [0, 1, 3]], r"eps $|y|$ / smallest singular value")
    left.set_ylabel("predicted relative error")
    figure.colorbar(points, ax=(left, right), label="condition number of the Jacobian", pad=0.01)
    figure.savefig(options.out)


if __name__ == "__main__":
    main()
