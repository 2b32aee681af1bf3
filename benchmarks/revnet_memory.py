"""Memory and time of a training step of RevNet and ResNet under every memory strategy.

python benchmarks/revnet_memory.py [--device cuda] [--depths 38 110 164] [--batch 8] [--rounds 3] [--quick]

First the published networks, RevNet-38, 110, 164 beside ResNet-32, 110, 164 at 32 x 32 (with `--depths 56 104` 56
and 104 beside ResNet-50 and 101 at 224 x 224): bytes held between forward and backward pass, the peak above parameters
and gradients, and the seconds of a step, rounds interleaved. `paper` is what Gomez et al. (2017) keep: the inputs of
every stage's first unit, and the last state.

Then a RevNet of 1,000 units and one of 10, at one width, batch and stage, at their initialisation: the peak of
activation memory must not differ by more than 5 % (exit status 1 otherwise), but for the states that the guard keeps
where float32 has lost more than its tolerance of an input; and the angle between the gradient and the stored one.

On the CPU bytes come from the allocator's events, on a GPU from its statistics.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from pathlib import Path

import _record
import torch
from _allocator import keep_warm
from torch import nn
from torch.nn import functional

import invertible as inv
from invertible.models.revnet import PUBLISHED
from invertible.reproduce.allocations import held_and_peak
from invertible.stability.angles import angle

BASELINE = {38: 32, 110: 110, 164: 164, 56: 50, 104: 101}
STRATEGIES = {
    "store": "store",
    "checkpoint": "checkpoint",
    "recursive": "recursive",
    "reversible": "reversible",
    "reversible, no guard": inv.memory.Reversible(guard=False),
    "exact": "exact",
}
WITHIN = 0.05


class Step:
    """A training step on random images, with gradients that exist already."""

    def __init__(self, model: nn.Module, memory: object, options: argparse.Namespace, like: inv.Classifier) -> None:
        self.model, self.device = copy.deepcopy(model).to(options.device), options.device
        if memory is not None:
            self.model.validate = False
            inv.set_memory(self.model, memory)
        generator = torch.Generator().manual_seed(0)
        self.x = torch.rand(options.batch, *like.shape, generator=generator).to(options.device)
        self.y = torch.randint(like.classes, (options.batch,), generator=generator).to(options.device)
        for _ in range(2):
            self.run()

    def forward(self) -> torch.Tensor:
        """The loss."""
        return functional.cross_entropy(self.model(self.x), self.y)

    def run(self) -> float:
        """Seconds of one step."""
        self._synchronise()
        # CPU time leaves out what other programs took of a core.
        clock = time.perf_counter if self.device == "cuda" else time.process_time
        start = clock()
        self.forward().backward()
        self._synchronise()
        return clock() - start

    def _synchronise(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def memory(self) -> tuple[int, int]:
        """Bytes held between the passes, and at the peak."""
        return held_and_peak(self.forward, self.device)


@torch.no_grad()
def paper(depth: int) -> int:
    """Numbers an image at the borders of the stages."""
    with torch.device("meta"):
        body, borders = network(depth).eval().body, 0
        state = torch.zeros(1, *network(depth).shape)
        for index, block in enumerate(body):
            # The first unit stands behind standardisation and stem; a stage's first unit else is no bijection.
            if index == 2 or (index > 2 and not isinstance(block, inv.Bijection)):
                borders += state.numel()
            state = block(state)[0] if isinstance(block, inv.Bijection) else block(state)
        return borders + state.numel()


def network(depth: int) -> inv.Classifier:
    """RevNet with the classes of its data."""
    return inv.models.revnet(depth, classes=1000 if depth in (56, 104) else 10)


def steps_of(depth: int, options: argparse.Namespace) -> dict[tuple[str, str], Step]:
    """RevNet under every strategy, and ResNet stored and checkpointed."""
    torch.manual_seed(0)
    revnet = network(depth)
    resnet = inv.models.resnet(BASELINE[depth], classes=revnet.classes)
    made = {(f"RevNet-{depth}", name): Step(revnet, memory, options, revnet) for name, memory in STRATEGIES.items()}
    for name in ("store", "checkpoint"):
        made[(f"ResNet-{BASELINE[depth]}", name)] = Step(resnet, name, options, revnet)
    theirs = memcnn_revnet(depth)
    if theirs is not None:
        made[(f"MemCNN's RevNet-{depth}", "theirs")] = Step(theirs, None, options, revnet)
    return made


def memcnn_revnet(depth: int) -> nn.Module | None:
    """MemCNN's, whose strided units are those of a ResNet with full width; `None` if it is not installed."""
    try:
        from memcnn import InvertibleModuleWrapper
        from memcnn.models.resnet import ResNet, RevBasicBlock, RevBottleneck
    except ImportError:
        return None
    if depth not in (38, 110, 164):
        return None
    own = PUBLISHED[depth]
    block = RevBottleneck if own.bottleneck else RevBasicBlock
    made = ResNet(block, list(own.units), 10, list(own.filters), [1, 1, 2, 2], init_kernel_size=3)
    first = next(each for each in made.modules() if isinstance(each, InvertibleModuleWrapper))
    # As it comes it frees the output of the first ReLU, which that needs for its own backward: an error in torch 2.13.
    first.keep_input = True
    return made


def published(options: argparse.Namespace) -> list[dict]:
    """The first table."""
    found = []
    for depth in options.depths:
        made = steps_of(depth, options)
        seconds: dict[tuple[str, str], list[float]] = {key: [] for key in made}
        for _ in range(options.rounds):
            for key, step in made.items():
                seconds[key].append(step.run())
        stored = seconds[(f"RevNet-{depth}", "store")]
        for (network, strategy), step in made.items():
            held, peak = step.memory()
            own = seconds[(network, strategy)]
            found.append({
                "network": network, "strategy": strategy, "held": held, "peak": peak,
                "seconds": statistics.median(own), "paper": 4 * options.batch * paper(depth),
                "ratio": statistics.median(a / b for a, b in zip(own, stored, strict=True)),
            })  # fmt: skip
            print(found[-1], flush=True)
    return found


def deep(units: int, strategy: str, options: argparse.Namespace) -> dict:
    """One stage of so many units, 32 channels at 32 x 32."""
    torch.manual_seed(0)
    model = inv.models.revnet(units=(units,), filters=(32, 32))
    options = argparse.Namespace(device=options.device, batch=options.deep_batch)
    step = Step(model, STRATEGIES[strategy], options, model)
    held, peak = step.memory()
    kept = len(inv.memory.report(step.model).quarantined)
    stored = inv.memory.Exact(keep="store") if strategy == "exact" else "store"
    expected = gradient(Step(model, stored, options, model))
    found = gradient(Step(model, STRATEGIES[strategy], options, model))
    degrees = angle("gradient", [expected], [found]).degrees
    return {"units": units, "strategy": strategy, "held": held, "peak": peak, "kept": kept, "degrees": degrees}


def gradient(step: Step) -> torch.Tensor:
    """The whole gradient of one step more."""
    step.model.zero_grad(set_to_none=True)
    step.run()
    return torch.cat([p.grad.flatten() for p in step.model.parameters()])


def deeper(options: argparse.Namespace) -> list[dict]:
    """The second table."""
    found = []
    for strategy in ("reversible", "reversible, no guard", "exact"):
        few, far = deep(10, strategy, options), deep(100 if options.quick else 1000, strategy, options)
        found += [few, far | {"growth": far["peak"] / few["peak"] - 1}]
        print(found[-1], flush=True)
    return found


def mib(size: int) -> str:
    """Bytes as a text."""
    return f"{size / 2**20:.2f}"


def page(rows: list[dict], deep_rows: list[dict]) -> str:
    """Both tables."""
    first = _record.table(
        ["network", "strategy", "held, MiB", "paper, MiB", "peak, MiB", "seconds", "x stored"],
        [
            [r["network"], r["strategy"], mib(r["held"]), mib(r["paper"]) if r["network"].startswith("Rev") else "",
             mib(r["peak"]), f"{r['seconds']:.3f}", f"{r['ratio']:.2f}"]
            for r in rows
        ],
    )  # fmt: skip
    second = _record.table(
        ["strategy", "units", "held, MiB", "peak, MiB", "growth of the peak", "inputs kept by guard", "angle, degrees"],
        [
            [r["strategy"], str(r["units"]), mib(r["held"]), mib(r["peak"]),
             f"{r['growth']:+.1%}" if "growth" in r else "", str(r["kept"]), f"{r['degrees']:.1e}"]
            for r in deep_rows
        ],
    )  # fmt: skip
    return f"{first}\n\n{second}"


def main() -> int:
    parser = _record.parser(__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--depths", nargs="*", type=int, default=[38, 110, 164], choices=[*BASELINE])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--deep-batch", type=int, default=2, help="of the 1,000 units")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="*", default=["published", "deep"], choices=["published", "deep"])
    parser.add_argument("--add", type=Path, help="results of an earlier call, for the part that is left out")
    parser.add_argument("--quick", action="store_true", help="RevNet-38, and 100 units in place of 1,000")
    options = parser.parse_args()
    keep_warm()
    torch.set_num_threads(1)
    if options.quick:
        options.depths, options.rounds = [38], 1
    earlier = {"published": [], "deep": []} if options.add is None else json.loads(options.add.read_text())
    rows = published(options) if "published" in options.parts else earlier["published"]
    deep_rows = deeper(options) if "deep" in options.parts else earlier["deep"]
    missed = [one for one in deep_rows if abs(one.get("growth", 0.0)) > WITHIN and not one["kept"]]
    text = f"Batch {options.batch}, float32, {options.device}. MemCNN's RevNets are wider at the strided units.\n\n"
    text += page(rows, deep_rows)
    text += "\n\n" + (f"Missed: {missed}" if missed else f"All within {WITHIN:.0%}, but for inputs kept by the guard.")
    where = _record.environment("invertible", "memcnn")
    data = {"environment": where, "published": rows, "deep": deep_rows, "missed": missed}
    _record.write(options.out, "revnet-memory", "Memory of RevNet", text, data)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
