"""A training step of residual blocks against normflows', and what the log-determinant's gradient keeps in memory.

python benchmarks/residual_step.py [--rounds 15] [--blocks 16]

Same width, depth, batch, target constant and estimator (Russian roulette, geometric with p = 1/2, two exact terms, one
Gaussian probe, Neumann gradient); a step is forward, backward, fused Adam, and what either library does to keep its
constraint: ours certifies the new weights' norms, normflows runs five power iterations a layer, which bound nothing.
Processor time of one thread, interleaved, ratios within a round. Exit status 1 if a step is not 1.5 times as fast.

The gradient of normflows' log-determinant weighs all samples by the first one's weight (its backward takes
`grad_logdetgrad[0]`), which is right for a mean only; ours is right for any loss.
"""

import statistics
import sys
from collections.abc import Callable

import _record
import _timing
import normflows as nf
import torch
from _allocator import keep_warm
from torch import Tensor, nn

from invertible.blocks.lipschitz import LipschitzConvNet, LipschitzMLP
from invertible.blocks.residual import ExactLogDet, LogDet, PowerSeries, ResidualBlock, RussianRoulette

PROMISED = 1.5
LIPSCHITZ, POWER_ITERATIONS = 0.9, 5
ROULETTE = RussianRoulette("geometric", 0.5, exact_terms=2, probe="gaussian")
THEIRS, OURS, EXACT = "normflows", "roulette", "exact"
# Name: features or channels, hidden widths, shape of a batch.
CASES: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    "2-D, 128 x 3, batch 256": (2, (128, 128, 128), (256, 2)),
    "2-D, 128 x 3, batch 512": (2, (128, 128, 128), (512, 2)),
    "digits, 64-D, 128 x 3, batch 256": (64, (128, 128, 128), (256, 64)),
    "images, 4 x 8 x 8, 64 channels, batch 64": (4, (64, 64), (64, 4, 8, 8)),
}
TERMS = (1, 4, 16, 64)

Block = Callable[[Tensor], tuple[Tensor, Tensor]]


def ours(width: int, hidden: tuple[int, ...], shape: tuple[int, ...], log_det: LogDet) -> nn.Module:
    """One of our blocks."""
    net = LipschitzMLP if len(shape) == 2 else LipschitzConvNet
    return ResidualBlock(net(width, hidden, lipschitz=LIPSCHITZ, preactivation=True), log_det=log_det)


def theirs(width: int, hidden: tuple[int, ...], shape: tuple[int, ...]) -> nn.Module:
    """One of theirs, every layer with the n-th root of the constant."""
    widths = [width, *hidden, width]
    constant = LIPSCHITZ ** (1 / (len(widths) - 1))
    options = {"init_zeros": False, "lipschitz_const": constant, "max_lipschitz_iter": POWER_ITERATIONS}
    if len(shape) == 2:
        net = nf.nets.LipschitzMLP(widths, **options)
    else:
        net = nf.nets.LipschitzCNN(widths, [3, 1, 3], lipschitz_tolerance=None, **options)
    return nf.flows.Residual(net, reverse=False, reduce_memory=True, geom_p=0.5, n_exact_terms=2, n_samples=1)


def training_step(blocks: nn.ModuleList, x: Tensor) -> Callable[[], None]:
    """One step on the same batch again and again."""
    optimizer = torch.optim.Adam(blocks.parameters(), 1e-4, fused=True)
    foreign = not isinstance(blocks[0], ResidualBlock)

    def step() -> None:
        z, total = x, torch.zeros(len(x))
        for block in blocks:
            z, log_det = block(z)
            total = total + log_det
        optimizer.zero_grad()
        (z.flatten(1).square().sum(1) / 2 - total).mean().backward()
        optimizer.step()
        if foreign:
            nf.utils.optim.update_lipschitz(blocks, POWER_ITERATIONS)

    return step


def time_case(name: str, blocks: int, rounds: int) -> dict:
    """Medians of all competitors."""
    width, hidden, shape = CASES[name]
    x = torch.randn(shape)
    makers: dict[str, Callable[[], nn.Module]] = {
        THEIRS: lambda: theirs(width, hidden, shape),
        OURS: lambda: ours(width, hidden, shape, ROULETTE),
    }
    if width == 2:
        makers[EXACT] = lambda: ours(width, hidden, shape, ExactLogDet())
    calls = {}
    for label, make in makers.items():
        torch.manual_seed(0)
        calls[label] = training_step(nn.ModuleList(make() for _ in range(blocks)).train(), x)
        calls[label]()
    seconds = _timing.interleaved(calls, rounds)
    ratios = {label: _timing.median_ratio(seconds[THEIRS], times) for label, times in seconds.items()}
    return {
        "case": name,
        "blocks": blocks,
        "milliseconds": {label: 1e3 * statistics.median(times) for label, times in seconds.items()},
        "times as fast": ratios,
    }


def peaks() -> list[dict]:
    """High water of a forward and backward pass of one block by number of terms."""
    found = []
    for terms in TERMS:
        row: dict = {"terms": terms}
        for gradient in ("neumann", "autograd"):
            torch.manual_seed(0)
            net = LipschitzConvNet(4, (64, 64), preactivation=True)
            block, x = ResidualBlock(net, log_det=PowerSeries(terms), gradient=gradient), torch.randn(64, 4, 8, 8)

            def run(block: ResidualBlock = block, x: Tensor = x) -> None:
                y, log_det = block(x)
                (y.square().sum() - log_det.sum()).backward()

            run()
            row[gradient] = _timing.peak_bytes(run)
        found.append(row)
    return found


def report(cases: list[dict], memory: list[dict]) -> str:
    """The tables."""
    rows = []
    for case in cases:
        times, ratios = case["milliseconds"], case["times as fast"]
        cells = [f"{times[label]:.0f} ms ({ratios[label]:.2f} x)" if label in times else "" for label in (OURS, EXACT)]
        rows.append([case["case"], case["blocks"], f"{times[THEIRS]:.0f} ms", *cells])
    text = _record.table(["", "blocks", THEIRS, "ours, same estimator", "ours, exact"], rows)
    text += "\n\nPeak memory of a pass forward and backward, images of 4 x 8 x 8, 64 channels, batch 64:\n\n"
    rows = [[row["terms"], *(f"{row[name] / 2**20:.1f} MiB" for name in ("neumann", "autograd"))] for row in memory]
    return text + _record.table(["terms of the series", "Neumann gradient", "through the series"], rows)


def main() -> int:
    parser = _record.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--blocks", type=int, default=16)
    options = parser.parse_args()
    keep_warm()
    torch.set_num_threads(1)
    cases = [time_case(name, options.blocks, options.rounds) for name in CASES]
    memory = peaks()
    data = {"environment": _record.environment("invertible", "normflows"), "cases": cases, "memory": memory}
    _record.write(options.out, "residual-step", "Training steps of residual blocks", report(cases, memory), data)
    return 0 if all(case["times as fast"][OURS] >= PROMISED for case in cases) else 1


if __name__ == "__main__":
    sys.exit(main())
