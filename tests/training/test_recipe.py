"""Recipes: what is accepted, and a line for everything that is not."""

import copy

import pytest
from pydantic import ValidationError

from invertible import recipes
from invertible.data import load
from invertible.errors import ConfigError, InvertibleError
from invertible.training import parse_recipe, read_recipe
from invertible.training.preparation import build_flow
from tests.training.tiny import DIGITS, MOONS, recipe

# Overrides, and what the message must hold: the key, what it expects, what came, the remedy.
WRONG = {
    "unknown section": (
        ["trainig.epochs=3"],
        ["trainig is unknown", "Did you mean training?", "takes name, about, model"],
    ),
    "unknown key": (["optimizer.lrr=1e-3"], ["optimizer.lrr is unknown", "Did you mean optimizer.lr?"]),
    "unknown key, nothing near": (["optimizer.zzz=1"], ["optimizer.zzz is unknown", "optimizer takes name, lr"]),
    "text for a number": (["optimizer.lr=fast"], ["optimizer.lr: expected a number, got 'fast'"]),
    "number in quotes": (["data.batch_size='64'"], ["data.batch_size: expected an integer, got '64'"]),
    "fraction for a count": (["data.batch_size=1.5"], ["data.batch_size: expected an integer, got 1.5"]),
    "flag for a count": (["data.batch_size=true"], ["data.batch_size: expected an integer, got True"]),
    "number for a flag": (["data.flip=1"], ["data.flip: expected true or false, got 1"]),
    "not positive": (["optimizer.lr=0"], ["optimizer.lr: expected a number greater than 0", "got 0"]),
    "too small": (["data.batch_size=0"], ["data.batch_size: expected a number of at least 1, got 0"]),
    "too large": (["training.ema=1.0"], ["training.ema: expected a number less than 1", "got 1.0"]),
    "not a number": (["optimizer.lr=.nan"], ["optimizer.lr: expected a", "got nan"]),
    "infinite": (["training.gradient_clip=.inf"], ["training.gradient_clip: expected a finite number, got inf"]),
    "no such choice": (["optimizer.name=adm"], ["optimizer.name: expected one of 'adam', 'adamw'", "got 'adm'"]),
    "no such precision": (["training.precision=fp8"], ["training.precision: expected one of '32-true'", "got 'fp8'"]),
    "scalar for a section": (["optimizer=3"], ["optimizer: expected a section of keys, got 3"]),
    "scalar for a list": (["optimizer.betas=0.9"], ["optimizer.betas: expected a list, got 0.9"]),
    "number in a list": (["optimizer.betas=[0.9, 2]"], ["optimizer.betas.1: expected a number less than 1", "got 2"]),
    "no length": (["training={}"], ["training: expected either epochs or steps, got neither"]),
    "two lengths": (["training={epochs: 1, steps: 2}"], ["training: expected either epochs or steps, got both"]),
    "missing section": (["model=null"], ["model: expected a section of keys, got None"]),
    "no such model": (["model.name=glwo"], ["expected model.name to be one of glow", "Did you mean glow?"]),
    "no such argument": (
        ["model.arguments.dept=3"],
        ["model.arguments.dept is unknown", "Did you mean model.arguments.depth?"],
    ),
    "text for an argument": (
        ["model.arguments.depth=deep"],
        ["model.arguments.depth: expected an integer, got 'deep'"],
    ),
    "flag for an argument": (["model.arguments.depth=true"], ["model.arguments.depth: expected an integer, got True"]),
    "bad name": (["name=a/b"], ["name: expected letters, digits", "got 'a/b'"]),
    "no equals sign": (["optimizer.lr"], ["--set optimizer.lr: expected section.key=value"]),
    "no key": (["=3"], ["expected section.key=value"]),
    "no YAML": (["optimizer.lr=[1"], ["--set optimizer.lr=[1", "expected YAML"]),
    "no such penalty": (
        ["training.penalty={kind: jacobian}"],
        ["training.penalty.kind: expected one of 'finite-difference'", "got 'jacobian'"],
    ),
    "the loss as a penalty": (
        ["training.penalty={kind: flow}"],
        ["training.penalty.kind: expected 'finite-difference', got 'flow', which is the loss"],
    ),
    "unknown key of a penalty": (
        ["training.penalty={weigth: 1}"],
        ["training.penalty.weigth is unknown", "Did you mean training.penalty.weight?", "training.penalty takes kind"],
    ),
    "no weight": (["training.penalty.weight=0"], ["training.penalty.weight: expected a number greater than 0"]),
    "scalar for a penalty": (["training.penalty=1e-4"], ["training.penalty: expected a section of keys, got 0.0001"]),
    "unknown key of the monitor": (
        ["training.monitor={evry: 5}"],
        ["training.monitor.evry is unknown", "Did you mean training.monitor.every?"],
    ),
    "no such answer to danger": (
        ["training.monitor.on_danger=panic"],
        ["training.monitor.on_danger: expected one of 'warn', 'stop', 'rollback', got 'panic'"],
    ),
    "no samples to watch": (
        ["training.monitor.samples=0"],
        ["training.monitor.samples: expected a number of at least 1, got 0"],
    ),
    "two errors": (["optimizer.lr=x", "data.flip=x"], ["(and 1 more)"]),
}


@pytest.mark.parametrize(("overrides", "expected"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_recipe_is_one_line(overrides, expected):
    with pytest.raises(ConfigError) as caught:
        recipe(DIGITS, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert "pydantic" not in message
    for part in expected:
        assert part in message


@pytest.mark.parametrize("raw", [None, 3, "text", [1]])
def test_a_recipe_is_a_mapping(raw):
    with pytest.raises(ConfigError, match="expected a recipe with the sections name, about, model"):
        parse_recipe(raw)


def test_a_missing_section_is_named():
    raw = copy.deepcopy(DIGITS)
    del raw["data"]
    with pytest.raises(ConfigError, match="data is missing"):
        parse_recipe(raw)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("2E+1", 20.0), ("1", 1), (".5e-2", 0.005), ("0.25", 0.25)]
)
def test_numbers_with_exponents_are_numbers(text, value):
    assert recipe(DIGITS, f"optimizer.lr={text}").optimizer.lr == value


def test_a_length_replaces_the_other():
    assert recipe(DIGITS, "training.steps=7").training.epochs is None
    assert recipe(DIGITS, "training.steps=7", "training.epochs=2").training.steps is None


def test_recipes_are_frozen():
    with pytest.raises(ValidationError):
        recipe(DIGITS).optimizer.lr = 3.0


@pytest.mark.parametrize("overrides", [[], ["training.penalty={}", "training.monitor={on_danger: stop}"]])
def test_a_recipe_survives_its_own_dump(overrides):
    made = recipe(MOONS, *overrides)
    assert parse_recipe(made.model_dump(mode="json")) == made


def test_files(tmp_path):
    with pytest.raises(ConfigError, match="found no file"):
        read_recipe(tmp_path / "none.yaml")
    path = tmp_path / "my recipe.yaml"
    path.write_text("model: {name: nice}\ndata: {name: moons}\ntraining: {steps: 1}\n")
    assert read_recipe(path).name == "my-recipe"
    path.write_text("model: {name: nice\ndata: [")
    with pytest.raises(ConfigError, match=r"my recipe.yaml, line \d+, column \d+: expected YAML"):
        read_recipe(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="no UTF-8"):
        read_recipe(path)
    path.write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(ConfigError, match="expected YAML"):
        read_recipe(path)


# Shipped.

NEEDED = {
    "digits-glow", "digits-glow-affine", "digits-realnvp", "digits-nice", "digits-glow-conditional", "fashion-mnist-glow",
    "mnist-glow", "cifar10-glow", "moons-realnvp", "moons-spline", "checkerboard-spline", "eight-gaussians-realnvp",
}  # fmt: skip


def test_all_are_shipped():
    assert set(recipes.names()) >= NEEDED


@pytest.mark.parametrize("name", recipes.names())
def test_shipped_recipes_are_valid_and_say_what_they_are(name):
    made = recipes.load(name)
    assert made.name == name
    assert made.about
    assert made.data.name in name or made.data.name.removesuffix("s") in name


@pytest.mark.parametrize(
    "name", [each for each in recipes.names() if not each.startswith(("mnist", "fashion", "cifar"))]
)
def test_shipped_recipes_build_their_model(name):
    made = recipes.load(name)
    data = load(made.data.name, **made.data.options)
    assert build_flow(made, data).levels == data.levels


def test_an_unknown_recipe_gets_a_hint():
    with pytest.raises(InvertibleError, match="Did you mean digits-glow"):
        recipes.load("digits_glow")
