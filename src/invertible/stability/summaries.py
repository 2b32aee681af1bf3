"""What the sections of an audit found beside round trips: plain numbers and strings."""

from dataclasses import dataclass

DONE, BROKEN, INTERRUPTED, UNSUITED = "done", "broken", "interrupted", "unsuited"


@dataclass(frozen=True)
class SectionRecord:
    """One section of an audit.

    Attributes:
        name: such as `round trips` or `attack`.
        status: `done`; `broken` by an error; `interrupted`; `unsuited`: there was nothing to measure.
        seconds: how long it took.
        message: the error, or why there was nothing to measure; empty if done.
    """

    name: str
    status: str
    seconds: float
    message: str = ""


@dataclass(frozen=True)
class AttackSummary:
    """An attack on the inverse: the worst points near some samples.

    Attributes:
        set: name of the set that was attacked.
        samples: how many of its samples.
        norm: of the ball around each, `linf` or `l2`.
        radius: of the ball.
        radius_reason: where the radius comes from, in words.
        steps: of gradient ascent.
        restarts: from other random starts.
        median: median relative error of the round trip: at the data, at the random start, after each step; `inf` for
            lost.
        worst: the largest, likewise.
        first_loss: the first step after which a sample is lost, 0 for the random start; `None` if none is.
        lost: samples lost on the way.
    """

    set: str
    samples: int
    norm: str
    radius: float
    radius_reason: str
    steps: int
    restarts: int
    median: tuple[float, ...]
    worst: tuple[float, ...]
    first_loss: int | None
    lost: int


@dataclass(frozen=True)
class DigitsSummary:
    """Predicted errors of the inverse on traced samples of one set, beside the true ones.

    The true error is the distance from the inverse in float64 of the same latents; NaN without a control.

    Attributes:
        set: name of the set.
        samples: how many.
        median: median of the digits that can be trusted.
        least: fewest digits.
        lost: samples without one digit.
        predicted: largest bound of the relative error.
        measured: largest true relative error.
        exceeded: samples whose true error exceeds its bound.
    """

    set: str
    samples: int
    median: float
    least: float
    lost: int
    predicted: float
    measured: float
    exceeded: int


@dataclass(frozen=True)
class SpectrumSummary:
    """Singular values of the Jacobian at the worst samples of one set.

    Attributes:
        set: name of the set.
        samples: how many.
        method: `dense` or `iterative`; iterative condition numbers are lower bounds.
        largest: the largest singular value.
        smallest: the smallest.
        condition_median: median condition number.
        condition_worst: the largest.
        worst_sample: its sample's index in the data.
        converged: samples whose values are converged.
        non_finite: samples without finite values.
        log_det_error: largest |sum log s - log_det|, in nats; NaN where it is not known.
        log_det_rounding: what rounding explains of it.
        note: what to know about the values.
    """

    set: str
    samples: int
    method: str
    largest: float
    smallest: float
    condition_median: float
    condition_worst: float
    worst_sample: int
    converged: int
    non_finite: int
    log_det_error: float
    log_det_rounding: float
    note: str


@dataclass(frozen=True)
class BlockBound:
    """Certified Lipschitz bounds of one block, on the data's box.

    Attributes:
        path: where the block stands and what it is.
        forward: of the block.
        inverse: of its inverse.
        reason: why one of them is infinite; empty if none is.
    """

    path: str
    forward: float
    inverse: float
    reason: str


@dataclass(frozen=True)
class BoundsSummary:
    """Certified Lipschitz bounds.

    Attributes:
        forward: of the map, on the whole space.
        inverse: of its inverse, on the whole space.
        box: largest absolute value of data and of latents that were seen on the model's own data.
        forward_on_box: bound on data in this box.
        inverse_on_box: bound of the inverse on latents in it.
        blocks: of the blocks, on the boxes that reach them.
    """

    forward: float
    inverse: float
    box: tuple[float, float]
    forward_on_box: float
    inverse_on_box: float
    blocks: tuple[BlockBound, ...]


@dataclass(frozen=True)
class GradientsSummary:
    """Gradients with memory-saving training beside those with stored activations.

    Attributes:
        samples: in the batch.
        angle: between the two, in degrees, over all parameters; NaN if one is not finite.
        relative_norm: of the memory-saving one, by that of the stored one.
        worst_group: the group of parameters with the largest angle.
        worst_angle: its angle, in degrees.
        non_finite: groups whose memory-saving gradient is not finite.
        stored_finite: whether the stored gradient is finite.
        memory: the strategy compared with.
        trains_so: whether the model is set to train that way already.
    """

    samples: int
    angle: float
    relative_norm: float
    worst_group: str
    worst_angle: float
    non_finite: int
    stored_finite: bool
    memory: str
    trains_so: bool
