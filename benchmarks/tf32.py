"""What TF32 makes of gradients and inverses of a reversible chain, and which tolerance suits it.

python benchmarks/tf32.py [--depths 4 8 16 32 64] [--seeds 3]

A GPU that convolves in TF32 rounds both factors to 10 bits and adds in float32. That is computed here, on any
machine, bit by bit. Of chains of reversible residual blocks, conv-BN-ReLU-conv-BN:

- the relative difference of gradients with stored activations in TF32 to those in float32: the error that TF32 brings;
- that of rebuilt activations in TF32 to stored ones in TF32, for tolerances of the guard, and how many inputs it keeps;
- the round trip's error, and the change of the output when every entry of the input changes by its last bit, as it does
  where a GPU's sums are not reproducible.

Exit status 1 if the guard's default for TF32 adds more to a gradient's error than TF32 itself brings.
"""

import copy
import statistics
import sys
import warnings

import _record
import torch
from torch import Tensor, nn

import invertible as inv
from invertible.memory.guard import REBUILT_IN_TF32

CHANNELS, BATCH, SIZE = 8, 8, 16
TOLERANCES = (2e-4, REBUILT_IN_TF32, 2e-2)
HEAD = [
    "L", "stored, to float32", *(f"rebuilt within {tolerance:g}, to stored; inputs kept" for tolerance in TOLERANCES),
    "float32: rebuilt, to stored", "round trip", "float32", "a last bit moves the output by", "float32",
]  # fmt: skip


def rounded(x: Tensor) -> Tensor:
    """The nearest numbers of 10 bits, half to even."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x0FFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


class Product(torch.autograd.Function):
    """A 3 x 3 convolution whose factors are rounded, there and back."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return nn.functional.conv2d(rounded(x), rounded(weight), padding=1)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad = rounded(grad)
        return (
            nn.grad.conv2d_input(x.shape, rounded(weight), grad, padding=1),
            nn.grad.conv2d_weight(rounded(x), weight.shape, grad, padding=1),
        )


class Convolution(nn.Conv2d):
    """In TF32, if `tf32`."""

    tf32 = True

    def forward(self, x):
        return Product.apply(x, self.weight) if self.tf32 else super().forward(x)


def branch() -> nn.Module:
    layers = []
    for _ in range(2):
        layers += [Convolution(CHANNELS, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def gradients(chain: inv.Chain, x: Tensor, weights: Tensor, memory: object) -> tuple[Tensor, int]:
    """Of all parameters, in one vector; and how many inputs the guard kept."""
    model = copy.deepcopy(chain)
    model.memory = memory
    (model(x * 1)[0] * weights).sum().backward()
    return torch.cat([each.grad.flatten() for each in model.parameters()]), len(inv.memory.report(model).quarantined)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@torch.no_grad()
def round_trip_and_last_bit(chain: inv.Chain, x: Tensor) -> tuple[float, float]:
    y = chain(x)[0]
    signs = 2.0 * torch.randint(2, x.shape, generator=torch.Generator().manual_seed(1)) - 1
    moved = torch.nextafter(x.detach(), x.detach() + signs)
    return relative(chain.inverse(y)[0], x), relative(chain(moved)[0], y)


def measure(depth: int, seed: int) -> list[float]:
    torch.manual_seed(seed)
    chain = inv.Chain(*(inv.ReversibleResidual(branch(), branch()) for _ in range(depth)))
    x = torch.randn(BATCH, 2 * CHANNELS, SIZE, SIZE, requires_grad=True)
    weights = torch.randn_like(x)
    Convolution.tf32 = False
    stored32, rebuilt32 = (gradients(chain, x, weights, memory)[0] for memory in ("store", "reversible"))
    trip32, bit32 = round_trip_and_last_bit(chain, x)
    Convolution.tf32 = True
    stored, _ = gradients(chain, x, weights, "store")
    found = [relative(stored, stored32)]
    for tolerance in TOLERANCES:
        rebuilt, kept = gradients(chain, x, weights, inv.memory.Reversible(tolerance=tolerance))
        found += [relative(rebuilt, stored), kept]
    trip, bit = round_trip_and_last_bit(chain, x)
    return [*found, relative(rebuilt32, stored32), trip, trip32, bit, bit32]


def row(depth: int, runs: list[list[float]]) -> list:
    """The worst of the seeds."""
    worst = [max(values) for values in zip(*runs, strict=True)]
    pairs = [f"{worst[1 + 2 * k]:.1e}; {worst[2 + 2 * k]:.0f}" for k in range(len(TOLERANCES))]
    return [depth, f"{worst[0]:.1e}", *pairs, *(f"{value:.1e}" for value in worst[1 + 2 * len(TOLERANCES) :])]


def main() -> int:
    parser = _record.parser(__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", inv.memory.ReconstructionWarning)
    runs = {depth: [measure(depth, seed) for seed in range(options.seeds)] for depth in options.depths}
    default = 1 + 2 * TOLERANCES.index(REBUILT_IN_TF32)
    added = {depth: statistics.median(run[default] / run[0] for run in found) for depth, found in runs.items()}
    missed = [f"L = {depth}: {ratio:.2f} times" for depth, ratio in added.items() if ratio > 1]
    text = f"Relative differences of gradients and states, the worst of {options.seeds} seeds.\n\n"
    text += _record.table(HEAD, [row(depth, found) for depth, found in runs.items()])
    text += "\n\nWhat the default adds, over what TF32 brings, medians: "
    text += ", ".join(f"{ratio:.2f} (L = {depth})" for depth, ratio in added.items())
    text += ".\n\n" + ("All limits met." if not missed else "Missed: " + "; ".join(missed) + ".")
    record = {"environment": _record.environment("invertible"), "head": HEAD, "runs": runs, "missed": missed}
    _record.write(options.out, "tf32", "Reversible chains in TF32", text, record)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
