"""The layer of the i-RIM: an additive coupling in an orthogonal basis of the channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from invertible.bijection import Domain, LipschitzBounds
from invertible.blocks.nets import NetFactory
from invertible.blocks.shear import Shear
from invertible.blocks.weights import OrthogonalWeight
from invertible.errors import ConfigError, ShapeError, require_positive
from invertible.norms import lipschitz_bound, outward, shear_norm
from invertible.shapes import full_precision


class OrthogonalCoupling(Shear):
    """y = W^T C(W x), C the additive coupling that leaves a = (W x)_1 as it is and adds G(a) to (W x)_2.

    W is a product of k Householder reflections of the channels, the same at every position: a learned orthogonal
    1 x 1 convolution (Putzky & Welling 2019). With its rows in three parts, W_1, W_2 and those that pass
    by,

        y = x + W_2^T G(W_1 x),  inverse: x = y - W_2^T G(W_1 y),

    for W_1 W_2^T = 0: which is how it is computed. Where G = 0 the layer is the identity, to the bit. log_det = 0:
    volume preserving.

    Args:
        channels: C, at least 2.
        net: factory (in_features, out_features) -> Module of G, such as `gated_convnet(64, factor=2)`. It gets n // 2
            channels and returns n - n // 2, n of `coupled`.
        reflections: k, from 1 to C; only k directions are mixed. 3 in the paper's code; no more than C are taken.
        coupled: n, channels of W x that take part; all if `None`.

    Shapes:
        x, y: (B, C, *spatial), any number of axes; log_det: (B,).

    Cost: one evaluation of G forward, inverse, and in reconstruction; beside it the product with half of the rows of W
    in front of G and with the other half behind, which is one 1 x 1 convolution together. W is computed once a call.

    Numerics: an error of x is not turned with every layer, since x itself passes by; W_1 W_2^T is 0 within 1e-6 in
    float32, and what G gets in the inverse is off by this times |G|. With tau = Lip(G), Lip(f) = Lip(f^-1) =
    (tau + sqrt(tau^2 + 4))/2. No form is exact to the bit. W is computed in float32 at least, also under autocast; as
    a model of half precision it is not orthogonal enough for an inverse.

    Raises:
        ConfigError: at construction, naming the argument.
        ShapeError: on an input of the wrong shape, or if G returns one.

    Example:
        >>> layer = OrthogonalCoupling(64, gated_convnet(64, factor=2))
        >>> y, log_det = layer(x)
    """

    def __init__(self, channels: int, net: NetFactory, *, reflections: int = 3, coupled: int | None = None) -> None:
        super().__init__()
        require_positive("OrthogonalCoupling", channels=channels, reflections=reflections)
        count = channels if coupled is None else coupled
        if not 2 <= count <= channels:
            raise ConfigError(
                f"OrthogonalCoupling: expected at least 2 coupled channels, and at most channels={channels}, got "
                f"{count}. One part of them decides how the other is moved."
            )
        self.channels, self.sizes = channels, (count // 2, count - count // 2)
        self.weight = OrthogonalWeight(channels, min(reflections, channels))
        self.net = net(*self.sizes)
        if not isinstance(self.net, nn.Module):
            raise ConfigError(f"OrthogonalCoupling: expected net to return a Module, got {type(self.net).__name__}.")

    def check(self, x: Tensor, condition: Tensor | None) -> None:
        """Refuse an input of the wrong shape."""
        self._check(x, condition, self.channels, getattr(self.net, "spatial_dims", None), self.weight.reference)

    def update(self, x: Tensor) -> tuple[Tensor, ...]:
        """G(W_1 x), (B, n - n // 2, *spatial), and W_2^T."""
        first, second = self._rows(x)
        moved = self.net(_mix(first, x))
        if moved.shape != (len(x), self.sizes[1], *x.shape[2:]):
            raise ShapeError(
                f"OrthogonalCoupling: expected net to return ({len(x)}, {self.sizes[1]}, ...) of x's size, got "
                f"{tuple(moved.shape)}. Give it padding that keeps the size."
            )
        return moved, second.T

    def shifted(self, x: Tensor, update: tuple[Tensor, ...], sign: int) -> Tensor:
        """x + sign W_2^T G(W_1 x)."""
        with full_precision(x):
            return torch.baddbmm(_flat(x), *_factors(x, update), alpha=sign).view_as(x)

    def shift_(self, x: Tensor, update: tuple[Tensor, ...], sign: int) -> None:
        """The same in place; x is contiguous."""
        with full_precision(x):
            _flat(x).baddbmm_(*_factors(x, update), alpha=sign)

    def _rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """W_1 and W_2, (n // 2, C) and (n - n // 2, C)."""
        with full_precision(x):
            weight = self.weight()[0].to(x.dtype)
        first, second, _ = weight.split((*self.sizes, self.channels - sum(self.sizes)))
        return first, second

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """(tau + sqrt(tau^2 + 4))/2 both ways, where tau = Lip(G) is known: W is an isometry."""
        bound = outward(shear_norm(1.0, lipschitz_bound(self.net)), self.channels)
        return LipschitzBounds(bound, bound)

    def extra_repr(self) -> str:
        """Sizes of the parts, for `print(layer)`."""
        passing = self.channels - sum(self.sizes)
        return f"{self.channels} -> {self.sizes[0]} + {self.sizes[1]}" + (f" + {passing}" if passing else "")


def _mix(weight: Tensor, x: Tensor) -> Tensor:
    """The matrix times x at every position."""
    with full_precision(x):
        # A view of the matrix for each sample: no slower than a convolution, and for any number of axes.
        return torch.bmm(weight.expand(len(x), -1, -1), _flat(x)).view(len(x), len(weight), *x.shape[2:])


def _factors(x: Tensor, update: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """W_2^T and G(W_1 x), whose product is added, a matrix for each sample."""
    moved, back = update
    return back.expand(len(x), -1, -1), _flat(moved.to(x.dtype))


def _flat(x: Tensor) -> Tensor:
    """(B, C, positions); one position for vectors."""
    return x.flatten(2) if x.dim() > 2 else x.unsqueeze(2)
