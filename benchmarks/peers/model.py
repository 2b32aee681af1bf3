"""What every library builds: the sizes of the three architectures, and one interface to a flow."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

FEATURES, LAYERS, HIDDEN, BINS, BOUND = 64, 8, 128, 8, 5.0
SHAPE, LEVELS, DEPTH, CHANNELS = (3, 32, 32), 3, 4, 64


@dataclass
class Model:
    """A flow under one interface.

    Attributes:
        module: holds the parameters.
        log_prob: data (B, ...) to log-densities (B,).
        encode: data to latents.
        decode: latents, as encode returns them, to data.
        note: how architecture or work differs from the floor's.
    """

    module: nn.Module
    log_prob: Callable[[Tensor], Tensor]
    encode: Callable
    decode: Callable
    note: str = ""


class WithContext(nn.Sequential):
    """A conditioner for libraries that call it with a context too."""

    def forward(self, x, context=None):
        return super().forward(x)
