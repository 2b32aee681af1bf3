"""Witnesses of states, which tell a right reconstruction from a wrong one.

At forward time the input of a step leaves one number a sample: its product with random signs, r = <s, x>. In the
backward pass the rebuilt input must give the same number: r - <s, x'> is an unbiased estimate of |x - x'|, up to its
sign (Johnson & Lindenstrauss 1984, with the signs of Achlioptas 2003). The signs of a tensor are a product of signs
along its axes, so that they are few and do not depend on the memory format.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from invertible.errors import ConfigError, choose
from invertible.memory.log import Log, Quarantined
from invertible.memory.step import State, Step, axes_by_stride
from invertible.rounding import rounds_to_tf32, tf32_hint

# Relative errors of the input that keep float32 gradients within about 1e-3 of the stored ones, and their like.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 2e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
# The same where a GPU rounds what it multiplies to TF32: there a last bit of the input moves the output of 16 blocks by
# 1e-3, and stored gradients are off by 3e-2 themselves (`benchmarks/tf32.py`).
REBUILT_IN_TF32, RUN_AGAIN_IN_TF32 = 2e-3, 2e-2
ON_FAILURE = {"repair": True, "raise": False}
# Up to this many numbers a sample the weights of all are held (4 MiB); above, those of each axis.
ONE_READ = 2**20


def signs(size: int, axis: int) -> Tensor:
    """Random signs along an axis."""
    return 2 * torch.randint(2, (size,), generator=_generator(size, axis), device="cpu").float() - 1


def odd_integers(size: int, axis: int) -> Tensor:
    """Random odd integers along an axis, up to 15."""
    return 2 * torch.randint(8, (size,), generator=_generator(size, axis), device="cpu").float() + 1


def _generator(size: int, axis: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(7919 * axis + size)


class ReconstructionWarning(UserWarning):
    """A step's input was not what had gone in; the gradients were mended."""


@dataclass(frozen=True)
class Guard:
    """How reconstructions are watched.

    Attributes:
        tolerance: largest relative error of a rebuilt input; by dtype if `None`.
        repairs: run the chain again from a kept activation where an input misses it, instead of raising.
        every: watch every so many steps.
    """

    tolerance: float | None = None
    repairs: bool = True
    every: int = 1

    @classmethod
    def build(cls, owner: str, tolerance: float | None, on_failure: str, every: int) -> Guard:
        """A guard from a user's arguments.

        Raises:
            ConfigError: naming the argument.
        """
        if tolerance is not None and not tolerance > 0:
            raise ConfigError(f"{owner}: expected a positive tolerance, got {tolerance}. Leave it out for the default.")
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ConfigError(f"{owner}: expected every to be an integer of at least 1, got {every!r}.")
        return cls(tolerance, choose(owner, "on_failure", on_failure, ON_FAILURE), every)

    def allowed(self, x: Tensor) -> float:
        """The tolerance for a rebuilt tensor."""
        if self.tolerance is not None:
            return self.tolerance
        # Signals and sequences, of three axes, are as often multiplied by matrices, in float32.
        return REBUILT_IN_TF32 if _in_tf32(x, convolutions=x.dim() > 3) else TOLERANCES.get(x.dtype, 2e-4)

    def allowed_again(self, x: Tensor) -> float:
        """The tolerance for a tensor that is computed again, which differs by what is not reproducible in it."""
        allowed = self.allowed(x)
        return max(allowed, RUN_AGAIN_IN_TF32) if _in_tf32(x, convolutions=x.dim() > 2) else allowed


def _in_tf32(x: Tensor, *, convolutions: bool) -> bool:
    return x.is_cuda and x.dtype == torch.float32 and bool(rounds_to_tf32(x.device, convolutions=convolutions))


def witness(x: Tensor, weights: Callable[[int, int], Tensor] = signs) -> Tensor:
    """<s, x> of every sample, (B,), in float32 at least; 0 for integers.

    Args:
        x: shape (B, ...), in any memory format.
        weights: s along an axis, given its size and number.
    """
    if not x.is_floating_point() or not x.numel() or x.dim() < 2:
        return x.new_zeros(len(x), dtype=torch.float32)
    x = x.detach()
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    x = x if x.dtype == dtype else x.to(dtype)
    axes = axes_by_stride(x)
    order = (*(axis for axis in range(1, x.dim()) if axis not in axes), *axes)
    rows = x.permute(0, *order) if order != tuple(range(1, x.dim())) else x
    if x.numel() <= ONE_READ * len(x):
        rows = rows if x.dim() == 2 else rows.flatten(1)
        return rows.mv(_product(weights, (0, *x.shape[1:]), order, dtype, x.device))
    for axis in reversed(order):
        rows = rows.matmul(weights(x.shape[axis], axis).to(x.device, dtype))
    return rows


def checksum(x: Tensor) -> Tensor:
    """As `witness`, with odd integers for weights.

    On multiples of 2^-bits the sum is exact while it is below 2^(53 - bits), so that no order of summation changes it.
    """
    return witness(x, odd_integers)


@lru_cache(maxsize=32)
def _product(
    weights: Callable[[int, int], Tensor],
    shape: tuple[int, ...],
    order: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    product = torch.ones((), device="cpu")
    for axis in order:
        product = product[..., None] * weights(shape[axis], axis)
    return product.flatten().to(device, dtype)


def discrepancy(x: Tensor, expected: Tensor, project: Callable[[Tensor], Tensor], tolerance: float) -> float:
    """A relative error |x - x'| / |x| that x' surely has; 0 where it is below the tolerance.

    One projection of an error is normal with the error's norm for deviation, so that the largest of many samples is
    a few deviations without need. What is returned is the larger of the error of the whole batch, less three
    deviations of its estimate, and a quarter of the worst sample's.

    Args:
        x: the rebuilt tensor x'.
        expected: the witness of x.
        project: `witness` or `checksum`, as it was for x.
        tolerance: what matters.
    """
    found = project(x)
    difference = (found - expected).abs()
    # |r| stands for |x| wherever it suffices: the norm itself is one more read of x.
    if bool((difference <= tolerance * expected.abs()).all()):
        return 0.0
    difference = difference.masked_fill((found == expected) | (found.isnan() & expected.isnan()), 0.0)
    norms = torch.linalg.vector_norm(x.detach().reshape(len(x), -1), dim=1, dtype=found.dtype)
    norms = norms.nan_to_num(nan=0.0).clamp_min(torch.finfo(found.dtype).tiny)
    batch = difference.norm() / norms.norm() / (1 + 3 / (2 * len(x)) ** 0.5)
    worst = torch.maximum(batch, (difference / norms).max() / 4)
    return float(worst.nan_to_num(nan=float("inf")))


class Watch:
    """The witnesses of a pass: one for every tensor that a step changes, left before it does.

    Args:
        guard: tolerance and frequency; nothing is watched if `None`.
        steps: the steps of the pass.
        log: keeps the worst error.
        project: `witness` or `checksum`.
    """

    def __init__(
        self, guard: Guard | None, steps: Sequence[Step], log: Log, project: Callable[[Tensor], Tensor] = witness
    ) -> None:
        self.guard, self.steps, self.log, self.project = guard, steps, log, project
        self.left: dict[int, dict[int, Tensor]] = {}
        self._known: dict[int, Tensor] = {}

    def leave(self, index: int, state: State) -> None:
        """Leave witnesses of what a step is about to change."""
        if self.guard is None or index % self.guard.every or self.steps[index].lossless:
            return
        parts = self._changed(index, state)
        self._known |= {part: self.project(state[part]) for part in parts if part not in self._known}
        self.left[index] = {part: self._known[part] for part in parts}

    def passed(self, index: int, before: State, after: State) -> None:
        """A step has run: what it changed is not known any more."""
        if self.guard is None:
            return
        changed = self._changed(index, before) if len(before) == len(after) else range(len(before))
        self._known = {part: value for part, value in self._known.items() if part not in changed}

    def error(self, index: int, state: State, *, again: bool = False) -> float:
        """The relative error of a step's input if it misses the tolerance, else 0.

        Args:
            index: of the step.
            state: its input, rebuilt from its output.
            again: it is computed from the chain's input instead.
        """
        if self.guard is None:
            return 0.0
        worst, tolerance = 0.0, self.guard.allowed_again if again else self.guard.allowed
        for part, expected in self.left.get(index, {}).items():
            allowed = tolerance(state[part])
            error = discrepancy(state[part], expected, self.project, allowed)
            self.log.saw(error, self.steps[index].name)
            worst = max(worst, error if error > allowed else 0.0)
        return worst

    def output_error(self, index: int, output: State) -> float | None:
        """The relative error of the output of a step that is run again, if it misses the tolerance for that.

        By the next witness of what the step changed; `None` if there is none before the next step that changes
        everything.
        """
        if self.guard is None or self.steps[index].changed is None:
            return None
        for later in range(index + 1, len(self.steps)):
            shared = self.left.get(later, {}).keys() & set(self._changed(index, output))
            if shared:
                (part,) = shared
                allowed = self.guard.allowed_again(output[part])
                error = discrepancy(output[part], self.left[later][part], self.project, allowed)
                return error if error > allowed else 0.0
            if self.steps[later].changed is None:
                return None
        return None

    def _changed(self, index: int, state: State) -> Sequence[int]:
        changed = self.steps[index].changed
        return range(len(state)) if changed is None else changed


def quarantine(log: Log, index: int, found: Quarantined, state: State) -> None:
    """Remember a step that must not be rebuilt, and warn once a chain; the state tells where it runs."""
    log.quarantined[index] = found
    if not log.warned:
        log.warned = True
        warnings.warn(
            f"{found.name} (step {index}, pass {found.step}): {found.reason}, relative error {found.error:.1e}. Its "
            f"gradients are right: {found.mode} from now on. invertible.memory.report(model) lists all such steps."
            + tf32_hint(state),
            ReconstructionWarning,
            stacklevel=2,
        )
