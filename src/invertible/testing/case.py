"""A block and a batch, prepared for the laws: a float64 copy, its Jacobians and the tolerances that follow."""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.bijection import Bijection

# Dense Jacobians of more dimensions, or of more samples, cost more than they tell.
DENSE_DIMENSIONS, DENSE_SAMPLES = 256, 4
# Where no Jacobian is at hand, the condition number that a well-made block has.
ASSUMED_CONDITION = 1e3


@dataclass(frozen=True)
class Case:
    """A block in float64 with one batch.

    Attributes:
        block: the copy under test.
        x: inputs, (B, ...).
        condition: its condition or `None`.
        y: f(x).
        log_det: log|det df/dx|, as the block tells it.
        jacobians: dense Jacobians of the first samples, (b, D, D); empty for large D.
        condition_numbers: of the Jacobians, shape (B,), the largest found where there is none of a sample's own.
    """

    block: Bijection
    x: Tensor
    condition: Tensor | None
    y: Tensor
    log_det: Tensor
    jacobians: Tensor
    condition_numbers: Tensor

    @property
    def name(self) -> str:
        """The block's class."""
        return type(self.block).__name__

    def tolerance(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """64 eps cond(J) (1 + |x| + |y|) per sample: what rounding may do to a number of the batch."""
        size = 1 + self.x.flatten(1).norm(dim=1) + self.y.flatten(1).norm(dim=1)
        return 64 * torch.finfo(dtype).eps * self.condition_numbers * size


def make_case(block: Bijection, x: Tensor, condition: Tensor | None) -> Case:
    """Copy the block, run it once (what is initialised from data is then initialised) and differentiate it."""
    block = copy.deepcopy(block).double()
    x = x.detach().double()
    condition = None if condition is None else condition.detach().double()
    with torch.no_grad():
        block(x, condition)
        y, log_det = block(x, condition)
    jacobians = _jacobians(block, x, condition)
    condition_numbers = torch.full((len(x),), ASSUMED_CONDITION, dtype=torch.float64)
    if len(jacobians):
        singular = torch.linalg.svdvals(jacobians.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))
        found = (singular[:, 0] / singular[:, -1].clamp_min(1e-300)).clamp(1, 1e15)
        condition_numbers.fill_(float(found.max()))
        condition_numbers[: len(found)] = found
    return Case(block, x, condition, y.detach(), log_det.detach(), jacobians, condition_numbers)


def _jacobians(block: Bijection, x: Tensor, condition: Tensor | None) -> Tensor:
    dimensions = math.prod(x.shape[1:])
    if dimensions > DENSE_DIMENSIONS or not len(x):
        return x.new_empty(0, dimensions, dimensions)
    found = []
    for index in range(min(len(x), DENSE_SAMPLES)):
        row = None if condition is None else condition[index : index + 1]
        jacobian = torch.autograd.functional.jacobian(lambda v, c=row: block(v, c)[0], x[index : index + 1])
        found.append(jacobian.reshape(-1, dimensions).detach())
    return torch.stack(found)
