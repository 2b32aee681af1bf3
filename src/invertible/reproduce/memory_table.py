"""The complexity table of activation memory and computation, measured on chains of growing depth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from invertible.reproduce.allocations import held_and_peak
from invertible.reproduce.chain_step import ChainStep, convolutional_chain, seconds
from invertible.reproduce.experiment import FULL, QUICK, Claim, Experiment, Found, Measurement, Progress, Run, Table
from invertible.reproduce.figures import BLUE, GREEN, MUTED, ORANGE, RED, new_figure
from invertible.reproduce.growth import exponent
from invertible.reproduce.wording import number

SETTINGS = {
    QUICK: {"batch": 4, "channels": 32, "size": 32, "rounds": 3},
    FULL: {"batch": 100, "channels": 32, "size": 32, "rounds": 5},
}
LENGTHS = {QUICK: (4, 8, 16, 32, 64, 128), FULL: (4, 8, 16, 32, 64, 128, 256)}
STRATEGIES = ("store", "checkpoint", "recursive", "reversible")
COLOURS = dict(zip(STRATEGIES, (RED, ORANGE, GREEN, BLUE), strict=True))
# Of n steps, two to a block: memory and computation as the table has them.
MEMORY: dict[str, Callable[[float], float]] = {
    "store": lambda n: n,
    "checkpoint": math.sqrt,
    "recursive": math.log2,
    "reversible": lambda n: 1.0,
}
WORK: dict[str, Callable[[float], float]] = {
    "store": lambda n: n,
    "checkpoint": lambda n: n,
    "recursive": lambda n: n * math.log2(n),
    "reversible": lambda n: n,
}
NAMES = {
    "store": "O(L), O(L)",
    "checkpoint": "O(√L), O(L)",
    "recursive": "O(log L), O(L log L)",
    "reversible": "O(1), O(L)",
}
# 0, log, root and linear are further than twice this apart over the lengths; of times, which are noisy.
WITHIN, WITHIN_TIME = 0.1, 0.15
# The peak of the longest chain over that of the shortest, where memory does not grow.
FLAT = 1.05
# An inverse evaluated apart from the graph would cost two forward passes more than storing.
PASSES = 2.0


class MemoryTable(Experiment):
    """Table 1 of Gomez et al. (2017)."""

    name = "memory-table"
    title = (
        "Activation memory grows as L, √L, log L and not at all with stored, checkpointed, recursively recomputed and "
        "reversible activations; only the recursion computes more than O(L)."
    )
    source = "Gomez et al. 2017, table 1"
    alone = True

    def departures(self, scale: str) -> Sequence[str]:
        """The table states orders and measures nothing."""
        sizes = SETTINGS[scale]
        return (
            "the table states orders of growth; here they are fitted over chains of "
            f"{LENGTHS[scale][0]} to {LENGTHS[scale][-1]} reversible residual blocks, each of two networks conv-BN-"
            f"ReLU-conv-BN, batch {sizes['batch']}, {sizes['channels']} channels of {sizes['size']} x {sizes['size']}",
            "recursion by the optimal schedule of Griewank and Walther with 1 + log2 states, in place of that of Chen "
            "et al.",
        )

    def runs(self, scale: str, seed: int) -> list[Run]:
        """A run for each depth."""
        return [Run(f"L = {n}", {**SETTINGS[scale], "length": n, "seed": seed}) for n in LENGTHS[scale]]

    def measure(self, config: Mapping[str, Any], device: str, progress: Progress) -> Measurement:
        """Bytes, evaluations and times of a step under every strategy, on the same weights."""
        torch.manual_seed(config["seed"])
        x = torch.randn(config["batch"], config["channels"], config["size"], config["size"]).to(device)
        chain = convolutional_chain(config["length"], config["channels"]).to(device)
        steps = {name: ChainStep(chain, x, name) for name in STRATEGIES}
        found: dict[str, dict[str, Any]] = {}
        parts = len(STRATEGIES) + config["rounds"]
        for done, (name, step) in enumerate(steps.items()):
            step()
            held, peak = held_and_peak(step.forward, device)
            found[name] = {"held": held, "peak": peak, "evaluations": step.evaluations(), "seconds": []}
            progress((done + 1) / parts)
        forward = []
        for turn in range(config["rounds"]):
            for name in STRATEGIES if turn % 2 == 0 else STRATEGIES[::-1]:
                found[name]["seconds"].append(seconds(steps[name], device))
            forward.append(seconds(steps["store"].evaluate, device))
            progress((len(STRATEGIES) + turn + 1) / parts)
        return Measurement({"state": x.numel() * x.element_size(), "forward": forward, "strategies": found})

    def claims(self, found: Sequence[Found]) -> list[Claim]:
        """One of memory for each strategy, two of evaluations, two of time."""
        return [
            *(_memory_claim(found, name) for name in STRATEGIES),
            _flat_peak(found),
            _linear_work(found),
            _recursive_work(found),
            _times(found),
            _one_more_pass(found),
        ]

    def tables(self, found: Sequence[Found]) -> list[Table]:
        """Exponents beside those of the table, and the figures of every depth."""
        rows = [
            [
                name,
                NAMES[name],
                *(f"{_exponent(found, name, key):.2f}" for key in ("held", "peak", "evaluations")),
                f"{_fit(found, _times_of(found, name)):.2f}",
                f"{_expected(found, MEMORY[name]):.2f}, {_expected(found, WORK[name]):.2f}",
            ]
            for name in STRATEGIES
        ]
        head = ["activations", "table 1: memory, computation", "held", "peak", "evaluations", "time"]
        first = Table(
            "Exponents p of L^p, fitted over the depths",
            [*head, "the table's orders, fitted likewise: memory, work"],
            rows,
        )
        mebibytes = [
            [name, *(f"{each.numbers['strategies'][name]['peak'] / 2**20:.1f}" for each in found)]
            for name in STRATEGIES
        ]
        lengths = [f"L = {each.config['length']}" for each in found]
        ratios = [[name, *(f"{ratio:.2f}" for ratio in _ratios(found, name))] for name in STRATEGIES]
        ideal = [1 + _median(each.numbers["forward"]) / _stored(each) for each in found]
        ratios.append(["ideal: one forward pass more than stored", *(f"{value:.2f}" for value in ideal)])
        return [
            first,
            Table("Peak of activation memory in a training step, MiB", ["activations", *lengths], mebibytes),
            Table("Time of a training step over the stored one", ["activations", *lengths], ratios),
        ]

    def figures(self, found: Sequence[Found]) -> Mapping[str, Any]:
        """Peak, evaluations and time over depth."""
        figure = new_figure(10.2, 3.7)
        lengths = _lengths(found)
        held, evaluations, times = figure.subplots(1, 3)
        for name in STRATEGIES:
            look = {"color": COLOURS[name], "marker": "o", "markersize": 4, "linewidth": 1.5, "label": name}
            bytes_held = _values(found, name, "held")
            held.plot(lengths, [value / 2**20 for value in bytes_held], **look)
            held.plot(lengths, _through_last(found, name, bytes_held), color=MUTED, linewidth=0.9, linestyle=":")
            counts = _values(found, name, "evaluations")
            evaluations.plot(lengths, [count / (2 * n) for count, n in zip(counts, lengths, strict=True)], **look)
            times.plot(lengths, _ratios(found, name), **look)
        held.plot([], [], color=MUTED, linewidth=0.9, linestyle=":", label="order of table 1")
        held.set(yscale="log", ylabel="MiB", title="activations held between the passes")
        evaluations.set(ylabel="evaluations of each F and G", title="computation in one training step", ylim=(0, None))
        times.set(ylabel="time of a step / stored", title="time", ylim=(0, None))
        held.legend(loc="upper left", fontsize=8)
        for axes in (held, evaluations, times):
            axes.set_xscale("log", base=2)
            axes.set_xticks(lengths, [str(n) for n in lengths])
            axes.minorticks_off()
            axes.set_xlabel("L, number of blocks")
            axes.grid(axis="y")
            axes.tick_params(length=0)
        return {"memory-table": figure}


def _lengths(found: Sequence[Found]) -> list[int]:
    return [each.config["length"] for each in found]


def _values(found: Sequence[Found], name: str, key: str) -> list[float]:
    return [each.numbers["strategies"][name][key] for each in found]


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _stored(one: Found) -> float:
    return _median(one.numbers["strategies"]["store"]["seconds"])


def _ratios(found: Sequence[Found], name: str) -> list[float]:
    """Of times to the stored step of the same round, the median over rounds."""
    chosen = [each.numbers["strategies"] for each in found]
    return [
        _median([own / stored for own, stored in zip(one[name]["seconds"], one["store"]["seconds"], strict=True)])
        for one in chosen
    ]


def _times_of(found: Sequence[Found], name: str) -> list[float]:
    return [ratio * _stored(each) for ratio, each in zip(_ratios(found, name), found, strict=True)]


def _fit(found: Sequence[Found], values: Sequence[float]) -> float:
    return exponent(_lengths(found), values)


def _exponent(found: Sequence[Found], name: str, key: str) -> float:
    return _fit(found, _values(found, name, key))


def _expected(found: Sequence[Found], order: Callable[[float], float]) -> float:
    return _fit(found, [order(2 * n) for n in _lengths(found)])


def _through_last(found: Sequence[Found], name: str, values: Sequence[float]) -> list[float]:
    """The table's order, in MiB, through the last measured value."""
    order = [MEMORY[name](2 * n) for n in _lengths(found)]
    return [value / order[-1] * values[-1] / 2**20 for value in order]


def _memory_claim(found: Sequence[Found], name: str) -> Claim:
    power, expected = _exponent(found, name, "held"), _expected(found, MEMORY[name])
    return Claim(
        f"Memory of {name}: {NAMES[name].split(', ')[0]}.",
        abs(power - expected) <= WITHIN,
        f"bytes held grow as L^{power:.3f}",
        f"L^{expected:.2f}, which is that order fitted over the same depths, within {WITHIN:g}",
    )


def _flat_peak(found: Sequence[Found]) -> Claim:
    peaks = _values(found, "reversible", "peak")
    ratio = peaks[-1] / peaks[0]
    return Claim(
        "The reversible step's peak, too, does not grow.",
        ratio <= FLAT,
        f"peak of the deepest chain {ratio:.3f} times that of the shallowest",
        f"at most {FLAT:g}",
    )


def _linear_work(found: Sequence[Found]) -> Claim:
    each = {
        name: [count / (2 * n) for count, n in zip(_values(found, name, "evaluations"), _lengths(found), strict=True)]
        for name in ("store", "checkpoint", "reversible")
    }
    holds = set(each["store"]) == {1.0} and set(each["reversible"]) == {2.0} and max(each["checkpoint"]) <= 2
    return Claim(
        "Storing, checkpointing and reversing compute O(L).",
        holds,
        ", ".join(f"{name} {number(min(v), 3)} to {number(max(v), 3)}" for name, v in each.items())
        + " evaluations of each F and G in a step",
        "exactly 1 stored and 2 reversible, at most 2 checkpointed, at every depth",
    )


def _recursive_work(found: Sequence[Found]) -> Claim:
    power, limit = _exponent(found, "recursive", "evaluations"), _expected(found, WORK["recursive"])
    return Claim(
        "Recursion computes more, O(L log L).",
        1 + WITHIN / 2 <= power <= limit + WITHIN / 2,
        f"evaluations grow as L^{power:.3f}",
        f"above L^{1 + WITHIN / 2:g}, at most L^{limit:.2f}, which is L log L fitted over the same depths, "
        f"and {WITHIN / 2:g}",
    )


def _times(found: Sequence[Found]) -> Claim:
    powers = {name: _fit(found, _times_of(found, name)) for name in STRATEGIES}
    off = {name: power - _expected(found, WORK[name]) for name, power in powers.items()}
    linear = all(abs(off[name]) <= WITHIN_TIME for name in STRATEGIES if name != "recursive")
    return Claim(
        "Measured time grows as the table says.",
        linear and off["recursive"] <= WITHIN_TIME,
        "exponents of time: " + ", ".join(f"{name} {power:.2f}" for name, power in powers.items()),
        f"1 within {WITHIN_TIME:g}; recursive at most {_expected(found, WORK['recursive']):.2f} and {WITHIN_TIME:g}",
        "Times of short steps are overhead, and a busy machine disturbs all of them.",
    )


def _one_more_pass(found: Sequence[Found]) -> Claim:
    passes = [
        (ratio - 1) * _stored(each) / _median(each.numbers["forward"])
        for ratio, each in zip(_ratios(found, "reversible"), found, strict=True)
    ]
    extra = _median(passes)
    return Claim(
        "Reversing costs one more forward pass than storing.",
        extra < PASSES,
        f"{extra:.2f} forward passes more, the median over depths",
        f"below {PASSES:g}, the cost of an inverse that is evaluated apart from the graph; 1 is ideal",
        "A busy machine disturbs times.",
    )
