"""The data on which a run watches its inverse."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from invertible.errors import ConfigError
from invertible.flow import Flow
from invertible.stability.out_of_distribution import out_of_distribution
from invertible.training.datamodule import FlowData
from invertible.training.monitor import InverseMonitor
from invertible.training.penalties import inputs_of
from invertible.training.randomness import generator_for
from invertible.training.safeguards import Monitor

# Those that stay inside the data's box, where every map that takes the data takes them.
SETS = ("uniform", "gaussian", "rademacher", "constant", "inverted", "shuffled")


def monitor_of(
    section: Monitor, flow: Flow, data: FlowData, folder: Path, say: Callable[[str], None]
) -> InverseMonitor:
    """The monitor that a recipe asks for: on the first validation samples, and on noise and transforms of them.

    Raises:
        ConfigError: if there are no validation samples.
    """
    split, seed = data.data.validation, data.recipe.training.seed
    if not len(split.x):
        raise ConfigError(f"training.monitor: expected validation data to watch, {data.data.name} has none.")
    x, labels = split.x[: section.samples], data.labels(split)
    noise = generator_for("cpu", "monitor", seed)
    x, condition = inputs_of(flow, x, None if labels is None else labels[: section.samples], noise)
    x = x.to(flow.base.anchor.dtype)
    far = _mixed(out_of_distribution(x, levels=flow.levels, generator=noise), len(x))
    return InverseMonitor(x, section, condition=condition, out_of_distribution=far, folder=folder, say=say)


def _mixed(sets: dict[str, Tensor], samples: int) -> Tensor:
    """Row i of set i, in turn."""
    return torch.stack([sets[SETS[index % len(SETS)]][index] for index in range(samples)])
