"""What stands between a recipe and the first step: the model for the data, and what it takes from them at the start."""

import inspect
from typing import Any

import torch

from invertible.blocks import Standardise
from invertible.classifier import Classifier
from invertible.data import DataSet
from invertible.errors import ConfigError
from invertible.flow import Flow
from invertible.models import RECONSTRUCTORS, build
from invertible.models.reconstructor import Reconstructor
from invertible.training.classifier_data import ClassifierData
from invertible.training.datamodule import FlowData
from invertible.training.randomness import generator_for
from invertible.training.recipe import Recipe
from invertible.training.reconstruction_sections import Scans


def build_flow(recipe: Recipe, data: DataSet) -> Flow:
    """The recipe's flow for a data set: `shape`, `grey_levels` and, with labels, `classes` are the data's.

    Raises:
        ConfigError: if the recipe says otherwise, or the arguments do not fit each other.
    """
    sizes = data.shape
    given: dict[str, Any] = {"shape": sizes[0] if len(sizes) == 1 else list(sizes), "grey_levels": data.levels}
    if recipe.conditions.labels and data.classes is not None:
        given["classes"] = len(data.classes)
    model = build(recipe.model.name, _arguments(recipe, data.name, given))
    assert isinstance(model, Flow)
    return model


def build_classifier(recipe: Recipe, data: ClassifierData) -> Classifier:
    """The recipe's classifier for data: `shape`, `grey_levels` and `classes` are theirs.

    Raises:
        ConfigError: if the recipe says otherwise, or the arguments do not fit each other.
    """
    given = {"shape": list(data.shape), "grey_levels": data.grey_levels, "classes": len(data.classes)}
    model = build(recipe.model.name, _arguments(recipe, data.name, given))
    assert isinstance(model, Classifier)
    return model


def build_reconstructor(recipe: Recipe) -> Reconstructor:
    """The recipe's model that reconstructs: `image_channels` and, where it takes one, the context are `data.scans`'.

    Raises:
        ConfigError: if the recipe says otherwise, or the arguments do not fit each other.
    """
    scans = recipe.data.scans or Scans()
    given = {"image_channels": scans.image_channels, "context_features": scans.context_width}
    known = inspect.signature(RECONSTRUCTORS[recipe.model.name]).parameters
    fitting = {key: value for key, value in given.items() if key in known}
    model = build(recipe.model.name, _arguments(recipe, recipe.data.name, fitting))
    assert isinstance(model, Reconstructor)
    return model


def _arguments(recipe: Recipe, name: str, given: dict[str, Any]) -> dict[str, Any]:
    for key, value in given.items():
        own = recipe.model.arguments.get(key, value)
        if (list(own) if isinstance(own, tuple) else own) != value:
            raise ConfigError(
                f"model.arguments.{key}: expected {value!r}, as the data set {name} has it, got {own!r}. Leave it out."
            )
    return {**recipe.model.arguments, **given}


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


def standardise(classifier: Classifier, data: ClassifierData) -> None:
    """Give the `Standardise` at the front of the body mean and deviation of the training images, scaled to [0, 1].

    The same on every process, since they take them from the same images.
    """
    blocks = [block for block in classifier.body if isinstance(block, Standardise)]
    if not blocks:
        return
    # From the counts of the levels, which are exact however many images there are, and need no copy of them as floats.
    images, top = data.statistics_sample(), data.grey_levels - 1
    levels = torch.arange(data.grey_levels, dtype=torch.float64) / top
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=len(levels)) for channel in images.unbind(1)])
    share = counts.double() / counts.sum(1, keepdim=True)
    mean = share @ levels
    deviation = (share @ levels.square() - mean.square()).clamp(min=0).sqrt()
    for block in blocks:
        block.set(mean.to(block.mean.device), torch.where(deviation > 1e-6, deviation, 1.0).to(block.mean.device))
