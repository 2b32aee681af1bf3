"""Domains that know how long their vectors are, beside how large their numbers are."""

import math
from dataclasses import dataclass

from invertible.bijection import Domain
from invertible.errors import ConfigError
from invertible.norms import outward


@dataclass(frozen=True)
class Ball(Domain):
    """A ball on either side of a map: all x with |x|_2 <= x, and all y with |y|_2 <= y.

    A `Domain` whose vectors are bounded in length as well. A linear layer of D features may carry a box of radius R
    into one of radius sqrt(D) |W|_2 R, and so may the next one; a ball of radius R it carries into one of |W|_2 R.
    Blocks that follow boxes alone take a ball for the box around it.

    Attributes:
        x: radius of the inputs; of the box |x_i| <= x around them where `x_norm` is given.
        y: radius of the outputs, likewise.
        x_norm: largest |x|_2; x if `None`, `math.inf` if not known.
        y_norm: largest |y|_2; y if `None`.
        dimensions: how many numbers a sample has, if known: then a box tells the length of its vectors, too.

    Raises:
        ConfigError: if a radius is negative, or `dimensions` not positive.

    Example:
        >>> flow.bijection.bounds(Ball(x=8.0, y=8.0, dimensions=64))
    """

    x_norm: float | None = None
    y_norm: float | None = None
    dimensions: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        root = math.inf
        if self.dimensions is not None:
            if self.dimensions < 1:
                raise ConfigError(f"Ball: expected dimensions of at least 1, got {self.dimensions}.")
            root = math.sqrt(self.dimensions)
        for side in ("x", "y"):
            radius, norm = getattr(self, side), getattr(self, f"{side}_norm")
            norm = radius if norm is None else norm
            if not norm >= 0:
                raise ConfigError(f"Ball: expected {side}_norm >= 0, got {norm}.")
            object.__setattr__(self, side, min(radius, norm))
            object.__setattr__(self, f"{side}_norm", min(norm, radius * root) if radius else 0.0)

    @property
    def turned(self) -> Domain:
        """The two sides exchanged: the domain of the inverse map."""
        return Ball(self.y, self.x, self.y_norm, self.x_norm, self.dimensions)

    @property
    def norms(self) -> tuple[float, float]:
        """`x_norm` and `y_norm` as numbers."""
        assert self.x_norm is not None
        assert self.y_norm is not None
        return self.x_norm, self.y_norm


def norms_of(domain: Domain) -> tuple[float, float]:
    """Largest |x|_2 and |y|_2 on a domain, `math.inf` where only boxes are known."""
    return domain.norms if isinstance(domain, Ball) else (math.inf, math.inf)


def like(domain: Domain, x: float, y: float, x_norm: float = math.inf, y_norm: float = math.inf) -> Domain:
    """Computed radii as a `Ball` of the domain's dimensions if the domain is one, else as boxes; rounded outwards."""
    return _built(domain, *(outward(radius, 4) for radius in (x, y, x_norm, y_norm)))


def constant_norm(domain: Domain, size: float) -> float:
    """Largest length of a sample that is added and whose numbers are at most `size`, `math.inf` if not known."""
    if size == 0:
        return 0.0
    dimensions = domain.dimensions if isinstance(domain, Ball) else None
    return math.inf if dimensions is None else size * math.sqrt(dimensions)


def input_side(domain: Domain) -> Domain:
    """What is known of x alone."""
    return _built(domain, domain.x, math.inf, norms_of(domain)[0], math.inf)


def output_side(domain: Domain) -> Domain:
    """What is known of y alone."""
    return _built(domain, math.inf, domain.y, math.inf, norms_of(domain)[1])


def joined(x: Domain, y: Domain) -> Domain:
    """The x side of one and the y side of another."""
    return _built(x if isinstance(x, Ball) else y, x.x, y.y, norms_of(x)[0], norms_of(y)[1])


def _built(domain: Domain, x: float, y: float, x_norm: float, y_norm: float) -> Domain:
    return Ball(x, y, x_norm, y_norm, domain.dimensions) if isinstance(domain, Ball) else Domain(x, y)
