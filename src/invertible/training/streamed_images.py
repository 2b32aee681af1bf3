"""Batches of samples that are read from their files while a model trains on them, and images as such samples."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from invertible.data.augment import EvaluationTransform, TrainingTransform
from invertible.data.folder import Part
from invertible.data.images import open_picture
from invertible.errors import ConfigError, InvertibleError
from invertible.training.batches import EvaluationBatches, TrainingBatches
from invertible.training.randomness import generator_for

# An epoch and the place of a sample in its part.
Key = tuple[int, int]
Sample = tuple[Tensor, int]


class PictureSamples(Dataset[Sample | InvertibleError]):
    """Images of a part, transformed; each a function of the seed, the epoch and the sample alone.

    Args:
        part: the images and their labels.
        transform: of one image.
        seed: of the random transforms.

    Raises:
        ConfigError: if there are no labels.
    """

    def __init__(self, part: Part, transform: TrainingTransform | EvaluationTransform, seed: int) -> None:
        if part.y is None:
            raise ConfigError("PictureSamples: expected images with labels, one subfolder a class, got none.")
        self.part, self.labels, self.transform, self.seed = part, part.y, transform, seed

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, key: Key) -> Sample | InvertibleError:
        """Sample `index` of an epoch and its label, or the error of a file that cannot be read."""
        epoch, index = key
        try:
            picture = open_picture(self.part.file(index))
        except InvertibleError as error:
            # Raised here, the loader would wrap it in the traceback of its process.
            return error
        if isinstance(self.transform, EvaluationTransform):
            x = self.transform(picture)
        else:
            x = self.transform(picture, generator_for("cpu", "augment", self.seed, epoch, index))
        return x, int(self.labels[index])


class TrainingKeys(Sampler[list[Key]]):
    """The samples of every batch of a training stream, each with its epoch.

    Args:
        order: a stream of batches of indices.
    """

    def __init__(self, order: TrainingBatches) -> None:
        self.order = order

    def __iter__(self) -> Iterator[list[Key]]:
        for step, (rows, *_) in enumerate(self.order, self.order.start):
            epoch = step // self.order.steps_per_epoch
            yield [(epoch, index) for index in rows.tolist()]


class EvaluationKeys(Sampler[list[Key]]):
    """The samples of every batch of an evaluation.

    Args:
        order: batches of indices.
    """

    def __init__(self, order: EvaluationBatches) -> None:
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[list[Key]]:
        for rows, *_ in self.order:
            yield [(0, index) for index in rows.tolist()]


class StreamedBatches:
    """Batches read by other processes ahead of their use; of images (x, y), uint8 (B, C, H, W) and int64 (B,).

    The numbers do not depend on how many processes read. Nothing is drawn from torch's own generator.

    Args:
        samples: the images or other samples; in place of one that cannot be read, the error.
        keys: which of them make each batch.
        workers: processes that read; 0 reads in this one.
        pin_memory: have the batches where a GPU can fetch them by itself.
        collate: makes a batch of a list of samples.

    Raises:
        DataError: while iterating, naming the first file that cannot be read.
    """

    persistent: ClassVar[bool] = False

    def __init__(
        self,
        samples: Dataset[Any],
        keys: Sampler[list[Any]],
        *,
        workers: int,
        pin_memory: bool = False,
        collate: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        self.loader: Iterable[Any] = DataLoader(
            samples,
            batch_sampler=keys,
            num_workers=workers,
            collate_fn=partial(_collate, collate or _pair),
            pin_memory=pin_memory,
            worker_init_fn=_leave_signals_to_the_run,
            persistent_workers=self.persistent and workers > 0,
            # The loader draws a seed for its processes whenever it is iterated, by default from torch's own generator.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            if isinstance(batch, InvertibleError):
                raise batch
            yield batch


class SizedStreamedBatches(StreamedBatches):
    """Streamed batches that come to an end; `len` is their number. The processes stay for the next time."""

    persistent: ClassVar[bool] = True

    def __init__(
        self,
        samples: Dataset[Any],
        keys: Sampler[list[Any]],
        *,
        workers: int,
        pin_memory: bool = False,
        collate: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        super().__init__(samples, keys, workers=workers, pin_memory=pin_memory, collate=collate)
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)  # pyright: ignore[reportArgumentType]


def _collate(collate: Callable[[list[Any]], Any], samples: list[Any]) -> Any:  # noqa: ANN401
    errors = [each for each in samples if isinstance(each, InvertibleError)]
    return errors[0] if errors else collate(samples)


def _pair(samples: list[Sample]) -> tuple[Tensor, Tensor]:
    x, y = default_collate(samples)
    return x, y


def _leave_signals_to_the_run(worker: int) -> None:
    # Ctrl-C in a terminal and SIGTERM of a cluster reach all processes. The run ends its step and then these; were they
    # to end at once, the step could not.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_run_says, daemon=True).start()


def _end_when_the_run_says() -> None:
    # At its own end the run sends SIGTERM, too, and waits.
    run = os.getppid()
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != run:
        pass
    os._exit(0)
