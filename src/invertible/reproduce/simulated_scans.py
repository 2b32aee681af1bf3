"""Slices of heads whose k-space is SIMULATED, and the training and judging of a reconstruction by them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from invertible.data.mri import Simulation, load_volume, simulate
from invertible.data.mri.simulated_set import tissue_slices
from invertible.data.mri.volumes import AXES
from invertible.image_metrics import nmse, psnr, ssim
from invertible.models.reconstructor import Reconstructor
from invertible.physics.fourier import root_sum_of_squares
from invertible.physics.masks import RandomColumns
from invertible.physics.mri import CartesianMRI
from invertible.physics.operator import Observation
from invertible.reproduce.experiment import Progress

# fastMRI's accelerations, and the parts of the columns in the middle that are always measured.
CENTRES = {4: 0.08, 8: 0.04}
CLIP = 1.0


@dataclass(frozen=True, eq=False)
class SimulatedScans:
    """Slices of one head.

    Attributes:
        kspace: simulated, (slices, H, W), complex.
        target: magnitudes from all of it, (slices, H, W).
    """

    kspace: Tensor
    target: Tensor

    @property
    def maximum(self) -> float:
        """The largest magnitude."""
        return float(self.target.max())

    def observed(self, rows: Tensor, masks: Tensor, device: str) -> Observation:
        """Some slices at the columns of a mask each, (n, W)."""
        operator = CartesianMRI(masks[:, None, None]).to(device)
        return Observation(operator, operator.measured(self.kspace[rows, None].to(device)))


def simulated_scans(name: str, slices: int, size: int, seed: int) -> SimulatedScans:
    """As many slices of each axis of a volume that a package ships, equally spaced, those with tissue."""
    volume, generator = load_volume(name), torch.Generator().manual_seed(seed)
    found = []
    for axis in AXES:
        images, pixel = volume.slices(axis)
        rows = tissue_slices(images)
        chosen = rows[((torch.arange(min(slices, len(rows))) + 0.5) / min(slices, len(rows)) * len(rows)).long()]
        found.append(simulate(images[chosen], Simulation(size=size), pixel=pixel, generator=generator))
    return SimulatedScans(torch.cat([each.kspace for each in found]), torch.cat([each.target for each in found]))


def columns(acceleration: int) -> RandomColumns:
    """fastMRI's random columns."""
    return RandomColumns((CENTRES[acceleration],), (acceleration,))


def train_reconstruction(
    model: Reconstructor, scans: SimulatedScans, config: Mapping[str, Any], device: str, progress: Progress
) -> None:
    """Adam on a cosine to 0, by the L1 distance of magnitudes, with new masks for every slice and step.

    Args:
        model: on the device.
        scans: to learn from.
        config: `steps`, `batch`, `lr` and `seed`.
        device: where to train.
        progress: told the part that is done.
    """
    generator = torch.Generator().manual_seed(config["seed"])
    both = RandomColumns(tuple(CENTRES.values()), tuple(CENTRES))
    optimizer = torch.optim.Adam(model.parameters(), config["lr"])
    model.train()
    order = torch.empty(0, dtype=torch.int64)
    for step in range(config["steps"]):
        if len(order) < config["batch"]:
            order = torch.randperm(len(scans.target), generator=generator)
        rows, order = order[: config["batch"]], order[config["batch"] :]
        masks = torch.stack([both(scans.kspace.shape[-1], generator) for _ in rows])
        for group in optimizer.param_groups:
            group["lr"] = config["lr"] * (1 + math.cos(math.pi * step / config["steps"])) / 2
        estimate = root_sum_of_squares(model(scans.observed(rows, masks, device)), 1)
        optimizer.zero_grad(set_to_none=True)
        ((estimate - scans.target[rows].to(device)) / scans.maximum).abs().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        progress(step / config["steps"])
    model.eval()


@torch.no_grad()
def reconstructed(
    model: Reconstructor, scans: SimulatedScans, acceleration: int, seed: int, device: str, batch: int = 8
) -> tuple[Tensor, Tensor, Tensor]:
    """Magnitudes of all slices, (slices, H, W): zero-filled and by the model; and the masks, (slices, W)."""
    draw = columns(acceleration)
    masks = torch.stack([draw(scans.kspace.shape[-1], seed + index) for index in range(len(scans.target))])
    zero, found = [], []
    for rows in torch.arange(len(masks)).split(batch):
        observation = scans.observed(rows, masks[rows], device)
        zero.append(root_sum_of_squares(observation.backprojection(), 1).cpu())
        found.append(root_sum_of_squares(model(observation), 1).cpu())
    return torch.cat(zero), torch.cat(found), masks


def qualities(scans: SimulatedScans, images: Tensor) -> dict[str, float]:
    """NMSE, PSNR and SSIM of all slices as fastMRI judges a volume; the worst values if one is not finite."""
    if not bool(images.isfinite().all()):
        return {"nmse": math.inf, "psnr": -math.inf, "ssim": -math.inf}
    judged = (metric(scans.target, images, *more) for metric, more in _metrics(scans.maximum))
    return dict(zip(("nmse", "psnr", "ssim"), map(float, judged), strict=True))


def _metrics(maximum: float) -> Sequence[tuple[Any, tuple[float, ...]]]:
    return ((nmse, ()), (psnr, (maximum,)), (ssim, (maximum,)))
