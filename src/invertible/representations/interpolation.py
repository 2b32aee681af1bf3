"""Straight lines between the features of two samples, and what they are in the space of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from invertible.classifier import Classifier
from invertible.errors import ConfigError, ShapeError
from invertible.memory.step import State
from invertible.representations.layers import Layer, layers, prepare, require_inverse
from invertible.shapes import finite_rows
from invertible.stability.undisturbed import undisturbed


@dataclass(frozen=True, eq=False)
class Interpolation:
    """P pairs of samples, T steps from the one to the other.

    Attributes:
        weights: t of each step, from 0 to 1, (T,).
        images: Phi^-1((1 - t) Phi(x_0) + t Phi(x_1)), float32 (P, T, ...).
        pixels: (1 - t) x_0 + t x_1, likewise.
        classes: of both ends, as given, or as the classifier has them, int64 (P, 2); `None` if neither.
        probabilities: of these two classes for `images`, (P, T, 2); `None` for models that do not classify.
        pixel_probabilities: for `pixels`, likewise.
        off_range: how far the features are off those that samples have, |phi - Phi(Phi^-1(phi))| / |phi|, (P, T): the
            rounding of a bijection, more for an injective network; NaN where the inverse is not finite.
        residual: the 2-norm of what the inverses of injective layers drop, (P, T); 0 for a bijection.
        finite: whether the inverse is finite, boolean (P, T).
    """

    weights: Tensor
    images: Tensor
    pixels: Tensor
    classes: Tensor | None
    probabilities: Tensor | None
    pixel_probabilities: Tensor | None
    off_range: Tensor
    residual: Tensor
    finite: Tensor

    @property
    def non_finite(self) -> int:
        """Number of steps whose inverse is not finite."""
        return int((~self.finite).sum())

    @property
    def of_images(self) -> bool:
        """Whether the samples are images of one or three channels."""
        return self.images.dim() == 5 and self.images.shape[2] in (1, 3)

    @property
    def worst_off_range(self) -> float:
        """The largest of `off_range`; infinite if an inverse is not finite."""
        return float(self.off_range.nan_to_num(nan=math.inf).max())

    def __str__(self) -> str:
        """A few lines to print, and one a pair."""
        pairs, steps = self.finite.shape
        lines = [
            f"{pairs} pairs, {steps} steps; {self.non_finite} not finite; features off the range by "
            f"{self.worst_off_range:.2g} of their size at most"
        ]
        if float(self.residual.nan_to_num(nan=math.inf).max()) > 0:
            lines[0] += f", what injective layers drop: {float(self.residual.nan_to_num(nan=math.inf).max()):.3g}"
        for pair in range(pairs if self.classes is not None and self.probabilities is not None else 0):
            lines.append(self._line(pair))
        return "\n".join(lines)

    def _line(self, pair: int) -> str:
        assert self.classes is not None
        assert self.probabilities is not None
        assert self.pixel_probabilities is not None
        middle = len(self.weights) // 2
        a, b = self.classes[pair].tolist()
        one, other = self.probabilities[pair, middle].tolist()
        pixel_one, pixel_other = self.pixel_probabilities[pair, middle].tolist()
        return (
            f"  {a} to {b}: half-way p({a}) = {one:.2f}, p({b}) = {other:.2f} by features; "
            f"{pixel_one:.2f}, {pixel_other:.2f} by pixels"
        )


def interpolation(
    model: nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    *,
    condition: Tensor | None = None,
    steps: int = 9,
) -> Interpolation:
    """Interpolate linearly between the features of samples 0 and 1, 2 and 3, ..., and invert every step.

    phi_t = (1 - t) Phi(x_0) + t Phi(x_1), x_t = Phi^-1(phi_t) (Jacobsen et al. 2018, section 4), beside the same with
    pixels. A condition is interpolated along.

    A bijection has an x_t for every phi_t. An injective network may have none: then x_t is what its inverse makes of
    phi_t once it has dropped what no image has, and `off_range` says how far that is off.

    Args:
        model: as `layers` takes it; undisturbed.
        x: data, (2 P, ...).
        y: their classes, int64 (2 P,); those that the classifier predicts if `None`.
        condition: condition of x, of 2 P rows.
        steps: T, the ends among them.

    Raises:
        ShapeError: if the number of samples is odd.
        ConfigError: if steps is below 2.
        NotInvertibleError: if the model has no inverse, naming the layer.

    Example:
        >>> found = interpolation(model, test.x[:8], test.y[:8])
        >>> print(found)
    """
    found = layers(model)
    require_inverse("interpolation", found)
    if len(x) % 2 or not len(x) or (y is not None and len(y) != len(x)):
        raise ShapeError(
            f"interpolation: expected pairs, an even number of samples x, and as many labels y, got {len(x)} and "
            f"{'none' if y is None else len(y)}."
        )
    if steps < 2:
        raise ConfigError(f"interpolation: expected steps of at least 2, the two ends, got {steps}.")
    with undisturbed(model), torch.no_grad():
        x, condition = prepare(model, x, condition)
        weights = torch.linspace(0, 1, steps, dtype=torch.float64)
        features = _forward(found, (x,), condition)
        between = tuple(_line(each, weights) for each in features)
        along = None if condition is None else _line(condition, weights)
        images, residual = _inverse(found, between, along)
        again = _forward(found, (images,), along)
        pixels = _line(x, weights)
        chances = _chances(model, x, y, (images, pixels))
    shape = (len(x) // 2, steps)

    def arranged(each: Tensor) -> Tensor:
        return each.unflatten(0, shape).cpu()

    off = torch.where(finite_rows(images), _norm(_minus(again, between)) / _norm(between).clamp(min=1e-300), math.nan)
    return Interpolation(
        weights,
        arranged(images.float()),
        arranged(pixels.float()),
        None if chances is None else chances[0],
        None if chances is None else arranged(chances[1]),
        None if chances is None else arranged(chances[2]),
        arranged(off),
        arranged(residual),
        arranged(finite_rows(images)),
    )


def _line(x: Tensor, weights: Tensor) -> Tensor:
    """(2 P, ...) to (P T, ...), step by step from the first to the second of each pair."""
    t = weights.to(x).view(1, -1, *(1,) * (x.dim() - 1))
    return ((1 - t) * x[0::2, None] + t * x[1::2, None]).flatten(0, 1)


def _forward(found: tuple[Layer, ...], state: State, condition: Tensor | None) -> State:
    for layer in found:
        state = layer.forward(state, condition)
    return state


def _inverse(found: tuple[Layer, ...], state: State, condition: Tensor | None) -> tuple[Tensor, Tensor]:
    """The data, and the 2-norm of all that was dropped on the way."""
    dropped = torch.zeros(len(state[0]), dtype=torch.float64, device=state[0].device)
    for layer in reversed(found):
        assert layer.inverse is not None
        if layer.residual is not None:
            dropped = dropped + layer.residual(state).double().square()
        state = layer.inverse(state, condition)
    return state[0], dropped.sqrt()


def _chances(
    model: nn.Module, x: Tensor, y: Tensor | None, strips: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The two classes of each pair, and their probabilities along both strips; NaN where a sample is not finite."""
    if not isinstance(model, Classifier):
        return None
    classes = (model.predict(x) if y is None else y.to(x.device)).view(-1, 2)
    found = []
    for strip in strips:
        # Not `probabilities`, which refuses what is not finite: here that shows as NaN.
        chance = torch.softmax(model.head(model.body(strip)).double(), 1)
        found.append(chance.gather(1, classes.repeat_interleave(len(strip) // len(classes), 0)))
    return classes.cpu(), found[0], found[1]


def _minus(a: State, b: State) -> State:
    return tuple(one - other for one, other in zip(a, b, strict=True))


def _norm(state: State) -> Tensor:
    return torch.cat([x.double().flatten(1) for x in state], 1).norm(dim=1)
