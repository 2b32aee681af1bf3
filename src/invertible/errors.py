"""Every error this library raises on purpose, and the import of optional dependencies."""

import importlib
from types import ModuleType
from typing import Any


class InvertibleError(Exception):
    """Base of all errors raised by `invertible`."""


class ShapeError(InvertibleError, ValueError):
    """A tensor has the wrong rank, size, dtype or device."""


class DomainError(InvertibleError, ValueError):
    """A tensor holds values outside the set on which a map is defined, or values that are not finite."""


class ConfigError(InvertibleError, ValueError):
    """An argument of a constructor, a recipe or a saved file is wrong."""


class DataError(InvertibleError, ValueError):
    """A data file is missing, damaged, or not what its name says."""


class NotInvertibleError(InvertibleError, ArithmeticError):
    """A computed inverse does not invert.

    Attributes:
        block: name of the block that lost the inverse, or `None` where it is not known.
        sample: index of the worst sample in the batch.
        error: its error, `inf` where it is not finite.
    """

    def __init__(
        self, message: str, *, block: str | None = None, sample: int | None = None, error: float | None = None
    ) -> None:
        super().__init__(message)
        self.block, self.sample, self.error = block, sample, error


class ConvergenceError(InvertibleError, ArithmeticError):
    """An iterative inverse stopped before its residual met the tolerance.

    Attributes:
        iterations: how many were run.
        residual: the worst residual reached.
    """

    def __init__(self, message: str, *, iterations: int | None = None, residual: float | None = None) -> None:
        super().__init__(message)
        self.iterations, self.residual = iterations, residual


class MissingDependencyError(InvertibleError, ImportError):
    """An optional package is not installed."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: name to import, such as `"sklearn.datasets"`.
        extra: the extra of this package that installs it.

    Raises:
        MissingDependencyError: with the install line, if the module's package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        if missing.partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingDependencyError(f"{missing} is not installed: run pip install 'invertible[{extra}]'.") from error


def choose(owner: str, argument: str, value: Any, table: dict[str, Any]) -> Any:  # noqa: ANN401
    """Look up a choice by name.

    Raises:
        ConfigError: naming the choices, if `value` is none of them.
    """
    if isinstance(value, str) and value in table:
        return table[value]
    raise ConfigError(f"{owner}: expected {argument} to be one of {', '.join(map(repr, table))}, got {value!r}.")


def require_positive(owner: str, **arguments: int) -> None:
    """Check that each argument is an integer of at least 1.

    Raises:
        ConfigError: naming the first one that is not.
    """
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{owner}: expected {name} to be an integer of at least 1, got {value!r}.")
