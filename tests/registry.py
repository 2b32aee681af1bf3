"""The table of all blocks, models and their variants: a new one is tested by one line here."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

import invertible as inv
from invertible import Bijection
from invertible.blocks.continuous import TimeNet
from invertible.blocks.gated_convnet import gated_convnet
from invertible.blocks.lipschitz import LipschitzConvNet, LipschitzDenseNet, LipschitzMLP
from invertible.blocks.scale import SCALES
from invertible.physics import MatrixOperator, Observation
from invertible.solvers.ode.fixed_step import FixedStepSolver
from invertible.solvers.ode.leapfrog import AsynchronousLeapfrog
from invertible.solvers.ode.reversible import ReversibleSolver
from tests.models.examples import MODELS, data_for
from tests.tools import randomise


@dataclass(frozen=True)
class Entry:
    """How to build a block, and what it takes.

    Attributes:
        build: makes a fresh block.
        shape: of one sample.
        condition: shape of one condition, `None` for none.
        unit: whether samples must lie in [0, 1].
        deviation: of the noise added to all parameters.
        claims: what the block must keep to beside its own claims, as `check_bijection` takes it.
    """

    build: Callable[[], Bijection]
    shape: tuple[int, ...]
    condition: tuple[int, ...] | None = None
    unit: bool = False
    deviation: float = 0.3
    claims: tuple[str, ...] = ()


VECTOR, IMAGE = (6,), (4, 4, 4)
MASK = torch.tensor([True, False, True, True, False, False])
USER_NET = lambda a, b: torch.nn.Sequential(torch.nn.Linear(a, 8), torch.nn.SiLU(), torch.nn.Linear(8, b))  # noqa: E731
SEQUENCE_NET = lambda a, b: torch.nn.Conv1d(a, b, 3, padding=1)  # noqa: E731

COUPLINGS = {"additive": inv.AdditiveCoupling, "affine": inv.AffineCoupling, "spline": inv.SplineCoupling}
LINEAR = {
    "plu": (),
    "orthogonal": ("volume-preserving", "isometry"),
    "free": (),
    "lifting": ("volume-preserving",),
}


def fitted(block):
    """A batch normalisation in eval mode that has seen data: in training its rows depend on each other."""
    block.running_mean.copy_(torch.linspace(-1, 2, block.features))
    block.running_var.copy_(torch.linspace(0.2, 3, block.features))
    return block.eval()


def fitted_standardise(features):
    """One that has seen data."""
    block = inv.Standardise(features)
    block.set(torch.linspace(-1, 2, features), torch.linspace(0.5, 3, features))
    return block


def update(channels, out, stride=1):
    """A residual function with all that a published one has: normalisation, ReLU, a strided convolution."""
    layers = [torch.nn.BatchNorm2d(channels), torch.nn.ReLU(), torch.nn.Conv2d(channels, 5, 3, stride, padding=1)]
    return torch.nn.Sequential(*layers, torch.nn.BatchNorm2d(5), torch.nn.ReLU(), torch.nn.Conv2d(5, out, 1)).eval()


def observation(*shape):
    """One sample's data, which serve any batch."""
    generator = torch.Generator().manual_seed(0)
    count = torch.Size(shape).numel()
    matrix = torch.randn(5, count, generator=generator) / count**0.5
    return Observation(MatrixOperator(matrix, shape), torch.randn(1, 5, generator=generator))


def machine():
    """The invertible part of a small i-RIM."""
    model = inv.models.irim(image_channels=1, channels=4, hidden=(3, 3), factors=(1, 2), steps=2)
    return model.core.machine.chain(observation(1, 3, 4))


def contraction(net):
    """A residual block whose log-determinant is exact in training, too."""
    return inv.ResidualBlock(net, log_det="exact")


# So accurate that the quadrature of the trace is the log-determinant of the discrete map to rounding.
ACCURATE = {"solver": FixedStepSolver("dopri5", 4), "time": (0.0, 0.1)}

BLOCKS: dict[str, Entry] = {
    "actnorm": Entry(lambda: inv.ActNorm(6), VECTOR),
    "actnorm-images": Entry(lambda: inv.ActNorm(4), IMAGE),
    "actnorm-volumes": Entry(lambda: inv.ActNorm(2), (2, 2, 3, 2)),
    "batch-norm": Entry(lambda: fitted(inv.BatchNorm(6)), VECTOR),
    "batch-norm-images": Entry(lambda: fitted(inv.BatchNorm(4)), IMAGE),
    "leaky-relu": Entry(lambda: inv.LeakyReLU(0.2), VECTOR),
    "leaky-relu-steep-images": Entry(lambda: inv.LeakyReLU(3.0), IMAGE),
    "tanh": Entry(lambda: inv.Tanh(), VECTOR),
    "sigmoid": Entry(lambda: inv.Sigmoid(), VECTOR),
    "softplus": Entry(lambda: inv.Softplus(), IMAGE),
    "scaling": Entry(lambda: inv.DiagonalScaling(6), VECTOR),
    "scaling-images": Entry(lambda: inv.DiagonalScaling(4), IMAGE),
    "permutation-random": Entry(lambda: inv.Permutation(6, seed=0), VECTOR),
    "permutation-reverse-images": Entry(lambda: inv.Permutation(4, "reverse"), IMAGE),
    "permutation-given": Entry(lambda: inv.Permutation(3, [2, 0, 1]), (3,)),
    "squeeze": Entry(lambda: inv.Squeeze(), (2, 4, 4)),
    "squeeze-space-major": Entry(lambda: inv.Squeeze(order="space-major"), (2, 4, 4)),
    "squeeze-channels-last": Entry(lambda: inv.Squeeze(channels_last=True), (2, 4, 4)),
    "squeeze-three": Entry(lambda: inv.Squeeze(3), (1, 6, 3)),
    "unsqueeze": Entry(lambda: inv.Squeeze().inverted, (8, 2, 2)),
    "squeeze-vertical": Entry(lambda: inv.Squeeze(), (3, 6, 2)),
    "haar": Entry(lambda: inv.Haar(), (2, 4, 4), claims=("isometry",)),
    "haar-inverted": Entry(lambda: inv.Haar().inverted, (8, 2, 2), claims=("volume-preserving", "isometry")),
    "standardise": Entry(lambda: fitted_standardise(6), VECTOR),
    "standardise-images": Entry(lambda: fitted_standardise(4), IMAGE),
    "reversible-residual-batch-norm": Entry(lambda: inv.ReversibleResidual(update(2, 2), update(2, 2)), IMAGE),
    "swap": Entry(lambda: inv.SwapResidual(torch.nn.Linear(3, 3)), VECTOR),
    "swap-images": Entry(lambda: inv.SwapResidual(update(2, 2)), IMAGE),
    "swap-strided": Entry(lambda: inv.SwapResidual(update(1, 4, 2), factor=2), (2, 4, 4)),
    "swap-strided-by-three": Entry(lambda: inv.SwapResidual(update(1, 9, 3), factor=3), (2, 6, 3)),
    "swap-strided-inverted": Entry(lambda: inv.SwapResidual(update(1, 4, 2), factor=2).inverted, (8, 2, 2)),
    "chain-of-swaps": Entry(
        lambda: inv.Chain(
            inv.SwapResidual(update(1, 4, 2), factor=2), inv.SwapResidual(update(4, 4)), inv.SwapResidual(update(4, 4))
        ),
        (2, 4, 4),
    ),
    "residual": Entry(lambda: contraction(LipschitzMLP(6, (8, 8))), VECTOR),
    "residual-dense": Entry(lambda: contraction(LipschitzDenseNet(6, (6, 6))), VECTOR),
    "residual-images": Entry(lambda: contraction(LipschitzConvNet(4, (6, 6), preactivation=True)), IMAGE),
    "residual-conditional": Entry(
        lambda: contraction(LipschitzMLP(6, (8,), condition_features=2)), VECTOR, condition=(2,)
    ),
    "residual-ordinary-net": Entry(lambda: contraction(USER_NET(6, 6)), VECTOR),
    "continuous": Entry(lambda: inv.ContinuousBlock(TimeNet(3, (6,)), **ACCURATE), (3,)),
    "continuous-conditional": Entry(
        lambda: inv.ContinuousBlock(TimeNet(3, (6,), condition_features=2), **ACCURATE), (3,), condition=(2,)
    ),
    "orthogonal-coupling": Entry(lambda: inv.OrthogonalCoupling(4, gated_convnet(3, 2)), IMAGE),
    "orthogonal-coupling-volumes": Entry(lambda: inv.OrthogonalCoupling(4, gated_convnet(3, 2, 3)), (4, 2, 3, 2)),
    "orthogonal-coupling-in-part": Entry(
        lambda: inv.OrthogonalCoupling(5, gated_convnet(3), coupled=3).inverted, (5, 3, 3)
    ),
    "orthogonal-coupling-vectors": Entry(lambda: inv.OrthogonalCoupling(6, torch.nn.Linear), VECTOR),
    "gradient-injection": Entry(
        lambda: inv.GradientInjection(observation(2, 3, 2), 2, multiplicity=2), (9, 3, 2), claims=("volume-preserving",)
    ),
    "irim-machine": Entry(machine, (4, 3, 4)),
    "reversible-ode": Entry(lambda: inv.ReversibleODE(TimeNet(3, (6,))), VECTOR),
    "reversible-ode-coupled": Entry(
        lambda: inv.ReversibleODE(TimeNet(3, (6,)), solver=ReversibleSolver("rk4", 3, coupling=0.8)), VECTOR
    ),
    "reversible-ode-leapfrog-images": Entry(
        lambda: inv.ReversibleODE(TimeNet(2, (6,), spatial_dims=2), solver=AsynchronousLeapfrog(3)), IMAGE
    ),
    "reversible-ode-conditional": Entry(
        lambda: inv.ReversibleODE(TimeNet(3, (6,), condition_features=2)), VECTOR, condition=(2,)
    ),
    "flatten": Entry(lambda: inv.Flatten((2, 3, 4)), (2, 3, 4), claims=("isometry",)),
    "flatten-inverted": Entry(lambda: inv.Flatten((2, 3, 4)).inverted, (24,), claims=("exact", "isometry")),
    "logit": Entry(lambda: inv.Logit(), VECTOR, unit=True),
    "logit-small-alpha": Entry(lambda: inv.Logit(1e-3), IMAGE, unit=True),
    # Bounds and image of a logit layer are those on [0, 1], which the inverse leaves for large numbers.
    "logit-inverted": Entry(lambda: inv.Logit().inverted, VECTOR, unit=True),
    "factor-out": Entry(lambda: inv.FactorOut(inv.AffineCoupling(2, spatial_dims=2)), IMAGE),
    "factor-out-kept": Entry(lambda: inv.FactorOut(inv.AffineCoupling(4), kept=4), (5,)),
    "factor-out-conditional": Entry(
        lambda: inv.FactorOut(inv.AffineCoupling(3, condition_features=2)), VECTOR, condition=(2,)
    ),
    **{
        f"linear-{name}{'-bias' if bias else ''}": Entry(
            lambda name=name, bias=bias: inv.InvertibleLinear(6, name, bias=bias),
            VECTOR,
            deviation=0.1,
            claims=LINEAR[name],
        )
        for name in LINEAR
        for bias in (False, True)
    },
    "linear-three-reflections": Entry(
        lambda: inv.InvertibleLinear(6, "orthogonal", reflections=3), VECTOR, claims=("volume-preserving", "isometry")
    ),
    **{
        f"conv1x1-{name}": Entry(
            lambda name=name: inv.InvertibleConv1x1(4, name), IMAGE, deviation=0.1, claims=LINEAR[name]
        )
        for name in LINEAR
    },
    **{
        f"affine-{name}-{order}": Entry(
            lambda name=name, order=order: inv.AffineCoupling(6, hidden=(8,), scale=name, order=order),
            VECTOR,
            deviation=0.2,
        )
        for name in sorted(SCALES)
        for order in ("realnvp", "glow")
    },
    **{f"{name}-odd": Entry(lambda kind=kind: kind(7), (7,)) for name, kind in COUPLINGS.items()},
    **{f"{name}-flip": Entry(lambda kind=kind: kind(5, flip=True), (5,)) for name, kind in COUPLINGS.items()},
    **{
        f"{name}-alternating": Entry(lambda kind=kind: kind(5, mask="alternating"), (5,))
        for name, kind in COUPLINGS.items()
    },
    **{f"{name}-user-mask": Entry(lambda kind=kind: kind(6, mask=MASK), VECTOR) for name, kind in COUPLINGS.items()},
    **{
        f"{name}-conditional": Entry(lambda kind=kind: kind(6, condition_features=3), VECTOR, condition=(3,))
        for name, kind in COUPLINGS.items()
    },
    **{
        f"{name}-images": Entry(lambda kind=kind: kind(4, hidden=(6, 6), spatial_dims=2), IMAGE, deviation=0.1)
        for name, kind in COUPLINGS.items()
    },
    **{
        f"{name}-checkerboard": Entry(
            lambda kind=kind: kind(2, hidden=(6,), mask="checkerboard", spatial_dims=2), (2, 4, 4), deviation=0.1
        )
        for name, kind in COUPLINGS.items()
    },
    **{
        f"{name}-images-conditional": Entry(
            lambda kind=kind: kind(4, hidden=(6,), spatial_dims=2, condition_features=2),
            IMAGE,
            condition=(2,),
            deviation=0.1,
        )
        for name, kind in COUPLINGS.items()
    },
    "affine-condition-map": Entry(
        lambda: inv.AffineCoupling(4, hidden=(6,), spatial_dims=2, condition_features=2),
        IMAGE,
        condition=(2, 8, 8),
        deviation=0.1,
    ),
    "affine-sequences": Entry(lambda: inv.AffineCoupling(4, SEQUENCE_NET, spatial_dims=1), (4, 5)),
    "affine-sequences-condition-map": Entry(
        lambda: inv.AffineCoupling(4, SEQUENCE_NET, spatial_dims=1, condition_features=2), (4, 5), condition=(2, 10)
    ),
    "affine-images-glow": Entry(
        lambda: inv.AffineCoupling(3, hidden=(6,), scale="sigmoid", order="glow", flip=True, spatial_dims=2),
        (3, 3, 5),
        deviation=0.1,
    ),
    "affine-two-features": Entry(lambda: inv.AffineCoupling(2), (2,)),
    "affine-user-net": Entry(lambda: inv.AffineCoupling(6, USER_NET), VECTOR),
    "spline-two-bins": Entry(lambda: inv.SplineCoupling(4, bins=2, bound=2.0), (4,)),
    "spline-many-bins": Entry(lambda: inv.SplineCoupling(4, bins=32), (4,)),
    "chain": Entry(
        lambda: inv.Chain(inv.ActNorm(6), inv.InvertibleLinear(6), inv.AffineCoupling(6)), VECTOR, deviation=0.1
    ),
    "chain-empty": Entry(lambda: inv.Chain(), VECTOR, claims=("volume-preserving", "exact", "isometry")),
    "chain-inverted": Entry(lambda: inv.Chain(inv.ActNorm(5), inv.AffineCoupling(5)).inverted, (5,)),
    "chain-run-of-scalings": Entry(lambda: inv.Chain(*[inv.ActNorm(2) for _ in range(3)]), (2, 2, 3, 2)),
    "chain-run-of-matrices": Entry(
        lambda: inv.Chain(inv.InvertibleConv1x1(4), inv.ActNorm(4), inv.InvertibleConv1x1(4, "free")),
        IMAGE,
        deviation=0.1,
    ),
    "chain-runs-of-all-kinds": Entry(
        lambda: inv.Chain(
            *[inv.AdditiveCoupling(4, hidden=(6,), flip=i == 1, condition_features=2) for i in range(2)],
            inv.SplineCoupling(4, hidden=(6,), mask="alternating"),
            inv.AffineCoupling(4, hidden=(6,), mask="alternating", condition_features=2),
            inv.ActNorm(4),
            inv.InvertibleLinear(4, "orthogonal", bias=True),
        ),
        (4,),
        condition=(2,),
        deviation=0.1,
    ),
    "chain-run-of-parts": Entry(lambda: inv.Chain(*[inv.AffineCoupling(5, flip=i % 2 == 1) for i in range(3)]), (5,)),
    "chain-nested-conditional": Entry(
        lambda: inv.Chain(inv.Chain(inv.AdditiveCoupling(6, condition_features=2)), inv.Permutation(6, "reverse")),
        VECTOR,
        condition=(2,),
    ),
    "inverted": Entry(lambda: inv.AffineCoupling(6).inverted, VECTOR),
}


def make(name: str, dtype: torch.dtype = torch.float64, samples: int = 4, deviation: float | None = None):
    """A randomised block of the table, inputs on which it is defined, and a condition."""
    if name not in BLOCKS:
        flow = randomise(MODELS[name]().to(dtype), 0.05)
        x, condition = data_for(flow, dtype, max(samples, 8))
        flow.log_prob(x, condition)
        given = flow._given(flow.bijection, flow._condition(condition))
        return flow.bijection, x[:samples], None if given is None else given[:samples]
    entry = BLOCKS[name]
    # What a spline loses to strong parameters is the subject of tests/blocks/test_splines.py.
    default = min(entry.deviation, 0.1) if "spline" in name else entry.deviation
    block = randomise(entry.build().to(dtype), default if deviation is None else deviation)
    batch = torch.rand if entry.unit else torch.randn
    condition = None if entry.condition is None else torch.randn(samples, *entry.condition, dtype=dtype)
    # Whatever initialises itself from data does so now; an inverted block does in its inverse.
    y, _ = block(batch(16, *entry.shape, dtype=dtype), _repeated(condition, 16))
    block.inverse(y, _repeated(condition, 16))
    return block, batch(samples, *entry.shape, dtype=dtype), condition


def _repeated(condition, count):
    return None if condition is None else condition[:1].expand(count, *condition.shape[1:])


NAMES = [*BLOCKS, *MODELS]
