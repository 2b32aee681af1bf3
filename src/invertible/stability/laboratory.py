"""The sections of an audit beside round trips: each takes sets that were measured, and sums up what it finds."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.bijection import Bijection, Domain
from invertible.norms import remembered
from invertible.stability.audit_options import Budget
from invertible.stability.batches import cast_floating, largest
from invertible.stability.control import Control
from invertible.stability.digits import trusted_digits
from invertible.stability.lipschitz import lipschitz_bounds
from invertible.stability.passage import norms, send
from invertible.stability.records import LATENT, SetRecord
from invertible.stability.sample_sets import SampleSet
from invertible.stability.sections import UnsuitedError
from invertible.stability.spectrum import singular_values
from invertible.stability.summaries import BlockBound, BoundsSummary, DigitsSummary, SpectrumSummary
from invertible.without_log_det import without_log_det

# A log-determinant is off if the error exceeds so many roundings of the singular values' logarithms.
ROUNDINGS = 64


@dataclass(frozen=True, eq=False)
class Measured:
    """A set, what was measured on it, and the rows of its traced samples, the worst first."""

    chosen: SampleSet
    record: SetRecord
    rows: Tensor

    def worst(self, count: int) -> tuple[Tensor, Tensor | None]:
        """The worst samples and their condition."""
        return self.chosen.some(self.rows[:count])


@without_log_det()
def judge_digits(
    bijection: Bijection, control: Control, measured: Measured, count: int, generator: torch.Generator
) -> DigitsSummary | None:
    """Predict the error of the inverse on the worst samples of a set, and compare it with float64."""
    values, condition = measured.worst(count)
    y = values if measured.chosen.kind == LATENT else send(bijection, values, condition).output
    if not len(values) or y.shape[1:].numel() != values.shape[1:].numel():
        return None
    found = trusted_digits(bijection, y, condition, generator=generator)
    error, true = torch.full((len(y),), math.nan, dtype=torch.float64), found.x
    if control.bijection is not None:
        true = send(control.bijection.inverse, y.double(), cast_floating(condition, torch.float64)).output
        if true.shape == found.x.shape:
            error = norms(found.x.double() - true.double())
            error = torch.where(norms(true).isfinite(), error.nan_to_num(nan=math.inf, posinf=math.inf), math.nan)
    size = norms(true)
    size = torch.maximum(size, size[size.isfinite()].median()) if bool(size.isfinite().any()) else size
    relative = error / size.clamp(min=torch.finfo(torch.float64).tiny)
    return DigitsSummary(
        measured.chosen.name,
        len(y),
        found.digits.median().item(),
        found.digits.min().item(),
        found.lost,
        found.relative.max().item(),
        largest(relative),
        int((error > found.error).sum()),
    )


def decompose(
    bijection: Bijection, measured: Measured, budget: Budget, generator: torch.Generator
) -> SpectrumSummary | None:
    """Singular values at the worst samples of a set."""
    values, condition = measured.worst(budget.decomposed)
    if measured.chosen.kind == LATENT or not len(values):
        return None
    dimensions = values[0].numel()
    found = singular_values(
        bijection,
        values,
        condition=condition,
        method="dense" if dimensions <= budget.dense else "iterative",
        iterations=budget.iterations,
        tolerance=1e-2,
        generator=generator,
    )
    numbers, worst = found.condition_number, found.worst_index
    rounding = ROUNDINGS * torch.finfo(found.dtype).eps * numbers.clamp(min=dimensions)
    error = found.log_det_error / dimensions
    where = int((error / rounding).nan_to_num(nan=-1.0).argmax())
    return SpectrumSummary(
        measured.chosen.name,
        len(values),
        found.method,
        largest(found.largest[:, 0]),
        -largest(-found.smallest[:, 0]),
        numbers.nanmedian().item(),
        largest(numbers),
        int(measured.chosen.rows[measured.rows[worst]]),
        int(found.converged.sum()),
        found.non_finite,
        error[where].item(),
        rounding[where].item(),
        found.note,
    )


def certify(bijection: Bijection, own: list[Measured]) -> BoundsSummary:
    """Certified bounds on the whole space, and on the box of the model's own data and of their latents."""
    box = _box(bijection, own)
    with remembered():
        everywhere, here = lipschitz_bounds(bijection), lipschitz_bounds(bijection, Domain(*box))
    blocks = tuple(
        BlockBound(block.path, block.bounds.forward, block.bounds.inverse, block.reason) for block in here.blocks
    )
    return BoundsSummary(everywhere.forward, everywhere.inverse, box, here.forward, here.inverse, blocks)


def _box(bijection: Bijection, own: list[Measured]) -> tuple[float, float]:
    radii = [0.0, 0.0]
    for each in own:
        values, condition = each.chosen.some(torch.arange(min(64, len(each.chosen.values))))
        for side, points in enumerate((values, send(bijection, values, condition).output)):
            finite = points[points.isfinite()]
            radii[side] = max(radii[side], float(finite.abs().max()) if len(finite) else 0.0)
    if not all(radii):
        raise UnsuitedError("no finite data or latents to bound")
    return radii[0], radii[1]
