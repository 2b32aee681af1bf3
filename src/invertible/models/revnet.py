"""RevNet (Gomez, Ren, Urtasun & Grosse 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from invertible.blocks import ReversibleResidual
from invertible.blocks.preactivation import Normalisation
from invertible.classifier import Classifier
from invertible.errors import ConfigError
from invertible.models.residual import Configuration, Parts, Position, chosen, residual_classifier

CIFAR, IMAGENET = (32, 32, 64, 128), (128, 128, 256, 512, 832)
PUBLISHED = {
    38: Configuration((3, 3, 3), (32, 32, 64, 112)),
    110: Configuration((9, 9, 9), CIFAR),
    164: Configuration((9, 9, 9), CIFAR, bottleneck=True),
    56: Configuration((2, 2, 3, 2), IMAGENET, bottleneck=True, imagenet=True),
    104: Configuration((2, 2, 11, 2), IMAGENET, bottleneck=True, imagenet=True),
}


def revnet(
    depth: int | None = None,
    *,
    classes: int = 10,
    shape: Sequence[int] | None = None,
    units: Sequence[int] | None = None,
    filters: Sequence[int] | None = None,
    bottleneck: bool | None = None,
    momentum: float = 0.01,
    grey_levels: int | None = 256,
) -> Classifier:
    """RevNet-38, 110, 164 (CIFAR), 56 or 104 (ImageNet) as published, or one of your own.

    Units y1 = x1 + F(x2), y2 = x2 + G(y1) on halves of the channels, with activation before convolution. The first
    unit of a stage, strided or with more channels, is y1 = s(x1) + F(x2), y2 = s(x2) + G(y1) and has no inverse:
    `set_memory(model, "reversible")` keeps its input, and what the last unit returns, and rebuilds everything else.

    Departs from the paper's code in the data's standardisation alone: by the mean and deviation of each channel, where
    that subtracts the mean image of training and test set.

    Args:
        depth: of a published network: 38, 110, 164, 56 or 104; `None` for one given by `units` and `filters`.
        classes: number of classes.
        shape: (channels, height, width); (3, 32, 32), or (3, 224, 224) for depths 56 and 104, if `None`.
        units: units of each stage.
        filters: channels of the stem, then of each stage, both halves together; bottleneck stages have 4 times as
            many.
        bottleneck: bottlenecks of 1 x 1, 3 x 3, 1 x 1 in place of two 3 x 3.
        momentum: weight of the newest batch in the running averages; 0.1 suits runs of a few hundred steps.
        grey_levels: levels of integer data; `None` for continuous data.

    Returns:
        A `Classifier` of x on [0, 1], (B, *shape). Parameters: 464,890 (38), 1,729,194 (110), 1,748,778 (164) for 10
        classes; 27,553,128 (56), 45,428,072 (104) for 1000.

    Raises:
        ConfigError: naming the argument.

    Example:
        >>> model = revnet(38, classes=10)
        >>> set_memory(model, "reversible")
    """
    arguments = dict(locals())
    configuration = chosen("models.revnet", PUBLISHED, depth, units, filters, bottleneck)
    odd = [each for each in configuration.filters if each % 2]
    if odd:
        raise ConfigError(f"models.revnet: expected even filters, each half of them a stream, got {odd[0]}.")
    return residual_classifier(
        "revnet",
        arguments,
        configuration,
        _unit,
        classes=classes,
        shape=shape,
        grey_levels=grey_levels,
        norm=Normalisation(momentum),
    )


def _unit(place: Position, parts: Parts) -> nn.Module:
    half, out = place.channels // 2, place.out // 2
    f = parts.function(half, out, place.stride, preactivated=place.first)
    g = parts.function(out, out)
    if place.keeps_shape:
        return ReversibleResidual(f, g)
    return StageEntry(f, g, *(parts.shortcut(half, out, place.stride) for _ in range(2)))


class StageEntry(nn.Module):
    """y1 = s1(x1) + F(x2), y2 = s2(x2) + G(y1): the unit that enters a stage, which loses information.

    Args:
        f: F, from half of x to half of y.
        g: G, of half of y.
        first: s1, likewise from half of x to half of y.
        second: s2, likewise.
    """

    def __init__(self, f: nn.Module, g: nn.Module, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.f, self.g, self.first, self.second = f, g, first, second

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        a, b = x.chunk(2, 1)
        a = self.first(a) + self.f(b)
        return torch.cat((a, self.second(b) + self.g(a)), 1)
