"""All looks inside a model in one call."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from invertible.errors import ConfigError, NotInvertibleError, require_positive
from invertible.representations.contraction import Contraction, contraction
from invertible.representations.dimension import Dimension, dimension
from invertible.representations.features import Labelled
from invertible.representations.interpolation import Interpolation, interpolation
from invertible.representations.inverse_error import InverseErrors, inverse_error
from invertible.representations.layers import layers
from invertible.representations.plain import plain
from invertible.representations.separation import Separation, separation
from invertible.representations.spectrum import DENSE, JacobianSpectrum, spectrum
from invertible.stability.sections import Progress, silent
from invertible.stability.subject import seeded

LOOKS = ("separation", "contraction", "dimension", "spectrum", "interpolation", "inverse_error")


@dataclass(frozen=True)
class LookOptions:
    """How much of everything `inspect` takes.

    Attributes:
        looks: which of `LOOKS`.
        depths: at most so many, evenly spaced, for what is measured by depth.
        pooling: of the features of the separation, `"mean"` or `"flatten"`.
        train: samples to learn from, at most.
        test: samples to score, at most; half of it for distances.
        samples: samples of the inverse errors; a quarter of it for Jacobians.
        pairs: pairs of the interpolation.
        steps: of the interpolation.

    Raises:
        ConfigError: if a number is not positive, or a look unknown.
    """

    looks: tuple[str, ...] = LOOKS
    depths: int = 16
    pooling: str = "mean"
    train: int = 4000
    test: int = 1000
    samples: int = 32
    pairs: int = 4
    steps: int = 9

    def __post_init__(self) -> None:
        names = ("depths", "train", "test", "samples", "pairs", "steps")
        require_positive("inspect", **{name: getattr(self, name) for name in names})
        unknown = sorted(set(self.looks) - set(LOOKS))
        if unknown or not self.looks:
            raise ConfigError(f"inspect: expected looks among {', '.join(LOOKS)}, got {unknown or 'none'}.")


@dataclass(frozen=True)
class Representations:
    """What was seen; `None` where a look was left out or is not available.

    Attributes:
        layers: names of the model's layers.
        missing: why looks that were asked for are not available, by name.
        separation: accuracies by depth.
        contraction: distances by depth.
        dimension: principal components by depth.
        spectrum: singular values of the Jacobian.
        interpolation: between pairs of samples.
        inverse_error: of the inverse, by depth.
    """

    layers: tuple[str, ...]
    missing: dict[str, str]
    separation: Separation | None = None
    contraction: Contraction | None = None
    dimension: Dimension | None = None
    spectrum: JacobianSpectrum | None = None
    interpolation: Interpolation | None = None
    inverse_error: InverseErrors | None = None

    def __str__(self) -> str:
        """All tables, one below the other."""
        parts = [f"{len(self.layers)} layers"]
        for name in LOOKS:
            title = name.replace("_", " ")
            if name in self.missing:
                parts.append(f"{title}: not available\n{self.missing[name]}")
            elif getattr(self, name) is not None:
                parts.append(f"{title}\n{getattr(self, name)}")
        return "\n\n".join(parts)

    @property
    def non_finite(self) -> int:
        """Samples whose inverse or Jacobian is not finite, over all looks."""
        count = 0 if self.interpolation is None else self.interpolation.non_finite
        if self.spectrum is not None:
            count += int((~self.spectrum.values[:, 0].isfinite()).sum())
        for point in () if self.inverse_error is None else self.inverse_error.points:
            count = max(count, 0 if point.way_back is None else point.way_back.non_finite)
        return count

    def to_dict(self) -> dict[str, Any]:
        """Dictionaries, lists, strings, finite numbers and `None`: what strict JSON can hold. Images are left out."""
        found = {name: plain(getattr(self, name), leave_out=("images", "pixels")) for name in LOOKS}
        return {"layers": list(self.layers), "missing": self.missing, **found}

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_dict` to a file, under a temporary name that is then renamed."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(self.to_dict(), allow_nan=False, indent=1) + "\n", encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return path


class InspectionInterrupted(KeyboardInterrupt):
    """An inspection was stopped.

    Args:
        found: what was seen until then.
    """

    def __init__(self, found: Representations) -> None:
        super().__init__("interrupted")
        self.found = found


def inspect(
    model: nn.Module,
    train: Labelled,
    test: Labelled,
    *,
    options: LookOptions | None = None,
    generator: torch.Generator | int | None = None,
    progress: Progress = silent,
) -> Representations:
    """Look into a model: every function of this package on it, with samples drawn from the data.

    Looks that need an inverse are `missing` where the model has none.

    Args:
        model: a `Classifier`, `Flow`, `Sequential` or `Bijection`; undisturbed.
        train: samples to learn from, for separation and dimension.
        test: samples to look at.
        options: which looks, and how much of everything; all of them if `None`.
        generator: a generator or a seed for the choice of samples; seed 0 if `None`.
        progress: told what comes next, as by an audit.

    Raises:
        ConfigError: if the model has no layers, or an option is out of its range.
        DomainError: if features are not finite.
        InspectionInterrupted: on Ctrl-C, with what was seen until then.
        MissingDependencyError: if scikit-learn is not installed, for separation and dimension.

    Example:
        >>> found = inspect(model, Labelled(train.x, train.y), Labelled(test.x, test.y))
        >>> print(found)
        >>> found.to_json("inspect.json")
    """
    options = options or LookOptions()
    names, source = tuple(layer.name for layer in layers(model)), seeded(generator)
    train, test = train.take(options.train, source), test.take(options.test, source)
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    looks = _looks(model, train, test, options, source)
    wanted = [name for name in LOOKS if name in options.looks]
    try:
        for index, name in enumerate(wanted):
            progress(name.replace("_", " "), "", index, len(wanted))
            try:
                found[name] = looks[name](_within(progress, name, index, len(wanted)))
            except NotInvertibleError as error:
                missing[name] = str(error)
    except KeyboardInterrupt:
        raise InspectionInterrupted(Representations(names, missing, **found)) from None
    return Representations(names, missing, **found)


Told = Callable[[str, int, int], object]


def _within(progress: Progress, name: str, index: int, total: int) -> Told:
    def tell(detail: str, _done: int, _of: int) -> None:
        progress(name.replace("_", " "), detail, index, total)

    return tell


def _looks(
    model: nn.Module, train: Labelled, test: Labelled, options: LookOptions, source: torch.Generator
) -> dict[str, Callable[[Told], Any]]:
    few = test.take(options.samples, source)
    fewer = test.take(max(1, options.samples // 4), source)
    ends = _pairs(test, options.pairs)
    depths = max(2, options.depths)
    return {
        "separation": lambda tell: separation(
            model, train, test, depths=depths, pooling=options.pooling, progress=tell
        ),
        "contraction": lambda _: contraction(
            model, test, depths=depths, samples=max(4, options.test // 2), generator=source
        ),
        "dimension": lambda tell: dimension(model, train, test, depths=depths, progress=tell),
        "spectrum": lambda _: _spectrum(model, fewer),
        "interpolation": lambda _: interpolation(model, ends.x, ends.y, condition=ends.condition, steps=options.steps),
        "inverse_error": lambda _: inverse_error(model, few.x, condition=few.condition, depths=depths),
    }


def _spectrum(model: nn.Module, data: Labelled) -> JacobianSpectrum:
    try:
        return spectrum(model, data.x, condition=data.condition)
    except ConfigError as error:
        if data.x[0].numel() <= DENSE:
            raise
        raise NotInvertibleError(str(error)) from error


def _pairs(data: Labelled, pairs: int) -> Labelled:
    """Pairs of samples of different classes, as far as there are any, in the order of the data."""
    rows: list[int] = []
    waiting: Sequence[int] = list(range(len(data)))
    while len(waiting) >= 2 and len(rows) < 2 * pairs:
        first = waiting[0]
        second = next((each for each in waiting[1:] if data.y[each] != data.y[first]), waiting[1])
        rows += [first, second]
        waiting = [each for each in waiting if each not in (first, second)]
    chosen = torch.tensor(rows, dtype=torch.long, device=data.x.device)
    return Labelled(data.x[chosen], data.y[chosen], None if data.condition is None else data.condition[chosen])
