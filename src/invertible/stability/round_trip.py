"""There and back: how far f^-1(f(x)) is from x, and f(f^-1(y)) from y."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.bijection import Bijection
from invertible.errors import ConfigError, DomainError, ShapeError

Direction = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]

# What a map may raise about values rather than about the call: such samples are counted, the others go on.
LOST = (ArithmeticError, AssertionError, ValueError, torch.linalg.LinAlgError)  # pyright: ignore[reportPrivateImportUsage]


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
    """

    data: Errors
    latent: Errors
    reconstruction: Tensor

    @property
    def worst(self) -> float:
        """Largest error of both directions."""
        return max(self.data.worst, self.latent.worst)

    @property
    def non_finite(self) -> int:
        """Number of samples lost in the direction that loses more."""
        return max(self.data.non_finite, self.latent.non_finite)


@dataclass(frozen=True)
class Passage:
    """A batch sent through a map, sample by sample where it must be.

    Attributes:
        output: what came out, (B, ...); NaN in the rows of samples for which an error was raised.
        log_det: of shape (B,), NaN likewise.
        errors: the error raised for each sample, `None` where none was.
    """

    output: Tensor
    log_det: Tensor
    errors: list[Exception | None]


@torch.no_grad()
def round_trip(
    bijection: Bijection,
    x: Tensor,
    condition: Tensor | None = None,
    y: Tensor | None = None,
    *,
    batch_size: int | None = None,
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

    Raises:
        ShapeError: if x holds no sample, or is not what the map takes.
        ConfigError: if `batch_size` is below 1.
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
    return RoundTrip(data, latent, second.output)


def relative_error(x: Tensor, reconstruction: Tensor) -> Tensor:
    """|x' - x|_2 / max(|x|_2, median |x|_2) per sample, the median over the batch.

    Args:
        x: what was sent, shape (B, ...).
        reconstruction: what came back, of the same shape.

    Returns:
        float64 on the CPU, shape (B,); `inf` where x or x' is not finite.
    """
    x, reconstruction = (each.detach().cpu().double().reshape(len(each), -1) for each in (x, reconstruction))
    norm = torch.linalg.vector_norm(x, dim=1)
    finite = norm[norm.isfinite()]
    usual = finite.median() if len(finite) else norm.new_ones(())
    scale = torch.maximum(norm, usual)
    error = torch.linalg.vector_norm(reconstruction - x, dim=1) / torch.where(scale > 0, scale, 1.0)
    return torch.where(error.isfinite() & norm.isfinite(), error, math.inf)


def send(direction: Direction, x: Tensor, condition: Tensor | None = None, batch_size: int | None = None) -> Passage:
    """Send a batch through one direction of a map.

    Samples that are not finite are not sent. Where an error about values is raised, the batch is halved until the
    samples to blame stand alone; the others pass.

    Raises:
        ShapeError: if x holds no sample, or log_det is not of shape (B,).
        ConfigError: if `batch_size` is below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"round_trip: expected batch_size of at least 1, got {batch_size}.")
    if not len(x):
        raise ShapeError(f"round_trip: expected at least one sample, got shape {tuple(x.shape)}.")
    alive = x.isfinite().reshape(len(x), -1).all(1).nonzero().flatten()
    errors: list[Exception | None] = [None] * len(x)
    pieces: list[tuple[Tensor, Tensor, Tensor]] = []
    for rows in alive.split(batch_size or len(x)):
        if len(rows):
            _send(direction, x, condition, rows, (pieces, errors))
    # Where nothing passed, the output's shape is unknown; one NaN a sample says all there is to say.
    like = pieces[0][1] if pieces else x.new_empty(1, 1)
    output = like.new_full((len(x), *like.shape[1:]), math.nan)
    log_det = (pieces[0][2] if pieces else x).new_full((len(x),), math.nan)
    for rows, part, part_log_det in pieces:
        output[rows], log_det[rows] = part, part_log_det
    return Passage(output, log_det, errors)


def _send(
    direction: Direction,
    x: Tensor,
    condition: Tensor | None,
    rows: Tensor,
    found: tuple[list[tuple[Tensor, Tensor, Tensor]], list[Exception | None]],
) -> None:
    pieces, errors = found
    try:
        output, log_det = direction(x[rows], None if condition is None else condition[rows])
    except (ShapeError, ConfigError):
        raise
    except LOST as error:
        if len(rows) == 1:
            errors[int(rows)] = error
            return
        for half in rows.tensor_split(2):
            _send(direction, x, condition, half, found)
        return
    if log_det.shape != (len(rows),):
        raise ShapeError(f"round_trip: expected log_det of shape ({len(rows)},), got {tuple(log_det.shape)}.")
    pieces.append((rows, output.detach(), log_det.detach()))


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
