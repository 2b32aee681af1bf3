"""Recipes: everything that decides a training run, as typed sections."""

from typing import Annotated, Any, Literal

from pydantic import Field, Strict, field_validator, model_validator

from invertible.memory import strategy
from invertible.models import BUILDERS, CLASSIFIERS, RECONSTRUCTORS
from invertible.training.data_sections import Data, Stream
from invertible.training.reconstruction_sections import Reconstruction
from invertible.training.safeguards import EnergyWeights, FiniteDifferences, Monitor
from invertible.training.section import Section

Kind = Literal["flow", "classifier", "reconstructor"]
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")
__all__ = [
    "Classification", "Conditions", "Data", "EnergyWeights", "FiniteDifferences", "Model", "Monitor", "Optimizer",
    "Recipe", "Reconstruction", "Schedule", "Section", "Stream", "Training",
]  # fmt: skip


class Model(Section):
    """The model to build.

    Attributes:
        name: a name of `invertible.models.BUILDERS`.
        arguments: its arguments; `shape`, `grey_levels` and, with labels, `classes` come from the data if left out.
            Every classifier has labels. A model that reconstructs has `image_channels` and `context_features` from
            `data.scans`.
    """

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Optimizer(Section):
    """The optimizer.

    Attributes:
        name: `"adam"`, `"adamw"`, `"adamax"` or `"sgd"`.
        lr: learning rate.
        weight_decay: L2 penalty (decoupled in AdamW).
        betas: of the Adam family.
        eps: of the Adam family.
        momentum: of SGD.
        nesterov: SGD with Nesterov's momentum.
        decay: what `weight_decay` acts on: `"all"` parameters, or `"weights"` of convolutions and linear layers alone,
            not biases and normalisation.
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
    nesterov: bool = False
    decay: Literal["all", "weights"] = "all"

    @model_validator(mode="after")
    def _has_momentum(self) -> "Optimizer":
        if self.nesterov and (self.name != "sgd" or not self.momentum):
            raise ValueError(f"expected nesterov with name: sgd and a momentum, got {self.name} and {self.momentum}")
        return self


class Schedule(Section):
    """The learning rate over the steps, as a factor of `optimizer.lr`.

    Attributes:
        name: `"constant"`, `"cosine"` (from 1 to `floor` over the run), `"step"` (times `factor` each `every` steps) or
            `"milestones"` (times `factor` at each of the steps in `at`).
        warmup: steps of a linear rise from 0 at the start, before any of the four.
        floor: the last factor of the cosine.
        every: steps between two falls of `"step"`, counted from the end of the rise.
        every_epochs: the same in epochs, in its place.
        at: steps of the falls of `"milestones"`, counted from the start of the run.
        factor: of each fall.
    """

    name: Literal["constant", "cosine", "step", "milestones"] = "constant"
    warmup: int = Field(default=0, ge=0)
    floor: float = Field(default=0.0, ge=0, le=1)
    every: int = Field(default=1000, ge=1)
    every_epochs: int | None = Field(default=None, ge=1)
    at: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Strict(False)] = ()
    factor: float = Field(default=0.5, gt=0, le=1)

    @model_validator(mode="after")
    def _ascending(self) -> "Schedule":
        if self.every_epochs is not None and self.name != "step":
            raise ValueError(f"expected every_epochs with name: step alone, got {self.every_epochs} for {self.name}")
        if (self.name == "milestones") != bool(self.at):
            raise ValueError(
                f"expected steps in at for milestones, and only there, got {list(self.at)} for {self.name}"
            )
        if list(self.at) != sorted(set(self.at)):
            raise ValueError(f"expected at to hold ever later steps, got {list(self.at)}")
        return self


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
        samples_every: epochs between two pictures of samples, 0 for none; rounded up to the next validation. 10 for a
            flow if `None`; other models have none.
        checkpoint_every: steps between two checkpoints: what a killed run loses at most.
        penalty: a penalty added to the loss of a flow; `None` for none.
        energies: weights of the energies of a continuous flow in its loss; `None` for none.
        monitor: watch the inverse of a flow; `None` to leave it alone.
    """

    epochs: int | None = Field(default=None, ge=1)
    steps: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"
    memory: str = "store"
    gradient_clip: float | None = Field(default=None, gt=0)
    ema: float = Field(default=0.0, ge=0, lt=1)
    validate_every: int = Field(default=1, ge=1)
    samples_every: int | None = Field(default=None, ge=0)
    checkpoint_every: int = Field(default=500, ge=1)
    penalty: FiniteDifferences | None = None
    energies: EnergyWeights | None = None
    monitor: Monitor | None = None

    @field_validator("memory")
    @classmethod
    def _known(cls, memory: str) -> str:
        strategy(memory)
        return memory

    @model_validator(mode="after")
    def _stores_energies(self) -> "Training":
        if self.energies is not None and self.memory != "store":
            raise ValueError(
                f"expected memory: store with energies, which need the graph of the pass, got {self.memory}"
            )
        return self

    @model_validator(mode="after")
    def _one_length(self) -> "Training":
        if (self.epochs is None) == (self.steps is None):
            given = "neither" if self.epochs is None else "both"
            raise ValueError(f"expected either epochs or steps, got {given}")
        return self


class Conditions(Section):
    """What a flow is conditioned on.

    Attributes:
        labels: give the class labels of the data to the flow, which is then built with `classes`.
    """

    labels: bool = False


class Classification(Section):
    """How a classifier is kept from being too sure.

    Attributes:
        label_smoothing: weight e of the uniform distribution in the target (1 - e) y + e/classes (Szegedy et al. 2016,
            section 7).
        mixup: alpha of mixup (Zhang et al. 2018): inputs and targets are l a + (1 - l) b of two samples, l drawn from
            Beta(alpha, alpha) at every step; 0 for none. The paper's is 1 on CIFAR, 0.2 on ImageNet.
    """

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    mixup: float = Field(default=0.0, ge=0)


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
        conditions: what a flow is conditioned on.
        classification: the loss of a classifier; `None`, as a flow has it, for the plain cross-entropy.
        reconstruction: the loss of a model that reconstructs; `None` for 1 - structural similarity of the last
            estimate.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    about: str = ""
    model: Model
    data: Data
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    training: Training
    conditions: Conditions = Conditions()
    classification: Classification | None = None
    reconstruction: Reconstruction | None = None

    @property
    def kind(self) -> Kind:
        """What the model is; a name that is none counts as a flow's."""
        if self.model.name in CLASSIFIERS:
            return "classifier"
        return "reconstructor" if self.model.name in RECONSTRUCTORS else "flow"

    @model_validator(mode="after")
    def _of_one_kind(self) -> "Recipe":
        data, training = self.data, self.training
        given: dict[tuple[Kind, ...], dict[str, object]] = {
            ("flow",): {
                "training.penalty": training.penalty,
                "training.energies": training.energies,
                "training.monitor": training.monitor,
                "training.samples_every": training.samples_every,
                "conditions.labels": self.conditions.labels,
            },
            ("classifier",): {"classification": self.classification, "data.stream": data.stream},
            ("reconstructor",): {"reconstruction": self.reconstruction, "data.scans": data.scans},
            ("flow", "classifier"): {
                "data.options": data.options,
                "data.flip": data.flip,
                "data.crop_padding": data.crop_padding,
            },
        }
        for kinds, keys in given.items():
            for key in (key for key, value in keys.items() if value not in (None, False, 0, {})):
                if self.kind not in kinds and self.model.name in BUILDERS:
                    others = " and ".join(f"{kind}s" for kind in kinds)
                    raise ValueError(f"{key} is for {others}; {self.model.name} is a {self.kind}. Leave it out")
        return self
