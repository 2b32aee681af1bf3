"""What an audit measures on one set."""

import math

import torch
from torch import Tensor

from invertible.bijection import Bijection, Inverted
from invertible.stability.batches import largest
from invertible.stability.blockwise import BlockRoundTrips, block_round_trips
from invertible.stability.control import Control, cause_of, control_summary
from invertible.stability.records import (
    EXPLOSION,
    FAILED,
    LATENT,
    PASSED,
    REFUSED,
    UNKNOWN,
    WRONG_INVERSE,
    WRONG_LOG_DET,
    AuditOptions,
    BlockSummary,
    ErrorSummary,
    Examples,
    SetRecord,
)
from invertible.stability.round_trip import Errors, RoundTrip, round_trip
from invertible.stability.sample_sets import SampleSet
from invertible.stability.sections import one_line

# A block whose own round trip in float64 is worse than this is wrong, or amplifies by more than 1e9 on its own.
WRONG_BLOCK = 1e-7
EXAMPLES, EXAMPLE_VALUES = 4, 200_000


@torch.no_grad()
def measure(
    bijection: Bijection, control: Control, chosen: SampleSet, options: AuditOptions
) -> tuple[SetRecord, Tensor]:
    """Measure one set: both round trips, the worst samples block by block and in float64, and the verdict.

    Returns:
        The record, and the rows of the traced samples, the worst first.
    """
    chart = Inverted(bijection) if chosen.kind == LATENT else bijection
    trip = round_trip(chart, chosen.values, chosen.condition, batch_size=options.batch_size)
    identity = (chosen.name, chosen.kind, chosen.description, chosen.required)
    count, refused = len(chosen.values), int(trip.data.refused.sum())
    if refused == count:
        return SetRecord(*identity, REFUSED, count, refused, trip.data.message), torch.empty(0, dtype=torch.long)
    worst = _worst_first(trip)[: min(options.budget.traced, count - refused)]
    picked, condition = chosen.some(worst)
    profile = block_round_trips(chart, picked, condition)
    again = control.run(chart, picked, condition)
    status, cause = _judge(trip, worst, again, options.tolerance)
    there, back = (_summary(errors, chosen.rows) for errors in (trip.data, trip.latent))
    record = SetRecord(
        *identity,
        status,
        count,
        refused,
        trip.data.message or trip.latent.message,
        data=back if chosen.kind == LATENT else there,
        latent=there if chosen.kind == LATENT else back,
        control=None if again is None else control_summary(_error(trip)[worst], _error(again[0]), options.tolerance),
        cause=cause,
        first_loss=_first_loss(profile, chosen.kind),
        blocks=_blocks(profile, None if again is None else again[1]),
        examples=_examples(chosen, trip),
    )
    return record, worst


def unmeasurable(chosen: SampleSet, error: Exception) -> SetRecord:
    """The record of a set on which the model raised an error that is not about values."""
    identity = (chosen.name, chosen.kind, chosen.description, chosen.required)
    return SetRecord(*identity, FAILED, len(chosen.values), message=one_line(error))


def _round_trip_error(trip: RoundTrip) -> Tensor:
    return torch.maximum(trip.data.relative, trip.latent.relative)


def _log_det_error(trip: RoundTrip) -> Tensor:
    return torch.maximum(trip.data.log_det, trip.latent.log_det)


def _error(trip: RoundTrip) -> Tensor:
    return torch.maximum(_round_trip_error(trip), _log_det_error(trip))


def _worst_first(trip: RoundTrip) -> Tensor:
    """Indices of the samples, the worst first, refused ones last."""
    return _error(trip).nan_to_num(nan=-1.0, posinf=math.inf).argsort(descending=True, stable=True)


def _judge(
    trip: RoundTrip, worst: Tensor, again: tuple[RoundTrip, BlockRoundTrips] | None, tolerance: float
) -> tuple[str, str]:
    """Status and cause."""
    for error, wrong in ((_round_trip_error, WRONG_INVERSE), (_log_det_error, WRONG_LOG_DET)):
        if bool((error(trip).nan_to_num(nan=0.0, posinf=math.inf) > tolerance).any()):
            if again is None:
                return FAILED, UNKNOWN
            # Where blocks are right one by one in float64, their composition amplifies and nothing is wrong.
            own = max((largest(block.own) for block in again[1].blocks), default=math.inf)
            excused = wrong == WRONG_INVERSE and own < WRONG_BLOCK
            found = cause_of(error(trip)[worst], error(again[0]), tolerance)
            return FAILED, found if found != WRONG_INVERSE else (EXPLOSION if excused else wrong)
    return PASSED, ""


def _summary(errors: Errors, rows: Tensor) -> ErrorSummary:
    log_det = errors.log_det[~errors.refused]
    return ErrorSummary(
        tuple(errors.measured.tolist()),
        errors.median,
        errors.worst,
        int(rows[errors.worst_index]),
        errors.worst_in_eps,
        errors.non_finite,
        int(errors.raised.sum()),
        log_det.median().item(),
        errors.worst_log_det,
    )


def _first_loss(profile: BlockRoundTrips, kind: str) -> str:
    if profile.first_loss is None:
        return ""
    path, way = profile.first_loss
    encoding = (way == "there") != (kind == LATENT)
    return f"{path} while {'encoding' if encoding else 'decoding'}"


def _blocks(profile: BlockRoundTrips, again: BlockRoundTrips | None) -> tuple[BlockSummary, ...]:
    # In float64 a sample may go further than it did; only profiles of the same blocks are put side by side.
    same = again is not None and [b.path for b in again.blocks] == [b.path for b in profile.blocks]
    controls = [largest(b.own) for b in again.blocks] if again is not None and same else []
    return tuple(
        BlockSummary(
            block.path,
            _middle(block.own),
            largest(block.own),
            controls[index] if controls else math.nan,
            _middle(block.back),
            largest(block.back),
            largest(block.amplification),
            int(block.back.isinf().sum()),
        )
        for index, block in enumerate(profile.blocks)
    )


def _middle(values: Tensor) -> float:
    measured = values[~values.isnan()]
    return measured.median().item() if len(measured) else math.nan


def _examples(chosen: SampleSet, trip: RoundTrip) -> Examples | None:
    """The worst pictures and what came back; for points of a plane, all of them."""
    values = chosen.values
    in_plane = values.shape[1:] == (2,)
    if not in_plane and (values.dim() != 4 or chosen.kind == LATENT):
        return None
    number = len(values) if in_plane else max(1, min(EXAMPLES, EXAMPLE_VALUES // values[0].numel()))
    order = trip.data.relative.nan_to_num(nan=-1.0, posinf=math.inf).argsort(descending=True, stable=True)[:number]
    order = order[~trip.data.refused[order]]
    start, back = values.cpu()[order].float(), trip.reconstruction.cpu().float()
    if back.shape[1:] != start.shape[1:]:
        back = back.new_full((len(back), *start.shape[1:]), math.nan)
    origin = None if chosen.origin is None else chosen.origin.cpu()[order].float()
    return Examples(tuple(chosen.rows[order].tolist()), start, back[order], origin)
