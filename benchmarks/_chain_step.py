"""A training step of one competitor's chain, and what is measured on it besides time."""

import math
from dataclasses import asdict
from functools import cache

import chains
import torch
from chains import nets
from torch import Tensor

from invertible.reproduce.allocations import live_bytes

BATCH, CHANNELS, SIZE = 16, 32, 32
GRADIENT_BATCH = 4  # in float64, and a GELU keeps more than a ReLU
ACTIVATION = BATCH * CHANNELS * SIZE**2 * 4  # bytes of one state of the chain in float32


def _data(batch: int) -> tuple[Tensor, Tensor]:
    """A batch, and the weights of a linear loss, which keeps no output alive."""
    generator = torch.Generator().manual_seed(1)
    x, weights = torch.randn(2, BATCH, CHANNELS, SIZE, SIZE, generator=generator)[:, :batch]
    return x, weights / math.sqrt(weights.numel())


class ChainStep:
    """Forward and backward pass of a chain of conv-BN-activation-conv-BN blocks.

    Args:
        name: the competitor.
        length: number of blocks.
        net: maker of the inner networks.
        batch: samples.
        dtype: of weights and data.
    """

    def __init__(
        self,
        name: str,
        length: int,
        net: nets.NetFactory = nets.batch_normalised,
        batch: int = BATCH,
        dtype: torch.dtype = torch.float32,
    ):
        pairs = nets.make_pairs(length, CHANNELS, net)
        for pair in pairs:
            for module in pair:
                module.to(dtype)
        self.parameters = nets.parameters(pairs)
        self.model = chains.build(name, pairs)
        x, self.weights = (value.to(dtype) for value in _data(batch))
        self.x = x.requires_grad_()

    def forward(self, samples: int | None = None) -> Tensor:
        """The loss; the chain's input is no leaf, as behind a stem."""
        return (self.model(self.x[:samples] * 1) * self.weights[:samples]).sum()

    def __call__(self) -> None:
        for tensor in (self.x, *self.parameters):
            tensor.grad = None
        self.forward().backward()

    def evaluate(self) -> None:
        """The forward pass alone, without grad."""
        with torch.no_grad():
            self.forward()

    def bytes(self) -> dict[str, int]:
        """What a step allocates beyond the gradients."""
        self.forward(1).backward()  # allocates the gradients of the parameters
        for parameter in self.parameters:
            parameter.grad.zero_()
        self.x.grad = torch.zeros_like(self.x)
        return asdict(live_bytes(self.forward, lambda loss: loss.backward()))

    def gradients(self) -> list[Tensor]:
        """Of every parameter, in float64."""
        self()
        return [parameter.grad.double() for parameter in self.parameters]


@cache
def _true_gradients(length: int) -> list[Tensor]:
    return ChainStep(chains.PLAIN, length, nets.batch_normalised_gelu, GRADIENT_BATCH, torch.float64).gradients()


def gradient_error(name: str, length: int) -> dict[str, float]:
    """Float32 against stored activations in float64: relative 2-norm over all parameters, and the worst angle of one.

    With GELU, for ReLUs that flip their sign put a floor of 1e-3 under everything.
    """
    true = _true_gradients(length)
    found = ChainStep(name, length, nets.batch_normalised_gelu, GRADIENT_BATCH).gradients()
    difference = sum(float((a - b).square().sum()) for a, b in zip(found, true, strict=True))
    norm = sum(float(b.square().sum()) for b in true)
    # The scale and shift of a batch norm are small vectors that see little; the angle is that of the convolutions.
    angles = [_angle(a, b) for a, b in zip(found, true, strict=True) if b.dim() > 1]
    worst = math.nan if any(map(math.isnan, angles)) else max(angles)
    return {"gradient_error": math.sqrt(difference / norm), "worst_angle_degrees": worst}


def _angle(a: Tensor, b: Tensor) -> float:
    """Degrees between two tensors, accurate for tiny angles too."""
    a, b = a / a.norm(), b / b.norm()
    return math.degrees(2 * math.atan2(float((a - b).norm()), float((a + b).norm())))
