"""Errors of refined inverses: `python docs/figures/inverses.py` writes docs/images/inverses.png."""

import copy
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

import invertible as inv
from invertible.stability.shooting import Shooting
from invertible.stability.states import derivative

SWEEPS, SAMPLES, FEATURES = 6, 32, 8
INK, SOFT = "#1f2937", "#9ca3af"
# Couplings, noise of their weights, colour.
NETWORKS = ((8, 1.0, "#2563eb"), (16, 1.5, "#059669"), (16, 2.0, "#dc2626"))


@torch.no_grad()
def flow(couplings: int, noise: float, seed: int) -> inv.Chain:
    """Affine couplings with strong random weights, between orthogonal layers."""
    torch.manual_seed(seed)
    blocks: list[inv.Bijection] = []
    for index in range(couplings):
        coupling = inv.AffineCoupling(FEATURES, hidden=(32,), flip=index % 2 == 1)
        for p in coupling.parameters():
            p += noise * torch.randn_like(p) / max(1, p[0].numel()) ** 0.5
        blocks += [inv.InvertibleLinear(FEATURES, "orthogonal"), coupling]
    return inv.Chain(*blocks).eval()


def errors(found: Tensor, x: Tensor) -> Tensor:
    """Relative error of every sample."""
    return ((found.double() - x).norm(dim=1) / x.norm(dim=1)).nan_to_num(nan=math.inf)


def condition(double: inv.Chain, x: Tensor) -> float:
    """Median condition number."""
    jacobians = torch.func.vmap(torch.func.jacfwd(lambda row: double(row[None])[0][0]))(x)
    return float(torch.linalg.cond(jacobians).median())


@torch.no_grad()
def single_shooting(f: inv.Chain, double: inv.Chain, y: Tensor, x: Tensor) -> list[float]:
    """Worst error at the start and after every correction by the residual of the whole map."""
    found = f.inverse(y.float())[0].double()
    worst = [float(errors(found, x).max())]
    for _ in range(SWEEPS):
        miss = (y - double(found)[0]).float()
        _, along = derivative(lambda state, _: (f.inverse(state[0])[0],), (y.float(),), (miss,), None)
        found = found + along[0].double()
        worst.append(float(errors(found, x).max()))
    return worst


@torch.no_grad()
def by_sweep(axis: plt.Axes) -> None:
    """Worst error against the number of sweeps."""
    for couplings, noise, colour in NETWORKS:
        f = flow(couplings, noise, seed=16)
        double = copy.deepcopy(f).double()
        x = torch.randn(SAMPLES, FEATURES, dtype=torch.float64)
        y = double(x)[0]
        shooting = Shooting(f, double, None, torch.float32, torch.float64)
        path = shooting.trajectory(y, precise=False)
        worst = [float(errors(path.x, x).max())]
        for _ in range(SWEEPS):
            path = shooting.sweep(path)
            worst.append(float(errors(path.x, x).max()))
        reference = float(errors(double.inverse(y)[0], x).max())
        exponent = round(math.log10(condition(double, x)))
        axis.plot(worst, "o-", color=colour, ms=5, lw=1.8, label=f"condition $10^{{{exponent}}}$")
        axis.axhline(reference, color=colour, ls="--", lw=1)
        axis.plot(single_shooting(f, double, y, x), ".-", color=SOFT, lw=1, zorder=0)
    axis.set(yscale="log", xlabel="sweeps", ylabel="worst relative error of x", ylim=(1e-15, 1e9))
    axis.set_title("float32 networks, refined", color=INK, loc="left", fontsize=11)
    axis.text(5.9, 3e7, "single shooting", color=SOFT, ha="right", fontsize=9)
    axis.legend(frameon=False, fontsize=9, loc="upper right", bbox_to_anchor=(1.0, 0.9))


@torch.no_grad()
def by_estimate(axis: plt.Axes) -> None:
    """Estimated against true error."""
    kinds = {"plain float32": ("#dc2626", 0), "one sweep": ("#d97706", 1), "three sweeps": ("#2563eb", 3)}
    for name, (colour, sweeps) in kinds.items():
        true, estimated = [], []
        for seed in range(8):
            f = flow((4, 8, 16, 16)[seed % 4], (0.8, 1.0, 1.2, 1.5)[seed % 4], seed)
            double = copy.deepcopy(f).double()
            x = torch.randn(SAMPLES, FEATURES, dtype=torch.float64)
            y = double(x)[0]
            shooting = Shooting(f, double, None, torch.float32, torch.float64)
            path = shooting.trajectory(y, precise=False)
            for _ in range(sweeps):
                path = shooting.sweep(path)
            true.append(errors(path.x, x))
            estimated.append(shooting.estimate(path).error / path.x.norm(dim=1))
        axis.loglog(torch.cat(true), torch.cat(estimated), ".", color=colour, ms=3, alpha=0.6, label=name)
    axis.plot([1e-17, 1e2], [1e-17, 1e2], color=INK, lw=0.8)
    axis.set(xlabel="true error of x", ylabel="estimated error of x", xlim=(1e-17, 1e2), ylim=(1e-17, 1e2))
    axis.set_title("the estimate", color=INK, loc="left", fontsize=11)
    axis.legend(frameon=False, fontsize=9, loc="upper left", markerscale=3)


def main() -> None:
    """Draw both panels."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.9), constrained_layout=True)
    by_sweep(left)
    by_estimate(right)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=INK, labelsize=9)
        axis.grid(visible=True, color="#e5e7eb", lw=0.6)
        axis.set_axisbelow(True)
    target = Path(__file__).parents[1] / "images" / "inverses.png"
    figure.savefig(target, dpi=160)
    print(target)


if __name__ == "__main__":
    main()
