"""i-ResNet as a classifier (Behrmann, Grathwohl, Chen, Duvenaud & Jacobsen 2019)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from invertible.blocks import ActNorm, ChannelPadding, Squeeze, Standardise
from invertible.blocks.lipschitz import LipschitzConvNet
from invertible.blocks.preactivation import Normalisation
from invertible.blocks.residual import ResidualBlock
from invertible.classifier import Classifier
from invertible.errors import ConfigError, choose, require_positive
from invertible.memory.step import Step
from invertible.models.common import checked_shape, described
from invertible.models.residual import head
from invertible.module_step import InvertibleModuleStep
from invertible.sequential import Sequential

KERNELS = (3, 1, 3)


@dataclass(frozen=True)
class Configuration:
    """What decides an i-ResNet.

    Attributes:
        blocks: of each stage.
        channels: inside the residual functions of each stage.
        strides: of the first block of each stage, 1 or 2: with 2 a squeeze comes before it.
        padding: channels of zeros that are appended to the image.
        shape: of an image.
    """

    blocks: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    padding: int = 0
    shape: tuple[int, ...] = (3, 32, 32)


PUBLISHED = {"cifar": Configuration((7, 7, 7), (32, 64, 128), (1, 2, 2), 13)}


def iresnet(
    configuration: str | None = None,
    *,
    classes: int = 10,
    shape: Sequence[int] | None = None,
    blocks: Sequence[int] | None = None,
    channels: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    padding: int | None = None,
    coefficient: float = 0.9,
    activation: str = "elu",
    actnorm: bool = True,
    momentum: float = 0.9,
    grey_levels: int | None = 256,
) -> Classifier:
    """i-ResNet: residual blocks y = x + g(x) of contractions g, whose features give the image back.

    Every block is ActNorm and x + g(x), g an activation and a convolution of 3 x 3, 1 x 1, 3 x 3 each, c^3 its constant
    for c = `coefficient` of each layer (section 4); a squeeze in front of a strided one; a pooled linear head. Without
    padding the network is bijective, and `model.bijection` a bijection of R^D with a log-determinant. Padding with
    channels of zeros makes it injective and more accurate.

    `"cifar"` is the classifier of the paper's code. Departs from it: constants are certified, not estimated by power
    iteration; the data are standardised by channel in place of its ZCA whitening; and there is no ActNorm in front of
    the first block, where padded channels are constant.

    `set_memory(model, "reversible")` trains it in constant memory.

    Args:
        configuration: `"cifar"`: 7 blocks in each of 3 stages, 32, 64 and 128 channels inside, 13 channels of zeros;
            `None` for one given by `blocks`, `channels` and `strides`. Arguments below take the place of its own.
        classes: number of classes.
        shape: (channels, height, width) of an image.
        blocks: of each stage.
        channels: inside the residual functions of each stage.
        strides: of the first block of each stage, 1 or 2.
        padding: channels of zeros appended to the image; 0 for none.
        coefficient: c in (0, 1).
        activation: a name that `LipschitzConvNet` takes.
        actnorm: put an `ActNorm` before every block but the first.
        momentum: of the head's batch normalisation.
        grey_levels: levels of integer data; `None` for continuous data.

    Returns:
        A `Classifier` of x on [0, 1], (B, *shape). Parameters: 4,873,146 (cifar, 10 classes).

    Raises:
        ConfigError: naming the argument.

    Example:
        >>> model = iresnet(shape=(1, 8, 8), blocks=(2, 2), channels=(16, 16), strides=(1, 2))
        >>> again = model.eval().invert(model.features(images))
    """
    arguments = dict(locals())
    chosen = _chosen(configuration, blocks, channels, strides)
    chosen = replace(
        chosen,
        shape=chosen.shape if shape is None else tuple(shape),
        padding=chosen.padding if padding is None else padding,
    )
    require_positive("models.iresnet", classes=classes)
    _check(chosen, coefficient, momentum)
    body = Sequential(*_members(chosen, coefficient, activation, actnorm=actnorm))
    features = (chosen.shape[0] + chosen.padding) * math.prod(chosen.strides) ** 2
    model = Classifier(
        body,
        head(features, classes, Normalisation(momentum)),
        shape=chosen.shape,
        classes=classes,
        grey_levels=grey_levels,
    )
    return described("iresnet", arguments, model)


class Features(Sequential):
    """A residual block without its log-determinant, which a classifier does not want and which costs most.

    Args:
        block: the block.
    """

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__(block)

    def _run(self, x: Tensor) -> Tensor:
        return x + self.block.residual_map()(x)

    def inverse(self, y: Tensor) -> Tensor:
        """x of a given y, without a graph."""
        return self.block.solve(y).x

    def steps(self) -> list[Step]:
        """One."""
        return [FeaturesStep(self)]

    @property
    def block(self) -> ResidualBlock:
        """The residual block."""
        found = self.blocks[0]
        assert isinstance(found, ResidualBlock)
        return found


class FeaturesStep(InvertibleModuleStep):
    """`Features` within a pass of the network around it.

    Args:
        features: the block.
    """

    def __init__(self, features: Features) -> None:
        super().__init__(features)
        self.name, self.call = type(features.block).__name__, features._run


def _chosen(
    name: str | None, blocks: Sequence[int] | None, channels: Sequence[int] | None, strides: Sequence[int] | None
) -> Configuration:
    if name is None and (blocks is None or channels is None or strides is None):
        raise ConfigError(
            f"models.iresnet: expected blocks, channels and strides, got blocks={blocks!r}, channels={channels!r}, "
            f"strides={strides!r}. Or give configuration: {', '.join(PUBLISHED)}."
        )
    base = Configuration((), (), ()) if name is None else choose(
        "models.iresnet", "configuration", name, PUBLISHED
    )  # fmt: skip
    return replace(
        base,
        blocks=base.blocks if blocks is None else tuple(blocks),
        channels=base.channels if channels is None else tuple(channels),
        strides=base.strides if strides is None else tuple(strides),
    )


def _check(chosen: Configuration, coefficient: float, momentum: float) -> None:
    stages = len(chosen.blocks)
    for name, values in (("blocks", chosen.blocks), ("channels", chosen.channels), ("strides", chosen.strides)):
        if len(values) != stages or not stages:
            raise ConfigError(
                f"models.iresnet: expected {name} for each of {stages} stages that blocks has, got {values}."
            )
        require_positive("models.iresnet", **{f"{name}[{i}]": value for i, value in enumerate(values)})
    if any(stride not in (1, 2) for stride in chosen.strides):
        raise ConfigError(f"models.iresnet: expected strides of 1 or 2, got {chosen.strides}.")
    if not 0 < coefficient < 1 or not 0 < momentum <= 1 or chosen.padding < 0:
        raise ConfigError(
            "models.iresnet: expected coefficient in (0, 1), momentum in (0, 1] and padding of at least 0, got "
            f"{coefficient}, {momentum} and {chosen.padding}."
        )
    checked_shape("models.iresnet", chosen.shape, math.prod(chosen.strides))


def _members(chosen: Configuration, coefficient: float, activation: str, *, actnorm: bool) -> Iterator[nn.Module]:
    width = chosen.shape[0]
    yield Standardise(width)
    if chosen.padding:
        yield ChannelPadding(width, width + chosen.padding)
        width += chosen.padding
    first = True
    for blocks, channels, stride in zip(chosen.blocks, chosen.channels, chosen.strides, strict=True):
        for index in range(blocks):
            if index == 0 and stride == 2:
                yield Squeeze()
                width *= 4
            if actnorm and not first:
                yield ActNorm(width)
            net = LipschitzConvNet(
                width,
                (channels, channels),
                kernel_sizes=KERNELS,
                lipschitz=coefficient ** len(KERNELS),
                activation=activation,
                preactivation=not first,
            )
            yield Features(ResidualBlock(net))
            first = False
