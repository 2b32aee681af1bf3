"""Sections of a recipe that reconstructs: which scans to take, what they measure, and the loss."""

from typing import Annotated, Literal

from pydantic import Field, Strict, model_validator

from invertible.training.section import Section

Names = Annotated[tuple[str, ...], Strict(False)]
Size = Annotated[int, Field(ge=8)]
LOSSES = ("ssim", "l1", "mse")


class Simulate(Section):
    """k-space to simulate where there is no folder of the name, as `invertible data mri-simulate` does.

    Attributes:
        size: height and width of k-space and images.
        snr: signal to noise over the object in decibels; `None` for no noise.
        phase: deviation of the images' phase in radians.
        axes: of `"sagittal"`, `"coronal"`, `"axial"`.
        slices_per_axis: at most so many slices of a volume and axis; all if `None`.
        train: volumes to train on, names of `invertible data mri-volumes` or NIfTI files.
        validation: volumes to validate on, of other subjects.
        test: volumes to test on, of other subjects.
        seed: of phases, coils and noise.
    """

    size: Size = 64
    snr: float | None = 30.0
    phase: float = Field(default=1.0, ge=0)
    axes: Names = ("sagittal", "coronal", "axial")
    slices_per_axis: int | None = Field(default=None, ge=1)
    train: Names = ("ch2", "ch2bet", "inia19")
    validation: Names = ("kmeans-t1",)
    test: Names = ("mni152",)
    seed: int = Field(default=0, ge=0)


class Scans(Section):
    """MRI volumes in fastMRI's HDF5, read while a model trains on them, and the part of k-space it is given.

    `data.name` is the path of a folder with `train` and `validation`, and `test` if there is one; or with fastMRI's
    own, `singlecoil_train` and `singlecoil_val`, or `multicoil_...` for several coils.

    In training every slice has another mask in every epoch, of any of the accelerations. In validation and test a
    volume has one for each acceleration, seeded by its name as fastMRI does.

    Attributes:
        accelerations: R, columns of k-space by columns that are measured.
        centre_fractions: share of the columns in the middle that are always measured, one for each acceleration.
        masks: how the others are chosen: `"random"` (fastMRI's for knees) or `"equispaced"` (for brains).
        coils: number of coils of every volume.
        sensitivities: reconstruct one image by the coils' sensitivities, which the files must hold; else one a coil.
        image_size: crop training images to this height and width, where they are larger, before k-space is masked;
            those of validation and test stay whole.
        acquisitions: pulse sequences in the order of their one-hot code, which a model with a context is given; volumes
            of others are refused. None for no context.
        context_features: length of that code, the rest zeros; the number of acquisitions if `None`.
        target: data set of the files to learn, such as `"noise_free"`; fastMRI's reconstruction if `None`.
        volume_fraction: share of the training volumes to take.
        slice_fraction: share of the training slices to take.
        workers: processes that read.
        simulate: what to simulate where there is no such folder; `None` for nothing.
    """

    accelerations: Annotated[tuple[Annotated[float, Field(ge=1)], ...], Strict(False), Field(min_length=1)] = (4, 8)
    centre_fractions: Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...], Strict(False)] = (0.08, 0.04)
    masks: Literal["random", "equispaced"] = "random"
    coils: int = Field(default=1, ge=1)
    sensitivities: bool = False
    image_size: Annotated[tuple[Size, Size], Strict(False)] | None = None
    acquisitions: Names = ()
    context_features: int | None = Field(default=None, ge=0)
    target: str | None = None
    volume_fraction: float = Field(default=1.0, gt=0, le=1)
    slice_fraction: float = Field(default=1.0, gt=0, le=1)
    workers: int = Field(default=0, ge=0)
    simulate: Simulate | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Scans":
        pairs = len(self.accelerations), len(self.centre_fractions)
        if pairs[0] != pairs[1]:
            raise ValueError(f"expected a centre fraction for each of {pairs[0]} accelerations, got {pairs[1]}")
        if len(set(self.accelerations)) < pairs[0]:
            raise ValueError(f"expected accelerations that differ, got {list(self.accelerations)}")
        if self.context_features is not None and self.context_features < len(self.acquisitions):
            raise ValueError(
                f"expected context_features of at least the {len(self.acquisitions)} acquisitions, got "
                f"{self.context_features}"
            )
        return self

    @property
    def image_channels(self) -> int:
        """Real channels of the image to reconstruct."""
        return 2 if self.sensitivities else 2 * self.coils

    @property
    def context_width(self) -> int:
        """Length of the context; 0 for none."""
        return (self.context_features or len(self.acquisitions)) if self.acquisitions else 0

    @property
    def names(self) -> tuple[str, ...]:
        """What the accelerations are called: `"4x"`, `"8x"`."""
        return tuple(f"{each:g}x" for each in self.accelerations)


class Reconstruction(Section):
    """The loss of a model that reconstructs, on magnitudes divided by the largest value of their volume.

    Attributes:
        loss: `"ssim"` (1 - structural similarity), `"l1"` (mean absolute error) or `"mse"` (mean squared error).
        over: the `"last"` estimate alone, or the mean over `"all"` steps of the model.
        weights: of the steps in that mean, one for each; all alike if empty.
    """

    loss: Literal["ssim", "l1", "mse"] = "ssim"
    over: Literal["last", "all"] = "last"
    weights: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Strict(False)] = ()

    @model_validator(mode="after")
    def _weighs_steps(self) -> "Reconstruction":
        if self.weights and (self.over == "last" or not sum(self.weights)):
            raise ValueError(
                f"expected weights with over: all alone, and not all 0, got {list(self.weights)} for {self.over}"
            )
        return self
