"""Gradients of ODE solvers with many fixed steps: error, memory and time of reversible solvers and of the alternatives.

python benchmarks/reversible_ode.py [--steps 10 100 1000 10000] [--rounds 3]

A training step through a nonlinear field of 8 features (a network of 32 hidden units, driven by the time), 32 samples,
float64, of the same discrete steps in each row: stored by ordinary autograd, the measure of the gradient's error;
recomputed from sqrt(N) checkpoints; walked back. The adjoint method (torchdiffeq's odeint_adjoint) integrates the
midpoint rule with as many steps and has the plain midpoint rule's gradient for its measure. Time is processor time, the
median over rounds of the ratio to stored, of one run beyond 1000 steps. Memory is the allocator's peak up to 1000
steps, and the growth of the process (its peak resident size) from 1000 steps on, each in a process of its own. Beyond
1000 steps the midpoint rule and the leapfrog method stand for all. Exit status 1 if a gradient of a reversible solver
is off by 1e-12, or its peak grows by more than 5 % from the least to the largest number of steps.
"""

import math
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import _record
import torch
from _timing import clock, interleaved, median_ratio, peak_bytes
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from invertible.solvers.ode.algebraic import AlgebraicallyReversible
from invertible.solvers.ode.fixed_step import FixedStepSolver
from invertible.solvers.ode.leapfrog import AsynchronousLeapfrog
from invertible.solvers.ode.reversible import ReversibleSolver
from invertible.solvers.ode.shear import Pair
from invertible.solvers.ode.solver import State

FEATURES, HIDDEN, SAMPLES, END = 8, 32, 32, 1.0
PROFILED = 1000  # steps: the profiler's own records of more fill the memory
ALLOWED_ERROR, ALLOWED_GROWTH = 1e-12, 1.05
SCHEMES: dict[str, Callable[[int], AlgebraicallyReversible]] = {
    "midpoint": lambda n: ReversibleSolver("midpoint", n),
    "rk4": lambda n: ReversibleSolver("rk4", n),
    "dopri5": lambda n: ReversibleSolver("dopri5", n),
    "leapfrog": AsynchronousLeapfrog,
}
# Of the other schemes one competitor only, which shows that they are exact too.
MANNERS = {"midpoint": ("stored", "checkpoints", "reversible", "plain", "adjoint")}
OTHERS = ("stored", "reversible")
LONG = ("midpoint", "leapfrog")


class Field(nn.Module):
    """v(t, x) = 3 W_2 tanh(W_1 x + b_1 + t) + b_2."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(FEATURES, HIDDEN), nn.Linear(HIDDEN, FEATURES)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """The field."""
        return 3 * self.outer(torch.tanh(self.inner(x) + t))


class Problem:
    """One training step, of any manner."""

    def __init__(self, scheme: str, steps: int) -> None:
        torch.manual_seed(0)
        self.solver, self.net = SCHEMES[scheme](steps), Field().double()
        self.x = torch.randn(SAMPLES, FEATURES, dtype=torch.float64, requires_grad=True)
        self.inputs = (self.x, *self.net.parameters())

    def field(self, t: Tensor, state: State) -> State:
        """The field of a state of one tensor."""
        return (self.net(t, state[0]),)

    def gradient(self, manner: str) -> tuple[Tensor, ...]:
        """Gradients with respect to x and the parameters."""
        y = getattr(self, manner)()
        return torch.autograd.grad(y.square().sum(), self.inputs)

    def reversible(self) -> Tensor:
        """Walked back."""
        return self.solver.solve(self.field, (self.x,), 0.0, END, self.inputs[1:]).state[0]

    def stored(self) -> Tensor:
        """The same steps by ordinary autograd."""
        pair = self.solver.begin(self.field, 0.0, (self.x,))
        return self.run(pair, range(self.solver.steps)).first[0]

    def checkpoints(self) -> Tensor:
        """The same steps, of which sqrt(N) states are stored."""
        pair = self.solver.begin(self.field, 0.0, (self.x,))
        spacing = max(1, math.isqrt(self.solver.steps))
        for first in range(0, self.solver.steps, spacing):
            part = range(first, min(first + spacing, self.solver.steps))

            def run(y: Tensor, z: Tensor, part: range = part) -> tuple[Tensor, Tensor]:
                after = self.run(Pair((y,), (z,)), part)
                return after.first[0], after.second[0]

            y, z = checkpoint(run, pair.first[0], pair.second[0], use_reentrant=False)
            pair = Pair((y,), (z,))
        return pair.first[0]

    def plain(self) -> Tensor:
        """The one-step method itself, not its reversible form, by ordinary autograd."""
        return FixedStepSolver("midpoint", self.solver.steps).solve(self.field, (self.x,), 0.0, END).state[0]

    def adjoint(self) -> Tensor:
        """torchdiffeq's adjoint method with the midpoint rule."""
        from torchdiffeq import odeint_adjoint

        times = torch.tensor([0.0, END], dtype=torch.float64)
        options = {"step_size": END / self.solver.steps}
        path = odeint_adjoint(self.net, self.x, times, method="midpoint", options=options)
        assert isinstance(path, Tensor)
        return path[-1]

    def run(self, pair: Pair, part: range) -> Pair:
        """Some of the steps."""
        for index in part:
            for shear in self.solver.shears(index, 0.0, END / self.solver.steps):
                pair = shear.run(self.field, pair, (self.x.dtype,))
        return pair


def error(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """Largest relative distance of a gradient."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))


def grown(scheme: str, steps: int, manner: str) -> int:
    """Bytes by which a process of its own grows in a training step."""
    arguments = [sys.executable, __file__, "--grown", scheme, str(steps), manner]
    return int(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)


def measure_growth(scheme: str, steps: int, manner: str) -> int:
    """The same, within that process."""
    torch.set_num_threads(1)
    # What is loaded at the first call is not the step's.
    Problem(scheme, 2).gradient(manner)
    problem = Problem(scheme, steps)
    before = high_water()
    problem.gradient(manner)
    return high_water() - before


def high_water() -> int:
    """Largest resident size of this process so far; that of `getrusage` is inherited from the parent."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0]) * 1024


def measure(scheme: str, steps: int, rounds: int) -> list[dict]:
    """All manners at one number of steps."""
    problem = Problem(scheme, steps)
    manners = MANNERS.get(scheme, OTHERS)
    calls: dict[str, Callable[[], object]] = {manner: partial(problem.gradient, manner) for manner in manners}
    gradients, seconds = {}, {}
    for manner in manners:
        start = clock()
        gradients[manner] = problem.gradient(manner)
        seconds[manner] = [clock() - start]
    if steps <= PROFILED:
        seconds = interleaved(calls, rounds)
    return [
        {
            "scheme": scheme,
            "steps": steps,
            "manner": manner,
            "error": error(gradients[manner], gradients["plain" if manner in ("plain", "adjoint") else "stored"]),
            "seconds": statistics.median(seconds[manner]),
            "ratio": median_ratio(seconds[manner], seconds["stored"]),
            "peak": peak_bytes(calls[manner]) if steps <= PROFILED else None,
            "grown": grown(scheme, steps, manner) if steps >= PROFILED else None,
        }
        for manner in manners
    ]


def size(value: int | None) -> str:
    """Bytes in MiB."""
    return "" if value is None else f"{value / 2**20:.2f}"


def report(found: list[dict]) -> str:
    """The table."""
    header = ["scheme", "steps", "gradient by", "relative error", "peak, MiB", "process grows, MiB", "time", "seconds"]
    names = {
        "stored": "autograd",
        "checkpoints": "sqrt(N) checkpoints",
        "reversible": "walking back",
        "plain": "autograd, one-step form",
        "adjoint": "adjoint, one-step form",
    }
    rows = [
        [
            each["scheme"],
            each["steps"],
            names[each["manner"]],
            f"{each['error']:.1e}" if each["error"] else "0",
            size(each["peak"]),
            size(each["grown"]),
            f"{each['ratio']:.2f}",
            f"{each['seconds']:.3g}",
        ]
        for each in found
    ]
    return _record.table(header, rows)


def broken(found: list[dict]) -> list[str]:
    """Promises that do not hold."""
    walked = [each for each in found if each["manner"] == "reversible"]
    wrong = [f"{e['scheme']}, {e['steps']} steps: error {e['error']:.1e}" for e in walked if e["error"] > ALLOWED_ERROR]
    for scheme in SCHEMES:
        peaks = [each["peak"] for each in walked if each["scheme"] == scheme and each["peak"]]
        if peaks and peaks[-1] > ALLOWED_GROWTH * peaks[0]:
            wrong.append(f"{scheme}: the peak grows from {peaks[0]} to {peaks[-1]} bytes")
    return wrong


def main() -> int:
    parser = _record.parser(__doc__ or "")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--grown", nargs=3, default=None, metavar=("SCHEME", "STEPS", "MANNER"))
    options = parser.parse_args()
    if options.grown:
        scheme, steps, manner = options.grown
        print(measure_growth(scheme, int(steps), manner))
        return 0
    torch.set_num_threads(1)
    plan = [(scheme, n) for scheme in SCHEMES for n in options.steps if n <= PROFILED or scheme in LONG]
    found = [each for scheme, n in plan for each in measure(scheme, n, options.rounds)]
    data = {"environment": _record.environment("invertible", "torchdiffeq"), "steps": found}
    _record.write(options.out, "reversible-ode", "Gradients of reversible ODE solvers", report(found), data)
    missed = broken(found)
    print("\n".join(missed))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
