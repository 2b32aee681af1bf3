"""Can the predicted digits of an inverse be trusted? Predicted bounds against true errors, on random and trained flows.

python benchmarks/digits.py [--pairs 10000] [--double-pairs 2000] [--skip-trained] [--skip-cost]

Random flows of 2 to 32 couplings (affine with every scale function, Glow-like with linear layers and 1x1 convolutions,
additive, splines, mixtures, and maps that undo in their second half what they do in the first), weights scaled to
condition numbers from 1e1 to 1e12; the inverse in float32 against the same weights in float64, and in float64 against
80-bit long double. A pair is a flow and a sample; its condition number is that of the Jacobian at the exact inverse.
Exit status 1 if a bound fails in more than 0.1 % of the pairs, is off by more than 100 in the median, or costs more
than 10 evaluations.
"""

import sys
import time
from collections.abc import Callable

import _long_double
import _record
import torch
from _random_networks import (
    FAMILIES,
    PLAIN,
    Truth,
    condition_numbers,
    random_network,
    scale_to,
    truth,
    truth_of_double,
)
from _trained_flows import trained_pairs
from torch import Tensor

import invertible as inv
from invertible.stability.digits import MARGIN, trusted_digits

SAMPLES = 40
LOWEST, HIGHEST = 1, 12
# A true relative error above this leaves two digits or fewer: there "lost" is within a factor of 100 of the truth.
REALLY_LOST = 1e-2
CONDITION, TRUE, NORM, ADJOINT, NEIGHBOURS, NAIVE, FAMILY = range(7)


def pairs_of(chain: inv.Bijection, found: Truth, family: int) -> Tensor:
    """A row a pair: condition number, true error, |x|, the bounds of either method, eps |y|/s_min, family."""
    bounds = [trusted_digits(chain, found.y, method=method) for method in ("adjoint", "neighbours")]
    y = torch.linalg.vector_norm(found.y.double().flatten(1), dim=1)
    naive = torch.finfo(found.y.dtype).eps * y / found.values[:, -1]
    columns = (
        condition_numbers(found.values),
        found.error(bounds[0].x),
        found.norm,
        *(bound.error for bound in bounds),
        naive.nan_to_num(torch.inf),
        torch.full((len(y),), float(family), dtype=torch.float64),
    )
    return torch.stack(columns, 1)


def random_pairs(count: int, *, double: bool) -> Tensor:
    """Pairs of random flows with condition numbers between 1e1 and 1e12."""
    generator, found, number = torch.Generator().manual_seed(int(double)), [], 0
    families, truth_of = (PLAIN, truth_of_double) if double else (FAMILIES, truth)
    while number < count:
        network = random_network(generator, families)
        wished = LOWEST + (HIGHEST - LOWEST) * float(torch.rand((), generator=generator))
        scale_to(network, 10**wished, generator)
        exact = truth_of(network, SAMPLES, generator)
        if len(exact.y):
            pairs = pairs_of(network.chain, exact, families.index(network.family))
            inside = (pairs[:, CONDITION] >= 10**LOWEST) & (pairs[:, CONDITION] < 10**HIGHEST)
            found.append(pairs[inside])
            number += len(found[-1])
    return torch.cat(found)[:count]


def holds(pairs: Tensor, column: int, factor: float = 1.0) -> float:
    """Share of the pairs whose true error the bound is not below."""
    return float((pairs[:, TRUE] <= factor * pairs[:, column]).double().mean())


def ratios(pairs: Tensor, eps: float) -> Tensor:
    """Bound over true error, both relative to |x| and between eps and 1: by how much digits are off, for every pair."""
    bound, error = ((pairs[:, column] / pairs[:, NORM]).nan_to_num(1.0).clamp(eps, 1) for column in (ADJOINT, TRUE))
    return bound / error


def line(name: str, pairs: Tensor, eps: float) -> list[str]:
    """One row of a table."""
    kept = pairs[:, ADJOINT].isfinite() & (pairs[:, TRUE] > 0)
    lost = pairs[:, ADJOINT].isinf()
    really = lost & ~(pairs[:, TRUE] < REALLY_LOST * pairs[:, NORM])
    ratio = (pairs[kept, ADJOINT] / pairs[kept, TRUE]) if bool(kept.any()) else torch.tensor([torch.nan])
    return [
        name,
        str(len(pairs)),
        f"{holds(pairs, ADJOINT):.2%}",
        f"{ratio.median():.1f}",
        f"{ratio.quantile(0.9):.0f}",
        f"{ratio.quantile(0.99):.0f}",
        f"{int(lost.sum())} ({int(really.sum())})",
        f"{ratios(pairs, eps).median():.1f}",
        f"{holds(pairs, NEIGHBOURS):.2%}",
        f"{holds(pairs, NAIVE):.1%}",
        f"{holds(pairs, NAIVE, MARGIN):.1%}",
    ]


HEADER = [
    "",
    "pairs",
    "bound holds",
    "bound/true: median",
    "90 %",
    "99 %",
    "called lost (true error above 1 %)",
    "off by, lost ones too: median",
    "neighbours hold",
    "eps abs(y)/s_min holds",
    f"{MARGIN:g} times that holds",
]


def by_condition(pairs: Tensor, eps: float) -> list[list[str]]:
    """A row a decade, and one for all."""
    rows = []
    for decade in range(LOWEST, HIGHEST):
        inside = (pairs[:, CONDITION] >= 10**decade) & (pairs[:, CONDITION] < 10 ** (decade + 1))
        if bool(inside.any()):
            rows.append(line(f"1e{decade} to 1e{decade + 1}", pairs[inside], eps))
    return [*rows, line("all", pairs, eps)]


def by_family(pairs: Tensor, families: tuple[str, ...], eps: float) -> list[list[str]]:
    """A row a family."""
    chosen = [(name, pairs[pairs[:, FAMILY] == index]) for index, name in enumerate(families)]
    return [line(name, each, eps) for name, each in chosen if len(each)]


def costs() -> dict[str, float]:
    """Seconds of `trusted_digits` over seconds of one evaluation of f on the same batch, the best of five each."""
    flows: dict[str, tuple[Callable[[], inv.Flow], int]] = {
        "realnvp, 64 features, 16 x (128, 128), batch 512": (lambda: inv.models.realnvp(64, layers=16), 512),
        "realnvp, 64 features, splines, 8 x (128, 128), batch 512": (
            lambda: inv.models.realnvp(64, layers=8, coupling="spline"),
            512,
        ),
        "glow, 3 x 16 x 16, 2 x 4 steps of 64 channels, batch 32": (
            lambda: inv.models.glow((3, 16, 16), levels=2, depth=4, hidden=64),
            32,
        ),
    }
    found = {}
    for name, (build, batch) in flows.items():
        torch.manual_seed(0)
        flow = build()
        with torch.no_grad():
            flow.bijection(flow.base.sample(batch) if len(flow.base.shape) == 1 else torch.rand(batch, 3, 16, 16))
            y = flow.base.sample(batch)
            x, _ = flow.bijection.inverse(y)
        flow.eval()
        plain = _seconds(torch.no_grad()(lambda flow=flow, x=x: flow.bijection(x)))
        found[name] = _seconds(lambda flow=flow, y=y: trusted_digits(flow, y, method="adjoint")) / plain
    return found


def _seconds(run: Callable[[], object], rounds: int = 5) -> float:
    times = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def main() -> int:
    parser = _record.parser(__doc__)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--double-pairs", type=int, default=2_000)
    parser.add_argument("--skip-trained", action="store_true")
    parser.add_argument("--skip-cost", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data: dict = {"environment": _record.environment("invertible", "numpy"), "margin": MARGIN}
    sections: list[tuple[str, list[str], list[list[str]]]] = []
    passed = True
    for word, count in (("float32", options.pairs), ("float64", options.double_pairs)):
        if not count or (word == "float64" and not _long_double.AVAILABLE):
            continue
        eps = torch.finfo(getattr(torch, word)).eps
        pairs = random_pairs(count, double=word == "float64")
        families = PLAIN if word == "float64" else FAMILIES
        sections.append((f"Random flows in {word}, by condition number", HEADER, by_condition(pairs, eps)))
        sections.append((f"Random flows in {word}, by family", HEADER, by_family(pairs, families, eps)))
        passed &= holds(pairs, ADJOINT) >= 0.999 and float(ratios(pairs, eps).median()) <= 100
    if not options.skip_trained:
        trained = trained_pairs(pairs_of)
        eps = torch.finfo(torch.float32).eps
        sections.append(("Trained flows in float32", HEADER, [line(name, each, eps) for name, each in trained.items()]))
        passed &= holds(torch.cat([*trained.values()]), ADJOINT) >= 0.999
    if not options.skip_cost:
        cost = costs()
        sections.append(("CPU time in evaluations of f", ["", "cost"], [[k, f"{v:.1f}"] for k, v in cost.items()]))
        data["cost"] = cost
        passed &= max(cost.values()) <= 10
    data["tables"] = [{"title": title, "header": header, "rows": rows} for title, header, rows in sections]
    text = "\n\n".join(f"{title}:\n\n{_record.table(header, rows)}" for title, header, rows in sections)
    _record.write(options.out, "digits", "Predicted and true errors of inverses", text, data)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
