"""Sections of a recipe that regularise a flow, and watch its inverse."""

from typing import Literal

from pydantic import Field, field_validator

from invertible.training.section import Section


class FiniteDifferences(Section):
    """A penalty on the Jacobians of the flow and of its inverse: `invertible.stability.FiniteDifferencePenalty`.

    Attributes:
        kind: `"finite-difference"`. The other penalty of `invertible.stability`, `FlowPenalty`, is the loss that a
            recipe trains with.
        weight: its factor, of an estimate of the mean of |J|_F^2 + |J^-1|_F^2.
        epsilon: length of the finite differences, in the space of the data.
        directions: `"both"`, `"forward"` or `"inverse"`.
        every: steps between two times that it is added to the loss.
    """

    kind: Literal["finite-difference"] = "finite-difference"
    weight: float = Field(default=1e-4, gt=0)
    epsilon: float = Field(default=0.1, gt=0)
    directions: Literal["both", "forward", "inverse"] = "both"
    every: int = Field(default=10, ge=1)

    @field_validator("kind", mode="before")
    @classmethod
    def _not_the_loss(cls, kind: object) -> object:
        if kind == "flow":
            raise ValueError("expected 'finite-difference', got 'flow', which is the loss that a recipe trains with")
        return kind


class EnergyWeights(Section):
    """Weights of the energies of a continuous flow in the loss (RNODE; Finlay et al. 2020, equation 7).

    They are added as `blocks.continuous.energies` defines them, a dimension, averaged over the batch; the paper's are
    0.01 each. The paths become straight, so that few steps solve them.

    Attributes:
        kinetic: of the kinetic energy, the integral of |v|^2.
        jacobian: of the integral of |dv/dx|_F^2.
    """

    kinetic: float = Field(default=0.01, ge=0)
    jacobian: float = Field(default=0.01, ge=0)


class Monitor(Section):
    """How `InverseMonitor` watches the inverse, and what it does when that is about to be lost.

    Attributes:
        every: steps between two checks.
        samples: samples of each set that it checks: of the validation data, and of data far from them.
        tolerance: largest relative error of a round trip; sqrt(eps) of the dtype if `None`, half of its digits, 3.5e-4
            in float32.
        digits: least number of decimal digits of the inverse to trust, predicted by `stability.trusted_digits`, in the
            worst sample; 0 to leave it to the tolerance.
        spectra: samples whose condition numbers to compute, 0 for none: the costly part.
        patience: checks in a row beyond either before it acts. It acts on a lost sample at once.
        watch: `"held-out"`, data far from the training data being measured only, or `"all"`.
        on_danger: `"warn"`, `"stop"` or `"rollback"`.
        lr_factor: factor of the learning rate at each rollback.
        max_rollbacks: when there were so many, the next one restores the last good state and ends the training.
    """

    every: int = Field(default=100, ge=1)
    samples: int = Field(default=32, ge=1)
    tolerance: float | None = Field(default=None, gt=0)
    digits: float = Field(default=0.0, ge=0)
    spectra: int = Field(default=4, ge=0)
    patience: int = Field(default=1, ge=1)
    watch: Literal["held-out", "all"] = "held-out"
    on_danger: Literal["warn", "stop", "rollback"] = "warn"
    lr_factor: float = Field(default=0.5, gt=0, le=1)
    max_rollbacks: int = Field(default=3, ge=0)
