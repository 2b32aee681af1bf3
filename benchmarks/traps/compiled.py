"""torch.compile."""

import torch
import torch._dynamo
import torch._inductor.config

from invertible.reproduce.allocations import live_bytes
from traps.subject import Setup, Subject, Tensors, Trial

EAGER = {"backend": "aot_eager"}  # traces all, compiles nothing: quick


def _agree(subject: Subject, *, tolerance: float = 1e-8, **options) -> None:
    def compiled(trial: Trial) -> Tensors:
        trial.model = torch.compile(trial.model, **options)
        return trial.step()

    subject.agree(compiled, tolerance=tolerance, truth=Trial.step)


def compile_default(subject: Subject) -> None:
    """With graph breaks where need be."""
    _agree(subject, **EAGER)


def compile_fullgraph(subject: Subject) -> None:
    """fullgraph=True, which allows none."""
    _agree(subject, fullgraph=True, **EAGER)


def compile_fullgraph_traceops(subject: Subject) -> None:
    """The same, with calls of torch.autograd.grad traced too."""
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        _agree(subject, fullgraph=True, **EAGER)


def compile_inductor(subject: Subject) -> None:
    """The default backend."""
    with torch._inductor.config.patch(compile_threads=1):
        _agree(subject, tolerance=1e-6)


def compile_keeps_saving(subject: Subject) -> str:
    """What is held between the passes, eager and compiled."""
    held = []
    for compiled in (False, True):
        trial = subject.trial(Setup(blocks=8))
        model = torch.compile(trial.model, **EAGER) if compiled else trial.model
        trial.loss(model(trial.hidden())).backward()
        found = live_bytes(
            lambda trial=trial, model=model: trial.loss(model(trial.hidden())), lambda loss: loss.backward()
        )
        held.append(found.held / 1024)
    return f"{held[0]:.0f} KiB held eager, {held[1]:.0f} KiB compiled"


ROWS = {
    f.__name__: f
    for f in (compile_default, compile_fullgraph, compile_keeps_saving, compile_fullgraph_traceops, compile_inductor)
}
