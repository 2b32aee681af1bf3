"""One forward pass over a sequence of steps, of which the backward pass gets its tensors by running steps again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks

from invertible.memory.ledger import Ledger, ReplayError, Saved, saving
from invertible.memory.log import Log, Quarantined
from invertible.memory.step import State, Step, detached, leaves
from invertible.memory.world import Setting, World
from invertible.rounding import tf32_hint

Total = Tensor | None
# How a step gets its tensors back.
REBUILT, INPUT_KEPT, STORED = "rebuilt", "input kept", "stored"
OTHER_VALUES = "its forward gives other values when it is run again (see invertible.memory.check_determinism)"


_running = threading.local()


class recording:
    """A context: chains that run inside a step of another chain's pass are part of that step."""

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = is_recording()
        _running.yes = True

    def __exit__(self, *_: object) -> None:
        _running.yes = self._before


def is_recording() -> bool:
    """Whether a step of a pass is being run."""
    return getattr(_running, "yes", False)


class Tape:
    """A pass: its steps, what is kept of their states, and how their saved tensors are made again.

    Subclasses define `keep`, what to hold of the states that pass by, and `refill`, how to fill a ledger.

    Args:
        steps: the steps, first applied first.
        condition: given to every step.
        log: what the chain remembers.
        state: the input, whose devices are those of the pass.
    """

    stored_bytes: int = 0

    def __init__(self, steps: Sequence[Step], condition: Tensor | None, log: Log, state: State) -> None:
        self.steps, self.condition, self.log = list(steps), condition, log
        self._condition_version = None if condition is None else condition._version
        self.setting = Setting({x.device for x in state})
        self.worlds = [World(self.setting, step.modules, step.name) for step in steps]
        self.ledgers = [Ledger(step.name) for step in steps]
        self.states: dict[int, tuple[State, tuple[int, ...]]] = {}
        self.lock = threading.RLock()
        self.first = 0

    def forward(self, state: State) -> tuple[State, Total]:
        """Run all steps on the true graph: the output, and the sum of log-determinants, `None` for 0."""
        total: Total = None
        self.first = first = _first_differentiable(self.steps, state, self.condition)
        self.begin()
        for index, step in enumerate(self.steps):
            if index == first:
                # From here on everything has a graph, in the replay as in this pass.
                state = tuple(x if x.requires_grad or not x.is_floating_point() else _with_grad(x) for x in state)
            state, log_det = self.first_run(index, state) if index >= first else step.run(state, self.condition)
            if log_det is not None:
                total = log_det if total is None else total + log_det
        self.finish(len(self.steps), state)
        self.log.bytes_kept = self.bytes_kept()
        return state, total

    def first_run(self, index: int, state: State) -> tuple[State, Total]:
        """Run a step on the true graph, its saved tensors going to its ledger."""
        step, ledger = self.steps[index], self.ledgers[index]
        self.keep(index, state)
        versions = [x._version for x in state]
        hooks = saved_tensors_hooks(ledger.pack, _Unpack(self, index))
        self.worlds[index].before()
        with recording(), hooks:
            result, log_det = self.call(index, state)
        self.worlds[index].after()
        if [x._version for x in state] != versions:
            raise ReplayError(
                f"{step.name}: modifies its input in place, so that it is no bijection of what went in. Give its inner "
                "network inplace=False in its first layer, or use memory='store'."
            )
        self.ran(index, state, result)
        ledger.close()
        return result, log_det

    def run_stored(self, index: int, state: State) -> tuple[State, Total]:
        """Run a step as autograd does, which keeps what it saves."""
        self.keep(index, state)
        self.ledgers[index].close()
        with recording():
            return self.call(index, state)

    def call(self, index: int, state: State) -> tuple[State, Total]:
        """Run a step on the true graph."""
        return self.steps[index].run(state, self.condition)

    def begin(self) -> None:
        """Called before the first step; `first` is the number of the first one with a graph."""

    def keep(self, index: int, state: State) -> None:
        """Called with the input of every step, before it runs."""
        raise NotImplementedError

    def ran(self, index: int, state: State, result: State) -> None:
        """Called after a step has run, while its ledger still holds what autograd saved."""

    def finish(self, index: int, state: State) -> None:
        """Called with the output."""

    def refill(self, index: int) -> None:
        """Fill the ledger of a step."""
        raise NotImplementedError

    # What is kept.

    def hold(self, index: int, state: State) -> None:
        """Keep the state at a position: before step `index`."""
        self.states[index] = (detached(state), tuple(x._version for x in state))

    def held(self, index: int) -> State | None:
        """A kept state, unless it was modified since."""
        found = self.states.get(index)
        if found is None or any(x._version != version for x, version in zip(*found, strict=True)):
            return None
        return found[0]

    def bytes_kept(self) -> int:
        """Bytes of all tensors that the pass holds, each storage once, and of what a plan lets autograd store."""
        tensors = [x for state, _ in self.states.values() for x in state]
        tensors += [value for world in self.worlds for _, _, value in world.buffers]
        tensors += [value for world in self.worlds for value in (world.random or {}).values()]
        tensors += [value for ledger in self.ledgers for value in ledger.slots.values()]
        own = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
        return self.stored_bytes + sum(own.values())

    # Running steps again.

    def walk(self, index: int, state: State) -> State:
        """Run a step again, for its output alone; with grad, since some operations take other kernels without."""
        return self.rerun(index, state)[0]

    def walk_back(self, index: int, state: State) -> State:
        """The input of a step from its output, alone."""
        step = self.steps[index]
        if step.one_pass:
            return self.reconstruct(index, state)[0]
        with self.worlds[index].restored(), recording(), torch.no_grad():
            return step.invert(state, self._condition())

    def rerun(self, index: int, state: State) -> tuple[State, Saved]:
        """Run a step again from its input: the output, and what autograd saved."""
        return self._capture(index, lambda: self.steps[index].run(leaves(state), self._condition())[0])

    def reconstruct(self, index: int, state: State) -> tuple[State, Saved]:
        """Rebuild the input of a step from its output, and what autograd saved on the way."""
        return self._capture(index, lambda: self.steps[index].reconstruct(detached(state), self._condition()))

    def rebuild(self, index: int, output: State) -> tuple[State, Saved]:
        """The input of a step from its output, and what autograd saves on the way, unchecked."""
        step = self.steps[index]
        if step.one_pass:
            return self.reconstruct(index, output)
        source = self.walk_back(index, output)
        return source, self.rerun(index, source)[1]

    def _capture(self, index: int, call: Callable[[], State]) -> tuple[State, Saved]:
        saved = Saved()
        with self.worlds[index].restored(), recording(), saving(saved):
            result = detached(call())
        saved.is_open = False
        return result, saved

    def _condition(self) -> Tensor | None:
        condition = self.condition
        if condition is None:
            return None
        if condition._version != self._condition_version:
            raise ReplayError(
                "memory: the condition was modified in place between the forward and the backward pass. Pass a copy, "
                "or call backward() first."
            )
        return condition.detach().requires_grad_(condition.requires_grad)

    def irreproducible(self, index: int) -> ReplayError:
        """The error for a step that cannot be run again, which is stored from now on."""
        name = self.steps[index].name
        self.log.quarantined[index] = Quarantined(name, STORED, float("inf"), self.log.passes, OTHER_VALUES)
        parameters = [each for module in self.steps[index].modules for each in module.parameters()]
        return ReplayError(
            f"{name} (step {index}, pass {self.log.passes}): {OTHER_VALUES}, so that the gradients of this pass are "
            "lost. It is stored from the next pass on; memory='store' trains it from the start." + tf32_hint(parameters)
        )

    def fill(self, index: int, saved: Saved) -> None:
        """Put what a step saved in its second run where the true graph looks for it."""
        ledger = self.ledgers[index]
        if not ledger.fits(saved):
            raise ReplayError(
                f"{ledger.name}: run again, autograd saved {saved.count} tensors, not the {ledger.count} of the first "
                "run, or of other shapes. Its forward depends on something that changes between calls; "
                "invertible.memory.check_determinism(module, example) finds out on what. memory='store' trains it."
            )
        ledger.put(saved)


MakeTape = Callable[[Sequence[Step], State, Tensor | None, Log], Tape]


def record(
    make: MakeTape, steps: Sequence[Step], state: State, condition: Tensor | None, log: Log
) -> tuple[State, Total]:
    """Run steps on a new tape: the output, and the sum of log-determinants."""
    log.begin(len(steps))
    return make(steps, state, condition, log).forward(state)


class _Unpack:
    """The hook of one step's true graph. The graph holds the tape through it, and the tape nothing of the graph."""

    __slots__ = ("index", "tape")

    def __init__(self, tape: Tape, index: int) -> None:
        self.tape, self.index = tape, index

    def __call__(self, packed: int | tuple[Tensor, int]) -> Tensor:
        with self.tape.lock:
            return self.tape.ledgers[self.index].take(packed, self._refill)

    def _refill(self) -> None:
        self.tape.refill(self.index)


def keeps_graph() -> bool:
    """Whether the backward pass that is running was told to retain its graph."""
    autograd = getattr(torch._C, "_autograd", None)
    ask = getattr(autograd, "_get_current_graph_task_keep_graph", None)
    return ask is None or bool(ask())


def can_record() -> bool:
    """Whether hooks on saved tensors can be set: with grad, without forward-mode AD, in no step of another pass."""
    return (
        torch.is_grad_enabled()
        and not is_recording()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and _hooks_are_enabled()
    )


def is_differentiable(steps: Sequence[Step], state: State, condition: Tensor | None) -> bool:
    """Whether the output will have a graph."""
    return can_record() and _first_differentiable(steps, state, condition) < len(steps)


def _first_differentiable(steps: Sequence[Step], state: State, condition: Tensor | None) -> int:
    if any(x.requires_grad for x in state) or (condition is not None and condition.requires_grad):
        return 0
    for index, step in enumerate(steps):
        if any(parameter.requires_grad for module in step.modules for parameter in module.parameters()):
            return index
    return len(steps)


def _hooks_are_enabled() -> bool:
    ask = getattr(getattr(torch._C, "_autograd", None), "_saved_tensors_hooks_is_enabled", None)
    return ask is None or bool(ask())


def _with_grad(x: Tensor) -> Tensor:
    """A leaf with the values of x, which keeps no gradient."""
    leaf = x.detach().requires_grad_()
    leaf.register_post_accumulate_grad_hook(_drop_gradient)
    return leaf


def _drop_gradient(leaf: Tensor) -> None:
    leaf.grad = None
