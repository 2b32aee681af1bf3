"""Folders of images too large for memory, as data to train a classifier on."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invertible.data.augment import EvaluationTransform, TrainingTransform
from invertible.data.folder import ImageFolder, Part, index_folder
from invertible.data.splits import Cut
from invertible.errors import ConfigError, DataError, require
from invertible.training.batches import ALONE, EvaluationBatches, Share, TrainingBatches, steps_per_epoch
from invertible.training.classifier_data import ClassifierData
from invertible.training.data_sections import Stream
from invertible.training.randomness import generator_for
from invertible.training.recipe import Recipe
from invertible.training.streamed_images import (
    EvaluationKeys,
    PictureSamples,
    SizedStreamedBatches,
    StreamedBatches,
    TrainingKeys,
)
from invertible.training.summary import TRAIN_SAMPLES

STATISTICS_SAMPLES = 1000
OPTIONS = ("channels", "validation", "test", "seed", "limit")


class StreamedImages(ClassifierData):
    """Images read from a folder while a model trains on them, each cut and coloured anew in every epoch.

    The folder, `data.name`, is laid out as `data.load` takes it: `train/CLASS/*.jpg` and, if there are such parts,
    `val/CLASS/*.jpg` (or `validation`) and `test/CLASS/*.jpg`; or `CLASS/*.jpg` alone. Without a validation part, a
    tenth of the training images is set aside by the seed. A test part is never made up; `data.options.test` asks for
    one.

    Training images are cut, mirrored (`data.flip`) and coloured by `TrainingTransform`, those of validation and test
    are cut by `EvaluationTransform`. Both the order and the cuts are functions of seed, epoch and sample alone: they
    depend neither on the number of processes that read or train, nor on where a run was interrupted.

    Args:
        recipe: its sections data and training. `data.options` may hold `channels` (3, or 1 for grey), `validation`
            (0.1), `test` (none), `seed` (0) and `limit`, as `data.load` takes them.
        data_dir: folder from which `data.name` is taken too, where it is no path from here.

    Raises:
        ConfigError: if a section is wrong, the images have no classes or only one, or they do not fill a batch.
        DataError: if the folder is missing, or a part lacks a class.

    Example:
        >>> data = StreamedImages(read_recipe(Path("imagenet.yaml")), Path("/datasets"))
        >>> lightning.pytorch.Trainer(max_steps=600_000).fit(module, datamodule=data)
    """

    def __init__(self, recipe: Recipe, data_dir: Path | None) -> None:
        super().__init__()
        require("PIL.Image", "data")
        self.recipe, self.section = recipe, _section(recipe)
        channels, how = _options(recipe.data.options)
        folder = index_folder(_folder(recipe.data.name, data_dir))
        self.classes = _classes(folder)
        self.folder = folder.cut(how)
        if not len(self.folder.parts["validation"]):
            raise ConfigError(
                f"data.options: expected validation above 0, since {folder.path} has no validation part, got 0. The "
                "best model is chosen by it."
            )
        self.name, self.grey_levels = recipe.data.name, 256
        self.shape = (channels, self.section.size, self.section.size)
        self.steps_per_epoch = steps_per_epoch(len(self.folder.train), recipe.data.batch_size)

    def statistics_sample(self) -> Tensor:
        """At most 1,000 training images, (N, C, H, W), uint8, chosen by the seed and cut as for an evaluation."""
        part = self._some(self.folder.train, STATISTICS_SAMPLES, "statistics")
        return torch.cat([x for x, _ in self._in_order(part)])

    def train_dataloader(self) -> StreamedBatches:
        """The training stream from the trainer's step on; this process's rows of every batch."""
        return self.stream(self.attached.global_step, self.share, pin_memory=self._on_gpu)

    def val_dataloader(self) -> SizedStreamedBatches:
        """This process's share of the validation images."""
        return self._in_order(self.folder.parts["validation"], self.share, pin_memory=self._on_gpu)

    def evaluation(self, split: str) -> SizedStreamedBatches | None:
        """Every sample of `"train"` (10,000 of them at most, chosen by the seed), `"validation"` or `"test"` once."""
        part = self.folder.parts.get(split)
        if part is None or not len(part):
            return None
        return self._in_order(self._some(part, TRAIN_SAMPLES, "evaluation") if split == "train" else part)

    def stream(self, start: int = 0, share: Share = ALONE, *, pin_memory: bool = False) -> StreamedBatches:
        """The training stream from a step on.

        Raises:
            ConfigError: if a batch cannot be shared equally.
        """
        section, data, seed = self.section, self.recipe.data, self.recipe.training.seed
        transform = TrainingTransform(
            section.size, self.shape[0], section.scale, section.ratio, flip=data.flip, jitter=section.jitter
        )
        rows = torch.arange(len(self.folder.train))
        order = TrainingBatches(rows, None, data.batch_size, seed=seed, start=start, share=share)
        samples = PictureSamples(self.folder.train, transform, seed)
        return StreamedBatches(samples, TrainingKeys(order), workers=section.workers, pin_memory=pin_memory)

    def _in_order(self, part: Part, share: Share = ALONE, *, pin_memory: bool = False) -> SizedStreamedBatches:
        transform = EvaluationTransform(self.section.size, self.section.resize, self.shape[0])
        order = EvaluationBatches(torch.arange(len(part)), None, self.recipe.data.evaluation_batch_size, share)
        samples = PictureSamples(part, transform, self.recipe.training.seed)
        return SizedStreamedBatches(samples, EvaluationKeys(order), workers=self.section.workers, pin_memory=pin_memory)

    def _some(self, part: Part, n: int, purpose: str) -> Part:
        """At most n samples: files lie in the order of their classes, so the first ones would be of a few."""
        if len(part) <= n:
            return part
        noise = generator_for("cpu", purpose, self.recipe.training.seed)
        return part.take(torch.randperm(len(part), generator=noise)[:n])

    @property
    def _on_gpu(self) -> bool:
        return self.attached.strategy.root_device.type == "cuda"


def _section(recipe: Recipe) -> Stream:
    if recipe.data.stream is None:
        raise ConfigError("data.stream: expected a section that says how images are cut, got none.")
    if recipe.data.crop_padding:
        raise ConfigError(
            f"data.crop_padding: expected 0 with data.stream, which cuts images by its scale and ratio, got "
            f"{recipe.data.crop_padding}. Leave it out."
        )
    return recipe.data.stream


def _options(options: dict[str, Any]) -> tuple[int, Cut]:
    unknown = [key for key in options if key not in OPTIONS]
    if unknown:
        raise ConfigError(
            f"data.options: expected options among {', '.join(OPTIONS)} with data.stream, got {unknown[0]!r}."
        )
    channels = options.get("channels", 3)
    if channels not in (1, 3):
        raise ConfigError(f"data.options.channels: expected 1 or 3, got {channels!r}.")
    return channels, Cut(**{key: value for key, value in options.items() if key != "channels"})


def _folder(name: str, data_dir: Path | None) -> Path:
    places = [Path(name).expanduser(), *([] if data_dir is None else [Path(data_dir).expanduser() / name])]
    for place in places:
        if place.is_dir():
            return place
    raise DataError(
        f"data.name: expected a folder of images with data.stream, found none at {' or '.join(map(str, places))}. "
        "Give its path, as in --set data.name=/datasets/imagenet."
    )


def _classes(folder: ImageFolder) -> tuple[str, ...]:
    """Names of the classes, which all parts have."""
    if folder.classes is None or len(folder.classes) < 2:
        got = f"{len(folder.classes)}" if folder.classes else "images without classes"
        raise ConfigError(f"{folder.path}: expected at least 2 classes, one subfolder each, got {got}.")
    for name, part in folder.parts.items():
        assert part.y is not None
        lacking = set(range(len(folder.classes))) - set(part.y.unique().tolist())
        if lacking:
            raise DataError(
                f"{folder.path}: expected in {name} the classes of train, got none of {folder.classes[min(lacking)]} "
                f"({len(lacking)} of {len(folder.classes)} classes lack). Give all parts the same subfolders."
            )
    return folder.classes
