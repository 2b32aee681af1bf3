"""Batch normalisation as a bijection."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from invertible.ball import constant_norm, like, norms_of
from invertible.bijection import Bijection, Domain, LipschitzBounds
from invertible.errors import ConfigError, NotInvertibleError, require_positive
from invertible.memory.step import State, Step
from invertible.norms import outward
from invertible.shapes import log_det_dtype
from invertible.steps import BlockStep

Statistics = tuple[Tensor, Tensor]


class BatchNorm(Bijection):
    """y = (x - m)/sqrt(v + e) e^l + b for every feature or channel (Dinh et al. 2017, section 3.7 and appendix E).

    In training m and v are the batch's mean and variance (over samples and positions, divided by their count), through
    which gradients flow, and running averages follow them; in eval mode m and v are those averages. Inverse, in eval
    mode: x = (y - b) e^-l sqrt(v + e) + m. log_det = sum l - log(v + e)/2, times the number of positions; of a map
    whose statistics depend on the batch, the part that they do not explain.

    In training the map of a single sample depends on the others, and y does not tell m and v: `inverse` refuses. Within
    a chain that rebuilds its activations, the pass itself remembers m and v of its batch, and the averages move once.

    Args:
        features: size of axis 1.
        momentum: weight of the newest batch in the running averages, in (0, 1].
        epsilon: e, positive.

    Shapes:
        x, y: (B, features, ...), any number of spatial axes; log_det: (B,).

    Numerics: in eval mode Lip(f) = max e^l/sqrt(v + e), Lip(f^-1) = max e^-l sqrt(v + e), on the whole space. Each
    process of a distributed run normalises by its own batch.

    Raises:
        ConfigError: if an argument is out of its range.
        NotInvertibleError: by `inverse` in training mode.

    Example:
        >>> block = BatchNorm(12)
        >>> y, log_det = block(torch.randn(64, 12, 4, 4))  # moves the averages
        >>> x, _ = block.eval().inverse(y)
    """

    def __init__(self, features: int, *, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        require_positive("BatchNorm", features=features)
        if not 0 < momentum <= 1:
            raise ConfigError(f"BatchNorm: expected momentum in (0, 1], got {momentum}.")
        if not 0 < epsilon < math.inf:
            raise ConfigError(f"BatchNorm: expected a positive epsilon, got {epsilon}.")
        self.features, self.momentum, self.epsilon = features, momentum, epsilon
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.shift = nn.Parameter(torch.zeros(features))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Normalise, by the batch in training."""
        self._check(x, condition, self.features, None, self.log_scale)
        return self.normalise(x, self.statistics(x))

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Undo it by the running averages."""
        self._check(y, condition, self.features, None, self.log_scale)
        if self.training:
            raise NotInvertibleError(
                "BatchNorm: expected eval mode for the inverse, got training mode, in which mean and variance are "
                "those of a batch that y does not tell. Call eval() first; for an inverse at all times use ActNorm.",
                block="BatchNorm",
            )
        return self.undo(y, (self.running_mean, self.running_var))

    def statistics(self, x: Tensor) -> Statistics:
        """The batch's mean and variance in training, moving the averages; else the averages, each (features,)."""
        if not self.training or not x.numel():
            return self.running_mean, self.running_var
        values = x.to(log_det_dtype(x.dtype)).transpose(0, 1).flatten(1)
        variance, mean = torch.var_mean(values, 1, correction=0)
        with torch.no_grad():
            self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(variance.detach().to(self.running_var.dtype), self.momentum)
        return mean, variance

    def normalise(self, x: Tensor, statistics: Statistics) -> tuple[Tensor, Tensor]:
        """y and log_det by given statistics."""
        mean, log_scale = self._affine(x, statistics)
        scale, shift = self._shaped(log_scale.exp(), x), self._shaped(self.shift, x)
        return torch.addcmul(shift, x - self._shaped(mean, x), scale), self._log_det(x, log_scale)

    def undo(self, y: Tensor, statistics: Statistics) -> tuple[Tensor, Tensor]:
        """x and the inverse's log_det by given statistics."""
        mean, log_scale = self._affine(y, statistics)
        scale, shift = self._shaped(torch.exp(-log_scale), y), self._shaped(self.shift, y)
        return torch.addcmul(self._shaped(mean, y), y - shift, scale), self._log_det(y, -log_scale)

    def steps(self) -> list[Step]:
        """One, which remembers its batch's statistics."""
        return [BatchNormStep(self)]

    def _affine(self, like: Tensor, statistics: Statistics) -> Statistics:
        dtype = log_det_dtype(like.dtype)
        mean, variance = (each.to(dtype) for each in statistics)
        return mean, self.log_scale.to(dtype) - torch.log(variance + self.epsilon) / 2

    def _shaped(self, value: Tensor, like: Tensor) -> Tensor:
        return value.to(like.dtype).view(-1, *(1,) * (like.dim() - 2))

    def _log_det(self, like: Tensor, log_scale: Tensor) -> Tensor:
        return (math.prod(like.shape[2:]) * log_scale.sum()).expand(len(like))

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """max e^l/sqrt(v + e) and max e^-l sqrt(v + e) in eval mode; none in training."""
        if self.training:
            return LipschitzBounds(math.inf, math.inf)
        log_scale = self.log_scale.detach().double() - torch.log(self.running_var.double() + self.epsilon) / 2
        operations = 8 + float(log_scale.abs().max())
        forward, inverse = (float(each.max().exp()) for each in (log_scale, -log_scale))
        return LipschitzBounds(outward(forward, operations), outward(inverse, operations))

    def image(self, domain: Domain) -> Domain:
        """The boxes shifted, scaled and shifted again."""
        bounds, (x_norm, y_norm) = self.bounds(), norms_of(domain)
        mean, shift = (float(each.detach().abs().max()) for each in (self.running_mean, self.shift))
        mean_norm, shift_norm = constant_norm(domain, mean), constant_norm(domain, shift)
        x_norm, y_norm = (
            (y_norm + shift_norm) * bounds.inverse + mean_norm,
            (x_norm + mean_norm) * bounds.forward + shift_norm,
        )
        boxes = (domain.y + shift) * bounds.inverse + mean, (domain.x + mean) * bounds.forward + shift
        return like(domain, *boxes, x_norm, y_norm)

    def extra_repr(self) -> str:
        """The number of features."""
        return f"{self.features}, momentum={self.momentum}, epsilon={self.epsilon}"


class BatchNormStep(BlockStep):
    """A `BatchNorm` in one pass: it is undone by the statistics of that pass's batch.

    Args:
        block: the batch normalisation.
    """

    def __init__(self, block: BatchNorm) -> None:
        super().__init__(block)
        self.statistics: Statistics | None = None

    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        """Normalise, and remember by what, the first time."""
        if not self.block.training:
            return super().run(state, condition)
        (x,) = state
        self.block._check(x, None, self.block.features, None, self.block.log_scale)
        statistics = self.block.statistics(x)
        if self.statistics is None:
            mean, variance = statistics
            self.statistics = mean.detach(), variance.detach()
        y, log_det = self.block.normalise(x, statistics)
        return (y,), log_det

    def invert(self, state: State, condition: Tensor | None) -> State:
        """Undo it by what was remembered, by the averages in eval mode."""
        if not self.block.training or self.statistics is None:
            return super().invert(state, condition)
        return (self.block.undo(state[0], self.statistics)[0],)
