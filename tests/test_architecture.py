"""The package's structure: imports point down, without rings; files, functions and signatures stay small.

Everything is read off the source with `ast`; nothing is imported. An import counts wherever it stands: at the
top, inside a function, under `TYPE_CHECKING`, or as a string handed to `import_module`.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "invertible"
FACE = "invertible"

# A unit is a module or a package right under `invertible`. A module may import units of lower levels.
LEVELS = {
    unit: level
    for level, units in enumerate(
        [
            "errors shapes rounding norms solvers without_log_det image_metrics modes",
            "ball bijection partition distributions dequantize memory module_step steps physics",
            "fusion chain sequential flow classifier",
            "blocks stability testing",
            "models data saving representations",
            "training reports auditing reconstruction",
            "__main__ cli demo recipes reproduce",
        ]
    )
    for unit in units.split()
}
# Units of one level may import each other below this one; from it on they may not, but for those named here.
APART_FROM = 3
ALLOWED_SIBLINGS = {
    ("saving", "models"),
    ("auditing", "reports"),
    ("cli", "demo"),
    ("cli", "recipes"),
    ("cli", "reproduce"),
    ("demo", "recipes"),
    ("__main__", "cli"),
}
# Imports that the levels would permit.
FORBIDDEN = {
    ("reports", "models"): "a report is made from records; write what it needs into the record",
    ("reports", "flow"): "a report is made from records; write what it needs into the record",
}
# Only what a person types stands above the public face and may import it.
ABOVE_THE_FACE = max(LEVELS.values())

FILE_LINES, FILE_LINES_EVER = 300, 400
FUNCTION_LINES = 60
PARAMETERS, BUILDER_PARAMETERS, BUILDER_POSITIONAL = 8, 14, 2
# Files over FILE_LINES and their length, as {"blocks/coupling.py": 320}. Lengths and list may only shrink.
LONG_FILES: dict[str, int] = {}
# Functions in models/ and constructors in blocks/ that take more than PARAMETERS, as "invertible.models.glow.glow".
BUILDERS = {
    "invertible.models.ffjord.ffjord",
    "invertible.models.glow.glow",
    "invertible.models.irim.irim",
    "invertible.models.iresnet.iresnet",
    "invertible.models.irevnet.irevnet",
    "invertible.models.realnvp.realnvp",
    "invertible.models.residual_flow.residual_flow",
    "invertible.blocks.affine.AffineCoupling.__init__",
    "invertible.blocks.coupling.Coupling.__init__",
    "invertible.blocks.splines.SplineCoupling.__init__",
}


@dataclass(frozen=True)
class Module:
    name: str
    source: str
    is_package: bool = False

    @property
    def unit(self) -> str:
        return unit_of(self.name)

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, self.name)


@dataclass(frozen=True)
class Import:
    target: str
    line: int


def unit_of(name: str) -> str:
    """The part after `invertible.`; empty for the package itself."""
    return name.removeprefix(FACE).removeprefix(".").partition(".")[0]


def read_package(root: Path) -> dict[str, Module]:
    modules = {}
    for path in sorted(root.rglob("*.py")):
        parts = (FACE, *path.relative_to(root).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        modules[name] = Module(name, path.read_text(encoding="utf-8"), is_package)
    return modules


def absolute(module: Module, dots: int, name: str) -> str:
    """The full name of a module imported with `dots` leading dots."""
    if dots == 0:
        return name
    parts = module.name.split(".")
    package = parts[: len(parts) - dots + module.is_package]
    return ".".join([*package, name] if name else package)


def dynamic_target(module: Module, call: ast.Call) -> str | None:
    """The module that `import_module("...")`, `__import__("...")` or `require("...")` names literally."""
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
    if function not in {"import_module", "__import__", "require"} or not call.args:
        return None
    match call.args[0]:
        case ast.Constant(value=str(name)):
            bare = name.lstrip(".")
            return absolute(module, len(name) - len(bare), bare)
    return None


def imports(module: Module, known: dict[str, Module]) -> list[Import]:
    """Every import of the package by one of its modules, wherever it stands; each target once a line."""

    def targets(node: ast.AST) -> Iterator[str]:
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=base, names=names, level=dots):
                base = absolute(module, dots, base or "")
                for alias in names:
                    submodule = f"{base}.{alias.name}"
                    yield submodule if submodule in known else base
            case ast.Call():
                target = dynamic_target(module, node)
                if target:
                    yield target

    found = {
        Import(target, node.lineno)
        for node in ast.walk(module.tree)
        for target in targets(node)
        if target.partition(".")[0] == FACE and target != module.name
    }
    return sorted(found, key=lambda each: (each.line, each.target))


def wrong_import(importer: str, target: str) -> str | None:
    """Why a module may not import another, and what to do; `None` if it may."""
    a, b = unit_of(importer), unit_of(target)
    if importer == FACE or a == b:
        return None
    if target == FACE:
        if LEVELS[a] >= ABOVE_THE_FACE:
            return None
        return "imports the public face, which imports it; import the name from the module that defines it"
    if b not in LEVELS:
        return f"imports {target}, which has no level; give {b!r} one in LEVELS"
    if (a, b) in FORBIDDEN:
        return f"imports {target}; {FORBIDDEN[a, b]}"
    if LEVELS[b] > LEVELS[a]:
        return (
            f"imports {target}, up from level {LEVELS[a]} to {LEVELS[b]}; move what both need down, "
            "or hand it in as an argument"
        )
    if LEVELS[a] == LEVELS[b] >= APART_FROM and (a, b) not in ALLOWED_SIBLINGS:
        return (
            f"imports {target}, its sibling on level {LEVELS[a]}; move what both need down, "
            "or name the pair in ALLOWED_SIBLINGS and say why"
        )
    return None


def wrong_imports(module: Module, known: dict[str, Module]) -> list[str]:
    reasons = [(each.line, wrong_import(module.name, each.target)) for each in imports(module, known)]
    return [f"{module.name}, line {line}: {reason}." for line, reason in reasons if reason]


def ring(modules: dict[str, Module]) -> list[str]:
    """The modules of one import ring, the first one again at the end; empty if there is none."""
    graph = {
        name: {each.target for each in imports(module, modules) if each.target in modules}
        for name, module in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return []


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(module: Module) -> Iterator[tuple[str, Function]]:
    """Every function with its full name, methods and nested ones too."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
        for child in ast.iter_child_nodes(node):
            name = f"{prefix}.{child.name}" if isinstance(child, Function | ast.ClassDef) else prefix
            if isinstance(child, Function):
                yield name, child
            yield from walk(child, name)

    return walk(module.tree, module.name)


def code_lines(function: Function) -> int:
    """Lines from `def` to the end without the docstring: formulas and references make nothing complicated."""
    first = function.body[0]
    docstring = 0
    if ast.get_docstring(function) is not None and first.end_lineno is not None:
        docstring = first.end_lineno - first.lineno + 1
    return (function.end_lineno or function.lineno) - function.lineno + 1 - docstring


def parameters(function: Function) -> tuple[int, int]:
    """Number of all parameters and of those that may be given by position, without `self` and `cls`."""
    args = function.args
    positional = [*args.posonlyargs, *args.args]
    if positional and positional[0].arg in {"self", "cls"}:
        positional = positional[1:]
    rest = len(args.kwonlyargs) + (args.vararg is not None) + (args.kwarg is not None)
    return len(positional) + rest, len(positional)


def too_many_parameters(name: str, function: Function, builders: set[str]) -> str | None:
    total, positional = parameters(function)
    if name not in builders:
        if total <= PARAMETERS:
            return None
        return (
            f"{name} takes {total} parameters, {PARAMETERS} at most; gather those that belong together "
            "into a dataclass, or name a builder of models in BUILDERS."
        )
    if unit_of(name) not in {"models", "blocks"}:
        return f"{name} stands in BUILDERS but not in models/ or blocks/; those alone may take more."
    if total > BUILDER_PARAMETERS:
        return f"{name} takes {total} parameters, a builder {BUILDER_PARAMETERS} at most."
    if positional > BUILDER_POSITIONAL:
        return f"{name} takes {positional} by position; make all but {BUILDER_POSITIONAL} keyword-only."
    return None


def wrong_length(path: str, lines: int, long_files: dict[str, int]) -> str | None:
    allowed = long_files.get(path)
    if lines > FILE_LINES_EVER:
        return f"{path} has {lines} lines, none may have more than {FILE_LINES_EVER}; split it by idea."
    if allowed is None:
        return f"{path} has {lines} lines, {FILE_LINES} at most; split it by idea." if lines > FILE_LINES else None
    if lines <= FILE_LINES:
        return f"{path} has {lines} lines and needs no exception any more; delete it from LONG_FILES."
    if lines > allowed:
        return f"{path} has grown from {allowed} to {lines} lines; split it by idea. LONG_FILES only shrinks."
    if lines < allowed:
        return f"{path} has shrunk from {allowed} to {lines} lines; write {lines} into LONG_FILES."
    return None


MODULES = read_package(SOURCE)
each_module = pytest.mark.parametrize("module", MODULES.values(), ids=MODULES.keys())
each_file = pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))


@each_module
def test_every_unit_has_a_level(module):
    assert module.name == FACE or module.unit in LEVELS, f"{module.name}: give {module.unit!r} a level in LEVELS."


@each_module
def test_imports_point_down(module):
    if module.name != FACE and module.unit not in LEVELS:
        pytest.skip("has no level: test_every_unit_has_a_level says so")
    found = wrong_imports(module, MODULES)
    assert not found, "\n".join(found)


def test_no_import_rings():
    found = ring(MODULES)
    assert not found, f"Import ring: {' -> '.join(found)}. Move what they share into a module that imports neither."


@each_file
def test_files_are_short(path):
    reason = wrong_length(path.relative_to(SOURCE).as_posix(), len(path.read_text().splitlines()), LONG_FILES)
    assert reason is None, reason


@each_module
def test_functions_are_short(module):
    found = [
        f"{name} (line {function.lineno}) has {code_lines(function)} lines without its docstring, "
        f"{FUNCTION_LINES} at most; split it."
        for name, function in functions(module)
        if code_lines(function) > FUNCTION_LINES
    ]
    assert not found, "\n".join(found)


@each_module
def test_signatures_are_short(module):
    found = [too_many_parameters(name, function, BUILDERS) for name, function in functions(module)]
    assert not any(found), "\n".join(filter(None, found))


def test_exceptions_are_still_needed():
    for path in LONG_FILES:
        assert (SOURCE / path).is_file(), f"{path} is gone; delete it from LONG_FILES."
    long = {
        name
        for module in MODULES.values()
        for name, function in functions(module)
        if parameters(function)[0] > PARAMETERS
    }
    assert long >= BUILDERS, f"Delete from BUILDERS what needs no exception: {sorted(BUILDERS - long)}."


# The checks themselves, on small packages given as {module: source}.


def package(**sources: str) -> dict[str, Module]:
    """Modules under `invertible`: a double underscore stands for a dot, `face` for the package itself."""
    named = {f"{FACE}.{name.replace('__', '.')}" if name != "face" else FACE: s for name, s in sources.items()}
    return {
        name: Module(name, source, is_package=any(other.startswith(f"{name}.") for other in named))
        for name, source in named.items()
    }


UPWARD = {
    "absolute": "from invertible.models.glow import glow",
    "module": "import invertible.models.glow as m",
    "submodule": "from invertible.models import glow",
    "face": "from invertible import models",
    "relative": "from ..models import glow",
    "inside a function": "def f():\n    from invertible.models import glow",
    "for types only": "if TYPE_CHECKING:\n    from invertible.models import glow",
    "by name": "import importlib\nimportlib.import_module('invertible.models')",
    "by relative name": "from importlib import import_module\nimport_module('..models', __package__)",
}


@pytest.mark.parametrize("source", UPWARD.values(), ids=UPWARD.keys())
def test_an_upward_import_is_caught(source):
    modules = package(face="", blocks="", blocks__coupling=source, models="", models__glow="")
    (message,) = wrong_imports(modules["invertible.blocks.coupling"], modules)
    assert f"line {len(source.splitlines())}:" in message
    assert "up from level 3 to 4" in message


@pytest.mark.parametrize(
    ("importer", "target", "expected"),
    [
        ("blocks.coupling", "bijection", None),
        ("blocks.coupling", "blocks.nets", None),
        ("bijection", "partition", None),
        ("saving", "models.glow", None),
        ("training.module", "stability.penalties", None),
        ("cli.main", "demo", None),
        ("stability.audit", "blocks.coupling", "sibling"),
        ("models.glow", "data.digits", "sibling"),
        ("models.glow", "saving", "sibling"),
        ("reports.page", "models.glow", "made from records"),
        ("reports.page", "flow", "made from records"),
        ("chain", "novelty", "no level"),
    ],
)
def test_what_may_import_what(importer, target, expected):
    reason = wrong_import(f"{FACE}.{importer}", f"{FACE}.{target}")
    assert (reason is None) if expected is None else (reason is not None and expected in reason)


def test_the_face_is_imported_from_the_top_level_alone():
    assert "public face" in (wrong_import("invertible.auditing", FACE) or "")
    assert wrong_import("invertible.cli", FACE) is None
    assert wrong_import(FACE, "invertible.auditing") is None


def test_imports_of_others_are_none_of_ours():
    modules = package(chain="import torch\nfrom invertible_extras import x\nimport_module('models')")
    assert imports(modules["invertible.chain"], modules) == []


@pytest.mark.parametrize(
    "back",
    [
        "from invertible.chain import Chain",
        "def f():\n    from invertible.chain import Chain",
        "if TYPE_CHECKING:\n    from .chain import Chain",
        "from importlib import import_module\nimport_module('invertible.chain')",
    ],
    ids=["plain", "lazy", "for types only", "by name"],
)
def test_a_ring_is_caught(back):
    found = ring(package(chain="from invertible.flow import Flow", flow=back))
    assert set(found) == {"invertible.chain", "invertible.flow"}
    assert found[0] == found[-1]


def test_a_ring_of_three_is_caught_and_a_diamond_is_none():
    assert (
        len(ring(package(chain="from . import flow", flow="from . import memory", memory="import invertible.chain")))
        == 4
    )
    assert (
        ring(
            package(
                chain="from . import flow, memory",
                flow="from . import shapes",
                memory="from . import shapes",
                shapes="",
            )
        )
        == []
    )


def test_a_ring_through_the_package_of_a_module_is_caught():
    modules = package(blocks="from .coupling import Coupling", blocks__coupling="from invertible.blocks import Scale")
    assert ring(modules)


def function_of(source: str) -> Function:
    (node,) = ast.parse(source).body
    assert isinstance(node, Function)
    return node


def test_length_is_counted_without_the_docstring():
    assert code_lines(function_of('def f():\n    """One.\n\n    Two.\n    """\n    return 1')) == 2
    assert code_lines(function_of("def f(\n    x,\n):\n    return x")) == 4


@pytest.mark.parametrize(
    ("signature", "counts"),
    [("", (0, 0)), ("self, a, /, b", (2, 2)), ("cls, a, *args, b, **rest", (4, 1)), ("a, *, b, c", (3, 1))],
)
def test_parameters_are_counted_without_self(signature, counts):
    assert parameters(function_of(f"def f({signature}): ...")) == counts


def test_long_signatures_are_caught():
    nine = function_of(f"def f(a, *, {', '.join(f'b{i}' for i in range(8))}): ...")
    many = function_of(f"def f(a, *, {', '.join(f'b{i}' for i in range(14))}): ...")
    by_position = function_of(f"def f({', '.join(f'b{i}' for i in range(9))}): ...")
    builders = {"invertible.models.f", "invertible.chain.f"}
    assert "BUILDERS" in (too_many_parameters("invertible.models.f", nine, set()) or "")
    assert too_many_parameters("invertible.models.f", nine, builders) is None
    assert "not in models/ or blocks/" in (too_many_parameters("invertible.chain.f", nine, builders) or "")
    assert "14 at most" in (too_many_parameters("invertible.models.f", many, builders) or "")
    assert "keyword-only" in (too_many_parameters("invertible.models.f", by_position, builders) or "")


@pytest.mark.parametrize(
    ("lines", "allowed", "expected"),
    [
        (300, None, None),
        (301, None, "split"),
        (350, 350, None),
        (351, 350, "grown"),
        (349, 350, "write 349"),
        (300, 350, "delete"),
        (401, 401, "none may"),
    ],
)
def test_file_lengths(lines, allowed, expected):
    reason = wrong_length("a.py", lines, {} if allowed is None else {"a.py": allowed})
    assert (reason is None) if expected is None else (reason is not None and expected in reason)
