"""What stands between a recipe and the first step: the model for the data, and its first batch."""

from typing import Any

import torch

from invertible.data import DataSet
from invertible.errors import ConfigError
from invertible.flow import Flow
from invertible.models import build
from invertible.training.datamodule import FlowData
from invertible.training.randomness import generator_for
from invertible.training.recipe import Recipe


def build_flow(recipe: Recipe, data: DataSet) -> Flow:
    """The recipe's model for a data set: `shape`, `grey_levels` and, with labels, `classes` are the data's.

    Raises:
        ConfigError: if the recipe says otherwise, or the arguments do not fit each other.
    """
    sizes = tuple(data.train.x.shape[1:])
    given: dict[str, Any] = {"shape": sizes[0] if len(sizes) == 1 else list(sizes), "grey_levels": data.levels}
    if recipe.conditions.labels and data.classes is not None:
        given["classes"] = len(data.classes)
    for key, value in given.items():
        own = recipe.model.arguments.get(key, value)
        if (list(own) if isinstance(own, tuple) else own) != value:
            raise ConfigError(
                f"model.arguments.{key}: expected {value!r}, as the data set {data.name} has it, got {own!r}. "
                "Leave it out."
            )
    return build(recipe.model.name, {**recipe.model.arguments, **given})


@torch.no_grad()
def initialise(flow: Flow, data: FlowData, seed: int) -> None:
    """Run the first batch through the flow in training mode, which sets its ActNorms: the same on every process."""
    device = flow.base.anchor.device
    x, *labels = (tensor.to(device) for tensor in next(iter(data.stream())))
    flow.train()
    if x.is_floating_point():
        flow.log_prob(x.to(flow.base.anchor.dtype), *labels)
    else:
        flow.bits_per_dim(x, *labels or [None], generator=generator_for(device, "initialise", seed))
