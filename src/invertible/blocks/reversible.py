"""The reversible residual block of RevNet."""

from __future__ import annotations

from torch import Tensor, nn

from invertible.bijection import Bijection, Domain, LipschitzBounds
from invertible.blocks.additive import AdditiveMap
from invertible.blocks.coupling_step import CouplingStep
from invertible.errors import ConfigError, ShapeError
from invertible.memory.step import Step
from invertible.norms import lipschitz_bound, outward, shear_norm
from invertible.partition import Halves, Partition, Parts
from invertible.shapes import zero_log_det


class ReversibleResidual(Bijection):
    """y_1 = x_1 + F(x_2), y_2 = x_2 + G(y_1), for any two modules (RevNet, Gomez et al. 2017, equation 8).

    Inverse: x_2 = y_2 - G(y_1), x_1 = y_1 - F(x_2). log_det = 0: volume preserving. x is split in halves on axis 1.

    Args:
        f: F, a module that keeps the shape of half of x.
        g: G, likewise.

    Shapes:
        x, y: (B, C, ...) with C even, any number of axes behind; log_det: (B,).

    Cost: one evaluation of F and of G forward, inverse, and in reconstruction.

    Numerics: errors of a round trip grow by at most (tau_F + sqrt(tau_F^2 + 4))/2 times the same of G, with tau the
    Lipschitz constants; deep chains of gain 1 lose float32, and `memory="exact"` keeps them to the bit.

    Raises:
        ConfigError: if f or g is no module.
        ShapeError: if C is odd, or F or G changes the shape.

    Example:
        >>> net = Chain(*[ReversibleResidual(make_f(), make_g()) for _ in range(100)], memory="reversible")
    """

    volume_preserving = True

    def __init__(self, f: nn.Module, g: nn.Module) -> None:
        super().__init__()
        for name, module in (("f", f), ("g", g)):
            if not isinstance(module, nn.Module):
                raise ConfigError(
                    f"ReversibleResidual: expected {name} to be a torch.nn.Module, got {type(module).__name__}. "
                    "Wrap a function in a module with a forward."
                )
        self.f, self.g = f, g
        self.cut = Halves()

    @property
    def partition(self) -> Partition:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Two halves of axis 1."""
        return self.cut

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(x_1 + F(x_2), x_2 + G(y_1))."""
        self._check(x, condition)
        parts, _ = self.forward_parts(self.cut.split(x), condition)
        return self.cut.merge(*parts), zero_log_det(x)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(y_1 - F(x_2), y_2 - G(y_1))."""
        self._check(y, condition)
        parts, _ = self.inverse_parts(self.cut.split(y), condition)
        return self.cut.merge(*parts), zero_log_det(y)

    def forward_parts(self, parts: Parts, condition: Tensor | None) -> tuple[Parts, None]:
        """`forward` on halves."""
        a, b = parts
        a = a + _update("f", self.f, b)
        return (a, b + _update("g", self.g, a)), None

    def inverse_parts(self, parts: Parts, condition: Tensor | None) -> tuple[Parts, None]:
        """`inverse` on halves."""
        a, b = parts
        b = b - _update("g", self.g, a)
        return (a - _update("f", self.f, b), b), None

    def steps(self) -> list[Step]:
        """Two: the update by F, and the update by G, so that no more than one of them has its activations alive."""
        name, added = type(self).__name__, AdditiveMap()
        return [
            CouplingStep(f"{name}.f", self.f, lambda b, _: _update("f", self.f, b), added, active=0),
            CouplingStep(f"{name}.g", self.g, lambda a, _: _update("g", self.g, a), added, active=1),
        ]

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """The product of the two additive couplings' bounds, where those of F and G are known."""
        bound = shear_norm(1.0, lipschitz_bound(self.f)) * shear_norm(1.0, lipschitz_bound(self.g))
        return LipschitzBounds(outward(bound), outward(bound))


def _update(name: str, module: nn.Module, x: Tensor) -> Tensor:
    update = module(x)
    if update.shape != x.shape:
        raise ShapeError(
            f"ReversibleResidual: expected {name} to keep the shape of half of x, {tuple(x.shape)}, got "
            f"{tuple(update.shape)}. Give it as many output channels, and padding that keeps the size."
        )
    return update
