"""Random cuts, mirroring, colours, and the middle of an image."""

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from invertible.data.augment import EvaluationTransform, TrainingTransform, centre_box, crop_box, jitter, to_tensor
from invertible.errors import ConfigError
from tests.data.examples import noise

NONE = (0.0, 0.0, 0.0, 0.0)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def picture(width=40, height=30, channels=3):
    return Image.fromarray(noise(height, width, 3) if channels == 3 else noise(height, width))


@given(
    width=st.integers(1, 60),
    height=st.integers(1, 60),
    low=st.floats(0.01, 1),
    ratio=st.floats(0.2, 1),
    seed=st.integers(0, 1000),
)
def test_cuts_lie_inside(width, height, low, ratio, seed):
    left, top, right, bottom = crop_box(width, height, (low, 1.0), (ratio, 1 / ratio), rng(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_cuts_have_the_area_and_the_form_that_are_asked_for():
    boxes = [crop_box(400, 300, (0.08, 1.0), (3 / 4, 4 / 3), rng(seed)) for seed in range(2000)]
    sizes = np.array([(right - left, bottom - top) for left, top, right, bottom in boxes])
    share, form = sizes.prod(1) / (400 * 300), sizes[:, 0] / sizes[:, 1]
    assert 0.079 < share.min() < 0.1
    assert share.max() > 0.9
    assert 3 / 4 - 0.01 < form.min() < 0.77
    assert 1.30 < form.max() < 4 / 3 + 0.01
    assert {left == 0 for left, *_ in boxes} == {True, False}


def test_the_share_and_the_place_are_uniform():
    boxes = np.array([crop_box(300, 300, (0.08, 1.0), (1.0, 1.0), rng(seed)) for seed in range(2000)])
    side = boxes[:, 2] - boxes[:, 0]
    shares = np.sort((side / 300) ** 2)
    assert np.abs(shares - (0.08 + 0.92 * np.arange(0.5, 2000) / 2000)).max() < 0.04
    for corner in (boxes[:, 0], boxes[:, 1]):
        places = np.sort((corner / np.maximum(1, 300 - side))[side < 250])
        assert np.abs(places - np.arange(0.5, len(places)) / len(places)).max() < 0.05


def test_a_cut_that_never_fits_is_the_middle():
    for seed in range(5):
        assert crop_box(100, 10, (1.0, 1.0), (3 / 4, 4 / 3), rng(seed)) == (43, 0, 56, 10)
        assert crop_box(10, 100, (1.0, 1.0), (3 / 4, 4 / 3), rng(seed)) == (0, 43, 10, 56)
        assert crop_box(33, 33, (1.0, 1.0), (1.0, 1.0), rng(seed)) == (0, 0, 33, 33)


def test_the_whole_image_unchanged():
    """Full share, square form, no mirror, no jitter: the identity to the bit."""
    image = picture(32, 32)
    transform = TrainingTransform(32, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert torch.equal(transform(image, rng()), to_tensor(image))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("given_channels", [1, 3])
def test_shapes_and_reproducibility(channels, given_channels):
    transform = TrainingTransform(24, channels, flip=True, jitter=(0.4, 0.4, 0.4, 0.1))
    image = picture(channels=given_channels)
    results = [transform(image, rng(seed)) for seed in (0, 0, 1)]
    assert all((x.shape, x.dtype) == ((channels, 24, 24), torch.uint8) for x in results)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    if channels == 3 and given_channels == 1:
        assert torch.equal(results[0][0], results[0][1])
        assert torch.equal(results[0][0], results[0][2])


def test_half_of_the_images_are_mirrored():
    image = picture(16, 16)
    transform = TrainingTransform(16, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=True)
    x = to_tensor(image)
    mirrored = 0
    for seed in range(200):
        y = transform(image, rng(seed))
        assert torch.equal(y, x) or torch.equal(y, x.flip(-1))
        mirrored += not torch.equal(y, x)
    assert 70 < mirrored < 130


@pytest.mark.parametrize("channels", [1, 3])
def test_no_jitter_is_the_identity(channels):
    image = picture(channels=channels)
    assert jitter(image, NONE, rng()) is image


@pytest.mark.parametrize("kind", range(4))
def test_each_jitter_alone(kind):
    """Brightness scales, contrast goes about the mean, saturation keeps the grey picture, hue keeps the value."""
    strengths = tuple(0.5 if each == kind else 0.0 for each in range(4))
    image = picture()
    x = np.asarray(image).astype(float)
    grey = np.asarray(image.convert("L")).astype(float)
    changed = 0
    for seed in range(20):
        y = np.asarray(jitter(image, strengths, rng(seed))).astype(float)
        changed += not np.array_equal(x, y)
        if kind == 0:
            dark = x < 100
            factor = y[dark].sum() / x[dark].sum()
            assert 0.45 < factor < 1.55
            assert np.abs(y - np.clip(factor * x, 0, 255)).max() < 3
        elif kind == 1:
            mean = round(grey.mean())
            middle = np.abs(x - mean) < 2
            assert np.abs(y - x)[middle].max() < 3
        elif kind == 2:
            # Where nothing is clipped, colours move towards or away from their own grey.
            inside = ((y > 0) & (y < 255)).all(2)
            before, after = x - grey[..., None], y - grey[..., None]
            assert (before * after)[inside].min() > -30
        else:
            assert np.abs(y.max(2) - x.max(2)).max() <= 1
            assert np.abs(y.min(2) - x.min(2)).max() <= 3
    assert changed > 15


def test_hue_is_turned_by_the_share_that_was_drawn():
    image = Image.new("RGB", (2, 2), (200, 40, 40))
    strength, got = 0.25, []
    for seed in range(40):
        r, g, b = jitter(image, (0.0, 0.0, 0.0, strength), rng(seed)).getpixel((0, 0))
        hue = colorsys.rgb_to_hsv(r / 255, g / 255, b / 255)[0]
        got.append((hue + 0.5) % 1 - 0.5)
    assert max(map(abs, got)) < strength + 0.01
    assert min(got) < -0.2
    assert max(got) > 0.2


def test_grey_pictures_have_no_hue():
    image = picture(channels=1)
    assert jitter(image, (0.0, 0.0, 0.9, 0.5), rng(3)) is image


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [1, 32, 33])
def test_an_image_of_the_right_size_is_left_as_it_is(channels, size):
    image = picture(size, size, channels)
    assert torch.equal(EvaluationTransform(size, size, channels)(image), to_tensor(image))
    assert torch.equal(EvaluationTransform(size, channels=channels)(image), to_tensor(image))


def test_the_middle_is_cut_out_exactly():
    """An integer cut at scale 1 takes pixels as they are."""
    image = picture(50, 32)
    assert torch.equal(EvaluationTransform(32)(image), to_tensor(image)[:, :, 9:41])
    assert torch.equal(EvaluationTransform(24, 32)(image), to_tensor(image)[:, 4:28, 13:37])
    tall = picture(32, 50)
    assert torch.equal(EvaluationTransform((24, 16), 32)(tall), to_tensor(tall)[:, 13:37, 8:24])


@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    rows=st.integers(1, 50),
    columns=st.integers(1, 50),
    more=st.floats(1, 2),
)
def test_the_middle_lies_inside_and_keeps_the_form(width, height, rows, columns, more):
    resize = int(min(rows, columns) * more)
    left, top, right, bottom = centre_box(width, height, (rows, columns), resize)
    assert 0 <= left < right <= width + 1e-9
    assert 0 <= top < bottom <= height + 1e-9
    assert left + right == pytest.approx(width)
    assert top + bottom == pytest.approx(height)
    assert (right - left) * rows == pytest.approx((bottom - top) * columns)


def test_the_papers_middle():
    left, top, right, bottom = centre_box(500, 375, (224, 224), 256)
    assert bottom - top == right - left == 0.875 * 375
    assert left + right == 500


def test_a_thousand_steps_of_grey_are_not_shifted():
    """A ramp scaled down stays a ramp, with its middle in the middle."""
    ramp = np.tile(np.linspace(0, 255, 256).round().astype(np.uint8), (256, 1))
    x = EvaluationTransform(32, channels=1)(Image.fromarray(ramp))[0].double()
    assert torch.equal(x, x[:1].expand(32, 32))
    assert (x[0] - (torch.arange(32) * 8 + 3.5)).abs().max() <= 1.5
    assert abs(float(x.mean()) - 127.5) < 0.5


WRONG = {
    "size": (lambda: TrainingTransform(0), "expected size to be an integer of at least 1, got 0"),
    "channels": (lambda: TrainingTransform(8, 2), "TrainingTransform: expected channels to be 1 or 3, got 2"),
    "scale": (lambda: TrainingTransform(8, scale=(0.0, 1.0)), "expected scale with 0 < least <= largest <= 1"),
    "scale over 1": (lambda: TrainingTransform(8, scale=(0.5, 1.5)), "expected scale with"),
    "ratio": (lambda: TrainingTransform(8, ratio=(2.0, 1.0)), "expected ratio with 0 < least <= largest"),
    "jitter": (lambda: TrainingTransform(8, jitter=(-1.0, 0.0, 0.0, 0.0)), "expected jitter as strengths"),
    "hue": (lambda: TrainingTransform(8, jitter=(0.0, 0.0, 0.0, 0.6)), "the last at most 0.5"),
    "nan": (lambda: TrainingTransform(8, jitter=(float("nan"), 0.0, 0.0, 0.0)), "expected jitter"),
    "resize": (lambda: EvaluationTransform(8, 7), "expected resize of at least the shorter side, 8, got 7"),
    "sides": (lambda: EvaluationTransform((8, 0)), "expected width to be an integer of at least 1, got 0"),
    "channels too": (lambda: EvaluationTransform(8, channels=4), "EvaluationTransform: expected channels"),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_arguments(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
