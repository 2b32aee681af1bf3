"""Recipes: what is accepted, and a line for everything that is not."""

import copy

import pytest
import torch
from pydantic import ValidationError

from invertible import recipes
from invertible.data import load
from invertible.errors import ConfigError, InvertibleError
from invertible.training import parse_recipe, read_recipe
from invertible.training.classifier_data import ClassifierData
from invertible.training.preparation import build_classifier, build_flow
from invertible.training.schedules import factor
from tests.training.tiny import DIGITS, MOONS, REVNET, recipe

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
    "no such model": (["model.name=glwo"], ["expected model.name to be one of ffjord, glow", "Did you mean glow?"]),
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
    "milestones nowhere": (
        ["schedule={name: milestones}"],
        ["schedule: expected steps in at for milestones, and only there, got [] for milestones"],
    ),
    "milestones of another schedule": (["schedule={name: cosine, at: [5]}"], ["and only there, got [5] for cosine"]),
    "milestones out of order": (
        ["schedule={name: milestones, at: [5, 3]}"],
        ["schedule: expected at to hold ever later steps, got [5, 3]"],
    ),
    "a milestone that is no step": (["schedule.at=[1.5]"], ["schedule.at.0: expected an integer, got 1.5"]),
    "nesterov without SGD": (["optimizer.nesterov=true"], ["optimizer: expected nesterov with name: sgd", "got adam"]),
    "no such decay": (["optimizer.decay=some"], ["optimizer.decay: expected one of 'all', 'weights', got 'some'"]),
    "padding below nothing": (["data.crop_padding=-1"], ["data.crop_padding: expected a number of at least 0, got -1"]),
    "smoothing all away": (
        ["classification.label_smoothing=1.0"],
        ["classification.label_smoothing: expected a number less than 1", "got 1.0"],
    ),
    "a stream the wrong way round": (
        ["data.stream.scale=[0.5, 0.1]"],
        ["data.stream: expected scale as [least, largest], got [0.5, 0.1]"],
    ),
    "a stream cut larger than it is": (["data.stream.size=300"], ["data.stream: expected resize of at least size"]),
    "unknown key of a stream": (
        ["data.stream.sise=8"],
        ["data.stream.sise is unknown", "Did you mean data.stream.size?"],
    ),
    "a classifier's loss for a flow": (
        ["classification={}"],
        ["recipe: classification is for classifiers; glow is a flow. Leave it out."],
    ),
    "a stream for a flow": (["data.stream={}"], ["data.stream is for classifiers; glow is a flow"]),
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


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("training.penalty={}", "training.penalty"),
        ("training.monitor={}", "training.monitor"),
        ("training.samples_every=5", "training.samples_every"),
        ("conditions.labels=true", "conditions.labels"),
    ],
)
def test_what_is_for_flows_alone(override, key):
    with pytest.raises(ConfigError, match=f"^recipe: {key} is for flows; revnet is a classifier. Leave it out.$"):
        recipe(REVNET, override)
    assert recipe(REVNET, "training.samples_every=0").kind == "classifier"


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
    made = recipe(REVNET, "data.stream.jitter=[0.4, 0.4, 0.4, 0.1]")
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
    "revnet38-digits", "resnet32-digits", "irevnet-digits", "revnet38-fashion-mnist", "resnet32-fashion-mnist",
    "irevnet-fashion-mnist", "revnet38-mnist", "revnet38-cifar10", "revnet110-cifar10", "revnet164-cifar10",
    "resnet32-cifar10", "resnet110-cifar10", "irevnet-cifar10", "revnet38-cifar100", "revnet56-imagenet",
    "revnet104-imagenet", "resnet50-imagenet", "resnet101-imagenet", "irevnet-a-imagenet", "irevnet-b-imagenet",
}  # fmt: skip


def test_all_are_shipped():
    assert set(recipes.names()) >= NEEDED


@pytest.mark.parametrize("name", recipes.names())
def test_shipped_recipes_are_valid_and_say_what_they_are(name):
    made = recipes.load(name)
    assert made.name == name
    assert made.about
    # fastMRI's folder is one for all of its recipes.
    assert made.data.name in name or made.data.name.removesuffix("s") in name or made.data.name == "fastmri"


FLOWS, CLASSIFIERS = (
    [name for name in recipes.names() if recipes.load(name).kind == kind] for kind in ("flow", "classifier")
)


@pytest.mark.parametrize("name", [each for each in FLOWS if not each.startswith(("mnist", "fashion", "cifar"))])
def test_shipped_recipes_build_their_flow(name):
    made = recipes.load(name)
    data = load(made.data.name, **made.data.options)
    assert build_flow(made, data).levels == data.levels


# Shape, grey levels and classes of the data that need not lie on this machine.
DATA = {
    "digits": ((1, 8, 8), 17, 10), "mnist": ((1, 28, 28), 256, 10), "fashion-mnist": ((1, 28, 28), 256, 10),
    "cifar10": ((3, 32, 32), 256, 10), "cifar100": ((3, 32, 32), 256, 100), "imagenet": ((3, 224, 224), 256, 1000),
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_shipped_recipes_build_their_classifier(name):
    made, data = recipes.load(name), ClassifierData()
    data.name = made.data.name
    data.shape, data.grey_levels, classes = DATA[made.data.name]
    data.classes = tuple(map(str, range(classes)))
    with torch.device("meta"):
        model = build_classifier(made, data).eval()
        logits = model.head(model.body(torch.empty(2, *data.shape)))
    assert logits.shape == (2, classes)
    # No mirrored digits, and the images of ImageNet are read as they are needed.
    assert made.data.flip == (made.data.name not in ("digits", "mnist"))
    assert (made.data.stream is not None) == (made.data.name == "imagenet")


def test_published_schedules():
    cifar, imagenet, inverse = (
        recipes.load(name) for name in ("revnet110-cifar10", "revnet104-imagenet", "irevnet-cifar10")
    )
    rates = [cifar.optimizer.lr * factor(cifar.schedule, step, 80_000) for step in (0, 39_999, 40_000, 60_000, 79_999)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.001, 0.001])
    rates = [factor(imagenet.schedule, step, 600_000) for step in (159_999, 160_000, 320_000, 480_000)]
    assert rates == pytest.approx([1, 0.1, 0.01, 0.001])
    # 391 batches of 128 an epoch.
    rates = [factor(inverse.schedule, epoch * 391, 200 * 391) for epoch in (59, 60, 120, 160)]
    assert rates == pytest.approx([1, 0.2, 0.04, 0.008])
    assert (cifar.training.steps, imagenet.training.steps, inverse.training.steps) == (80_000, 600_000, 200 * 391)
    assert (cifar.optimizer.weight_decay, imagenet.optimizer.weight_decay) == (2e-4, 1e-4)
    assert cifar.optimizer.decay == "weights"


def test_an_unknown_recipe_gets_a_hint():
    with pytest.raises(InvertibleError, match="Did you mean digits-glow"):
        recipes.load("digits_glow")
