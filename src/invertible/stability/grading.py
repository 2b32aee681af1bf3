"""The section of an audit on gradients: memory-saving training beside stored activations."""

import warnings

from torch import Tensor, nn

from invertible.errors import ConfigError
from invertible.memory import owners
from invertible.stability.gradients import gradient_angle
from invertible.stability.laboratory import Measured
from invertible.stability.sections import UnsuitedError
from invertible.stability.summaries import GradientsSummary

Batch = tuple[Tensor, Tensor | None]


def grade(flow: nn.Module, measured: Measured, count: int) -> GradientsSummary:
    """Compare the two gradients of the negative log-likelihood, on the worst samples of a set.

    A model that is set to train memory-saving is judged as it is set; others without the guard, whose repairs would
    hide what recomputation alone gives.

    Raises:
        UnsuitedError: if the model has no chain, or no parameter to train.
    """
    chains = owners(flow)
    if not chains:
        raise UnsuitedError("the model has no invertible.Chain whose memory could be saved")
    own = next((chain.memory for chain in chains if not chain.memory.stores), None)
    batch = measured.worst(count)
    try:
        with warnings.catch_warnings():
            # The guard's warnings are about the very errors that the angle measures.
            warnings.simplefilter("ignore")
            found = gradient_angle(flow, _loss, batch, memory=own)
    except ConfigError as error:
        raise UnsuitedError(str(error)) from error
    total, worst = found.total, found.worst_group
    return GradientsSummary(
        len(batch[0]),
        total.degrees,
        total.relative_norm,
        worst.name,
        worst.degrees,
        sum(each.non_finite > 0 for each in found.groups),
        total.non_finite_expected == 0,
        found.memory,
        own is not None,
    )


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    """The negative log-likelihood a dimension; under N(0, I) if the base takes a condition of its own."""
    x, condition = batch
    y, log_det = getattr(model, "bijection", model)(x, condition)
    base = getattr(model, "base", None)
    if base is not None and hasattr(base, "log_prob") and not getattr(base, "condition_features", 0):
        log_prob = base.log_prob(y)
    else:
        log_prob = -0.5 * y.flatten(1).square().sum(1)
    return -(log_prob + log_det).mean() / x[0].numel()
