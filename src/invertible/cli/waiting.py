"""A bar for what takes longer than a person waits without one."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from invertible.cli.output import console

PATIENCE = 2.0


@contextmanager
def progress_bar(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of samples that are done since the last call.

    After two seconds a bar on a terminal shows how many are done, the rate, and the time left.

    Args:
        total: samples in all.
        what: the samples, as in `"images"`.
    """
    screen, started, done = console(stderr=True), time.monotonic(), 0
    columns = [TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")]
    bar = Progress(*columns, TimeRemainingColumn(), console=screen, transient=True)
    task: TaskID | None = None

    def advance(count: int) -> None:
        nonlocal done, task
        done += count
        seconds = time.monotonic() - started
        rate = f"{done / max(seconds, 1e-9):.{0 if done >= 10 * seconds else 1}f} {what}/s"
        if task is None and screen.is_terminal and seconds > PATIENCE:
            bar.start()
            task = bar.add_task(what, total=total, rate=rate)
        if task is not None:
            bar.update(task, completed=done, rate=rate)

    try:
        yield advance
    finally:
        if task is not None:
            bar.stop()


def with_progress(batches: Iterable[Tensor], total: int, what: str) -> Iterator[Tensor]:
    """Hand batches on, with a `progress_bar`.

    Args:
        batches: tensors (B, ...).
        total: samples in all of them.
        what: the samples, as in `"images"`.
    """
    with progress_bar(total, what) as advance:
        for batch in batches:
            yield batch
            advance(len(batch))
