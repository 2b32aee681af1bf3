"""`invertible predict` as typed."""

import io
import json
import re
import shlex

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from invertible import cli, data, models, saving
from invertible.cli import waiting
from invertible.cli.prediction import predictions
from invertible.training.classification import evaluate_classifier
from tests.data.examples import noise

NAMES = ("zero", "one", "two", "three")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models, pictures of digits as large as the model's and larger, and a folder of a folder a class."""
    folder = tmp_path_factory.mktemp("predict")
    torch.manual_seed(0)
    digits = data.load("digits")
    irevnet = {"shape": (1, 8, 8), "squeeze": 2, "blocks": (2, 2), "channels": (8, 32), "strides": (2, 2)}
    built = {
        "digits": models.irevnet(**irevnet, hidden=(32, 32), grey_levels=17),
        "colour": models.irevnet(**{**irevnet, "shape": (3, 8, 8), "channels": (24, 96)}, hidden=(24, 24), classes=4),
        "wide": models.revnet(units=(1, 1), filters=(8, 8, 16), shape=(3, 8, 12), classes=4, grey_levels=None),
        "revnet": models.revnet(units=(1, 1), filters=(8, 8, 16), shape=(1, 8, 8), grey_levels=17),
        "flow": models.realnvp(2, layers=2, hidden=(8,)),
    }
    for name, model in built.items():
        metadata = {"class_names": json.dumps(NAMES)} if name == "colour" else None
        saving.save(model.eval(), folder / f"{name}.safetensors", metadata=metadata)
    for k, (x, y) in enumerate(zip(digits.test.x[:20], digits.test.y[:20], strict=True)):
        pixels = (x[0].double() * 255 / 16).round().to(torch.uint8).numpy()
        for place, image in {
            folder / "digits" / f"{k:02}.png": Image.fromarray(pixels),
            folder / "labelled" / "test" / f"{int(y)}" / f"{k:02}.png": Image.fromarray(pixels),
            folder / "large" / f"{k:02}.jpg": Image.fromarray(noise(30, 20 + k, 3)),
        }.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            image.save(place)
    for name in map(str, range(10)):
        (folder / "labelled" / "train" / name).mkdir(parents=True)
        Image.fromarray(noise(8, 8)).save(folder / "labelled" / "train" / name / "0.png")
    return folder


@pytest.fixture
def typed(capsys, folder, tmp_path, monkeypatch):
    """Run a command in an empty folder: exit status, stdout, stderr. `{}` stands for the folder of the models."""
    monkeypatch.chdir(tmp_path)

    def run(line):
        status = cli.main(shlex.split(line.replace("{}", str(folder))))
        return status, *capsys.readouterr()

    return run


def rows(out):
    """The rows of a table."""
    return [line.split() for line in out.splitlines() if ".png" in line or ".jpg" in line]


def test_images_are_classified_as_in_python(typed, folder, tmp_path):
    status, out, err = typed("predict {}/digits.safetensors {}/digits --json a.json")
    assert (status, err) == (0, "")
    digits, model = data.load("digits"), saving.load(folder / "digits.safetensors")
    # A picture of 256 levels is brought back to the very 17 levels it was made from.
    probabilities = model.probabilities(digits.test.x[:20]).detach()
    record = json.loads((tmp_path / "a.json").read_text())["images"]
    assert [each["classes"][0]["label"] for each in record] == model.predict(digits.test.x[:20]).tolist()
    for each, expected, row in zip(record, probabilities, rows(out), strict=True):
        top = expected.topk(3)
        assert [entry["label"] for entry in each["classes"]] == top.indices.tolist()
        assert [entry["probability"] for entry in each["classes"]] == pytest.approx(top.values.tolist(), abs=1e-5)
        assert row[0] == each["file"]
        assert row[1] == each["classes"][0]["class"]
        assert float(row[2]) == pytest.approx(top.values[0].item(), abs=1e-4)


def test_the_batch_size_changes_nothing(typed, tmp_path):
    found = []
    for size in (1, 7, 64):
        assert typed(f"predict {{}}/digits.safetensors {{}}/digits --batch-size {size} --json a.json")[0] == 0
        found.append(json.loads((tmp_path / "a.json").read_text())["images"])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert [each["label"] for each in a["classes"]] == [each["label"] for each in b["classes"]]
            probabilities = [[each["probability"] for each in record["classes"]] for record in (a, b)]
            assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-5)


@pytest.mark.parametrize(("model", "names"), [("colour", NAMES), ("wide", ("0", "1", "2", "3"))])
def test_images_of_other_sizes_and_names(typed, folder, model, names):
    status, out, _ = typed(f"predict {{}}/{model}.safetensors {{}}/large {{}}/digits/03.png --top 9")
    assert status == 0
    table = rows(out)
    assert len(table) == 21
    assert table[-1][0] == str(folder / "digits" / "03.png")
    for row in table:
        # All four classes, the most probable first; their probabilities sum to one.
        assert set(row[1::2]) == set(names)
        values = [float(text) for text in row[2::2]]
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=3e-4)


def test_names_are_found_beside_the_model_in_the_folder_of_a_run(typed, folder, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.safetensors").write_bytes((folder / "wide.safetensors").read_bytes())
    for text, expected in (
        (json.dumps({"classes": {"names": NAMES}}), 0),
        (json.dumps({"classes": {"names": NAMES[:3]}}), 2),
        ("{", 2),
        (json.dumps({"unit": "nats"}), 0),
    ):
        (run / "metrics.json").write_text(text)
        status, out, err = typed("predict run {}/large")
        assert status == expected
        if expected:
            assert "metrics.json: expected" in err
        else:
            assert set(rows(out)[0][1::2]) < set(NAMES if "names" in text else "0123")


def test_the_model_s_own_resize(typed, folder, tmp_path):
    model = saving.load(folder / "colour.safetensors")
    saving.save(model, tmp_path / "cut.safetensors", metadata={"resize": "10"})
    saving.save(model, tmp_path / "wrong.safetensors", metadata={"resize": "ten"})
    by_file = typed("predict cut.safetensors {}/large --json a.json")
    asked = typed("predict {}/colour.safetensors {}/large --resize 10 --json b.json")
    plain = typed("predict {}/colour.safetensors {}/large --json c.json")
    assert (by_file[0], asked[0], plain[0]) == (0, 0, 0)
    figures = [
        [each["classes"][0]["probability"] for each in json.loads((tmp_path / f"{name}.json").read_text())["images"]]
        for name in "abc"
    ]
    assert figures[0] == figures[1] != figures[2]
    status, _, err = typed("predict wrong.safetensors {}/large")
    assert status == 2
    assert "expected resize to be an integer of at least 1, got 'ten'" in err


def test_features_and_the_way_back(typed, folder, tmp_path):
    status, out, _ = typed("predict {}/digits.safetensors {}/digits --check --features f.npz --json a.json")
    assert status == 0
    model, x = saving.load(folder / "digits.safetensors"), data.load("digits").test.x[:20]
    arrays = np.load(tmp_path / "f.npz")
    assert arrays["features"].dtype == np.float32
    assert np.allclose(arrays["features"], model.features(x).detach().numpy(), atol=1e-6)
    assert arrays["files"].tolist() == [str(folder / "digits" / f"{k:02}.png") for k in range(20)]
    assert arrays["predicted"].tolist() == model.predict(x).tolist()
    back = model.invert(torch.from_numpy(arrays["features"]))
    assert (back - x / 16).abs().max() < 1e-4
    errors = [each["round_trip_error"] for each in json.loads((tmp_path / "a.json").read_text())["images"]]
    assert 0 < max(errors) < 1e-4
    assert f"largest error of the round trip: {max(errors):.1e}; 0 images above 0.001" in out
    assert f"{errors[0]:.1e}" == rows(out)[0][-1]


def broken(folder, path, change):
    model = saving.load(folder / "digits.safetensors")
    with torch.no_grad():
        change(model)
    saving.save(model, path)


def test_what_does_not_come_back_fails(typed, folder, tmp_path):
    """A large mean taken off loses the image in the rounding, and nothing is NaN."""
    broken(folder, tmp_path / "lossy.safetensors", lambda model: model.body.blocks[0].mean.fill_(1e8))
    status, out, _ = typed("predict lossy.safetensors {}/digits --check")
    assert status == 1
    assert "20 images above 0.001" in out
    assert typed("predict lossy.safetensors {}/digits")[0] == 0


def test_what_is_not_finite_is_shown_and_fails(typed, folder, tmp_path):
    broken(folder, tmp_path / "nan.safetensors", lambda model: next(model.head.parameters()).fill_(float("nan")))
    status, out, _ = typed("predict nan.safetensors {}/digits --json a.json")
    assert status == 1
    assert "20 of 20 predictions are not finite" in out
    assert "not finite" in " ".join(rows(out)[0])
    assert json.loads((tmp_path / "a.json").read_text())["images"][0]["classes"] == []
    status, out, _ = typed("predict nan.safetensors --data digits --json b.json")
    assert status == 1
    record = json.loads((tmp_path / "b.json").read_text())
    assert (record["accuracy"], record["non_finite"], record["cross_entropy"]) == (0, 180, None)


def test_a_data_set(typed, folder, tmp_path):
    line = "predict {}/digits.safetensors --data digits --split validation --check --json a.json --features f.npz"
    status, out, err = typed(line)
    assert (status, err) == (0, "")
    part = data.load("digits").validation
    score = evaluate_classifier(saving.load(folder / "digits.safetensors"), [(part.x, part.y)])
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["accuracy"] == score.accuracy
    assert record["cross_entropy"] == pytest.approx(score.cross_entropy)
    assert record["confusion"] == score.confusion.tolist()
    assert [each["accuracy"] for each in record["classes"]] == score.per_class
    assert sum(each["samples"] for each in record["classes"]) == record["samples"] == 162
    assert f"{100 * score.accuracy:.2f}" in out
    assert record["round_trip_error"] < 1e-4
    arrays = np.load(tmp_path / "f.npz")
    assert np.array_equal(arrays["labels"], part.y.numpy())
    assert "files" not in arrays


def test_a_folder_of_classes(typed, folder, tmp_path):
    status, *_ = typed("predict {}/digits.safetensors --data {}/labelled --json a.json")
    assert status == 0
    digits = data.load("digits").test
    score = evaluate_classifier(saving.load(folder / "digits.safetensors"), [(digits.x[:20], digits.y[:20])])
    record = json.loads((tmp_path / "a.json").read_text())
    assert (record["samples"], record["accuracy"]) == (20, score.accuracy)
    assert record["confusion"] == score.confusion.tolist()


WRONG = {
    "neither": ("{}/digits.safetensors", "expected either images or --data NAME, got neither"),
    "both": ("{}/digits.safetensors {}/large --data digits", "expected either images or --data NAME, got both"),
    "no path": ("{}/digits.safetensors none.png", "none.png: expected an image or a folder of images, found none"),
    "no images": ("{}/digits.safetensors .", r"\.: expected image files \(.png, .*\), got none"),
    "damaged": ("{}/digits.safetensors {}/digits.safetensors", "safetensors: expected an image, got Unidentified"),
    "a flow": ("{}/flow.safetensors {}/large", "expected a classifier, such as models.revnet makes, got a flow"),
    "no model": ("none.safetensors {}/large", "expected a model file at none.safetensors, found none"),
    "no inverse": ("{}/revnet.safetensors {}/digits --check", "--check: expected an invertible model, .* of revnet"),
    "no array": ("{}/digits.safetensors {}/digits --features f.png", "expected a name that ends in .npz, got 'f.png'"),
    "small": ("{}/colour.safetensors {}/large --resize 7", "expected resize of at least the shorter side, 8, got 7"),
    "no top": ("{}/digits.safetensors {}/digits --top 0", "Invalid value for '--top'"),
    "other data": ("{}/digits.safetensors --data moons", r"--data moons: expected data of shape \(1, 8, 8\) with 17"),
    "other classes": (
        "{}/colour.safetensors --data {}/labelled",
        "expected the classes .*, zero, one, .*, got 10: 0, 1",
    ),
    "no split": ("{}/digits.safetensors --data digits --split all", "--split: expected one of train, validation, test"),
    "no part": ("{}/digits.safetensors --data {}/labelled --split validation", "expected one of train, test, which"),
    "no classes": (
        "{}/digits.safetensors --data {}/digits --split train",
        "expected data with classes, got some without",
    ),
}


@pytest.mark.parametrize(("line", "expected"), WRONG.values(), ids=WRONG.keys())
def test_wrong_use_is_one_line_and_status_2(typed, line, expected):
    status, _, err = typed(f"predict {line}")
    assert status == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert re.search(expected, err), err


@pytest.mark.parametrize("line", ["score {}/digits.safetensors --data digits", "sample {}/digits.safetensors"])
def test_other_commands_refuse_a_classifier(typed, line):
    status, _, err = typed(line)
    assert status == 2
    assert "expected a flow, got a classifier, which has no likelihood. 'invertible predict" in err


def test_a_bar_after_two_seconds_on_a_terminal(monkeypatch):
    for patience, terminal, shown in ((0.0, True, True), (1e9, True, False), (0.0, False, False)):
        text = io.StringIO()
        monkeypatch.setattr(waiting, "PATIENCE", patience)
        screen = Console(file=text, force_terminal=terminal, width=100)
        monkeypatch.setattr(waiting, "console", lambda screen=screen, **_: screen)
        batches = list(waiting.with_progress(iter(torch.zeros(3, 4)), 12, "images"))
        assert len(batches) == 3
        assert ("images/s" in text.getvalue()) == shown
        assert ("12/12" in text.getvalue()) == shown


def test_the_model_comes_out_as_it_went_in():
    model = models.irevnet(
        shape=(1, 8, 8), squeeze=2, blocks=(2, 2), channels=(8, 32), strides=(2, 2), hidden=(8, 8)
    ).train()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    found = predictions(model, iter(torch.rand(6, 1, 8, 8).split(4)), features=True, check=True)
    assert (found.logits.shape, found.features.shape[0], found.errors.shape) == ((6, 10), 6, (6,))
    assert model.training
    assert all(torch.equal(each, model.state_dict()[name]) for name, each in before.items())
    assert all(parameter.grad is None for parameter in model.parameters())
