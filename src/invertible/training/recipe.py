"""Recipes: everything that decides a training run, as typed sections."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator, model_validator

from invertible.memory import strategy

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")


class Section(BaseModel):
    """A section of a recipe: unknown keys are refused, and nothing is converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Model(Section):
    """The model to build.

    Attributes:
        name: a name of `invertible.models.BUILDERS`.
        arguments: its arguments; `shape`, `grey_levels` and, with labels, `classes` come from the data if left out.
    """

    name: str
    arguments: dict[str, Any] = {}


class Data(Section):
    """The data set, and how it is cut into batches.

    Attributes:
        name: a name of `invertible.data`.
        options: further arguments of `invertible.data.load`.
        batch_size: samples a step, over all devices together.
        evaluation_batch_size: samples a batch in validation and in the final evaluation.
        flip: mirror half of the training images, left to right.
    """

    name: str
    options: dict[str, Any] = {}
    batch_size: int = Field(default=128, ge=1)
    evaluation_batch_size: int = Field(default=256, ge=1)
    flip: bool = False


class Optimizer(Section):
    """The optimizer.

    Attributes:
        name: `"adam"`, `"adamw"`, `"adamax"` or `"sgd"`.
        lr: learning rate.
        weight_decay: L2 penalty (decoupled in AdamW).
        betas: of the Adam family.
        eps: of the Adam family.
        momentum: of SGD.
    """

    name: Literal["adam", "adamw", "adamax", "sgd"] = "adam"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]], Strict(False)] = (
        0.9,
        0.999,
    )
    eps: float = Field(default=1e-8, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)


class Schedule(Section):
    """The learning rate over the steps, as a factor of `optimizer.lr`.

    Attributes:
        name: `"constant"`, `"cosine"` (from 1 to `floor` over the run) or `"step"` (times `factor` each `every` steps).
        warmup: steps of a linear rise from 0 at the start, before any of the three.
        floor: the last factor of the cosine.
        every: steps between two falls of `"step"`.
        factor: of each fall.
    """

    name: Literal["constant", "cosine", "step"] = "constant"
    warmup: int = Field(default=0, ge=0)
    floor: float = Field(default=0.0, ge=0, le=1)
    every: int = Field(default=1000, ge=1)
    factor: float = Field(default=0.5, gt=0, le=1)


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


class Training(Section):
    """Length, precision and records of the run.

    Attributes:
        epochs: passes over the training data; or
        steps: number of steps. Exactly one of the two.
        seed: of the weights, the order of the data, the dequantisation noise and the samples.
        precision: `"32-true"`, `"bf16-mixed"`, `"16-mixed"` or `"64-true"`.
        memory: how activations are kept for the backward pass: `"store"`, `"checkpoint"`, `"recursive"`,
            `"reversible"`, `"exact"`, or a budget such as `"512MiB"` (see `invertible.memory`).
        gradient_clip: largest 2-norm of the gradient; `None` for no limit.
        ema: decay of the moving average of the weights, 0 for none. Validation, samples and the saved model use it.
        validate_every: epochs between two validations.
        samples_every: epochs between two pictures of samples, 0 for none; rounded up to the next validation.
        checkpoint_every: steps between two checkpoints: what a killed run loses at most.
        penalty: a penalty added to the loss; `None` for none.
        monitor: watch the inverse; `None` to leave it alone.
    """

    epochs: int | None = Field(default=None, ge=1)
    steps: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"
    memory: str = "store"
    gradient_clip: float | None = Field(default=None, gt=0)
    ema: float = Field(default=0.0, ge=0, lt=1)
    validate_every: int = Field(default=1, ge=1)
    samples_every: int = Field(default=10, ge=0)
    checkpoint_every: int = Field(default=500, ge=1)
    penalty: FiniteDifferences | None = None
    monitor: Monitor | None = None

    @field_validator("memory")
    @classmethod
    def _known(cls, memory: str) -> str:
        strategy(memory)
        return memory

    @model_validator(mode="after")
    def _one_length(self) -> "Training":
        if (self.epochs is None) == (self.steps is None):
            given = "neither" if self.epochs is None else "both"
            raise ValueError(f"expected either epochs or steps, got {given}")
        return self


class Conditions(Section):
    """What the flow is conditioned on.

    Attributes:
        labels: give the class labels of the data to the flow, which is then built with `classes`.
    """

    labels: bool = False


class Recipe(Section):
    """A whole recipe.

    Attributes:
        name: its name, which also names the folder of the run.
        about: one line on what it trains.
        model: the model.
        data: the data.
        optimizer: the optimizer.
        schedule: the learning rate over time.
        training: length, precision and records of the run.
        conditions: what the flow is conditioned on.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    about: str = ""
    model: Model
    data: Data
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    training: Training
    conditions: Conditions = Conditions()
