"""Bi-Lipschitz constants of maps that are built from a network with a known one.

After Behrmann et al. (2021), table 1. Each function returns (Lip(f), Lip(f^-1)).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from invertible.errors import ConfigError
from invertible.norms.rounding import EPSILON, outward, times


def shear_norm(diagonal: float, off_diagonal: float) -> float:
    """The 2-norm of [[1, 0], [b, d]], a bound of ||[[I, 0], [B, D]]|| for ||B|| <= b, ||D|| <= d.

    Its singular values have the sum |(b, 1 + d)| and the difference |(b, 1 - d)|, so that nothing cancels.
    """
    if not (math.isfinite(diagonal) and math.isfinite(off_diagonal)):
        return math.inf
    return outward((math.hypot(off_diagonal, 1 + diagonal) + math.hypot(off_diagonal, 1 - diagonal)) / 2)


def additive_norms(lipschitz: float, *, exact: bool = True) -> tuple[float, float]:
    """Of y_1 = x_1, y_2 = x_2 + t(x_1), tau = Lip(t).

    Args:
        lipschitz: tau.
        exact: (tau + sqrt(tau^2 + 4))/2, the largest singular value that a Jacobian [[1, 0], [J_t, 1]] can have, which
            is 1 + tau/2 for small and tau for large tau; else the sum 1 + tau, as the paper's table has it.
    """
    _check("additive_norms", lipschitz=lipschitz)
    bound = shear_norm(1.0, lipschitz) if exact else outward(1 + lipschitz)
    return bound, bound


def residual_norms(lipschitz: float) -> tuple[float, float]:
    """Of y = x + g(x) with Lip(g) = L: 1 + L, and 1/(1 - L) for L < 1 (Behrmann et al. 2019, lemma 2).

    Args:
        lipschitz: L; from 1 on the map need not be invertible, and the second bound is `math.inf`.
    """
    _check("residual_norms", lipschitz=lipschitz)
    return outward(1 + lipschitz), outward(1 / (1 - lipschitz)) if lipschitz < 1 else math.inf


def ode_norms(lipschitz: float, time: float = 1.0) -> tuple[float, float]:
    """Of the flow x' = v(t, x) over a time T with Lip(v) <= L: e^(L T) both ways, by Grönwall's lemma.

    Args:
        lipschitz: L, in x, for all t.
        time: T, its length.
    """
    _check("ode_norms", lipschitz=lipschitz, time=time)
    bound = _exp(times(lipschitz, time))
    return bound, bound


def ode_log_norms(
    largest: float | Sequence[float], smallest: float | Sequence[float], time: float | Sequence[float] = 1.0
) -> tuple[float, float]:
    """Of the flow x' = v(t, x): e^(integral of mu) and e^(-integral of nu), by the logarithmic norms of its Jacobian.

    With mu(t) >= the largest and nu(t) <= the smallest eigenvalue of (J + J^T)/2 for all x, distances of two solutions
    grow at most like e^mu and shrink at most like e^nu (Dahlquist 1959). A field that turns or contracts has e^(L T)
    for a norm bound but 1 or less here.

    Args:
        largest: mu, a constant, or one for each of several spans of time.
        smallest: nu, likewise.
        time: length of the span, or of every span.

    Raises:
        ConfigError: if numbers of spans differ, a length is negative, or nu exceeds mu.
    """
    mu, nu, spans = (list(each) if isinstance(each, Sequence) else [each] for each in (largest, smallest, time))
    if not len(mu) == len(nu) == len(spans):
        raise ConfigError(
            f"ode_log_norms: expected as many values of largest, smallest and time, got {len(mu)}, {len(nu)} and "
            f"{len(spans)}."
        )
    for high, low, span in zip(mu, nu, spans, strict=True):
        if not (span >= 0 and low <= high):
            raise ConfigError(
                f"ode_log_norms: expected time >= 0 and smallest <= largest, got time {span}, smallest {low}, largest "
                f"{high}."
            )
    # Terms of both signs may cancel, so that the sum is widened by its terms.
    return _exp(*(m * s for m, s in zip(mu, spans, strict=True))), _exp(
        *(-n * s for n, s in zip(nu, spans, strict=True))
    )


def logarithmic_norms(matrix: Tensor) -> tuple[float, float]:
    """Upper bound of the largest and lower bound of the smallest eigenvalue of (A + A^T)/2, for A of shape (n, n)."""
    values = torch.linalg.eigvalsh((matrix.detach().double() + matrix.detach().double().mT) / 2)
    error = 8 * len(matrix) * EPSILON * float(values.abs().max())
    return float(values[-1]) + error, float(values[0]) - error


def _exp(*terms: float) -> float:
    exponent = sum(terms) + 4 * EPSILON * sum(abs(term) for term in terms)
    return outward(math.exp(exponent)) if exponent < 709 else math.inf


def _check(owner: str, **arguments: float) -> None:
    for name, value in arguments.items():
        if not value >= 0:
            raise ConfigError(f"{owner}: expected {name} >= 0, got {value}.")
