"""Passes within compiled models: hooks on saved tensors are a matter of eager autograd, so the graph breaks there."""

from collections.abc import Callable
from typing import cast

import torch

from invertible.memory.step import State
from invertible.memory.tape import Total, record

record_uncompiled = cast(Callable[..., tuple[State, Total]], torch.compiler.disable(record))
