"""The record of an audit: plain numbers and strings, and a few samples."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from invertible.stability.audit_options import ATTACK, AuditOptions, Budget
from invertible.stability.summaries import (
    BROKEN,
    INTERRUPTED,
    AttackSummary,
    BoundsSummary,
    DigitsSummary,
    GradientsSummary,
    SectionRecord,
    SpectrumSummary,
)

SCHEMA_VERSION = 2

IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, LATENT = "in-distribution", "out-of-distribution", "latent"
ADVERSARIAL = "adversarial"
PASSED, FAILED, REFUSED = "passed", "failed", "refused"

# Causes of a failure, as the control in float64 tells them apart.
ROUNDING = "rounding"  # float64 cures it
EXPLOSION = "explosion"  # float64 improves it and is not enough, or is lost as well
WRONG_INVERSE = "wrong inverse"  # float64 changes nothing: a bug, or an iteration that stops too early
WRONG_LOG_DET = "wrong log-determinant"  # the round trip holds, the log-determinants disagree, float64 changes nothing
UNKNOWN = "unknown"  # there was no control

# Degrees between stored and memory-saving gradient above which training goes astray.
LARGEST_ANGLE = 1.0


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
        origin: what `start` was made from, of the same shape; `None` if it was not.
    """

    samples: tuple[int, ...]
    start: Tensor
    back: Tensor
    origin: Tensor | None = None


@dataclass(frozen=True)
class SetRecord:
    """What was measured on one set.

    Attributes:
        name: such as `test` or `latents T=2`.
        kind: `in-distribution`, `out-of-distribution`, `adversarial` or `latent`.
        description: what the set holds.
        required: whether the verdict rests on it.
        status: `passed`, `failed` or `refused` (all of it outside the model's domain). A set on which the model raised
            an error that is not about values has failed, and nothing is measured on it.
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
        budget: the numbers that come of it.
        sets: what was found, in-distribution sets first.
        sections: what was run, and how long it took.
        versions: of Python and of the packages involved.
        created: when, in UTC, as ISO 8601.
        control_note: why there is no control in float64, empty if there is one.
        attack: what the attack found; `None` if there was none, and so are the following.
        digits: predicted and true errors of the inverse, by set.
        spectrum: singular values, by set.
        bounds: certified Lipschitz bounds.
        gradients: memory-saving against stored gradients.
        schema_version: version of this layout.
    """

    model: dict[str, Any]
    options: AuditOptions
    budget: Budget
    sets: tuple[SetRecord, ...]
    sections: tuple[SectionRecord, ...]
    versions: dict[str, str]
    created: str
    control_note: str = ""
    attack: AttackSummary | None = None
    digits: tuple[DigitsSummary, ...] = ()
    spectrum: tuple[SpectrumSummary, ...] = ()
    bounds: BoundsSummary | None = None
    gradients: GradientsSummary | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def passed(self) -> bool:
        """Whether all required sets passed, none of the model's own data was refused, and all that decides was run."""
        required = [each for each in self.sets if each.required]
        own_refused = any(each.status == REFUSED and each.kind == IN_DISTRIBUTION for each in required)
        held = bool(required) and not own_refused and all(each.status != FAILED for each in required)
        return held and not self.interrupted and not self.undecided and not self.wrong_log_det and not self.astray

    @property
    def interrupted(self) -> bool:
        """Whether the audit was stopped before its end."""
        return any(each.status == INTERRUPTED for each in self.sections)

    @property
    def undecided(self) -> bool:
        """Whether the attack, on which the verdict rests, broke off by an error."""
        return self.options.strict and any(each.name == ATTACK and each.status == BROKEN for each in self.sections)

    @property
    def wrong_log_det(self) -> bool:
        """Whether log-determinants miss the singular values by more than the tolerance, and rounding explains less."""
        tolerance = self.options.tolerance
        return any(each.log_det_error > max(each.log_det_rounding, tolerance) for each in self.spectrum)

    @property
    def astray(self) -> bool:
        """Whether the model is set to train with gradients that point elsewhere."""
        found = self.gradients
        return found is not None and found.trains_so and found.stored_finite and not found.angle <= LARGEST_ANGLE
