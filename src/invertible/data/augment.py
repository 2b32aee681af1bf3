"""Random cuts, mirroring and colours of training images, and the one cut of images to be judged.

As ImageNet networks are trained since Szegedy et al. (2015), "Going deeper with convolutions": a cut of random area and
aspect ratio, mirrored half of the time, with random colours (Howard 2013, "Some improvements on deep convolutional
neural network based image classification"); and judged on the middle of each image.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from invertible.errors import ConfigError, require, require_positive

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
else:
    # pillow is loaded by those who read images.
    Picture = object

ATTEMPTS = 10
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class TrainingTransform:
    """A random cut of an image, scaled to a square, perhaps mirrored, in random colours.

    Args:
        size: side of the square.
        channels: 1 for grey, 3 for colour.
        scale: least and largest share of the image's area that a cut has, in (0, 1].
        ratio: least and largest ratio of a cut's width to its height.
        flip: mirror half of the images, left to right.
        jitter: strengths b, c, s and h of the change of brightness, contrast, saturation and hue, as `jitter` takes
            them.

    Raises:
        ConfigError: if an argument is out of its range.

    Example:
        >>> transform = TrainingTransform(224, flip=True, jitter=(0.4, 0.4, 0.4, 0.1))
        >>> x = transform(PIL.Image.open("cat.jpg"), torch.Generator().manual_seed(0))    # uint8, (3, 224, 224)
    """

    size: int
    channels: int = 3
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = False
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        require_positive("TrainingTransform", size=self.size)
        _check_channels("TrainingTransform", self.channels)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f"TrainingTransform: expected scale with 0 < least <= largest <= 1, got {self.scale}.")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ConfigError(f"TrainingTransform: expected ratio with 0 < least <= largest, got {self.ratio}.")
        if not all(0 <= each < math.inf for each in self.jitter) or self.jitter[3] > 0.5:
            raise ConfigError(
                "TrainingTransform: expected jitter as strengths of at least 0 of brightness, contrast, saturation and "
                f"hue, the last at most 0.5, got {self.jitter}."
            )

    def __call__(self, picture: Picture, generator: torch.Generator) -> Tensor:
        """Transform a picture of mode L or RGB: uint8, (channels, size, size)."""
        bilinear = require("PIL.Image", "data").Resampling.BILINEAR
        box = crop_box(picture.width, picture.height, self.scale, self.ratio, generator)
        picture = _in_channels(picture.resize((self.size, self.size), bilinear, box=box), self.channels)
        if self.flip and torch.rand((), generator=generator) < 0.5:
            picture = picture.transpose(require("PIL.Image", "data").Transpose.FLIP_LEFT_RIGHT)
        return to_tensor(jitter(picture, self.jitter, generator))


@dataclass(frozen=True)
class EvaluationTransform:
    """The middle of an image.

    The image is scaled until its shorter side is `resize` and the middle is cut out, both in one, so that nothing is
    rounded between the two. With `resize` of 256 and a size of 224, as is usual, that is the middle 87.5 %. An image
    that has the wanted size already comes out as it is where nothing is cut off.

    Args:
        size: of the result, (height, width), or the side of a square.
        resize: shorter side of the scaled image; that of the result, which cuts off nothing of a square, if `None`.
        channels: 1 for grey, 3 for colour.

    Raises:
        ConfigError: if an argument is out of its range.
    """

    size: int | tuple[int, int]
    resize: int | None = None
    channels: int = 3

    def __post_init__(self) -> None:
        height, width = self._sides
        require_positive("EvaluationTransform", height=height, width=width)
        _check_channels("EvaluationTransform", self.channels)
        if self.resize is not None and self.resize < min(height, width):
            raise ConfigError(
                f"EvaluationTransform: expected resize of at least the shorter side, {min(height, width)}, got "
                f"{self.resize}."
            )

    def __call__(self, picture: Picture) -> Tensor:
        """Transform a picture of mode L or RGB: uint8, (channels, height, width)."""
        height, width = self._sides
        bilinear = require("PIL.Image", "data").Resampling.BILINEAR
        box = centre_box(picture.width, picture.height, (height, width), self.resize or min(height, width))
        return to_tensor(_in_channels(picture.resize((width, height), bilinear, box=box), self.channels))

    @property
    def _sides(self) -> tuple[int, int]:
        return (self.size, self.size) if isinstance(self.size, int) else self.size


def crop_box(
    width: int,
    height: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> tuple[int, int, int, int]:
    """A random rectangle inside an image: (left, top, right, bottom) in pixels.

    Its share of the area is uniform over `scale`, the logarithm of its ratio of width to height uniform over `ratio`,
    its place uniform. If ten such rectangles do not fit into the image, the largest one in the middle is taken whose
    ratio is nearest to the image's own.
    """
    for _ in range(ATTEMPTS):
        share, aspect, x, y = torch.rand(4, dtype=torch.float64, generator=generator).tolist()
        area = width * height * _between(share, scale)
        form = math.exp(_between(aspect, (math.log(ratio[0]), math.log(ratio[1]))))
        w, h = round(math.sqrt(area * form)), round(math.sqrt(area / form))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return left, top, left + w, top + h
    form = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, max(1, round(height * form))), min(height, max(1, round(width / form)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def centre_box(width: int, height: int, size: tuple[int, int], resize: int) -> Box:
    """What to take of an image: (left, top, right, bottom), so that the image's scale is that of the given resize.

    Args:
        width: of the image.
        height: of the image.
        size: of what is to come out, (height, width).
        resize: length of the shorter side if all that fits were taken.
    """
    # Pixels of the image to a pixel of the result, were the largest rectangle of this form taken.
    pixel = min(height / size[0], width / size[1]) * min(size) / resize
    h, w = min(height, size[0] * pixel), min(width, size[1] * pixel)
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h


def jitter(picture: Picture, strengths: tuple[float, float, float, float], generator: torch.Generator) -> Picture:
    """Change brightness, contrast, saturation and hue at random, in random order.

    Brightness, contrast and saturation are multiplied by factors uniform on [max(0, 1 - strength), 1 + strength]: the
    distances from black, from the mean grey, and from the grey picture. Hues are turned by a share of the circle
    uniform on [-strength, strength], in steps of 1/256. What has strength 0 is left alone; grey pictures have neither
    saturation nor hue.

    Args:
        picture: of mode L or RGB.
        strengths: of the four.
        generator: of the factors.
    """
    enhance = require("PIL.ImageEnhance", "data")
    order = torch.randperm(4, generator=generator).tolist()
    draws = torch.rand(4, dtype=torch.float64, generator=generator).tolist()
    for kind in order:
        strength, draw = strengths[kind], draws[kind]
        if strength == 0 or (kind > 1 and picture.mode == "L"):
            continue
        if kind == 3:
            picture = _turn_hue(picture, _between(draw, (-strength, strength)))
            continue
        change = (enhance.Brightness, enhance.Contrast, enhance.Color)[kind]
        picture = change(picture).enhance(_between(draw, (max(0.0, 1 - strength), 1 + strength)))
    return picture


def to_tensor(picture: Picture) -> Tensor:
    """A picture of mode L or RGB as uint8 (1, H, W) or (3, H, W)."""
    pixels = torch.from_numpy(np.array(picture))
    return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous()


def _turn_hue(picture: Picture, share: float) -> Picture:
    shift = round(256 * share)
    hue, saturation, value = picture.convert("HSV").split()
    turned = hue.point([(level + shift) % 256 for level in range(256)])
    return require("PIL.Image", "data").merge("HSV", (turned, saturation, value)).convert("RGB")


def _in_channels(picture: Picture, channels: int) -> Picture:
    return picture.convert("L" if channels == 1 else "RGB")


def _between(draw: float, limits: tuple[float, float]) -> float:
    return limits[0] + draw * (limits[1] - limits[0])


def _check_channels(owner: str, channels: int) -> None:
    if channels not in (1, 3):
        raise ConfigError(f"{owner}: expected channels to be 1 or 3, got {channels!r}.")
