"""Volumes reconstructed in Python, and the classical methods by name."""

import pytest
import torch

from invertible import models
from invertible.data.mri import SliceDataset, collate
from invertible.errors import ConfigError
from invertible.physics.baselines import baseline
from invertible.physics.least_squares import least_squares
from invertible.physics.masks import RandomColumns
from invertible.physics.total_variation import total_variation
from invertible.reconstruction import reconstruct_volume
from tests.data.mri_files import write
from tests.models.observations import scan

pytest.importorskip("h5py", reason="h5py is not installed")

MASK = RandomColumns((0.08,), (4,))


@pytest.fixture
def path(tmp_path):
    write(tmp_path / "a.h5", slices=5, shape=(16, 20), crop=(12, 12))
    return tmp_path / "a.h5"


def test_a_model_is_judged_in_eval_mode_and_comes_out_as_it_went_in(path):
    model = models.unet(channels=4, levels=1, dropout=0.5).train()
    model.core.network.last.eval()
    before = {module: module.training for module in model.modules()}
    first, second = (reconstruct_volume(model, path, MASK) for _ in range(2))
    assert torch.equal(first.images, second.images)
    assert {module: module.training for module in model.modules()} == before
    assert not first.images.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_batch_size_and_the_slices_change_nothing(path):
    model, seen = models.rim(hidden=(4, 4), steps=2), []
    whole = reconstruct_volume(model, path, MASK, batch_size=2, progress=seen.append)
    part = reconstruct_volume(model, path, MASK, batch_size=3, slices=(1, 4))
    assert seen == [2, 2, 1]
    assert (whole.indices, part.indices) == ((0, 1, 2, 3, 4), (1, 2, 3))
    assert torch.allclose(whole.images[1:4], part.images, atol=1e-6)
    assert torch.equal(whole.target[1:4], part.target)
    assert whole.maximum == part.maximum == pytest.approx(float(whole.target.max()))
    assert part.acceleration == 20 / int(MASK(20, "a.h5").sum())


def test_a_function_of_one_s_own(path):
    def truth(observation):
        batch = collate([dataset[k] for k in range(5)])
        return batch.observation.backprojection()

    dataset = SliceDataset(path)
    found = reconstruct_volume(truth, path, MASK, batch_size=5)
    assert found.quality.nmse < 1e-10
    assert found.quality.ssim == pytest.approx(1, abs=1e-6)
    assert found.zero_filled_quality.nmse > 0.1


@pytest.mark.parametrize("slices", [(3, 3), (5, 6), (-1, 2)])
def test_slices_that_are_not_there(path, slices):
    with pytest.raises(ConfigError, match="a.h5: expected slices \\(first, end\\) of its 5"):
        reconstruct_volume(baseline("zero-filled"), path, slices=slices)


def test_baselines_are_the_classical_methods():
    observation = scan()
    assert torch.equal(baseline("zero-filled")(observation), observation.backprojection())
    assert torch.equal(baseline("least-squares", 0.5)(observation), least_squares(observation, 0.5).image)
    brightest = observation.backprojection().square().sum(1).sqrt().flatten(1).amax(1)
    expected = total_variation(observation, 0.01 * brightest).image
    assert torch.allclose(baseline("tv", 0.01)(observation), expected, atol=1e-5)
    assert torch.allclose(
        baseline("tv")(observation.scaled(torch.full((2,), 8.0))), 8 * baseline("tv")(observation), rtol=1e-3, atol=1e-3
    )
    assert not baseline("tv")(observation.scaled(torch.zeros(2))).any()


def test_wrong_baselines():
    with pytest.raises(ConfigError, match="baseline: expected name to be one of 'zero-filled', 'least-squares', 'tv'"):
        baseline("wavelet")
    with pytest.raises(ConfigError, match="expected no weight for zero-filled"):
        baseline("zero-filled", 0.0)
    with pytest.raises(ConfigError, match="expected weight to be finite and positive"):
        baseline("tv", -1.0)(scan())
