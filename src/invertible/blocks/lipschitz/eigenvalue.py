"""The largest eigenvalue of many positive semidefinite matrices: a certified upper bound, and where it is reached."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from invertible.norms import outward

# An eigenvalue may be over-estimated by twice this, its root, the norm, by this.
DELTA = 1e-3
# Up to this size matrices are decomposed to estimate their largest eigenvalue, which is quicker than Lanczos' method.
SMALL = 128
# A single matrix of up to this size, or many that cost no more, are decomposed, and nothing is left to prove.
EXACT = 128
# Up to this size all eigenvectors are as quick as the one that is wanted.
TINY = 32
# Steps of Lanczos' method.
STEPS = 30
# How many of many matrices, those that look largest, are looked at first.
CANDIDATES = 8
# Entries of the matrices that are held at once.
CHUNK = 4_000_000


@runtime_checkable
class Grams(Protocol):
    """Positive semidefinite matrices, made when they are wanted.

    Attributes:
        count: how many there are.
        size: n, of each.
    """

    count: int
    size: int

    def at(self, indices: Tensor) -> Tensor:
        """Some of them: (m,) -> (m, n, n), real or complex."""
        ...

    def margin(self, value: float) -> float:
        """What rounding may hide when all eigenvalues are shown to be at most `value`."""
        ...


@dataclass(frozen=True)
class Largest:
    """The largest eigenvalue over all matrices.

    Attributes:
        bound: certified to be at least as large.
        index: of the matrix in which it was found.
        vector: (n,), the unit vector whose Rayleigh quotient is within a factor 1 + 2 delta of the bound.
    """

    bound: float
    index: int
    vector: Tensor


def largest_eigenvalue(grams: Grams, *, exact: bool = False) -> Largest:
    """Bound of the largest eigenvalue over all matrices.

    It is estimated from below, by decomposing those that look largest or, where they are large, by Lanczos' method from
    a fixed start. That t = (1 + delta)^2 times the estimate is above all of them is then proved by one Cholesky
    factorisation of t I - G each: it runs to its end only if t I - G is positive definite up to rounding (Rump 2006,
    theorem 2.3), for which t is widened. Matrices that fail are decomposed. Nothing is random or remembered.

    Args:
        grams: the matrices.
        exact: decompose them all.
    """
    everything = torch.arange(grams.count)
    if exact or grams.count * grams.size**3 <= EXACT**3:
        return _decomposed(grams, everything)
    found = _estimated(grams, _candidates(grams, everything))
    value = found.bound * (1 + DELTA) ** 2
    failed = everything[~_at_most(grams, everything, value)]
    proved = value + grams.margin(value)
    if not len(failed):
        return Largest(proved, found.index, found.vector)
    rest = _decomposed(grams, failed)
    return Largest(max(rest.bound, proved), rest.index, rest.vector)


def _chunks(grams: Grams, indices: Tensor) -> tuple[Tensor, ...]:
    return indices.split(max(1, CHUNK // grams.size**2))


def _candidates(grams: Grams, indices: Tensor) -> Tensor:
    """Those that make a fixed vector longest in two steps."""
    if len(indices) <= CANDIDATES:
        return indices
    lengths = []
    for some in _chunks(grams, indices):
        matrices = grams.at(some)
        first = matrices @ _start(grams.size, matrices)
        lengths.append(torch.linalg.vector_norm(matrices @ first[..., None], dim=(1, 2)))
    return indices[torch.cat(lengths).topk(CANDIDATES).indices.cpu()]


def _start(size: int, like: Tensor) -> Tensor:
    """A unit vector without structure: cosines of quadratically growing angles, multiples of the golden ratio."""
    turns = torch.arange(1, size + 1, dtype=torch.float64).square() * 0.6180339887498949 % 1.0
    start = torch.cos(2 * math.pi * turns)
    return (start / start.norm()).to(like)


def _estimated(grams: Grams, indices: Tensor) -> Largest:
    """The largest eigenvalue of some matrices, from below but for rounding."""
    if grams.size <= SMALL:
        return _top(grams, indices)
    pairs = [_lanczos(grams.at(indices[place : place + 1])[0]) for place in range(len(indices))]
    place = max(range(len(pairs)), key=lambda each: pairs[each][0])
    return Largest(pairs[place][0], int(indices[place]), pairs[place][1])


def _lanczos(matrix: Tensor) -> tuple[float, Tensor]:
    """Ritz value and vector of the largest eigenvalue: (n, n) -> number, (n,).

    The basis is orthogonalised twice at every step. The value is the Rayleigh quotient of the vector itself, so that a
    basis that has lost its orthogonality, or that has found an invariant subspace early, does no harm.
    """
    size = len(matrix)
    steps = min(STEPS, size)
    basis, images = matrix.new_zeros(steps, size), matrix.new_zeros(steps, size)
    tiny = torch.finfo(matrix.dtype).tiny
    vector = _start(size, matrix)
    for step in range(steps):
        basis[step] = vector
        image = torch.mv(matrix, vector)
        images[step] = image
        known = basis[: step + 1]
        for _ in range(2):
            image = image - torch.mv(known.T, torch.mv(known.conj(), image))
        vector = image / image.norm().clamp_min(tiny)
    projected = basis.conj() @ images.T
    weights = torch.linalg.eigh((projected + projected.mH) / 2).eigenvectors[:, -1]
    ritz, image = weights @ basis, weights @ images
    square = float(ritz.norm()) ** 2
    return float(torch.vdot(ritz, image).real) / square, ritz / ritz.norm()


def _at_most(grams: Grams, indices: Tensor, value: float) -> Tensor:
    """For which matrices Cholesky's factorisation proves that no eigenvalue exceeds `value`, (m,)."""
    proofs = []
    for some in _chunks(grams, indices):
        shifted = -grams.at(some)
        shifted.diagonal(dim1=-2, dim2=-1).add_(value)
        proofs.append((torch.linalg.cholesky_ex(shifted).info == 0).cpu())
    return torch.cat(proofs)


def _decomposed(grams: Grams, indices: Tensor) -> Largest:
    """By eigendecompositions, which are backward stable."""
    top = _top(grams, indices)
    value = max(0.0, top.bound)
    return Largest(outward(value) + grams.margin(value), top.index, top.vector)


def _top(grams: Grams, indices: Tensor) -> Largest:
    """The largest eigenvalue of some matrices, as computed."""
    best, index = -math.inf, 0
    if len(indices) == 1:
        index = int(indices[0])
    else:
        for some in _chunks(grams, indices):
            values = torch.linalg.eigvalsh(grams.at(some))[:, -1]
            place = int(values.argmax())
            if float(values[place]) > best:
                best, index = float(values[place]), int(some[place])
    value, vector = eigenpair(grams.at(torch.tensor([index]))[0])
    return Largest(max(best, value), index, vector)


def eigenpair(matrix: Tensor) -> tuple[float, Tensor]:
    """The largest eigenvalue of a positive definite matrix and its vector, as computed: (n, n) -> number, (n,).

    Where that is quicker, the vector comes from two steps of inverse iteration, shifted by a little more than the
    eigenvalue, instead of a full decomposition.
    """
    if len(matrix) > TINY and matrix.dtype == torch.float64:
        value = float(torch.linalg.eigvalsh(matrix)[-1])
        shifted = -matrix
        shifted.diagonal().add_(value * (1 + 1e-10))
        factor, info = torch.linalg.cholesky_ex(shifted)
        if int(info) == 0:
            vector = _start(len(matrix), matrix)[:, None]
            for _ in range(2):
                vector = torch.cholesky_solve(vector, factor)
                vector = vector / vector.norm()
            return value, vector[:, 0]
    decomposed = torch.linalg.eigh(matrix)
    return float(decomposed.eigenvalues[-1]), decomposed.eigenvectors[:, -1]
