"""Solvers by name, as models and saved files hold them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from invertible.errors import ConfigError, choose
from invertible.solvers.ode.adaptive import AdaptiveSolver
from invertible.solvers.ode.fixed_step import METHODS, FixedStepSolver
from invertible.solvers.ode.leapfrog import AsynchronousLeapfrog
from invertible.solvers.ode.reversible import ReversibleSolver
from invertible.solvers.ode.runge_kutta_pairs import PAIRS
from invertible.solvers.ode.solver import ODESolver

# Where a name is of both kinds, alone it means the usual one; with its kind before it, either.
USUALLY_FIXED = {name for name in METHODS if name != "dopri5"}
SOLVERS: dict[str, Callable[..., ODESolver]] = {
    **{name: partial(AdaptiveSolver, name) for name in PAIRS if name not in USUALLY_FIXED},
    **{name: partial(FixedStepSolver, name) for name in METHODS if name in USUALLY_FIXED},
    **{f"adaptive-{name}": partial(AdaptiveSolver, name) for name in PAIRS},
    **{f"fixed-{name}": partial(FixedStepSolver, name) for name in METHODS},
    **{f"reversible-{name}": partial(ReversibleSolver, name) for name in METHODS},
    "asynchronous-leapfrog": AsynchronousLeapfrog,
}


def solver_of(owner: str, given: str | Mapping[str, Any]) -> ODESolver:
    """The solver that a name, or a dictionary of a method and further arguments, stands for.

    Args:
        owner: for messages.
        given: a name of `SOLVERS`, or `{"method": name, ...}` with the solver's arguments, all plain values:
            `{"method": "dopri5", "rtol": 1e-6, "atol": 1e-6}`, `{"method": "reversible-rk4", "steps": 8}`.

    Raises:
        ConfigError: if the name or an argument is unknown.
    """
    arguments = {"method": given} if isinstance(given, str) else dict(given)
    method = arguments.pop("method", None)
    kind = choose(owner, "the solver's method", method, SOLVERS)
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ConfigError(f"{owner}: {method} does not take all of {sorted(arguments)}: {error}.") from error
