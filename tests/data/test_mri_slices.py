"""Slices and batches: masks, selections, crops, shapes, contexts, workers."""

import pickle

import pytest
import torch

from invertible.data.mri import (
    MaskFunction,
    Selection,
    ShapeBatchSampler,
    SliceDataset,
    collate,
    set_epoch,
    slice_loader,
    write_volume,
)
from invertible.data.mri.open_files import LIMIT
from invertible.errors import ConfigError, DataError, ShapeError
from invertible.physics.fourier import centred_fft2, centred_ifft2
from invertible.physics.masks import RandomColumns
from tests.data.mri_files import Drawn, every_other, write

pytest.importorskip("h5py", reason="h5py is not installed")


@pytest.fixture
def folder(tmp_path):
    """Two volumes of one coil, of 12 x 10 and 12 x 14 samples, cropped to 8 x 8."""
    write(tmp_path / "v" / "a.h5")
    write(tmp_path / "v" / "b.h5", slices=4, shape=(12, 14), seed=1)
    return tmp_path / "v"


def test_fixed_masks_are_the_volumes_own(folder):
    mask = Drawn()
    dataset = SliceDataset(folder, mask)
    first = [dataset[k].mask for k in range(7)]
    assert mask.seeds == ["a.h5"] * 3 + ["b.h5"] * 4
    dataset.set_epoch(1)
    assert all(torch.equal(dataset[k].mask, first[k]) for k in range(7))


def test_random_masks_depend_on_seed_epoch_volume_and_slice_alone(folder):
    def seeds(seed, epoch):
        mask = Drawn()
        dataset = SliceDataset(folder, mask, random_masks=True, seed=seed)
        dataset.set_epoch(epoch)
        for k in (6, 0, 3, 5):
            assert dataset[k].mask.dtype == torch.bool
        return mask.seeds

    first = seeds(0, 0)
    assert seeds(0, 0) == first
    assert len({*first, *seeds(0, 1), *seeds(1, 0)}) == 12


def test_fastmris_masks_fit(folder):
    mask = RandomColumns((0.2,), (2,))
    assert isinstance(mask, MaskFunction)
    found = SliceDataset(folder, mask)[5]
    assert torch.equal(found.mask, mask(14, "b.h5"))


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), [3, 4]),
        (Selection(drop_first=1, drop_last=1), [1, 2]),
        (Selection(acquisitions=("CORPD_FBK",)), [3, 4]),
        (Selection(drop_last=3), [0, 1]),
    ],
)
def test_selections(folder, selection, expected):
    dataset = SliceDataset(folder, selection=selection)
    assert [sum(volume == k for volume, _ in dataset.rows) for k in (0, 1)] == expected


def test_fractions_are_reproducible_and_named_sequences_there_are(folder):
    for seed in range(3):
        half = Selection(volume_fraction=0.5, slice_fraction=0.5, seed=seed)
        dataset = SliceDataset(folder, selection=half)
        assert len(dataset.headers) == 1
        assert len(dataset) == 2
        assert SliceDataset(folder, selection=half).rows == dataset.rows
    assert len({SliceDataset(folder, selection=Selection(volume_fraction=0.5, seed=k)).headers for k in range(9)}) == 2
    with pytest.raises(ConfigError, match=r"acquisitions to be of 'CORPD_FBK', got \('x',\)"):
        SliceDataset(folder, selection=Selection(acquisitions=("x",)))
    with pytest.raises(ConfigError, match="slices to be left"):
        SliceDataset(folder, selection=Selection(drop_first=4))
    with pytest.raises(ConfigError, match="0 < slice_fraction <= 1, got 0"):
        Selection(slice_fraction=0)
    with pytest.raises(ConfigError, match="drop_last to be at least 0, got -1"):
        Selection(drop_last=-1)


def test_a_batch_is_an_observation_of_its_target(folder):
    dataset = SliceDataset(folder, every_other, selection=Selection(volume_fraction=0.5, seed=1))
    slices = [dataset[k] for k in range(2)]
    batch = collate(slices, acquisitions=("CORPDFS_FBK", "CORPD_FBK"), context_features=8)
    kspace = torch.stack([each.kspace for each in slices])
    observation = batch.observation
    assert torch.equal(observation.data[..., ::2], kspace[..., ::2])
    assert not observation.data[..., 1::2].any()
    assert observation.context.tolist() == [[0, 1, 0, 0, 0, 0, 0, 0]] * 2
    full = torch.view_as_real(centred_ifft2(kspace)[:, 0]).permute(0, 3, 1, 2)
    assert torch.allclose(batch.magnitude(full), batch.target, atol=1e-6)
    assert torch.allclose(observation.operator(full), observation.data, atol=1e-5)
    assert batch.maximum.dtype == torch.float32
    assert batch.maximum.tolist() == pytest.approx([each.maximum for each in slices])
    assert (batch.volumes, batch.indices, len(batch)) == ((slices[0].volume,) * 2, (0, 1), 2)
    moved = batch.to("meta")
    assert {moved.target.device.type, moved.observation.data.device.type, moved.maximum.device.type} == {"meta"}


@pytest.mark.parametrize("maps", [False, True])
def test_several_coils(tmp_path, maps):
    sensitivities = torch.randn(1, 3, 12, 10, dtype=torch.complex64)
    kspace, target = write(tmp_path / "a.h5", coils=3, others={"sensitivities": sensitivities})
    dataset = SliceDataset(tmp_path, every_other, sensitivities="file" if maps else "none")
    batch = collate([dataset[0], dataset[2]])
    assert batch.observation.data.shape == (2, 3, 12, 10)
    assert batch.observation.context is None
    channels = batch.observation.backprojection().shape[1]
    assert channels == (2 if maps else 6)
    if maps:
        assert torch.equal(dataset[2].sensitivities, sensitivities[0])
    else:
        full = torch.view_as_real(centred_ifft2(kspace[[0, 2]])).permute(0, 1, 4, 2, 3).flatten(1, 2)
        assert torch.allclose(batch.magnitude(full), target[[0, 2]], atol=1e-5)


def test_files_without_targets_make_batches_without(tmp_path):
    write_volume(tmp_path / "a.h5", torch.randn(2, 8, 8, dtype=torch.complex64), mask=torch.arange(8) < 4)
    batch = collate([SliceDataset(tmp_path)[k] for k in range(2)])
    assert batch.target is None
    assert batch.maximum is None
    assert batch.to("cpu").crop == (8, 8)
    with pytest.raises(DataError, match=r"a\.h5: expected all columns of k-space"):
        SliceDataset(tmp_path, image_size=(6, 6))


def test_another_target_and_a_maximum_that_is_not_written(tmp_path):
    truth = torch.rand(3, 8, 8)
    write(tmp_path / "a.h5", others={"noise_free": truth})
    found = SliceDataset(tmp_path, target="noise_free")[1]
    assert torch.equal(found.target, truth[1])
    assert found.maximum == truth.max().item()
    with pytest.raises(DataError, match=r"a\.h5: expected data sets truth, got noise_free, reconstruction_esc"):
        SliceDataset(tmp_path, target="truth")
    with pytest.raises(ConfigError, match="sensitivities to be one of 'none', 'file'"):
        SliceDataset(tmp_path, sensitivities="all")


def test_images_are_cropped_before_k_space_is_masked(folder):
    plain, cropped = SliceDataset(folder), SliceDataset(folder, image_size=(10, 12))
    a, b = plain[5], cropped[5]
    assert cropped.shape(0) == (1, 10, 10)
    assert cropped.shape(5) == tuple(b.kspace.shape) == (1, 10, 12)
    assert torch.allclose(centred_ifft2(b.kspace), centred_ifft2(a.kspace)[..., 1:11, 1:13], atol=1e-6)
    assert torch.equal(a.target, b.target)
    assert torch.allclose(b.kspace, centred_fft2(centred_ifft2(a.kspace)[..., 1:11, 1:13]), atol=1e-5)
    small = SliceDataset(folder, image_size=(6, 6))[0]
    assert small.crop == (6, 6)
    assert torch.equal(small.target, plain[0].target[1:7, 1:7])


def test_mixed_shapes_are_refused_or_batched_by_shape(folder):
    dataset = SliceDataset(folder)
    with pytest.raises(ShapeError, match=r"\(1, 12, 10\) cropped to \(8, 8\), as a\.h5 has, got \(1, 12, 14\).*b\.h5"):
        collate([dataset[2], dataset[3]])
    assert list(ShapeBatchSampler(dataset, 2)) == [[0, 1], [2], [3, 4], [5, 6]]
    assert list(ShapeBatchSampler(dataset, 3, drop_last=True)) == [[0, 1, 2], [3, 4, 5]]
    for drop_last in (False, True):
        mixed = ShapeBatchSampler(dataset, 2, shuffle=True, drop_last=drop_last)
        epochs = []
        for epoch in range(4):
            mixed.set_epoch(epoch)
            epochs.append(list(mixed))
            assert list(mixed) == epochs[-1]
            assert len(epochs[-1]) == len(mixed)
            found = sorted(k for batch in epochs[-1] for k in batch)
            assert found == list(range(7)) if not drop_last else len(found) == len(set(found)) == 6
            assert all({k < 3 for k in batch} in ({True}, {False}) for batch in epochs[-1])
        assert len({str(epoch) for epoch in epochs}) > 1


def test_contexts_that_do_not_fit(folder):
    found = SliceDataset(folder)[0]
    with pytest.raises(DataError, match=r"a\.h5: expected an acquisition of CORPDFS_FBK, got 'CORPD_FBK'"):
        collate([found], acquisitions=("CORPDFS_FBK",))
    with pytest.raises(ConfigError, match="context_features of at least 2"):
        collate([found], acquisitions=("a", "b"), context_features=1)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_is_the_same_with_workers(folder, workers):
    """Workers are forked after the file was opened, and live on from epoch to epoch."""
    dataset = SliceDataset(folder, RandomColumns((0.2,), (2,)), random_masks=True)
    plain = SliceDataset(folder, RandomColumns((0.2,), (2,)), random_masks=True)
    assert dataset[0].index == 0
    loader = slice_loader(dataset, 2, shuffle=True, workers=workers)
    assert len(loader) == 4
    orders = []
    for epoch in range(2):
        set_epoch(loader, epoch)
        plain.set_epoch(epoch)
        batches = list(loader)
        orders.append([(batch.volumes, batch.indices) for batch in batches])
        for batch in batches:
            for row, (name, index) in enumerate(zip(batch.volumes, batch.indices, strict=True)):
                expected = plain[index + 3 * (name == "b.h5")]
                assert torch.equal(batch.observation.operator.mask[row].flatten(), expected.mask)
                assert torch.equal(batch.observation.data[row], expected.kspace * expected.mask)
                assert torch.equal(batch.target[row], expected.target)
    assert orders[0] != orders[1]


def test_a_pickled_data_set_reads_on(folder):
    dataset = SliceDataset(folder)
    before = dataset[4]
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[4].kspace, before.kspace)


def test_not_all_files_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr("invertible.data.mri.open_files.LIMIT", 2)
    assert LIMIT > 2
    for name in "abcd":
        write(tmp_path / f"{name}.h5", slices=1)
    dataset = SliceDataset(tmp_path)
    names = [dataset[k].volume for k in (0, 1, 2, 3, 0, 3)]
    assert names == ["a.h5", "b.h5", "c.h5", "d.h5", "a.h5", "d.h5"]
    assert len(dataset._files._files) == 2
    dataset._files.close()
    assert dataset[1].volume == "b.h5"
