"""The record of an audit: plain numbers and strings, and a few samples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from invertible.errors import ConfigError

SCHEMA_VERSION = 1

IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, LATENT = "in-distribution", "out-of-distribution", "latent"
PASSED, FAILED, REFUSED = "passed", "failed", "refused"

# Causes of a failure, as the control in float64 tells them apart.
ROUNDING = "rounding"  # float64 cures it
EXPLOSION = "explosion"  # float64 improves it and is not enough, or is lost as well
WRONG_INVERSE = "wrong inverse"  # float64 changes nothing: a bug, or an iteration that stops too early
WRONG_LOG_DET = "wrong log-determinant"  # the round trip holds, the log-determinants disagree, float64 changes nothing
UNKNOWN = "unknown"  # there was no control


@dataclass(frozen=True)
class AuditOptions:
    """What an audit measures, and when it is content.

    Args:
        tolerance: largest relative error of a round trip, and largest disagreement of log-determinants per
            dimension, at which a set passes. 1e-3 is some 8,000 eps of float32: no difference that an eye could see.
        samples: samples per set.
        temperatures: deviations of the latents that are decoded and encoded again.
        ood: measure sets far from the data as well.
        strict: these sets, and latents at temperatures above 1, must pass, too.
        control: run the worst samples again in float64, which tells rounding from a wrong inverse.
        traced: number of worst samples of each set that are followed block by block and run again.
        batch_size: samples per call of the model.

    Raises:
        ConfigError: naming the option that is out of its range.
    """

    tolerance: float = 1e-3
    samples: int = 256
    temperatures: Sequence[float] = (0.7, 1.0, 2.0, 5.0)
    ood: bool = True
    strict: bool = True
    control: bool = True
    traced: int = 32
    batch_size: int = 64

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperatures", tuple(float(t) for t in self.temperatures))
        for name in ("samples", "traced", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"AuditOptions: expected {name} of at least 1, got {getattr(self, name)}.")
        if not 0 < self.tolerance < math.inf:
            raise ConfigError(f"AuditOptions: expected tolerance to be positive and finite, got {self.tolerance}.")
        if not all(0 < t < math.inf for t in self.temperatures):
            raise ConfigError(f"AuditOptions: expected positive temperatures, got {self.temperatures}.")


@dataclass(frozen=True)
class ErrorSummary:
    """Errors of one round trip of one set; see `round_trip.Errors` for what is measured.

    Attributes:
        errors: relative error of each sample that was not refused, `inf` for lost ones.
        median: their median.
        worst: the largest.
        worst_sample: index of its sample in the data set that was given or made.
        worst_in_eps: the largest in units of the dtype's eps.
        non_finite: number of lost samples.
        raised: how many of these by an error that was raised.
        log_det_median: median disagreement of the two log-determinants, per dimension.
        log_det_worst: the largest.
    """

    errors: tuple[float, ...]
    median: float
    worst: float
    worst_sample: int
    worst_in_eps: float
    non_finite: int
    raised: int
    log_det_median: float
    log_det_worst: float


@dataclass(frozen=True)
class BlockSummary:
    """Errors of one block over the traced samples of a set; see `blockwise.BlockErrors`.

    A figure is NaN where nothing was measured: no sample reached the block, or there was no control.

    Attributes:
        path: where the block stands and what it is.
        own_median: median error of the block's own round trip.
        own_worst: its largest error.
        own_control: its largest error in float64.
        back_median: median error of its input on the way back through the whole map.
        back_worst: the largest.
        amplification: by how much it multiplies the error on the way back, at most.
        lost: samples that it loses on the way back.
    """

    path: str
    own_median: float
    own_worst: float
    own_control: float
    back_median: float
    back_worst: float
    amplification: float
    lost: int


@dataclass(frozen=True)
class ControlSummary:
    """Traced samples run again in float64; of each the largest error of both round trips and both log-dets.

    Attributes:
        samples: how many are summed up here: those that failed, if any did.
        before: their median error in the model's own dtype.
        before_worst: their largest.
        median: their median error in float64.
        worst: their largest.
        non_finite: how many are lost in float64 as well.
    """

    samples: int
    before: float
    before_worst: float
    median: float
    worst: float
    non_finite: int


@dataclass(frozen=True, eq=False)
class Examples:
    """Samples and what came back for them.

    Attributes:
        samples: their indices in the set.
        start: what was sent, float32, (N, ...).
        back: what came back, of the same shape, NaN where nothing did.
    """

    samples: tuple[int, ...]
    start: Tensor
    back: Tensor


@dataclass(frozen=True)
class SetRecord:
    """What was measured on one set.

    Attributes:
        name: such as `test` or `latents T=2`.
        kind: `in-distribution`, `out-of-distribution` or `latent`.
        description: what the set holds.
        required: whether the verdict rests on it.
        status: `passed`, `failed` or `refused` (all of it outside the model's domain).
        samples: number of samples in it.
        refused: how many of them lie outside the model's domain.
        message: the first error that was raised, empty if none was.
        data: errors of x -> f(x) -> x'.
        latent: errors of y -> f^-1(y) -> y'; y = f(x) for sets of data.
        control: the traced samples in float64; `None` without a control.
        cause: of a failure, one of the constants of this module; empty for other sets.
        first_loss: the first block at which a sample is lost, and in which direction; empty if none is.
        blocks: the profile of the traced samples over the blocks.
        examples: the worst samples and what came back; all samples if they are points of a plane.
    """

    name: str
    kind: str
    description: str
    required: bool
    status: str
    samples: int
    refused: int = 0
    message: str = ""
    data: ErrorSummary | None = None
    latent: ErrorSummary | None = None
    control: ControlSummary | None = None
    cause: str = ""
    first_loss: str = ""
    blocks: tuple[BlockSummary, ...] = ()
    examples: Examples | None = None

    @property
    def worst_block(self) -> BlockSummary | None:
        """The block to blame, `None` if nothing was measured.

        If the inverse is wrong, the block whose own inverse is worst in float64; else the one that amplifies the error
        most on the way back, the first of them if several lose samples.
        """

        def blame(block: BlockSummary) -> float:
            figure = block.own_control if self.cause == WRONG_INVERSE else block.amplification
            return -1.0 if math.isnan(figure) else figure

        worst = max(reversed(self.blocks), key=blame, default=None)
        return None if worst is None or blame(worst) < 0 else worst

    @property
    def worst(self) -> float:
        """Largest error of both directions, NaN where nothing was measured."""
        return max((each.worst for each in (self.data, self.latent) if each is not None), default=math.nan)

    @property
    def log_det_worst(self) -> float:
        """Largest disagreement of the log-determinants of both directions, NaN where nothing was measured."""
        return max((each.log_det_worst for each in (self.data, self.latent) if each is not None), default=math.nan)

    @property
    def non_finite(self) -> int:
        """Samples lost in the direction that loses more."""
        return max((each.non_finite for each in (self.data, self.latent) if each is not None), default=0)


@dataclass(frozen=True)
class AuditRecord:
    """Everything an audit measured.

    Attributes:
        model: name, parameters, dtype, device, data shape and configuration of the model.
        options: what was asked.
        sets: what was found, in-distribution sets first.
        versions: of Python and of the packages involved.
        created: when, in UTC, as ISO 8601.
        control_note: why there is no control in float64, empty if there is one.
        schema_version: version of this layout.
    """

    model: dict[str, Any]
    options: AuditOptions
    sets: tuple[SetRecord, ...]
    versions: dict[str, str]
    created: str
    control_note: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def passed(self) -> bool:
        """Whether all required sets passed, and none of the model's own data was refused."""
        required = [each for each in self.sets if each.required]
        own_refused = any(each.status == REFUSED and each.kind == IN_DISTRIBUTION for each in required)
        return bool(required) and not own_refused and all(each.status != FAILED for each in required)
