"""Memory and time of a training step of the i-RIM, against its steps and its layers.

python benchmarks/irim_memory.py [--device cuda] [--size 64] [--rounds 9] [--parts steps layers time] [--quick]
python benchmarks/irim_memory.py --published

A machine of 16 channels on single-coil scans, whose layers downsample by 1, 2, 4, 2, 1 and so on. First 12 layers a
step and T = 1 to 32 steps, then 4 steps and 12 to 480 layers in all: bytes held between forward and backward pass, and
the peak above parameters and gradients, stored and rebuilt from the output. Rebuilt, the peak may not grow by more than
5 % over a table, and stored it grows in proportion. Then the time of a step beside the stored one, rounds interleaved,
of that machine and of the preset that trains on a CPU, whose layers compute for longer than they are dispatched: of the
latter at most 1.45. Exit status 1 if one is missed.

`--published` runs one training step of the single-coil configuration of the fastMRI challenge, 275 million parameters,
and nothing else: its peak and its seconds.

On the CPU bytes come from the allocator's events, on a GPU from its statistics.
"""

import argparse
import resource
import statistics
import sys
import time

import _record
import torch
from _allocator import keep_warm
from _timing import interleaved, median_ratio

import invertible as inv
from invertible.models.irim import irim
from invertible.models.reconstructor import Reconstructor
from invertible.physics.mri import CartesianMRI
from invertible.physics.operator import Observation
from invertible.reproduce.allocations import held_and_peak

STRATEGIES = {
    "store": "store",
    "checkpoint": "checkpoint",
    "reversible": "reversible",
    "reversible, no guard": inv.memory.Reversible(guard=False),
}
PARTS = ["steps", "layers", "time"]
WITHIN, SLOWEST = 0.05, 1.45
FACTORS = (1, 2, 4, 2, 1)
A_STEP, STEPS = 12, 4
NARROW, SMALL = "16 channels, batch 1", "the preset 'small', batch 4"


def scan(options: argparse.Namespace, batch: int, context: int) -> Observation:
    """A quarter of the columns of random images."""
    generator = torch.Generator().manual_seed(0)
    size = options.size
    x = torch.randn(batch, 2, size, size, generator=generator).to(options.device)
    mask = torch.zeros(1, 1, 1, size, dtype=torch.bool)
    mask[..., ::4], mask[..., size // 2 - 2 : size // 2 + 2] = True, True
    operator = CartesianMRI(mask).to(options.device)
    return Observation(operator, operator(x), torch.zeros(batch, context, device=options.device))


class Step:
    """A training step, with gradients that exist already."""

    def __init__(
        self, model: Reconstructor, strategy: str, options: argparse.Namespace, *, batch: int = 1, context: int = 0
    ) -> None:
        self.model, self.observation = model.to(options.device), scan(options, batch, context)
        model.validate = False
        inv.set_memory(model, STRATEGIES[strategy])

    def forward(self) -> torch.Tensor:
        """The loss."""
        return self.model(self.observation).square().mean()

    def run(self) -> None:
        """Forward and backward."""
        self.forward().backward()
        if self.observation.data.is_cuda:
            torch.cuda.synchronize()

    def memory(self) -> tuple[int, int]:
        """Bytes held between the passes, and at the peak."""
        return held_and_peak(self.forward, str(self.observation.data.device))


def machine(steps: int, layers: int) -> Reconstructor:
    """T steps of so many layers each."""
    torch.manual_seed(0)
    factors = tuple(FACTORS[index % len(FACTORS)] for index in range(layers))
    return irim(channels=16, hidden=(16,) * layers, factors=factors, steps=steps)


def sweep(what: str, sizes: list[tuple[int, int]], options: argparse.Namespace) -> list[dict]:
    """Memory at every size, and how much the peak has grown since the first."""
    found: list[dict] = []
    for strategy in ("store", "checkpoint", "reversible"):
        first = 0
        for steps, layers in sizes:
            step = Step(machine(steps, layers), strategy, options)
            for _ in range(2):
                step.run()
            held, peak = step.memory()
            first = first or peak
            row = {"table": what, "strategy": strategy, "steps": steps, "layers": steps * layers, "held": held}
            found.append(row | {"peak": peak, "growth": peak / first - 1})
            print(found[-1], flush=True)
    return found


def times(options: argparse.Namespace) -> list[dict]:
    """Time beside the stored step."""
    machines = {NARROW: lambda: machine(STEPS, 5), SMALL: lambda: irim("small", steps=2)}
    found = []
    for name, make in machines.items():
        batch = 4 if name == SMALL else 1
        made = {strategy: Step(make(), strategy, options, batch=batch) for strategy in STRATEGIES}
        for step in made.values():
            for _ in range(2):
                step.run()
        seconds = interleaved({strategy: step.run for strategy, step in made.items()}, options.rounds)
        for strategy, own in seconds.items():
            ratio = median_ratio(own, seconds["store"])
            found.append({"machine": name, "strategy": strategy, "seconds": statistics.median(own), "ratio": ratio})
            print(found[-1], flush=True)
    return found


def published(options: argparse.Namespace) -> dict:
    """One training step of the single-coil challenge configuration."""
    torch.manual_seed(0)
    start = time.perf_counter()
    model = irim("single-coil")
    built = time.perf_counter() - start
    step = Step(model, "reversible", options, context=8)
    step.run()
    start, clock = time.perf_counter(), time.process_time()
    step.run()
    seconds, cpu = time.perf_counter() - start, time.process_time() - clock
    held, peak = step.memory()
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "parameters": parameters, "built": built, "seconds": seconds, "cpu seconds": cpu, "held": held, "peak": peak,
        "alarms": inv.memory.report(model).alarms,
        "resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "finite": all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None),
    }  # fmt: skip


def mib(size: int) -> str:
    """Bytes as a text."""
    return f"{size / 2**20:.2f}"


def page(rows: list[dict], ratios: list[dict]) -> str:
    """The tables."""
    parts = []
    for what in dict.fromkeys(row["table"] for row in rows):
        own = [row for row in rows if row["table"] == what]
        lines = [
            [r["strategy"], r["steps"], r["layers"], mib(r["held"]), mib(r["peak"]), f"{r['growth']:+.1%}"] for r in own
        ]
        header = ["strategy", "steps", "layers in all", "held, MiB", "peak, MiB", "growth of the peak"]
        parts.append(f"{what}\n\n{_record.table(header, lines)}")
    if ratios:
        lines = [[r["machine"], r["strategy"], f"{r['seconds']:.3f}", f"{r['ratio']:.2f}"] for r in ratios]
        parts.append(_record.table(["machine", "strategy", "seconds", "x stored"], lines))
    return "\n\n".join(parts)


def page_of_published(found: dict) -> str:
    """The quantities of one step."""
    lines = [
        [name, f"{mib(value)} MiB" if name in ("held", "peak", "resident") else value] for name, value in found.items()
    ]
    return _record.table(["quantity", "value"], lines)


def main() -> int:
    parser = _record.parser(__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--size", type=int, default=64, help="height and width")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--quick", action="store_true", help="up to 4 steps and 48 layers")
    parser.add_argument("--published", action="store_true", help="one step of 275 million parameters, nothing else")
    options = parser.parse_args()
    keep_warm()
    torch.set_num_threads(1)
    setting = f"{options.size} x {options.size}, float32, {options.device}."
    where = _record.environment("invertible")
    if options.published:
        found = published(options)
        text = f"Batch 1, {setting} memory='reversible'.\n\n{page_of_published(found)}"
        data = {"environment": where, "published": found}
        _record.write(options.out, "irim-published", "A training step of the published i-RIM", text, data)
        return 0 if found["finite"] else 1
    steps = [1, 2, 4] if options.quick else [1, 2, 4, 8, 16, 32]
    layers = [3, 12] if options.quick else [3, 12, 30, 60, 120]
    rows = []
    if "steps" in options.parts:
        rows += sweep(f"{A_STEP} layers a step, batch 1:", [(count, A_STEP) for count in steps], options)
    if "layers" in options.parts:
        rows += sweep(f"{STEPS} steps, batch 1:", [(STEPS, count) for count in layers], options)
    ratios = times(options) if "time" in options.parts else []
    missed = [row for row in rows if row["strategy"] == "reversible" and abs(row["growth"]) > WITHIN]
    missed += [r for r in ratios if r["strategy"] == "reversible" and r["machine"] == SMALL and r["ratio"] > SLOWEST]
    verdict = f"Missed: {missed}" if missed else f"Rebuilt, all within {WITHIN:.0%} and {SLOWEST} x."
    data = {"environment": where, "rows": rows, "times": ratios, "missed": missed}
    text = f"{setting}\n\n{page(rows, ratios)}\n\n{verdict}"
    _record.write(options.out, "irim-memory", "Memory of the i-RIM", text, data)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
