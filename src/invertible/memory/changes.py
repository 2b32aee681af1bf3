"""What may change between a forward pass and its recomputation, each brought about on purpose."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from invertible.memory.rerun import Figures, Prepare, Trial, difference

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
        "Inverses run without grad, where it takes other kernels or another path. "
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
