"""MRI scans as data to train a model that reconstructs."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from torch.utils.data import Sampler

from invertible.data.mri import (
    MRIBatch,
    MRISlice,
    Selection,
    ShapeBatchSampler,
    SliceDataset,
    VolumeFolder,
    VolumeHeader,
)
from invertible.errors import DataError
from invertible.image_metrics import WINDOW
from invertible.physics.masks import ColumnMask, EquispacedColumns, RandomColumns
from invertible.training.batches import ALONE, Share, check_share
from invertible.training.recipe import Recipe
from invertible.training.reconstruction_sections import Scans
from invertible.training.scan_batches import EpochKeys, Opened, Parcel, ReadSlices, TrainingScans, VolumeKeys, packed
from invertible.training.scan_folder import part_folder, scan_folder
from invertible.training.streamed_images import SizedStreamedBatches
from invertible.training.trainers_data import TrainersData

MASKS: dict[str, type[ColumnMask]] = {"random": RandomColumns, "equispaced": EquispacedColumns}
PARTS = ("train", "validation", "test")


class ScanData(TrainersData):
    """MRI volumes in fastMRI's HDF5, read while a model trains on their slices.

    The order of the slices and their masks are functions of seed and epoch alone: they depend neither on the number of
    processes that read, nor on where a run was interrupted. A batch holds slices of one shape.

    Args:
        recipe: its sections data and training.
        data_dir: folder from which `data.name` is taken too, where it is no path from here.

    Attributes:
        section: the recipe's `data.scans`.
        folder: where the scans lie.
        headers: of the volumes of each part.
        steps_per_epoch: batches in the training data.

    Raises:
        DataError: if folder or volumes are missing, or a volume has no target, other coils or too small a target.
        ConfigError: if no slice is left to train on.

    Example:
        >>> data = ScanData(read_recipe(Path("irim-mri-singlecoil.yaml")), Path("/datasets"))
        >>> lightning.pytorch.Trainer(max_steps=200_000).fit(module, datamodule=data)
    """

    def __init__(self, recipe: Recipe, data_dir: Path | None) -> None:
        super().__init__()
        self.recipe, self.section = recipe, recipe.data.scans or Scans()
        self.folder = scan_folder(recipe.data.name, self.section, data_dir)
        self._parts = {part: folder for part in PARTS if (folder := self._part(part)) is not None}
        self.headers = {part: folder.headers for part, folder in self._parts.items()}
        for part in PARTS[:2]:
            if part not in self.headers:
                kind = "singlecoil" if self.section.coils == 1 else "multicoil"
                raise DataError(
                    f"{self.folder}: expected the folders train and validation, or {kind}_train and {kind}_val of "
                    f"fastMRI, found no {part}. data.scans.coils, {self.section.coils}, says which of fastMRI's."
                )
        for header in (header for headers in self.headers.values() for header in headers):
            _check(header, self.section)
        self._training = self._slices("train")
        # One for each, made before the first step: what a volume lacks is then told.
        self._evaluated = {(part, name): self._slices(part, name) for part in self._parts for name in self.names}
        self.steps_per_epoch = len(self._order())

    @property
    def simulated(self) -> bool:
        """Whether any volume's k-space was computed from images instead of measured."""
        return any(header.simulated for headers in self.headers.values() for header in headers)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the accelerations."""
        return self.section.names

    def train_dataloader(self) -> TrainingScans:
        """The training stream from the trainer's step on; this process's rows of every batch."""
        return self.stream(self.attached.global_step, self.share)

    def val_dataloader(self) -> list[SizedStreamedBatches]:
        """This process's share of the validation volumes, once for each acceleration."""
        return [self._volumes("validation", name, self.share) for name in self.names]

    def stream(self, start: int = 0, share: Share = ALONE) -> TrainingScans:
        """The training stream from a step on.

        Raises:
            ConfigError: if a batch cannot be shared equally.
        """
        check_share(self.recipe.data.batch_size, share)
        keys = EpochKeys(self._order(), share)
        batches = self._batches(self._training, keys)
        return TrainingScans(self._training, keys, batches, start)

    def evaluation(self, part: str, name: str) -> Iterable[MRIBatch] | None:
        """Every slice of a part at an acceleration, one volume after the other; `None` if there is no such part.

        Args:
            part: `"train"`, `"validation"` or `"test"`.
            name: of the acceleration, of `names`.
        """
        return Opened(self._volumes(part, name)) if part in self.headers else None

    def example(self, part: str, name: str, volume: int) -> MRIBatch:
        """The slice in the middle of a volume."""
        slices = self._evaluated[part, name]
        rows = [row for row, (each, _) in enumerate(slices.rows) if each == volume]
        return self._collate([slices[rows[len(rows) // 2]]]).batch

    def _volumes(self, part: str, name: str, share: Share = ALONE) -> SizedStreamedBatches:
        slices = self._evaluated[part, name]
        return self._batches(slices, VolumeKeys(slices, self.recipe.data.evaluation_batch_size, share))

    def _part(self, part: str) -> VolumeFolder | None:
        folder = part_folder(self.folder, part, self.section.coils)
        return None if folder is None else VolumeFolder(folder)

    def _slices(self, part: str, name: str | None = None) -> SliceDataset:
        """Slices with a mask of any acceleration, anew in every epoch; or with that of a volume, at one of them."""
        section, training = self.section, name is None
        chosen = slice(None) if name is None else slice(self.names.index(name), self.names.index(name) + 1)
        mask = MASKS[section.masks](section.centre_fractions[chosen], section.accelerations[chosen])
        share = Selection(volume_fraction=section.volume_fraction, slice_fraction=section.slice_fraction)
        return SliceDataset(
            self._parts[part],
            mask,
            selection=share if training else None,
            random_masks=training,
            seed=self.recipe.training.seed,
            # Metrics are those of whole scans, as fastMRI has them.
            image_size=section.image_size if training else None,
            sensitivities="file" if section.sensitivities else "none",
            target=section.target,
        )

    def _order(self) -> ShapeBatchSampler:
        seed = self.recipe.training.seed
        return ShapeBatchSampler(self._training, self.recipe.data.batch_size, shuffle=True, seed=seed)

    def _batches(self, slices: SliceDataset, keys: Sampler[list[int]]) -> SizedStreamedBatches:
        return SizedStreamedBatches(ReadSlices(slices), keys, workers=self.section.workers, collate=self._collate)

    @property
    def _collate(self) -> Callable[[list[MRISlice]], Parcel]:
        width = self.section.context_width or None
        return partial(packed, acquisitions=self.section.acquisitions, context_features=width)


def _check(header: VolumeHeader, section: Scans) -> None:
    """Refuse a volume that cannot be learned from, before the first step and by its name."""
    expected = got = ""
    if header.coils != section.coils:
        expected, got = f"{section.coils} coils, as data.scans.coils has it", f"{header.coils}"
    elif section.target is None and header.target is None:
        expected, got = "a target to learn from, reconstruction_esc or reconstruction_rss", "a volume without"
    elif min(header.crop) < WINDOW:
        expected, got = f"targets of at least {WINDOW} x {WINDOW} pixels, the window of SSIM", f"{header.crop}"
    elif section.acquisitions and header.acquisition not in section.acquisitions:
        expected, got = f"an acquisition of {', '.join(section.acquisitions)}", header.acquisition
    if expected:
        raise DataError(f"{header.path}: expected {expected}, got {got}. Change the recipe, or move the volume away.")
