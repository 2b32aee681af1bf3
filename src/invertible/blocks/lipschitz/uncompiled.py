"""The scale of a weight within compiled models: what to compute depends on the numbers, so the graph breaks there."""

from collections.abc import Callable
from typing import cast

import torch

from invertible.blocks.lipschitz.scale import ScaledWeight, keep

keep_uncompiled = cast(Callable[..., ScaledWeight], torch.compiler.disable(keep))
