"""The parts of a classifier's training: mixup, weight decay, scores, the module and its pictures."""

import json
import math
from dataclasses import replace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from invertible.classifier import Classifier
from invertible.data import load
from invertible.errors import ConfigError, ShapeError
from invertible.models import glow, irevnet, resnet, revnet
from invertible.sequential import Sequential
from invertible.training import (
    Classification,
    ClassifierModule,
    Optimizer,
    Schedule,
    evaluate_classifier,
)
from invertible.training.classifier_data import ImagesInMemory
from invertible.training.classifier_plots import plot_confusion, plot_curves
from invertible.training.mixup import draw_mix
from invertible.training.parameter_groups import parameter_groups
from invertible.training.preparation import standardise
from invertible.training.randomness import drawing_from
from invertible.training.summary import write_metrics
from tests.training.tiny import REVNET, recipe

CPU = torch.device("cpu")


def small(**options):
    return revnet(units=(1, 1), filters=(8, 8, 16), shape=(1, 8, 8), grey_levels=17, momentum=0.1, **options)


class Fixed(nn.Module):
    """Logits that are the pixels, without a parameter that changes them."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * x.flatten(1)


def fixed(classes=3):
    return Classifier(Sequential(nn.Identity()), Fixed(), shape=(1, 1, classes), classes=classes)


# Mixup and label smoothing.


def test_mixup_is_cross_entropy_with_mixed_targets():
    logits, y = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 0])
    mix = draw_mix(0.7, 6, CPU, seed=3, step=5)
    assert 0 < mix.weight < 1
    one_hot = functional.one_hot(y, 4).double()
    for e in (0.0, 0.2):
        target = (1 - e) * (mix.weight * one_hot + (1 - mix.weight) * one_hot[mix.order]) + e / 4
        expected = -(target * logits.log_softmax(1)).sum(1).mean()
        torch.testing.assert_close(mix.loss(logits, y, e), expected)
    x = torch.randn(6, 2, dtype=torch.float64)
    torch.testing.assert_close(mix.inputs(x), mix.weight * x + (1 - mix.weight) * x[mix.order])
    right = (one_hot * mix.weight + one_hot[mix.order] * (1 - mix.weight))[torch.arange(6), logits.argmax(1)]
    torch.testing.assert_close(mix.accuracy(logits, y).double(), right.mean(), rtol=1e-6, atol=1e-6)


def test_the_weights_of_mixup_are_beta_distributed_and_repeat():
    weights = np.array([draw_mix(0.5, 2, CPU, 0, step).weight for step in range(2000)])
    # Of Beta(a, a): mean 1/2, variance 1/(4 (2 a + 1)).
    assert weights.mean() == pytest.approx(0.5, abs=0.03)
    assert weights.var() == pytest.approx(1 / 8, abs=0.01)
    a, b, other = draw_mix(0.5, 9, CPU, 1, 7), draw_mix(0.5, 9, CPU, 1, 7), draw_mix(0.5, 9, CPU, 1, 7, rank=1)
    assert a.weight == b.weight == other.weight
    assert torch.equal(a.order, b.order)
    assert not torch.equal(a.order, other.order)
    assert sorted(a.order.tolist()) == list(range(9))


# Weight decay.


@pytest.mark.parametrize(
    "model",
    [
        small(),
        resnet(units=(1,), filters=(4, 8), shape=(1, 8, 8)),
        irevnet(shape=(1, 8, 8), squeeze=2, blocks=(1,), channels=(8,), strides=(2,), hidden=(4,)),
        glow((1, 4, 4), levels=1, depth=1, hidden=4),
    ],
    ids=["revnet", "resnet", "irevnet", "glow"],
)
def test_weights_are_matrices_and_kernels(model):
    weights, rest = parameter_groups(model)
    assert len(weights) + len(rest) == len(list(model.parameters()))
    assert {id(each) for each in (*weights, *rest)} == {id(each) for each in model.parameters()}
    assert weights
    assert all(each.dim() >= 2 for each in weights)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {id(p) for norm in norms for p in norm.parameters()} <= {id(p) for p in rest}
    assert {id(m.bias) for m in model.modules() if isinstance(m, nn.Linear)} <= {id(p) for p in rest}


def test_the_weight_behind_a_parametrisation_is_one():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    weights, rest = parameter_groups(layer)
    assert len(weights) == 2
    assert [id(each) for each in rest] == [id(layer.bias)]


@pytest.mark.parametrize("name", ["sgd", "adamw", "adam", "adamax"])
@pytest.mark.parametrize("decay", ["all", "weights"])
def test_decay_shrinks_what_it_should(tmp_path, name, decay):
    model = small()
    before = [each.clone() for each in model.parameters()]
    module = ClassifierModule(model, Optimizer(name=name, lr=0.1, weight_decay=0.5, momentum=0.0, decay=decay))
    fit(module, tmp_path, steps=0)
    optimizer = module.configure_optimizers()["optimizer"]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(before)
    assert {group["weight_decay"] for group in optimizer.param_groups} == ({0.5} if decay == "all" else {0.0, 0.5})
    for each in model.parameters():
        each.grad = torch.zeros_like(each)
    optimizer.step()
    decayed = {id(each) for each in (model.parameters() if decay == "all" else parameter_groups(model)[0])}
    for each, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(each, old) == (id(each) not in decayed or not bool(old.any()))


# Scores.


def test_scores():
    x = torch.tensor([[2.0, 0, 0], [0, 1, 0], [3, 0, 0], [math.nan, 0, 0], [0, 0, 1]]).view(5, 1, 1, 3)
    y = torch.tensor([0, 1, 2, 0, 2])
    model = fixed().train()
    score = evaluate_classifier(model, [(x[:2], y[:2]), (x[2:], y[2:])])
    assert score.confusion.tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
    assert score.predicted.tolist() == [0, 1, 0, -1, 2]
    assert (score.samples, score.non_finite) == (5, 1)
    assert score.accuracy == pytest.approx(3 / 5)
    assert score.standard_error == pytest.approx(math.sqrt(0.6 * 0.4 / 5))
    assert score.per_class == [0.5, 1.0, 0.5]
    assert float(score.losses[0]) == pytest.approx(-2 + math.log(math.exp(2) + 2))
    assert math.isnan(score.cross_entropy)
    assert str(score).startswith("accuracy 60.00 % ± 21.91 on 5 samples")
    assert "1 without a finite loss" in str(score)
    assert model.training
    assert model.validate


def test_scores_of_nothing_and_of_labels_that_are_none():
    score = evaluate_classifier(fixed(), [])
    assert score.samples == 0
    assert math.isnan(score.accuracy)
    assert all(map(math.isnan, score.per_class))
    for y in (torch.tensor([3]), torch.tensor([-1]), torch.tensor([0.5])):
        with pytest.raises(ShapeError, match=r"evaluate_classifier: expected labels 0 .. 2, integers"):
            evaluate_classifier(fixed(), [(torch.zeros(1, 1, 1, 3), y)])


# Data.


def test_standardisation_is_that_of_the_training_images():
    digits = load("digits")
    model = small()
    standardise(model, ImagesInMemory(digits, recipe(REVNET, "data.options={}")))
    other = small()
    other.body.blocks[0].fit(digits.train.x.double() / 16)
    torch.testing.assert_close(model.body.blocks[0].mean, other.body.blocks[0].mean)
    torch.testing.assert_close(model.body.blocks[0].deviation, other.body.blocks[0].deviation)
    assert not torch.equal(model.body.blocks[0].mean, torch.zeros(1))


def test_data_that_cannot_be_classified():
    made = recipe(REVNET)
    for name in ("moons", "s-curve"):
        with pytest.raises(ConfigError, match=f"data.name: expected images to classify, got {name}"):
            ImagesInMemory(load(name), made)


def test_splits_to_evaluate():
    digits = load("digits", limit=50)
    data = ImagesInMemory(digits, recipe(REVNET, "data.evaluation_batch_size=20"))
    for name in ("train", "validation", "test"):
        batches = data.evaluation(name)
        assert [len(x) for x, _ in batches] == [20, 20, 10]
        assert torch.equal(torch.cat([x for x, _ in batches]), getattr(digits, name).x)
        assert torch.equal(torch.cat([y for _, y in batches]), getattr(digits, name).y)
    with pytest.raises(
        ConfigError, match="expected validation samples to choose the best model by, got none of digits"
    ):
        ImagesInMemory(load("digits", limit=50, validation=0.0), recipe(REVNET))
    untested = replace(digits, test=digits.test.take(torch.empty(0, dtype=torch.int64)))
    assert ImagesInMemory(untested, recipe(REVNET)).evaluation("test") is None


# The module in a trainer of one's own.


def fit(module, folder, steps=12, x=None, y=None, **options):
    digits = load("digits", limit=128)
    x, y = (digits.train.x, digits.train.y) if x is None else (x, y)
    loader = DataLoader(TensorDataset(x, y), batch_size=32)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", default_root_dir=folder, enable_model_summary=False, **quiet, **options
    )
    trainer.fit(module, loader, loader)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_the_module_in_an_ordinary_trainer(tmp_path):
    model, digits = small(), load("digits", limit=128)
    model.body.blocks[0].fit(model.scaled(digits.train.x))
    module = ClassifierModule(model, Optimizer(name="sgd", lr=0.2), Schedule(name="cosine"), gradient_clip=10.0)
    figures = fit(module, tmp_path, steps=60)
    score = evaluate_classifier(model, [(digits.train.x, digits.train.y)])
    assert figures["validation"] == pytest.approx(score.cross_entropy, rel=1e-4)
    assert figures["validation_accuracy"] == pytest.approx(score.accuracy)
    assert figures["validation_non_finite"] == 0
    assert score.accuracy > 0.8
    assert set(module.training_figures) <= set(figures)


def test_the_loss_of_a_step(tmp_path):
    x, y = torch.rand(32, 1, 1, 3), torch.arange(32) % 3
    module = ClassifierModule(
        fixed(), Optimizer(name="sgd", lr=1e-12), classification=Classification(label_smoothing=0.3)
    )
    figures = fit(module, tmp_path, steps=1, x=x, y=y)
    logits = x.flatten(1)
    assert figures["train"] == pytest.approx(float(functional.cross_entropy(logits, y, label_smoothing=0.3)), rel=1e-5)
    assert figures["train_accuracy"] == pytest.approx(float((logits.argmax(1) == y).float().mean()))
    assert figures["validation"] == pytest.approx(float(functional.cross_entropy(logits, y)), rel=1e-5)
    module = ClassifierModule(
        fixed(), Optimizer(name="sgd", lr=1e-12), classification=Classification(mixup=1.0), seed=4
    )
    figures = fit(module, tmp_path, steps=1, x=x, y=y)
    mix = draw_mix(1.0, 32, CPU, seed=4, step=0)
    assert figures["train"] == pytest.approx(float(mix.loss(mix.inputs(logits), y)), rel=1e-5)


def test_dropout_follows_from_seed_and_step_and_disturbs_nothing(tmp_path):
    losses = []
    for seed, drawn in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(0)
        model = irevnet(shape=(1, 8, 8), squeeze=2, blocks=(1,), channels=(8,), strides=(2,), hidden=(8,), dropout=0.5)
        torch.manual_seed(drawn)
        losses.append(fit(ClassifierModule(model, seed=seed), tmp_path, steps=1)["train"])
    assert losses[0] == losses[1] != losses[2]
    before = torch.get_rng_state()
    with drawing_from(CPU, 7):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with drawing_from(CPU, 7):
        assert torch.equal(torch.rand(3), first)


def test_the_better_model_has_fewer_errors_then_less_loss():
    module = ClassifierModule(small())

    def value(accuracy, loss, broken=0.0):
        figures = {"validation_accuracy": accuracy, "validation": loss, "validation_non_finite": broken}
        return module.criterion(figures)

    assert value(0.9, 2.0) < value(0.8, 1.0)
    assert value(0.9, 1.0) < value(0.9, 2.0)
    assert value(0.8, 1.0) < (math.inf,)
    assert not value(0.9, math.nan, broken=1.0) < (math.inf,)


def test_a_batch_is_a_pair(tmp_path):
    module = ClassifierModule(small())
    for batch, got in ((torch.rand(2, 1, 8, 8), "one tensor"), ((torch.rand(2, 1, 8, 8),), "1 parts")):
        with pytest.raises(ShapeError, match=rf"expected a batch \(x, y\) of images and labels, got {got}"):
            module.training_step(batch, 0)


# Pictures and records.


@pytest.mark.parametrize("classes", [3, 30, 60])
def test_the_confusion_is_drawn(tmp_path, classes):
    y = torch.arange(classes).repeat(2)
    logits = torch.nn.functional.one_hot((y + (torch.arange(len(y)) % 7 == 0)) % classes, classes).float()
    score = evaluate_classifier(fixed(classes), [(logits.view(-1, 1, 1, classes), y)])
    plot_confusion(score, [f"class {each}" for each in range(classes)], "test data", tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) > 400
        colours = picture.convert("RGB").getcolors(1 << 24)
        # The diagonal is dark, and takes about 1/classes of the matrix.
        assert sum(count for count, (red, green, blue) in colours if red < 20 and blue > 80) > 500
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_curves_are_drawn(tmp_path):
    rows = []
    for step in range(1, 13):
        row = {"step": str(step), "epoch": f"{step / 4}", "train": f"{1 / step}", "train_accuracy": "0.9"}
        rows.append({**row, "validation": "", "validation_accuracy": ""})
        if step % 4 == 0:
            values = {"validation": f"{2 / step}", "validation_accuracy": f"{1 - 0.5 / step}"}
            rows.append({**row, "train": "", "train_accuracy": "", **values})
    plot_curves(rows, 8, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] > 1000
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 50


def test_matrices_in_metrics_are_a_row_a_line(tmp_path):
    results = {"classes": {"names": ["a", "b"], "accuracy": [0.5, None], "confusion": [[1, -2], [3e-7, 4]]}, "x": 1}
    metrics = write_metrics(tmp_path, recipe(REVNET), small(), "nats", results)
    text = (tmp_path / "metrics.json").read_text()
    assert json.loads(text) == metrics
    assert "[1, -2]" in text
    assert "[0.5, null]" in text
