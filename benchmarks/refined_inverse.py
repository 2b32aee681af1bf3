"""What does refining an inverse gain? Errors of refined float32 inverses against that of float64, by condition number.

python benchmarks/refined_inverse.py [--networks 66] [--sweeps 8] [--skip-costs]

Random float32 flows of 8 to 32 couplings on 8 or 16 features, their noise scaled so that the median condition number of
the Jacobian is 1e2 to 1e12; x is drawn, y = f(x) taken in float64. The error of an inverse is its largest relative
error of 16 samples. The truth itself is known to the rounding of y, which the float64 inverse, the measure of all,
suffers as well. Exit status 1 if the refined inverse of a network misses ten times the error of float64 after 5 sweeps.
"""

import copy
import math
import sys
import time
from collections.abc import Callable

import _record
import torch
from torch import Tensor

import invertible as inv
from invertible.stability.refine import checked_inverse
from invertible.stability.shooting import Shooting
from invertible.stability.states import derivative

SAMPLES, PROMISED_SWEEPS, PROMISED_RATIO = 16, 5, 10.0
LOST = 0.1
DECADES = range(2, 13)
SCALES = ("tanh-exp", "half-sigmoid", "softclamp", "symmetric-sigmoid")


def random_chain(seed: int) -> tuple[inv.Chain, int, list[Tensor]]:
    """A flow, its number of features, and noise for its couplings' parameters."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    features = (8, 16)[seed % 2]
    depth = (8, 16, 24, 32)[int(torch.randint(4, (), generator=generator))]
    scale = SCALES[int(torch.randint(len(SCALES), (), generator=generator))]
    blocks: list[inv.Bijection] = []
    for index in range(depth):
        order = ("realnvp", "glow")[index % 3 == 0]
        coupling = inv.AffineCoupling(features, hidden=(32,), scale=scale, order=order, flip=index % 2 == 1)
        blocks += [inv.InvertibleLinear(features, ("orthogonal", "plu")[index % 4 == 0]), coupling]
    chain = inv.Chain(*blocks).eval()
    noise = [
        torch.randn(p.shape, generator=generator) / math.sqrt(max(1, math.prod(p.shape[1:])))
        for block in blocks[1::2]
        for p in block.parameters()
    ]
    return chain, features, noise


@torch.no_grad()
def with_condition(seed: int, wished: float) -> tuple[inv.Chain, Tensor, float]:
    """A flow whose median condition number is near the wished one, inputs in float64, and the number itself."""
    chain, features, noise = random_chain(seed)
    parameters = [p for block in list(chain)[1::2] for p in block.parameters()]
    start = [p.clone() for p in parameters]
    x = torch.randn(SAMPLES, features, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    low, high, found = math.log(0.02), math.log(8.0), math.nan
    for _ in range(9):
        middle = (low + high) / 2
        for p, at, by in zip(parameters, start, noise, strict=True):
            p.copy_(at + math.exp(middle) * by)
        found = condition(chain, x[:5])
        low, high = (middle, high) if found < wished else (low, middle)
    return chain, x, found


def condition(chain: inv.Chain, x: Tensor) -> float:
    """Median condition number of the Jacobians, in float64; infinite if a Jacobian is not finite."""
    double = copy.deepcopy(chain).double()
    jacobians = torch.func.vmap(torch.func.jacfwd(lambda v: double(v[None])[0][0]))(x)
    return float(torch.linalg.cond(jacobians).median()) if bool(jacobians.isfinite().all()) else math.inf


def worst_error(found: Tensor, x: Tensor) -> float:
    """Largest relative error of a sample, infinite where it is not finite."""
    error = (found.double() - x).norm(dim=1) / x.norm(dim=1)
    return float(error.nan_to_num(nan=math.inf).max())


@torch.no_grad()
def single_shooting(chain: inv.Chain, double: inv.Chain, y: Tensor, steps: int) -> Tensor:
    """x <- x + J^-1(y) (y - f(x)), without a guard."""
    x = chain.inverse(y.float())[0].double()
    for _ in range(steps):
        miss = (y - double(x)[0]).float()
        _, along = derivative(lambda state, _: (chain.inverse(state[0])[0],), (y.float(),), (miss,), None)
        x = x + along[0].double()
    return x


@torch.no_grad()
def measure(seed: int, wished: float, sweeps: int) -> dict:
    """All inverses of one network."""
    chain, x, found = with_condition(seed, wished)
    double = copy.deepcopy(chain).double()
    y = double(x)[0]
    shooting = Shooting(chain, double, None, torch.float32, torch.float64)
    path = shooting.trajectory(y, precise=False)
    assert path is not None
    by_sweep = []
    for _ in range(sweeps):
        path = shooting.sweep(path)
        by_sweep.append(worst_error(path.x, x))
    checked = checked_inverse(chain, y, method="shooting", sweeps=PROMISED_SWEEPS, on_failure="return")
    error = (checked.x - x).norm(dim=1) / x.norm(dim=1)
    return {
        "seed": seed,
        "wished": wished,
        "condition": found,
        "blocks": len(chain),
        "float32": worst_error(chain.inverse(y.float())[0], x),
        "float64": worst_error(double.inverse(y)[0], x),
        "single shooting": worst_error(single_shooting(chain, double, y, PROMISED_SWEEPS), x),
        "sweeps": by_sweep,
        "checked": worst_error(checked.x, x),
        "errors": error.tolist(),
        "estimates": checked.error.tolist(),
        "worse than the start": int((checked.residual > checked.start_residual).sum()),
    }


def seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """Processor time of the shortest of several calls, so that other work on the machine does not count."""
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


@torch.no_grad()
def costs() -> dict[str, dict[str, float]]:
    """Seconds of an inverse, and of the others in units of it."""
    builders = {
        "realnvp, 64 features, 256 samples": (lambda: inv.models.realnvp(64), (256, 64)),
        "glow, 3 x 16 x 16, depth 4, 16 samples": (
            lambda: inv.models.glow((3, 16, 16), levels=2, depth=4, hidden=64),
            (16, 3, 16, 16),
        ),
    }
    found = {}
    for name, (build, shape) in builders.items():
        torch.manual_seed(0)
        f = build().bijection
        y = f(torch.rand(shape))[0]
        f.eval()
        double, y64 = copy.deepcopy(f).double(), y.double()
        checked = lambda f=f, y=y, **options: checked_inverse(f, y, on_failure="return", **options)  # noqa: E731
        plain = seconds(lambda f=f, y=y: f.inverse(y))
        found[name] = {
            "plain inverse, seconds": plain,
            "float64 inverse": seconds(lambda f=double, y=y64: f.inverse(y)) / plain,
            "checked, plain passes": seconds(lambda checked=checked: checked()) / plain,
            "checked, all refined in float64": seconds(lambda checked=checked: checked(method="float64")) / plain,
            "checked, 2 sweeps": seconds(lambda checked=checked: checked(method="shooting", sweeps=2)) / plain,
            "checked, 5 sweeps": seconds(lambda checked=checked: checked(method="shooting", sweeps=5)) / plain,
        }
    return found


def middle_and_worst(values: list[float]) -> str:
    """Median and largest."""
    ordered = sorted(values)
    return f"{ordered[len(ordered) // 2]:.0e} / {ordered[-1]:.0e}"


def row(decade: int, found: list[dict], sweeps: int) -> list:
    """A line of the table: all networks of one wished condition number."""
    columns = [[each[name] for each in found] for name in ("float32", "float64", "single shooting")]
    columns += [[each["sweeps"][k] for each in found] for k in (0, 1, 2, PROMISED_SWEEPS - 1, sweeps - 1)]
    ratios = [each["sweeps"][PROMISED_SWEEPS - 1] / each["float64"] for each in found]
    return [f"1e{decade}", len(found), *map(middle_and_worst, columns), f"{max(ratios):.1f}"]


def report(found: list[dict], costs_of: dict[str, dict[str, float]], sweeps: int) -> str:
    """The tables."""
    by_decade = {d: [each for each in found if each["wished"] == 10.0**d] for d in DECADES}
    titles = ["condition", "networks", "float32", "float64", "single shooting, 5 steps"]
    titles += [f"{k} sweeps" for k in (1, 2, 3, PROMISED_SWEEPS, sweeps)] + ["worst ratio to float64, 5 sweeps"]
    text = "Largest relative error of 16 samples, median / worst over networks:\n\n"
    text += _record.table(titles, [row(d, each, sweeps) for d, each in by_decade.items() if each])
    # Beyond, an estimate relative to the x that was found tells no more than that nothing is left.
    pairs = [pair for each in found for pair in zip(each["estimates"], each["errors"], strict=True) if pair[1] < LOST]
    ratios = sorted(estimate / max(error, torch.finfo(torch.float64).eps) for estimate, error in pairs)
    least, low, median, high = (ratios[int(part * (len(ratios) - 1))] for part in (0, 0.01, 0.5, 0.99))
    text += (
        f"\n\nEstimated over true error, {len(ratios)} samples with an error below {LOST}: least {least:.2g}, "
        f"1 % {low:.2g}, median {median:.2g}, 99 % {high:.2g}. "
        f"Samples worse than the start: {sum(each['worse than the start'] for each in found)}."
    )
    if costs_of:
        names = list(next(iter(costs_of.values())))
        rows = [[model, *(f"{each[name]:.3g}" for name in names)] for model, each in costs_of.items()]
        text += "\n\nProcessor time in units of the plain inverse:\n\n" + _record.table(["", *names], rows)
    return text


def main() -> int:
    parser = _record.parser(__doc__)
    parser.add_argument("--networks", type=int, default=66)
    parser.add_argument("--sweeps", type=int, default=8)
    parser.add_argument("--skip-costs", action="store_true")
    options = parser.parse_args()
    sweeps = max(options.sweeps, PROMISED_SWEEPS)
    torch.set_num_threads(1)
    found = [measure(seed, 10.0 ** DECADES[seed % len(DECADES)], sweeps) for seed in range(max(1, options.networks))]
    measured_costs = {} if options.skip_costs else costs()
    data = {"environment": _record.environment("invertible"), "networks": found, "costs": measured_costs}
    text = report(found, measured_costs, sweeps)
    _record.write(options.out, "refined-inverse", "Refined inverses", text, data)
    missed = [e for e in found if e["sweeps"][PROMISED_SWEEPS - 1] > PROMISED_RATIO * e["float64"]]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
