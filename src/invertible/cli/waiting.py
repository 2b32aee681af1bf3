"""A bar for what takes longer than a person waits without one."""

import time
from collections.abc import Iterable, Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from invertible.cli.output import console

PATIENCE = 2.0


def with_progress(batches: Iterable[Tensor], total: int, what: str) -> Iterator[Tensor]:
    """Hand batches on; after two seconds show on a terminal how many samples are done, the rate, and the time left.

    Args:
        batches: tensors (B, ...).
        total: samples in all of them.
        what: the samples, as in `"images"`.
    """
    screen, started, done = console(stderr=True), time.monotonic(), 0
    columns = [TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")]
    bar = Progress(*columns, TimeRemainingColumn(), console=screen, transient=True)
    task: TaskID | None = None
    try:
        for batch in batches:
            yield batch
            done += len(batch)
            seconds = time.monotonic() - started
            rate = f"{done / max(seconds, 1e-9):.0f} {what}/s"
            if task is None and screen.is_terminal and seconds > PATIENCE:
                bar.start()
                task = bar.add_task(what, total=total, rate=rate)
            if task is not None:
                bar.update(task, completed=done, rate=rate)
    finally:
        if task is not None:
            bar.stop()
