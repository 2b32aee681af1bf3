"""The sections of an audit one after the other: clocked, surviving their errors, telling how far they are."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from invertible.stability.summaries import BROKEN, DONE, INTERRUPTED, UNSUITED, SectionRecord


@runtime_checkable
class Progress(Protocol):
    """What an audit tells about itself while it runs."""

    def __call__(self, section: str, detail: str, done: int, total: int) -> Any:  # noqa: ANN401
        """Called before each piece of work.

        Args:
            section: such as `round trips`.
            detail: what comes next in it, such as the name of a set; may be empty.
            done: pieces of work that are done.
            total: of so many.
        """
        ...


class UnsuitedError(Exception):
    """There is nothing that a section could measure on this model."""


class AuditInterrupted(KeyboardInterrupt):
    """An audit was stopped.

    Args:
        record: what was measured until then.
    """

    def __init__(self, record: Any) -> None:  # noqa: ANN401
        super().__init__("interrupted")
        self.record = record


def silent(section: str, detail: str, done: int, total: int) -> None:
    """Tell nobody."""


class Sections:
    """Clocks sections and keeps their records.

    Args:
        progress: who is told.
        total: number of pieces of work in all.
    """

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total = progress, total
        self.records: list[SectionRecord] = []
        self._name, self._done = "", -1

    @contextmanager
    def run(self, name: str, *, survives: bool = True) -> Iterator[None]:
        """Run the body as a section; an error of the model is recorded, and goes no further if it `survives`."""
        self._name, began = name, time.monotonic()
        status, message = DONE, ""
        try:
            yield
        except UnsuitedError as reason:
            status, message = UNSUITED, str(reason)
        except KeyboardInterrupt:
            status = INTERRUPTED
            raise
        except Exception as error:
            status, message = BROKEN, one_line(error)
            if not survives:
                raise
        finally:
            self.records.append(SectionRecord(name, status, time.monotonic() - began, message))

    def tell(self, detail: str = "", *, finished: bool = True) -> None:
        """Say which piece of work begins; `finished` is the one before."""
        self._done += finished
        self.progress(self._name, detail, min(self._done, self.total), self.total)


def one_line(error: BaseException) -> str:
    """The class of an error and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
