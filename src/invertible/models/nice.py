"""NICE (Dinh, Krueger & Bengio 2015)."""

import math
from collections.abc import Sequence

from invertible.bijection import Bijection
from invertible.blocks import AdditiveCoupling, DiagonalScaling, Flatten
from invertible.chain import Chain
from invertible.errors import require_positive
from invertible.flow import Flow
from invertible.models.common import condition_width, described_flow


def nice(
    shape: int | Sequence[int],
    *,
    layers: int = 4,
    hidden: Sequence[int] = (1000, 1000, 1000, 1000, 1000),
    mask: str = "alternating",
    base: str = "logistic",
    condition_features: int = 0,
    classes: int | None = None,
    grey_levels: int | None = None,
) -> Flow:
    """NICE: additive couplings of alternating masks, then one diagonal scaling; volume changes in the scaling only.

    The defaults are the paper's for MNIST (section 5.1): 4 couplings with 5 hidden layers of 1000 units, and the
    standard logistic prior.

    Args:
        shape: number of features D, or the shape of images, which are flattened.
        layers: number of couplings.
        hidden: widths of each conditioner's hidden layers.
        mask: `"alternating"` (the paper's odd and even) or `"half"`.
        base: `"logistic"` or `"normal"`; a class-conditional normal where `classes` is given.
        condition_features: width of a condition (B, F) given to every coupling.
        classes: number of classes; the condition is then integer labels (B,).
        grey_levels: levels of discrete data for `bits_per_dim`; `None` for continuous data.

    Returns:
        A `Flow` on (B, D) or (B, *shape); latents are (B, D).

    Raises:
        ConfigError: naming the argument.

    Example:
        >>> flow = nice((1, 28, 28), grey_levels=256)
    """
    arguments = dict(locals())
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    features = math.prod(sizes)
    require_positive("models.nice", shape=features, layers=layers)
    width = condition_width("models.nice", condition_features, classes)
    blocks: list[Bijection] = [Flatten(sizes)] if len(sizes) > 1 else []
    for index in range(layers):
        flip = index % 2 == 1
        blocks.append(AdditiveCoupling(features, hidden=hidden, mask=mask, flip=flip, condition_features=width))
    bijection = Chain(*blocks, DiagonalScaling(features))
    return described_flow(
        "nice", arguments, bijection, (features,), base=base, grey_levels=grey_levels, classes=classes
    )
