"""A pass whose states are rebuilt from its output."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from invertible.errors import ConvergenceError, DomainError, NotInvertibleError
from invertible.memory.guard import Guard, Watch, quarantine, witness
from invertible.memory.ledger import Saved
from invertible.memory.log import Log, Quarantined
from invertible.memory.proof import proved
from invertible.memory.step import State, Step, axes_by_stride, is_finite, laid_out, relative_distance
from invertible.memory.tape import INPUT_KEPT, REBUILT, STORED, Tape, keeps_graph

# What a block may raise that cannot invert a state.
NO_INVERSE = (ConvergenceError, DomainError, NotInvertibleError)


class ReversibleTape(Tape):
    """A pass whose states are rebuilt from the output, walking down.

    Attributes:
        modes: of every step: rebuilt from its output, run again from its kept input, or stored by autograd.
        cursor: the position that the walk has reached, and the state there.
    """

    project: Callable[[Tensor], Tensor] = staticmethod(witness)

    def __init__(
        self, steps: Sequence[Step], condition: Tensor | None, log: Log, state: State, guard: Guard | None
    ) -> None:
        super().__init__(steps, condition, log, state)
        self.guard = guard
        self.watch = Watch(guard, self.steps, log, self.project)
        self.modes = [REBUILT if step.invertible else INPUT_KEPT for step in self.steps]
        for index, found in log.quarantined.items():
            self.modes[index] = found.mode
        if self.steps[-1].lossless and not self.repairs and self.modes[-1] == REBUILT:
            # What goes into a merge is no tensor of the caller's, who may change the output in place.
            self.modes[-1] = INPUT_KEPT
        self.cursor: tuple[int, State] | None = None
        self.layouts: dict[int, tuple[tuple[int, ...], ...]] = {}
        training = any(training for world in self.worlds for _, training in world.members)
        self._kind = (training, tuple(x.dtype for x in state), self.setting.autocast)
        self._trial = guard is not None and self._kind not in log.tried
        log.tried.add(self._kind)

    @property
    def repairs(self) -> bool:
        """Whether a wrong reconstruction is to be mended."""
        return self.guard is not None and self.guard.repairs

    def store(self, steps: Sequence[int], size: int) -> None:
        """Let autograd store some steps, which then hold `size` bytes."""
        self.stored_bytes = size
        for index in steps:
            self.modes[index] = STORED

    # Forward.

    def first_run(self, index: int, state: State) -> tuple[State, Tensor | None]:
        """Run a step, and tell the watch what it changed."""
        run = self.run_stored if self.modes[index] == STORED else super().first_run
        result = run(index, state)
        self.watch.passed(index, state, result[0])
        return result

    def keep(self, index: int, state: State) -> None:
        """Hold inputs that are to be kept, and leave a witness of the others."""
        if index == self.first and self.repairs:
            self.hold(index, state)
        # The inverse of what is stored or kept may be worthless: whoever walks down starts below it.
        if self.modes[index] == INPUT_KEPT or (
            self.modes[index] == STORED and index > self.first and self.modes[index - 1] != STORED
        ):
            self.hold(index, state)
        self.watch.leave(index, state)
        self.layouts[index] = tuple(axes_by_stride(x) for x in state)

    def aligned(self, index: int, state: State) -> State:
        """A rebuilt input in the memory format of the first run: dropout draws other masks in another one."""
        layouts = self.layouts.get(index)
        if layouts is None or all(axes_by_stride(x) == axes for x, axes in zip(state, layouts, strict=True)):
            return state
        return tuple(laid_out(x, axes) for x, axes in zip(state, layouts, strict=True))

    def ran(self, index: int, state: State, result: State) -> None:
        """Prove the step, if this is the first pass of its kind."""
        guard, step = self.guard, self.steps[index]
        usual = REBUILT if step.invertible else INPUT_KEPT
        if guard is None or not self._trial or step.lossless or self.modes[index] != usual:
            return
        if self.worlds[index].has_hooks():
            # A user's hook may keep what it sees, and must not see a second run before the loss is made.
            return
        found = proved(self, index, state, result, min(guard.allowed(x) for x in state))
        if found is None:
            return
        if not guard.repairs:
            raise not_invertible(found, index)
        self.modes[index] = found.mode
        self.hold(index, state)
        if found.mode == STORED:
            # Autograd keeps what the first run saved: nothing else will ever give it again.
            self.ledgers[index].keep_all()
        if not is_finite(result):
            # The data's fault, and no proof of anything: the next pass proves the steps again.
            self.log.tried.discard(self._kind)
            return
        self.log.alarms += 1
        self.log.saw(found.error, step.name)
        quarantine(self.log, index, found, state)

    def finish(self, index: int, state: State) -> None:
        """Hold the output, where the last step needs it."""
        if self.modes[-1] == REBUILT:
            self.hold(index, state)

    # Backward.

    def refill(self, index: int) -> None:
        """Rebuild a step from its output, or run it again from its kept input, and check."""
        kept = self.held(index) if self.modes[index] != REBUILT else None
        if kept is not None:
            output, saved = self.rerun(index, kept)
            source = kept
            self._check_output(index, output)
        else:
            output = self.state_at(index + 1)
            source, saved = self._checked_rebuild(index, output)
        self.fill(index, saved)
        self._pass_on(index, source)

    def state_at(self, position: int) -> State:
        """The state before a step, walking down from the nearest one above that is there."""
        found = self._available(position)
        if found is None:
            return self._recompute(position)
        start, state = found
        for index in range(start - 1, position - 1, -1):
            state = self._step_down(index, state)
        return state

    def _step_down(self, index: int, state: State) -> State:
        kept = self.held(index)
        if kept is not None:
            return kept
        try:
            source = self.aligned(index, self.walk_back(index, state))
            error = self.watch.error(index, source)
        except NO_INVERSE:
            source, error = state, self._failed()
        if error:
            found = self._alarm(index, error)
            source = self._recompute(index)
            self._mended(index, state, found)
        return source

    def _available(self, position: int) -> tuple[int, State] | None:
        candidates = [(p, state) for p in self.states if p >= position and (state := self.held(p)) is not None]
        if self.cursor is not None and self.cursor[0] >= position:
            candidates.append(self.cursor)
        if not candidates:
            return None
        start, state = min(candidates, key=lambda found: found[0])
        # What autograd stores, and what gave other values, has no way down.
        return None if any(mode == STORED for mode in self.modes[position:start]) else (start, state)

    def _checked_rebuild(self, index: int, output: State) -> tuple[State, Saved]:
        try:
            source, saved = self.rebuild(index, output)
            source = self.aligned(index, source)
            error = self.watch.error(index, source)
        except NO_INVERSE:
            return self._repair(index, output, self._failed())
        if error:
            return self._repair(index, output, error)
        if not self.ledgers[index].fits(saved):
            # A reconstruction that builds another graph than forward does is good for its input only.
            saved = self.rerun(index, source)[1]
        return source, saved

    def _failed(self) -> float:
        """To be called where a block has refused to invert: raises again unless that can be mended."""
        if not self.repairs:
            raise
        return math.inf

    def _alarm(self, index: int, error: float) -> Quarantined:
        """Count a miss; raise where it is not to be mended."""
        assert self.guard is not None
        self.log.alarms += 1
        name, reason = self.steps[index].name, "its rebuilt input missed the tolerance"
        found = Quarantined(name, INPUT_KEPT, error, self.log.passes, reason)
        if not self.guard.repairs:
            raise not_invertible(found, index)
        return found

    def _repair(self, index: int, output: State, error: float) -> tuple[State, Saved]:
        """Run the chain again up to a step, and the step from there."""
        found = self._alarm(index, error)
        source = self._recompute(index)
        again, saved = self.rerun(index, source)
        self._check_output(index, again, output)
        self._mended(index, output, found)
        return source, saved

    def _mended(self, index: int, output: State, found: Quarantined) -> None:
        self.log.repairs += 1
        # From what is not finite no block recovers its input; the next batch is not to blame.
        if is_finite(output):
            quarantine(self.log, index, found, output)

    def _recompute(self, position: int) -> State:
        """Run the chain forward from the nearest kept activation below, leaving anchors for further repairs."""
        below = [p for p in self.states if p <= position and self.held(p) is not None]
        if not below:
            raise NotInvertibleError(
                f"memory: the state before {self._name(position)} is needed again, and nothing is kept to compute it "
                "from. Use Reversible(on_failure='repair'), pass retain_graph=True to the first backward, and do not "
                "modify the chain's input in place.",
                block=self._name(position),
            )
        start = max(below)
        state = self.held(start)
        assert state is not None
        spacing = max(1, round((position - start) ** 0.5))
        for index in range(start, position):
            if index > start and (position - index) % spacing == 0:
                self.hold(index, state)
            state = self.walk(index, state)
            if self.watch.error(index + 1, state, again=True):
                raise self.irreproducible(index)
        return state

    def _check_output(self, index: int, again: State, output: State | None = None) -> None:
        """A step run again from its true input gives its true output, or what it saved is not the truth."""
        if self.guard is None:
            return
        error = self.watch.output_error(index, again)
        if error is None and output is not None:
            # The walk's own errors are in this output.
            error = relative_distance(again, output)
            limit = max(max(10 * self.guard.allowed(x), self.guard.allowed_again(x)) for x in again)
            error = 0.0 if error <= limit else error
        if error:
            raise self.irreproducible(index)

    def _name(self, position: int) -> str:
        return self.steps[min(position, len(self.steps) - 1)].name

    def _pass_on(self, index: int, source: State) -> None:
        """Move the cursor to a step's input, and drop what only later steps needed."""
        if index + 1 < len(self.ledgers):
            self.ledgers[index + 1].drop()
        below = index > self.first
        self.cursor = (index, source) if below else None
        if not keeps_graph():
            self.states = {p: kept for p, kept in self.states.items() if p <= index and below}


def not_invertible(found: Quarantined, index: int) -> NotInvertibleError:
    """The error for a step whose inverse does not invert."""
    return NotInvertibleError(
        f"{found.name} (step {index}, pass {found.step}): {found.reason}, relative error {found.error:.1e}, so that "
        "gradients would be wrong. Use on_failure='repair', a bounded scale, float64, or Exact.",
        block=found.name,
        error=found.error,
    )
