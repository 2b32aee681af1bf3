"""Singular values of a model's Jacobian, and the inverse error that they foretell beside the one that is measured."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from invertible.bijection import Bijection
from invertible.classifier import Classifier
from invertible.errors import ConfigError, require_positive
from invertible.memory.step import State
from invertible.representations.layers import Layer, joined, layers, prepare, undo
from invertible.stability.passage import relative_error
from invertible.stability.spectrum import singular_values
from invertible.stability.states import Move, derivative
from invertible.stability.undisturbed import undisturbed

# Beyond so many values of a sample its whole Jacobian is not computed.
DENSE = 1024
# Directions that pass the network together.
ROWS = 256


@dataclass(frozen=True, eq=False)
class JacobianSpectrum:
    """Singular values of x -> features, sample by sample.

    Attributes:
        values: all of them, largest first, float64 (B, D); NaN where a Jacobian is not finite. With
            `method="iterative"` the k largest and the k smallest alone, (B, 2 k).
        features: number of features; more than D for an injective network.
        log_det: sum_i log s_i, (B,), of a square Jacobian whose values are all known; else NaN.
        log_det_error: how far the model's own log_det is off that, (B,); NaN where there is none.
        inverse_error: |x' - x| / |x| of the inverse in the model's dtype, (B,), infinite where it is not finite; NaN
            without an inverse.
        eps: unit of rounding of that dtype.
        method: `"dense"` or `"iterative"`.
        note: what to know about the values; empty if nothing.
    """

    values: Tensor
    features: int
    log_det: Tensor
    log_det_error: Tensor
    inverse_error: Tensor
    eps: float
    method: str
    note: str = ""

    @property
    def condition_number(self) -> Tensor:
        """s_max / s_min of each sample, (B,): by how much the map and then its inverse can multiply a relative error.

        Of an injective network the inverse is that on its range.
        """
        return self.values[:, 0] / self.values[:, -1]

    @property
    def foretold(self) -> Tensor:
        """eps times the condition number, (B,): the inverse error of an output that is rounded in the worst way."""
        return self.eps * self.condition_number

    @property
    def worst_index(self) -> int:
        """The sample with the largest condition number; one without finite values comes first."""
        return int(self.condition_number.nan_to_num(nan=math.inf).argmax())

    def __str__(self) -> str:
        """A few lines to print."""
        worst, condition = self.worst_index, self.condition_number
        samples, count = self.values.shape
        shape = f"{self.features} x {count}" if self.method == "dense" else f"{self.features} values, ends alone"
        lines = [
            f"Jacobian ({shape}) of {samples} samples: largest singular value {self.values[:, 0].max():.4g}, smallest "
            f"{self.values[:, -1].min():.3g}",
            f"condition number {condition.nanmedian():.3g} (median), {condition[worst]:.3g} (worst, sample {worst})",
        ]
        if not bool(self.log_det.isnan().all()):
            low, high = float(self.log_det.min()), float(self.log_det.max())
            lines.append(f"log|det J| {low:.4g} to {high:.4g}")
        if not bool(self.inverse_error.isnan().all()):
            lines.append(
                f"inverse error {self.inverse_error.median():.2g} (median), {self.inverse_error.max():.2g} (worst); "
                f"eps x condition number {self.foretold.nanmedian():.2g} (median), {self.foretold[worst]:.2g} (worst)"
            )
        return "\n".join([*lines, *([self.note] if self.note else [])])


def spectrum(
    model: nn.Module, x: Tensor, *, condition: Tensor | None = None, k: int = 8, limit: int = DENSE
) -> JacobianSpectrum:
    """All singular values of the Jacobian of x -> features at each sample, in float64 (Jacobsen et al. 2018, figure 4).

    Bijections go to `stability.singular_values`. Of anything else, such as an injective i-RevNet or a RevNet, D
    derivatives in forward mode give the Jacobian, column by column. A network that loses information has singular
    values of 0, and an infinite condition number.

    Args:
        model: as `layers` takes it; undisturbed, a copy in float64 is measured.
        x: data, (B, ...). Takes time in proportion to B D, D the values of a sample.
        condition: condition of x, of B rows.
        k: values at either end for bijections of more than `limit` values.
        limit: largest D whose whole Jacobian is computed; that takes D passes a sample and D^3 operations.

    Raises:
        ConfigError: if there are more, and the model is no bijection.
        ShapeError: if x is not what the model takes.

    Example:
        >>> found = spectrum(model, test.x[:8])
        >>> print(found.condition_number)
    """
    owner = "spectrum"
    require_positive(owner, k=k, limit=limit)
    found = layers(model)
    prepared, given = prepare(model, x, condition)
    eps = torch.finfo(prepared.dtype).eps
    size = prepared[0].numel()
    error = _inverse_error(model, found, prepared, given)
    bijection = _bijection(model)
    if bijection is not None:
        method = "dense" if size <= limit else "iterative"
        ends = size if method == "dense" else min(k, size)
        measured = singular_values(bijection, prepared, ends, condition=given, method=method)
        dense = method == "dense"
        values = measured.largest if dense else torch.cat((measured.largest, measured.smallest.flip(1)), 1)
        log_det = values.log().sum(1) if dense else torch.full_like(values[:, 0], math.nan)
        note = measured.note or ("" if dense else "the values between the ends are not known")
        return JacobianSpectrum(values, size, log_det, measured.log_det_error, error, eps, method, note)
    if size > limit:
        raise ConfigError(
            f"{owner}: expected samples of at most {limit} values where a model is no bijection, got {size}. Raise "
            "limit, or take smaller images."
        )
    values, features = _dense(model, x, condition)
    unknown = torch.full_like(values[:, 0], math.nan)
    return JacobianSpectrum(values, features, unknown, unknown, error, eps, "dense")


def _bijection(model: nn.Module) -> Bijection | None:
    """The model as one bijection, if all of it is one."""
    return model if isinstance(model, Bijection) else getattr(model, "bijection", None)


def _inverse_error(model: nn.Module, found: tuple[Layer, ...], x: Tensor, condition: Tensor | None) -> Tensor:
    if any(layer.inverse is None for layer in found):
        return torch.full((len(x),), math.nan, dtype=torch.float64)
    with undisturbed(model), torch.no_grad():
        state: State = (x,)
        for layer in found:
            state = layer.forward(state, condition)
        return relative_error(x, undo(found, state, condition)[0])


def _dense(model: nn.Module, x: Tensor, condition: Tensor | None) -> tuple[Tensor, int]:
    """Singular values (B, D) of a map that may have another number of values than x, and that number."""
    double = copy.deepcopy(model).double()
    if isinstance(double, Classifier):
        double.validate = False
    found = layers(double)
    x, condition = prepare(double, x if not x.is_floating_point() else x.double(), condition)

    def features(state: State, given: Tensor | None) -> State:
        for layer in found:
            state = layer.forward(state, given)
        return (joined(state).flatten(1),)

    rows = []
    count = 0
    with undisturbed(double), torch.no_grad():
        for index in range(len(x)):
            jacobian = _jacobian(features, x[index : index + 1], None if condition is None else condition[index][None])
            count = jacobian.shape[1]
            values = torch.linalg.svdvals(jacobian.nan_to_num(0.0, 0.0, 0.0))
            padded = torch.cat((values, values.new_zeros(max(0, len(jacobian) - len(values)))))
            rows.append(torch.where(jacobian.isfinite().all(), padded, math.nan).cpu())
    return torch.stack(rows), count


def _jacobian(features: Move, x: Tensor, condition: Tensor | None) -> Tensor:
    """J^T of one sample, (D, features), a row for each value of x."""
    one_hot = torch.eye(x.numel(), dtype=x.dtype, device=x.device).reshape(-1, *x.shape[1:])
    pieces = []
    for tangent in one_hot.split(ROWS):
        many = x.expand_as(tangent)
        given = None if condition is None else condition.expand(len(tangent), *condition.shape[1:])
        pieces.append(derivative(features, (many,), (tangent,), given)[1][0])
    return torch.cat(pieces)
