"""Pictures of samples: grids of images, plots of points. What is broken is counted and marked, never hidden."""

import io
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invertible.errors import ShapeError, require
from invertible.flow import Flow
from invertible.training.scoring import scoring

BROKEN = (255, 0, 255)
GAP = 255


@dataclass(frozen=True)
class Picture:
    """A picture of samples.

    Attributes:
        pixels: RGB, (height, width, 3), uint8.
        samples: number of samples shown.
        non_finite: how many of them hold NaN or infinity; their broken pixels are magenta.
    """

    pixels: np.ndarray
    samples: int
    non_finite: int

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a PNG, under a temporary name that is then renamed."""
        image = require("PIL.Image", "train").fromarray(self.pixels)
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        write_atomically(Path(path), buffer.getvalue())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it, so that a killed process leaves the old one or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@torch.no_grad()
def draw(
    flow: Flow,
    n: int,
    condition: Tensor | None = None,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw n samples in eval mode, those that are not finite included: (n, *data shape) on the CPU.

    A flow that validates refuses to return broken samples; a picture has to show them.
    """
    with scoring(flow):
        return flow.sample(n, condition, temperature, generator).cpu()


def sample_image(x: Tensor, *, columns: int | None = None, scale: int | None = None) -> Picture:
    """Draw samples as a picture.

    Args:
        x: images (N, C, H, W) with one or three channels on [0, 1], clipped; or points (N, D), of which the first two
            coordinates are plotted.
        columns: images a row; about the square root of N if left out.
        scale: pixels a pixel; such that the grid is about 500 pixels wide if left out.

    Raises:
        ShapeError: if x is neither.
    """
    broken = int((~torch.isfinite(x)).flatten(1).any(1).sum())
    if x.dim() == 4 and x.shape[1] in (1, 3) and len(x):
        return Picture(_grid(x, columns, scale), len(x), broken)
    if x.dim() == 2 and x.shape[1] >= 2:
        return Picture(_scatter(x, broken), len(x), broken)
    raise ShapeError(
        f"sample_image: expected images (N, 1 or 3, H, W) or points (N, 2 or more), got {tuple(x.shape)}. "
        "Reshape x, or write the samples as an array instead."
    )


def _grid(x: Tensor, columns: int | None, scale: int | None) -> np.ndarray:
    columns = columns or math.ceil(math.sqrt(len(x)))
    rows = math.ceil(len(x) / columns)
    height, width = x.shape[2:]
    colours = (torch.nan_to_num(x.float()).clamp(0, 1) * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).clone()
    bad = (~torch.isfinite(x)).any(1)
    for channel, value in enumerate(BROKEN):
        colours[:, channel][bad] = value
    canvas = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, 3), GAP, np.uint8)
    for index, image in enumerate(colours.permute(0, 2, 3, 1).numpy()):
        top, left = index // columns * (height + 1) + 1, index % columns * (width + 1) + 1
        canvas[top : top + height, left : left + width] = image
    scale = scale or max(1, round(500 / canvas.shape[1]))
    return canvas.repeat(scale, 0).repeat(scale, 1)


def _scatter(x: Tensor, broken: int) -> np.ndarray:
    backend = require("matplotlib.backends.backend_agg", "train")
    figure = require("matplotlib.figure", "train").Figure(figsize=(5, 5), dpi=100)
    canvas = backend.FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    good = x[torch.isfinite(x).all(1)].float().numpy()
    axes.scatter(good[:, 0], good[:, 1], s=4, linewidths=0, alpha=0.6)
    axes.set_aspect("equal", adjustable="datalim")
    title = f"{len(x)} samples" + (f", {broken} of them not finite" if broken else "")
    axes.set_title(title, color="magenta" if broken else "black")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
