"""Panels of reconstructions."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from invertible.errors import ConfigError, ShapeError
from invertible.reports.reconstruction_panels import BROKEN, Panel, reconstruction_panels
from invertible.reports.representation_style import png

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def panel(**more):
    truth = torch.linspace(0, 1, 20 * 16).view(20, 16)
    estimates = {"zero-filled": truth + 0.09, "i-RIM": truth + 0.01}
    given = {"title": "a.h5, slice 3", "estimates": estimates, "truth": truth, "mask": torch.arange(16) % 4 == 0}
    return Panel(**{**given, "maximum": 2.0, **more})


def texts(figure):
    return [text.get_text() for text in figure.findobj(lambda each: hasattr(each, "get_text")) if text.get_text()]


def shown(figure):
    """Pixels and colour scale of every image, row by row."""
    return [(image.get_array(), image.get_clim()) for axes in figure.axes for image in axes.images]


def test_images_share_a_window_and_errors_a_scale():
    figure = reconstruction_panels([panel(), panel(title="second")], amplification=10)
    images = shown(figure)
    # Zero-filled, i-RIM, truth; two errors, the mask; twice.
    assert len(images) == 12
    assert len({limits for _, limits in (*images[:3], *images[6:9])}) == 1
    for place, error in ((3, 0.09), (4, 0.01), (9, 0.09)):
        values, limits = images[place]
        assert limits == (0, 0.1)
        assert np.allclose(values, error / 2, atol=1e-6)
    assert images[5][0].shape[1] == 16
    assert images[5][0].mean() == 0.25
    told = texts(figure)
    for expected in ("zero-filled", "i-RIM", "all columns", "error × 10", "k-space: 4 of 16 columns", "10 %"):
        assert expected in told
    assert not any("SIMULATED" in each for each in told)


def test_simulated_k_space_is_called_that():
    assert "SIMULATED k-space; by hand" in texts(reconstruction_panels([panel(simulated=True)], caption="by hand"))
    assert "SIMULATED k-space in part" in texts(reconstruction_panels([panel(simulated=True), panel()]))


def test_the_amplification_shows_the_first_method_s_errors():
    for factor, expected in ((1.0, "error × 20"), (5.0, "error × 2"), (50.0, "error × 1")):
        truth = torch.zeros(8, 8)
        given = Panel("a", {"first": truth + 0.09 * factor}, truth, maximum=2.0)
        assert expected in texts(reconstruction_panels([given]))


def test_without_truth_there_are_no_errors():
    figure = reconstruction_panels([panel(truth=None, maximum=None), panel()])
    assert len(shown(figure)) == 3 + 6
    assert sum("error ×" in each for each in texts(figure)) == 1


def test_what_is_not_finite_is_magenta():
    broken = panel()
    for place, value in ((3, math.nan), (5, math.inf)):
        broken.estimates["i-RIM"][place, place] = value
    content = png(reconstruction_panels([broken]))
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    magenta = np.abs(pixels - np.round(255 * np.array(BROKEN))).max(-1) <= 1
    assert magenta.sum() > 2 * 50
    assert content == png(reconstruction_panels([broken]))


def test_wrong_panels():
    with pytest.raises(ConfigError, match="at least one panel with an estimate"):
        reconstruction_panels([])
    with pytest.raises(ConfigError, match="expected panels of zero-filled, i-RIM, as the first is, got RIM in 'b'"):
        reconstruction_panels([panel(), panel(title="b", estimates={"RIM": torch.zeros(20, 16)})])
    with pytest.raises(ShapeError, match="one shape .* in 'c', got \\(4, 4\\), \\(20, 16\\)"):
        reconstruction_panels([panel(title="c", truth=torch.zeros(4, 4))])
