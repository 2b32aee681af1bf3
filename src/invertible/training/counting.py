"""Progress of work that counts files: a bar on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Told = Callable[[int, int, str], object]


@contextmanager
def counting(console: Console, *, quiet: bool = False) -> Iterator[Told]:
    """A function of files done, files in all (0 if not known yet) and the file at hand, which shows them.

    The bar comes with its first call.

    Args:
        console: where to; only a terminal gets a bar.
        quiet: show nothing.
    """
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    bar = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
    task = bar.add_task("", total=None)

    def told(done: int, total: int, name: str) -> None:
        bar.start()
        bar.update(task, completed=done, total=total or None, description=name)

    try:
        yield told
    finally:
        bar.stop()
