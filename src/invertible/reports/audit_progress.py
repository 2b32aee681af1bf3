"""How far an audit is: a bar on a terminal or in a notebook, nothing elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from invertible.errors import MissingDependencyError, require
from invertible.stability.sections import Progress, silent


@contextmanager
def audit_progress(*, progress: bool | Progress = True, console: Any = None) -> Iterator[Progress]:  # noqa: ANN401
    """Whom an audit tells about itself for the while; to be handed to `stability.audit` as its `progress`.

    Args:
        progress: `True` for a bar, where rich is installed and a person can see it; or whom to tell.
        console: rich's console to draw the bar on; one for stderr if `None`.
    """
    if not isinstance(progress, bool):
        yield progress
        return
    bar = _bar(console) if progress else None
    if bar is None:
        yield silent
        return
    with bar:
        task = bar.add_task("audit", total=None)

        def show(section: str, detail: str, done: int, total: int) -> None:
            bar.update(task, description=f"{section}: {detail}" if detail else section, completed=done, total=total)

        yield show


def _bar(console: Any) -> Any:  # noqa: ANN401
    try:
        rich = require("rich.progress", "cli")
    except MissingDependencyError:
        return None
    console = console or require("rich.console", "cli").Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        return None
    columns = [rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn()]
    return rich.Progress(*columns, rich.TimeElapsedColumn(), console=console, transient=True)
