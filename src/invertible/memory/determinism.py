"""Whether a network gives the same bits when it is run again, and what its bits depend on."""

from __future__ import annotations

import pickle
import random
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from invertible.errors import ConfigError, ShapeError
from invertible.memory.guard import TOLERANCES
from invertible.memory.world import random_state

Tensors = tuple[Tensor, ...]
Figures = tuple[float, float]
SAME, RESTORED, DIFFERS, FATAL, NOT_RUN = "same", "restored", "differs", "fatal", "not run"
REPEATS = 3  # atomic additions on CUDA give other bits now and then, not always
CUDA = "On CUDA try torch.use_deterministic_algorithms(True) and torch.backends.cudnn.benchmark = False."


@dataclass(frozen=True)
class Finding:
    """What one change does to the output.

    Attributes:
        name: what changes between the forward pass and the recomputation.
        verdict: `"same"`: no bit; `"restored"`: bits, but the strategies restore what they depend on; `"differs"`:
            bits, by rounding or where no plain training step leads; `"fatal"`: recomputation gives wrong gradients or
            an error; `"not run"`.
        difference: largest |a - b| of two outputs, NaN where there is none.
        relative: largest ‖a - b‖ / ‖b‖.
        explanation: what it means and what to do about it, or why it was not run.
        in_training: whether a plain training step brings the change about.
    """

    name: str
    verdict: str
    difference: float = 0.0
    relative: float = 0.0
    explanation: str = ""
    in_training: bool = True


@dataclass(frozen=True)
class DeterminismReport:
    """What `check_determinism` found: `print` shows a table, `report[name]` is one finding.

    Attributes:
        module: name of the module's class.
        setting: mode, dtype and device in which it ran.
        findings: one a change.
    """

    module: str
    setting: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether recomputation gives right gradients: nothing is fatal."""
        return all(each.verdict != FATAL for each in self.findings)

    @property
    def exact_ok(self) -> bool:
        """Whether no bit changes in a plain training step, as `Exact` needs."""
        return not self._in_the_way

    def __getitem__(self, name: str) -> Finding:
        return {each.name: each for each in self.findings}[name]

    @property
    def _in_the_way(self) -> str:
        return ", ".join(x.name for x in self.findings if x.verdict == FATAL or (x.verdict == DIFFERS and x.in_training))

    def __str__(self) -> str:
        ran = [each for each in self.findings if each.verdict != NOT_RUN]
        rows = [("change", "verdict", "difference", "relative")]
        for x in ran:
            figures = (f"{x.difference:.1e}", f"{x.relative:.1e}") if x.verdict != SAME and x.difference >= 0 else ("", "")
            rows.append((x.name, x.verdict, *figures))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        notes = [f"{x.name}: {x.explanation}" for x in (*ran, *self.findings) if x.explanation and x.verdict != NOT_RUN]
        skipped = "; ".join(f"{x.name} ({x.explanation})" for x in self.findings if x.verdict == NOT_RUN)
        fit = f"but not for Exact: {self._in_the_way}" if self._in_the_way else "for Exact too"
        verdict = f"passed, {fit}" if self.passed else f"failed: {self._in_the_way}"
        return "\n".join([f"{self.module} ({self.setting}): {verdict}", *lines, *notes, f"not run: {skipped}"])


def check_determinism(module: nn.Module, example: Tensor | Tensors, *, compile: bool = False) -> DeterminismReport:
    """Run a network under all that may change between a forward pass and its recomputation, and compare the bits.

    Memory strategies run inner networks again in the backward pass: `Exact` needs the bits of the first time, the
    others need them up to rounding. The module is checked in the mode it is in and under the autocast that is on.
    Parameters, buffers, modes, attributes and random generators are put back afterwards, whatever happens; what its
    lists and dictionaries hold is not.

    Args:
        module: the inner network, such as a coupling's conditioner; it runs some twenty times, without backward.
        example: its input, or a tuple of all its inputs, each with the batch on axis 0.
        compile: compare with `torch.compile(module)` as well, which takes seconds to minutes.

    Returns:
        The report: `passed` for recomputation at all, `exact_ok` for `Exact`.

    Raises:
        ConfigError: if the module is none, is not initialised yet, or returns no tensor.
        ShapeError: if the example is no tensor, has no batch, or lies on another device.
        Exception: whatever the module raises in its first call.
    """
    inputs = _checked(module, example)
    mode = "train" if module.training else "eval"
    setting = f"{mode} mode, {str(inputs[0].dtype).removeprefix('torch.')} on {inputs[0].device}"
    with torch.inference_mode(False), torch.enable_grad():
        trial = _Trial(module, tuple(x.detach().clone() for x in inputs))
        try:
            trial.begin()
            return DeterminismReport(type(module).__name__, setting, tuple(_findings(trial, compiles=compile)))
        finally:
            trial.end()


def _checked(module: nn.Module, example: Tensor | Tensors) -> Tensors:
    owner, inputs = "check_determinism", example if isinstance(example, tuple) else (example,)
    if not isinstance(module, nn.Module):
        raise ConfigError(f"{owner}: expected a torch.nn.Module, got {type(module).__name__}. Wrap a function in one.")
    tensors = [*module.parameters(), *module.buffers()]
    if any(is_lazy(tensor) for tensor in tensors):
        raise ConfigError(f"{owner}: expected an initialised module, got lazy parameters. Call it once before.")
    if not inputs or not all(isinstance(x, Tensor) for x in inputs):
        got = f"({', '.join(type(x).__name__ for x in inputs)})" if isinstance(example, tuple) else type(example).__name__
        raise ShapeError(f"{owner}: expected example to be a tensor or a tuple of tensors, got {got}. Convert it.")
    if any(x.dim() == 0 or len(x) == 0 or len(x) != len(inputs[0]) for x in inputs):
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise ShapeError(
            f"{owner}: expected example of shape (batch, ...), the batch alike in all tensors, got {shapes}. Wrap the "
            "module in one that holds what has no batch."
        )
    devices = {tensor.device for tensor in tensors}
    if devices and inputs[0].device not in devices:
        to = min(map(str, devices))
        raise ShapeError(f"{owner}: expected example on {to}, where the module is, got {inputs[0].device}. Move one.")
    return inputs


@dataclass(frozen=True)
class _Entry:
    """A parameter, buffer or attribute of a module, as it was."""

    kind: str
    name: str
    table: dict[str, Any]
    key: str
    value: Any
    copy: Tensor | None
    version: int

    @property
    def changed(self) -> bool:
        now = self.table.get(self.key)
        if self.copy is None or not isinstance(now, Tensor):
            return now is not self.value
        return _difference((now,), (self.copy,)) != (0.0, 0.0)

    @property
    def hidden(self) -> bool:
        """Whether a change left no trace that the strategies would see."""
        return self.value is None or (self.table.get(self.key) is self.value and self.value._version == self.version)

    def put_back(self) -> None:
        self.table[self.key] = self.value
        if self.copy is not None and not torch.equal(self.value, self.copy):
            self.value.copy_(self.copy)


def _entries(module: nn.Module) -> Iterator[_Entry]:
    for path, each in module.named_modules():
        tables = ("parameter", each._parameters), ("buffer", each._buffers), ("attribute", vars(each))
        for kind, table, key, value in [(kind, table, *item) for kind, table in tables for item in table.items()]:
            copy, version = (value.detach().clone(), value._version) if isinstance(value, Tensor) else (None, 0)
            yield _Entry(kind, f"{path}.{key}".lstrip("."), table, key, value, copy, version)


class _Generator:
    """A source of random numbers that no strategy restores."""

    def __init__(self, name: str, read: Callable[[], Any], write: Callable[[Any], object]) -> None:
        self.name, self.read, self.write, self.before = name, read, write, read()

    @property
    def moved(self) -> bool:
        now, before = (x.tolist() if isinstance(x, Tensor) else x for x in (self.read(), self.before))
        return pickle.dumps(now) != pickle.dumps(before)


def _generators(entries: list[_Entry]) -> Iterator[_Generator]:
    yield _Generator("numpy.random", np.random.get_state, np.random.set_state)  # noqa: NPY002 - others draw from it
    yield _Generator("Python's random", random.getstate, random.setstate)
    for name, value in [(each.name, each.value) for each in entries]:
        if isinstance(value, torch.Generator):
            yield _Generator(name, value.get_state, value.set_state)
        elif isinstance(value, np.random.Generator):
            bits = value.bit_generator
            yield _Generator(name, partial(getattr, bits, "state"), partial(setattr, bits, "state"))
        elif isinstance(value, random.Random):
            yield _Generator(name, value.getstate, value.setstate)


def _difference(outputs: Tensors, reference: Tensors) -> Figures:
    """The largest |a - b| and ‖a - b‖ / ‖b‖; two NaN, and two equal infinities, are alike."""
    if [x.shape for x in outputs] != [x.shape for x in reference]:
        return float("inf"), float("inf")
    largest = relative = 0.0
    for a, b in zip(outputs, reference, strict=True):
        if not torch.equal(a, b):
            a, b = (x.detach().to(torch.complex128 if x.is_complex() else torch.float64) for x in (a, b))
            alike = (a == b) | (a.isnan() & b.isnan())
            gap = (a - b).abs().masked_fill(alike, 0.0).nan_to_num(nan=torch.inf)
            norm = b.abs().nan_to_num(0.0, 0.0).norm().clamp_min(torch.finfo(torch.float32).tiny)
            largest, relative = max(largest, float(gap.max())), max(relative, float(gap.norm() / norm))
    return largest, relative


def _leaves(output: object) -> Iterator[Tensor]:
    """All tensors of a nest of tuples, lists and dictionaries."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | tuple | list):
        for each in output.values() if isinstance(output, Mapping) else output:
            yield from _leaves(each)


class _Trial:
    """Runs of a module from the same state.

    Attributes:
        outputs: of the first run, with which others are compared; of the second, if the first set parameters.
        initialised: parameters that the first run set.
        repeated: how far repeated runs are from the first.
        tolerance: what the strategies take for rounding.
    """

    def __init__(self, module: nn.Module, inputs: Tensors) -> None:
        self.module, self.inputs, self.device = module, inputs, inputs[0].device
        self.entries = self.original = list(_entries(module))
        self.generators = list(_generators(self.entries))
        self.devices = {x.device for x in (*inputs, *module.parameters(), *module.buffers())}

    def begin(self) -> None:
        first = self._observe()
        self.initialised = self.names("parameter")
        if self.initialised:
            self.entries = list(_entries(self.module))
            self._observe()
        self.repeated = max(_difference(self.run(), first) for _ in range(REPEATS))
        self.tolerance = max(TOLERANCES.get(x.dtype, 1e-4) for x in first)

    def _observe(self) -> Tensors:
        """Run, and note what the run did besides."""
        inputs = tuple(x.clone() for x in self.inputs)
        versions, places = [x._version for x in inputs], {x.untyped_storage().data_ptr() for x in inputs}
        with self.fork():
            before = random_state(self.devices)
            leaves = list(_leaves(self.module(*inputs)))
            self.drew = any(not torch.equal(state, before[at]) for at, state in random_state(self.devices).items())
        if not leaves:
            raise ConfigError("check_determinism: expected a module that returns tensors, got none. Wrap it in one.")
        self.sources = ", ".join(each.name for each in self.generators if each.moved)
        self.changed = [each for each in self.entries if each.changed]
        self.hidden = {each.name for each in self.changed if each.hidden}
        self.modified = [x._version for x in inputs] != versions or _difference(inputs, self.inputs) != (0.0, 0.0)
        self.shares = any(x.untyped_storage().data_ptr() in places for x in leaves)
        self.outputs = tuple(x.detach().clone() for x in leaves)
        return self.outputs

    def names(self, kind: str) -> list[str]:
        """What the run that was observed has changed."""
        return [each.name for each in self.changed if each.kind == kind]

    def fork(self) -> AbstractContextManager[None]:
        """A context that puts the random numbers back."""
        return torch.random.fork_rng(devices=[each for each in self.devices if each.type == "cuda"])

    def run(self, prepare: Prepare = _as_it_is, module: Module | None = None, keep: Collection[str] = ()) -> Tensors:
        """The outputs from the first run's random numbers, parameters and buffers, save the buffers in `keep`."""
        with self.fork():
            return self.run_on(prepare, module, keep)

    def run_on(self, prepare: Prepare = _as_it_is, module: Module | None = None, keep: Collection[str] = ()) -> Tensors:
        """As `run`, from the random numbers that come next."""
        with torch.no_grad():
            for each in self.entries:
                if each.kind != "attribute" and each.name not in keep:
                    each.put_back()
        outputs = (module or self.module)(*(prepare(x.clone()) for x in self.inputs))
        return tuple(x.detach().clone() for x in _leaves(outputs))

    def compared(self, prepare: Prepare = _as_it_is, module: Module | None = None) -> Figures:
        """How far a run is from the first."""
        return _difference(self.run(prepare, module), self.outputs)

    @torch.no_grad()
    def end(self) -> None:
        """Put everything back."""
        keys = {(id(each.table), each.key) for each in self.original}
        for table in {id(each.table): each.table for each in self.original}.values():
            for key in [key for key in table if (id(table), key) not in keys]:
                del table[key]
        for each in self.original:
            each.put_back()
        for each in self.generators:
            each.write(each.before)


@dataclass(frozen=True)
class _Change:
    name: str
    when: str
    measure: Callable[[_Trial], Figures | str]
    explanation: str


def _under(context: Callable[[_Trial], AbstractContextManager[object]]) -> Callable[[_Trial], Figures | str]:
    def measure(trial: _Trial) -> Figures | str:
        with context(trial):
            return trial.compared()

    return measure


def _given(prepare: Prepare) -> Callable[[_Trial], Figures | str]:
    def measure(trial: _Trial) -> Figures | str:
        if all(prepare(x) is x for x in trial.inputs):
            return "not for such an input"
        return trial.compared(prepare)

    return measure


def _with_grad(x: Tensor) -> Tensor:
    return x.clone().requires_grad_().clone() if x.is_floating_point() else x


def _half(x: Tensor) -> Tensor:
    return torch.cat((x, x), 1)[:, x.shape[1] :] if x.dim() > 1 else x


def _odd_part(x: Tensor) -> Tensor:
    return torch.cat((x[:, :1], x, x), 1)[:, 1 : 1 + x.shape[1]] if x.dim() > 1 else x


def _other_format(x: Tensor) -> Tensor:
    if x.dim() not in (4, 5):
        return x
    channels_last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return x.contiguous(memory_format=channels_last) if x.is_contiguous() else x.contiguous()


def _autocast(trial: _Trial) -> AbstractContextManager[object]:
    kind = trial.device.type
    return torch.autocast(kind, torch.bfloat16, not torch.is_autocast_enabled(kind))


@contextmanager
def _other_mode(trial: _Trial) -> Iterator[None]:
    modes = [(each, each.training) for each in trial.module.modules()]
    try:
        trial.module.train(not trial.module.training)
        yield
    finally:
        for each, training in modes:
            each.training = training


def _one_thread(trial: _Trial) -> Figures | str:
    count = torch.get_num_threads()
    if count == 1 or trial.device.type != "cpu":
        return "one thread is in use" if count == 1 else f"runs on {trial.device}"
    torch.set_num_threads(1)
    try:
        return trial.compared()
    finally:
        torch.set_num_threads(count)


def _attention(trial: _Trial) -> Figures | str:
    if not any(isinstance(each, nn.MultiheadAttention) for each in trial.module.modules()):
        return "no torch.nn.MultiheadAttention inside"
    if not torch.backends.mha.get_fastpath_enabled():
        return "switched off"
    with torch.no_grad():
        fast = trial.run()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            return _difference(fast, trial.run())
        finally:
            torch.backends.mha.set_fastpath_enabled(True)


def _rows(count: Callable[[int], int]) -> Callable[[_Trial], Figures | str]:
    def measure(trial: _Trial) -> Figures | str:
        batch = len(trial.inputs[0])
        rows = count(batch)
        if not 0 < rows < batch or trial.drew:
            return "another batch draws other random numbers" if trial.drew else "needs a larger batch"
        pairs = zip(trial.run(lambda x: x[:rows]), trial.outputs, strict=True)
        pairs = [(a, b[:rows]) for a, b in pairs if b.dim() and len(b) == batch and a.shape == (rows, *b.shape[1:])]
        if not pairs:
            return "no output has the batch on axis 0"
        return _difference(tuple(a for a, _ in pairs), tuple(b for _, b in pairs))

    return measure


def _compiled(trial: _Trial) -> Figures | str:
    eager = getattr(trial.module, "_orig_mod", None)
    return trial.compared(module=torch.compile(trial.module) if eager is None else eager)
