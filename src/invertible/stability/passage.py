"""A batch sent through one direction of a map, sample by sample where it must be; and how far what came back is off."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.errors import ConfigError, ShapeError
from invertible.shapes import finite_rows
from invertible.stability.batches import rows_of

Direction = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]

# What a map may raise about values rather than about the call: such samples are counted, the others go on.
LOST = (ArithmeticError, AssertionError, ValueError, torch.linalg.LinAlgError)  # pyright: ignore[reportPrivateImportUsage]


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


def relative_error(x: Tensor, reconstruction: Tensor) -> Tensor:
    """|x' - x|_2 / max(|x|_2, median |x|_2) per sample, the median over the batch.

    Args:
        x: what was sent, shape (B, ...).
        reconstruction: what came back, of the same shape.

    Returns:
        float64 on the CPU, shape (B,); `inf` where x or x' is not finite.
    """
    error = norms(reconstruction.detach().cpu().double() - x.detach().cpu().double()) / usual_norm(x)
    return torch.where(error.isfinite() & norms(x).isfinite(), error, math.inf)


def norms(x: Tensor) -> Tensor:
    """|x|_2 per sample, float64 on the CPU, shape (B,)."""
    return torch.linalg.vector_norm(x.detach().cpu().double().flatten(1), dim=1)


def usual_norm(x: Tensor) -> Tensor:
    """max(|x|_2, median |x|_2) per sample, the median over the samples that are finite; 1 where that is 0.

    Returns:
        float64 on the CPU, shape (B,).
    """
    norm = norms(x)
    finite = norm[norm.isfinite()]
    usual = finite.median() if len(finite) else norm.new_ones(())
    scale = torch.maximum(norm, usual)
    return torch.where(scale > 0, scale, 1.0)


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
    alive = finite_rows(x).nonzero().flatten()
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
        output, log_det = direction(x[rows], rows_of(condition, rows))
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
