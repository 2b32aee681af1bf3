"""Networks that the tests of memory strategies train."""

import copy

import torch
from torch import nn

import invertible as inv
from invertible import memory

STRATEGIES = {
    "checkpoint": memory.Checkpoint(),
    "three-segments": memory.Checkpoint(segments=3),
    "recursive": memory.Recursive(),
    "one-slot": memory.Recursive(slots=1),
    "reversible": memory.Reversible(),
    "unguarded": memory.Reversible(guard=False),
    "every-third": memory.Reversible(every=3),
    "raise": memory.Reversible(on_failure="raise"),
    "budget": memory.Budget("3kB"),
    "large-budget": memory.Budget("1GB"),
}


def mlp(features: int, *inner: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, 8), nn.Tanh(), *inner, nn.Linear(8, features))


def convnet(channels: int, *inner: nn.Module) -> nn.Sequential:
    first, last = nn.Conv2d(channels, 6, 3, padding=1), nn.Conv2d(6, channels, 3, padding=1)
    return nn.Sequential(first, *inner, nn.GELU(), last)


def residual_chain(depth: int = 5, make=lambda: mlp(3), memory: object = "store") -> inv.Chain:
    return inv.Chain(*[inv.ReversibleResidual(make(), make()) for _ in range(depth)], memory=memory)


def copies(net: inv.Chain, strategy: object) -> tuple[inv.Chain, inv.Chain]:
    """The network with stored activations, and its copy under a strategy."""
    stored, other = copy.deepcopy(net), copy.deepcopy(net)
    stored.memory, other.memory = "store", strategy
    return stored, other


def gradients(module: nn.Module) -> list[torch.Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def assert_same(found, expected, tolerance: float = 1e-12) -> None:
    """Lists of gradients that agree relative to the largest of all."""
    scale = max((float(e.abs().max()) for e in expected if e is not None and e.numel()), default=1.0) or 1.0
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert torch.isfinite(a).all()
            assert float((a - b).abs().max() if a.numel() else 0.0) <= tolerance * scale


def loss_of(y: torch.Tensor, log_det: torch.Tensor) -> torch.Tensor:
    weights = torch.linspace(0.5, 1.5, y[0].numel(), dtype=y.dtype).view(y[0].shape)
    return (weights * y).sum() + 0.5 * y.square().sum() + (log_det * torch.arange(1, len(y) + 1)).sum()


def train(net: inv.Chain, x: torch.Tensor, condition=None, passes: int = 2) -> list[torch.Tensor]:
    """Gradients of the parameters, x and the condition after the last pass, and the output."""
    for _ in range(passes):
        net.zero_grad()
        x = x.detach().clone().requires_grad_()
        condition = None if condition is None else condition.detach().clone().requires_grad_()
        y, log_det = net(x, condition)
        loss_of(y, log_det).backward()
    found = [*gradients(net), x.grad, y.detach(), log_det.detach()]
    return found if condition is None else [*found, condition.grad]
