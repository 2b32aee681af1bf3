"""How many digits of a computed inverse can be trusted."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from invertible.bijection import Bijection
from invertible.errors import ConfigError, ShapeError, choose
from invertible.shapes import finite_rows
from invertible.stability.batches import rows_of
from invertible.stability.inverse_error import Expected, by_adjoints, by_neighbours
from invertible.stability.passage import LOST
from invertible.stability.products import NotDifferentiableError, norm
from invertible.stability.subject import bijection_of, check_batch, condition_of, differentiable, seeded

# From the expected error to one that is exceeded in less than one case of a thousand: benchmarks/digits.py measures it.
MARGIN = 16.0
# A bound above this is none: first-order analysis does not reach farther, and not one digit is left.
LOST_ABOVE = 0.1


@dataclass(frozen=True)
class TrustedDigits:
    """What is known of the error of x' = f^-1(y) as computed, sample by sample.

    Attributes:
        error: bound of |x' - x|_2, x the exact inverse; float64 of shape (B,), `inf` where the inverse is lost.
        relative: the same over max(|x'|_2, median |x'|_2), as `round_trip` measures it.
        digits: decimal digits to trust, -log10(relative), between 0 (lost) and those of the dtype.
        x: the computed inverse x', (B, ...).
        verified: samples for which f(x') was computed and enters the bound, boolean of shape (B,); it does not where
            f refuses x' as outside its domain.
        eps: `torch.finfo(dtype).eps` of y's dtype.
        method: `"adjoint"` or `"neighbours"`.
    """

    error: Tensor
    relative: Tensor
    digits: Tensor
    x: Tensor
    verified: Tensor
    eps: float
    method: str

    @property
    def lost(self) -> int:
        """Number of samples without one digit to trust."""
        return int(self.error.isinf().sum())

    @property
    def worst_index(self) -> int:
        """The sample with the largest relative error, the first of them if several are lost."""
        return int(self.relative.argmax())

    def __str__(self) -> str:
        """Two or three lines to print."""
        worst, most = self.worst_index, -math.log10(self.eps)
        lines = [
            f"{len(self.digits)} samples: {self.digits.median():.1f} digits (median) of the dtype's {most:.1f}, "
            f"{self.digits[worst]:.1f} in the worst, sample {worst} (relative error below {self.relative[worst]:.1e})"
        ]
        if self.lost:
            lines.append(f"{self.lost} samples are lost: not one digit of their inverse can be trusted")
        unverified = int((~self.verified & self.error.isfinite()).sum())
        if unverified:
            lines.append(f"{unverified} samples lie outside the domain of f, which could not check them")
        return "\n".join(lines)


def trusted_digits(
    f: nn.Module,
    y: Tensor,
    condition: Tensor | None = None,
    *,
    method: str = "auto",
    batch_size: int | None = None,
    generator: torch.Generator | int | None = None,
) -> TrustedDigits:
    """Bound the error of the computed inverse f^-1(y), for every sample, without knowing the exact one.

    The error is e = sum_k T_k delta_k to first order: delta_k rounds the result v_k of operation k, and
    T_k = dx/dv_k carries it to the end. The largest |T_k| |v_k| decides, not the condition number of the whole map: a
    map that contracts in one layer and expands in the next has a condition number of 1 and loses digits. Three
    estimates of |e|^2 are added up, and the bound is 16 times the root:

    1. E (w . e)^2 = sum_k u^2 |T_k^T w * v_k|^2 for a random w ~ N(0, I), whose mean over w is E |e|^2;
    2. the same along the direction in which the error is seen to go, |d|^-1 d;
    3. |d|^2, d = f^-1(y + r + noise) - f^-1(y), r = f(x') - y: the measured residual and a rounding of y, amplified.

    One backward pass gives T_k^T w for all k, so the cost is two evaluations of f^-1, one of f and two backward passes
    with respect to inputs alone. The residual also tells an inverse that is wrong, or an iteration that stopped early.

    Where autograd cannot differentiate f^-1, `"neighbours"` takes round trips x + h -> y -> x + h' of three points
    within rounding of x': it sees whatever the two directions do not round alike, at 9 evaluations. On 10,000 pairs of
    a random flow and a sample with condition numbers from 1e1 to 1e12 (`benchmarks/digits.py`) the bound by adjoints
    held in 99.97 % and was 36 times the true error in the median; that by neighbours held in 99.7 %.

    A bound above 0.1 of the sample's norm is reported as `inf`, zero digits: so little is left there that a
    first-order analysis cannot vouch for any.

    Args:
        f: a `Bijection` or a `Flow`, whose bijection's inverse is judged; it comes out unchanged. `f.inverted` judges
            the other direction. Chains run as with stored activations, whatever their memory strategy.
        y: latents, shape (B, ...), rows independent; exact as they are, or rounded to their dtype.
        condition: condition of y, of B rows; labels for a flow with classes.
        method: `"adjoint"`, `"neighbours"`, or `"auto"`: the first where it works.
        batch_size: samples at a time; all at once if `None`.
        generator: a generator or a seed for w and the noise; seed 0 if `None`.

    Raises:
        ConfigError: if `f` has no bijection, `batch_size` is below 1, or `method="adjoint"` cannot differentiate f^-1.
        ShapeError: if y is not what f^-1 takes.

    Example:
        >>> found = trusted_digits(flow, flow.base.sample(64))
        >>> print(found)
        >>> found.x[found.digits > 3]
    """
    owner = "trusted_digits"
    bijection = bijection_of(owner, f)
    check_batch(owner, "y", y, condition)
    choose(owner, "method", method, dict.fromkeys(("auto", "adjoint", "neighbours")))
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"{owner}: expected batch_size of at least 1, got {batch_size}.")
    source = seeded(generator)
    seed = int(torch.randint(2**31, (), generator=source, device=source.device))
    with differentiable(f, seed):
        judged = _Judged(bijection, method, torch.Generator().manual_seed(seed))
        judged.all(y.detach(), condition_of(f, bijection, condition, y), batch_size or len(y))
    return judged.result()


class _Judged:
    """A batch judged part by part."""

    def __init__(self, bijection: Bijection, method: str, generator: torch.Generator) -> None:
        self.bijection, self.generator = bijection, generator
        self.forced, self.method = method == "adjoint", "adjoint" if method == "auto" else method
        self.parts: list[tuple[Tensor, Expected]] = []

    def all(self, y: Tensor, condition: Tensor | None, batch_size: int) -> None:
        self.y = y
        for rows in torch.arange(len(y), device=y.device).split(batch_size):
            finite = finite_rows(y[rows])
            self.some(rows[finite], condition)

    def some(self, rows: Tensor, condition: Tensor | None) -> None:
        """Judge these samples; where an error about values is raised, those that pass."""
        if not len(rows):
            return
        y, given = self.y[rows], rows_of(condition, rows)
        try:
            self.parts.append((rows, self.estimate(y, given)))
        except (ShapeError, ConfigError):
            raise
        except LOST:
            # Halved until the samples to blame stand alone; those are lost, the others are judged.
            for half in rows.tensor_split(2) if len(rows) > 1 else ():
                self.some(half, condition)

    def estimate(self, y: Tensor, condition: Tensor | None) -> Expected:
        if self.method == "adjoint":
            try:
                return by_adjoints(self.bijection, y, condition, self.generator)
            except NotDifferentiableError as error:
                if self.forced:
                    raise ConfigError(
                        "trusted_digits: expected an inverse that autograd can differentiate for method='adjoint', got "
                        f"{type(self.bijection).__name__}: {error} Use method='neighbours'."
                    ) from error
                self.method = "neighbours"
        return by_neighbours(self.bijection, y, condition, self.generator)

    def result(self) -> TrustedDigits:
        count = len(self.y)
        x = torch.full_like(self.y, math.nan)
        if self.parts:
            like = self.parts[0][1].x
            x = like.new_full((count, *like.shape[1:]), math.nan)
        error, verified = torch.full((count,), math.inf, dtype=torch.float64), torch.zeros(count, dtype=torch.bool)
        for rows, part in self.parts:
            x[rows], error[rows.cpu()], verified[rows.cpu()] = part.x, MARGIN * part.error, part.verified
        eps = torch.finfo(self.y.dtype).eps
        relative = _relative(error, x)
        lost = ~(relative <= LOST_ABOVE)
        error, relative = error.masked_fill(lost, math.inf), relative.masked_fill(lost, math.inf)
        digits = (-relative.log10()).clamp(0.0, -math.log10(eps))
        return TrustedDigits(error, relative, digits, x, verified, eps, self.method)


def _relative(error: Tensor, x: Tensor) -> Tensor:
    """The error over the sample's norm, or over the batch's median norm where that is larger."""
    size = norm(x.cpu().double())
    finite = size[size.isfinite()]
    scale = torch.maximum(size, finite.median() if len(finite) else size)
    return torch.where(error == 0, 0.0, error / scale)
