"""How many evaluations does the inverse of a residual block take, and what does a stop rule on the step leave?

python benchmarks/fixed_point.py [--training 1.0] [--rounds 3]

y = x + g(x) is solved for networks whose certified Lipschitz constant is 0.97, by `solve_residual` and by the plain
iteration x <- y - g(x), both stopped sample by sample at the same true residual: |x + g(x) - y| of 1e-6 (float32) and
1e-12 (float64) relative to |x| + |g(x)| + |y|. For flows, y is the output of each block in turn, and the counts are of
all blocks. The rule of residual-flows and normflows stops all samples once (x - x_before)^2 < tol, elementwise, with
tol = 1e-5 (1 + |y|); the residual that it leaves is measured. Exit status 1 if an error exceeds its bound.
"""

import copy
import statistics
import sys

import _record
import torch
from _contractive_nets import LIPSCHITZ, Case, cases
from _timing import interleaved, median_ratio
from torch import Tensor, nn

from invertible.solvers.fixed_point import FixedPoint, SolverOptions, solve_residual

TOLERANCES = {torch.float32: 1e-6, torch.float64: 1e-12}
CAP = 5000
# A network whose plain iteration takes more evaluations than this makes use of its constant.
SLOW = 30
METHODS = {
    "plain": {"method": "picard", "fallback": False},
    "ours": {},
    "m = 5": {"memory": 5},
    "m = 20": {"memory": 20},
    "Newton-Krylov": {"method": "newton-krylov"},
}


def solve(g: nn.Module, y: Tensor, method: str) -> FixedPoint:
    """One inverse by one of the methods."""
    options = SolverOptions(tolerance=TOLERANCES[y.dtype], max_evaluations=CAP, **METHODS[method])
    return solve_residual(lambda x, rows: g(x), y, lipschitz=LIPSCHITZ, options=options)


@torch.no_grad()
def by_step(g: nn.Module, y: Tensor, tolerance: float = 1e-5) -> tuple[Tensor, int]:
    """The plain iteration with the rule on the squared step, and its number of evaluations."""
    x, before, evaluations = y - g(y), y, 1
    limit = tolerance + y.abs() * tolerance
    while not bool(((x - before) ** 2 / limit < 1).all()) and evaluations < 1000:
        x, before = y - g(x), x
        evaluations += 1
    return x, evaluations


@torch.no_grad()
def relative_residual(g: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """|x + g(x) - y| / (|x| + |g(x)| + |y|), (B,)."""
    value = g(x)
    x, value, y = x.flatten(1), value.flatten(1), y.flatten(1)
    return (x + value - y).norm(dim=1) / (x.norm(dim=1) + value.norm(dim=1) + y.norm(dim=1))


@torch.no_grad()
def local_norm(g: nn.Module, x: Tensor, iterations: int = 30) -> float:
    """Median over samples of |J|_2 at x, by power iteration: from below."""
    x, v = x[:16], torch.randn_like(x[:16])
    length = torch.zeros(len(x))
    for _ in range(iterations):
        v = v / v.flatten(1).norm(dim=1).reshape(-1, *[1] * (v.dim() - 1))
        w = torch.func.jvp(g, (x,), (v,))[1]
        length = w.flatten(1).norm(dim=1)
        v = torch.func.vjp(g, x)[1](w)[0]
    return float(length.median())


@torch.no_grad()
def outputs(nets: list[nn.Module], x: Tensor) -> list[Tensor]:
    """What each block maps its input to."""
    found = []
    for g in nets:
        x = x + g(x)
        found.append(x)
    return found


def measure(case: Case, dtype: torch.dtype, rounds: int) -> dict:
    """All methods on all blocks of a case."""
    name, nets, x = case
    nets, x = [copy.deepcopy(g).to(dtype).eval() for g in nets], x.to(dtype)
    pairs = list(zip(nets, outputs(nets, x), strict=True))
    found = {method: [solve(g, y, method) for g, y in pairs] for method in METHODS}
    counts = {method: torch.stack([each.evaluations for each in all_]).double() for method, all_ in found.items()}
    stepped = [by_step(g, y) for g, y in pairs]
    truths = [exact(g, y) for g, y in pairs]
    excess = [
        float(((each.x.double() - truth).flatten(1).norm(dim=1) / each.error_bound.double()).max())
        for each, truth in zip(found["ours"], truths, strict=True)
    ]
    calls = {m: lambda m=m: [solve(g, y, m) for g, y in pairs] for m in ("plain", "ours")}
    seconds = interleaved(calls, rounds)
    return {
        "case": name,
        "dtype": str(dtype).removeprefix("torch."),
        "local norm": max(local_norm(g, each.x) for (g, _), each in zip(pairs, found["ours"], strict=True)),
        "mean": {method: float(n.mean()) for method, n in counts.items()},
        "worst": {method: int(n.max()) for method, n in counts.items()},
        "ratio": float(counts["ours"].sum() / counts["plain"].sum()),
        "ratio of the worst": float(counts["ours"].max() / counts["plain"].max()),
        "seconds": {method: statistics.median(s) for method, s in seconds.items()},
        "time ratio": median_ratio(seconds["ours"], seconds["plain"]),
        "error over bound": max(excess),
        "step rule, evaluations": statistics.mean(n for _, n in stepped),
        "step rule, residual": max(
            float(relative_residual(g, x, y).max()) for (g, y), (x, _) in zip(pairs, stepped, strict=True)
        ),
    }


def exact(g: nn.Module, y: Tensor) -> Tensor:
    """The solution for g in float64."""
    double = copy.deepcopy(g).double()
    return solve_residual(lambda x, rows: double(x), y.double(), lipschitz=LIPSCHITZ).x


def report(found: list[dict]) -> str:
    """The tables."""
    parts = []
    for dtype in ("float32", "float64"):
        rows = [
            [
                each["case"],
                f"{each['local norm']:.2f}",
                *(f"{each['mean'][m]:.1f} / {each['worst'][m]}" for m in METHODS),
                f"{each['ratio']:.2f}",
                f"{each['ratio of the worst']:.2f}",
                f"{each['time ratio']:.2f}",
                f"{each['step rule, evaluations']:.1f}",
                f"{each['step rule, residual']:.0e}",
                f"{each['error over bound']:.2g}",
            ]
            for each in found
            if each["dtype"] == dtype
        ]
        titles = ["network", "local norm", *METHODS, "ours / plain", "worst / worst", "time", "step rule"]
        titles += ["residual it leaves", "error / bound"]
        parts.append(f"{dtype}, evaluations of g a block, mean / worst:\n\n" + _record.table(titles, rows))
        parts.append(summary([each for each in found if each["dtype"] == dtype]))
    return "\n\n".join(parts)


def summary(found: list[dict]) -> str:
    """How many networks keep to a third of the evaluations, by whether the plain iteration is slow."""
    lines = []
    for name, group in (
        (f"more than {SLOW}", [each for each in found if each["mean"]["plain"] > SLOW]),
        (f"at most {SLOW}", [each for each in found if each["mean"]["plain"] <= SLOW]),
    ):
        ratios = [each["ratio"] for each in group]
        if ratios:
            lines.append(
                f"Plain iteration of {name} evaluations: {sum(r <= 1 / 3 for r in ratios)} of {len(ratios)} networks "
                f"take at most 1/3 of them, median ratio {statistics.median(ratios):.2f}, largest {max(ratios):.2f}."
            )
    return "\n".join(lines)


def main() -> int:
    parser = _record.parser(__doc__)
    parser.add_argument("--training", type=float, default=1.0, help="share of the training steps")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    made = cases(options.training)
    found = [measure(case, dtype, options.rounds) for dtype in TOLERANCES for case in made]
    data = {"environment": _record.environment("invertible"), "cases": found}
    _record.write(options.out, "fixed-point", "Inverses of residual blocks", report(found), data)
    return 1 if any(each["error over bound"] > 1 for each in found) else 0


if __name__ == "__main__":
    sys.exit(main())
