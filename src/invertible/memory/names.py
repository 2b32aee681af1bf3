"""Strategies by name."""

from collections.abc import Callable

from invertible.errors import ConfigError
from invertible.memory.budget import Budget
from invertible.memory.checkpoint import Checkpoint
from invertible.memory.exact import Exact
from invertible.memory.recursive import Recursive
from invertible.memory.reversible import Reversible
from invertible.memory.strategy import Store, Strategy

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "store": Store,
    "checkpoint": Checkpoint,
    "recursive": Recursive,
    "reversible": Reversible,
    "exact": Exact,
}


def strategy(memory: str | Strategy) -> Strategy:
    """A strategy from its name, a budget from a number of bytes such as "512MiB", or a strategy as it is.

    Raises:
        ConfigError: naming the choices.
    """
    if isinstance(memory, Strategy):
        return memory
    if memory in STRATEGIES:
        return STRATEGIES[memory]()
    if memory[:1].isdigit():
        return Budget(memory)
    raise ConfigError(
        f"memory: expected one of {', '.join(map(repr, STRATEGIES))}, a budget such as '512MiB', or a strategy such as "
        f"invertible.memory.Reversible(tolerance=1e-5), got {memory!r}."
    )
