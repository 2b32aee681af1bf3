"""Runs measured one after another or several at a time, each in a process of its own, and kept as they end."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from invertible.errors import InvertibleError
from invertible.reproduce.experiment import Experiment, Found, Progress, Run
from invertible.reproduce.results import Results


@dataclass(frozen=True)
class Task:
    """A run of an experiment."""

    experiment: Experiment
    run: Run

    def __str__(self) -> str:
        return f"{self.experiment.name}: {self.run.name}"


class RunFailedError(InvertibleError, RuntimeError):
    """A run ended without a result."""


# Told the task and the part of it that is done, 1 at its end.
Listener = Callable[[Task, float], None]


def measure_all(
    tasks: Sequence[Task], results: Results, *, jobs: int, listen: Listener = lambda task, part: None
) -> None:
    """Measure the tasks and keep their results.

    Every run computes on one thread, so that results do not depend on how many there are at a time. Runs that measure
    time come last, one by one.

    Args:
        tasks: whose results are not there.
        results: where they are kept.
        jobs: processes at a time; with one, and for runs that measure time, it is this one.
        listen: is told of progress.

    Raises:
        RunFailedError: if a process ends without a result; what others had measured is kept.
    """
    together = [task for task in tasks if not task.experiment.alone and jobs > 1]
    if together:
        _side_by_side(together, results, jobs, listen)
    for task in tasks:
        if task not in together:
            with one_thread():
                measure_one(task, results, lambda part, task=task: listen(task, part))
            listen(task, 1.0)


def measure_one(task: Task, results: Results, progress: Progress) -> Found:
    """Measure a run here and keep its result; progress ends below 1, for to be done is to be kept."""
    # On a CPU of this process: what others take of a core does not count.
    clock = time.process_time if torch.device(results.device).type == "cpu" else time.perf_counter
    started = clock()
    with torch.random.fork_rng(devices=_cuda(results.device)), whole_float32():
        measured = task.experiment.measure(task.run.config, results.device, lambda part: progress(min(part, 0.999)))
    return results.keep(task.experiment, task.run, measured, clock() - started)


def _cuda(device: str) -> list[torch.device]:
    where = torch.device(device)
    return [where] if where.type == "cuda" else []


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch computes on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def whole_float32() -> Iterator[None]:
    """Within it a GPU convolves in float32: by default it rounds what it multiplies to the 10 bits of TF32."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(cudnn.enabled, cudnn.benchmark, cudnn.benchmark_limit, cudnn.deterministic, allow_tf32=False):
        yield


def _side_by_side(tasks: Sequence[Task], results: Results, jobs: int, listen: Listener) -> None:
    context = multiprocessing.get_context("spawn")
    waiting = list(tasks)
    running: dict[Any, tuple[Task, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                task = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(task, results, theirs), daemon=True)
                process.start()
                theirs.close()
                running[ours] = (task, process)
                listen(task, 0.0)
            for ours in wait(list(running)):
                task, process = running[ours]
                if _heard(ours, task, process, listen):
                    process.join()
                    del running[ours]
    finally:
        for _, process in running.values():
            process.kill()
            process.join()


def _heard(ours: Any, task: Task, process: BaseProcess, listen: Listener) -> bool:  # noqa: ANN401
    """Pass a message on; whether it was the last."""
    try:
        message = ours.recv()
    except EOFError:
        process.join()
        raise RunFailedError(
            f"{task}: expected a result, but its process ended with status {process.exitcode}, as one does that is "
            "killed for memory. Run it again with --jobs 1; what is measured is kept."
        ) from None
    if isinstance(message, BaseException):
        raise message
    listen(task, message)
    return message == 1.0


def _work(task: Task, results: Results, theirs: Connection) -> None:
    # Ctrl-C reaches all processes of a terminal; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        torch.set_num_threads(1)
        measure_one(task, results, theirs.send)
        theirs.send(1.0)
    except Exception as error:
        theirs.send(_portable(error, task))


def _portable(error: Exception, task: Task) -> Exception:
    """An exception that another process can read."""
    text = f"{task}: {type(error).__name__}: {error}"
    return error if isinstance(error, InvertibleError) else RunFailedError(text)
