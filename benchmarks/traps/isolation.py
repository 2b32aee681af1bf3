"""One process a cell of the table, for some competitors crash, hang, or leave PyTorch in disorder."""

import multiprocessing
import os
import signal
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from traps.subject import NotApplicableError, Subject, WrongError

OK, REFUSE, WRONG, CRASH, INFO, NONE = "ok", "refuse", "**WRONG**", "**CRASH**", "info", "-"
PATIENCE = 300.0  # seconds


@dataclass(frozen=True)
class Verdict:
    """What became of a trap.

    Attributes:
        word: one of the words above.
        reason: a line.
        details: where an error came from.
    """

    word: str
    reason: str = ""
    details: str = ""


def judge(trap: Callable[[Subject], str | None], subject: Subject) -> Verdict:
    """Spring the trap in this process."""
    try:
        said = trap(subject)
    except WrongError as error:
        return Verdict(WRONG, str(error))
    except NotApplicableError as error:
        return Verdict(NONE, str(error))
    except TimeoutError as error:
        return Verdict(CRASH, str(error))
    except Exception as error:
        first = (str(error).strip() or "no message").splitlines()[0]
        return Verdict(REFUSE, f"{type(error).__name__}: {first}", traceback.format_exc())
    return Verdict(INFO, said) if said else Verdict(OK)


def _child(trap: Callable, subject: Subject, answer) -> None:
    os.setsid()  # so that what it starts can be ended with it
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    warnings.simplefilter("ignore")
    answer.send(judge(trap, subject))


def judge_apart(trap: Callable[[Subject], str | None], subject: Subject) -> Verdict:
    """Spring the trap in a process of its own, forked from this one, which must not have computed anything yet."""
    fork = multiprocessing.get_context("fork")
    answer, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=_child, args=(trap, subject, theirs))
    process.start()
    theirs.close()
    try:
        verdict = answer.recv() if answer.poll(PATIENCE) else Verdict(CRASH, f"no answer within {PATIENCE:.0f} seconds")
    except EOFError:
        process.join()
        code = -(process.exitcode or 0)
        name = signal.Signals(code).name if code > 0 else f"exit status {process.exitcode}"
        return Verdict(CRASH, name)
    if process.is_alive() and verdict.word == CRASH:
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    return verdict
