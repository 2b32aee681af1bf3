"""How far does power iteration under-estimate operator norms, and what do certified bounds cost instead?

python benchmarks/lipschitz_certificates.py [--samples 20] [--rounds 7] [--skip-times]

Norms of random and trained-like matrices and of convolutions at their image size, the truth from dense SVDs in float64.
Power iteration takes 1, 5 or 50 steps from a random start, or stops by the rule of residual-flows and normflows
(change of u and v below 1e-3 (1 + largest entry), 200 steps at most); it keeps its vectors from one training step to
the next, so that it does better while weights move slowly, and no better on the first call, after a load, or when they
jump. Matrices of "pile-up" have half of their singular values within 1 % of the largest, as normalised training leaves
them. The certified bounds are those of `LipschitzLinear` and `LipschitzConv2d`. Times are those of one normalisation of
a weight that has changed, without gradients. Exit status 1 if a certified bound lies below a norm.
"""

import math
import statistics
import sys
import warnings
from collections.abc import Callable

import _record
import torch
from _timing import interleaved
from torch import Tensor, nn
from torch.nn import functional

from invertible.blocks.lipschitz import LipschitzConv2d, LipschitzLinear

STEPS = (1, 5, 50)
RULE = "1e-3"
SHAPES = ((32, 32), (128, 128), (128, 2), (384, 256))
CONVOLUTIONS = [(size, kernel, stride) for size in (8, 16) for kernel in (1, 3, 5) for stride in (1, 2)]
WIDTHS = (32, 64, 128, 256, 512)
IMAGES = [(channels, size) for channels in (16, 32, 64, 128) for size in (8, 32)]


def spectrum(m: int, n: int, values: Callable[[Tensor], Tensor]) -> Tensor:
    """A matrix of given singular values, functions of 1, 2, 3, ..."""
    count = min(m, n)
    left, _ = torch.linalg.qr(torch.randn(m, count, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(n, count, dtype=torch.float64))
    return (left * values(torch.arange(1, count + 1, dtype=torch.float64))) @ right.T


MATRICES: dict[str, Callable[[int, int], Tensor]] = {
    "Gaussian": lambda m, n: torch.randn(m, n, dtype=torch.float64),
    "decaying spectrum, k^-1/2": lambda m, n: spectrum(m, n, lambda k: k**-0.5),
    "pile-up": lambda m, n: spectrum(m, n, lambda k: torch.where(k <= len(k) / 2, 1 - 0.02 * k / len(k), 1 / k)),
}


def power(forward: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor], v: Tensor) -> dict[str, float]:
    """Estimates u^T W v of the norm after some numbers of steps, and where residual-flows stops."""
    found: dict[str, float] = {}
    v, u = v / v.norm(), forward(v)
    u = torch.randn_like(u)
    u = u / u.norm()
    for step in range(1, 201):
        before = u, v
        u = forward(v)
        u = u / u.norm()
        v = back(u)
        v = v / v.norm()
        estimate = float((u * forward(v)).sum())
        if step in STEPS:
            found[str(step)] = estimate
        moved = [float((new - old).norm()) / new.numel() ** 0.5 for new, old in zip((u, v), before, strict=True)]
        if RULE not in found and all(m < 1e-3 * (1 + float(x.max())) for m, x in zip(moved, (u, v), strict=True)):
            found[RULE] = estimate
        if len(found) > len(STEPS):
            break
    return found | {RULE: found.get(RULE, estimate)}


@torch.no_grad()
def of_matrix(make: Callable[[int, int], Tensor], shape: tuple[int, int]) -> dict[str, float]:
    """Estimates and the certified bound over the true norm."""
    weight = make(*shape)
    layer = LipschitzLinear(shape[1], shape[0])
    layer.weight.data = weight.float()
    weight = layer.weight.double()
    true = float(torch.linalg.matrix_norm(weight, 2))
    found = power(lambda v: weight @ v, lambda u: weight.T @ u, torch.randn(shape[1], dtype=torch.float64))
    found["certified"] = layer.certificate(layer.weight).bound
    return {name: value / true for name, value in found.items()}


@torch.no_grad()
def of_convolution(channels: int, size: int, kernel: int, stride: int, *, smooth: bool) -> dict[str, float]:
    """Estimates and the certified bound over the true norm, for a random kernel or one whose taps have one sign."""
    layer = LipschitzConv2d(channels, channels, kernel, stride=stride, padding=kernel // 2, bias=False)
    if smooth:
        nn.init.uniform_(layer.weight, -0.2, 1.0)
    weight = layer.weight.double()
    options = {"stride": stride, "padding": kernel // 2}

    def forward(v: Tensor) -> Tensor:
        return functional.conv2d(v, weight, **options)

    image = torch.randn(1, channels, size, size, dtype=torch.float64)
    left = size + 2 * (kernel // 2) - kernel - (forward(image).shape[2] - 1) * stride

    def back(u: Tensor) -> Tensor:
        return functional.conv_transpose2d(u, weight, output_padding=left, **options)

    eye = torch.eye(image.numel(), dtype=torch.float64).view(-1, *image.shape[1:])
    true = float(torch.linalg.matrix_norm(forward(eye).flatten(1), 2))
    found = power(forward, back, image)
    found["certified"] = layer.certificate(layer.weight, (size, size)).bound
    return {name: value / true for name, value in found.items()}


def errors(samples: int) -> dict[str, list[dict[str, float]]]:
    """All ratios to the true norm."""
    found = {}
    for name, make in MATRICES.items():
        for shape in SHAPES:
            found[f"{name}, {shape[0]} x {shape[1]}"] = [of_matrix(make, shape) for _ in range(samples)]
    for smooth in (False, True):
        for size, kernel, stride in CONVOLUTIONS:
            kind = "one sign" if smooth else "random"
            name = f"convolution, {kind}, {kernel} x {kernel}, stride {stride}, {size} x {size}"
            channels = 6 if size == 8 else 2
            found[name] = [
                of_convolution(channels, size, kernel, stride, smooth=smooth) for _ in range(max(2, samples // 3))
            ]
    return found


@torch.no_grad()
def times(rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of one normalisation by each."""
    found = {}
    for width in WIDTHS:
        found[f"linear, {width}"] = _medians(_linear(width), rounds)
    for channels, size in IMAGES:
        found[f"3 x 3, {channels} channels, {size} x {size}"] = _medians(_convolution(channels, size), rounds)
    return found


def _medians(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    for call in calls.values():
        call()
    seconds = interleaved(calls, rounds)
    return {name: 1e3 * statistics.median(each) for name, each in seconds.items()}


def _again(layer: LipschitzLinear | LipschitzConv2d, size: tuple[int, ...] = ()) -> Callable[[], object]:
    def call() -> object:
        layer.forget()
        return layer.weight_in_use(size)

    return call


def _linear(width: int) -> dict[str, Callable[[], object]]:
    from normflows.nets.lipschitz import InducedNormLinear

    ours = LipschitzLinear(width, width, lipschitz=0.5)
    by_rule = InducedNormLinear(width, width, n_iterations=None, atol=1e-3, rtol=1e-3)
    five = InducedNormLinear(width, width, n_iterations=5)
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(width, width))
    x = torch.randn(64, width)
    return {
        "certified": _again(ours),
        "certified, kept": ours.weight_in_use,
        "torch spectral_norm, 1 step": lambda: spectral.weight,
        "normflows, 5 steps": lambda: five.compute_weight(True),
        "normflows, 1e-3": lambda: by_rule.compute_weight(True),
        "dense SVD, float32": lambda: torch.linalg.svdvals(ours.weight),
        "layer itself, batch of 64": lambda: functional.linear(x, ours.weight, ours.bias),
    }


def _convolution(channels: int, size: int) -> dict[str, Callable[[], object]]:
    from normflows.nets.lipschitz import InducedNormConv2d

    ours = LipschitzConv2d(channels, channels, 3, padding=1, lipschitz=0.3)
    by_rule = InducedNormConv2d(channels, channels, 3, 1, 1, n_iterations=None, atol=1e-3, rtol=1e-3)
    five = InducedNormConv2d(channels, channels, 3, 1, 1, n_iterations=5)
    spectral = nn.utils.parametrizations.spectral_norm(nn.Conv2d(channels, channels, 3, padding=1))
    x = torch.randn(64, channels, size, size)
    # The first call tells them the size.
    five(x[:1])
    by_rule(x[:1])
    return {
        "certified": _again(ours, (size, size)),
        "certified, kept": lambda: ours.weight_in_use((size, size)),
        "torch spectral_norm, 1 step": lambda: spectral.weight,
        "normflows, 5 steps": lambda: five.compute_weight(True),
        "normflows, 1e-3": lambda: by_rule.compute_weight(True),
        "layer itself, batch of 64": lambda: functional.conv2d(x, ours.weight, ours.bias, padding=1),
    }


def _middle_and_worst(values: list[float]) -> str:
    ordered = sorted(values)
    return f"{100 * ordered[len(ordered) // 2]:.2g} / {100 * ordered[-1]:.2g}"


def _grouped(found: dict[str, list[dict[str, float]]]) -> dict[str, list[dict[str, float]]]:
    """Matrices by kind, convolutions by kind, kernel and image."""
    groups: dict[str, list[dict[str, float]]] = {}
    for name, each in found.items():
        parts = name.split(", ")
        key = f"{parts[1]} kernel {parts[2]}, image {parts[4]}" if parts[0] == "convolution" else ", ".join(parts[:-1])
        groups.setdefault(key, []).extend(each)
    return groups


def report(found: dict[str, list[dict[str, float]]], milliseconds: dict[str, dict[str, float]]) -> str:
    """The tables."""
    names = [*map(str, STEPS), RULE]
    header = ["", "norms", *(f"power iteration, {n} steps" for n in STEPS), "power iteration, 1e-3", "certified bound"]
    rows = []
    for key, each in _grouped(found).items():
        below = [_middle_and_worst([1 - ratios[name] for ratios in each]) for name in names]
        above = _middle_and_worst([ratios["certified"] - 1 for ratios in each])
        rows.append([key, len(each), *below, above])
    text = "Below the true norm, and for the certified bound above it, in per cent, median / worst:\n\n"
    text += _record.table(header, rows)
    lowest = min(ratios["certified"] for each in found.values() for ratios in each)
    text += f"\n\nThe least certified bound over its true norm: 1 + {lowest - 1:.2g}."
    if milliseconds:
        columns = list(dict.fromkeys(name for each in milliseconds.values() for name in each))
        lines = [[key, *(f"{each[c]:.3g}" if c in each else "" for c in columns)] for key, each in milliseconds.items()]
        text += (
            "\n\nMilliseconds of processor time of one normalisation (torch's is of the kernel reshaped to a matrix, "
        )
        text += "which is not the convolution's norm):\n\n" + _record.table(["", *columns], lines)
    return text


def main() -> int:
    parser = _record.parser(__doc__)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--skip-times", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = errors(max(2, options.samples))
    milliseconds = {} if options.skip_times else times(max(1, options.rounds))
    where = _record.environment("invertible", "normflows")
    data = {"environment": where, "ratios to the true norm": found, "milliseconds": milliseconds}
    text = report(found, milliseconds)
    _record.write(options.out, "lipschitz-certificates", "Certified Lipschitz constants", text, data)
    # A dense SVD is right to rounding only.
    wrong = [r for each in found.values() for r in each if not 1 - 1e-12 <= r["certified"] < math.inf]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
