"""Base distributions of flows."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from invertible.errors import ConfigError
from invertible.shapes import check_condition, log_det_dtype, per_sample_sum


class Base(nn.Module):
    """A distribution over latents of a fixed shape, with density and sampling.

    Args:
        shape: shape of one latent, without the batch axis.

    Raises:
        ConfigError: if a size is not positive.
    """

    condition_features: int = 0

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        if not self.shape or min(self.shape) < 1:
            raise ConfigError(f"{type(self).__name__}: expected shape of positive sizes, got {self.shape}.")
        # Holds no value: it follows the module's moves, so that samples are drawn where the parameters are.
        self.anchor: Tensor
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    def log_prob(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Log-density of each latent in nats: (B, *shape) -> (B,)."""
        raise TypeError(f"{type(self).__name__}: define log_prob(self, z, condition=None).")

    def sample(
        self,
        n: int,
        condition: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw n latents of shape (n, *shape); `temperature` scales the deviation from the mean."""
        raise TypeError(f"{type(self).__name__}: define sample(self, n, condition, temperature, generator).")

    def _noise(self, n: int, generator: torch.Generator | None) -> Tensor:
        return torch.randn(n, *self.shape, generator=generator, device=self.anchor.device, dtype=self.anchor.dtype)

    def extra_repr(self) -> str:
        """The shape, for `print(flow)`."""
        return f"shape={self.shape}"


class StandardNormal(Base):
    """N(0, I): log p(z) = -|z|^2/2 - D/2 log(2 pi)."""

    def log_prob(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Log-density, shape (B,)."""
        z = z.to(log_det_dtype(z.dtype)).flatten(1)
        return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))

    def sample(
        self,
        n: int,
        condition: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw T times standard normal noise."""
        return temperature * self._noise(n, generator)


class StandardLogistic(Base):
    """Independent logistic variables, the prior of NICE: log p(z) = -sum_i [softplus(z_i) + softplus(-z_i)]."""

    def log_prob(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Log-density, shape (B,)."""
        z = z.to(log_det_dtype(z.dtype))
        return -per_sample_sum(functional.softplus(z) + functional.softplus(-z))

    def sample(
        self,
        n: int,
        condition: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw T logit(u), u uniform on (0, 1)."""
        u = torch.rand(n, *self.shape, generator=generator, device=self.anchor.device, dtype=self.anchor.dtype)
        tiny = torch.finfo(u.dtype).eps / 2
        return temperature * u.clamp(tiny, 1 - tiny).logit()


class ConditionalNormal(Base):
    """N(mu(c), diag sigma(c)^2) with mu(c) and log sigma(c) linear in the condition, zero at the start.

    Given one-hot labels it is the class-conditional prior of Glow (Kingma & Dhariwal 2018, section 6), here over the
    latents of all levels.

    Args:
        shape: shape of one latent.
        condition_features: width of the condition, which must be of shape (B, condition_features).
    """

    def __init__(self, shape: Sequence[int], condition_features: int) -> None:
        super().__init__(shape)
        self.condition_features = condition_features
        self.parameters_of = nn.Linear(condition_features, 2 * math.prod(self.shape))
        nn.init.zeros_(self.parameters_of.weight)
        nn.init.zeros_(self.parameters_of.bias)

    def _moments(self, like: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        check_condition("ConditionalNormal", condition, like.flatten(1), self.condition_features)
        mean, log_deviation = self.parameters_of(condition).chunk(2, 1)
        return mean.view(-1, *self.shape), log_deviation.view(-1, *self.shape)

    def log_prob(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """-|(z - mu)/sigma|^2/2 - sum log sigma - D/2 log(2 pi), shape (B,)."""
        mean, log_deviation = self._moments(z, condition)
        standard = (z - mean) * torch.exp(-log_deviation)
        constant = 0.5 * math.log(2 * math.pi)
        return -per_sample_sum(0.5 * standard.square() + log_deviation + constant)

    def sample(
        self,
        n: int,
        condition: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw mu + T sigma noise; `condition` has n rows."""
        noise = self._noise(n, generator)
        mean, log_deviation = self._moments(noise, condition)
        return mean + temperature * torch.exp(log_deviation) * noise


BASES = {"normal": StandardNormal, "logistic": StandardLogistic}
