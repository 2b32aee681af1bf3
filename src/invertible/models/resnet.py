"""ResNet with pre-activation (He et al. 2016), the baseline of RevNet."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from invertible.blocks.preactivation import Normalisation
from invertible.classifier import Classifier
from invertible.models.residual import Configuration, Parts, Position, Residual, chosen, residual_classifier

CIFAR, IMAGENET = (16, 16, 32, 64), (64, 64, 128, 256, 512)
PUBLISHED = {
    32: Configuration((5, 5, 5), CIFAR),
    110: Configuration((18, 18, 18), CIFAR),
    164: Configuration((18, 18, 18), CIFAR, bottleneck=True),
    50: Configuration((3, 4, 6, 3), IMAGENET, bottleneck=True, imagenet=True),
    101: Configuration((3, 4, 23, 3), IMAGENET, bottleneck=True, imagenet=True),
}


def resnet(
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
    """ResNet-32, 110, 164 (CIFAR), 50 or 101 (ImageNet) of the same code as `revnet`, or one of your own.

    Units y = s(x) + F(x) with activation before convolution. It has no inverse: strategies that rebuild activations
    keep the input of every unit.

    Args:
        depth: of a published network: 32, 110, 164, 50 or 101; `None` for one given by `units` and `filters`.
        classes: number of classes.
        shape: (channels, height, width); (3, 32, 32), or (3, 224, 224) for depths 50 and 101, if `None`.
        units: units of each stage.
        filters: channels of the stem, then of each stage; bottleneck stages have 4 times as many.
        bottleneck: bottlenecks of 1 x 1, 3 x 3, 1 x 1 in place of two 3 x 3.
        momentum: weight of the newest batch in the running averages; 0.1 suits runs of a few hundred steps.
        grey_levels: levels of integer data; `None` for continuous data.

    Returns:
        A `Classifier` of x on [0, 1], (B, *shape). Parameters: 464,154 (32), 1,727,962 (110), 1,703,258 (164) for 10
        classes; 25,549,352 (50), 44,541,480 (101) for 1000.

    Raises:
        ConfigError: naming the argument.

    Example:
        >>> model = resnet(32, classes=10)
    """
    arguments = dict(locals())
    return residual_classifier(
        "resnet",
        arguments,
        chosen("models.resnet", PUBLISHED, depth, units, filters, bottleneck),
        _unit,
        classes=classes,
        shape=shape,
        grey_levels=grey_levels,
        norm=Normalisation(momentum),
    )


def _unit(place: Position, parts: Parts) -> nn.Module:
    f = parts.function(place.channels, place.out, place.stride, preactivated=place.first)
    return Residual(f, parts.shortcut(place.channels, place.out, place.stride))
