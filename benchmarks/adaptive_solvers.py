"""Which library solves continuous flows adaptively: torchdiffeq or torchode? And which way of taking gradients?

python benchmarks/adaptive_solvers.py [--rounds 5] [--target 1e-3]

The equation of a flow (x, log_det) in 2 and 64 dimensions, a network of tanh layers, Hutchinson's trace, float32.
Every way is run at tolerances of 1e-2 to 1e-6; of each are taken the worst error of a sample against a solution in
float64 at 1e-10, evaluations of the field forward and backward, and the CPU time of both passes, interleaved. Compared
is the time at equal worst error, the target, interpolated between tolerances. Then what no timing tells: how far a
sample's solution depends on the others of its batch, second derivatives, the error in float64, and what the packages
need and how long their import takes.
"""

import importlib.metadata
import math
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import _record
import torch
from _timing import interleaved
from torch import Tensor, nn

from invertible.blocks.continuous.traces import divergence
from invertible.errors import require
from invertible.solvers.ode.adaptive import GRADIENTS, AdaptiveSolver

SAMPLES, TOLERANCES = 128, (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
LIBRARIES = ("torchode", "torchdiffeq")


@dataclass
class Equation:
    """The field of a flow, its initial state, and how often it was evaluated."""

    net: nn.Module
    x: Tensor
    probes: Tensor
    evaluations: int = 0

    @classmethod
    def random(cls, features: int, hidden: int) -> "Equation":
        """A network of slope well above 1, so that samples differ in difficulty."""
        torch.manual_seed(features)
        layers = [nn.Linear(features + 1, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh()]
        net = nn.Sequential(*layers, nn.Linear(hidden, features))
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(1.7)
        signs = torch.randint(0, 2, (1, SAMPLES, features)).float() * 2 - 1
        return cls(net, torch.randn(SAMPLES, features), signs)

    def to(self, dtype: torch.dtype) -> "Equation":
        """A copy in another dtype."""
        net = nn.Sequential(
            *[type(m)(m.in_features, m.out_features) if isinstance(m, nn.Linear) else m for m in self.net]
        )
        net.load_state_dict(self.net.state_dict())
        return Equation(net.to(dtype), self.x.to(dtype), self.probes.to(dtype))

    def field(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The velocity and its divergence."""
        self.evaluations += 1
        x = state[0]
        time = t.to(x.dtype).reshape(-1, 1).expand(len(x), 1)
        found = divergence(lambda at: self.net(torch.cat((at, time), 1)), x, self.probes[:, : len(x)])
        return found.value, found.trace

    def state(self, rows: int | None = None) -> tuple[Tensor, Tensor]:
        """The initial state of the first samples."""
        x = self.x[:rows]
        return x, x.new_zeros(len(x))


Solve = Callable[[Equation, float, int | None], tuple[Tensor, ...]]


def ours(gradient: str, *, control: str = "first") -> Solve:
    """torchode, as `AdaptiveSolver` calls it."""

    def solve(equation: Equation, tolerance: float, rows: int | None = None) -> tuple[Tensor, ...]:
        solver = AdaptiveSolver("dopri5", tolerance, tolerance, gradient=gradient, control=control)
        return solver.solve(equation.field, equation.state(rows), 0.0, 1.0, tuple(equation.net.parameters())).state

    return solve


def theirs(*, adjoint: bool) -> Solve:
    """torchdiffeq, by its defaults."""
    torchdiffeq = require("torchdiffeq", "peers")

    def solve(equation: Equation, tolerance: float, rows: int | None = None) -> tuple[Tensor, ...]:
        options = {"rtol": tolerance, "atol": tolerance, "method": "dopri5"}
        function = torchdiffeq.odeint_adjoint if adjoint else torchdiffeq.odeint
        if adjoint:
            options["adjoint_params"] = tuple(equation.net.parameters())
        times = torch.tensor([0.0, 1.0], dtype=equation.x.dtype)
        return tuple(each[-1] for each in function(equation.field, equation.state(rows), times, **options))

    return solve


def ways() -> dict[str, Solve]:
    """All that are compared."""
    found = {f"torchode, {gradient}": ours(gradient) for gradient in GRADIENTS}
    found["torchode, replay, log_det controls steps too"] = ours("replay", control="all")
    return found | {"torchdiffeq, direct": theirs(adjoint=False), "torchdiffeq, adjoint": theirs(adjoint=True)}


def step(solve: Solve, equation: Equation, tolerance: float) -> None:
    """A training step's passes."""
    x, log_det = solve(equation, tolerance, None)
    (x.square().sum() / 2 - log_det.sum()).backward()
    equation.net.zero_grad()


def worst_error(solve: Solve, equation: Equation, tolerance: float, reference: tuple[Tensor, ...]) -> float:
    """Of all samples and numbers, log_det among them."""
    with torch.no_grad():
        found = solve(equation, tolerance, None)
    return max(float((a - b).abs().max()) for a, b in zip(found, reference, strict=True))


def dependence(solve: Solve, equation: Equation) -> float:
    """Largest difference of one sample's solution alone and in its batch, in float64 at a tolerance of 1e-4."""
    with torch.no_grad():
        together, alone = solve(equation, 1e-4, None), solve(equation, 1e-4, 1)
    return max(float((a[:1] - b).abs().max()) for a, b in zip(together, alone, strict=True))


def second_derivative(solve: Solve, equation: Equation) -> str:
    """Whether the gradient of a gradient can be had."""
    x = equation.x[:2].clone().requires_grad_()
    small = Equation(equation.net, x, equation.probes)
    try:
        (first,) = torch.autograd.grad(solve(small, 1e-4, None)[0].square().sum(), x, create_graph=True)
        torch.autograd.grad(first.sum(), x)
    except Exception as error:
        return f"no: {type(error).__name__}"
    return "yes"


def measured(features: int, hidden: int, rounds: int) -> dict[str, list[dict]]:
    """Errors, evaluations and times of every way at every tolerance."""
    equation = Equation.random(features, hidden)
    with torch.no_grad():
        reference = ours("replay", control="all")(equation.to(torch.float64), 1e-10, None)
    found: dict[str, list[dict]] = {name: [] for name in ways()}
    for tolerance in TOLERANCES:
        calls = {name: partial(step, solve, equation, tolerance) for name, solve in ways().items()}
        seconds = interleaved(calls, rounds)
        for name, solve in ways().items():
            equation.evaluations = 0
            with torch.no_grad():
                solve(equation, tolerance, None)
            forward, equation.evaluations = equation.evaluations, 0
            step(solve, equation, tolerance)
            error = worst_error(solve, equation, tolerance, reference)
            one = {"tolerance": tolerance, "error": error, "forward": forward}
            found[name].append(one | {"both": equation.evaluations, "seconds": statistics.median(seconds[name])})
    return found


def at_error(series: list[dict], target: float) -> float:
    """Seconds at a worst error, interpolated in logarithms; NaN outside the range measured."""
    points = sorted((math.log(each["error"]), math.log(each["seconds"])) for each in series)
    for (a, s), (b, t) in pairwise(points):
        if a <= math.log(target) <= b:
            return math.exp(s + (t - s) * (math.log(target) - a) / (b - a))
    return math.nan


def health(library: str) -> list[str]:
    """Version, what it needs, and its import: seconds beyond torch's and warnings."""
    code = (
        "import time, warnings, torch\nwith warnings.catch_warnings(record=True) as w:\n"
        f"    warnings.simplefilter('always'); t = time.process_time(); import {library}\n"
        "    print(round(time.process_time() - t, 2), len(w))"
    )
    seconds, count = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    needs = [each for each in importlib.metadata.requires(library) or [] if "extra" not in each]
    return [library, importlib.metadata.version(library), ", ".join(needs), seconds, count]


def main() -> None:
    parser = _record.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--target", type=float, default=1e-3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    record = {"environment": _record.environment(*LIBRARIES), "target": arguments.target}
    text = []
    for features, hidden in ((2, 64), (64, 128)):
        found = measured(features, hidden, arguments.rounds)
        record[f"{features}-D"] = found
        rows = []
        for name, series in found.items():
            cells = [
                f"{1e3 * s['seconds']:.0f} ms, {s['error']:.0e}, {s['forward']} + {s['both'] - s['forward']}"
                for s in series
            ]
            rows.append([name, f"{1e3 * at_error(series, arguments.target):.0f}", *cells])
        head = ["way", f"ms at {arguments.target:g}", *(f"tolerance {t:g}" for t in TOLERANCES)]
        text += [f"## {features} dimensions\n\nCPU time of forward and backward, worst error, evaluations of both\n"]
        text += [_record.table(head, rows), ""]
    double = Equation.random(2, 64).to(torch.float64)
    with torch.no_grad():
        exact = ours("replay", control="all")(double, 1e-12, None)
    rows = [
        [
            name,
            f"{dependence(s, double):.0e}",
            second_derivative(s, double),
            f"{worst_error(s, double, 1e-9, exact):.0e}",
        ]
        for name, s in ways().items()
    ]
    record["properties"] = rows
    head = ["way", "a sample alone and in its batch differ by", "second derivatives", "worst error at 1e-9 in float64"]
    text += ["## What no timing tells\n", _record.table(head, rows), ""]
    record["health"] = [health(library) for library in LIBRARIES]
    text += [_record.table(["package", "version", "needs", "seconds to import", "warnings"], record["health"])]
    _record.write(arguments.out, "adaptive-solvers", "Adaptive solvers of continuous flows", "\n".join(text), record)


if __name__ == "__main__":
    main()
