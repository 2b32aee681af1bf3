"""Multiple shooting: an inverse refined block by block, with residuals in float64 and corrections in the model's dtype.

A composition y = f_n(... f_1(x)) is inverted by solving its blocks' equations together. Unknown are the inputs of all
blocks, x_0 ... x_{n-1}, with x_n = y; the residuals are r_k = x_{k+1} - f_k(x_k). One sweep, from the last block to
the first,

    x_k  <-  x_k + J_k^-1 (x_{k+1} - f_k(x_k)),

with the x_{k+1} just computed, is Newton's method for all of them (multiple shooting, Bock & Plitt 1984; the
refinement with residuals of higher precision is Wilkinson's, 1963). An error never travels further than one block
before it is measured, so that the condition of the whole map does not enter; correcting x_0 alone by the residual
of the whole map (single shooting) diverges where it is large.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from invertible.bijection import Bijection
from invertible.errors import ConfigError, ShapeError
from invertible.memory.step import State
from invertible.stability.batches import cast_floating, rows_of
from invertible.stability.passage import LOST
from invertible.stability.states import (
    Move,
    cast,
    chosen,
    derivative,
    minus,
    norm,
    plus,
    positive,
    repeated,
    scaled,
    signs,
    tiled,
    unknown,
)
from invertible.stability.trajectory import Estimate, Stage, Trajectory, stages

# Draws of the rounding that is assumed in every block. One draw may miss the direction that is amplified: of 672
# estimates it left 6 % below a quarter of the error, four left none below 0.4 of it.
PROBES, SEED = 4, 0


class Shooting:
    """The blocks of a map and the sweeps over them.

    Args:
        bijection: the map in its own dtype.
        precise: its copy in the working dtype, in which residuals are taken; itself, if there is none.
        condition: of B rows, in the working dtype.
        own_dtype: of the map.
        dtype: the working one.
        whole: take the map as one block, which is single shooting.
        rounds: whether its arithmetic rounds; if not, residuals are known to the bit.

    Attributes:
        raised: the errors that blocks raised about single samples.
    """

    def __init__(
        self,
        bijection: Bijection,
        precise: Bijection,
        condition: Tensor | None,
        own_dtype: torch.dtype,
        dtype: torch.dtype,
        *,
        whole: bool = False,
        rounds: bool = True,
    ) -> None:
        self.stages = stages(bijection, precise, whole=whole)
        self.own_dtype, self.dtype = own_dtype, dtype
        self.raised: list[str] = []
        self._eps = torch.finfo(dtype).eps if rounds else 0.0
        self._set_condition(condition)

    def _set_condition(self, condition: Tensor | None) -> None:
        self._condition = condition
        self._own_condition = cast_floating(condition, self.own_dtype)

    def rows(self, rows: Tensor) -> Shooting:
        """The same for the samples of the given indices."""
        fewer = copy.copy(self)
        fewer._set_condition(rows_of(self._condition, rows))
        return fewer

    def trajectory(self, y: Tensor, *, precise: bool) -> Trajectory | None:
        """The inverse, block by block, all states kept.

        Args:
            y: in the working dtype, shape (B, ...).
            precise: run the inverse in the working dtype, not in the model's own.

        Returns:
            The trajectory; NaN in samples for which a block raised an error, `None` if one raised for all.
        """
        states: list[State] = [(y,)]
        for stage in reversed(self.stages):
            found = self._invert(stage, states[0], precise=precise or stage.rearranges)
            if found is None:
                return None
            states.insert(0, found)
        images = [self._run(stage, x, y) for stage, x, y in zip(self.stages, states[:-1], states[1:], strict=True)]
        return Trajectory(states, images)

    def forward(self, x: Tensor, like: Trajectory) -> Trajectory:
        """The trajectory that starts at x: its last residual is all by which it misses the y of `like`."""
        states: list[State] = [(x,)]
        for stage, shaped in zip(self.stages, like.images, strict=True):
            states.append(self._run(stage, states[-1], shaped))
        return Trajectory([*states[:-1], like.states[-1]], states[1:])

    def sweep(self, path: Trajectory) -> Trajectory:
        """One sweep of corrections, from the last block to the first.

        A block keeps its input where neither the correction nor a fresh inverse makes its residual smaller.
        """
        states, images = list(path.states), list(path.images)
        for k in reversed(range(len(self.stages))):
            states[k], images[k] = self._solve(self.stages[k], states[k + 1], states[k], images[k])
        return Trajectory(states, images)

    def estimate(self, path: Trajectory, probes: int = PROBES) -> Estimate:
        """The error of x_0 to first order, from the blocks' residuals and from what is lost in taking them.

        delta_k = J_k^-1 (delta_{k+1} + r_k + e_k), delta_n = 0, with errors e_k of eps |x_{k+1}| in each number, of
        random sign: a residual cannot be known better. The largest of `probes` draws counts; one
        will do where residuals are far above eps. The
        estimate follows the path that was computed; it does not see what is beyond first order.
        """
        y = path.states[-1][0]
        count = len(y)
        generator, eps = torch.Generator().manual_seed(SEED), self._eps
        condition = repeated(self._own_condition, probes)
        delta: State = tuple(torch.zeros_like(x) for x in tiled(path.states[-1], probes))
        residuals, growth = [y.new_zeros(0, count)], [y.new_zeros(0, count)]
        pairs = zip(self.stages, path.states[:-1], path.states[1:], path.images, strict=True)
        for stage, start, target, image in reversed(list(pairs)):
            residual = minus(target, image)
            if stage.rearranges:
                delta = stage.precise.invert(plus(delta, tiled(residual, probes)), None)
                continue
            targets = tiled(target, probes)
            noise = tuple(eps * x * signs(x, generator) for x in targets)
            arriving = plus(plus(delta, tiled(residual, probes)), noise)
            if any(bool(d.any()) for d in arriving):
                _, delta = self._pushed(stage, targets, arriving, condition)
            else:
                delta = tuple(torch.zeros_like(x) for x in tiled(start, probes))
            residuals.insert(0, (norm(residual) / positive(norm(target))).unsqueeze(0))
            rates = norm(delta) / positive(norm(arriving))
            growth.insert(0, rates.view(probes, count).amax(0, keepdim=True))
        return Estimate(norm(delta).view(probes, count).amax(0), torch.cat(residuals), torch.cat(growth))

    @property
    def paths(self) -> list[str]:
        """The paths of the blocks that `Estimate` speaks of."""
        return [stage.path for stage in self.stages if not stage.rearranges]

    def _solve(self, stage: Stage, target: State, x: State, image: State) -> tuple[State, State]:
        """A better input of one block for a given output: (x, f(x)), the best of several for each sample."""
        if stage.rearranges:
            return stage.precise.invert(target, None), target
        size, eps = positive(norm(target)), torch.finfo(self.own_dtype).eps
        defect = minus(target, image)
        best = _Best(x, image, norm(defect).nan_to_num(nan=torch.inf))
        fresh, correction = self._pushed(stage, target, defect, self._own_condition)
        corrected = plus(x, correction)
        best.offer(corrected, self._run(stage, corrected, target), target)
        # Far from the solution a fresh inverse in the model's dtype is better than a correction to first order, ...
        if bool((best.error > eps * size).any()):
            best.offer(fresh, self._run(stage, fresh, target), target)
        # ... and where that is no good either, the block itself is too much for the model's dtype.
        if bool((best.error > eps**0.5 * size).any()):
            fresh = self._invert(stage, target, precise=True)
            if fresh is not None:
                best.offer(fresh, self._run(stage, fresh, target), target)
        return best.x, best.image

    def _invert(self, stage: Stage, state: State, *, precise: bool) -> State | None:
        """The block's inverse, in the working dtype; `None` if it raises an error for every sample."""
        if precise:
            return self._attempt(stage.precise.invert, state, self._condition)
        found = self._attempt(stage.own.invert, cast(state, self.own_dtype), self._own_condition)
        return None if found is None else cast(found, self.dtype)

    def _run(self, stage: Stage, state: State, like: State) -> State:
        """The block, in the working dtype; NaN where it raises an error."""
        found = self._attempt(lambda x, condition: stage.precise.run(x, condition)[0], state, self._condition)
        return unknown(like) if found is None else found

    def _pushed(self, stage: Stage, state: State, tangent: State, condition: Tensor | None) -> tuple[State, State]:
        """The block's inverse and its derivative along `tangent`, in the model's dtype; returned in the working one."""
        size = norm(tangent)
        # Of unit length, so that nothing under- or overflows in the model's dtype.
        unit = scaled(tangent, 1 / positive(size))
        count = len(state)
        both = (*cast(state, self.own_dtype), *cast(unit, self.own_dtype))

        def push(both: State, condition: Tensor | None) -> State:
            x, along = derivative(stage.own.invert, both[:count], both[count:], condition)
            return (*x, *along)

        found = self._attempt(push, both, condition)
        if found is None:
            # A block that raises for every sample cannot say what its input looks like; its forward can.
            found = self._lost_input(stage, state)
        found = cast(found, self.dtype)
        half = len(found) // 2
        return found[:half], scaled(found[half:], size)

    def _lost_input(self, stage: Stage, state: State) -> State:
        found = self._invert(stage, state, precise=True)
        like = state if found is None else found
        return unknown((*like, *like))

    def _attempt(self, move: Move, state: State, condition: Tensor | None) -> State | None:
        """`move`, halving the batch where it raises an error about values: NaN for those to blame, `None` if all."""
        try:
            return tuple(x.detach() for x in move(state, condition))
        except (ShapeError, ConfigError):
            raise
        except LOST as error:
            if len(state[0]) == 1:
                self.raised.append(f"{type(error).__name__}: {error}")
                return None
        middle = len(state[0]) // 2
        halves = [
            self._attempt(move, tuple(x[rows] for x in state), rows_of(condition, rows))
            for rows in (slice(None, middle), slice(middle, None))
        ]
        like = next((half for half in halves if half is not None), None)
        if like is None:
            return None
        lengths = middle, len(state[0]) - middle
        filled = [
            tuple(x.new_full((length, *x.shape[1:]), torch.nan) for x in like) if half is None else half
            for half, length in zip(halves, lengths, strict=True)
        ]
        return tuple(torch.cat(parts) for parts in zip(*filled, strict=True))


class _Best:
    """The best of several inputs of a block, sample by sample."""

    def __init__(self, x: State, image: State, error: Tensor) -> None:
        self.x, self.image, self.error = x, image, error

    def offer(self, x: State, image: State, target: State) -> None:
        error = norm(minus(target, image)).nan_to_num(nan=torch.inf)
        better = error < self.error
        self.x, self.image = chosen(better, x, self.x), chosen(better, image, self.image)
        self.error = torch.where(better, error, self.error)
