"""How well do the inverses invert? Worst-sample round-trip errors of every block and of the default models.

python benchmarks/round_trip.py [--instances 20] [--skip-models]

Blocks: random instances, every parameter moved from its start by noise, weak or strong, and random inputs and
conditions. Models: as constructed, after one batch in training mode, which initialises ActNorm. Exit status 1 if an
error is not finite.
"""

import math
import sys
from collections.abc import Callable

import _record
import torch
from torch import Tensor

import invertible as inv
from invertible.blocks.scale import SCALES

# Deviation of a weight's noise times the square root of its fan-in: near the start, and where scales saturate.
NOISES = {"weak": 0.5, "strong": 2.0}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
BATCH = 32
VECTOR, IMAGE, SQUARE, CONDITION = (8,), (4, 8, 8), (3, 32, 32), 3
Builder = Callable[[], torch.nn.Module]
Worst = dict[str, tuple[float, float]]


def blocks() -> dict[str, tuple[Builder, tuple[int, ...]]]:
    """Every block by name, with the shape of one sample."""
    given = {"condition_features": CONDITION}
    images = {"spatial_dims": 2, **given}
    found: dict[str, tuple[Builder, tuple[int, ...]]] = {
        "ActNorm": (lambda: inv.ActNorm(4), IMAGE),
        "AdditiveCoupling": (lambda: inv.AdditiveCoupling(8, **given), VECTOR),
        "AdditiveCoupling, images": (lambda: inv.AdditiveCoupling(4, **images), IMAGE),
        "AdditiveCoupling, checkerboard": (lambda: inv.AdditiveCoupling(4, mask="checkerboard", **images), IMAGE),
    }
    for scale in SCALES:
        found[f"AffineCoupling, {scale}"] = (lambda scale=scale: inv.AffineCoupling(8, scale=scale, **given), VECTOR)
    return found | {
        "AffineCoupling, images": (lambda: inv.AffineCoupling(4, **images), IMAGE),
        "SplineCoupling": (lambda: inv.SplineCoupling(8, **given), VECTOR),
        "SplineCoupling, images": (lambda: inv.SplineCoupling(4, **images), IMAGE),
        "InvertibleLinear, plu": (lambda: inv.InvertibleLinear(8), VECTOR),
        "InvertibleLinear, orthogonal": (lambda: inv.InvertibleLinear(8, "orthogonal"), VECTOR),
        "InvertibleLinear, free": (lambda: inv.InvertibleLinear(8, "free"), VECTOR),
        "InvertibleConv1x1, plu": (lambda: inv.InvertibleConv1x1(4), IMAGE),
        "DiagonalScaling": (lambda: inv.DiagonalScaling(8), VECTOR),
        "Permutation": (lambda: inv.Permutation(8), VECTOR),
        "Squeeze": (lambda: inv.Squeeze(), IMAGE),
        "Haar": (lambda: inv.Haar(), IMAGE),
        "Flatten": (lambda: inv.Flatten(IMAGE), IMAGE),
        "Logit": (lambda: inv.Logit(), IMAGE),
        "FactorOut": (lambda: inv.FactorOut(inv.AffineCoupling(2, spatial_dims=2)), IMAGE),
    }


def models() -> dict[str, tuple[Builder, tuple[int, ...]]]:
    """The models with their default arguments."""
    return {
        "nice, 64 features": (lambda: inv.models.nice(64), (64,)),
        "nice, 1 x 28 x 28": (lambda: inv.models.nice((1, 28, 28)), (1, 28, 28)),
        "realnvp, 64 features": (lambda: inv.models.realnvp(64), (64,)),
        "realnvp, 64 features, spline": (lambda: inv.models.realnvp(64, coupling="spline"), (64,)),
        "realnvp, 3 x 32 x 32": (lambda: inv.models.realnvp(SQUARE), SQUARE),
        "glow, 3 x 32 x 32": (lambda: inv.models.glow(SQUARE), SQUARE),
    }


@torch.no_grad()
def errors(block: torch.nn.Module, x: Tensor, condition: Tensor | None) -> tuple[float, float]:
    """Worst sample of |x - f^-1(f(x))| (largest entry), and of |log_det forward + log_det back|."""
    y, forward = block(x, condition)
    back, inverse = block.inverse(y, condition)
    return float((back - x).abs().max()), float((forward + inverse).abs().max())


@torch.no_grad()
def move_parameters(block: torch.nn.Module, noise: float, generator: torch.Generator) -> None:
    """Add noise to every parameter."""
    for parameter in block.parameters():
        fan_in = max(1, math.prod(parameter.shape[1:]))
        parameter += noise / math.sqrt(fan_in) * torch.randn(parameter.shape, generator=generator)


def worst_of_block(build: Builder, shape: tuple[int, ...], noise: float, instances: int) -> Worst:
    """Largest errors over instances, by dtype; both dtypes see the same weights and inputs."""
    worst = dict.fromkeys(DTYPES, (0.0, 0.0))
    for seed in range(instances):
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        block = build().eval()
        move_parameters(block, noise, generator)
        unit = isinstance(block, inv.Logit)
        x = torch.rand(BATCH, *shape, generator=generator)
        x = x if unit else 2 * torch.randn(x.shape, generator=generator)
        condition = torch.randn(BATCH, CONDITION, generator=generator) if block.condition_features else None
        for name, dtype in DTYPES.items():
            given = None if condition is None else condition.to(dtype)
            found = errors(block.to(dtype), x.to(dtype), given)
            worst[name] = (_larger(worst[name][0], found[0]), _larger(worst[name][1], found[1]))
    return worst


def _larger(a: float, b: float) -> float:
    """The larger one; NaN counts as infinite, where `max` would drop it."""
    return math.inf if math.isnan(b) else max(a, b)


def worst_of_model(build: Builder, shape: tuple[int, ...], samples: int = 8) -> Worst:
    """Errors of one model, by dtype."""
    torch.manual_seed(0)
    bijection = build().bijection
    x = torch.rand(samples, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        bijection(x)
    bijection.eval()
    return {name: errors(bijection.to(dtype), x.to(dtype), None) for name, dtype in DTYPES.items()}


def row(name: str, *found: Worst) -> list[str]:
    """A line of the table."""
    return [name, *(f"{error:.1e}" for worst in found for pair in worst.values() for error in pair)]


def header(*words: str) -> list[str]:
    """Titles of the columns of `row`, one group of four for each of `words`."""
    return ["", *(f"{what}, {word}{dtype}" for word in words for dtype in DTYPES for what in ("x", "log_det"))]


def main() -> int:
    parser = _record.parser(__doc__)
    parser.add_argument("--instances", type=int, default=20)
    parser.add_argument("--skip-models", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    of_blocks = {
        name: {word: worst_of_block(*entry, noise, options.instances) for word, noise in NOISES.items()}
        for name, entry in blocks().items()
    }
    of_models = {} if options.skip_models else {name: worst_of_model(*entry) for name, entry in models().items()}
    text = f"Blocks, {options.instances} random instances of {BATCH} samples, parameters moved weakly and strongly:\n\n"
    titles = header(*(f"{word} " for word in NOISES))
    text += _record.table(titles, [row(name, *found.values()) for name, found in of_blocks.items()])
    if of_models:
        text += "\n\nDefault models as constructed, 8 samples on [0, 1]:\n\n"
        text += _record.table(header(""), [row(*entry) for entry in of_models.items()])
    data = {"environment": _record.environment("invertible"), "instances": options.instances, "noises": NOISES}
    data |= {"blocks": of_blocks, "models": of_models}
    _record.write(options.out, "round-trip", "Round-trip errors", text, data)
    found = [*of_models.values(), *(worst for entry in of_blocks.values() for worst in entry.values())]
    return 0 if all(math.isfinite(error) for worst in found for pair in worst.values() for error in pair) else 1


if __name__ == "__main__":
    sys.exit(main())
