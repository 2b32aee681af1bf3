"""Whether a network gives the same bits when it is run again, and what its bits depend on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from invertible.errors import ConfigError, ShapeError
from invertible.memory.changes import CHANGES, RESTORED, TRAINING, Change
from invertible.memory.rerun import EQUAL, Tensors, Trial

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
        text = f"The first call, which sets {_listed(trial.initialised)}, gives other bits. Call it once beforehand."
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
