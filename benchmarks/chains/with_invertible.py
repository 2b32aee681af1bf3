"""This library, through its public interface."""

from collections.abc import Callable

from torch import Tensor, nn

import invertible as inv
from chains.nets import LogScale, Pairs, input_channels
from invertible.blocks.scale import Scale

MEMORY: dict[str, Callable[[], object]] = {
    "reversible_bare": lambda: inv.memory.Reversible(guard=False),
    "reversible_raise": lambda: inv.memory.Reversible(on_failure="raise"),
    "exact": lambda: inv.memory.Exact(),
    "exact_store": lambda: inv.memory.Exact(keep="store"),
    "budget": lambda: inv.memory.Budget("64MiB"),
}


class OutputOnly(nn.Module):
    """A chain without its log-determinant."""

    def __init__(self, *blocks: inv.Bijection, memory: str):
        super().__init__()
        self.chain = inv.Chain(*blocks, memory=MEMORY.get(memory, lambda: memory)())

    def forward(self, x: Tensor) -> Tensor:
        return self.chain(x)[0]


class _TanhShifted(Scale):
    """g(r) = exp(slope tanh(r) + shift)."""

    def __init__(self, log_scale: LogScale):
        super().__init__(0.0, float("inf"), float("inf"), float("inf"))
        self.log_scale = log_scale

    def __call__(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        logarithm = self.log_scale(raw)
        return logarithm.exp(), logarithm


def additive(pairs: Pairs, *, keep_rng: bool, memory: str) -> nn.Module:
    return OutputOnly(*(inv.ReversibleResidual(f, g) for f, g in pairs), memory=memory)


def affine(pairs: Pairs, log_scale: LogScale, *, keep_rng: bool, memory: str) -> nn.Module | None:
    if memory.startswith("exact"):
        return None
    channels = 2 * input_channels(pairs[0][0])
    options = {"scale": _TanhShifted(log_scale), "spatial_dims": 2}
    blocks = []
    for f, g in pairs:
        blocks.append(inv.AffineCoupling(channels, lambda *_, net=f: net, flip=True, **options))
        blocks.append(inv.AffineCoupling(channels, lambda *_, net=g: net, **options))
    return OutputOnly(*blocks, memory=memory)
