"""Which ways of saving memory give silently wrong gradients, and which refuse what plain autograd does?

python benchmarks/memory_traps.py [--only NAME ...] [--rows TRAP ...] [--quick] [--warm]

Every trap is a use that autograd with stored activations takes for granted, or refuses for good reason; outputs and
gradients are compared with it, in float64 but where bfloat16 or rounding is the matter. `traps/` holds one function a
row. Every cell runs in a process of its own, by fork: Linux or macOS. Exit status 1 if this library is silently wrong
anywhere, crashes, or refuses what plain autograd accepts, beyond what `ACCEPTED` names.
"""

import os
import sys
import warnings
from collections import Counter

import _record
import chains
import torch
import torch._dynamo
import traps
from traps.isolation import CRASH, INFO, NONE, OK, REFUSE, WRONG, Verdict, judge_apart
from traps.subject import Subject

LEFT_OUT = ("store", "reversible_bare", "exact_store", "budget")  # not another way of saving memory
QUICK_ROWS = ("compile_inductor",)  # what a quick look does without, and DDP
OURS, RAISING = frozenset(name for name, c in chains.COMPETITORS.items() if c.is_ours), frozenset({"reversible_raise"})
EXPLODING = ("explode_additive", "explode_affine_shrink", "explode_affine_grow", "explode_affine_mild")
# Where this library may refuse what plain autograd accepts: hooks on saved tensors are no part of one compiled graph,
# and who asks for an error when an inverse loses digits shall have it.
ACCEPTED = {"compile_fullgraph": OURS, "compile_fullgraph_traceops": OURS} | dict.fromkeys(EXPLODING, RAISING)
TITLE = "Traps for constant-memory training: {rows} uses of a chain, {columns} ways of keeping its activations"
LEGEND = (
    "ok: as with stored activations. refuse: raises an error. WRONG: silently other outputs, gradients, buffers or "
    "random numbers. CRASH: the process ends. info: a figure, below. -: no such block."
)
Table = dict[str, dict[str, Verdict]]


def competitors(names: list[str]) -> tuple[list[str], dict[str, str]]:
    """Those that can be built here, and the reasons for the others. Nothing is computed in this process."""
    found, skipped = [], {}
    for name in names:
        try:
            if chains.build(name, chains.nets.make_pairs(1, 2, chains.nets.smooth)) is None:
                raise ImportError("it has no additive block")
            found.append(name)
        except ImportError as error:
            skipped[name] = f"not installed ({error}); see README.md"
        except Exception as error:
            skipped[name] = f"{type(error).__name__}: {error}"
    return found, skipped


def run(rows: list[str], names: list[str], *, warm: bool, verbose: bool) -> Table:
    """Verdicts by trap and competitor."""
    table: Table = {}
    for row in rows:
        table[row] = {name: judge_apart(traps.ROWS[row], Subject(name, warm)) for name in names}
        print(f"{row}: " + ", ".join(f"{name} {verdict.word}" for name, verdict in table[row].items()), flush=True)
        for name, verdict in table[row].items():
            if verbose and verdict.details and name in OURS:
                print(f"  {name}:\n{verdict.details}")
    return table


def failures(table: Table) -> list[str]:
    """Where this library is wrong, crashes, or refuses without leave."""
    found = []
    for row, verdicts in table.items():
        plain = verdicts[chains.PLAIN].word
        for name, verdict in verdicts.items():
            if name not in OURS:
                continue
            refuses = verdict.word == REFUSE and plain != REFUSE and name not in ACCEPTED.get(row, ())
            if refuses or verdict.word in (WRONG, CRASH):
                found.append(f"{row}, {name}: {verdict.word} {verdict.reason}")
    return found


def page(table: Table, names: list[str], skipped: dict[str, str], failed: list[str]) -> str:
    """Table, counts, reasons and notes."""
    rows = [[row, *(verdicts[name].word for name in names)] for row, verdicts in table.items()]
    words = (OK, REFUSE, WRONG, CRASH, INFO, NONE)
    counts = {name: Counter(verdicts[name].word for verdicts in table.values()) for name in names}
    totals = [[word, *(counts[name][word] for name in names)] for word in words]
    reasons = [
        f"- {row}, {name}: {verdict.word} {verdict.reason}"
        for row, verdicts in table.items()
        for name, verdict in verdicts.items()
        if verdict.reason and verdict.word != NONE
    ]
    notes = [f"- {name}: {note}." for name in names if (note := chains.COMPETITORS[name].note)]
    notes += [f"- {name} was left out: {reason}" for name, reason in skipped.items()]
    decided = [f"- MISSED: {line}" for line in failed] or ["- this library: passed"] * bool(OURS & set(names))
    parts = [
        LEGEND,
        _record.table(["trap", *names], rows),
        "## How often\n\n" + _record.table(["", *names], totals),
        "\n".join(notes),
        "\n".join(decided),
        "## Reasons and figures\n\n" + "\n".join(reasons),
    ]
    return "\n\n".join(parts)


def options() -> tuple:
    """The command line, with the competitors and the traps that take part."""
    parser = _record.parser(__doc__)
    choice = [name for name in chains.COMPETITORS if name not in LEFT_OUT]
    parser.add_argument("--only", nargs="+", choices=choice, default=choice, metavar="NAME", help=" ".join(choice))
    parser.add_argument("--rows", nargs="+", choices=list(traps.ROWS), default=list(traps.ROWS), metavar="TRAP")
    parser.add_argument("--quick", action="store_true", help="without DDP and the default compiler, and no peers")
    parser.add_argument("--warm", action="store_true", help="traps in the second step of a chain, not in its first")
    parser.add_argument("--verbose", action="store_true", help="with the tracebacks of this library's errors")
    given = parser.parse_args()
    names = [name for name in choice if name in (*given.only, chains.PLAIN)]
    rows = [row for row in traps.ROWS if row in given.rows]
    if given.quick:
        rows = [row for row in rows if row not in QUICK_ROWS and not row.startswith("ddp_")]
        names = [name for name in names if name in OURS or name == chains.PLAIN]
    return given, names, rows


def main() -> int:
    given, names, rows = options()
    if not hasattr(os, "fork"):
        print("memory_traps.py runs every trap in a forked process, which this system has none of.")
        return 2
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    names, skipped = competitors(names)
    table = run(rows, names, warm=given.warm, verbose=given.verbose)
    failed = failures(table)
    cells = {
        row: {name: [verdict.word.strip("*"), verdict.reason] for name, verdict in verdicts.items()}
        for row, verdicts in table.items()
    }
    record = {"environment": _record.environment(*chains.PACKAGES), "warm": given.warm, "traps": cells}
    record |= {"skipped": skipped, "missed": failed}
    title = TITLE.format(rows=len(rows), columns=len(names))
    _record.write(given.out, "memory-traps", title, page(table, names, skipped, failed), record)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
