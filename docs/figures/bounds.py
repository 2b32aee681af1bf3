"""Certified bounds beside measured stretches: `python docs/figures/bounds.py` writes docs/images/bounds.png."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import invertible as inv
from invertible import Bijection, Domain
from invertible.norms import convolution_norm
from invertible.stability.lipschitz import lipschitz_bounds

RADIUS = 3.0
INK, SOFT = "#1f2937", "#9ca3af"
BLUE, RED = "#2563eb", "#dc2626"


def random(module: nn.Module, deviation: float = 0.3) -> nn.Module:
    """Random parameters, in float64."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(deviation * torch.randn_like(parameter))
    return module.double().eval()


def stretch(block: Bijection, x: Tensor) -> float:
    """The largest singular value of the Jacobian in a batch."""
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: block(row[None])[0][0]))(x)
    return float(torch.linalg.matrix_norm(jacobian.detach().reshape(len(x), x[0].numel(), -1), 2).max())


def corners(shape: tuple[int, ...], radius: float, count: int = 512) -> Tensor:
    """Points of a box, half of them its corners."""
    x = radius * (2 * torch.rand(count, *shape, dtype=torch.float64) - 1)
    x[::2] = radius * x[::2].sign()
    return x


def blocks() -> dict[str, tuple[Bijection, tuple[int, ...]]]:
    """What is shown, and the shape of a sample."""
    additive = [inv.AdditiveCoupling(8, hidden=(16,), flip=i % 2 == 1) for i in range(8)]
    return {
        "Permutation": (inv.Permutation(8, seed=0), (8,)),
        "ActNorm": (inv.ActNorm(8), (8,)),
        "LeakyReLU(0.1)": (inv.LeakyReLU(), (8,)),
        "InvertibleLinear": (inv.InvertibleLinear(8), (8,)),
        "additive coupling": (inv.AdditiveCoupling(8, hidden=(16,)), (8,)),
        "additive, images": (inv.AdditiveCoupling(4, hidden=(8,), spatial_dims=2), (4, 4, 4)),
        "affine coupling, box": (inv.AffineCoupling(8, hidden=(16,)), (8,)),
        "spline coupling": (inv.SplineCoupling(8, hidden=(16,)), (8,)),
        "8 additive couplings": (inv.Chain(*additive), (8,)),
    }


def per_block(axis: plt.Axes) -> None:
    """Measured and certified, one line a block."""
    shown = blocks()
    for row, (name, (block, shape)) in enumerate(reversed(shown.items())):
        random(block, 0.15)
        measured = stretch(block, corners(shape, RADIUS))
        bound = block.bounds(Domain(RADIUS, RADIUS)).forward
        axis.plot([measured, bound], [row, row], color=SOFT, lw=1.5, zorder=1)
        axis.scatter(measured, row, color=BLUE, s=42, zorder=3, label="largest measured" if row == 0 else None)
        axis.scatter(bound, row, color=RED, marker="|", s=160, lw=2.5, zorder=2, label="bound" if row == 0 else None)
        print(f"{name:24s} measured {measured:9.4g}  bound {bound:9.4g}  ratio {bound / measured:8.3g}")
    axis.set_yticks(range(len(shown)), list(reversed(shown)))
    axis.set_xscale("log")
    axis.set_xlabel(f"Lip(f) for |x_i| ≤ {RADIUS:g}")
    axis.set_title("One block: near. A chain: far.", loc="left", color=INK)
    axis.legend(frameon=False, loc="upper right")


def growing_box(axis: plt.Axes) -> None:
    """The affine coupling's stretch grows with the box, the additive one's does not."""
    radii = [10 ** (exponent / 4) for exponent in range(-2, 13)]
    for name, kind, color in (("affine", inv.AffineCoupling, RED), ("additive", inv.AdditiveCoupling, BLUE)):
        torch.manual_seed(1)
        block = random(kind(8, hidden=(16,)), 0.15)
        bound = [block.bounds(Domain(radius, radius)).forward for radius in radii]
        measured = [stretch(block, corners((8,), radius)) for radius in radii]
        axis.plot(radii, bound, color=color, lw=2, label=f"{name}, bound")
        axis.plot(radii, measured, color=color, marker="o", ms=4, lw=0, label=f"{name}, measured")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("radius of the box")
    axis.set_ylabel("Lip(f)")
    axis.set_title("Affine couplings: local only", loc="left", color=INK)
    axis.legend(frameon=False)


def image_sizes(axis: plt.Axes) -> None:
    """A convolution's norm at growing image sizes, against its bound."""
    torch.manual_seed(2)
    weight = torch.randn(4, 4, 3, 3, dtype=torch.float64) / 6
    sizes = (2, 3, 4, 6, 8, 12, 16)
    norms = []
    for size in sizes:
        eye = torch.eye(4 * size**2, dtype=torch.float64).reshape(-1, 4, size, size)
        dense = nn.functional.conv2d(eye, weight, padding=1).flatten(1)
        norms.append(float(torch.linalg.matrix_norm(dense, 2)))
        print(f"convolution at {size:2d} x {size:<2d} norm {norms[-1]:.4f} of {convolution_norm(weight):.4f}")
    taps = float(torch.linalg.matrix_norm(weight.flatten(2).permute(2, 0, 1), 2).sum())
    kernel = float(torch.linalg.matrix_norm(weight.flatten(1), 2))
    print(f"sum over taps {taps:.4f}, reshaped kernel alone {kernel:.4f}")
    axis.plot(sizes, norms, color=BLUE, marker="o", ms=4, lw=1)
    axis.text(7, norms[3] - 0.3, "dense matrix", color=BLUE)
    bound = convolution_norm(weight)
    for value, color, dashes, label in (
        (bound, RED, "-", "bound"),
        (taps, SOFT, "-", "sum over taps, a bound too"),
        (kernel, INK, "--", "norm of the reshaped kernel: no bound"),
    ):
        axis.axhline(value, color=color, lw=2, ls=dashes)
        axis.text(16, value + 0.07 if dashes == "-" else value - 0.25, label, color=color, ha="right")
    axis.set_ylim(0, taps * 1.15)
    axis.set_xticks((2, 4, 8, 12, 16))
    axis.set_xlabel("width and height of the image")
    axis.set_ylabel("norm of a 3 × 3 convolution")
    axis.set_title("A convolution, at every size", loc="left", color=INK)


def glow() -> None:
    """Print how far the product over a small Glow is from what happens."""
    torch.manual_seed(3)
    flow = inv.models.glow((1, 8, 8), levels=2, depth=2, hidden=8)
    flow.log_prob(torch.rand(64, 1, 8, 8))
    net = random(flow, 0.02).bijection
    x = torch.rand(32, 1, 8, 8, dtype=torch.float64)
    table = lipschitz_bounds(flow, Domain(1.0, 3.0))
    print(f"glow: measured {stretch(net, x):.3g}  bound {table.forward:.3g}")


def main() -> None:
    """Draw and save."""
    glow()
    torch.manual_seed(0)
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 10, "axes.edgecolor": SOFT})
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.4), width_ratios=(1.25, 1, 1))
    per_block(axes[0])
    growing_box(axes[1])
    image_sizes(axes[2])
    figure.tight_layout(w_pad=3)
    target = Path(__file__).parents[1] / "images" / "bounds.png"
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, dpi=130)


if __name__ == "__main__":
    main()
