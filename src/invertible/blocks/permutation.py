"""Permutation of features or channels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from invertible.bijection import Bijection, Domain, LipschitzBounds
from invertible.errors import ConfigError, require_positive
from invertible.shapes import zero_log_det


class Permutation(Bijection):
    """Permutation of axis 1: y_i = x_p(i); inverse: the inverse permutation, to the bit. log_det = 0.

    Args:
        features: size of axis 1.
        order: `"random"`, `"reverse"`, or the indices p(0), ..., p(features - 1).
        seed: of the random order; drawn from the global generator if `None`.

    Shapes:
        x, y: (B, features, ...), any number of spatial axes; log_det: (B,).

    Numerics: exact; an isometry, Lip(f) = Lip(f^-1) = 1.

    Raises:
        ConfigError: if `order` is neither a name nor a permutation of 0 .. features - 1.

    Example:
        >>> block = Permutation(4, "reverse")
    """

    volume_preserving = True
    exact = True

    def __init__(self, features: int, order: str | Sequence[int] = "random", *, seed: int | None = None) -> None:
        super().__init__()
        require_positive("Permutation", features=features)
        indices = _indices(features, order, seed)
        self.indices: Tensor
        self.back: Tensor
        self.register_buffer("indices", indices)
        self.register_buffer("back", indices.argsort())

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Gather by p."""
        self._check(x, condition, len(self.indices), None, self.indices)
        return x.index_select(1, self.indices), zero_log_det(x)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Gather by the inverse of p."""
        self._check(y, condition, len(self.indices), None, self.indices)
        return y.index_select(1, self.back), zero_log_det(y)

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """1 and 1."""
        return LipschitzBounds(1.0, 1.0)

    def image(self, domain: Domain) -> Domain:
        """The same boxes."""
        return domain.turned

    def extra_repr(self) -> str:
        """The number of features."""
        return f"{len(self.indices)}"


def _indices(features: int, order: str | Sequence[int], seed: int | None) -> Tensor:
    # On the CPU whatever the default device is, so that one seed gives one order everywhere.
    if order == "reverse":
        return torch.arange(features - 1, -1, -1)
    if order == "random":
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return torch.randperm(features, generator=generator)
    if not isinstance(order, str) and sorted(order) == list(range(features)):
        return torch.tensor(list(order))
    raise ConfigError(
        f"Permutation: expected order to be 'random', 'reverse' or a permutation of 0 .. {features - 1}, got {order!r}."
    )
