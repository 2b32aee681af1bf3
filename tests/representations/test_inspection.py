"""All looks together: what comes, what is missing and why, JSON, pictures."""

import json
import math
from dataclasses import dataclass

import pytest
import torch

from invertible.errors import ConfigError
from invertible.models import glow
from invertible.reports.representation_pictures import interpolation_plot
from invertible.reports.representation_plots import contraction_plot, dimension_plot, separation_plot
from invertible.reports.representation_spectra import inverse_error_plot, spectrum_plot
from invertible.reports.representation_style import png
from invertible.representations import (
    LOOKS,
    InspectionInterrupted,
    Labelled,
    LookOptions,
    Representations,
    inspect,
    interpolation,
    inverse_error,
    spectrum,
)
from invertible.representations.plain import plain
from tests.representations.examples import Apart, Stretch, bijective, images, injective, interleaved, lossy

FEW = LookOptions(depths=3, train=60, test=40, samples=8, pairs=2, steps=3)
PLOTS = {
    "separation": separation_plot,
    "contraction": contraction_plot,
    "dimension": dimension_plot,
    "spectrum": spectrum_plot,
    "interpolation": interpolation_plot,
    "inverse_error": inverse_error_plot,
}


@pytest.fixture(scope="module")
def found():
    torch.manual_seed(0)
    return inspect(bijective(), images(90), images(60), options=FEW)


def test_everything_is_seen_of_a_bijective_classifier(found):
    assert found.missing == {}
    assert all(getattr(found, name) is not None for name in LOOKS)
    assert found.non_finite == 0
    assert len(found.layers) == 6
    text = str(found)
    assert all(name.replace("_", " ") in text for name in LOOKS)


@pytest.mark.parametrize("name", LOOKS)
def test_pictures(found, name):
    content = png(PLOTS[name](getattr(found, name)))
    assert content.startswith(b"\x89PNG")
    assert content == png(PLOTS[name](getattr(found, name)))


def test_json_holds_every_figure_but_the_images(found, tmp_path):
    record = json.loads(found.to_json(tmp_path / "deep" / "inspect.json").read_text())
    assert [point["svm"] for point in record["separation"]["points"]] == [p.svm for p in found.separation.points]
    assert record["spectrum"]["values"] == found.spectrum.values.tolist()
    assert "images" not in record["interpolation"]
    assert record["interpolation"]["probabilities"] == found.interpolation.probabilities.tolist()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["inspect.json"]


def test_what_is_not_finite_is_null():
    @dataclass(frozen=True)
    class Some:
        value: float
        values: torch.Tensor

    assert plain(Some(math.inf, torch.tensor([1.0, math.nan]))) == {"value": None, "values": [1.0, None]}


def test_a_network_without_inverse_says_what_is_missing():
    found = inspect(lossy(), images(90), images(60), options=FEW)
    assert list(found.missing) == ["interpolation"]
    assert "StageEntry" in found.missing["interpolation"]
    assert found.inverse_error.stopped_at
    assert "interpolation: not available" in str(found)
    assert json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("classes", [None, 3])
def test_flows(classes):
    flow = glow((1, 8, 8), levels=2, depth=1, hidden=4, grey_levels=17, classes=classes)
    data = images(60)
    given = Labelled(data.x, data.y, None if classes is None else data.y)
    flow.bits_per_dim(data.x, given.condition)
    found = inspect(flow.eval(), given, given, options=FEW)
    assert found.missing == {}
    assert found.interpolation.probabilities is None
    assert found.spectrum.log_det_error.max() < 1e-8
    assert png(interpolation_plot(found.interpolation))


def test_injective_networks():
    found = inspect(injective(), images(90), images(60), options=FEW)
    assert found.missing == {}
    assert found.spectrum.features == 1024


def test_looks_can_be_left_out_and_samples_are_drawn_by_seed():
    options = LookOptions(looks=("contraction",), test=20)
    a, b, c = (
        inspect(Apart(), interleaved(40, 0), interleaved(80, 1), options=options, generator=s) for s in (1, 1, 2)
    )
    assert a.contraction == b.contraction != c.contraction
    assert a.separation is None
    assert a.missing == {}


def test_broken_inverses_are_counted_and_drawn():
    model = Stretch(1.0, 0.0)
    x = torch.rand(4, 2) + 1
    parts = {
        "interpolation": interpolation(model, x, steps=3),
        "inverse_error": inverse_error(model, x),
        "spectrum": spectrum(model, x),
    }
    found = Representations(("Stretch",), {}, **parts)
    assert found.non_finite >= 4
    assert json.dumps(found.to_dict(), allow_nan=False)
    assert png(inverse_error_plot(found.inverse_error))
    assert png(spectrum_plot(found.spectrum))


def test_an_interrupted_inspection_hands_on_what_it_has():
    def stop(section, detail, done, total):
        if done == 1:
            raise KeyboardInterrupt

    options = LookOptions(looks=("contraction", "inverse_error"), test=20)
    with pytest.raises(InspectionInterrupted) as caught:
        inspect(Apart(), interleaved(40, 0), interleaved(40, 1), options=options, progress=stop)
    assert caught.value.found.contraction is not None
    assert caught.value.found.inverse_error is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"looks": ("speed",)}, "looks among separation"),
        ({"looks": ()}, "got none"),
        ({"samples": 0}, "samples to be an integer of at least 1"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message):
        LookOptions(**options)
