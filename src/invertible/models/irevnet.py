"""i-RevNet (Jacobsen, Smeulders & Oyallon 2018)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn

from invertible.blocks import PaddedSwapResidual, Squeeze, Standardise, SwapResidual
from invertible.classifier import Classifier
from invertible.errors import ConfigError, choose, require_positive
from invertible.models.common import checked_shape, described
from invertible.sequential import Sequential

PAPER, RELEASED = (1, 3, 1), (3, 3, 3)
KERNELS = {"paper": PAPER, "released": RELEASED}


@dataclass(frozen=True)
class Configuration:
    """What decides an i-RevNet.

    Attributes:
        blocks: of each stage.
        channels: of one half, at the end of each stage.
        strides: of the first block of each stage, 1 or 2.
        squeeze: space-to-depth of the image, in factors of two; 1 for none.
        kernels: of the three convolutions of a residual function.
        hidden: channels inside the residual functions of each stage.
        dropout: inside the residual functions.
        shape: of an image.
    """

    blocks: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    squeeze: int
    kernels: tuple[int, ...]
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    shape: tuple[int, ...] = (3, 224, 224)


PUBLISHED = {
    "a": Configuration((4, 4, 6, 4), (96, 384, 1536, 6144), (1, 2, 2, 2), 4, PAPER),
    "b": Configuration((6, 16, 72, 6), (24, 96, 384, 1536), (2, 2, 2, 2), 2, PAPER),
    "cifar": Configuration((18, 18, 18), (16, 64, 256), (1, 2, 2), 1, RELEASED, dropout=0.1, shape=(3, 32, 32)),
}


def irevnet(
    configuration: str | None = None,
    *,
    classes: int = 10,
    shape: Sequence[int] | None = None,
    blocks: Sequence[int] | None = None,
    channels: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    squeeze: int | None = None,
    kernels: str | Sequence[int] | None = None,
    multiplier: int = 4,
    hidden: Sequence[int] | None = None,
    dropout: float | None = None,
    momentum: float = 0.1,
    grey_levels: int | None = 256,
) -> Classifier:
    """i-RevNet, whose features give the image back: (a), (b) and the CIFAR form as published, or one of your own.

    Blocks y1 = S x2, y2 = S x1 + F(x2) (`SwapResidual`); F is three convolutions with batch normalisation and ReLU
    in front of each, but for the first one of all. Where a stage is wider than what comes in, channels of zeros are
    appended and the network is injective, else it is bijective: then `model.body` is a bijection of R^D.

    `set_memory(model, "reversible")` trains it in constant memory, which its released code does not.

    Args:
        configuration: `"a"` (injective, ImageNet), `"b"` (bijective, ImageNet), `"cifar"` (injective); `None` for one
            given by `blocks`, `channels` and `strides`. Arguments below take the place of its own.
        classes: number of classes.
        shape: (channels, height, width) of an image.
        blocks: of each stage.
        channels: of one half, at the end of each stage; a strided stage has at least 4 times those before.
        strides: of the first block of each stage, 1 or 2.
        squeeze: space-to-depth of the image in front, by 2 as often as it takes: 1, 2, 4, ...
        kernels: sizes of F's three convolutions, or `"paper"` (1, 3, 1) or `"released"` (3, 3, 3), as the paper's text
            and its code differ.
        multiplier: `channels` over the channels inside F.
        hidden: channels inside F, of each stage, in place of `channels` / `multiplier`.
        dropout: in front of F's last convolution; 0.1 for `"cifar"`, else 0. Inverses are of eval mode.
        momentum: of the batch normalisation inside F. That of the head is 0.9, as released.
        grey_levels: levels of integer data; `None` for continuous data.

    Returns:
        A `Classifier` of x on [0, 1], (B, *shape). Parameters: 180,999,016 (a, 1000 classes); 29,201,092 or with
        `kernels="released"` 125,120,356 (b, 1000); 6,274,826 (cifar, 10).

    Raises:
        ConfigError: naming the argument.

    Example:
        >>> stages = {"blocks": (4, 4), "channels": (8, 32), "strides": (2, 2), "hidden": (32, 32)}
        >>> model = irevnet(shape=(1, 8, 8), squeeze=2, **stages)
        >>> again = model.eval().invert(model.features(images))
    """
    arguments = dict(locals())
    chosen = _chosen(configuration, blocks, channels, strides)
    sizes = kernels if not isinstance(kernels, str) else choose("models.irevnet", "kernels", kernels, KERNELS)
    chosen = replace(
        chosen,
        shape=chosen.shape if shape is None else tuple(shape),
        squeeze=chosen.squeeze if squeeze is None else squeeze,
        kernels=chosen.kernels if sizes is None else tuple(sizes),
        dropout=chosen.dropout if dropout is None else dropout,
    )
    require_positive("models.irevnet", multiplier=multiplier, classes=classes)
    inner = tuple(hidden) if hidden is not None else tuple(max(1, width // multiplier) for width in chosen.channels)
    chosen = replace(chosen, hidden=inner)
    _check(chosen, momentum)
    body = Sequential(*_members(chosen, momentum))
    model = Classifier(
        body, _head(2 * chosen.channels[-1], classes), shape=chosen.shape, classes=classes, grey_levels=grey_levels
    )
    return described("irevnet", arguments, model)


def _chosen(
    name: str | None, blocks: Sequence[int] | None, channels: Sequence[int] | None, strides: Sequence[int] | None
) -> Configuration:
    base = Configuration((), (), (), 1, RELEASED) if name is None else choose(
        "models.irevnet", "configuration", name, PUBLISHED
    )  # fmt: skip
    if name is None and (blocks is None or channels is None or strides is None):
        raise ConfigError(
            f"models.irevnet: expected blocks, channels and strides, got blocks={blocks!r}, channels={channels!r}, "
            f"strides={strides!r}. Or give configuration: {', '.join(PUBLISHED)}."
        )
    return replace(
        base,
        blocks=base.blocks if blocks is None else tuple(blocks),
        channels=base.channels if channels is None else tuple(channels),
        strides=base.strides if strides is None else tuple(strides),
    )


def _check(chosen: Configuration, momentum: float) -> None:
    stages = len(chosen.blocks)
    for name, values in (("channels", chosen.channels), ("strides", chosen.strides), ("hidden", chosen.hidden)):
        if len(values) != stages or not stages:
            raise ConfigError(
                f"models.irevnet: expected {name} for each of {stages} stages that blocks has, got {values}."
            )
        require_positive("models.irevnet", **{f"{name}[{i}]": value for i, value in enumerate(values)})
    require_positive("models.irevnet", **{f"blocks[{i}]": n for i, n in enumerate(chosen.blocks)})
    if any(stride not in (1, 2) for stride in chosen.strides):
        raise ConfigError(f"models.irevnet: expected strides of 1 or 2, got {chosen.strides}.")
    if len(chosen.kernels) != 3 or any(size % 2 == 0 or size < 1 for size in chosen.kernels):
        raise ConfigError(f"models.irevnet: expected three odd kernels, 'paper' or 'released', got {chosen.kernels}.")
    if not 0 <= chosen.dropout < 1 or not 0 < momentum <= 1:
        raise ConfigError(
            f"models.irevnet: expected dropout in [0, 1) and momentum in (0, 1], got {chosen.dropout} and {momentum}."
        )
    if chosen.squeeze < 1 or chosen.squeeze & (chosen.squeeze - 1):
        raise ConfigError(f"models.irevnet: expected squeeze to be a power of two, got {chosen.squeeze!r}.")
    sizes = checked_shape("models.irevnet", chosen.shape)
    divisor = chosen.squeeze * math.prod(chosen.strides)
    if sizes[1] % divisor or sizes[2] % divisor:
        raise ConfigError(
            f"models.irevnet: expected height and width divisible by {divisor}, the product of squeeze and strides, "
            f"got {sizes[1]} x {sizes[2]}. Pad or crop the images, or use fewer strides."
        )


def _members(chosen: Configuration, momentum: float) -> Iterator[nn.Module]:
    width = chosen.shape[0]
    yield Standardise(width)
    for _ in range(int(math.log2(chosen.squeeze))):
        yield Squeeze(order="space-major")
        width *= 4
    stages = zip(chosen.blocks, chosen.channels, chosen.strides, chosen.hidden, strict=True)
    for stage, (blocks, channels, stride, hidden) in enumerate(stages):
        needed = 2 * channels // stride**2
        if width > needed or channels % stride**2:
            least = width * stride**2 // 2 + width % 2
            raise ConfigError(
                f"models.irevnet: expected channels[{stage}] of at least {least} and divisible by {stride**2}, since "
                f"{width} channels come in and the stride is {stride}, got {channels}."
            )
        made: list[nn.Module] = []
        for block in range(blocks):
            inside, factor = (needed // 2, stride) if block == 0 else (channels, 1)
            f = _function(inside, channels, hidden, factor, chosen, momentum, first=not stage and not block)
            made.append(SwapResidual(f, factor=factor))
        yield from (made if width == needed else _padded(made, width, needed))
        width = 2 * channels


def _padded(blocks: list[nn.Module], channels: int, padded: int) -> Iterator[nn.Module]:
    # The second block's x_1 is zero, so that the rounding errors of a rebuilt one are all there is of it.
    first, *rest = blocks
    assert isinstance(first, SwapResidual)
    yield Sequential(PaddedSwapResidual(first, channels, padded), *rest[:1], keep_input=True)
    yield from rest[1:]


def _function(
    channels: int, out: int, hidden: int, stride: int, chosen: Configuration, momentum: float, *, first: bool
) -> nn.Module:
    """k1^2 c h + k2^2 h^2 + k3^2 h o + 4 h + 2 c parameters from c to o channels; 2 c fewer for the first one."""
    k1, k2, k3 = chosen.kernels

    def activated(width: int) -> list[nn.Module]:
        return [nn.BatchNorm2d(width, momentum=momentum), nn.ReLU(inplace=True)]

    return nn.Sequential(
        *([] if first else activated(channels)),
        nn.Conv2d(channels, hidden, k1, stride, padding=k1 // 2, bias=False),
        *activated(hidden),
        nn.Conv2d(hidden, hidden, k2, padding=k2 // 2, bias=False),
        *([nn.Dropout(chosen.dropout)] if chosen.dropout else []),
        *activated(hidden),
        nn.Conv2d(hidden, out, k3, padding=k3 // 2, bias=False),
    )


def _head(channels: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm2d(channels, momentum=0.9),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, classes),
    )
