"""A penalty on the Jacobians of a map and of its inverse, by finite differences."""

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from invertible.bijection import Bijection
from invertible.errors import ConfigError, ShapeError
from invertible.shapes import log_det_dtype
from invertible.stability.batches import per_row, rows_of
from invertible.stability.passage import Direction
from invertible.stability.penalties import Count, as_in_inference, passed

DIRECTIONS = ("both", "forward", "inverse")
# Odd and without structure, so that neighbouring seeds share no neighbouring calls.
STRIDE = 0x9E3779B97F4A7C15


class FiniteDifferencePenalty:
    """Keeps a map and its inverse from stretching anything too far: bi-directional finite differences.

    With a random unit direction v for each sample of D values, uniform on the sphere,

        forward = weight mean_b D/|εv|² |f(x + εv) − f(x)|²,
        inverse = weight mean_b D/|εv|² |f⁻¹(z + εv) − f⁻¹(z)|²,  z = f(x).

    Since E[D |Jv|²] = |J|_F², each is an unbiased estimate of weight mean_b |J|_F² of its map, up to O(ε²): the sums
    Σ σ_i² and Σ 1/σ_i² of the singular values of J_f(x), so that both ends of the spectrum are held on the data. The
    gradient is that of the written formula, z included: the inverse term pulls on the parameters of the inverse and,
    through z = f(x), on the place where it is taken.

    After Behrmann et al. (2021). What differs from the published code: every direction has norm 1 (there it
    is normalised over the batch), the squared difference is divided by ε² (there by ε), the mean is taken over the
    batch (there the sum), and the inverse term always has a gradient. Theirs amounts to a weight of 1e-5 at every 10th
    step on CIFAR-10.

    The map is taken in eval mode, as the one whose inverse will be used: without dropout, with running statistics;
    modes and buffers are left as they were. Autocast is off within: in 16 bits the differences would be rounding.

    **ε** is a length in the space of the data, not a value per pixel: each of D values moves by about ε/√D. Too small,
    and the difference is rounding: an error of eps |f(x)|/(ε |Jv|) relative to it, 1e-4 for |f(x)| = 10, ε = 0.1 and
    |Jv| = 0.1 in float32. Too large, and it is no derivative. 0.1 suits data with norms of 1 to 100 in float32; in
    general take √eps |x| as the least.

    Cost when due: one forward and one inverse pass of a batch twice as large, and their backward passes; for one
    direction only, `"forward"`, no inverse is run. Memory strategies of chains apply in both directions.

    Args:
        weight: λ, the factor of both terms.
        epsilon: ε, length of the steps.
        directions: `"both"`, `"forward"` or `"inverse"`.
        every: due at every n-th step; the term is not scaled up for it.
        generator: of the directions: a seed, from which every call draws anew, or a generator; seed 0 if `None`.

    Attributes:
        skipped: samples left out so far: f or its inverse, taken there, was not finite or raised an error about
            values, such as the edge of a logit's domain. The mean is over the others, 0 if there are none.

    Raises:
        ConfigError: if an argument is out of its range.

    Example:
        >>> penalty = FiniteDifferencePenalty(1e-4, every=10)
        >>> loss = cross_entropy(head(net(x)[0]), labels) + penalty(net, x)
    """

    def __init__(
        self,
        weight: float = 1e-4,
        *,
        epsilon: float = 0.1,
        directions: Literal["both", "forward", "inverse"] = "both",
        every: int = 10,
        generator: torch.Generator | int | None = None,
    ) -> None:
        owner = type(self).__name__
        self._count = Count(owner, weight, every)
        if isinstance(epsilon, bool) or not 0 < epsilon < math.inf:
            raise ConfigError(f"{owner}: expected epsilon > 0, got {epsilon!r}.")
        if directions not in DIRECTIONS:
            raise ConfigError(f"{owner}: expected directions to be 'both', 'forward' or 'inverse', got {directions!r}.")
        self.weight, self.epsilon, self.directions, self.every = weight, epsilon, directions, every
        self.generator = generator

    @property
    def skipped(self) -> int:
        """Samples left out so far."""
        return self._count.skipped

    def __call__(
        self,
        bijection: Bijection,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        step: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The penalty on a batch: a scalar with a graph; 0 where it is not due.

        Args:
            bijection: the map f.
            x: data (B, ...), float32 or float64.
            condition: its condition, of B rows.
            step: number of the step, from 0; the number of calls so far if `None`. Both the steps at which the penalty
                is due and, with a seed, the directions follow from it, so a resumed run that gives it repeats itself;
                one that does not restores `state_dict`.
            generator: of the directions of this call, in place of the penalty's own.

        Raises:
            ShapeError: if x is empty or of 16 bits.
        """
        index, due = self._count.next(step)
        if x.dtype not in (torch.float32, torch.float64) or not len(x):
            raise ShapeError(
                f"FiniteDifferencePenalty: expected x in float32 or float64, not empty, got {x.dtype} of shape "
                f"{tuple(x.shape)}. In 16 bits differences are rounding: give x.float() and a model whose parameters "
                "are float32, as mixed precision has them."
            )
        if not due:
            return x.new_zeros(())
        source = generator if generator is not None else self._source(index, x.device)
        with as_in_inference(bijection), torch.autocast(x.device.type, enabled=False):
            return self.weight * self._terms(bijection, x, condition, source)

    of = __call__

    def _terms(self, bijection: Bijection, x: Tensor, condition: Tensor | None, source: torch.Generator) -> Tensor:
        total = x.new_zeros((), dtype=log_det_dtype(x.dtype))
        if self.directions == "inverse":
            (z, _), rows, reason = passed(bijection.__call__, x, condition)
            self._count.skip(len(x) - len(rows), len(x), reason)
        else:
            forward = changes(bijection.__call__, x, condition, self._shifts(x, source))
            z, rows = forward.at, forward.rows
            total = total + self._mean(forward, len(x))
        if self.directions == "forward" or not len(rows):
            return total
        inverse = changes(bijection.inverse, z, rows_of(condition, rows), self._shifts(z, source))
        return total + self._mean(inverse, len(z))

    def _mean(self, change: "Change", samples: int) -> Tensor:
        self._count.skip(samples - len(change.rows), samples, change.reason)
        return change.values.mean() if len(change.rows) else change.values.sum()

    def _shifts(self, like: Tensor, source: torch.Generator) -> Tensor:
        noise = torch.randn(like.shape, generator=source, dtype=like.dtype, device=source.device).to(like.device)
        norm = torch.linalg.vector_norm(noise.flatten(1), dim=1).clamp_min(torch.finfo(like.dtype).tiny)
        return self.epsilon * noise / per_row(norm, noise)

    def _source(self, index: int, device: torch.device) -> torch.Generator:
        if isinstance(self.generator, torch.Generator):
            return self.generator
        seed = ((self.generator or 0) * STRIDE + index) % 2**63
        return torch.Generator(device).manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """The number of calls, the samples left out, and the state of a generator that was given."""
        own = {"generator": self.generator.get_state()} if isinstance(self.generator, torch.Generator) else {}
        return {**self._count.state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self._count.load_state_dict(state_dict)
        if isinstance(self.generator, torch.Generator) and "generator" in state_dict:
            self.generator.set_state(state_dict["generator"].cpu())


class Change(NamedTuple):
    """How far a map moves when its argument does.

    Attributes:
        values: D/|d|² |f(x + d) − f(x)|² of each sample that was taken, (B',).
        at: f(x) of those, (B', ...).
        rows: their indices, (B',).
        reason: why the others were left out; empty if none was.
    """

    values: Tensor
    at: Tensor
    rows: Tensor
    reason: str


def changes(direction: Direction, x: Tensor, condition: Tensor | None, shifts: Tensor) -> Change:
    """The squared change of a map over that of its argument, sample by sample, with a graph.

    Args:
        direction: a map, (x, condition) to (y, log_det).
        x: where to take it, (B, ...).
        condition: its condition, of B rows.
        shifts: d, of x's shape.
    """
    rows = torch.arange(len(x), device=x.device)
    both = torch.cat((x, x + shifts))
    twice = None if condition is None else torch.cat((condition, condition))
    (output, _), kept, reason = passed(direction, both, twice)
    if len(kept) < len(both):
        alive = torch.zeros(len(both), dtype=torch.bool, device=x.device)
        alive[kept] = True
        # A sample counts if both of its points came through.
        pairs = alive.view(2, -1).all(0)
        rows, output = rows[pairs], output[torch.cat((pairs, pairs))[kept]]
    at, moved = output.chunk(2)
    start, end = both.detach()[rows], both.detach()[rows + len(x)]
    # As it was rounded, not as it was asked for.
    length = (end - start).flatten(1).square().sum(1)
    factor = torch.where(length > 0, start[:1].numel() / length, 0.0)
    values = factor * (moved - at).flatten(1).square().sum(1)
    finite = values.isfinite() & (length > 0)
    if not bool(finite.all()):
        values, at, rows = values[finite], at[finite], rows[finite]
        reason = reason or "the square of their change is not finite, or epsilon is below the rounding of x"
    return Change(values, at, rows, reason)
