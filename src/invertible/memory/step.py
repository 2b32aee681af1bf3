"""What a strategy drives: steps, which know nothing of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from invertible.errors import ConfigError

State = tuple[Tensor, ...]


class Step:
    """One stage of a chain: a map of a few tensors that can be run, run backwards, and rebuilt from its output.

    A state is a tuple of tensors, so that blocks which cut their input alike hand its parts to each other.

    Attributes:
        name: of the block, for messages.
        modules: all that hold the parameters and buffers which take part.
        changed: which tensors of the state the step changes; all if `None`. A state keeps its number of tensors
            where this is given.
        one_pass: whether `reconstruct` evaluates inner networks once, instead of `invert` and then `run`.
        lossless: whether `invert` returns the very bits that went into `run`, whatever they were.
        invertible: whether there is an inverse at all. Where there is none, strategies that rebuild keep the input.
    """

    name: str = "step"
    modules: Sequence[nn.Module] = ()
    changed: tuple[int, ...] | None = None
    one_pass: bool = False
    lossless: bool = False
    invertible: bool = True

    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        """The output, and log|det| of shape (B,), `None` for 0."""
        raise TypeError(f"{type(self).__name__}: define run(self, state, condition).")

    def invert(self, state: State, condition: Tensor | None) -> State:
        """The input of a given output; called without grad."""
        raise TypeError(f"{type(self).__name__}: define invert(self, state, condition).")

    def reconstruct(self, state: State, condition: Tensor | None) -> State:
        """The input of a given output, building on the way the graph that `run` builds.

        Only where `one_pass`. Autograd must save the same tensors, in the same order, as it does in `run`.
        """
        raise TypeError(f"{type(self).__name__}: define reconstruct(self, state, condition).")

    @property
    def inverted(self) -> Step:
        """The step the other way round."""
        return InvertedStep(self)

    def exact(self, bits: int) -> Step:
        """The step on numbers of the grid 2^-bits, with an inverse that is exact to the bit.

        Raises:
            ConfigError: if there is none, naming the alternative.
        """
        if self.lossless:
            return self
        raise ConfigError(
            f"memory: {self.name} has no exact form: its inverse rounds. Exact mode takes AdditiveCoupling, "
            "ReversibleResidual, InvertibleLinear and InvertibleConv1x1 with parametrization='lifting', Haar, Squeeze, "
            "Permutation, Flatten, FactorOut of these, and blocks of your own that claim `exact`; use those, or "
            "memory='reversible', whose guard notices a loss."
        )


class InvertedStep(Step):
    """A step taken the other way round.

    Args:
        step: must give its log-determinant in `run`, from which that of the inverse follows by the sign.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.name, self.modules, self.changed, self.lossless = step.name, step.modules, step.changed, step.lossless

    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        """The wrapped step's inverse; only for steps without a log-determinant."""
        return self.step.invert(state, condition), None

    def invert(self, state: State, condition: Tensor | None) -> State:
        """The wrapped step."""
        return self.step.run(state, condition)[0]

    @property
    def inverted(self) -> Step:
        """The wrapped step itself."""
        return self.step

    def exact(self, bits: int) -> Step:
        """The exact form of the wrapped step, the other way round."""
        return self.step.exact(bits).inverted


class OnPart(Step):
    """A step on the first tensors of a state; those behind pass by.

    Args:
        step: the step on the first tensors.
        spectators: how many tensors at the end of the state pass by.
    """

    def __init__(self, step: Step, spectators: int) -> None:
        self.step, self.spectators = step, spectators
        self.name, self.modules, self.changed = step.name, step.modules, step.changed
        self.one_pass, self.lossless, self.invertible = step.one_pass, step.lossless, step.invertible

    def _cut(self, state: State) -> tuple[State, State]:
        return state[: -self.spectators], state[-self.spectators :]

    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        """The step on its part."""
        own, others = self._cut(state)
        result, log_det = self.step.run(own, condition)
        return result + others, log_det

    def invert(self, state: State, condition: Tensor | None) -> State:
        """The step's inverse on its part."""
        own, others = self._cut(state)
        return self.step.invert(own, condition) + others

    def reconstruct(self, state: State, condition: Tensor | None) -> State:
        """The step's reconstruction on its part."""
        own, others = self._cut(state)
        return self.step.reconstruct(own, condition) + others

    @property
    def inverted(self) -> Step:
        """The inverted step on the same part."""
        return OnPart(self.step.inverted, self.spectators)

    def exact(self, bits: int) -> Step:
        """The exact form on the same part."""
        return OnPart(self.step.exact(bits), self.spectators)


class InSeries(Step):
    """Several steps as one.

    Args:
        steps: the first one runs first.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps
        self.name = " and ".join(dict.fromkeys(step.name for step in steps))
        self.modules = tuple(module for step in steps for module in step.modules)
        self.lossless = all(step.lossless for step in steps)
        self.invertible = all(step.invertible for step in steps)

    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        """All steps in order, and the sum of their log-determinants."""
        total: Tensor | None = None
        for step in self.steps:
            state, log_det = step.run(state, condition)
            if log_det is not None:
                total = log_det if total is None else total + log_det
        return state, total

    def invert(self, state: State, condition: Tensor | None) -> State:
        """Their inverses, the last one first."""
        for step in reversed(self.steps):
            state = step.invert(state, condition)
        return state

    @property
    def inverted(self) -> Step:
        """The inverted steps, the last one first."""
        return InSeries([step.inverted for step in reversed(self.steps)])

    def exact(self, bits: int) -> Step:
        """The exact forms in series."""
        return InSeries([step.exact(bits) for step in self.steps])


def leaves(state: State) -> State:
    """The tensors as leaves of a new graph."""
    return tuple(x.detach().requires_grad_(x.is_floating_point()) for x in state)


def detached(state: State) -> State:
    """The tensors without graph."""
    return tuple(x.detach() for x in state)


def axes_by_stride(x: Tensor) -> tuple[int, ...]:
    """The axes behind the batch, those with the largest strides first: (1, 2, 3), or (2, 3, 1) for channels-last."""
    return _by_stride(x.shape, x.stride())


@lru_cache(maxsize=256)
def _by_stride(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted((axis for axis in range(1, len(shape)) if shape[axis] > 1), key=lambda axis: -strides[axis]))


def laid_out(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """x with its axes in memory in a given order, as `axes_by_stride` tells it."""
    if axes_by_stride(x) == axes:
        return x
    order = (0, *(axis for axis in range(1, x.dim()) if axis not in axes), *axes)
    back = sorted(range(x.dim()), key=order.__getitem__)
    return x.permute(order).contiguous().permute(back)


def is_finite(state: State) -> bool:
    """Whether no number is NaN or infinite."""
    return all(bool(x.isfinite().all()) for x in state)


def relative_distance(a: State, b: State) -> float:
    """The largest |a - b| / |b| over tensors and samples, in the 2-norm; NaN where both are NaN counts as equal."""
    worst = 0.0
    for x, reference in zip(detached(a), detached(b), strict=True):
        if x.shape != reference.shape:
            return float("inf")
        if torch.equal(x, reference) or not x.numel():
            continue
        ratio = _row_norms(x - reference) / _row_norms(reference).clamp_min(torch.finfo(torch.float32).tiny)
        if not ratio.isfinite().all():
            # In full only now: it takes several tensors of the state's size.
            same = (x == reference) | (x.isnan() & reference.isnan())
            difference = _row_norms((x.double() - reference.double()).masked_fill(same, 0.0))
            size = _row_norms(reference.double().nan_to_num(0.0, 0.0, 0.0))
            ratio = difference / size.clamp_min(torch.finfo(torch.float32).tiny)
        worst = max(worst, float(ratio.nan_to_num(nan=float("inf")).max()))
    return worst


def _row_norms(x: Tensor) -> Tensor:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return torch.linalg.vector_norm(x, dim=tuple(range(1, x.dim())), dtype=dtype).double()
