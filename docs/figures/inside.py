"""Draws docs/images/inside-*.png: a bijective i-RevNet of digits, looked into.

python docs/figures/inside.py [--model irevnet.safetensors] [--epochs 20] [--out docs/images]

Without `--model` it trains the network of `benchmarks/irevnet_digits.py`, a minute or two on one core. Prints the
figures that docs/guides/inside.md quotes.
"""

import argparse
import sys
from pathlib import Path

import torch

import invertible as inv
from invertible.reports.representation_pictures import interpolation_plot
from invertible.reports.representation_plots import contraction_plot, dimension_plot, separation_plot
from invertible.reports.representation_spectra import inverse_error_plot, spectrum_plot
from invertible.reports.representation_style import png
from invertible.representations import Labelled, LookOptions, inspect, separation

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from irevnet_digits import accuracy, trained  # noqa: E402

PLOTS = {
    "separation": separation_plot,
    "contraction": contraction_plot,
    "dimension": dimension_plot,
    "spectrum": spectrum_plot,
    "interpolation": interpolation_plot,
    "inverse-error": inverse_error_plot,
}


def main() -> None:
    """Train or load, look, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    digits = inv.data.load("digits")
    model = inv.load(options.model) if options.model else trained(digits, options.epochs, seed=0)
    train, test = (Labelled(part.x, part.y) for part in (digits.train, digits.test))
    found = inspect(model, train, test, options=LookOptions(samples=128, pairs=3))
    print(f"accuracy {accuracy(model, digits):.4f}\n\n{found}\n\n{separation(model, train, test, pooling='flatten')}")
    for name, plot in PLOTS.items():
        content = png(plot(getattr(found, name.replace("-", "_"))))
        (options.out / f"inside-{name}.png").write_bytes(content)


if __name__ == "__main__":
    main()
