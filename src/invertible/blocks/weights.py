"""Invertible square matrices by their parametrisation."""

import math
from copy import deepcopy

import torch
from torch import Tensor, nn

from invertible.bijection import LipschitzBounds
from invertible.errors import ConfigError, choose, require_positive
from invertible.norms import outward, row_sum_norm, two_sided_norms
from invertible.rounding import round_to_grid
from invertible.shapes import at_least_float32


class Weight(nn.Module):
    """A learned invertible n x n matrix W.

    Args:
        size: n.

    Attributes:
        volume_preserving: the claim that |det W| = 1 whatever the parameters are.
    """

    volume_preserving = False

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self) -> tuple[Tensor, Tensor]:
        """W of shape (n, n), and log|det W|, a scalar."""
        raise TypeError(f"{type(self).__name__}: define forward(self), returning (weight, log_abs_det).")

    def inverse(self) -> tuple[Tensor, Tensor]:
        """W^-1 of shape (n, n), and log|det W^-1|, a scalar."""
        raise TypeError(f"{type(self).__name__}: define inverse(self), returning (inverse, log_abs_det).")

    @property
    def reference(self) -> Tensor:
        """A parameter, to tell device and dtype."""
        return next(value for value in self._parameters.values() if value is not None)

    def bounds(self) -> LipschitzBounds:
        """||W||_2 and ||W^-1||_2, by a float64 SVD of the product that the parameters make in float64."""
        with torch.no_grad():
            return LipschitzBounds(*two_sided_norms(self._in_double()()[0]))

    def row_sums(self) -> LipschitzBounds:
        """Largest sum of |W_ij| along a row, and of |W^-1_ij|: how much the radius of a box can grow."""
        double = self._in_double()
        with torch.no_grad():
            condition = math.prod(two_sided_norms(double()[0]))
            if not condition * self.size < 1e12:
                # W^-1 would be rounded to nothing; its rows are no longer than its norm.
                return LipschitzBounds(row_sum_norm(double()[0]), self.bounds().inverse * math.sqrt(self.size))
            inverse = outward(row_sum_norm(double.inverse()[0]), self.size * condition)
            return LipschitzBounds(row_sum_norm(double()[0]), inverse)

    def _in_double(self) -> "Weight":
        return deepcopy(self).double()

    def extra_repr(self) -> str:
        """The size."""
        return f"{self.size}"


class FreeWeight(Weight):
    """W itself is the parameter, orthogonal at the start.

    log|det W| and W^-1 come from one LU factorisation each; nothing keeps W from becoming singular.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.matrix = nn.Parameter(random_orthogonal(size))

    def forward(self) -> tuple[Tensor, Tensor]:
        """W, and the sum of log|diagonal of U|."""
        matrix = at_least_float32(self.matrix)
        return matrix, torch.linalg.slogdet(matrix)[1]

    def inverse(self) -> tuple[Tensor, Tensor]:
        """W^-1 by LU."""
        factors, pivots = torch.linalg.lu_factor(at_least_float32(self.matrix))
        identity = torch.eye(self.size, dtype=factors.dtype, device=factors.device)
        return torch.linalg.lu_solve(factors, pivots, identity), -factors.diagonal().abs().log().sum()


class PLUWeight(Weight):
    """W = P L (U + diag(sign e^s)) with P and sign fixed (Kingma & Dhariwal 2018, equation 10).

    L is unit lower, U strictly upper triangular; log|det W| = sum s. Starts at a random orthogonal matrix.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        permutation, lower, upper = torch.linalg.lu(random_orthogonal(size))
        diagonal = upper.diagonal()
        self.permutation: Tensor
        self.sign: Tensor
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", diagonal.sign())
        self.identity: Tensor
        self.register_buffer("identity", torch.eye(size), persistent=False)
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_scale = nn.Parameter(diagonal.abs().log())

    def forward(self) -> tuple[Tensor, Tensor]:
        """The product, and sum s."""
        permutation, lower, upper, log_scale = self._factors()
        return permutation @ (lower @ upper), log_scale.sum()

    def inverse(self) -> tuple[Tensor, Tensor]:
        """Two triangular solves of the n x n matrix P^T, and -sum s."""
        permutation, lower, upper, log_scale = self._factors()
        half = torch.linalg.solve_triangular(lower, permutation.T, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, half, upper=True), -log_scale.sum()

    def _factors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        log_scale = at_least_float32(self.log_scale)
        lower = at_least_float32(self.lower).tril(-1) + at_least_float32(self.identity)
        upper = at_least_float32(self.upper).triu(1) + torch.diag(at_least_float32(self.sign) * log_scale.exp())
        return at_least_float32(self.permutation), lower, upper, log_scale


class OrthogonalWeight(Weight):
    """W = H_1 ... H_k, a product of Householder reflections H_i = I - 2 v_i v_i^T/|v_i|^2 (Tomczak & Welling 2016).

    In compact form W = I - V S^-1 V^T with S = striu(V^T V) + diag(V^T V)/2: one triangular solve. W^-1 = W^T, and
    log|det W| = 0: orthogonal to rounding whatever the parameters are. k = n reaches every matrix of determinant
    (-1)^n; Putzky & Welling (2019) use k = 3.

    Args:
        size: n.
        reflections: k, from 1 to n; n if `None`.
    """

    volume_preserving = True

    def __init__(self, size: int, reflections: int | None = None) -> None:
        super().__init__(size)
        count = size if reflections is None else reflections
        require_positive("OrthogonalWeight", reflections=count)
        if count > size:
            raise ConfigError(f"OrthogonalWeight: expected reflections of at most {size}, got {count}.")
        self.vectors = nn.Parameter(torch.randn(size, count))

    def forward(self) -> tuple[Tensor, Tensor]:
        """The product, and 0."""
        vectors = at_least_float32(self.vectors)
        gram = vectors.T @ vectors
        middle = gram.triu(1) + torch.diag(gram.diagonal() / 2)
        identity = torch.eye(self.size, dtype=gram.dtype, device=gram.device)
        weight = identity - vectors @ torch.linalg.solve_triangular(middle, vectors.T, upper=True)
        return weight, gram.new_zeros(())

    def bounds(self) -> LipschitzBounds:
        """1 and 1, whatever the vectors are."""
        return LipschitzBounds(1.0, 1.0)

    def inverse(self) -> tuple[Tensor, Tensor]:
        """The transpose, and 0."""
        weight, log_abs_det = self()
        return weight.T, log_abs_det


class LiftingWeight(Weight):
    """W = four shears between the halves x = (a, b) of the channels: a += U_1 b, b += L_1 a, a += U_2 b, b += L_2 a.

    Each is a unit triangular matrix that a subtraction undoes: det W = 1, log|det W| = 0, and on a grid of numbers the
    inverse is exact (lifting, Daubechies & Sweldens 1998). For even n there are n^2 parameters; they move W in
    n^2 - n/2 of the n^2 - 1 directions that keep its determinant.

    Starts at a random orthogonal matrix: n/2 rotations by angles t_k of 45 to 135 degrees, each of the plane of a
    random vector v_k of a's space and z_k of b's, both orthonormal families. A rotation is three shears (Paeth 1986):
    U_1 = U_2 = -sum tan(t_k/2) v_k z_k^T, L_1 = sum sin(t_k) z_k v_k^T, and L_2 = 0. Its condition number for n = 12,
    48, 64, 192 is 1 within 1e-14 in float64 and 5e-6 in float32.

    Why halves, and not P L U with full unit triangles: that moves in n^2 - n directions, is orthogonal only where it
    is a permutation (its leading minors, all 1, are products of cosines), and its exact inverse goes row by row. With
    the further factor by which it reaches every W (Hao & Shi 2001), random orthogonal W have factors with entries of
    5 at n = 12, 1e5 at 48, 1e7 at 64.
    """

    volume_preserving = True

    def __init__(self, size: int) -> None:
        super().__init__(size)
        second = size // 2
        first = size - second
        angles = torch.empty(second).uniform_(math.pi / 4, 3 * math.pi / 4)
        v, z = random_orthogonal(first)[:, :second], random_orthogonal(second)
        upper, lower = -(v * (angles / 2).tan()) @ z.T, (z * angles.sin()) @ v.T
        self.upper = nn.Parameter(torch.stack((upper, upper)))
        self.lower = nn.Parameter(torch.stack((lower, torch.zeros_like(lower))))

    def shears(self, bits: int | None = None) -> list[tuple[int, Tensor]]:
        """The shears in order: which half is changed, 0 or 1, and the matrix that the other one is multiplied with.

        Args:
            bits: round the entries to multiples of 2^-bits, in float64; leave them as they are if `None`.
        """
        upper, lower = (
            at_least_float32(matrices) if bits is None else round_to_grid(matrices, bits)
            for matrices in (self.upper, self.lower)
        )
        return [(0, upper[0]), (1, lower[0]), (0, upper[1]), (1, lower[1])]

    def forward(self) -> tuple[Tensor, Tensor]:
        """The shears applied to the identity, and 0."""
        return self._sheared(self.shears(), 1)

    def inverse(self) -> tuple[Tensor, Tensor]:
        """The shears undone, the last one first, and 0."""
        return self._sheared(self.shears()[::-1], -1)

    def _sheared(self, shears: list[tuple[int, Tensor]], sign: int) -> tuple[Tensor, Tensor]:
        upper = shears[0][1]
        identity = torch.eye(self.size, dtype=upper.dtype, device=upper.device)
        halves = list(identity.split(self.halves))
        for changed, matrix in shears:
            halves[changed] = torch.addmm(halves[changed], matrix, halves[1 - changed], alpha=sign)
        return torch.cat(halves), identity.new_zeros(())

    @property
    def halves(self) -> list[int]:
        """Sizes of a and b."""
        return [self.size - self.size // 2, self.size // 2]


PARAMETRIZATIONS = {"plu": PLUWeight, "orthogonal": OrthogonalWeight, "free": FreeWeight, "lifting": LiftingWeight}


def weight_of(owner: str, size: int, parametrization: str, reflections: int | None) -> Weight:
    """A weight by the name of its parametrisation.

    Args:
        owner: name of the block, the first word of messages.
        size: n.
        parametrization: `"plu"`, `"orthogonal"`, `"free"` or `"lifting"`.
        reflections: number of Householder reflections of `"orthogonal"`; n if `None`.

    Raises:
        ConfigError: if the name is unknown, the size not positive, or `reflections` given for another than orthogonal.
    """
    require_positive(owner, size=size)
    kind = choose(owner, "parametrization", parametrization, PARAMETRIZATIONS)
    if kind is OrthogonalWeight:
        return OrthogonalWeight(size, reflections)
    if reflections is not None:
        raise ConfigError(
            f"{owner}: expected reflections with parametrization='orthogonal' only, got {parametrization!r}."
        )
    return kind(size)


def random_orthogonal(size: int) -> Tensor:
    """A random orthogonal matrix, uniform over the group (Mezzadri 2007)."""
    q, r = torch.linalg.qr(torch.randn(size, size))
    return q * r.diagonal().sign()
