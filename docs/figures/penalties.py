"""What penalties keep: `python docs/figures/penalties.py` writes docs/images/penalties.png and prints a table.

A chain of eight couplings learns x -> (0, x1 + x2), as in the regression of Behrmann et al. (2021): the
best fit has no inverse. Less than a minute of CPU time.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

import invertible as inv
from invertible.stability.finite_differences import FiniteDifferencePenalty
from invertible.stability.flow_penalty import FlowPenalty
from invertible.stability.round_trip import round_trip
from invertible.stability.spectrum import singular_values

STEPS, EVERY = 800, 40
INK, SOFT, GRID = "#22252b", "#7a808a", "#e3e5e9"


@dataclass
class Curve:
    """A training: its name and colour, and what was measured at each check."""

    name: str
    colour: str
    penalty: Callable[[inv.Chain, torch.Tensor], torch.Tensor] | None
    steps: list[int] = field(default_factory=list)
    smallest: list[float] = field(default_factory=list)
    worst: list[float] = field(default_factory=list)
    fit: float = 0.0
    milliseconds: float = 0.0


def couplings() -> inv.Chain:
    """Eight affine couplings with Glow's scale, which comes as close to 0 as training likes."""
    torch.manual_seed(0)
    return inv.Chain(*[inv.AffineCoupling(2, hidden=(16, 16), scale="sigmoid", flip=i % 2 == 1) for i in range(8)])


def train(curve: Curve) -> None:
    """Fit the target, with the curve's penalty beside the loss."""
    net = couplings()
    x = torch.randn(256, 2, generator=torch.Generator().manual_seed(1))
    target = torch.stack((torch.zeros(len(x)), x.sum(1)), 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    seconds = 0.0
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            curve.steps.append(step)
            curve.smallest.append(float(singular_values(net, x[:64], method="dense").smallest.min()))
            curve.worst.append(round_trip(net, x).data.worst)
        start = time.perf_counter()
        loss = (net(x)[0] - target).square().mean()
        curve.fit = float(loss.detach())
        if curve.penalty is not None:
            loss = loss + curve.penalty(net, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds += time.perf_counter() - start
    curve.milliseconds = 1e3 * seconds / (STEPS + 1)


def draw(curves: list[Curve], path: Path) -> None:
    """Two panels over the steps: the smallest singular value, and the worst round trip."""
    settings = {"font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GRID}
    with plt.rc_context(settings):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.3), layout="constrained")
        for curve in curves:
            left.plot(curve.steps, curve.smallest, color=curve.colour, linewidth=1.8, label=curve.name)
            right.plot(curve.steps, curve.worst, color=curve.colour, linewidth=1.8)
        left.set_title("smallest singular value of the Jacobian", loc="left", fontsize=9.5, color=INK)
        right.set_title("worst relative error of a round trip, float32", loc="left", fontsize=9.5, color=INK)
        for axes in (left, right):
            axes.set(yscale="log", xlabel="step", xlim=(0, STEPS))
            axes.grid(axis="y", color=GRID, linewidth=0.6)
            axes.tick_params(length=0, colors=SOFT)
            axes.minorticks_off()
        figure.legend(loc="outside lower center", ncols=len(curves), frameon=False, labelcolor=INK)
        figure.savefig(path, dpi=150, metadata={"Software": None})


def main() -> None:
    """Train, print, draw."""
    flow = FlowPenalty(1e-4)
    curves = [
        Curve("no penalty", "#d64550", None),
        Curve("FlowPenalty(1e-4)", "#3b6fd6", lambda net, x: flow(*net(x))),
        Curve("FiniteDifferencePenalty(1e-5, every=10)", "#2f9e77", FiniteDifferencePenalty(1e-5, every=10)),
    ]
    print(f"{'':40} {'squared error':>14} {'smallest s':>11} {'worst error':>12} {'ms a step':>10}")
    for curve in curves:
        train(curve)
        figures = f"{curve.fit:14.1e} {curve.smallest[-1]:11.1e} {curve.worst[-1]:12.1e} {curve.milliseconds:10.1f}"
        print(f"{curve.name:40} {figures}", flush=True)
    draw(curves, Path(__file__).parents[1] / "images" / "penalties.png")


if __name__ == "__main__":
    main()
