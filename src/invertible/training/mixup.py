"""Mixup (Zhang, Cisse, Dauphin & Lopez-Paz 2018): training on what lies between two samples."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from invertible.training.randomness import generator_for, seed_for


@dataclass(frozen=True)
class Mix:
    """How the samples of a batch are mixed: sample i with sample order[i].

    Attributes:
        weight: l of the sample itself; the other one has 1 - l.
        order: the other one of each sample, (B,).
    """

    weight: float
    order: Tensor

    def inputs(self, x: Tensor) -> Tensor:
        """l x_i + (1 - l) x_order[i], (B, ...)."""
        return torch.lerp(x[self.order], x, self.weight)

    def loss(self, logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy in nats of the mixed targets: l H(y_i) + (1 - l) H(y_order[i])."""
        own, other = (
            functional.cross_entropy(logits, each, label_smoothing=label_smoothing) for each in (y, y[self.order])
        )
        return self.weight * own + (1 - self.weight) * other

    def accuracy(self, logits: Tensor, y: Tensor) -> Tensor:
        """Mean share of the targets that the predicted classes have."""
        predicted = logits.argmax(1)
        own, other = ((predicted == each).float().mean() for each in (y, y[self.order]))
        return self.weight * own + (1 - self.weight) * other


def draw_mix(alpha: float, n: int, device: torch.device, seed: int, step: int, rank: int = 0) -> Mix:
    """Draw l ~ Beta(alpha, alpha) from seed and step, and an order of n samples from seed, step and process."""
    weight = np.random.Generator(np.random.PCG64(seed_for("mixup", seed, step))).beta(alpha, alpha)
    order = torch.randperm(n, generator=generator_for("cpu", "mixup order", seed, step, rank))
    return Mix(float(weight), order.to(device))
