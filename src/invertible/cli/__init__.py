"""The command line: `invertible COMMAND`.

Exit status: 0 done, 1 a check failed, 2 wrong use, 128 + n ended by signal n.
"""

import signal
import sys
import traceback
from collections.abc import Sequence

from invertible.errors import ConvergenceError, InvertibleError, NotInvertibleError, require

FAILED, WRONG_USE = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: what was typed after `invertible`; `sys.argv[1:]` if `None`.

    Returns:
        The exit status. Errors are one line on stderr; `--debug` adds the traceback.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    # The flag may stand anywhere; typer itself would take it before the command only.
    arguments = [each for each in arguments if each != "--debug"] or ["--help"]
    try:
        require("typer", "cli")
        require("rich", "cli")
        from invertible.cli.app import app

        status = app(arguments, prog_name="invertible", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except KeyboardInterrupt:
        return _fail("interrupted", 128 + signal.SIGINT, debug=debug)
    except Exception as error:
        status = _status(error)
        if status is None:
            raise
        return _fail(_message(error), status, debug=debug)


def _status(error: Exception) -> int | None:
    """The exit status of an expected error, `None` for a bug, whose traceback is shown."""
    if isinstance(error, NotInvertibleError | ConvergenceError):
        return FAILED
    if isinstance(error, InvertibleError):
        return FAILED if isinstance(error, ArithmeticError) else WRONG_USE
    if isinstance(error, OSError):
        return WRONG_USE
    # Typer's own errors of usage; their class has moved between its versions.
    return WRONG_USE if hasattr(error, "format_message") else None


def _message(error: Exception) -> str:
    explain = getattr(error, "format_message", None)
    if explain is not None:
        return f"{explain()} ('invertible --help' and 'invertible COMMAND --help' show how.)"
    return str(error)


def _fail(message: str, status: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status
