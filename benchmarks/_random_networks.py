"""Random flows whose weights are scaled to a wished condition number, and the truth about their inverses in float64."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import _long_double
import numpy as np
import torch
from torch import Tensor

import invertible as inv
from invertible.blocks.scale import SCALES

VECTOR, IMAGE = (8,), (4, 2, 2)
# The inverses of the first two in long double are known: couplings of vectors and nothing else.
PLAIN = ("affine", "additive, no linear layers")
FAMILIES = ("affine", "glow", "glow, images", "additive", "spline", "mixed", "there and back")
STEPS = 6


@dataclass(frozen=True, eq=False)
class Network:
    """A random flow.

    Attributes:
        family: one of `FAMILIES`.
        chain: the map, float32.
        scaled: the part whose condition number the weights' scale decides: the chain, or its first half.
        shape: of one sample.
        start: the parameters as constructed.
        noise: what is added to them, times the scale.
    """

    family: str
    chain: inv.Chain
    scaled: inv.Chain
    shape: tuple[int, ...]
    start: list[Tensor]
    noise: list[Tensor]

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Move all parameters from their start by the noise times a factor."""
        for parameter, start, noise in zip(self.chain.parameters(), self.start, self.noise, strict=True):
            parameter.copy_(start + factor * noise)


def random_network(generator: torch.Generator, families: Sequence[str] = FAMILIES) -> Network:
    """A flow of 2 to 32 couplings of a random family, its scale function, linear layers and noise random too."""
    family = families[_integer(len(families), generator)]
    depth = round(2 ** float(1 + 4 * torch.rand((), generator=generator)))
    torch.manual_seed(_integer(2**31, generator))
    image = family == "glow, images"
    chain = scaled = inv.Chain(*_blocks(family, depth, generator, image=image)).eval()
    if family == "there and back":
        # What the first half does the second half undoes, but for a little: the whole map looks harmless.
        chain = inv.Chain(scaled, copy.deepcopy(scaled).inverted).eval()
    parameters = list(chain.parameters())
    noise = [_noise(parameter, generator) for parameter in parameters]
    if family == "there and back":
        half, little = len(noise) // 2, 10 ** float(-5 + 4 * torch.rand((), generator=generator))
        noise[half:] = [a + little * b for a, b in zip(noise[:half], noise[half:], strict=True)]
    start = [parameter.detach().clone() for parameter in parameters]
    return Network(family, chain, scaled, IMAGE if image else VECTOR, start, noise)


def scale_to(network: Network, condition: float, generator: torch.Generator) -> None:
    """Scale the weights so that the median condition number is near a wished one, by bisection in log scale."""
    x = torch.randn(3, *network.shape, generator=generator)
    low, high = math.log(0.05), math.log(30.0)
    for _ in range(STEPS):
        middle = (low + high) / 2
        network.scale(math.exp(middle))
        found = condition_numbers(singular_values(copy.deepcopy(network.scaled).double(), x.double()))
        if float(found.median()) < condition:
            low = middle
        else:
            high = middle


def singular_values(double: inv.Bijection, x: Tensor) -> Tensor:
    """All singular values of every sample's Jacobian, (B, D), infinite where it is not finite."""
    dimensions = math.prod(x.shape[1:])
    if not len(x):
        return x.new_empty(0, dimensions)
    repeated = x.nan_to_num(0.0, 0.0, 0.0).repeat_interleave(dimensions, 0).requires_grad_()
    y, _ = double(repeated)
    rows = torch.eye(dimensions, dtype=x.dtype).repeat(len(x), 1).reshape(y.shape)
    jacobian = torch.autograd.grad(y, repeated, rows)[0].reshape(len(x), dimensions, dimensions)
    finite = jacobian.isfinite().flatten(1).all(1) & x.isfinite().flatten(1).all(1)
    values = torch.linalg.svdvals(jacobian.nan_to_num(0.0, 0.0, 0.0))
    return torch.where(finite[:, None], values, math.inf)


def condition_numbers(values: Tensor) -> Tensor:
    """Largest over smallest, infinite where unknown."""
    return (values[:, 0] / values[:, -1]).nan_to_num(math.inf, math.inf)


@dataclass(frozen=True)
class Truth:
    """The exact inverses of a batch of latents.

    Attributes:
        y: the latents, those of samples x ~ N(0, I) that are finite.
        x: the exact inverses, in a higher precision than that of y.
        values: singular values of J_f there, (B, D).
    """

    y: Tensor
    x: np.ndarray
    values: Tensor

    def error(self, computed: Tensor) -> Tensor:
        """|x' - x|_2 of computed inverses, float64 of shape (B,), infinite where x' is not finite."""
        with np.errstate(all="ignore"):
            return _norms((computed.numpy().astype(self.x.dtype) - self.x).reshape(len(self.x), -1))

    @property
    def norm(self) -> Tensor:
        """|x|_2 of the exact inverses."""
        return _norms(self.x.reshape(len(self.x), -1))


def _norms(x: np.ndarray) -> Tensor:
    with np.errstate(all="ignore"):
        return torch.tensor(np.sqrt((x**2).sum(1)).astype(np.float64)).nan_to_num(math.inf, math.inf)


def truth(network: Network, samples: int, generator: torch.Generator) -> Truth:
    """Latents in float32, and their inverses by the same weights in float64."""
    double = copy.deepcopy(network.chain).double()
    y = _latents(double, network.shape, samples, generator).float()
    y = y[y.isfinite().flatten(1).all(1)]
    with torch.no_grad():
        exact = double.inverse(y.double())[0]
    return Truth(y, exact.numpy(), singular_values(double, exact))


def truth_of_double(network: Network, samples: int, generator: torch.Generator) -> Truth:
    """Latents in float64, and their inverses in long double; the network's chain becomes float64."""
    double = network.chain.double()
    y = _latents(double, network.shape, samples, generator)
    with np.errstate(all="ignore"):
        exact = _long_double.inverse(double, y)
    return Truth(y, exact, singular_values(double, torch.from_numpy(exact.astype(np.float64))))


@torch.no_grad()
def _latents(double: inv.Chain, shape: tuple[int, ...], samples: int, generator: torch.Generator) -> Tensor:
    y, _ = double(torch.randn(samples, *shape, generator=generator, dtype=torch.float64))
    return y[y.isfinite().flatten(1).all(1)]


def _blocks(family: str, depth: int, generator: torch.Generator, *, image: bool) -> list[inv.Bijection]:
    scale = list(SCALES)[_integer(len(SCALES), generator)]
    parametrization = ("plu", "free", "orthogonal")[_integer(3, generator)]
    channels = IMAGE[0] if image else VECTOR[0]
    linear = inv.InvertibleConv1x1 if image else inv.InvertibleLinear
    blocks: list[inv.Bijection] = []
    for index in range(depth):
        kind = ("affine", "glow", "additive", "spline")[_integer(4, generator)] if family == "mixed" else family
        kind = {"glow, images": "glow", "there and back": "affine"}.get(kind, kind)
        options = {"hidden": (24, 24), "spatial_dims": 2 if image else 0, "flip": index % 2 == 1}
        if kind not in ("affine", "additive, no linear layers"):
            blocks += [inv.DiagonalScaling(channels), linear(channels, parametrization)]
        if kind.startswith("additive"):
            blocks.append(inv.AdditiveCoupling(channels, **options))
        elif kind == "spline":
            blocks.append(inv.SplineCoupling(channels, **options))
        else:
            order = "glow" if kind == "glow" else "realnvp"
            blocks.append(inv.AffineCoupling(channels, scale=scale, order=order, **options))
    return blocks


def _noise(parameter: Tensor, generator: torch.Generator) -> Tensor:
    """Of deviation 1/sqrt(fan-in); a tenth on small square matrices, which are linear layers."""
    fan_in = max(4, math.prod(parameter.shape[1:]))
    square = parameter.dim() > 1 and parameter.shape[0] == parameter.shape[1] and parameter.shape[0] < 24
    return (0.1 if square else 1.0) / math.sqrt(fan_in) * torch.randn(parameter.shape, generator=generator)


def _integer(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator))
