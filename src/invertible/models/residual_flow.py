"""Residual Flow (Chen, Behrmann, Duvenaud & Jacobsen 2019), and i-DenseNet (Perugachi-Diaz et al. 2021)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from invertible.bijection import Bijection
from invertible.blocks import ActNorm, FactorOut, Flatten, Logit, Squeeze
from invertible.blocks.lipschitz import LipschitzConvNet, LipschitzDenseConvNet, LipschitzDenseNet, LipschitzMLP
from invertible.blocks.residual import ResidualBlock
from invertible.chain import Chain
from invertible.errors import ConfigError, choose, require_positive
from invertible.flow import Flow
from invertible.models.common import checked_shape, condition_width, described_flow

# Of vectors and of images; the activation is the one of the paper.
NETS: dict[str, tuple[Callable[..., nn.Module], Callable[..., nn.Module], str]] = {
    "plain": (LipschitzMLP, LipschitzConvNet, "lipswish"),
    "dense": (LipschitzDenseNet, LipschitzDenseConvNet, "clipswish"),
}
HIDDEN = {
    ("plain", False): (128, 128, 128),
    ("plain", True): (512, 512),
    ("dense", False): (64, 64, 64),
    ("dense", True): (172, 172, 172),
}
FULLY_CONNECTED = 128


def residual_flow(
    shape: int | Sequence[int],
    *,
    levels: int = 3,
    blocks: int = 16,
    hidden: Sequence[int] | None = None,
    net: str = "plain",
    activation: str | None = None,
    lipschitz: float = 0.98**3,
    log_det: str = "auto",
    fully_connected: int = 4,
    factor_out: bool = False,
    alpha: float = 0.05,
    condition_features: int = 0,
    classes: int | None = None,
    grey_levels: int | None = None,
) -> Flow:
    """Residual Flow on vectors or images: blocks y = x + g(x) with certified contractions g, and ActNorm after each.

    Images: a logit layer and an ActNorm, then at each level `blocks` residual blocks of convolutions 3 x 3, 1 x 1,
    3 x 3, with squeeze in between, and `fully_connected` blocks on all numbers at the end. The defaults are the paper's
    for CIFAR-10 and MNIST as its code has them (appendix E; 16 blocks a level, 512 channels, no activation in front of
    the first block of all, nothing factored out, coefficient 0.98 of each of three layers, four fully connected blocks
    of width 128), which want a GPU for days; `blocks=4, hidden=(64, 64)` trains on a CPU. With `net="dense"` it is
    i-DenseNet, three layers of growth 172. The code's MNIST has `alpha=1e-6`.

    Vectors: `blocks` residual blocks of fully connected nets; the log-determinant is exact up to 3 features. The
    paper's toys have 100 blocks of `hidden=(128,) * 4`.

    Departs from the paper: g's constants are certified, not estimated by power iteration; squeezes are undone, so that
    latents have the image's shape; and evaluation is deterministic (see `ResidualBlock`).

    `set_memory(flow, "reversible")` trains it in constant memory.

    Args:
        shape: number of features, or (channels, height, width) with sizes divisible by 2^(levels - 1).
        levels: number of scales (images).
        blocks: residual blocks, of each level.
        hidden: widths of a net's hidden layers; of images channels, two of them; with `net="dense"` what each dense
            layer adds. As published if `None`: (512, 512) of images, (172, 172, 172) dense; of vectors
            (128, 128, 128), (64, 64, 64) dense.
        net: `"plain"` or `"dense"`.
        activation: a name that the nets of `blocks.lipschitz` take; `"lipswish"`, `"clipswish"` if dense, if `None`.
        lipschitz: L < 1 of every g as a whole.
        log_det: in training, a name that `ResidualBlock` takes; the code's is `"poisson"`.
        fully_connected: blocks on all numbers at the end of the last level (images).
        factor_out: let half of the channels pass the levels behind (images).
        alpha: of the logit layer (images).
        condition_features: width of a condition (B, F) given to every block.
        classes: number of classes; the condition is then integer labels (B,).
        grey_levels: levels of discrete data for `bits_per_dim`; `None` for continuous data.

    Returns:
        A `Flow` on (B, D), or on x in [0, 1], (B, *shape). Parameters with the defaults: 25,174,129 of (3, 32, 32),
        16,608,589 of (1, 28, 28).

    Raises:
        ConfigError: naming the argument.

    Example:
        >>> flow = residual_flow(2, blocks=16)
        >>> flow = residual_flow((1, 8, 8), levels=2, blocks=4, hidden=(64, 64), grey_levels=17)
    """
    arguments = dict(locals())
    require_positive("models.residual_flow", levels=levels, blocks=blocks)
    if isinstance(fully_connected, bool) or not isinstance(fully_connected, int) or fully_connected < 0:
        raise ConfigError(
            f"models.residual_flow: expected fully_connected of at least 0, got {fully_connected!r}. It is a number."
        )
    vectors, images, usual = choose("models.residual_flow", "net", net, NETS)
    convolutional = not isinstance(shape, int)
    options = {
        "lipschitz": lipschitz,
        "activation": usual if activation is None else activation,
        "condition_features": condition_width("models.residual_flow", condition_features, classes),
    }
    widths = HIDDEN[net, convolutional] if hidden is None else tuple(hidden)
    stack = _Stack(images if convolutional else vectors, widths, options, log_det)
    if isinstance(shape, int):
        require_positive("models.residual_flow", shape=shape)
        latent: tuple[int, ...] = (shape,)
        bijection = Chain(ActNorm(shape), *stack(shape, blocks, first=True))
    else:
        latent = checked_shape("models.residual_flow", shape, 2 ** (levels - 1))
        end = _Stack(vectors, (FULLY_CONNECTED,) * max(1, len(widths)), options, log_det)
        plan = [(blocks, index) for index in range(levels)]
        body = _level(latent, plan, stack, _End(end, fully_connected), factor_out=factor_out)
        bijection = Chain(Logit(alpha), ActNorm(latent[0]), *body)
    return described_flow("residual_flow", arguments, bijection, latent, grey_levels=grey_levels, classes=classes)


class _Stack:
    """Residual blocks of one kind, an ActNorm after each."""

    def __init__(
        self, net: Callable[..., nn.Module], widths: tuple[int, ...], options: dict[str, Any], log_det: str
    ) -> None:
        self.net, self.widths, self.options, self.log_det = net, widths, options, log_det

    def __call__(self, features: int, count: int, *, first: bool = False) -> list[Bijection]:
        made: list[Bijection] = []
        for index in range(count):
            # Two activations would meet behind the data alone.
            net = self.net(features, self.widths, preactivation=not first or index > 0, **self.options)
            made += [ResidualBlock(net, log_det=self.log_det), ActNorm(features)]
        return made


class _End:
    """Fully connected blocks on images."""

    def __init__(self, stack: _Stack, count: int) -> None:
        self.stack, self.count = stack, count

    def __call__(self, sizes: tuple[int, int, int]) -> list[Bijection]:
        if not self.count:
            return []
        flat = Flatten(sizes)
        return [flat, *self.stack(math.prod(sizes), self.count), flat.inverted]


def _level(
    sizes: tuple[int, int, int], plan: list[tuple[int, int]], stack: _Stack, end: _End, *, factor_out: bool
) -> list[Bijection]:
    (blocks, index), *rest = plan
    channels, height, width = sizes
    made = stack(channels, blocks, first=index == 0)
    if not rest:
        return [*made, *end(sizes)]
    squeezed = (2 if factor_out else 4) * channels, height // 2, width // 2
    inner = _level(squeezed, rest, stack, end, factor_out=factor_out)
    squeeze = Squeeze()
    return [*made, squeeze, *([FactorOut(Chain(*inner))] if factor_out else inner), squeeze.inverted]
