"""Uniform dequantisation: the step from discrete data to densities."""

import torch
from torch import Tensor, nn

from invertible.errors import ConfigError, DomainError, ShapeError


class Dequantize(nn.Module):
    """Turns levels k in 0 .. levels - 1 into x = (k + u)/levels in [0, 1), u uniform on [0, 1) (Theis et al. 2016).

    It is no bijection: the noise carries no information and is never part of a round trip. `quantize` gives back the
    levels exactly, whatever the noise was.

    Args:
        levels: number of levels, 256 for eight bits.

    Raises:
        ConfigError: if `levels` is below 2.
    """

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        if isinstance(levels, bool) or levels < 2:
            raise ConfigError(f"Dequantize: expected levels of at least 2, got {levels!r}.")
        self.levels = levels

    def forward(self, k: Tensor, generator: torch.Generator | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Add uniform noise: integer levels (B, ...) -> floating point (B, ...) in [0, 1).

        Args:
            k: integer tensor with values 0 .. levels - 1.
            generator: source of the noise.
            dtype: dtype of the result; the default dtype if `None`.

        Raises:
            ShapeError: if k is not of an integer dtype.
            DomainError: if a value lies outside 0 .. levels - 1.
        """
        if k.is_floating_point() or k.is_complex() or k.dtype == torch.bool:
            raise ShapeError(
                f"Dequantize: expected k of an integer dtype, got {k.dtype}. Convert it: x.to(torch.uint8)."
            )
        if k.numel() and (int(k.max()) >= self.levels or int(k.min()) < 0):
            raise DomainError(
                f"Dequantize: expected values in 0 .. {self.levels - 1}, got {int(k.min())} .. {int(k.max())}. "
                "Set levels to the number of grey levels of the data."
            )
        dtype = dtype or torch.get_default_dtype()
        noise = torch.rand(k.shape, generator=generator, device=k.device, dtype=dtype)
        level, margin = k.to(dtype), 2 * torch.finfo(dtype).eps
        # Rounding in the division here and the product in `quantize` must not carry x over to a neighbouring level.
        return torch.clamp(level + noise, level * (1 + margin), (level + 1) * (1 - margin)) / self.levels

    def quantize(self, x: Tensor) -> Tensor:
        """The levels of dequantised data: floor(levels x), clipped to 0 .. levels - 1, as int64."""
        return (x * self.levels).floor().long().clamp(0, self.levels - 1)

    def extra_repr(self) -> str:
        """The number of levels."""
        return f"levels={self.levels}"
