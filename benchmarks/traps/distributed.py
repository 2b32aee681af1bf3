"""DistributedDataParallel on two processes."""

import datetime
import multiprocessing
import os
import tempfile
import traceback
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from traps.subject import BATCH, Setup, Subject, Tensors, Trial, compare, named

RANKS = 2
PATIENCE = datetime.timedelta(seconds=20)  # of a rank with one that has failed
LOCAL = BATCH // RANKS


def _half(trial: Trial, rank: int) -> tuple[Tensor, Tensor]:
    rows = slice(rank * LOCAL, (rank + 1) * LOCAL)
    return trial.hidden()[rows], trial.weights[rows]


def _accumulate(model, trial: Trial, rank: int, *, steps: int, no_sync: bool) -> None:
    """Gradients of `steps` half batches, scaled differently; with `no_sync`, added up and exchanged at the end."""
    for step in range(steps):
        if not no_sync:
            for parameter in trial.parameters():
                parameter.grad = None
        x, weights = _half(trial, rank)
        silent = no_sync and step < steps - 1 and hasattr(model, "no_sync")
        with model.no_sync() if silent else nullcontext():
            (model(x * (step + 1)) * weights).sum().backward()


def _rank(subject: Subject, rank: int, folder: str, steps: int, no_sync: bool, options: dict) -> None:
    torch.set_num_threads(1)
    try:
        where = {"init_method": f"file://{folder}/store", "rank": rank, "world_size": RANKS}
        distributed.init_process_group("gloo", timeout=PATIENCE, **where)
        trial = subject.trial(Setup())
        model = DistributedDataParallel(trial.model, **options)
        _accumulate(model, trial, rank, steps=steps, no_sync=no_sync)
        torch.save([parameter.grad for parameter in trial.parameters()], f"{folder}/{rank}.pt")
        distributed.barrier()
        os._exit(0)  # leaving the group in order can wait for a rank that has gone
    except Exception as error:
        Path(folder, f"{rank}.txt").write_text(f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}")


def _expected(subject: Subject, steps: int, no_sync: bool) -> list[Tensor]:
    total: list[Tensor] = []
    for rank in range(RANKS):
        trial = subject.true(Setup())
        _accumulate(trial.model, trial, rank, steps=steps, no_sync=no_sync)
        grads = [parameter.grad / RANKS for parameter in trial.parameters()]
        total = [a + b for a, b in zip(total, grads, strict=True)] if total else grads
    return total


def _run(ranks: list) -> None:
    """Run the processes to their end; one that crashes takes this process with it, after the others."""
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(2 * PATIENCE.total_seconds())
    hanging = [process for process in ranks if process.is_alive()]
    for process in hanging:
        process.kill()
        process.join()
    for process in ranks:
        if process not in hanging and process.exitcode < 0:
            os.kill(os.getpid(), -process.exitcode)
    if hanging:
        raise TimeoutError("a rank waits for ever")


def _agree(subject: Subject, *, steps: int = 1, no_sync: bool = False, **options) -> None:
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        arguments = [(subject, rank, folder, steps, no_sync, options) for rank in range(RANKS)]
        ranks = [fork.Process(target=_rank, args=each) for each in arguments]
        _run(ranks)
        for rank in range(RANKS):
            failure = Path(folder, f"{rank}.txt")
            if failure.exists():
                raise RuntimeError(failure.read_text())
        found = [torch.load(f"{folder}/{rank}.pt") for rank in range(RANKS)]
    expected: Tensors = named("gradient of parameter", _expected(subject, steps, no_sync))
    for grads in found:
        compare(named("gradient of parameter", grads), expected, 1e-8)


def ddp_default(subject: Subject) -> None:
    """As it comes."""
    _agree(subject)


def ddp_find_unused(subject: Subject) -> None:
    """find_unused_parameters=True, which walks the graph."""
    _agree(subject, find_unused_parameters=True)


def ddp_static_graph(subject: Subject) -> None:
    """static_graph=True, which learns the order of gradients in the first of two steps."""
    _agree(subject, steps=2, static_graph=True)


def ddp_no_sync(subject: Subject) -> None:
    """Gradients of two half batches added up, exchanged once."""
    _agree(subject, steps=2, no_sync=True)


ROWS = {f.__name__: f for f in (ddp_default, ddp_find_unused, ddp_static_graph, ddp_no_sync)}
