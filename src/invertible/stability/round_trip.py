"""There and back: how far f^-1(f(x)) is from x, and f(f^-1(y)) from y."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.bijection import Bijection, Inverted
from invertible.errors import DomainError, ShapeError
from invertible.shapes import finite_rows
from invertible.stability.blockwise import BlockRoundTrips, block_round_trips
from invertible.stability.passage import LOST as LOST
from invertible.stability.passage import Direction as Direction
from invertible.stability.passage import Passage, relative_error, send


@dataclass(frozen=True)
class Errors:
    """Errors of the samples of one round trip.

    Attributes:
        relative: |x' - x|_2 / max(|x|_2, median |x|_2), float64 of shape (B,); `inf` where the sample is lost, that
            is, where anything on its way is not finite or an error was raised; NaN where it was refused.
        log_det: |log|det J_there| + log|det J_back|| / max(D, |log|det J_there||), of shape (B,), D dimensions:
            per dimension, relative where the log-determinant is large; `inf` where not finite, NaN where refused.
        refused: samples outside the domain of the first map (`DomainError`), boolean of shape (B,).
        raised: samples for which an error was raised later on the way, boolean of shape (B,).
        eps: unit of rounding of the dtype in which the maps ran, `torch.finfo(dtype).eps`.
        message: the first error that was raised, empty if none was.
    """

    relative: Tensor
    log_det: Tensor
    refused: Tensor
    raised: Tensor
    eps: float
    message: str = ""

    @property
    def measured(self) -> Tensor:
        """Errors of the samples that were not refused."""
        return self.relative[~self.refused]

    @property
    def median(self) -> float:
        """Median error; lost samples count as `inf`. NaN if all samples were refused."""
        return self.measured.median().item() if len(self.measured) else math.nan

    @property
    def worst(self) -> float:
        """Largest error, `inf` if a sample is lost. NaN if all samples were refused."""
        return self.measured.max().item() if len(self.measured) else math.nan

    @property
    def worst_index(self) -> int:
        """Index of the worst sample, the first of them if several are lost."""
        return int(self.relative.nan_to_num(nan=-1.0, posinf=math.inf).argmax())

    @property
    def non_finite(self) -> int:
        """Number of lost samples."""
        return int(self.measured.isinf().sum())

    @property
    def in_eps(self) -> Tensor:
        """Errors of the samples in units of the dtype's eps, of shape (B,)."""
        return self.relative / self.eps

    @property
    def median_in_eps(self) -> float:
        """Median error in units of the dtype's eps."""
        return self.median / self.eps

    @property
    def worst_in_eps(self) -> float:
        """Largest error in units of the dtype's eps."""
        return self.worst / self.eps

    @property
    def worst_log_det(self) -> float:
        """Largest disagreement of the two log-determinants. NaN if all samples were refused."""
        errors = self.log_det[~self.refused]
        return errors.max().item() if len(errors) else math.nan


@dataclass(frozen=True)
class RoundTrip:
    """Round trips of one batch in both directions.

    Attributes:
        data: errors of x -> f(x) -> f^-1(f(x)).
        latent: errors of y -> f^-1(y) -> f(f^-1(y)).
        reconstruction: f^-1(f(x)), of x's shape; NaN where nothing came back.
        blocks: the first trip block by block, `None` where it was not asked for.
        latent_blocks: the second trip block by block; `None` where it was not asked for, or no latent is finite.
    """

    data: Errors
    latent: Errors
    reconstruction: Tensor
    blocks: BlockRoundTrips | None = None
    latent_blocks: BlockRoundTrips | None = None

    @property
    def worst(self) -> float:
        """Largest error of both directions."""
        return max(self.data.worst, self.latent.worst)

    @property
    def non_finite(self) -> int:
        """Number of samples lost in the direction that loses more."""
        return max(self.data.non_finite, self.latent.non_finite)

    def __str__(self) -> str:
        eps = self.data.eps
        lines = [
            f"round trips of {len(self.data.relative)} samples, errors in units of eps = {eps:.1e}",
            f"{'':20}{'median':>10}{'worst':>10}{'sample':>8}{'lost':>6}{'refused':>9}{'log_det':>10}",
        ]
        for name, errors in (("x -> f(x) -> x", self.data), ("y -> f^-1(y) -> y", self.latent)):
            lines.append(
                f"{name:20}{errors.median_in_eps:10.3g}{errors.worst_in_eps:10.3g}{errors.worst_index:8}"
                f"{errors.non_finite:6}{int(errors.refused.sum()):9}{errors.worst_log_det / eps:10.3g}"
            )
        if self.data.message or self.latent.message:
            lines.append(f"raised on the way: {self.data.message or self.latent.message}")
        for name, blocks in (("x -> f(x) -> x", self.blocks), ("y -> f^-1(y) -> y", self.latent_blocks)):
            if blocks is not None:
                lines += ["", f"{name}, block by block", str(blocks)]
        return "\n".join(lines)


@torch.no_grad()
def round_trip(
    bijection: Bijection,
    x: Tensor,
    condition: Tensor | None = None,
    y: Tensor | None = None,
    *,
    batch_size: int | None = None,
    blocks: bool = False,
) -> RoundTrip:
    """Measure the round trips of a batch in both directions, sample by sample.

    A sample near the origin is measured on the scale of its batch: its own norm would turn rounding into an error of
    any size. The method is that of Behrmann et al. (2021, section 5), but for NaN and infinity, which are counted and
    taken as the worst error, never dropped. Noise, such as that of dequantisation, belongs into x.

    Args:
        bijection: the map, in the mode (train, eval) in which it is to be measured.
        x: data, shape (B, ...).
        condition: its condition, of B rows.
        y: latents for the other direction, of B rows; f(x) if `None`.
        batch_size: samples per call of the map; all at once if `None`.
        blocks: whether to measure both trips block by block as well, as `block_round_trips` does: which block loses
            the digits. Costs about four more round trips.

    Raises:
        ShapeError: if x holds no sample, or is not what the map takes.
        ConfigError: if `batch_size` is below 1.

    Example:
        >>> trip = round_trip(flow.bijection, x, blocks=True)
        >>> print(trip)                          # both directions and all blocks, in units of eps
        >>> trip.data.in_eps, trip.blocks.worst  # per sample; the block to blame
    """
    there, back = bijection.__call__, bijection.inverse
    first = send(there, x, condition, batch_size)
    second = send(back, first.output, condition, batch_size)
    data = _errors(x, (first, second), second.output)
    if y is None:
        third = send(there, second.output, condition, batch_size)
        latent = _errors(first.output, (second, third), third.output, first)
    else:
        from_y = send(back, y, condition, batch_size)
        again = send(there, from_y.output, condition, batch_size)
        latent = _errors(y, (from_y, again), again.output)
    if not blocks:
        return RoundTrip(data, latent, second.output)
    profiles = (
        _profile(bijection, x, condition),
        _profile(Inverted(bijection), first.output if y is None else y, condition),
    )
    return RoundTrip(data, latent, second.output, *profiles)


def _profile(bijection: Bijection, start: Tensor, condition: Tensor | None) -> BlockRoundTrips | None:
    """The blocks' round trips; `None` if no sample is finite, so that not even the shape of what starts is known."""
    if not bool(finite_rows(start).any()):
        return None
    return block_round_trips(bijection, start, condition)


def _errors(start: Tensor, passages: tuple[Passage, Passage], back: Tensor, earlier: Passage | None = None) -> Errors:
    first, second = passages
    origins = (earlier or first).errors
    refused = torch.tensor([isinstance(error, DomainError) for error in origins])
    travelled = [p.errors for p in (earlier, first, second) if p is not None]
    raised = [any(error is not None for error in each) for each in zip(*travelled, strict=True)]
    messages = [str(error) for p in passages for error in p.errors if error is not None]
    if back.shape == start.shape:
        relative = relative_error(start, back)
    elif bool(back.isnan().all()):
        relative = torch.full((len(start),), math.inf, dtype=torch.float64)
    else:
        raise ShapeError(f"round_trip: expected {tuple(start.shape)} to come back, got {tuple(back.shape)}.")
    log_det = _log_det_error(first.log_det, second.log_det, start[:1].numel())
    relative[refused], log_det[refused] = math.nan, math.nan
    return Errors(
        relative,
        log_det,
        refused,
        torch.tensor(raised) & ~refused,
        torch.finfo(start.dtype).eps,
        messages[0] if messages else "",
    )


def _log_det_error(there: Tensor, back: Tensor, dimensions: int) -> Tensor:
    there, back = there.cpu().double(), back.cpu().double()
    error = (there + back).abs() / there.abs().clamp(min=dimensions)
    return torch.where(error.isfinite(), error, math.inf)
