"""Scores of a model on data."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.flow import Flow
from invertible.training.batches import EvaluationBatches
from invertible.training.randomness import generator_for
from invertible.training.scoring import scoring


def unit_of(flow: Flow) -> str:
    """The unit in which a flow is scored: bits per dimension for discrete data, else nats per dimension."""
    return "nats_per_dim" if flow.levels is None else "bits_per_dim"


def losses(flow: Flow, x: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
    """Negative log-likelihood of each sample in the unit of `unit_of`: (B, ...) -> (B,).

    Args:
        flow: the model.
        x: discrete levels, which are dequantised, or floating-point data.
        condition: the condition, or labels.
        generator: source of the dequantisation noise, on x's device.
    """
    bits = flow.bits_per_dim(x, condition, generator)
    return bits * math.log(2) if flow.levels is None else bits


@dataclass(frozen=True)
class Score:
    """What `evaluate` measured.

    Attributes:
        values: negative log-likelihood of each sample, (N,), float64; not finite where the model broke.
        unit: `"bits_per_dim"` or `"nats_per_dim"`.
    """

    values: Tensor
    unit: str

    @property
    def mean(self) -> float:
        """Mean over all samples; not finite if one of them is not."""
        return float(self.values.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the mean; NaN for fewer than two samples."""
        n = len(self.values)
        return float(self.values.std() / math.sqrt(n)) if n > 1 else math.nan

    @property
    def non_finite(self) -> int:
        """Number of samples whose score is not finite."""
        return int((~torch.isfinite(self.values)).sum())

    def worst(self, n: int) -> list[int]:
        """Indices of the n least likely samples, those without a finite score first."""
        ranked = torch.where(torch.isfinite(self.values), self.values, math.inf)
        return ranked.argsort(descending=True, stable=True)[:n].tolist()


@torch.no_grad()
def evaluate(flow: Flow, x: Tensor, y: Tensor | None = None, *, batch_size: int = 256, seed: int = 0) -> Score:
    """Score a model on data, sample by sample.

    The model is evaluated in eval mode, where it is; nothing about it is changed. Samples that the model cannot
    score count as not finite; they are never dropped.

    Args:
        flow: the model.
        x: data (N, ...), discrete levels or floating point.
        y: labels (N,) for a class-conditional model.
        batch_size: samples a batch.
        seed: of the dequantisation noise.
    """
    device, values = flow.base.anchor.device, []
    with scoring(flow):
        for index, batch in enumerate(EvaluationBatches(x, y, batch_size)):
            part, *condition = (tensor.to(device) for tensor in batch)
            if part.is_floating_point():
                part = part.to(flow.base.anchor.dtype)
            noise = generator_for(device, "evaluate", seed, index)
            values.append(losses(flow, part, *condition[:1] or [None], generator=noise).double().cpu())
    return Score(torch.cat(values) if values else torch.empty(0, dtype=torch.float64), unit_of(flow))
