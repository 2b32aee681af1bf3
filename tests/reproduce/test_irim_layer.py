"""The i-RIM's layer: what runs measure, and claims that hold and fail as they should."""

import math

import pytest
import torch

from invertible.data.mri import volumes
from invertible.reproduce.experiment import Found
from invertible.reproduce.irim_layer import MEMORY, PRECISION, RECONSTRUCTION, IRIMLayer

EXPERIMENT = IRIMLayer()
MODEL = {"channels": 8, "hidden": [4, 4], "factors": [1, 2], "steps": 2}
SILENT = lambda part: None  # noqa: E731
QUALITY = {"nmse": 0.1, "ssim": 0.5}


def made_up(error=1e-6, gradient=1e-6, growth=1.0, stored=1.0, gain=2.0):
    """Good runs, but for what is said."""
    errors = {"layer": 1e-8, "machine": error, "gradient": gradient}
    double = dict.fromkeys(errors, 1e-15)
    found = [Found({"kind": PRECISION}, {"float32": errors, "float64": double}, {}, 1.0)]
    for steps, layers in ((1, 12), (4, 12), (16, 12), (4, 3), (4, 30)):
        size = steps * layers
        numbers = {"store": {"peak": 1000 * size**stored}, "reversible": {"peak": 500 * size ** (growth - 1)}}
        found.append(Found({"kind": MEMORY, "steps": steps, "factors": [1] * layers}, numbers, {}, 1.0))
    judged = {"zero": {"psnr": 20.0, **QUALITY}, "irim": {"psnr": 20.0 + gain, **QUALITY}, "shown": [20.0, 22.0]}
    arrays = {f"panel {factor}": torch.rand(3, 8, 8) for factor in (4, 8)}
    found.append(Found({"kind": RECONSTRUCTION}, {"4": judged, "8": judged}, arrays, 1.0))
    return found


def held(found):
    return [claim.holds for claim in EXPERIMENT.claims(found)]


def test_precision_is_measured():
    found = EXPERIMENT.measure({"kind": PRECISION, "size": 8, "model": MODEL, "seed": 0}, "cpu", SILENT).numbers
    assert all(0 <= found["float32"][kind] < 1e-4 for kind in ("layer", "machine", "gradient"))
    assert all(0 <= found["float64"][kind] < 1e-11 for kind in ("layer", "machine", "gradient"))


def test_memory_is_measured():
    config = {"kind": MEMORY, "size": 8, "channels": 8, "seed": 0}
    few, more = (
        EXPERIMENT.measure({**config, "steps": steps, "factors": [1, 2]}, "cpu", SILENT).numbers for steps in (1, 6)
    )
    assert more["store"]["peak"] > 2 * few["store"]["peak"]
    assert more["reversible"]["peak"] < 1.2 * few["reversible"]["peak"]


@pytest.mark.skipif(not volumes()["mni152"].is_here or not volumes()["example4d"].is_here, reason="no volumes here")
def test_reconstruction_is_measured():
    config = {
        "kind": RECONSTRUCTION, "model": MODEL, "size": 16, "slices": 2, "judged": 1, "steps": 1, "batch": 2,
        "lr": 1e-3, "volumes": {"train": "example4d", "test": "mni152"}, "seed": 0,
    }  # fmt: skip
    first, again = (EXPERIMENT.measure(config, "cpu", SILENT) for _ in range(2))
    assert first.numbers == again.numbers
    assert math.isfinite(first.numbers["4"]["irim"]["psnr"])
    assert first.arrays["panel 8"].shape == (3, 16, 16)


def test_a_good_layer_holds():
    found = made_up()
    assert all(held(found))
    assert len(EXPERIMENT.tables(found)) == 3
    assert set(EXPERIMENT.figures(found)) == {"irim-layer"}


@pytest.mark.parametrize(
    ("changed", "claims"),
    [
        ({"error": 1e-2}, {0}),
        ({"error": math.inf}, {0}),
        ({"gradient": math.inf}, {1}),
        ({"growth": 1.1}, {2, 3}),
        # A peak that is flat because nothing is stored either proves nothing.
        ({"stored": 0.5}, {2, 3}),
        ({"gain": 0.5}, {4, 5}),
        ({"gain": -math.inf}, {4, 5}),
    ],
)
def test_what_is_worse_does_not_hold(changed, claims):
    assert held(made_up(**changed)) == [index not in claims for index in range(6)]


@pytest.mark.parametrize("scale", ["quick", "full"])
def test_settings_build(scale):
    runs = EXPERIMENT.runs(scale, 0)
    assert len({run.name for run in runs}) == len(runs)
    assert EXPERIMENT.departures(scale)
