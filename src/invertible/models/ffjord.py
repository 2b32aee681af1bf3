"""FFJORD (Grathwohl, Chen, Bettencourt, Sutskever & Duvenaud 2019)."""

from collections.abc import Mapping, Sequence
from typing import Any

from invertible.bijection import Bijection
from invertible.blocks import ActNorm, BatchNorm, FactorOut, Logit, Squeeze
from invertible.blocks.continuous import ContinuousBlock, TimeNet
from invertible.blocks.continuous.solving import solver_of
from invertible.chain import Chain
from invertible.errors import choose, require_positive
from invertible.flow import Flow
from invertible.models.common import checked_shape, condition_width, described_flow

NORMS: dict[str, type[ActNorm] | type[BatchNorm] | None] = {
    "actnorm": ActNorm,
    "batchnorm": BatchNorm,
    "none": None,
}

DEFAULT_SOLVER = {"method": "dopri5", "rtol": 1e-4, "atol": 1e-4, "gradient": "direct"}


def ffjord(
    shape: int | Sequence[int],
    *,
    blocks: int = 1,
    hidden: Sequence[int] = (64, 64, 64),
    activation: str = "tanh",
    layer: str = "concatsquash",
    solver: str | Mapping[str, Any] | None = None,
    trace: str = "auto",
    time: float = 1.0,
    energies: bool = False,
    norm: str = "actnorm",
    levels: int = 2,
    condition_features: int = 0,
    classes: int | None = None,
    grey_levels: int | None = None,
) -> Flow:
    """FFJORD: continuous flows of free-form vector fields, on vectors or multi-scale on images.

    Vectors: `blocks` continuous blocks, a normalisation before each. Images: a logit layer, then at each level
    `blocks` continuous blocks, squeeze, `blocks` more and factor-out; at the last level `blocks` blocks. Departs from
    the paper: ActNorm in place of batch normalisation; a looser tolerance and gradients through the solver, the
    quickest where memory is no concern; the span of time is not learned, a scale of the field being the
    same; exact traces where they are cheap. `solver={"method": "dopri5", "gradient": "adjoint"}, norm="batchnorm",
    trace="hutchinson"` are the paper's.

    `energies=True` with weights of 0.01 each in the loss is RNODE (Finlay et al. 2020), whose straight paths few
    steps solve. Without these energies few fixed steps must not be trained with: the optimiser finds fields whose
    log-determinant the solver gets wrong. Two steps of rk4 reached 2.09 nats on the checkerboard, whose entropy is
    3.47, where the exact flow of the same field has 7.49.

    Args:
        shape: number of features, or (channels, height, width) with sizes divisible by 2^(levels - 1).
        blocks: number of continuous blocks (a level and side of the squeeze, for images).
        hidden: widths, or channels, of the fields' hidden layers.
        activation: `"tanh"`, `"softplus"` or `"silu"`.
        layer: `"concatsquash"` or `"concat"`.
        solver: name of a method, or a dictionary of it and the solver's arguments, see
            `blocks.continuous.solving.solver_of`: `"rk4"`, `"dopri5"`, `{"method": "dopri5", "rtol": 1e-6}`; dopri5
            with tolerances of 1e-4 and `gradient="direct"` if `None`.
        trace: `"auto"`, `"exact"` or `"hutchinson"`, see `blocks.continuous.Trace`.
        time: length of every block's span of time.
        energies: compute the energies of RNODE in training mode.
        norm: before every block: `"actnorm"`, `"batchnorm"` or `"none"`.
        levels: number of scales (images).
        condition_features: width of a condition given to every field.
        classes: number of classes; the condition is then integer labels (B,).
        grey_levels: levels of discrete data for `bits_per_dim`; `None` for continuous data.

    Returns:
        A `Flow` on (B, D), or on x in [0, 1], (B, *shape).

    Raises:
        ConfigError: naming the argument.

    Example:
        >>> flow = ffjord(2, hidden=(64, 64, 64))
        >>> flow = ffjord((1, 28, 28), hidden=(32, 32), energies=True, grey_levels=256)
    """
    arguments = dict(locals())
    require_positive("models.ffjord", blocks=blocks, levels=levels)
    width = condition_width("models.ffjord", condition_features, classes)
    normalisation = choose("models.ffjord", "norm", norm, NORMS)
    solving = solver_of("models.ffjord", DEFAULT_SOLVER if solver is None else solver)
    images = not isinstance(shape, int)

    def continuous(features: int) -> list[Bijection]:
        found: list[Bijection] = []
        options = {"hidden": hidden, "activation": activation, "layer": layer, "condition_features": width}
        for _ in range(blocks):
            found += [] if normalisation is None else [normalisation(features)]
            net = TimeNet(features, spatial_dims=2 if images else 0, **options)
            found.append(ContinuousBlock(net, solver=solving, trace=trace, time=(0.0, time), energies=energies))
        return found

    def level(channels: int, remaining: int) -> Chain:
        if remaining == 1:
            return Chain(*continuous(channels))
        inner = FactorOut(level(2 * channels, remaining - 1))
        return Chain(*continuous(channels), Squeeze(), *continuous(4 * channels), inner, Squeeze().inverted)

    if isinstance(shape, int):
        require_positive("models.ffjord", shape=shape)
        latent: tuple[int, ...] = (shape,)
        bijection = Chain(*continuous(shape))
    else:
        latent = checked_shape("models.ffjord", shape, 2 ** (levels - 1))
        bijection = Chain(Logit(0.05), *level(latent[0], levels))
    arguments["solver"] = dict(solver) if isinstance(solver, Mapping) else solver
    return described_flow("ffjord", arguments, bijection, latent, grey_levels=grey_levels, classes=classes)
