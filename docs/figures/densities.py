"""Draws docs/images/densities.png: densities of three families of flows on four sets of points, after equal seconds.

python docs/figures/densities.py [--seconds 60]
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch

import invertible as inv
from invertible.data.toys import TOYS
from invertible.solvers.ode.fixed_step import FixedStepSolver

matplotlib.use("Agg")
import matplotlib.pyplot as plt

IMAGES = Path(__file__).parents[1] / "images"
NAMES = ("moons", "checkerboard", "eight-gaussians", "two-spirals")
RADIUS, SIZE, BATCH, RATE = 4.5, 160, 256, 5e-3
MODELS = {
    "coupling (splines)": lambda: inv.models.realnvp(2, layers=8, hidden=(64, 64), coupling="spline"),
    "residual": lambda: inv.models.residual_flow(2, blocks=8, hidden=(64, 64)),
    "continuous": lambda: inv.models.ffjord(2, hidden=(64, 64, 64), solver={"method": "midpoint", "steps": 8}),
}


def trained(build: Callable[[], inv.Flow], name: str, seconds: float) -> inv.Flow:
    """A flow after so many seconds of processor time."""
    torch.manual_seed(0)
    generator, flow = torch.Generator().manual_seed(0), build()
    flow.validate = False

    def batch() -> torch.Tensor:
        return TOYS[name](BATCH, generator)[0].float() / 2

    with torch.no_grad():
        flow.log_prob(batch())
    optimizer, start = torch.optim.Adam(flow.parameters(), RATE), time.process_time()
    while (spent := (time.process_time() - start) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * spent)) / 2
        loss = -flow.log_prob(batch()).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 10)
        optimizer.step()
    for block in flow.modules():
        if isinstance(block, inv.ContinuousBlock):
            block.solver = FixedStepSolver("rk4", 40)
    return flow.eval()


@torch.no_grad()
def density(flow: inv.Flow) -> torch.Tensor:
    """On a grid of the plane, in the data's own units."""
    axis = torch.linspace(-RADIUS, RADIUS, SIZE) / 2
    points = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
    return torch.cat([flow.log_prob(part).exp() for part in points.split(4096)]).reshape(SIZE, SIZE)


def main() -> None:
    """Train, evaluate, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    figure, axes = plt.subplots(len(MODELS) + 1, len(NAMES), figsize=(9.2, 9.4), layout="constrained")
    extent = (-RADIUS, RADIUS, -RADIUS, RADIUS)
    for column, name in zip(axes.T, NAMES, strict=True):
        points = TOYS[name](30_000, torch.Generator().manual_seed(1))[0].numpy()
        column[0].hist2d(*points.T, bins=SIZE, range=[(-RADIUS, RADIUS)] * 2, cmap="magma")
        column[0].set_title(name.replace("-", " "), fontsize=10)
        for axis, (model, build) in zip(column[1:], MODELS.items(), strict=True):
            grid = density(trained(build, name, seconds))
            print(f"{name}, {model}: mass on the grid {float(grid.sum()) * (RADIUS / (SIZE - 1)) ** 2:.3f}", flush=True)
            axis.imshow(grid, origin="lower", extent=extent, cmap="magma", vmin=0, vmax=float(grid.quantile(0.995)))
    for axis, label in zip(axes[:, 0], ("data", *MODELS), strict=True):
        axis.set_ylabel(label, fontsize=10)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], aspect="equal", xlim=(-RADIUS, RADIUS), ylim=(-RADIUS, RADIUS))
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / "densities.png", dpi=130)
    print(f"wrote {IMAGES / 'densities.png'}")


if __name__ == "__main__":
    main()
