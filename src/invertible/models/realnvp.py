"""RealNVP (Dinh, Sohl-Dickstein & Bengio 2017)."""

from collections.abc import Sequence

from invertible.bijection import Bijection
from invertible.blocks import ActNorm, FactorOut, Logit, Permutation, Squeeze
from invertible.blocks.nets import residual_convnet
from invertible.chain import Chain
from invertible.errors import ConfigError, choose, require_positive
from invertible.flow import Flow
from invertible.models.common import (
    checked_shape,
    condition_width,
    conditioner_bound_of,
    coupling_block,
    described_flow,
)


def realnvp(
    shape: int | Sequence[int],
    *,
    layers: int = 8,
    hidden: Sequence[int] = (128, 128),
    levels: int = 2,
    residual_blocks: int = 8,
    coupling: str = "affine",
    scale: str = "tanh-exp",
    actnorm: bool = True,
    permutation: str = "random",
    conditioner_bound: float | None = None,
    alpha: float = 0.05,
    condition_features: int = 0,
    classes: int | None = None,
    grey_levels: int | None = None,
) -> Flow:
    """RealNVP on vectors, or the multi-scale architecture on images.

    Vectors: `layers` couplings, each of which transforms one half of the features, shuffled anew. Images: a logit
    layer, then at each level three checkerboard couplings, squeeze, three channel couplings and factor-out; four
    checkerboard couplings at the last level (section 3.6). Departs from the paper: ActNorm in place of batch
    normalisation, since a density that depends on the batch is none; a scale in (1/2, 2); conditioners that see
    b tanh(x/b), by which deep flows keep their inverse far from the data; and checkerboards are packed, not masked
    (see `partition.Checkerboard`).

    Args:
        shape: number of features, or (channels, height, width) with sizes divisible by 2^levels.
        layers: number of couplings (vectors).
        hidden: widths of the hidden layers (vectors); the first is the number of channels of the residual
            conditioners (images).
        levels: number of scales (images).
        residual_blocks: residual blocks of each conditioner (images).
        coupling: `"affine"`, `"additive"` or `"spline"`.
        scale: scale function of the affine coupling, a name of `blocks.scale.SCALES`.
        actnorm: put an `ActNorm` before every coupling.
        permutation: between couplings (vectors): `"random"`, a fixed shuffle, or `"alternate"`, which shuffles nothing
            and transforms the two halves in turn, as the paper does; two or three features always alternate.
        conditioner_bound: b, see `blocks.Coupling`; `math.inf` for none. `None` takes 3 where an ActNorm brings the
            conditioners' inputs to deviations of 1, else none.
        alpha: of the logit layer (images).
        condition_features: width of a condition given to every coupling.
        classes: number of classes; the condition is then integer labels (B,).
        grey_levels: levels of discrete data for `bits_per_dim`; `None` for continuous data.

    Returns:
        A `Flow` on (B, D), or on x in [0, 1], (B, *shape).

    Raises:
        ConfigError: naming the argument.

    Example:
        >>> flow = realnvp(64, layers=8, hidden=(128, 128))
        >>> flow = realnvp((3, 32, 32), levels=2, hidden=(64,), grey_levels=256)
    """
    arguments = dict(locals())
    require_positive("models.realnvp", layers=layers, levels=levels, residual_blocks=residual_blocks)
    width = condition_width("models.realnvp", condition_features, classes)
    shuffled = choose("models.realnvp", "permutation", permutation, {"random": True, "alternate": False})
    # A shuffle of two features is the identity every other time.
    shuffled = shuffled and isinstance(shape, int) and shape > 3
    bound = conditioner_bound_of(conditioner_bound, actnorm=actnorm)
    images = not isinstance(shape, int)
    if images and not hidden:
        raise ConfigError("models.realnvp: expected hidden to hold the conditioners' channels, got none.")

    def couplings(features: int, count: int, mask: str) -> list[Bijection]:
        blocks: list[Bijection] = []
        options = {"hidden": hidden, "mask": mask, "condition_features": width, "conditioner_bound": bound}
        if images:
            options |= {"net": residual_convnet(hidden[0], residual_blocks), "spatial_dims": 2}
        for index in range(count):
            blocks += [ActNorm(features)] if actnorm else []
            blocks += [Permutation(features, seed=index)] if shuffled and index else []
            flip = {"flip": index % 2 == 1 and not shuffled}
            blocks.append(coupling_block(coupling, features, scale=scale, order="realnvp", **options, **flip))
        return blocks

    def level(channels: int, remaining: int) -> Chain:
        if remaining == 1:
            return Chain(*couplings(channels, 4, "checkerboard"))
        squeezed = couplings(4 * channels, 3, "channel")
        inner = FactorOut(level(2 * channels, remaining - 1))
        checkered = couplings(channels, 3, "checkerboard")
        return Chain(*checkered, Squeeze(), *squeezed, inner, Squeeze().inverted)

    if isinstance(shape, int):
        require_positive("models.realnvp", shape=shape)
        latent: tuple[int, ...] = (shape,)
        bijection = Chain(*couplings(shape, layers, "half"))
    else:
        latent = checked_shape("models.realnvp", shape, 2**levels)
        bijection = Chain(Logit(alpha), *level(latent[0], levels))
    return described_flow("realnvp", arguments, bijection, latent, grey_levels=grey_levels, classes=classes)
