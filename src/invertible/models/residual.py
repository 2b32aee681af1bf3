"""What RevNet and ResNet share: stages of pre-activation units between a stem and a head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from invertible.blocks import Standardise
from invertible.blocks.preactivation import Normalisation, PoolAndPad, basic, bottleneck, initialise, projection
from invertible.classifier import Classifier
from invertible.errors import ConfigError, require_positive
from invertible.models.common import checked_shape, described
from invertible.sequential import Sequential

CIFAR_SHAPE, IMAGENET_SHAPE = (3, 32, 32), (3, 224, 224)


@dataclass(frozen=True)
class Configuration:
    """A published network.

    Attributes:
        units: of each stage.
        filters: channels of the stem, then of each stage, before the factor 4 of bottlenecks.
        bottleneck: whether residual functions are bottlenecks, whose stages have 4 times their filters.
        imagenet: whether it is made for images of 224 x 224: a strided stem with a pooling behind.
    """

    units: tuple[int, ...]
    filters: tuple[int, ...]
    bottleneck: bool = False
    imagenet: bool = False


@dataclass(frozen=True)
class Position:
    """Where a unit stands.

    Attributes:
        channels: of its input.
        out: of its output.
        stride: of its first convolutions.
        first: whether it stands right behind the stem, which has normalised and rectified its input already.
    """

    channels: int
    out: int
    stride: int
    first: bool

    @property
    def keeps_shape(self) -> bool:
        """Whether input and output have one shape."""
        return self.channels == self.out and self.stride == 1


@dataclass(frozen=True)
class Parts:
    """How a network builds its residual functions and shortcuts.

    Attributes:
        bottleneck: bottlenecks and projections, else two 3 x 3 convolutions and pooling with padding.
        norm: batch normalisation.
    """

    bottleneck: bool
    norm: Normalisation

    def function(self, channels: int, out: int, stride: int = 1, *, preactivated: bool = False) -> nn.Module:
        """A residual function."""
        build = bottleneck if self.bottleneck else basic
        return build(channels, out, self.norm, stride=stride, preactivated=preactivated)

    def shortcut(self, channels: int, out: int, stride: int) -> nn.Module:
        """What stands beside it."""
        if channels == out and stride == 1:
            return nn.Identity()
        return projection(channels, out, stride) if self.bottleneck else PoolAndPad(channels, out, stride)


def positions(configuration: Configuration) -> Iterator[Position]:
    """The units in order; the first one of every stage but the first is strided."""
    channels, factor = configuration.filters[0], 4 if configuration.bottleneck else 1
    for stage, (units, filters) in enumerate(zip(configuration.units, configuration.filters[1:], strict=True)):
        for unit in range(units):
            yield Position(channels, factor * filters, 2 if stage and not unit else 1, first=not stage and not unit)
            channels = factor * filters


def stem(configuration: Configuration, channels: int, norm: Normalisation) -> nn.Module:
    """3 x 3; or for ImageNet 7 x 7 with stride 2, and a max-pooling behind; BN and ReLU after the convolution."""
    out = configuration.filters[0]
    if not configuration.imagenet:
        return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1, bias=False), *norm.activation(out))
    return nn.Sequential(
        nn.Conv2d(channels, out, 7, stride=2, padding=3, bias=False),
        *norm.activation(out),
        nn.MaxPool2d(3, stride=2, padding=1),
    )


def head(channels: int, classes: int, norm: Normalisation) -> nn.Module:
    """BN, ReLU, the mean over all positions, and a linear layer."""
    return nn.Sequential(
        *norm.activation(channels), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )


def chosen(
    owner: str,
    published: dict[int, Configuration],
    depth: int | None,
    units: Sequence[int] | None,
    filters: Sequence[int] | None,
    bottleneck: bool | None,  # noqa: FBT001
) -> Configuration:
    """A published configuration, or one's own.

    Raises:
        ConfigError: if `depth` is unknown, or `units` and `filters` do not fit each other.
    """
    if depth is not None:
        if depth not in published or units is not None or filters is not None or bottleneck is not None:
            raise ConfigError(
                f"{owner}: expected depth to be one of {', '.join(map(str, published))}, or None beside units and "
                f"filters, got depth={depth!r}, units={units!r}, filters={filters!r}, bottleneck={bottleneck!r}."
            )
        return published[depth]
    if units is None or filters is None or len(filters) != len(units) + 1 or not units:
        raise ConfigError(
            f"{owner}: expected units of each stage, and filters of the stem and of each stage, got units={units!r}, "
            f"filters={filters!r}. Or give depth: {', '.join(map(str, published))}."
        )
    require_positive(owner, **{f"units[{i}]": n for i, n in enumerate(units)})
    require_positive(owner, **{f"filters[{i}]": n for i, n in enumerate(filters)})
    return Configuration(tuple(units), tuple(filters), bool(bottleneck))


Unit = Callable[[Position, Parts], nn.Module]


def residual_classifier(
    owner: str,
    arguments: dict[str, object],
    configuration: Configuration,
    unit: Unit,
    *,
    classes: int,
    shape: Sequence[int] | None,
    grey_levels: int | None,
    norm: Normalisation,
) -> Classifier:
    """Stem, units and head as a `Classifier` with the `config` that rebuilds it."""
    require_positive(f"models.{owner}", classes=classes)
    if not (0 < norm.momentum <= 1 and norm.epsilon > 0):
        raise ConfigError(f"models.{owner}: expected momentum in (0, 1], got {norm.momentum}.")
    standard = IMAGENET_SHAPE if configuration.imagenet else CIFAR_SHAPE
    sizes = checked_shape(f"models.{owner}", standard if shape is None else shape)
    _check_room(owner, configuration, sizes)
    parts = Parts(configuration.bottleneck, norm)
    places = list(positions(configuration))
    body = Sequential(
        Standardise(sizes[0]), stem(configuration, sizes[0], norm), *(unit(place, parts) for place in places)
    )
    model = Classifier(body, head(places[-1].out, classes, norm), shape=sizes, classes=classes, grey_levels=grey_levels)
    initialise(model)
    return described(owner, arguments, model)


def _check_room(owner: str, configuration: Configuration, shape: tuple[int, int, int]) -> None:
    factor = 2 ** (len(configuration.units) - 1) * (4 if configuration.imagenet else 1)
    if min(shape[1:]) < factor:
        raise ConfigError(
            f"models.{owner}: expected height and width of at least {factor}, which its strides leave one pixel of, "
            f"got {shape[1]} x {shape[2]}. Use fewer stages or larger images."
        )


class Residual(nn.Module):
    """y = s(x) + F(x): a unit of ResNet (He et al. 2016).

    Args:
        f: F, from x to y.
        shortcut: s, likewise.
    """

    def __init__(self, f: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.f, self.shortcut = f, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """s(x) + F(x)."""
        return self.shortcut(x) + self.f(x)
