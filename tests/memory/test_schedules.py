"""Checkpointing schedules: what is kept, and how often steps are run."""

import itertools
from functools import cache
from math import ceil, comb, log2

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invertible import memory
from invertible.memory.budget import choose_stored, parse_bytes
from invertible.memory.revolve import advances, positions, split
from invertible.memory.step import Step


@cache
def fewest(length: int, slots: int) -> int:
    """By dynamic programming, from the definition."""
    if length <= 1:
        return 0
    if slots == 1:
        return length * (length - 1) // 2
    return min(m + fewest(length - m, slots - 1) + fewest(m, slots) for m in range(1, length))


def test_closed_form_equals_dynamic_programming() -> None:
    for length, slots in itertools.product(range(1, 70), range(1, 9)):
        assert advances(length, slots) == fewest(length, slots), (length, slots)


def test_split_attains_the_optimum() -> None:
    for length, slots in itertools.product(range(2, 70), range(1, 9)):
        m = split(length, slots)
        assert 1 <= m < length
        rest = fewest(length - m, slots - 1) if slots > 1 else 0
        assert m + rest + fewest(m, slots) == fewest(length, slots), (length, slots)


class Sine(Step):
    """x -> x + sin(w x)."""

    changed = (0,)

    def __init__(self) -> None:
        self.module = torch.nn.Linear(1, 1, bias=False)
        self.modules = (self.module,)

    def run(self, state, condition):
        return (state[0] + torch.sin(self.module(state[0])),), None


def passed(strategy: memory.Strategy, length: int) -> tuple[dict[str, int], int, memory.Log]:
    """Runs in the backward pass, the most states held, and the log."""
    counts = {"graph": 0, "plain": 0}
    steps = [Sine() for _ in range(length)]
    log, most = memory.Log(), 0
    x = torch.ones(2, 1, requires_grad=True)
    tape = strategy.tape(steps, (x,), None, log)
    log.begin(length)
    (y,), _ = tape.forward((x,))
    hold, rerun = tape.hold, tape.rerun

    def counted_hold(index, state):
        nonlocal most
        hold(index, state)
        most = max(most, len(tape.states))

    def counted(kind, call):
        def counting(*args):
            counts[kind] += 1
            return call(*args)

        return counting

    tape.hold, tape.rerun = counted_hold, counted("graph", rerun)
    # A walk is a rerun whose saved tensors are dropped.
    tape.walk = counted("plain", lambda index, state: rerun(index, state)[0])
    most = len(tape.states)
    y.sum().backward()
    return counts, most, log


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("length", [1, 2, 5, 13, 40])
def test_recursive_runs_steps_as_seldom_as_arithmetic_allows(length: int, slots: int) -> None:
    counts, most, _ = passed(memory.Recursive(slots=slots, guard=False), length)
    # The last step is stored, and the advances to the last held state are part of the forward pass.
    swept = positions(length, slots)[-1] + (length - 1 - positions(length, slots)[-1])
    assert counts["graph"] == length - 1
    assert counts["plain"] == advances(length, slots) - swept
    assert most <= slots


def test_recursive_holds_log_l_states_by_default() -> None:
    for length in (2, 16, 100, 300):
        counts, most, _ = passed(memory.Recursive(guard=False), length)
        assert most <= 1 + ceil(log2(length))
        assert counts["plain"] <= length * log2(length)


def test_checkpoint_runs_every_step_once_more_but_for_the_last_segment() -> None:
    for length, segments in ((16, None), (16, 3), (5, 5), (7, 20), (1, None)):
        counts, most, _ = passed(memory.Checkpoint(segments=segments, guard=False), length)
        count = min(length, segments or round(length**0.5))
        assert most == count - 1
        assert counts["plain"] == 0
        assert counts["graph"] == (length * (count - 1)) // count


def test_binomial_reach() -> None:
    # With s states and r repeats C(s + r, s) steps go backwards (Griewank & Walther 2000).
    for slots, repeats in itertools.product(range(1, 6), range(1, 5)):
        reach = comb(slots + repeats, slots)
        assert advances(reach + 1, slots) - advances(reach, slots) == repeats + 1


sizes = st.lists(
    st.tuples(st.sampled_from([0, 1, 2, 3, 5, 8]), st.integers(1, 3), st.floats(0.1, 1.0)), min_size=1, max_size=8
)


@given(sizes, st.integers(0, 20))
def test_budget_stores_the_best_set_of_steps(costs, room) -> None:
    saved, states, seconds = (list(column) for column in zip(*costs, strict=True))

    def bytes_of(chosen):
        return sum(saved[i] + (states[i] if i and i - 1 not in chosen else 0) for i in chosen)

    def gain(chosen):
        return sum(seconds[i] for i in chosen if saved[i])

    indices = range(len(saved))
    every = [set(c) for k in range(len(saved) + 1) for c in itertools.combinations(indices, k)]
    found = set(choose_stored(saved, states, seconds, room))
    assert bytes_of(found) <= room
    assert gain(found) == pytest.approx(max(gain(c) for c in every if bytes_of(c) <= room))


def test_bytes_are_read_as_people_write_them() -> None:
    assert [parse_bytes(v) for v in ("1KiB", "1.5 MB", "2GiB", "10b", 7)] == [1024, 1_500_000, 2 * 2**30, 10, 7]


def test_budget_keeps_no_more_than_it_was_given() -> None:
    from tests.memory.networks import loss_of, residual_chain

    x = torch.randn(64, 6)
    for size in (6_000, 20_000, 60_000):
        net = residual_chain(8, memory=memory.Budget(size))
        for _ in range(2):
            loss_of(*net(x)).backward()
        assert net.memory_log.bytes_kept <= size
    assert net.memory_log.bytes_kept > 20_000
