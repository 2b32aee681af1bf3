"""Patches of the two photographs that scikit-learn brings: images that no small model was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invertible.errors import require


def patches(count: int, shape: Sequence[int], levels: int, generator: torch.Generator) -> Tensor:
    """Patches of random places, (count, *shape), uint8 with values 0 .. levels - 1; grey where shape has one channel.

    Raises:
        MissingDependencyError: if scikit-learn is not installed.
    """
    channels, height, width = shape
    found = require("sklearn.datasets", "data").load_sample_images().images
    photographs = [torch.from_numpy(image.copy()).permute(2, 0, 1).float() for image in found]
    if channels == 1:
        photographs = [image.mean(0, keepdim=True) for image in photographs]
    made = []
    for index in range(count):
        image = photographs[index % len(photographs)]
        top, left = (
            int(torch.randint(whole - part + 1, (), generator=generator))
            for whole, part in zip(image.shape[1:], (height, width), strict=True)
        )
        made.append(image[:, top : top + height, left : left + width])
    return (torch.stack(made) * levels / 256).floor().to(torch.uint8)
