"""Scans of a few made-up slices, and recipes that train on them in a second."""

from pathlib import Path

import torch
from torch import Tensor

from invertible.data.mri import Simulation, simulate, write_volume

IRIM = {
    "name": "tiny-irim",
    "model": {"name": "irim", "arguments": {"channels": 8, "hidden": [8, 8], "factors": [1, 2], "steps": 2}},
    "data": {
        "name": "scans", "batch_size": 4, "evaluation_batch_size": 3,
        "scans": {"accelerations": [2, 3.5], "centre_fractions": [0.2, 0.1]},
    },
    "optimizer": {"lr": 5e-3},
    "schedule": {"name": "cosine", "warmup": 3},
    "training": {"epochs": 4, "ema": 0.9, "gradient_clip": 1.0, "checkpoint_every": 3},
}  # fmt: skip
RIM = {
    **IRIM,
    "name": "tiny-rim",
    "model": {"name": "rim", "arguments": {"hidden": [6, 6], "steps": 3}},
    "reconstruction": {"loss": "l1", "over": "all", "weights": [0, 1, 2]},
    "training": {"epochs": 4, "checkpoint_every": 3},
}
# With dropout, which a resumed run has to repeat.
UNET = {
    **IRIM,
    "name": "tiny-unet",
    "model": {"name": "unet", "arguments": {"channels": 4, "levels": 1, "dropout": 0.2}},
    "reconstruction": {"loss": "mse"},
    "training": {"epochs": 4, "checkpoint_every": 3},
}


def heads(slices: int, size: int, seed: int) -> Tensor:
    """Ellipses with bright spots inside: (slices, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.linspace(-1, 1, size)
    y, x = grid[:, None], grid[None]
    images = []
    for _ in range(slices):
        a, b, u, v = (0.55 + 0.3 * torch.rand(4, generator=generator)).tolist()
        outer = ((x / a).square() + (y / b).square() < 1).float()
        spot = ((x - u + 0.7).square() + (y - v + 0.7).square() < 0.06).float()
        images.append(outer * (0.5 + 0.5 * spot))
    return torch.stack(images)


def write_scans(folder: Path, *, coils: int = 1, size: int = 16, seed: int = 0, parts: dict[str, int] | None = None):
    """Volumes of 4 slices, two to train on, two to validate on, one to test; the folder."""
    for part, count in (parts or {"train": 2, "validation": 2, "test": 1}).items():
        for number in range(count):
            add_volume(folder / part / f"{part}{number}.h5", coils=coils, size=size, seed=seed + number)
    return folder


def add_volume(path: Path, *, coils: int = 1, size: int = 16, seed: int = 0, target: bool = True, slices: int = 4):
    """A simulated volume, of another seed in each part.

    Real images: half of k-space says what the other half is, which takes few steps to learn.
    """
    seed += sum(map(ord, path.name))
    scan = simulate(heads(slices, size, seed), Simulation(size=size, coils=coils, snr=25.0, phase=0.0), generator=seed)
    about = {"acquisition": "CORPD_FBK", "simulated": 1, "note": "k-space SIMULATED from ellipses"}
    others = {} if scan.sensitivities is None else {"sensitivities": scan.sensitivities[None]}
    write_volume(path, scan.kspace, scan.target if target else None, attributes=about, others=others)
