"""Annotations of the package checked at run time: every function is decorated by beartype as it is imported."""

import ast
import random
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from unittest.mock import patch

# Of a sequence beartype checks one item, drawn at random: from a generator of its own, for tests watch Python's.
with patch("random.getrandbits", random.Random(0).getrandbits):
    from beartype import BeartypeConf, beartype

NAME = "__check_types__"


class WrongTypeWarning(UserWarning):
    """A value does not fit its annotation: an error, as every warning of ours is, but where a test lets it pass."""


# An int may stand where a float is annotated, as PEP 484 has it and as every caller writes it.
check_types = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=WrongTypeWarning))


class Decorating(ast.NodeTransformer):
    """Puts the check next to each function, below its other decorators, which may change what it returns.

    Unlike `beartype.claw` it leaves classes as they are: of named tuples whose annotations are postponed, beartype does
    not find the module.
    """

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        """Decorate a function, and those inside it."""
        self.generic_visit(node)
        node.decorator_list.append(ast.copy_location(ast.Name(NAME, ast.Load()), node))
        return node


class CheckedLoader(SourceFileLoader):
    """Compiles a module with its functions decorated, and keeps that bytecode beside the module's own."""

    def source_to_code(self, data: bytes | str, path: str, **options: object) -> CodeType:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The decorated module's code."""
        return compile(Decorating().visit(ast.parse(data, path)), path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module with the decorator in reach."""
        setattr(module, NAME, check_types)
        super().exec_module(module)

    def get_data(self, path: str) -> bytes:
        """Bytecode from the name of its own."""
        return super().get_data(_own(path))

    def set_data(self, path: str, data: bytes, **options: int) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Bytecode under the name of its own."""
        super().set_data(_own(path), data, **options)


def _own(path: str) -> str:
    return path.removesuffix(".pyc") + ".checked.pyc" if path.endswith(".pyc") else path


class CheckedFinder:
    """Finds the package's modules, and has them loaded with checks.

    Args:
        package: name of the package.
    """

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's spec, or nothing for others' modules."""
        if name.partition(".")[0] != self.package:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = CheckedLoader(spec.loader.name, spec.loader.path)
        return spec


def install(package: str) -> None:
    """Check a package's annotations from now on.

    Raises:
        RuntimeError: if the package was imported before.
    """
    if package in sys.modules:
        raise RuntimeError(f"{package} was imported before its annotations could be checked.")
    sys.meta_path.insert(0, CheckedFinder(package))
