"""Glow (Kingma & Dhariwal 2018)."""

from collections.abc import Sequence

import torch
from torch import nn

from invertible.bijection import Bijection
from invertible.blocks import ActNorm, AffineCoupling, FactorOut, InvertibleConv1x1, Permutation, Squeeze
from invertible.chain import Chain
from invertible.errors import ConfigError, require_positive
from invertible.flow import Flow
from invertible.models.common import (
    checked_shape,
    condition_width,
    conditioner_bound_of,
    coupling_block,
    described_flow,
)

PERMUTATIONS = ("conv1x1", "shuffle", "reverse")


def glow(
    shape: Sequence[int],
    *,
    levels: int = 3,
    depth: int = 32,
    hidden: int = 512,
    coupling: str = "affine",
    scale: str = "half-sigmoid",
    permutation: str = "conv1x1",
    parametrization: str = "plu",
    learned_prior: bool = True,
    conditioner_bound: float | None = None,
    condition_features: int = 0,
    classes: int | None = None,
    grey_levels: int | None = 256,
) -> Flow:
    """Glow: `levels` levels of squeeze, `depth` steps (actnorm, 1 x 1 convolution, coupling) and factor-out.

    Departs from the paper in the default scale: (1 + sigmoid(r + 2))/2 in place of sigmoid(r + 2), whose reciprocal
    is unbounded; and in conditioners that see b tanh(x/b), by which deep flows keep their inverse far from the data.
    `scale="sigmoid", conditioner_bound=math.inf` are the paper's. The latents of all levels lie in one tensor of the
    image's shape.

    Args:
        shape: (channels, height, width), sizes divisible by 2^levels.
        levels: L, number of scales.
        depth: K, steps of flow a level.
        hidden: channels of the conditioners' two hidden layers (3 x 3, 1 x 1, 3 x 3 convolutions).
        coupling: `"affine"`, `"additive"` or `"spline"`.
        scale: scale function of the affine coupling, a name of `blocks.scale.SCALES`.
        permutation: `"conv1x1"`, `"shuffle"` (fixed random) or `"reverse"`.
        parametrization: of the 1 x 1 convolution: `"plu"`, `"free"`, `"orthogonal"` or `"lifting"`.
        learned_prior: predict mean and scale of factored-out latents from those kept, as the paper's code does.
        conditioner_bound: b, see `blocks.Coupling`; 3 if `None`, `math.inf` for none.
        condition_features: width of a condition given to every coupling: (B, F), or a map (B, F, height, width).
        classes: number of classes; the condition is then integer labels (B,), given to every coupling and to a
            class-conditional base (section 6).
        grey_levels: levels of discrete data for `bits_per_dim`; `None` for continuous data.

    Returns:
        A `Flow` on x in [0, 1], (B, *shape).

    Raises:
        ConfigError: naming the argument.

    Example:
        >>> flow = glow((3, 32, 32), levels=3, depth=16, hidden=256)
    """
    arguments = dict(locals())
    require_positive("models.glow", levels=levels, depth=depth, hidden=hidden)
    sizes = checked_shape("models.glow", shape, 2**levels)
    if permutation not in PERMUTATIONS:
        raise ConfigError(f"models.glow: expected permutation to be one of {PERMUTATIONS}, got {permutation!r}.")
    width = condition_width("models.glow", condition_features, classes)
    bound = conditioner_bound_of(conditioner_bound)

    def mixing(channels: int) -> Bijection:
        if permutation == "conv1x1":
            return InvertibleConv1x1(channels, parametrization)
        return Permutation(channels, "random" if permutation == "shuffle" else "reverse")

    def step(channels: int) -> list[Bijection]:
        options = {"hidden": (hidden, hidden), "spatial_dims": 2, "condition_features": width}
        options["conditioner_bound"] = bound
        block = coupling_block(coupling, channels, scale=scale, order="glow", **options)
        return [ActNorm(channels), mixing(channels), block]

    def prior(channels: int) -> Bijection:
        options = {"scale": scale, "order": "glow", "spatial_dims": 2, "conditioner_bound": bound}
        return AffineCoupling(channels, _zero_convolution, **options)

    def level(channels: int, remaining: int) -> Chain:
        squeeze = Squeeze(channels_last=remaining == levels)
        blocks: list[Bijection] = [squeeze]
        channels *= 4
        for _ in range(depth):
            blocks += step(channels)
        if remaining > 1:
            if learned_prior:
                blocks.append(prior(channels))
            blocks.append(FactorOut(level(channels // 2, remaining - 1)))
        return Chain(*blocks, squeeze.inverted)

    bijection = level(sizes[0], levels).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return described_flow("glow", arguments, bijection, sizes, grey_levels=grey_levels, classes=classes)


def _zero_convolution(in_features: int, out_features: int) -> nn.Module:
    layer = nn.Conv2d(in_features, out_features, 3, padding=1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    return layer
