"""Ctrl-C and SIGTERM as requests, met at the end of a step."""

import signal
import threading
from types import FrameType

from invertible.errors import InvertibleError


class InterruptedRunError(InvertibleError):
    """Raised inside a run, after its checkpoint was written, to end it on a signal.

    Args:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"training: interrupted by {signal.Signals(number).name}.")
        self.number = number


class StopRequest:
    """Within `with`, the first SIGINT or SIGTERM is noted in `number`; the second one raises `KeyboardInterrupt`.

    Outside the main thread, where Python allows no handlers, it does nothing.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._handle) for each in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            # A handler set by C code reads as None and cannot be put back.
            signal.signal(each, signal.SIG_DFL if handler is None else handler)  # pyright: ignore[reportArgumentType]
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = int(number)
