"""Sections of a recipe that say which data to take, and how."""

from typing import Annotated, Any

from pydantic import Field, Strict, model_validator

from invertible.training.reconstruction_sections import Scans
from invertible.training.section import Section

Share = Annotated[float, Field(gt=0, le=1)]
Strength = Annotated[float, Field(ge=0)]


class Stream(Section):
    """Images read from a folder while the model trains on them, each cut and coloured anew: ImageNet and its like.

    `data.name` is then the path of a folder of folders, one a class: `train`, and `validation` or `test` beside it.

    Attributes:
        size: side of the square that is trained on.
        resize: shorter side to which an image is scaled before its middle is cut out, in validation and test.
        workers: processes that read images.
        scale: least and largest share of the image that a training cut has.
        ratio: least and largest ratio of the cut's width to its height.
        jitter: strengths of the random change of brightness, contrast, saturation and hue; 0 for none.
    """

    size: int = Field(default=224, ge=1)
    resize: int = Field(default=256, ge=1)
    workers: int = Field(default=4, ge=0)
    scale: Annotated[tuple[Share, Share], Strict(False)] = (0.08, 1.0)
    ratio: Annotated[tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]], Strict(False)] = (
        0.75,
        1.3333,
    )
    jitter: Annotated[tuple[Strength, Strength, Strength, Annotated[float, Field(ge=0, le=0.5)]], Strict(False)] = (
        0.0,
        0.0,
        0.0,
        0.0,
    )

    @model_validator(mode="after")
    def _ordered(self) -> "Stream":
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"expected {name} as [least, largest], got [{low}, {high}]")
        if self.resize < self.size:
            raise ValueError(f"expected resize of at least size, got {self.resize} and {self.size}")
        return self


class Data(Section):
    """The data set, and how it is cut into batches.

    Attributes:
        name: a name of `invertible.data`.
        options: further arguments of `invertible.data.load`.
        batch_size: samples a step, over all devices together.
        evaluation_batch_size: samples a batch in validation and in the final evaluation.
        flip: mirror half of the training images, left to right.
        crop_padding: cut each training image anew from one that has so many zeros more on every side.
        stream: read the images of a folder while training, for a classifier; `None` to hold the data in memory.
        scans: which MRI scans to read, and what they measure, for a model that reconstructs; its defaults if `None`.
    """

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    batch_size: int = Field(default=128, ge=1)
    evaluation_batch_size: int = Field(default=256, ge=1)
    flip: bool = False
    crop_padding: int = Field(default=0, ge=0)
    stream: Stream | None = None
    scans: Scans | None = None
