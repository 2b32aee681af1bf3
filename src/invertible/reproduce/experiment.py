"""What a reproduction is made of: runs that are measured, and claims, tables and figures of what they found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

# The part of a run that is done, in [0, 1].
Progress = Callable[[float], None]
QUICK, FULL = "quick", "full"
SCALES = (QUICK, FULL)


@dataclass(frozen=True)
class Run:
    """One piece of work, measured by itself: a network that is trained, say.

    Attributes:
        name: for progress and messages, such as `"affine, seed 1"`.
        config: what decides the result, the seed included, as JSON holds it; results are kept by it.
    """

    name: str
    config: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Measurement:
    """What a run measured.

    Attributes:
        numbers: numbers, texts, and lists and dictionaries of them.
        arrays: curves and pictures.
    """

    numbers: Mapping[str, Any]
    arrays: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Found:
    """A run and what it measured.

    Attributes:
        config: of the run.
        numbers: that it measured.
        arrays: that it measured.
        seconds: that it took, of processor time on a CPU.
    """

    config: Mapping[str, Any]
    numbers: Mapping[str, Any]
    arrays: Mapping[str, Tensor]
    seconds: float


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper, and whether it held.

    Attributes:
        text: the claim.
        holds: whether the measured figure lies within the tolerance.
        measured: the figure, with its unit, over how many seeds.
        tolerance: what the figure must be for the claim to hold.
        why: the reason, where it does not hold at this scale.
    """

    text: str
    holds: bool
    measured: str
    tolerance: str
    why: str = ""


@dataclass(frozen=True)
class Table:
    """Numbers as a person reads them.

    Attributes:
        title: what they are, with their units.
        head: names of the columns.
        rows: cells, as many as columns.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Experiment(ABC):
    """A figure or table of a paper that can be made again.

    Attributes:
        name: by which it is called.
        title: the claim, in one sentence.
        source: paper, year, and figure, table or section.
        version: to be raised when a change makes results that are kept wrong.
        alone: whether its runs measure time, so that nothing may run beside them.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    version: ClassVar[int] = 1
    alone: ClassVar[bool] = False

    @abstractmethod
    def departures(self, scale: str) -> Sequence[str]:
        """In what the settings differ from the paper's, a sentence each; nothing if they are the paper's."""

    @abstractmethod
    def runs(self, scale: str, seed: int) -> list[Run]:
        """What is to be measured, at the scale `"quick"` or `"full"`; statistical claims take seeds from `seed` on."""

    @abstractmethod
    def measure(self, config: Mapping[str, Any], device: str, progress: Progress) -> Measurement:
        """Measure one run. The result depends on the config alone, within the rounding of a device."""

    @abstractmethod
    def claims(self, found: Sequence[Found]) -> list[Claim]:
        """The claims, judged."""

    @abstractmethod
    def tables(self, found: Sequence[Found]) -> list[Table]:
        """What was measured."""

    @abstractmethod
    def figures(self, found: Sequence[Found]) -> Mapping[str, Any]:
        """Figures of matplotlib by name, drawn within `figures.style`."""
