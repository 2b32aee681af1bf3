"""Small volumes in fastMRI's schema, and small heads."""

import numpy as np
import torch

from invertible.data.mri import write_volume
from invertible.physics.fourier import centred_ifft2


def write(path, *, slices=3, coils=0, shape=(12, 10), crop=(8, 8), seed=0, **more):
    """A volume of noise whose target is its own reconstruction; k-space and target as they were written."""
    generator = torch.Generator().manual_seed(seed)
    kspace = torch.randn(slices, *([coils] if coils else []), *shape, dtype=torch.complex64, generator=generator)
    image = centred_ifft2(kspace).abs()
    magnitude = image.square().sum(1).sqrt() if coils else image
    top, left = ((a - b) // 2 for a, b in zip(shape, crop, strict=True))
    target = magnitude[:, top : top + crop[0], left : left + crop[1]].contiguous()
    write_volume(path, kspace, target, attributes={"acquisition": "CORPD_FBK", "patient_id": "p"}, **more)
    return kspace, target


def ball(size=20):
    """An ellipsoid with a bright core, uint8, as a head of made-up tissue."""
    grid = np.linspace(-1, 1, size)
    z, y, x = np.meshgrid(grid, grid, grid, indexing="ij")
    outer, inner = (x**2 + (y / 0.9) ** 2 + (z / 0.8) ** 2) < 0.9, (x - 0.2) ** 2 + y**2 + z**2 < 0.1
    return (100 * outer + 80 * inner).astype(np.uint8)


def nifti(path, data, voxel=(1.0, 1.0, 1.0)):
    """Write a NIfTI file."""
    import nibabel

    nibabel.save(nibabel.Nifti1Image(data, np.diag([*voxel, 1.0])), path)
    return path


def every_other(columns, seed):
    """A mask function without chance."""
    return torch.arange(columns) % 2 == 0


class Drawn:
    """A mask function that keeps the seeds it was called with."""

    def __init__(self):
        self.seeds = []

    def __call__(self, columns, seed):
        self.seeds.append(seed)
        return torch.rand(columns, generator=torch.Generator().manual_seed(hash_of(seed))) < 0.5


def hash_of(seed):
    return seed if isinstance(seed, int) else int.from_bytes(seed.encode()[-7:], "big")
