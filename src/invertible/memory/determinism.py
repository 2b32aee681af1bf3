"""Whether a network gives the same bits when it is run again, and what its bits depend on."""

from __future__ import annotations

import pickle
import random
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from invertible.errors import ConfigError, ShapeError
from invertible.memory.guard import TOLERANCES

Tensors = tuple[Tensor, ...]
Prepare = Callable[[Tensor], Tensor]
# The largest |a - b| of two outputs, and the largest ‖a - b‖ / ‖b‖ of a tensor.
Figures = tuple[float, float]
EQUAL: Figures = (0.0, 0.0)
# Atomic additions on CUDA give other bits now and then, not always.
REPEATS = 3


@dataclass(frozen=True)
class Entry:
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
        """Whether it is another object now, or has other values."""
        now = self.table.get(self.key)
        if self.copy is None or not isinstance(now, Tensor):
            return now is not self.value
        return difference((now,), (self.copy,)) != EQUAL

    @property
    def hidden(self) -> bool:
        """Whether it changed without a trace that the strategies see: the same tensor, of the same version."""
        return self.value is None or (self.table.get(self.key) is self.value and self.value._version == self.version)

    def put_back(self) -> None:
        """The same object with the same values."""
        self.table[self.key] = self.value
        if self.copy is not None and not torch.equal(self.value, self.copy):
            self.value.copy_(self.copy)


def entries(module: nn.Module) -> Iterator[Entry]:
    """All parameters, buffers and attributes."""
    for path, each in module.named_modules():
        tables: list[tuple[str, dict[str, Any]]] = [
            ("parameter", each._parameters),
            ("buffer", each._buffers),
            ("attribute", vars(each)),
        ]
        for kind, table in tables:
            for key, value in table.items():
                copy, version = (value.detach().clone(), value._version) if isinstance(value, Tensor) else (None, 0)
                yield Entry(kind, f"{path}.{key}".lstrip("."), table, key, value, copy, version)


class Source:
    """A source of random numbers that no strategy restores."""

    def __init__(self, name: str, read: Callable[[], Any], write: Callable[[Any], object]) -> None:
        self.name, self.read, self.write, self.before = name, read, write, read()

    def state(self) -> bytes:
        """The state, to be compared."""
        state = self.read()
        return pickle.dumps(state.tolist() if isinstance(state, Tensor) else state)

    def put_back(self) -> None:
        """The same state."""
        self.write(self.before)


def sources(attributes: list[Entry]) -> Iterator[Source]:
    """The global generators of numpy and Python, and those that a module holds."""
    yield Source("numpy.random", np.random.get_state, np.random.set_state)
    yield Source("Python's random", random.getstate, random.setstate)
    for name, value in [(each.name, each.value) for each in attributes]:
        if isinstance(value, torch.Generator):
            yield Source(name, value.get_state, value.set_state)
        elif isinstance(value, np.random.Generator):
            bits = value.bit_generator
            yield Source(name, partial(getattr, bits, "state"), partial(setattr, bits, "state"))
        elif isinstance(value, random.Random):
            yield Source(name, value.getstate, value.setstate)


def difference(outputs: Tensors, reference: Tensors) -> Figures:
    """How far two outputs are apart; NaN is like NaN, and an infinity like itself."""
    if [x.shape for x in outputs] != [x.shape for x in reference]:
        return float("inf"), float("inf")
    largest = relative = 0.0
    for a, b in zip(outputs, reference, strict=True):
        if not torch.equal(a, b):
            a, b = (x.detach().to(torch.complex128 if x.is_complex() else torch.float64) for x in (a, b))
            alike = (a == b) | (a.isnan() & b.isnan())
            gap = (a - b).abs().masked_fill(alike, 0.0).nan_to_num(nan=torch.inf, posinf=torch.inf)
            norm = b.abs().nan_to_num(0.0, 0.0).norm().clamp_min(torch.finfo(torch.float32).tiny)
            largest, relative = max(largest, float(gap.max())), max(relative, float(gap.norm() / norm))
    return largest, relative


def leaves(output: object) -> Iterator[Tensor]:
    """All tensors of a nest of tuples, lists and dictionaries."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | tuple | list):
        for each in output.values() if isinstance(output, Mapping) else output:
            yield from leaves(each)


def as_it_is(x: Tensor) -> Tensor:
    """The input."""
    return x


class Trial:
    """Runs of a module from the same parameters, buffers and random numbers.

    Args:
        module: the module.
        inputs: what all runs get, in copies.
        compiles: whether to compile.

    Attributes:
        outputs: of the first run, with which others are compared; of the second, if the first set parameters.
        initialised: parameters that the first run set.
        repeated: how far repeated runs are from the first.
        tolerance: what the strategies take for rounding.
    """

    def __init__(self, module: nn.Module, inputs: Tensors, *, compiles: bool) -> None:
        self.module, self.inputs, self.compiles = module, inputs, compiles
        self.entries = self.original = list(entries(module))
        self.sources = list(sources(self.original))
        tensors = *inputs, *module.parameters(), *module.buffers()
        self.cuda = sorted({x.device for x in tensors if x.is_cuda}, key=str)

    def begin(self) -> None:
        """The runs with which others are compared."""
        first = self._observe()
        self.initialised = self.names("parameter")
        if self.initialised:
            self.entries = list(entries(self.module))
            self._observe()
        self.repeated = max(difference(self.run(), first) for _ in range(REPEATS))
        self.tolerance = max(TOLERANCES.get(x.dtype, 1e-4) for x in first)

    def _observe(self) -> Tensors:
        """Run, and note what the run did besides."""
        inputs = tuple(x.clone() for x in self.inputs)
        versions, places = [x._version for x in inputs], {x.untyped_storage().data_ptr() for x in inputs}
        with self.fork():
            before, states = self._random_state(), [each.state() for each in self.sources]
            result = self.module(*inputs)
            self.drawn_from = [x.name for x, state in zip(self.sources, states, strict=True) if x.state() != state]
            self.drew = self._random_state() != before
        outputs = list(leaves(result))
        if not outputs:
            raise ConfigError("check_determinism: expected a module that returns tensors, got none. Wrap it in one.")
        self.changed = [each for each in self.entries if each.changed]
        self.modified = [x._version for x in inputs] != versions or difference(inputs, self.inputs) != EQUAL
        self.shares = any(x.untyped_storage().data_ptr() in places for x in outputs)
        self.hidden = {each.name for each in self.changed if each.kind == "buffer" and each.hidden}
        self.outputs = tuple(x.detach().clone() for x in outputs)
        return self.outputs

    def _random_state(self) -> list[list[int]]:
        on_cuda = [torch.cuda.get_rng_state(each) for each in self.cuda]
        return [state.tolist() for state in (torch.get_rng_state(), *on_cuda)]

    def names(self, kind: str) -> list[str]:
        """The parameters, buffers or attributes that the first run has changed."""
        return [each.name for each in self.changed if each.kind == kind]

    def fork(self) -> AbstractContextManager[None]:
        """A context that puts the state of torch's default generators back."""
        return torch.random.fork_rng(devices=self.cuda)

    def run(
        self, prepare: Prepare = as_it_is, *, module: Callable[..., object] | None = None, keep: Collection[str] = ()
    ) -> Tensors:
        """The outputs from the state of the first run, save the buffers named in `keep`."""
        with torch.no_grad():
            for each in self.entries:
                if each.kind != "attribute" and each.name not in keep:
                    each.put_back()
        with self.fork():
            outputs = (module or self.module)(*(prepare(x.clone()) for x in self.inputs))
        return tuple(x.detach().clone() for x in leaves(outputs))

    def compared(
        self, prepare: Prepare = as_it_is, *, module: Callable[..., object] | None = None, keep: Collection[str] = ()
    ) -> Figures:
        """How far the outputs are from those of the first run."""
        return difference(self.run(prepare, module=module, keep=keep), self.outputs)

    @torch.no_grad()
    def end(self) -> None:
        """Put everything back."""
        keys = {(id(each.table), each.key) for each in self.original}
        for table in {id(each.table): each.table for each in self.original}.values():
            for key in [key for key in table if (id(table), key) not in keys]:
                del table[key]
        for each in (*self.original, *self.sources):
            each.put_back()


TRAINING, RESTORED, ELSEWHERE = "training", "restored", "elsewhere"
Measure = Callable[[Trial], Figures | str]


@dataclass(frozen=True)
class Change:
    """A change, how to measure what it does, and what to do about it.

    Attributes:
        name: of the change.
        when: `"training"`: a plain training step may bring it about; `"restored"`: the strategies undo it;
            `"elsewhere"`.
        measure: the figures, or why there are none.
        remedy: what to do where bits differ.
    """

    name: str
    when: str
    measure: Measure
    remedy: str


def under(context: Callable[[Trial], AbstractContextManager[object]]) -> Measure:
    """Run in a context."""

    def measure(trial: Trial) -> Figures:
        with context(trial):
            return trial.compared()

    return measure


def given(prepare: Prepare, needs: str) -> Measure:
    """Run on the inputs in another form; one that has no such form comes back as it is."""

    def measure(trial: Trial) -> Figures | str:
        return f"needs {needs}" if all(prepare(x) is x for x in trial.inputs) else trial.compared(prepare)

    return measure


def with_grad(x: Tensor) -> Tensor:
    """Part of a graph, and no leaf, which nobody may change in place."""
    return x.clone().requires_grad_().clone() if x.is_floating_point() else x


def half(x: Tensor) -> Tensor:
    """The second half of a tensor, as `chunk` cuts it."""
    return torch.cat((x, x), 1)[:, x.shape[1] :] if x.dim() > 1 else x


def odd_part(x: Tensor) -> Tensor:
    """A part whose rows begin anywhere in memory."""
    return torch.cat((x[:, :1], x, x), 1)[:, 1 : 1 + x.shape[1]] if x.dim() > 1 else x


def other_format(x: Tensor) -> Tensor:
    """Channels last if they are first, and the other way round."""
    if x.dim() not in (4, 5):
        return x
    channels_last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return x.contiguous(memory_format=channels_last if x.is_contiguous() else torch.contiguous_format)


def autocast(trial: Trial) -> AbstractContextManager[object]:
    """On if it is off, and off if it is on."""
    kind = trial.inputs[0].device.type
    return torch.autocast(kind, torch.bfloat16, not torch.is_autocast_enabled(kind))


@contextmanager
def other_mode(trial: Trial) -> Iterator[None]:
    """Eval mode in train mode, and the other way round."""
    modes = [(each, each.training) for each in trial.module.modules()]
    try:
        trial.module.train(not trial.module.training)
        yield
    finally:
        for each, training in modes:
            each.training = training


@contextmanager
def other_numbers(trial: Trial) -> Iterator[None]:
    """Other random numbers."""
    with trial.fork():
        for device in ("cpu", *trial.cuda):
            torch.rand(1, device=device)
        yield


def attention(trial: Trial) -> Figures | str:
    """The fused path that attention takes in eval mode without grad, against the other one."""
    if not any(isinstance(each, nn.MultiheadAttention) for each in trial.module.modules()):
        return "no torch.nn.MultiheadAttention inside"
    if not torch.backends.mha.get_fastpath_enabled():
        return "switched off"
    with torch.no_grad():
        fast = trial.run()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            return difference(fast, trial.run())
        finally:
            torch.backends.mha.set_fastpath_enabled(True)


def one_thread(trial: Trial) -> Figures | str:
    """One thread in place of many."""
    count, device = torch.get_num_threads(), trial.inputs[0].device
    if count == 1 or device.type != "cpu":
        return "one thread is in use" if device.type == "cpu" else f"runs on {device}"
    torch.set_num_threads(1)
    try:
        return trial.compared()
    finally:
        torch.set_num_threads(count)


def rows(count: Callable[[int], int]) -> Measure:
    """The first rows on their own, against the same rows in the batch."""

    def measure(trial: Trial) -> Figures | str:
        batch = len(trial.inputs[0])
        size = count(batch)
        if trial.drew or not 0 < size < batch:
            return "another batch draws other random numbers" if trial.drew else "needs a larger batch"
        pairs = zip(trial.run(lambda x: x[:size]), trial.outputs, strict=True)
        pairs = [(a, b[:size]) for a, b in pairs if b.dim() and len(b) == batch and a.shape == (size, *b.shape[1:])]
        if not pairs:
            return "no output has the batch on axis 0"
        return difference(tuple(a for a, _ in pairs), tuple(b for _, b in pairs))

    return measure


def compiled(trial: Trial) -> Figures | str:
    """Compiled if the module is not, and the other way round."""
    if not trial.compiles:
        return "pass compile=True"
    eager = getattr(trial.module, "_orig_mod", None)
    return trial.compared(module=torch.compile(trial.module) if eager is None else eager)


CHANGES = (
    Change(
        "random numbers",
        RESTORED,
        under(other_numbers),
        "It draws from torch's default generator, whose state the recomputation starts from again.",
    ),
    Change(
        "no_grad",
        TRAINING,
        under(lambda _: torch.no_grad()),
        "Inverses, repairs and recursive checkpoints run without grad, where it takes other kernels or another path. "
        "For attention see its fast path; for an LSTM on CPU, torch.backends.mkldnn.flags(enabled=False).",
    ),
    Change(
        "input with grad",
        TRAINING,
        given(with_grad, "an input of floating-point numbers"),
        "It takes other kernels or another path for an input that requires grad. Let nothing depend on requires_grad.",
    ),
    Change(
        "input a half",
        TRAINING,
        given(half, "an axis of channels"),
        "Half of a tensor goes in at first, and a tensor of its own is what comes back. Begin its forward with "
        "x = x.contiguous().",
    ),
    Change(
        "attention fast path",
        TRAINING,
        attention,
        "In eval mode attention takes another path without grad. Call torch.backends.mha.set_fastpath_enabled(False).",
    ),
    Change(
        "autocast",
        RESTORED,
        under(autocast),
        "The recomputation runs under the autocast of the forward pass. Check it under the autocast you train with.",
    ),
    Change("train/eval", RESTORED, under(other_mode), "The recomputation runs in the mode of the forward pass."),
    Change(
        "inference_mode",
        ELSEWHERE,
        under(lambda _: torch.inference_mode()),
        "An inverse under inference_mode or no_grad does not undo a forward pass with grad to the last bit.",
    ),
    Change(
        "input an odd part",
        ELSEWHERE,
        given(odd_part, "an axis of channels"),
        "So it is where a block cuts an odd number of channels. Begin its forward with x = x.contiguous().",
    ),
    Change(
        "memory format",
        ELSEWHERE,
        given(other_format, "an input of 4 or 5 axes"),
        "Keep the model and its data in one memory format. Dropout draws its numbers in the order of memory.",
    ),
    Change("threads", ELSEWHERE, one_thread, "Set torch.set_num_threads once, before the first forward pass."),
    Change(
        "batch of one",
        ELSEWHERE,
        rows(lambda batch: 1 if batch > 1 else 0),
        "A row on its own gives other bits, or other values where rows depend on each other, as in batch "
        "normalisation. Invert in the batches that you ran forward.",
    ),
    Change(
        "half the batch",
        ELSEWHERE,
        rows(lambda batch: batch // 2 if batch > 3 else 0),
        "As a batch of one: invert in the batches that you ran forward.",
    ),
    Change(
        "compiled",
        ELSEWHERE,
        compiled,
        "Run forward and inverse both compiled or both eager; a compiled module also draws other random numbers.",
    ),
)


SAME, DIFFERS, FATAL, NOT_RUN = "same", "differs", "fatal", "not run"
NONE = float("nan")


@dataclass(frozen=True)
class Finding:
    """What one change does to the output.

    Attributes:
        name: what changes between the forward pass and the recomputation.
        verdict: `"same"`: no bit; `"restored"`: bits, but the strategies restore what they depend on; `"differs"`:
            bits, by rounding or where no plain training step leads; `"fatal"`: recomputation gives wrong gradients or
            an error; `"not run"`.
        difference: largest |a - b| of two outputs, NaN where none was measured.
        relative: largest ‖a - b‖ / ‖b‖ of a tensor, NaN where none was measured.
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
        wrong = [x for x in self.findings if x.verdict == FATAL or (x.verdict == DIFFERS and x.in_training)]
        return ", ".join(each.name for each in wrong)

    def __str__(self) -> str:
        fit = f"but not for Exact: {self._in_the_way}" if self._in_the_way else "for Exact too"
        fatal = ", ".join(each.name for each in self.findings if each.verdict == FATAL)
        verdict = f"failed: {fatal}" if fatal else f"passed, {fit}"
        ran = [each for each in self.findings if each.verdict != NOT_RUN]
        rows = [("change", "verdict", "difference", "relative"), *map(_row, ran)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines += [f"{each.name}: {each.explanation}" for each in ran if each.explanation]
        skipped = [f"{each.name} ({each.explanation})" for each in self.findings if each.verdict == NOT_RUN]
        lines += [f"not run: {'; '.join(skipped)}"] if skipped else []
        return "\n".join((f"{self.module} ({self.setting}): {verdict}", *lines))


def _row(finding: Finding) -> tuple[str, str, str, str]:
    if finding.verdict == SAME or finding.difference != finding.difference:
        return finding.name, finding.verdict, "", ""
    return finding.name, finding.verdict, f"{finding.difference:.1e}", f"{finding.relative:.1e}"


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
        ConfigError: if the module is none, is scripted, is not initialised yet, or returns no tensor.
        ShapeError: if the example is no tensor, has no batch, or lies on another device.
        Exception: whatever the module raises in its first call.

    Example:
        >>> print(check_determinism(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.1)), torch.randn(16, 8)))
    """
    inputs = _checked(module, example)
    mode = "train" if module.training else "eval"
    setting = f"{mode} mode, {str(inputs[0].dtype).removeprefix('torch.')} on {inputs[0].device}"
    with torch.inference_mode(False), torch.enable_grad():
        trial = Trial(module, tuple(x.clone().detach() for x in inputs), compiles=compile)
        try:
            trial.begin()
            return DeterminismReport(type(module).__name__, setting, tuple(_findings(trial)))
        finally:
            trial.end()


def _checked(module: nn.Module, example: Tensor | Tensors) -> Tensors:
    owner, inputs = "check_determinism", example if isinstance(example, tuple) else (example,)
    if not isinstance(module, nn.Module):
        raise ConfigError(f"{owner}: expected a torch.nn.Module, got {type(module).__name__}. Wrap a function in one.")
    if any(isinstance(each, torch.jit.ScriptModule) for each in module.modules()):
        raise ConfigError(f"{owner}: expected a module in Python, got a ScriptModule. Check the one it was made from.")
    tensors = [*module.parameters(), *module.buffers()]
    if any(is_lazy(tensor) for tensor in tensors):
        raise ConfigError(f"{owner}: expected an initialised module, got lazy parameters. Call it once before.")
    if not inputs or not all(isinstance(x, Tensor) for x in inputs):
        kinds = ", ".join(type(x).__name__ for x in inputs)
        got = f"({kinds})" if isinstance(example, tuple) else kinds
        raise ShapeError(f"{owner}: expected example to be a tensor or a tuple of tensors, got {got}. Convert it.")
    if any(x.dim() == 0 or len(x) == 0 or len(x) != len(inputs[0]) for x in inputs):
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise ShapeError(
            f"{owner}: expected example of shape (batch, ...), the batch alike in all tensors, got {shapes}. Wrap the "
            "module in one that holds what has no batch."
        )
    devices = {tensor.device for tensor in tensors}
    if devices and inputs[0].device not in devices:
        where = min(map(str, devices))
        raise ShapeError(
            f"{owner}: expected example on {where}, where the module is, got {inputs[0].device}. Move one."
        )
    return inputs


def _findings(trial: Trial) -> Iterator[Finding]:
    again = _run_again(trial)
    yield from (again, _input_kept(trial), _output_memory(trial), _finite_output(trial), _parameters(trial))
    if again.verdict != FATAL:
        yield _buffers(trial)
        yield from (_measured(trial, change) for change in CHANGES)
        return
    for name in ("buffers", *(change.name for change in CHANGES)):
        yield Finding(name, NOT_RUN, NONE, NONE, "no two runs are alike")


def _run_again(trial: Trial) -> Finding:
    if trial.repeated == EQUAL:
        return Finding("run again", SAME)
    parameters, attributes = trial.names("parameter"), trial.names("attribute")
    text = (
        "It depends on something that changes between calls. On CUDA try torch.use_deterministic_algorithms(True) and "
        "torch.backends.cudnn.benchmark = False."
    )
    if trial.initialised and not parameters:
        text = (
            f"The first call, which sets {_listed(trial.initialised)}, gives other bits. Call it once before training."
        )
    elif trial.drawn_from:
        text = f"It draws from {_listed(trial.drawn_from)}, which nobody restores. Draw from torch's default generator."
    elif parameters or attributes:
        text = f"It changes {_listed(parameters or attributes)} in every call. Let forward read only, or use a buffer."
    certain = trial.drawn_from or trial.repeated[1] > trial.tolerance
    return Finding("run again", FATAL if certain else DIFFERS, *trial.repeated, text)


def _input_kept(trial: Trial) -> Finding:
    text = "It changes its input in place. Give its first layer inplace=False, or begin its forward with x = x.clone()."
    return Finding("input kept", FATAL, NONE, NONE, text) if trial.modified else Finding("input kept", SAME)


def _output_memory(trial: Trial) -> Finding:
    text = "The output is the input's memory: do not change one of them in place, or return a clone."
    return Finding("output memory", SAME, explanation=text if trial.shares else "")


def _finite_output(trial: Trial) -> Finding:
    lost, total = sum(int((~x.isfinite()).sum()) for x in trial.outputs), sum(x.numel() for x in trial.outputs)
    text = f"{lost} of {total} numbers of the output are NaN or infinite, which no inverse undoes. Bound its output."
    return Finding("finite output", FATAL, NONE, NONE, text) if lost else Finding("finite output", SAME)


def _parameters(trial: Trial) -> Finding:
    changed, first = trial.names("parameter"), _listed(trial.initialised)
    if changed:
        text = f"Every call changes {_listed(changed)}, which the strategies refuse. Change it outside of forward."
        return Finding("parameters", FATAL, NONE, NONE, text)
    text = f"The first call sets {first}; the strategies run it again with what it has set."
    return Finding("parameters", RESTORED, NONE, NONE, text) if first else Finding("parameters", SAME)


def _buffers(trial: Trial) -> Finding:
    moved = trial.names("buffer")
    if not moved:
        return Finding("buffers", SAME)
    trial.run()
    figures = trial.compared(keep=trial.hidden)
    if figures != EQUAL:
        text = (
            f"The output depends on {_listed(sorted(trial.hidden))}, changed where the strategies do not see it. "
            "Change it in place under torch.no_grad(), not through .data."
        )
        return Finding("buffers", FATAL if figures[1] > trial.tolerance else DIFFERS, *figures, text)
    trial.run()
    figures = trial.compared(keep=moved)
    how = "the output does not depend on it" if figures == EQUAL else "the recomputation runs with the values before"
    return Finding("buffers", RESTORED, *figures, f"Every call changes {_listed(moved)}; {how}.")


def _measured(trial: Trial, change: Change) -> Finding:
    training = change.when == TRAINING
    try:
        # Warnings of the module's own came in its first call.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            figures = change.measure(trial)
    except Exception as error:
        figures = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        if training:
            return Finding(change.name, FATAL, NONE, NONE, f"It raises {figures}")
    if isinstance(figures, str):
        return Finding(change.name, NOT_RUN, NONE, NONE, figures, training)
    if figures == EQUAL:
        return Finding(change.name, SAME, in_training=training)
    fatal = training and figures[1] > trial.tolerance
    verdict = RESTORED if change.when == RESTORED else FATAL if fatal else DIFFERS
    return Finding(change.name, verdict, *figures, change.remedy, training)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
