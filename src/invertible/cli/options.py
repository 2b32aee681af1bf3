"""Options as dataclasses: a command takes one argument, however many options it has."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

Options = TypeVar("Options")


def command(options: type[Options]) -> Callable[[Callable[[Options], None]], Callable[..., None]]:
    """Turn a function of a dataclass into the function of keywords that typer reads.

    Args:
        options: a dataclass whose fields are annotated with `typer.Option` or `typer.Argument`.
    """
    hints = get_type_hints(options, include_extras=True)

    def decorate(function: Callable[[Options], None]) -> Callable[..., None]:
        def run(**values: Any) -> None:  # noqa: ANN401
            function(options(**values))

        parameters = [
            inspect.Parameter(
                each.name, inspect.Parameter.KEYWORD_ONLY, annotation=hints[each.name], default=_default(each.default)
            )
            for each in fields(options)  # pyright: ignore[reportArgumentType]
        ]
        run.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        return run

    return decorate


def _default(value: object) -> object:
    return inspect.Parameter.empty if value is MISSING else value
