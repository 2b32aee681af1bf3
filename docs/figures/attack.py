"""Draws docs/images/attack.png: three small flows of digits under an attack on their inverses.

python docs/figures/attack.py [--steps 500] [--bins 4] [--out docs/images/attack.png]

Each flow is trained for `--steps` steps (about half a minute on one core), then 16 test images are attacked in a box
of `--bins` grey levels either way. Prints bits per dimension and the figures that docs/guides/attack.md quotes.
"""

import argparse
import math
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import invertible as inv
from invertible.stability import AttackResult, attack

VARIANTS = {
    "affine, scale in (0, 1), as in the paper": ({"scale": "sigmoid", "conditioner_bound": math.inf}, "#dc2626"),
    "affine, scale in (1/2, 1)": ({"scale": "half-sigmoid", "conditioner_bound": math.inf}, "#2563eb"),
    "the default: conditioners bounded too": ({}, "#059669"),
}
IMAGES = 16


def trained(digits: inv.data.DataSet, steps: int, **arguments: str | float) -> inv.Flow:
    """A small Glow of digits."""
    torch.manual_seed(0)
    flow = inv.models.glow(digits.shape, levels=2, depth=8, hidden=32, grey_levels=digits.levels, **arguments)
    optimizer = torch.optim.Adam(flow.parameters(), 4e-3)
    for _ in range(steps):
        x = digits.train.x[torch.randint(len(digits.train.x), (64,))]
        loss = flow.bits_per_dim(x).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 50.0)
        optimizer.step()
    return flow.eval()


def draw(axes: Axes, found: AttackResult, label: str, colour: str) -> None:
    """Errors by step: every image thin, the median thick, a cross where an image is lost."""
    history = found.history
    shown = torch.where(history.isfinite(), history, math.nan)
    steps = range(len(history))
    axes.semilogy(steps, shown, color=colour, alpha=0.22, linewidth=0.8)
    axes.semilogy(steps, torch.nanmedian(shown, dim=1).values, color=colour, linewidth=2.2, label=label)
    for image, step in enumerate(found.first_non_finite.tolist()):
        if step > 0:
            axes.plot(step, history[step - 1, image], "x", color=colour, markersize=9, markeredgewidth=2.2)


def main() -> None:
    """Train, attack, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--bins", type=float, default=4.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "images" / "attack.png")
    options = parser.parse_args()
    torch.set_num_threads(1)
    digits = inv.data.load("digits")
    x = (digits.test.x[:IMAGES].float() + 0.5) / digits.levels
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    for label, (arguments, colour) in VARIANTS.items():
        flow = trained(digits, options.steps, **arguments)
        with torch.no_grad():
            bits = flow.bits_per_dim(digits.test.x, generator=torch.Generator().manual_seed(0)).mean().item()
        found = attack(flow, x, options.bins / digits.levels, 100, options.bins / digits.levels / 31, restarts=2)
        print(f"{label}: {bits:.2f} bits/dim on test images\n{found}\n", flush=True)
        draw(axes, found, f"{label}: {found.non_finite} of {IMAGES} lost", colour)
    axes.set(xlabel="step of the attack", ylabel=r"$\|x - f^{-1}(f(x))\|\,/\,\|x\|$", xlim=(0, 100), ylim=(1e-7, 1e3))
    axes.set_title(f"16 test digits, each grey value moved by at most {options.bins:g} of {digits.levels}", fontsize=10)
    axes.grid(alpha=0.25, which="major")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="median of 16 images; × where one is lost", title_fontsize=9)
    figure.savefig(options.out, dpi=150)


if __name__ == "__main__":
    main()
