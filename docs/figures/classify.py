"""The picture of docs/guides/classify.md: python docs/figures/classify.py [FOLDER] writes docs/images/classify.png.

FOLDER holds a run of `invertible train revnet38-digits`; without it, the recipe is trained first: two minutes on one
core.
"""

import json
import sys
import tempfile
from pathlib import Path

from PIL import Image

from invertible import recipes
from invertible.training import RunOptions, run

GAP = 30


def trained() -> Path:
    """A run of the recipe in a temporary folder."""
    folder = Path(tempfile.mkdtemp()) / "revnet38-digits"
    run(recipes.load("revnet38-digits"), folder, options=RunOptions(accelerator="cpu"))
    return folder


def stacked(paths: list[Path]) -> Image.Image:
    """Pictures below each other, in the middle."""
    pictures = [Image.open(path).convert("RGB") for path in paths]
    width = max(picture.width for picture in pictures)
    height = sum(picture.height for picture in pictures) + GAP * (len(pictures) - 1)
    canvas, top = Image.new("RGB", (width, height), "white"), 0
    for picture in pictures:
        canvas.paste(picture, ((width - picture.width) // 2, top))
        top += picture.height + GAP
    return canvas


def main() -> None:
    """Train if there is no run, join its two pictures, print its figures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else trained()
    metrics = json.loads((folder / "metrics.json").read_text())
    for split in ("train", "validation", "test"):
        print(f"{split}: {100 * metrics[split]['accuracy']:.2f} % right, {metrics[split]['cross_entropy']:.4f} nats")
    joined = stacked([folder / "curves.png", folder / "confusion.png"])
    joined.save(Path(__file__).parents[1] / "images" / "classify.png", optimize=True)


if __name__ == "__main__":
    main()
