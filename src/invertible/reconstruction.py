"""Volumes reconstructed from undersampled k-space, by a model or a classical method, and judged as fastMRI does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from invertible.data.mri import (
    MaskFunction,
    MRIBatch,
    Selection,
    SliceDataset,
    VolumeFolder,
    VolumeHeader,
    slice_loader,
)
from invertible.data.mri.volume_file import SENSITIVITIES
from invertible.errors import ConfigError
from invertible.image_metrics import Quality
from invertible.models.reconstructor import Reconstructor
from invertible.modes import eval_mode
from invertible.physics.baselines import Method
from invertible.physics.mri import CartesianMRI

OWNER = "reconstruct_volume"


@dataclass(frozen=True, eq=False)
class ReconstructedVolume:
    """A volume, what it was compared to, and how close it came.

    Attributes:
        header: of the file it was made from.
        indices: which slices of the file these are.
        images: magnitudes (slices, h, w), float32, on the CPU.
        zero_filled: those of A^H y, (slices, h, w).
        target: those from all columns, (slices, h, w); `None` where the file has none.
        mask: the columns that it was made from, (W,), boolean.
        maximum: the largest value of the volume's target; `None` where the file has none.
        seconds: that the method took, without reading and judging.
        quality: of the images; `None` without a target.
        zero_filled_quality: of A^H y; `None` without a target.
    """

    header: VolumeHeader
    indices: tuple[int, ...]
    images: Tensor
    zero_filled: Tensor
    target: Tensor | None
    mask: Tensor
    maximum: float | None
    seconds: float
    quality: Quality | None
    zero_filled_quality: Quality | None

    @property
    def acceleration(self) -> float:
        """Columns of k-space over measured columns."""
        return len(self.mask) / max(1, int(self.mask.sum()))


def reconstruct_volume(
    method: Method,
    path: str | os.PathLike[str],
    mask: MaskFunction | None = None,
    *,
    slices: tuple[int, int] | None = None,
    batch_size: int = 4,
    acquisitions: Sequence[str] = (),
    device: torch.device | str | None = None,
    progress: Callable[[int], object] | None = None,
) -> ReconstructedVolume:
    """Reconstruct a volume of fastMRI's schema slice by slice, in eval mode and without gradients.

    Where the file knows the coils' sensitivities, and the method does not ask for an image a coil, A has them; else
    every coil has an image of its own, and the result is the root of the sum of their squares.

    Args:
        method: maps an observation to images (B, c, H, W): a `Reconstructor`, what `baseline` returns, or your own.
        path: the HDF5 file.
        mask: chooses the columns from the file's name, if the file has no mask of its own; all columns by default.
        slices: first slice, and the one behind the last; all by default.
        batch_size: slices at a time.
        acquisitions: names of pulse sequences in the order of the model's one-hot context.
        device: where to reconstruct; where the model's weights are by default.
        progress: called with the number of slices done, batch by batch.

    Returns:
        The volume. Memory: its magnitudes, three times, and one batch.

    Raises:
        ConfigError: if the volume has other coils than the model was made for, or the model needs `acquisitions`.
        DataError: naming file and slice, if something cannot be read or is not finite.
        DomainError: if the result is not finite.
        MissingDependencyError: if h5py is not installed.

    Example:
        >>> model = invertible.load("irim.safetensors")                                      # doctest: +SKIP
        >>> volume = reconstruct_volume(model, "scan.h5", RandomColumns((0.08,), (4,)))      # doctest: +SKIP
        >>> print(volume.quality, volume.zero_filled_quality)                                # doctest: +SKIP
    """
    folder = VolumeFolder(Path(path), on_error="raise", cache=False)
    header = folder.headers[0]
    with_maps = uses_sensitivities(method, header)
    dataset = SliceDataset(
        folder, mask, selection=_selection(header, slices), sensitivities="file" if with_maps else "none"
    )
    features = _context_features(method, header, acquisitions)
    names = acquisitions if features else ()
    loader = slice_loader(dataset, batch_size, acquisitions=names, context_features=features or None)
    parts: list[_Part] = []
    with eval_mode(method) if isinstance(method, nn.Module) else nullcontext(), torch.no_grad():
        for batch in loader:
            parts.append(_part(method, batch, device or _device(method)))
            if progress is not None:
                progress(len(batch))
    return _joined(header, [number for _, number in dataset.rows], parts)


@dataclass(frozen=True, eq=False)
class _Part:
    """What is kept of a batch: not its k-space."""

    images: Tensor
    zero_filled: Tensor
    target: Tensor | None
    maximum: Tensor | None
    mask: Tensor
    seconds: float


def _part(method: Method, batch: MRIBatch, device: torch.device | str) -> _Part:
    observation = batch.observation.to(device)
    started = time.perf_counter()
    images = batch.magnitude(method(observation)).float().cpu()
    seconds = time.perf_counter() - started
    operator = batch.observation.operator
    assert isinstance(operator, CartesianMRI)
    zero_filled = batch.magnitude(batch.observation.backprojection())
    return _Part(images, zero_filled, batch.target, batch.maximum, operator.mask[0, 0, 0], seconds)


def _joined(header: VolumeHeader, indices: Sequence[int], parts: Sequence[_Part]) -> ReconstructedVolume:
    images, zero_filled = (torch.cat([getattr(part, name) for part in parts]) for name in ("images", "zero_filled"))
    targets = [part.target for part in parts if part.target is not None]
    target = torch.cat(targets) if targets else None
    maximum = None if parts[0].maximum is None else float(parts[0].maximum[0])
    return ReconstructedVolume(
        header=header,
        indices=tuple(indices),
        images=images,
        zero_filled=zero_filled,
        target=target,
        mask=parts[0].mask,
        maximum=maximum,
        seconds=sum(part.seconds for part in parts),
        quality=None if target is None else Quality.of(target, images, maximum),
        zero_filled_quality=None if target is None else Quality.of(target, zero_filled, maximum),
    )


def uses_sensitivities(method: Method, header: VolumeHeader) -> bool:
    """Whether the coils' sensitivities belong into A, for this method and volume.

    Raises:
        ConfigError: if the volume's coils are not those that the model was made for.
    """
    there = header.coils > 1 and SENSITIVITIES in header.others
    if not isinstance(method, Reconstructor) or (there and method.image_channels == 2):
        return there
    if method.image_channels != 2 * header.coils:
        wants = "one coil, or sensitivities beside k-space" if method.image_channels == 2 else "as many coils"
        came = "one coil" if header.coils == 1 else f"{header.coils} coils without sensitivities"
        raise ConfigError(
            f"{header.path}: expected {wants}, for a model of {method.image_channels} channels, real and imaginary "
            f"part of each coil's image, got {came}. "
            "Choose a model that was trained on such volumes."
        )
    return False


def _selection(header: VolumeHeader, slices: tuple[int, int] | None) -> Selection:
    if slices is None:
        return Selection()
    first, end = slices
    if not 0 <= first < min(end, header.slices):
        raise ConfigError(
            f"{header.path}: expected slices (first, end) of its {header.slices}, 0 <= first < end, got {slices}."
        )
    return Selection(drop_first=first, drop_last=max(0, header.slices - end))


def _context_features(method: Method, header: VolumeHeader, acquisitions: Sequence[str]) -> int:
    features = getattr(method.core, "context_features", 0) if isinstance(method, Reconstructor) else 0
    if features and not acquisitions:
        raise ConfigError(
            f"{OWNER}: expected acquisitions, for the model takes a context of {features} features: names of pulse "
            f"sequences in the order it was trained with, such as {header.acquisition!r}, this volume's."
        )
    return int(features)


def _device(method: Method) -> torch.device:
    weight = next(method.parameters(), None) if isinstance(method, nn.Module) else None
    return torch.device("cpu") if weight is None else weight.device
