"""Inverse error by depth: which layers lose the digits on the way back."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from invertible.errors import NotInvertibleError
from invertible.memory.step import State
from invertible.representations.features import chosen_depths
from invertible.representations.layers import Layer, joined, layers, prepare
from invertible.stability.passage import relative_error
from invertible.stability.undisturbed import undisturbed


@dataclass(frozen=True)
class Errors:
    """Errors of a state, over the samples.

    Attributes:
        median: of |s' - s| / |s|, 2-norms over all numbers of a state; of a sample smaller than the median one, over
            the size of that.
        worst: the largest of these; infinite if one is not finite.
        largest: the largest |s'_i - s_i|, likewise.
        non_finite: samples with a number that is not finite.
    """

    median: float
    worst: float
    largest: float
    non_finite: int

    @staticmethod
    def of(true: State, found: State) -> Errors:
        """Of `found`, which ought to be `true`."""
        a, b = (joined(state).flatten(1).cpu().double() for state in (true, found))
        relative, absolute = relative_error(a, b), (b - a).abs().nan_to_num(nan=math.inf).amax(1)
        return Errors(
            float(relative.median()), float(relative.max()), float(absolute.max()), int(relative.isinf().sum())
        )


@dataclass(frozen=True)
class DepthError:
    """Errors at one depth.

    Attributes:
        depth: number of layers passed.
        name: of the last one.
        size: the median 2-norm of the state behind it. Rounding is relative to the largest numbers of a state: where
            states grow, the digits of the data go under.
        there: of the state behind it, against that in float64.
        own: of its input, as it recovers it from its own output.
        to_input: of the data, recovered from the state behind it through all layers before it; `None` where a layer
            on the way has no inverse, or the depth was not chosen.
        way_back: of the state behind it, as recovered on the way back from the last layer, `None` likewise.
        amplification: of its input on the way back over that of its output, 2-norms, worst sample: by how much it
            multiplied the error that came to it, its own included; NaN where that is not known.
    """

    depth: int
    name: str
    size: float
    there: Errors
    own: Errors | None
    to_input: Errors | None
    way_back: Errors | None
    amplification: float


@dataclass(frozen=True)
class InverseErrors:
    """Errors by depth; `points` stand in order, the first layer first.

    Attributes:
        points: one a layer.
        dtype: in which the model ran.
        eps: its unit of rounding.
        samples: number of samples.
        stopped_at: the last layer that has no inverse, so that nothing behind it leads to the input; empty if all
            have one.
    """

    points: tuple[DepthError, ...]
    dtype: str
    eps: float
    samples: int
    stopped_at: str = ""

    @property
    def worst(self) -> DepthError | None:
        """The layer that multiplies the error on the way back most, `None` if nothing comes back."""
        known = [point for point in self.points if not math.isnan(point.amplification)]
        return max(known, key=lambda point: point.amplification, default=None)

    def __str__(self) -> str:
        """A table."""
        width = max(len(point.name) for point in self.points)
        head = "".join(
            f"{title:>11}" for title in ("size", "forward", "own", "to input", "way back", "times", "not finite")
        )
        lines = [
            f"errors of {self.samples} samples in {self.dtype}, relative to the size of a state, worst sample",
            f"{'depth':>5}  {'':{width}}{head}",
        ]
        for point in self.points:
            errors = (point.there, point.own, point.to_input, point.way_back)
            cells = f"{point.size:11.3g}" + "".join(
                f"{'-' if one is None else f'{one.worst:.1e}':>11}" for one in errors
            )
            times = "-" if math.isnan(point.amplification) else f"{point.amplification:.3g}"
            lost = max((one.non_finite for one in errors if one is not None), default=0)
            mark = "  <- worst" if point is self.worst else ""
            lines.append(f"{point.depth:5}  {point.name:{width}}{cells}{times:>11}{lost:11}{mark}")
        lines.append(
            "size: of the state, median 2-norm; forward: of the state, against float64; own: of the layer alone; "
            "to input: of the data, from this state; "
            "way back: of the state, from the last layer; times: growth of the error through the layer's inverse"
        )
        if self.stopped_at:
            lines.append(f"{self.stopped_at} has no inverse: nothing behind it leads back to the input")
        return "\n".join(lines)


def inverse_error(
    model: nn.Module, x: Tensor, *, condition: Tensor | None = None, depths: int | None = None
) -> InverseErrors:
    """Errors of the inverse from every depth, of every layer alone, and along the whole way back.

    In the model's dtype. The truth of the data are the data; that of a state on its way is the same layer's in
    float64, run from the same data by a copy.

    Args:
        model: as `layers` takes it; undisturbed.
        x: data, (B, ...); all states of all layers are kept for the while.
        condition: condition of x, of B rows.
        depths: how many of the layers to invert from all the way to the input, evenly spaced; all if `None`, which
            takes L^2/2 layers for L.

    Raises:
        ShapeError: if x is not what the model takes.
        NotInvertibleError: if the very last layer in front of which the data stand has no inverse, so that there is
            nothing to measure.

    Example:
        >>> found = inverse_error(model, test.x[:64])
        >>> print(found)
    """
    found = layers(model)
    if all(layer.inverse is None for layer in found):
        raise NotInvertibleError(
            f"inverse_error: expected layers with an inverse, got none: {found[0].name} loses information.",
            block=found[0].name,
        )
    wanted = set(chosen_depths("inverse_error", model, depths))
    prepared, given = prepare(model, x, condition)
    double = copy.deepcopy(model).double()
    exact = _all_states(double, layers(double), prepared.double(), None if given is None else given.double())
    with undisturbed(model), torch.no_grad():
        there = _all_states(model, found, prepared, given)
        last = max((depth for depth, layer in enumerate(found, 1) if layer.inverse is None), default=0)
        back = _way_back(found, there[-1], given, last)
        points = []
        for depth, layer in enumerate(found, 1):
            to_input = depth in wanted and not any(each.inverse is None for each in found[:depth])
            points.append(
                DepthError(
                    depth,
                    layer.name,
                    float(_flat(there[depth]).norm(dim=1).median()),
                    Errors.of(exact[depth], there[depth]),
                    None if layer.inverse is None else Errors.of(there[depth - 1], layer.inverse(there[depth], given)),
                    Errors.of(there[0], _way_back(found[:depth], there[depth], given, 0)[0]) if to_input else None,
                    Errors.of(exact[depth], back[depth]) if depth in back else None,
                    _amplification(there[depth - 1 : depth + 1], back, depth),
                )
            )
    dtype = str(prepared.dtype).removeprefix("torch.")
    stopped = found[last - 1].name if last else ""
    return InverseErrors(tuple(points), dtype, torch.finfo(prepared.dtype).eps, len(x), stopped)


def _all_states(model: nn.Module, found: tuple[Layer, ...], x: Tensor, condition: Tensor | None) -> list[State]:
    states: list[State] = [(x,)]
    with undisturbed(model), torch.no_grad():
        for layer in found:
            states.append(layer.forward(states[-1], condition))
    return states


def _way_back(found: tuple[Layer, ...], state: State, condition: Tensor | None, last: int) -> dict[int, State]:
    """The states at each depth from the last one back to `last`, behind a layer that has no inverse."""
    states = {len(found): state}
    for depth in range(len(found), last, -1):
        layer = found[depth - 1]
        assert layer.inverse is not None
        states[depth - 1] = layer.inverse(states[depth], condition)
    return states


def _amplification(pair: list[State], back: dict[int, State], depth: int) -> float:
    """Worst |error of the input| / max(|error of the output|, eps |output|); NaN if the way back did not get there."""
    if depth - 1 not in back:
        return math.nan
    eps = torch.finfo(pair[0][0].dtype).eps
    (a, b), (undone, came) = ([_flat(each) for each in states] for states in (pair, (back[depth - 1], back[depth])))
    growth = (undone - a).norm(dim=1) / torch.maximum((came - b).norm(dim=1), eps * b.norm(dim=1))
    return float(growth.nan_to_num(nan=math.inf, posinf=math.inf).max())


def _flat(state: State) -> Tensor:
    return joined(state).flatten(1).cpu().double()
