"""Activations rebuilt from the output by the blocks' own inverses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.errors import NotInvertibleError
from invertible.memory.guard import Guard, Watch, quarantine, witness
from invertible.memory.ledger import Saved
from invertible.memory.log import Log, Quarantined
from invertible.memory.step import State, Step, relative_distance
from invertible.memory.strategy import Strategy
from invertible.memory.tape import INPUT_KEPT, OTHER_VALUES, REBUILT, STORED, Tape, keeps_graph

# What autograd saved in a step and in its replay may differ by this much more than the input may.
SLACK = 100.0


@dataclass(frozen=True)
class Reversible(Strategy):
    """Keep the output alone; rebuild each step's input by its inverse, and its graph on the way (Gomez et al. 2017).

    Memory: one activation, whatever the depth; with `on_failure="repair"` the chain's input is held as well, which
    costs nothing where something else holds it (a batch, the output of a ReLU before). Time: inner networks run once
    more, 4 units against the 3 of a stored step; 5 for blocks whose `reconstruct` is the default.

    Recommended for deep chains of blocks with good inverses, in float32 and float64. Not for states in half
    precision, where inverses lose too much: there, `"checkpoint"` or `Exact`.

    Args:
        guard: compare every rebuilt input with a witness that its forward pass left, of one number a sample, and
            prove every step once, in the chain's first pass.
        tolerance: largest relative error of a rebuilt input; by default 1e-4 in float32, which keeps gradients within
            1e-3 of the stored ones, 1e-9 in float64, 2e-2 in float16 and 1e-1 in bfloat16.
        on_failure: `"repair"`: run the chain again from the nearest kept activation, warn once, and keep that step's
            input from then on; `"raise"`: raise `NotInvertibleError`.
        every: watch every so many steps.

    Raises:
        ConfigError: at construction, naming the argument.

    Example:
        >>> net = Chain(*blocks, memory=Reversible(tolerance=1e-5))
    """

    guard: bool = True
    tolerance: float | None = None
    on_failure: str = "repair"
    every: int = 1

    def __post_init__(self) -> None:
        Guard.build("Reversible", self.tolerance, self.on_failure, self.every)

    def tape(self, steps: Sequence[Step], state: State, condition: Tensor | None, log: Log) -> Tape:
        """A tape that rebuilds."""
        guard = Guard.build("Reversible", self.tolerance, self.on_failure, self.every) if self.guard else None
        return ReversibleTape(steps, condition, log, state, guard)


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
        self.modes = [REBUILT] * len(self.steps)
        for index, found in log.quarantined.items():
            self.modes[index] = found.mode
        self.cursor: tuple[int, State] | None = None
        self._trial = guard is not None and self._is_first_of_its_kind(state)

    def _is_first_of_its_kind(self, state: State) -> bool:
        training = any(training for world in self.worlds for _, training in world.members)
        kind = (training, tuple(x.dtype for x in state), self.setting.autocast)
        if kind in self.log.tried:
            return False
        self.log.tried.add(kind)
        return True

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
        if index == self.first and self.guard is not None and self.guard.repairs:
            self.hold(index, state)
        # The inverse of what is stored or kept may be worthless: whoever walks down starts below it.
        if self.modes[index] == INPUT_KEPT or (
            self.modes[index] == STORED and index > self.first and self.modes[index - 1] != STORED
        ):
            self.hold(index, state)
        self.watch.leave(index, state)

    def ran(self, index: int, state: State, result: State) -> None:
        """Prove the step, if this is the first pass of its kind."""
        if self._trial and self.modes[index] == REBUILT:
            self._prove(index, state, result)

    def finish(self, index: int, state: State) -> None:
        """Hold the output."""
        if self.modes[-1] != STORED:
            self.hold(index, state)

    def _prove(self, index: int, state: State, result: State) -> None:
        """Rebuild the step at once, while all it should give is at hand."""
        guard, step = self.guard, self.steps[index]
        if guard is None or step.lossless:
            return
        allowed = min(guard.allowed(x) for x in state)
        source, saved = self._rebuild(index, result)
        error = relative_distance(source, state)
        if error <= allowed and self._agrees(index, saved, allowed):
            return
        again, saved = self.rerun(index, state)
        if relative_distance(again, result) <= allowed and self._agrees(index, saved, allowed):
            found = Quarantined(step.name, INPUT_KEPT, error, self.log.passes, "its inverse does not return its input")
            if not guard.repairs:
                raise _not_invertible(found, index)
            self.hold(index, state)
        else:
            # Autograd keeps what the first run saved: nothing else will ever give it again.
            found = Quarantined(step.name, STORED, error, self.log.passes, OTHER_VALUES)
            if not guard.repairs:
                raise _not_invertible(found, index)
            self.hold(index, state)
            self.ledgers[index].keep_all()
        self.modes[index] = found.mode
        self.log.alarms += 1
        self.log.saw(error, step.name)
        quarantine(self.log, index, found)

    def _agrees(self, index: int, saved: Saved, allowed: float) -> bool:
        """Whether a replay saved what the first run saved."""
        ledger = self.ledgers[index]
        if not ledger.fits(saved):
            return False
        # Batch normalisation saves its running statistics, which its gradient does not use and every run changes.
        buffers = {x.untyped_storage().data_ptr() for module in self.steps[index].modules for x in module.buffers()}
        return all(
            _alike(first, saved.slots[number], SLACK * allowed)
            for number, first in ledger.slots.items()
            if first.untyped_storage().data_ptr() not in buffers
        )

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
            source, saved = self._rebuild(index, output)
            error = self.watch.error(index, source)
            if error:
                source, saved = self._repair(index, output, error)
            elif not self.ledgers[index].fits(saved):
                # A reconstruction that builds another graph than forward does is good for its input only.
                saved = self.rerun(index, source)[1]
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
        source = self.walk(index, state, backwards=True)
        error = self.watch.error(index, source)
        if error:
            found = self._alarm(index, error)
            source = self._recompute(index)
            self._mended(index, found)
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

    def _rebuild(self, index: int, output: State) -> tuple[State, Saved]:
        step = self.steps[index]
        if step.one_pass:
            return self.reconstruct(index, output)
        source = self.walk(index, output, backwards=True)
        return source, self.rerun(index, source)[1]

    def _alarm(self, index: int, error: float) -> Quarantined:
        """Count a miss; raise where it is not to be mended."""
        assert self.guard is not None
        self.log.alarms += 1
        name, reason = self.steps[index].name, "its rebuilt input missed the tolerance"
        found = Quarantined(name, INPUT_KEPT, error, self.log.passes, reason)
        if not self.guard.repairs:
            raise _not_invertible(found, index)
        return found

    def _repair(self, index: int, output: State, error: float) -> tuple[State, Saved]:
        """Run the chain again up to a step, and the step from there."""
        found = self._alarm(index, error)
        source = self._recompute(index)
        again, saved = self.rerun(index, source)
        self._check_output(index, again, output)
        self._mended(index, found)
        return source, saved

    def _mended(self, index: int, found: Quarantined) -> None:
        self.log.repairs += 1
        quarantine(self.log, index, found)

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
            state = self.walk(index, state, backwards=False)
            if self.watch.error(index + 1, state):
                raise self.irreproducible(index)
        return state

    def _check_output(self, index: int, again: State, output: State | None = None) -> None:
        """A step run again from its true input must give its true output, or its saved tensors are not the true ones."""
        if self.guard is None:
            return
        error = self.watch.output_error(index, again)
        if error is None and output is not None:
            # The walk's own errors are in this output.
            error = relative_distance(again, output)
            error = 0.0 if error <= 10 * max(self.guard.allowed(x) for x in again) else error
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


def _not_invertible(found: Quarantined, index: int) -> NotInvertibleError:
    return NotInvertibleError(
        f"{found.name} (step {index}, pass {found.step}): {found.reason}, relative error {found.error:.1e}, so that "
        "gradients would be wrong. Use on_failure='repair', a bounded scale, float64, or Exact.",
        block=found.name,
        error=found.error,
    )


def _alike(a: Tensor, b: Tensor, allowed: float) -> bool:
    if not a.is_floating_point():
        # A mask may flip where its number is on the edge; another mask differs in many places.
        return a.numel() == 0 or float((a != b).double().mean()) <= max(0.01, 1.0 / a.numel())
    difference = torch.linalg.vector_norm((a.double() - b.double()).nan_to_num())
    return bool(difference <= allowed * torch.linalg.vector_norm(a.double().nan_to_num()) + torch.finfo(a.dtype).tiny)
