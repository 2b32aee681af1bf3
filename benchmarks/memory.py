"""What does training with less memory cost? One chain at growing depth, under every strategy and other libraries.

python benchmarks/memory.py [--lengths 4 8 16 32 64 128] [--rounds 5] [--only NAME ...] [--quick]

Blocks y_1 = x_1 + F(x_2), y_2 = x_2 + G(y_1); F and G are conv3x3-BN-ReLU-conv3x3-BN on 16 channels, batch 16, images
of 32 x 32: one state of the chain is 2 MiB. The growth of memory and time with depth, fitted over the lengths, is
table 1 of the RevNet paper (Gomez et al. 2017), measured. L = 1000 takes 20 GB for what stores everything.

Exit status 1 if the default of constant memory misses a limit: 1.10 x the hand-written minimum in time, growth of
memory with a power of depth above 0.1, a gradient off by more than 1e-3.
"""

import statistics
import sys
import warnings

import _record
import chains
import torch
from _allocator import give_back, keep_warm
from _bracketed import bracketed
from _chain_step import ACTIVATION, BATCH, ChainStep, gradient_error
from _depth_figure import draw
from _growth import exponent

LENGTHS, QUICK = (4, 8, 16, 32, 64, 128), (4, 8, 16)
LIMITS = {"time": 1.10, "growth": 0.1, "gradient": 1e-3}
MEBIBYTE = 2**20
TITLE = "Memory and time of a chain of L reversible residual blocks, batch {batch}, one state of {state:.0f} MiB"
# Quantity, heading, and how a value is written.
TABLES = {
    "held": ("Held between forward and backward pass, MiB", lambda v: f"{v / MEBIBYTE:.1f}"),
    "backward_peak": ("Peak in the backward pass, MiB", lambda v: f"{v / MEBIBYTE:.1f}"),
    "ratio": ("Time of a step, × plain", lambda v: f"{v:.2f}"),
    "minimum_ratio": ("Time of a step, × hand_min", lambda v: f"{v:.2f}"),
    "gradient_error": ("Gradient in float32 against float64, relative error over all parameters", lambda v: f"{v:.1e}"),
    "worst_angle_degrees": ("The same, worst angle of a convolution's weight, degrees", lambda v: f"{v:.1e}"),
}
GROWTH = {"held": "held", "backward_peak": "peak", "seconds": "time"}
Figures = dict[str, dict[int, dict[str, float]]]


def prepare(names: list[str], length: int, skipped: dict[str, str]) -> tuple[dict[str, ChainStep], dict]:
    """Steps ready for timing, with their memory and gradient errors; reasons for those that cannot be had."""
    steps, found = {}, {}
    for name in names:
        try:
            step = ChainStep(name, length)
            found[name] = step.bytes()
            give_back()
            found[name] |= gradient_error(name, length)
        except ImportError as error:
            skipped[name] = f"not installed ({error}); see README.md"
        except Exception as error:  # one competitor's failure must not hide the rest
            skipped[name] = f"{type(error).__name__} at L = {length}: {str(error).splitlines()[0]}"
        else:
            steps[name] = step
        give_back()
    return steps, found


def measure(names: list[str], length: int, rounds: int, skipped: dict[str, str]) -> tuple[dict, float]:
    """Figures of every competitor at one length, and the machine's ideal time: 1 + forward / stored step."""
    steps, found = prepare(names, length, skipped)
    plain, minimum = chains.PLAIN, chains.MINIMUM
    times = bracketed({**steps, "forward": steps[plain].evaluate}, (plain, minimum), rounds)
    for name in steps:
        # Of the same pace for all: the median of the ratios on the median of the reference.
        found[name]["seconds"] = times[name].ratio(plain) * statistics.median(times[plain].seconds)
        found[name]["ratio"], found[name]["minimum_ratio"] = times[name].ratio(plain), times[name].ratio(minimum)
        found[name]["ratio_range"] = [min(times[name].ratios[plain]), max(times[name].ratios[plain])]
    return found, 1 + times["forward"].ratio(plain)


def growth(figures: Figures) -> dict[str, dict[str, float]]:
    """Exponents of depth for every competitor."""
    return {
        name: {key: exponent(list(by_length), [entry[key] for entry in by_length.values()]) for key in GROWTH}
        for name, by_length in figures.items()
    }


def verdicts(figures: Figures, exponents: dict[str, dict[str, float]]) -> list[dict]:
    """The guarded default against the limits."""
    if chains.GUARDED not in figures:
        return []
    entries, powers = figures[chains.GUARDED].values(), exponents[chains.GUARDED]
    checks = {
        "time, × hand_min, median over L": (statistics.median(e["minimum_ratio"] for e in entries), LIMITS["time"]),
        "exponent of memory held": (powers["held"], LIMITS["growth"]),
        "exponent of the peak": (powers["backward_peak"], LIMITS["growth"]),
        "largest gradient error": (max(e["gradient_error"] for e in entries), LIMITS["gradient"]),
    }
    return [
        {"quantity": words, "value": value, "limit": limit, "passed": bool(value <= limit)}
        for words, (value, limit) in checks.items()
    ]


def page(figures: Figures, ideal: dict[int, float], exponents: dict, skipped: dict[str, str], verdict: list) -> str:
    """Tables, notes and verdicts."""
    parts = []
    for key, (heading, written) in TABLES.items():
        rows = [
            [name, *(written(by_length[n][key]) if n in by_length else "-" for n in ideal)]
            for name, by_length in figures.items()
        ]
        if key == "ratio":
            rows.append(["the machine's ideal", *(f"{value:.2f}" for value in ideal.values())])
        parts.append(f"## {heading}\n\n" + _record.table(["", *(f"L = {n}" for n in ideal)], rows))
    header = ["", *(f"{words}, measured" for words in GROWTH.values()), "memory, time in theory"]
    rows = [
        [name, *(f"L^{powers[key]:.2f}" for key in GROWTH), chains.COMPETITORS[name].growth]
        for name, powers in exponents.items()
    ]
    parts.append("## Growth with depth\n\n" + _record.table(header, rows))
    notes = [f"- {name}: {note}." for name in figures if (note := chains.COMPETITORS[name].note)]
    notes.append("- the machine's ideal: 1 + forward pass without grad / plain step.")
    notes += [f"- {name} was left out: {reason}" for name, reason in skipped.items()]
    decided = [
        f"- {v['quantity']}: {v['value']:.3g}, limit {v['limit']:g}: {'passed' if v['passed'] else 'MISSED'}"
        for v in verdict
    ]
    return "\n\n".join([*parts, "\n".join(notes), "\n".join(decided)])


def options() -> tuple:
    """The command line, and the competitors that take part."""
    parser = _record.parser(__doc__)
    parser.add_argument("--lengths", nargs="+", type=int, default=None, metavar="L")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--only", nargs="+", default=None, metavar="NAME", help=" ".join(chains.COMPETITORS))
    parser.add_argument("--quick", action="store_true", help="short chains, two rounds, for a look")
    given = parser.parse_args()
    given.lengths = sorted(given.lengths or (QUICK if given.quick else LENGTHS))
    given.rounds = given.rounds or (2 if given.quick else 5)
    unknown = set(given.only or ()) - set(chains.COMPETITORS)
    if unknown:
        parser.error(f"expected names among {', '.join(chains.COMPETITORS)}, got {', '.join(sorted(unknown))}")
    wanted = {*(given.only or chains.COMPETITORS), chains.PLAIN, chains.MINIMUM}
    return given, [name for name in chains.COMPETITORS if name in wanted]


def main() -> int:
    given, names = options()
    keep_warm()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    figures: Figures = {}
    ideal, skipped = {}, {}
    for length in given.lengths:
        found, ideal[length] = measure([n for n in names if n not in skipped], length, given.rounds, skipped)
        for name, entry in found.items():
            figures.setdefault(name, {})[length] = entry
    exponents = growth(figures)
    verdict = verdicts(figures, exponents)
    record = {"environment": _record.environment(*chains.PACKAGES), "rounds": given.rounds, "chains": figures}
    record |= {"ideal": ideal, "growth": exponents, "skipped": skipped, "limits": LIMITS, "verdicts": verdict}
    title = TITLE.format(batch=BATCH, state=ACTIVATION / MEBIBYTE)
    _record.write(given.out, "memory", title, page(figures, ideal, exponents, skipped, verdict), record)
    draw(figures, _record.path(given.out, "memory", record).with_suffix(".png"))
    return 0 if all(entry["passed"] for entry in verdict) else 1


if __name__ == "__main__":
    sys.exit(main())
