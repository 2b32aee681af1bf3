"""The block of i-RevNet."""

from __future__ import annotations

from torch import Tensor, nn

from invertible.bijection import Bijection, Domain, LipschitzBounds
from invertible.blocks.additive import AdditiveMap
from invertible.blocks.coupling_step import CouplingStep
from invertible.errors import ConfigError, ShapeError
from invertible.memory.step import State, Step
from invertible.norms import lipschitz_bound, outward, shear_norm
from invertible.partition import Halves, Partition, Parts
from invertible.shapes import depth_to_space, from_space_major, space_to_depth, to_space_major, zero_log_det


class SwapResidual(Bijection):
    """y_1 = S x_2, y_2 = S x_1 + F(x_2), S space-to-depth (i-RevNet, Jacobsen et al. 2018, equation 1).

    Inverse: x_2 = S^-1 y_1, x_1 = S^-1(y_2 - F(x_2)). log_det = 0: a shear, an exchange of the two halves and a
    permutation of numbers; the sign of the determinant does not count. x is split in halves on axis 1. The paper
    writes x_1 in place of S x_1, which fits no strided block; its code has S x_1, and so has this.

    Args:
        f: F, a module from half of x to half of y: of C/2 channels to `factor`^2 C/2 at 1/`factor` of the size.
        factor: of S, which maps (B, C/2, H, W) to (B, factor^2 C/2, H/factor, W/factor) with channel
            (i factor + j) C/2 + c for pixel (i, j) of a square, `Squeeze(order="space-major")`; 1 for no S.

    Shapes:
        x: (B, C, H, W) with C even, any number of axes behind if `factor` is 1; y: (B, factor^2 C, H/factor,
        W/factor); log_det: (B,).

    Cost: one evaluation of F forward, inverse, and in reconstruction.

    Numerics: Lip(f) = Lip(f^-1) <= (tau + sqrt(tau^2 + 4))/2 with tau = Lip(F), on the whole space; errors of a round
    trip are those of one addition. Exact to the bit in a chain of `memory="exact"`.

    Raises:
        ConfigError: if f is no module or `factor` not positive.
        ShapeError: if C is odd, height or width are not divisible by `factor`, or F returns another shape than S x_1.

    Example:
        >>> block = SwapResidual(nn.Conv2d(8, 32, 3, stride=2, padding=1), factor=2)
        >>> y, log_det = block(torch.randn(2, 16, 8, 8))  # (2, 64, 4, 4)
    """

    volume_preserving = True

    def __init__(self, f: nn.Module, *, factor: int = 1) -> None:
        super().__init__()
        if not isinstance(f, nn.Module):
            raise ConfigError(
                f"SwapResidual: expected f to be a torch.nn.Module, got {type(f).__name__}. Wrap a function in a "
                "module with a forward."
            )
        if isinstance(factor, bool) or not isinstance(factor, int) or factor < 1:
            raise ConfigError(f"SwapResidual: expected factor to be an integer of at least 1, got {factor!r}.")
        self.f, self.factor = f, factor
        self.spatial_dims = 2 if factor > 1 else None
        self.cut = Halves()

    @property
    def partition(self) -> Partition:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Two halves of axis 1."""
        return self.cut

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(S x_2, S x_1 + F(x_2))."""
        self._check(x, condition, None, self.spatial_dims)
        parts, _ = self.forward_parts(self.cut.split(x), condition)
        return self.cut.merge(*parts), zero_log_det(x)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(S^-1(y_2 - F(x_2)), x_2) with x_2 = S^-1 y_1."""
        self._check(y, condition, None, self.spatial_dims)
        parts, _ = self.inverse_parts(self.cut.split(y), condition)
        return self.cut.merge(*parts), zero_log_det(y)

    def forward_parts(self, parts: Parts, condition: Tensor | None) -> tuple[Parts, None]:
        """`forward` on halves."""
        a, b = parts
        moved = _squeezed(a, self.factor)
        return (_squeezed(b, self.factor), moved + self._update(b, moved)), None

    def inverse_parts(self, parts: Parts, condition: Tensor | None) -> tuple[Parts, None]:
        """`inverse` on halves."""
        a, b = parts
        passive = _unsqueezed(a, self.factor)
        return (_unsqueezed(b - self._update(passive, b), self.factor), passive), None

    def passive(self, y: Tensor) -> Tensor:
        """x_2 of y."""
        self._check(y, None, None, self.spatial_dims)
        return _unsqueezed(self.cut.split(y)[0], self.factor)

    def undone(self, passive: Tensor, y: Tensor) -> Tensor:
        """x of y, for an x_2 that is known better than y tells it."""
        b = self.cut.split(y)[1]
        return self.cut.merge(_unsqueezed(b - self._update(passive, b), self.factor), passive)

    def _update(self, b: Tensor, like: Tensor) -> Tensor:
        update = self.f(b)
        if update.shape != like.shape:
            raise ShapeError(
                f"SwapResidual: expected f to map {tuple(b.shape)} to {tuple(like.shape)}, got "
                f"{tuple(update.shape)}. Give it a stride of {self.factor}, {like.shape[1]} output channels, and "
                "padding that keeps the size."
            )
        return update

    def steps(self) -> list[Step]:
        """Two: x_1 += S^-1 F(x_2), which evaluates F once to be rebuilt, and the exchange with S, which is lossless."""

        def update(b: Tensor, _: Tensor | None) -> Tensor:
            return _unsqueezed(self._update(b, _squeezed(b, self.factor)), self.factor)

        name = type(self).__name__
        return [CouplingStep(name, self.f, update, AdditiveMap(), active=0), SwapStep(self.factor)]

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """The shear's bound where that of F is known: exchange and S keep lengths."""
        bound = outward(shear_norm(1.0, lipschitz_bound(self.f)))
        return LipschitzBounds(bound, bound)

    def extra_repr(self) -> str:
        """The factor."""
        return f"factor={self.factor}"


class SwapStep(Step):
    """(a, b) -> (S b, S a): no number changes.

    Args:
        factor: of S.
    """

    lossless, name = True, "Swap"

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        """Exchange and squeeze."""
        a, b = state
        return (_squeezed(b, self.factor), _squeezed(a, self.factor)), None

    def invert(self, state: State, condition: Tensor | None) -> State:
        """Put back and exchange."""
        a, b = state
        return _unsqueezed(b, self.factor), _unsqueezed(a, self.factor)


def _squeezed(x: Tensor, factor: int) -> Tensor:
    if factor == 1:
        return x
    if x.shape[2] % factor or x.shape[3] % factor:
        raise ShapeError(
            f"SwapResidual: expected x with height and width divisible by {factor}, got {tuple(x.shape)}. Pad the "
            "image first."
        )
    return to_space_major(space_to_depth(x, factor), factor**2)


def _unsqueezed(y: Tensor, factor: int) -> Tensor:
    if factor == 1:
        return y
    if y.shape[1] % factor**2:
        raise ShapeError(
            f"SwapResidual: expected y with halves of channels divisible by {factor**2}, got {tuple(y.shape)}."
        )
    return depth_to_space(from_space_major(y, factor**2), factor)
