"""Cuts what a reader found into train, validation and test."""

from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from invertible.data.dataset import DataSet, Split
from invertible.errors import ConfigError, DataError

# Test samples are drawn with this seed whatever the user's: models trained with other seeds are judged on the same
# samples, and changing the seed never moves a test sample into training.
TEST_SEED = 20_231


@runtime_checkable
class Samples(Protocol):
    """Samples that can be counted and chosen from, wherever they lie."""

    def __len__(self) -> int: ...

    def take(self, indices: Tensor) -> Any:  # noqa: ANN401
        """The samples at these indices (n,), in their order."""
        ...


AnySamples = TypeVar("AnySamples", bound=Samples)


@dataclass(frozen=True)
class Found:
    """What a reader found, cut as its files are cut.

    Attributes:
        train: all samples that belong to no other part.
        validation: the set's own validation part, if it has one.
        test: the set's own test part, if it has one.
        levels: number of grey levels of images; `None` for vectors.
        classes: name of each label; `None` without labels.
        source: where it comes from, citation and licence.
        columns: names of the features of vectors, where they have names.
    """

    train: Split
    source: str
    validation: Split | None = None
    test: Split | None = None
    levels: int | None = None
    classes: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Cut:
    """How to cut.

    Attributes:
        validation: part of the training samples set aside, 0 <= validation < 1, unless the set brings its own.
        test: part of all samples set aside if the set brings no test samples, 0 < test < 1; 0.1 if `None`.
        seed: of the choice of validation samples and of those kept by `limit`.
        limit: samples kept of each part, at most; all if `None`.
        standardise: shift and scale each feature of vectors to mean 0 and deviation 1 over the training samples.

    Raises:
        ConfigError: if a value is out of its range.
    """

    validation: float = 0.1
    test: float | None = None
    seed: int = 0
    limit: int | None = None
    standardise: bool = False

    def __post_init__(self) -> None:
        if not _is_number(self.validation) or not 0 <= self.validation < 1:
            raise ConfigError(
                f"data.load: expected validation to be a fraction of the samples, 0 <= validation < 1, got "
                f"{self.validation!r}."
            )
        if self.test is not None and (not _is_number(self.test) or not 0 < self.test < 1):
            raise ConfigError(
                f"data.load: expected test to be a fraction of the samples, 0 < test < 1, got {self.test!r}."
            )
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ConfigError(f"data.load: expected seed to be an integer, 0 <= seed < 2**63, got {self.seed!r}.")
        if self.limit is not None and (
            isinstance(self.limit, bool) or not isinstance(self.limit, int) or self.limit < 1
        ):
            raise ConfigError(f"data.load: expected limit to be None or an integer of at least 1, got {self.limit!r}.")
        if not isinstance(self.standardise, bool):
            raise ConfigError(f"data.load: expected standardise to be True or False, got {self.standardise!r}.")


def cut(name: str, found: Found, how: Cut) -> DataSet:
    """Cut into train, validation and test; the same samples in the same order for the same seed.

    Raises:
        ConfigError: if a test fraction is asked of a set that has its own test part, or images are to be standardised.
        DataError: if the samples are too few to be cut, or a feature to be standardised is constant.
    """
    train, test = _cut_test(name, found, how)
    train, validation = _cut_validation(name, found, train, how)
    parts = [
        keep(part, how.limit, seed) for part, seed in ((train, how.seed), (validation, how.seed), (test, TEST_SEED))
    ]
    if how.standardise:
        parts = _standardise(name, parts, found)
    return DataSet(name, *parts, levels=found.levels, classes=found.classes, source=found.source)


def _cut_test(name: str, found: Found, how: Cut) -> tuple[Split, Split]:
    if found.test is not None:
        if how.test is not None:
            raise ConfigError(
                f"data.load: expected no test=, since {name} has a test part of its own, got {how.test!r}. "
                "Leave it out."
            )
        return found.train, found.test
    return divide(name, found.train, 0.1 if how.test is None else how.test, TEST_SEED)


def _cut_validation(name: str, found: Found, train: Split, how: Cut) -> tuple[Split, Split]:
    if found.validation is not None:
        return train, found.validation
    return divide(name, train, how.validation, how.seed)


def divide(name: str, samples: AnySamples, fraction: float, seed: int) -> tuple[AnySamples, AnySamples]:
    """Set a fraction aside, at least one sample unless the fraction is 0, and at most all but one.

    Args:
        name: of the data, for the message.
        samples: what to divide.
        fraction: the part to set aside, 0 <= fraction < 1.
        seed: of the choice.

    Returns:
        What is left, and what was set aside.

    Raises:
        DataError: if nothing would be left.
    """
    aside = max(1, round(fraction * len(samples))) if fraction else 0
    if aside >= len(samples):
        raise DataError(
            f"{name}: expected enough samples to set a part of {fraction} of them aside, got {len(samples)}. "
            "Give more samples or a smaller fraction."
        )
    order = _order(len(samples), seed)
    return samples.take(order[aside:]), samples.take(order[:aside])


def keep(samples: AnySamples, limit: int | None, seed: int) -> AnySamples:
    """At most `limit` of the samples, chosen by the seed; all of them in their order if they are no more."""
    if limit is None or limit >= len(samples):
        return samples
    return samples.take(_order(len(samples), seed)[:limit])


def _order(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def _standardise(name: str, parts: list[Split], found: Found) -> list[Split]:
    if found.levels is not None:
        raise ConfigError(
            f"data.load: expected standardise=False, since {name} holds images, got True. Leave it out: "
            "flows of images work on the grey levels."
        )
    # In float64: the mean of 10^7 values loses digits in float32.
    train = parts[0].x.double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    constant = (train == train[:1]).all(0).nonzero().flatten().tolist()
    if constant:
        column = found.columns[constant[0]] if found.columns else f"number {constant[0]}"
        raise DataError(
            f"{name}: expected every feature to vary over the training samples, got a constant one, {column}. "
            "Leave it out, or load with standardise=False."
        )
    return [replace(part, x=((part.x.double() - mean) / deviation).float()) for part in parts]


def _is_number(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, (int, float)) and not isinstance(value, bool)
