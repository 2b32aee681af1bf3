"""The blocks whose Lipschitz bounds are measured: how to build them, and the formulas of their bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from invertible.bijection import Bijection
from invertible.blocks import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    BatchNorm,
    ContinuousBlock,
    FactorOut,
    Haar,
    InvertibleConv1x1,
    InvertibleLinear,
    LeakyReLU,
    Logit,
    Permutation,
    ResidualBlock,
    ReversibleODE,
    ReversibleResidual,
    SplineCoupling,
    Squeeze,
)
from invertible.blocks.continuous import TimeNet
from invertible.blocks.lipschitz import LipschitzConvNet, LipschitzMLP
from invertible.blocks.nets import mlp
from invertible.blocks.scale import SCALES
from invertible.solvers.ode.fixed_step import FixedStepSolver

FEATURES, CHANNELS = 6, 4
VECTOR, IMAGE = (FEATURES,), (CHANNELS, 4, 4)


@dataclass(frozen=True)
class Kind:
    """A block of the table.

    Attributes:
        build: makes a fresh one.
        forward: formula of the bound of Lip(f).
        inverse: formula of the bound of Lip(f^-1).
        shape: of a sample.
        local: whether the bounds hold on a box alone.
        unit: whether samples lie in [0, 1].
        tight: whether some point attains both bounds, whatever the parameters.
        deviation: of the noise on parameters, as a factor.
    """

    build: Callable[[], Bijection]
    forward: str
    inverse: str
    shape: tuple[int, ...] = VECTOR
    local: bool = False
    unit: bool = False
    tight: bool = False
    deviation: float = 1.0


def _affine(order: str) -> dict[str, Kind]:
    moved = (
        ("R sup|g'|, 1", "(S + T) sup|h'|, sup h") if order == "realnvp" else ("(R + T) sup|g'|, sup g", "S sup|h'|, 1")
    )
    return {
        f"affine, {name}, {'RealNVP' if order == 'realnvp' else 'Glow'} order": Kind(
            lambda name=name: AffineCoupling(FEATURES, hidden=(8,), scale=name, order=order),
            f"‖[1, 0; M, sup g]‖, M = |({moved[0]})| L",
            f"‖[1, 0; M, sup h]‖, M = |({moved[1]})| L",
            local=True,
            deviation=0.5,
        )
        for name in sorted(SCALES)
    }


SHEAR, ONE = "(τ + √(τ² + 4))/2", "1"
MATRIX = ("‖W‖", "‖W⁻¹‖")
DIAGONAL = ("max |s|", "1/min |s|")
FAMILIES: dict[str, dict[str, Kind]] = {
    "additive": {
        "additive": Kind(lambda: AdditiveCoupling(FEATURES, hidden=(8,)), SHEAR, SHEAR),
        "additive, linear t": Kind(lambda: AdditiveCoupling(FEATURES, nn.Linear), SHEAR, SHEAR, tight=True),
        "additive, images": Kind(
            lambda: AdditiveCoupling(CHANNELS, hidden=(6, 6), spatial_dims=2), SHEAR, SHEAR, IMAGE, deviation=0.5
        ),
        "RevNet's residual": Kind(
            lambda: ReversibleResidual(mlp((8,))(3, 3), mlp((8,))(3, 3)), "product of two", "product of two"
        ),
        "spline coupling": Kind(
            lambda: SplineCoupling(FEATURES, hidden=(8,)), "slopes and Lip(t)", "slopes and Lip(t)", deviation=0.3
        ),
    },
    "affine, RealNVP order": _affine("realnvp"),
    "affine, Glow order": _affine("glow"),
    "residual": {
        "residual": Kind(lambda: ResidualBlock(LipschitzMLP(FEATURES, (8, 8))), "1 + L", "1/(1 − L)"),
        "residual, images": Kind(
            lambda: ResidualBlock(LipschitzConvNet(CHANNELS, (6, 6))), "1 + L", "1/(1 − L)", IMAGE
        ),
        "continuous": Kind(
            lambda: ContinuousBlock(TimeNet(FEATURES, (8,)), solver=FixedStepSolver("rk4", 4)), "exp(L T)", "exp(L T)"
        ),
        "reversible ODE": Kind(
            lambda: ReversibleODE(TimeNet(FEATURES // 2, (8,))), "product of shears", "product of shears", deviation=0.5
        ),
    },
    "elementwise and linear": {
        "activation norm": Kind(lambda: ActNorm(FEATURES), *DIAGONAL, tight=True),
        "batch norm, eval": Kind(lambda: BatchNorm(FEATURES), *DIAGONAL, tight=True),
        "leaky ReLU 0.2": Kind(lambda: LeakyReLU(0.2), "max(1, a)", "1/min(1, a)", tight=True),
        "logit, α = 0.05": Kind(lambda: Logit(0.05), "(1 − 2α)/(α(1 − α))", "1/(4(1 − 2α))", unit=True, tight=True),
        "linear": Kind(lambda: InvertibleLinear(FEATURES, "free"), *MATRIX, tight=True, deviation=0.3),
        "1 × 1 convolution, LU": Kind(
            lambda: InvertibleConv1x1(CHANNELS, "plu"), *MATRIX, IMAGE, tight=True, deviation=0.3
        ),
        "1 × 1 convolution, orthogonal": Kind(
            lambda: InvertibleConv1x1(CHANNELS, "orthogonal"), ONE, ONE, IMAGE, tight=True
        ),
        "permutation": Kind(lambda: Permutation(FEATURES, seed=0), ONE, ONE, tight=True),
        "squeeze": Kind(lambda: Squeeze(), ONE, ONE, (1, 8, 8), tight=True),
        "Haar": Kind(lambda: Haar(), ONE, ONE, (1, 8, 8), tight=True),
        "factor-out of a norm": Kind(lambda: FactorOut(ActNorm(3)), "max(1, inner)", "max(1, inner)"),
    },
}
KINDS = {name: kind for family in FAMILIES.values() for name, kind in family.items()}
