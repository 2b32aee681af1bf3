"""A bijection and a base distribution: density and sampling."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from invertible.bijection import Bijection
from invertible.dequantize import Dequantize
from invertible.distributions import Base
from invertible.errors import ConfigError, DomainError, NotInvertibleError, ShapeError
from invertible.shapes import finite_rows
from invertible.without_log_det import without_log_det


class Flow(nn.Module):
    """A normalizing flow: x = f^-1(z), z from a base distribution.

    log p(x | c) = log p_base(f(x | c)) + log|det df/dx|  (Rezende & Mohamed 2015, equation 5).

    Args:
        bijection: maps data (B, *data shape) to latents (B, *base.shape).
        base: distribution of the latents.
        levels: number of grey levels of discrete data, for `bits_per_dim`; `None` for continuous data.
        classes: number of classes; then the condition may be given as integer labels (B,), which become one-hot.
        validate: refuse inputs and results that are not finite. Switch it off inside `torch.func` transforms, or
            per object: `flow.validate = False`.

    Attributes:
        config: the model's name and arguments, from which `invertible.load` rebuilds it; set by `invertible.models`.

    Raises:
        ConfigError: if `levels` is below 2, or bijection and base take conditions of different widths.

    Example:
        >>> flow = Flow(Chain(ActNorm(2), AffineCoupling(2)), StandardNormal((2,)))
        >>> flow.log_prob(x).mean()
    """

    config: dict[str, Any] | None = None

    def __init__(
        self,
        bijection: Bijection,
        base: Base,
        *,
        levels: int | None = None,
        classes: int | None = None,
        validate: bool = True,
    ) -> None:
        super().__init__()
        widths = {bijection.condition_features, base.condition_features} - {0}
        if len(widths) > 1:
            raise ConfigError(f"Flow: expected one condition for bijection and base, got widths {sorted(widths)}.")
        self.condition_features = widths.pop() if widths else 0
        if classes is not None and classes != self.condition_features:
            raise ConfigError(
                f"Flow: expected classes to equal condition_features={self.condition_features}, got {classes}."
            )
        self.bijection, self.base, self.levels, self.classes = bijection, base, levels, classes
        self.dequantize = None if levels is None else Dequantize(levels)
        self.validate = validate

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """The log-density, as `log_prob`: so that wrappers of `forward` (DDP, compile) serve training."""
        return self.log_prob(x, condition)

    def log_prob(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Log-density in nats of continuous data: (B, ...) -> (B,).

        Raises:
            ShapeError: on a wrong shape, dtype, device or condition.
            DomainError: if x or the condition is not finite.
            NotInvertibleError: if the result is not finite.
        """
        condition = self._condition(condition)
        z, log_det = self.bijection(x, self._given(self.bijection, condition))
        log_prob = self.base.log_prob(z, self._given(self.base, condition)) + log_det
        self._check_result("log_prob", log_prob, x=x, condition=condition)
        return log_prob

    def bits_per_dim(
        self, x: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Negative log-likelihood in bits per dimension: (B, ...) -> (B,).

        For discrete data of `levels` levels (an integer tensor with values 0 .. levels - 1) it is the upper bound
        by uniform dequantisation, -[log p((x + u)/levels) - D log levels]/(D log 2), u uniform on [0, 1) (Theis et
        al. 2016, equation 3). A floating-point x is taken as dequantised already, on [0, 1).

        Args:
            x: integer levels, or floating-point data.
            condition: the condition.
            generator: source of the dequantisation noise.
        """
        if not x.is_floating_point():
            if self.dequantize is None:
                raise ShapeError(
                    f"Flow.bits_per_dim: got {x.dtype}, but the flow was built for continuous data (levels=None). "
                    "Convert x with x.float(), or build the flow with levels=256."
                )
            x = self.dequantize(x, generator, self.base.anchor.dtype)
        dimensions = x[:1].numel() or math.prod(self.base.shape)
        offset = 0.0 if self.levels is None else dimensions * math.log(self.levels)
        return (offset - self.log_prob(x, condition)) / (dimensions * math.log(2))

    def sample(
        self,
        n: int,
        condition: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw n samples, without grad.

        Args:
            n: number of samples.
            condition: one row a sample, or one row (or label) for all.
            temperature: factor of the base distribution's deviation.
            generator: source of the noise.

        Returns:
            Shape (n, *data shape), floating point.

        Raises:
            NotInvertibleError: if a sample is not finite.
        """
        with without_log_det():
            return self.sample_with_log_prob(n, condition, temperature, generator)[0]

    @torch.no_grad()
    def sample_with_log_prob(
        self,
        n: int,
        condition: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw n samples and their log-densities under the flow (at temperature 1): (n, ...) and (n,)."""
        if n < 0 or temperature < 0:
            raise ConfigError(
                f"Flow.sample: expected n >= 0 and temperature >= 0, got n={n}, temperature={temperature}."
            )
        condition = self._condition(condition)
        if condition is not None and len(condition) == 1 and n != 1:
            condition = condition.expand(n, *condition.shape[1:])
        base_condition = self._given(self.base, condition)
        z = self.base.sample(n, base_condition, temperature, generator)
        x, log_det = self.bijection.inverse(z, self._given(self.bijection, condition))
        self._check_result("sample", x, z=z, condition=condition)
        return x, self.base.log_prob(z, base_condition) - log_det

    def encode(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """The latents z = f(x | c) of shape (B, *base.shape)."""
        condition = self._condition(condition)
        with without_log_det():
            z, _ = self.bijection(x, self._given(self.bijection, condition))
        self._check_result("encode", z, x=x, condition=condition)
        return z

    def decode(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """The data x = f^-1(z | c)."""
        condition = self._condition(condition)
        with without_log_det():
            x, _ = self.bijection.inverse(z, self._given(self.bijection, condition))
        self._check_result("decode", x, z=z, condition=condition)
        return x

    def _condition(self, condition: Tensor | None) -> Tensor | None:
        if condition is None or self.classes is None or condition.is_floating_point():
            return condition
        if condition.dim() != 1 or bool((condition < 0).any()) or bool((condition >= self.classes).any()):
            raise ShapeError(
                f"Flow: expected condition to be labels of shape (batch,) in 0 .. {self.classes - 1}, or one-hot rows, "
                f"got {condition.dtype} of shape {tuple(condition.shape)}."
            )
        return nn.functional.one_hot(condition.long(), self.classes).to(self.base.anchor.dtype)

    def _given(self, part: Bijection | Base, condition: Tensor | None) -> Tensor | None:
        # A condition that nobody takes goes on to the bijection, which refuses it.
        nobody = self.condition_features == 0 and part is self.bijection
        return condition if part.condition_features or nobody else None

    def _check_result(self, what: str, result: Tensor, **inputs: Tensor | None) -> None:
        # Every coordinate enters the result, so x needs a look only when it is not finite. A condition may not: a
        # conditioner of tanh units makes finite numbers of infinity.
        if not self.validate or torch.compiler.is_compiling() or _all_finite(result, inputs["condition"]):
            return
        for name, tensor in inputs.items():
            if tensor is not None and not _all_finite(tensor):
                bad = _non_finite_rows(tensor)
                raise DomainError(
                    f"Flow: expected {name} to be finite, got NaN or infinity in {len(bad)} of {len(tensor)} samples, "
                    f"first in sample {int(bad[0])}. Remove them, or set flow.validate = False."
                )
        bad = _non_finite_rows(result)
        worst = int(bad[0])
        raise NotInvertibleError(
            f"Flow.{what}: {len(bad)} of {len(result)} samples are not finite, the first is sample {worst}. "
            "invertible.audit(flow, x) names the block; bounded scales (scale='half-sigmoid') prevent it; "
            "flow.validate = False lets it pass.",
            sample=worst,
            error=math.inf,
        )


def _non_finite_rows(x: Tensor) -> Tensor:
    return (~finite_rows(x)).nonzero().flatten()


def _all_finite(*tensors: Tensor | None) -> bool:
    # One sum of all decides the usual case and waits for a device once; it can overflow on finite values, so only
    # then look at each.
    floating = [x for x in tensors if x is not None and x.is_floating_point()]
    total = sum(x.detach().sum() for x in floating)
    return math.isfinite(float(total)) or all(bool(torch.isfinite(x).all()) for x in floating)
