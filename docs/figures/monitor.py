"""A training that would lose its inverse, and goes back: `python docs/figures/monitor.py` writes its picture.

RealNVP with an exponential scale on the two moons at a learning rate of 0.2, far too high. Prints what the monitor says
and its last check. Half a minute of CPU time.
"""

import csv
import shutil
import tempfile
from pathlib import Path

from invertible.training import RunOptions, parse_recipe, run

RECIPE = {
    "name": "moons-too-fast",
    "model": {"name": "realnvp", "arguments": {"layers": 8, "hidden": [32], "scale": "exp", "actnorm": False}},
    "data": {"name": "moons", "options": {"samples": 400}, "batch_size": 64},
    "optimizer": {"lr": 0.2},
    "training": {
        "steps": 400,
        "validate_every": 40,
        "samples_every": 0,
        "monitor": {"every": 5, "samples": 16, "on_danger": "rollback", "lr_factor": 0.7, "max_rollbacks": 8},
    },
}


def main() -> None:
    """Train, and keep the picture."""
    with tempfile.TemporaryDirectory() as name:
        result = run(parse_recipe(RECIPE), Path(name) / "run", options=RunOptions(accelerator="cpu"))
        print(f"test: {result.metrics['test']}")
        with (Path(name) / "run" / "inverse.csv").open(newline="") as file:
            last = [row for row in csv.DictReader(file) if row["name"] == "held-out"][-1]
        print(f"at the end: worst error {last['worst']}, {last['digits']} digits, condition number {last['condition']}")
        shutil.copyfile(Path(name) / "run" / "inverse.png", Path(__file__).parents[1] / "images" / "monitor.png")


if __name__ == "__main__":
    main()
