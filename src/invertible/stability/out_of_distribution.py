"""Data that a model was not trained on: noise, constants, transforms of the data, another data set."""

import torch
from torch import Tensor

from invertible.dequantize import Dequantize
from invertible.errors import DomainError, ShapeError

DESCRIPTIONS = {
    "uniform": "uniform noise on the data's box",
    "gaussian": "Gaussian noise about the middle, its deviation the box's width, clipped to the box",
    "rademacher": "every value at one end of its range, chosen by a coin",
    "constant": "one value for all pixels of an image",
    "inverted": "the data mirrored about the middle of their range",
    "shuffled": "the data with pixels in random order",
    "scaled x3": "the data stretched threefold about the middle of their range",
    "scaled x10": "the data stretched tenfold about the middle of their range",
    "other": "another data set",
}


def out_of_distribution(
    x: Tensor, *, levels: int | None = None, other: Tensor | None = None, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Make data sets far from x, of x's shape, dtype and device.

    All but the scaled ones stay inside the data's box [low, high]: [0, 1] for images (x of three or more axes) whose
    values lie in it, and for all data of known `levels`; the range of all values for other images, the range of each
    feature for other vectors (B, D). With c = (low + high)/2 and w = high - low:

    - `uniform`: U[low, high].
    - `gaussian`: c + w N(0, 1), clipped to the box; with [0, 1] the clip(0.5 + N(0, 1)) of Behrmann et al. (2021).
    - `rademacher`: low or high with probability 1/2 each; {0, 1} for images.
    - `constant`: low + w t with one t ~ U[0, 1] for all pixels of a channel, or for all features of a vector.
    - `inverted`: low + high - x.
    - `shuffled`: the pixels of every image in random order, channels together; for vectors every feature shuffled
      over the samples, which keeps its distribution and loses the dependence among features.
    - `scaled x3`, `scaled x10`: c + 3 (x - c) and c + 10 (x - c); c is the mean of each feature for vectors
      without `levels`.
    - `other`: the data set given as such.

    Args:
        x: data, integers 0 .. levels - 1 or floating point, shape (B, ...). Integers are dequantised first.
        levels: number of grey levels of discrete data. Noise and constants are then rounded to levels and
            dequantised, as a picture of noise from a file would be.
        other: another data set, integers or floating point like x, of any number of samples.
        generator: source of all random numbers, on any device.

    Returns:
        Name to tensor, in the order above.

    Raises:
        ShapeError: if x holds no sample, or integers come without `levels`, or `other` has another shape.
        DomainError: if x is not finite.
    """
    x = dequantized(x, levels, generator)
    if x.dim() < 2 or not len(x):
        raise ShapeError(f"out_of_distribution: expected x of shape (batch, ...), not empty, got {tuple(x.shape)}.")
    if not bool(x.isfinite().all()):
        raise DomainError("out_of_distribution: expected x to be finite, got NaN or infinity. Remove those samples.")
    low, high = _box(x, levels)
    middle, width = (low + high) / 2, high - low
    made = {
        "uniform": low + width * _uniform(x, generator),
        "gaussian": torch.clamp(middle + width * _normal(x, generator), low, high),
        "rademacher": torch.where(_uniform(x, generator) < 0.5, low, high).expand_as(x).clone(),
        "constant": low + width * _uniform(_one_pixel(x), generator).expand_as(x),
    }
    if levels is not None:
        made = {name: _on_levels(values, levels, generator) for name, values in made.items()}
    made["inverted"] = low + high - x
    made["shuffled"] = _shuffled(x, generator)
    centre = x.mean(0, keepdim=True) if x.dim() == 2 and levels is None else middle
    made["scaled x3"], made["scaled x10"] = centre + 3 * (x - centre), centre + 10 * (x - centre)
    if other is not None:
        other = dequantized(other, levels, generator)
        if other.shape[1:] != x.shape[1:]:
            raise ShapeError(
                f"out_of_distribution: expected other of shape (batch, {', '.join(map(str, x.shape[1:]))}) like x, "
                f"got {tuple(other.shape)}. Resize or crop it."
            )
        made["other"] = other.to(x)
    return made


def dequantized(
    x: Tensor, levels: int | None, generator: torch.Generator | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Floating-point data as they are; integers 0 .. levels - 1 as (k + u)/levels, u uniform on [0, 1).

    Raises:
        ShapeError: if integers come without `levels`.
    """
    if x.is_floating_point():
        return x
    if levels is None:
        raise ShapeError(
            f"audit: expected data of a floating-point dtype, since the model names no grey levels, got {x.dtype}. "
            "Convert them with x.float(), or build the model with its number of grey levels."
        )
    device = x.device if generator is None else generator.device
    return Dequantize(levels)(x.to(device), generator, dtype).to(x.device)


def _box(x: Tensor, levels: int | None) -> tuple[Tensor, Tensor]:
    low, high = x.aminmax()
    if levels is not None or (x.dim() > 2 and low >= 0 and high <= 1):
        return torch.zeros_like(low), torch.ones_like(high)
    if x.dim() == 2:
        low, high = x.aminmax(dim=0, keepdim=True)
    return low, torch.where(high > low, high, low + 1)


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = like.device if generator is None else generator.device
    return torch.rand(like.shape, generator=generator, dtype=like.dtype, device=device).to(like.device)


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = like.device if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=device).to(like.device)


def _one_pixel(x: Tensor) -> Tensor:
    return x[:, :1] if x.dim() == 2 else x.flatten(2)[:, :, 0].reshape(*x.shape[:2], *[1] * (x.dim() - 2))


def _on_levels(x: Tensor, levels: int, generator: torch.Generator | None) -> Tensor:
    level = Dequantize(levels).quantize(x)
    return dequantized(level, levels, generator, x.dtype)


def _shuffled(x: Tensor, generator: torch.Generator | None) -> Tensor:
    if x.dim() == 2:
        return x.gather(0, _uniform(x, generator).argsort(0))
    pixels = x.flatten(2)
    order = _uniform(pixels[:, :1], generator).argsort(2)
    return pixels.gather(2, order.expand_as(pixels)).reshape(x.shape)
