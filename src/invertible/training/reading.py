"""Reading recipes: YAML, overrides, and messages that name the key, what it expects, and the nearest valid key."""

import difflib
import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from invertible.errors import ConfigError
from invertible.models import BUILDERS
from invertible.training.recipe import Recipe

EXPECTED = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
    "dict_type": "a section of keys",
    "model_type": "a section of keys",
    "model_attributes_type": "a section of keys",
    "list_type": "a list",
    "tuple_type": "a list",
    "sequence_type": "a list",
    "is_instance_of": "a list",
    "finite_number": "a finite number",
    "string_pattern_mismatch": "letters, digits, '.', '_' and '-'",
    "none_required": "null",
}
BOUNDS = {"greater_than": ("greater than", "gt"), "greater_than_equal": ("of at least", "ge"),
          "less_than": ("less than", "lt"), "less_than_equal": ("of at most", "le")}  # fmt: skip


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number; YAML 1.1 takes it for a string, having no dot in it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def parse_yaml(text: str, source: str) -> Any:  # noqa: ANN401
    """Read YAML without constructing anything but plain values.

    Raises:
        ConfigError: naming the place, if the text is no YAML.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{source}{where}: expected YAML, got something else: {problem}.") from error


def read_recipe(path: Path, overrides: Sequence[str] = (), *, source: str | None = None) -> Recipe:
    """Read a recipe from a YAML file.

    Args:
        path: the file.
        overrides: changes as `"section.key=value"`, the value in YAML.
        source: what to call it in messages; the path if `None`.

    Raises:
        ConfigError: one line that names the key, if the file is missing or anything in it is wrong.
    """
    if not path.is_file():
        raise ConfigError(
            f"{path}: expected a recipe in YAML, found no file. 'invertible recipes' lists those shipped."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected a recipe in YAML, got a file that is no UTF-8 text.") from error
    raw = parse_yaml(text, source or str(path))
    if isinstance(raw, dict):
        raw.setdefault("name", re.sub(r"[^A-Za-z0-9._-]", "-", path.stem))
    return parse_recipe(raw, overrides, source=source or str(path))


def parse_recipe(raw: object, overrides: Sequence[str] = (), *, source: str = "recipe") -> Recipe:
    """Check a recipe given as nested dictionaries.

    Args:
        raw: the sections.
        overrides: changes as `"section.key=value"`, the value in YAML.
        source: what to call it in messages.

    Raises:
        ConfigError: one line that names the key path, what it expects, and for an unknown key the nearest one.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(
            f"{source}: expected a recipe with the sections {', '.join(Recipe.model_fields)}, got {raw!r}."
        )
    for override in overrides:
        raw = _overridden(dict(raw), override)
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_message(source, error.errors(), Recipe)) from error
    _check_model(source, recipe)
    return recipe


def _overridden(raw: dict[str, Any], override: str) -> dict[str, Any]:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: expected section.key=value, such as optimizer.lr=1e-3.")
    value = parse_yaml(text, f"--set {override}")

    def put(node: object, keys: list[str]) -> dict[str, Any]:
        node = dict(node) if isinstance(node, Mapping) else {}
        node[keys[0]] = value if len(keys) == 1 else put(node.get(keys[0]), keys[1:])
        return node

    raw = put(raw, keys)
    # A length given here takes the place of the recipe's own, whichever of the two that is.
    other = {"training.epochs": "steps", "training.steps": "epochs"}.get(path.strip())
    if other is not None and value is not None:
        raw["training"].pop(other, None)
    return raw


def _check_model(source: str, recipe: Recipe) -> None:
    name, arguments = recipe.model.name, recipe.model.arguments
    if name not in BUILDERS:
        raise ConfigError(
            f"{source}: expected model.name to be one of {', '.join(BUILDERS)}, got {name!r}.{_nearest(name, BUILDERS)}"
        )
    # The hints are of builtin and typing names only; an annotation checked at run time keeps them on the original.
    function = inspect.unwrap(BUILDERS[name])
    hints = get_type_hints(function)
    known = list(inspect.signature(function).parameters)
    for key, value in arguments.items():
        where = f"model.arguments.{key}"
        if key not in known:
            raise ConfigError(
                f"{source}: {where} is unknown.{_nearest(key, known, 'model.arguments.')} "
                f"models.{name} takes {', '.join(known)}."
            )
        try:
            TypeAdapter(hints[key], config=ConfigDict(strict=True)).validate_python(value)
        except ValidationError as error:
            detail = error.errors()[-1] if len(error.errors()) == 1 else None
            expected = _hint_name(hints[key]) if detail is None or detail["loc"] else _expected(detail)
            raise ConfigError(f"{source}: {where}: expected {expected}, got {value!r}.") from error


def _hint_name(hint: object) -> str:
    text = hint.__name__ if isinstance(hint, type) else str(hint)
    for old, new in (
        ("collections.abc.Sequence[int]", "a list of integers"),
        ("int", "an integer"),
        (" | ", " or "),
        ("None", "null"),
    ):
        text = text.replace(old, new) if old != "int" else re.sub(r"\bint\b", new, text)
    return text


def _message(source: str, errors: Sequence[ErrorDetails], model: type[BaseModel]) -> str:
    # An unknown key explains a missing one next to it, so it is named first.
    ordered = sorted(errors, key=lambda each: each["type"] != "extra_forbidden")
    rest = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{source}: {_describe(ordered[0], model)}{rest}"


def _describe(error: ErrorDetails, model: type[BaseModel]) -> str:
    keys = [key for key in error["loc"] if isinstance(key, int | str)]
    path = ".".join(map(str, keys))
    if error["type"] == "extra_forbidden":
        parent, prefix = _section(model, keys[:-1]), "".join(f"{key}." for key in keys[:-1])
        names = list(parent.model_fields)
        owner, near = prefix.rstrip(".") or "A recipe", _nearest(str(keys[-1]), names, prefix)
        return f"{path} is unknown.{near} {owner} takes {', '.join(names)}."
    if error["type"] == "missing":
        return f"{path} is missing."
    if error["type"] == "value_error":
        return f"{path}: {error.get('ctx', {}).get('error')}.".removeprefix(": ")
    return f"{path}: expected {_expected(error)}, got {error['input']!r}."


def _expected(error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in BOUNDS:
        words, key = BOUNDS[kind]
        return f"a number {words} {context[key]}"
    if kind == "literal_error":
        return f"one of {context['expected'].replace(' or ', ', ')}"
    if kind in ("too_short", "too_long"):
        return f"a list of {context.get('min_length', context.get('max_length'))} items"
    return EXPECTED.get(kind, error["msg"].removeprefix("Input should be ").lower())


def _section(model: type[BaseModel], keys: Sequence[int | str]) -> type[BaseModel]:
    for key in keys:
        annotation = model.model_fields[str(key)].annotation
        # A section that may be left out is annotated `Section | None`.
        for each in (annotation, *get_args(annotation)):
            if isinstance(each, type) and issubclass(each, BaseModel):
                model = each
    return model


def _nearest(key: str, names: Sequence[str] | Mapping[str, object], prefix: str = "") -> str:
    close = difflib.get_close_matches(key.lower(), list(names), 1, 0.5)
    return f" Did you mean {prefix}{close[0]}?" if close else ""
