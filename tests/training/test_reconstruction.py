"""Models that reconstruct: their losses, data in batches, simulation where there are none, recipes."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from invertible import recipes
from invertible.data.mri import Shipped, SliceDataset, collate, read_header
from invertible.errors import ConfigError, DataError
from invertible.image_metrics import structural_similarity
from invertible.physics.fourier import root_sum_of_squares
from invertible.physics.masks import EquispacedColumns, RandomColumns
from invertible.training import Reconstruction, Schedule
from invertible.training.batches import Share
from invertible.training.preparation import build_reconstructor
from invertible.training.reconstruction import VolumeScores, slice_losses
from invertible.training.reconstruction_module import ReconstructionModule
from invertible.training.reconstruction_sections import Scans
from invertible.training.scan_data import ScanData
from invertible.training.scan_folder import provide_scans, scan_folder
from tests.data.mri_files import ball, nifti
from tests.training.scans import IRIM, RIM, UNET, add_volume, write_scans
from tests.training.tiny import recipe


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("INVERTIBLE_DATA_DIR", raising=False)
    monkeypatch.setattr("invertible.data.places.cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return write_scans(tmp_path_factory.mktemp("scans"))


def data_of(folder, *overrides, raw=IRIM) -> ScanData:
    return ScanData(recipe(raw, f"data.name={folder}", *overrides), None)


@pytest.fixture
def batch(scans):
    slices = SliceDataset(scans / "train", RandomColumns((0.2,), (2,)))
    return collate([slices[k] for k in (0, 1, 5)])


@pytest.mark.parametrize("loss", ["ssim", "l1", "mse"])
def test_losses_are_of_magnitudes_over_the_volumes_maximum(scans, batch, loss):
    estimate = batch.observation.backprojection()
    magnitude = root_sum_of_squares(estimate, 1)
    maxima = [read_header(scans / "train" / name).maximum for name in batch.volumes]
    expected = []
    for x, t, top in zip(magnitude, batch.target, maxima, strict=True):
        x, t = x / top, t / top
        similar = 1 - structural_similarity(t[None], x[None], torch.ones(1))[0]
        expected.append({"ssim": similar, "l1": (x - t).abs().mean(), "mse": (x - t).pow(2).mean()}[loss])
    found = slice_losses(loss, batch, estimate)
    assert torch.allclose(found, torch.stack(expected), rtol=1e-4)
    louder = replace(batch, target=batch.target * 7, maximum=batch.maximum * 7)
    assert torch.allclose(slice_losses(loss, louder, estimate * 7), found, rtol=1e-4)
    assert slice_losses(loss, batch, estimate).max() > 0.001


@pytest.mark.parametrize(("weights", "shares"), [([], [1, 1, 1]), ([0, 1, 3], [0, 1, 3])])
def test_the_loss_over_all_steps_is_their_weighted_mean(batch, weights, shares):
    model = build_reconstructor(recipe(RIM))
    section = Reconstruction(loss="mse", over="all", weights=tuple(weights))
    module = ReconstructionModule(model, reconstruction=section)
    each = torch.stack([slice_losses("mse", batch, one) for one in model.estimates(batch.observation)])
    expected = (each * torch.tensor(shares)[:, None]).sum(0) / sum(shares)
    assert torch.allclose(module._losses(batch, module(batch)), expected, rtol=1e-5)
    last = ReconstructionModule(model, reconstruction=Reconstruction(loss="mse"))
    assert torch.allclose(last._losses(batch, last(batch)), each[-1], rtol=1e-5)


def test_weights_are_as_many_as_steps(batch):
    section = Reconstruction(over="all", weights=(1, 1))
    module = ReconstructionModule(build_reconstructor(recipe(RIM)), reconstruction=section)
    with pytest.raises(ConfigError, match=r"reconstruction.weights: expected 3, one for each step of the model, got 2"):
        module._losses(batch, module(batch))


def test_slices_without_a_target_are_refused(batch):
    bare = replace(batch, target=None)
    with pytest.raises(DataError, match="train0.h5: expected slices with a target"):
        slice_losses("l1", bare, batch.observation.backprojection())
    with pytest.raises(DataError, match="expected slices with a target"):
        VolumeScores().add(bare, batch.target)


def test_slices_that_are_not_finite_are_counted(batch):
    scores, broken = VolumeScores(), batch.target.clone()
    broken[1, 3, 4] = torch.nan
    scores.add(batch, broken)
    first, second = scores.score().volumes
    assert (first.non_finite, second.non_finite) == (1, 0)
    assert first.ssim != first.ssim
    assert second.ssim == 1
    assert scores.score().mean("ssim") != scores.score().mean("ssim")


def keys_of(parcels, count):
    found = []
    for parcel, _ in zip(parcels, range(count), strict=False):
        batch = parcel.batch
        found.append((batch.volumes, batch.indices, batch.observation.data))
    return found


def same(a, b):
    return all(x[:2] == y[:2] and torch.equal(x[2], y[2]) for x, y in zip(a, b, strict=True))


def test_the_training_stream_begins_at_any_step(scans):
    data = data_of(scans)
    assert data.steps_per_epoch == 2
    whole = keys_of(data.stream(), 7)
    for start in (1, 2, 5):
        assert same(keys_of(data.stream(start), 7 - start), whole[start:])
    for epoch in (0, 1):
        seen = [key for names, rows, _ in whole[2 * epoch : 2 * epoch + 2] for key in zip(names, rows, strict=True)]
        assert len(set(seen)) == 8
    # Another order, and other masks for the same slices.
    assert not same(whole[:2], whole[2:4])
    assert not same(keys_of(data_of(scans, "training.seed=1").stream(), 2), whole[:2])


def test_other_processes_read_the_same(scans):
    assert same(keys_of(data_of(scans, "data.scans.workers=1").stream(1), 4), keys_of(data_of(scans).stream(1), 4))


def test_processes_share_every_batch_and_whole_volumes(scans):
    data = data_of(scans)
    whole, first, second = (keys_of(data.stream(share=Share(*each)), 2) for each in ((0, 1), (0, 2), (1, 2)))
    for all_of, *parts in zip(whole, first, second, strict=True):
        assert [part[1] for part in parts] == [all_of[1][0::2], all_of[1][1::2]]
    halves = [data._volumes("validation", "2x", Share(rank, 2)) for rank in (0, 1)]
    names = [{name for parcel in half for name in parcel.batch.volumes} for half in halves]
    assert names == [{"validation0.h5"}, {"validation1.h5"}]
    with pytest.raises(ConfigError, match="data.batch_size: expected a multiple of the 3 devices, got 4"):
        data.stream(share=Share(0, 3))


@pytest.mark.parametrize(("masks", "function"), [("random", RandomColumns), ("equispaced", EquispacedColumns)])
def test_validation_masks_are_the_volumes_own_at_each_acceleration(scans, masks, function):
    data = data_of(scans, f"data.scans.masks={masks}")
    assert data.names == ("2x", "3.5x")
    for name, fraction, acceleration in (("2x", 0.2, 2), ("3.5x", 0.1, 3.5)):
        batches = list(data.evaluation("validation", name) or ())
        assert [len(each) for each in batches] == [3, 1, 3, 1]
        for each in batches:
            expected = function((fraction,), (acceleration,))(16, each.volumes[0])
            assert torch.equal(each.observation.operator.mask[0, 0, 0], expected)
    assert data.evaluation("test", "2x") is not None


def test_volumes_of_several_sizes_train_in_batches_of_one(tmp_path):
    write_scans(tmp_path)
    add_volume(tmp_path / "train" / "wide.h5", size=20)
    shapes = {each[2].shape[-1] for each in keys_of(data_of(tmp_path).stream(), 3)}
    assert shapes == {16, 20}
    cropped = data_of(tmp_path, "data.scans.image_size=[12, 14]")
    assert {tuple(each[2].shape[-2:]) for each in keys_of(cropped.stream(), 3)} == {(12, 14)}
    whole = {tuple(each.observation.data.shape[-2:]) for each in cropped.evaluation("train", "2x") or ()}
    assert whole == {(16, 16), (20, 20)}


def test_context_and_coils_reach_the_model(tmp_path):
    write_scans(tmp_path / "coils", coils=3)
    known = ["data.scans.acquisitions=[CORPDFS_FBK, CORPD_FBK]", "data.scans.context_features=4"]
    made = recipe(IRIM, f"data.name={tmp_path / 'coils'}", "data.scans.coils=3", *known, "model.arguments.channels=16")
    (parcel, *_) = (each for each, _ in zip(ScanData(made, None).stream(), range(1), strict=False))
    assert parcel.batch.observation.context.tolist() == [[0, 1, 0, 0]] * 4
    assert build_reconstructor(made)(parcel.batch.observation).shape == (4, 6, 16, 16)
    sense = recipe(IRIM, f"data.name={tmp_path / 'coils'}", "data.scans.coils=3", "data.scans.sensitivities=true")
    (parcel, *_) = (each for each, _ in zip(ScanData(sense, None).stream(), range(1), strict=False))
    assert build_reconstructor(sense)(parcel.batch.observation).shape == (4, 2, 16, 16)


def test_fastmris_own_folders(tmp_path):
    write_scans(tmp_path, parts={"singlecoil_train": 1, "singlecoil_val": 1})
    write_scans(tmp_path, coils=2, parts={"multicoil_train": 1, "multicoil_val": 1})
    assert [each.name for each in data_of(tmp_path).headers["validation"]] == ["singlecoil_val0.h5"]
    assert data_of(tmp_path, "data.scans.coils=2").headers["train"][0].coils == 2


WRONG = {
    "no folder": ({}, [], r"data.name: expected a folder of MRI scans, found none at .*mri-simulate"),
    "no validation": ({"train": 1}, [], r"expected the folders train and validation, or singlecoil_train .* no valida"),
    "other coils": (
        {"train": 1, "validation": 1}, ["data.scans.coils=4"], r"train0.h5: expected 4 coils, as .* has it, got 1",
    ),
    "another acquisition": (
        {"train": 1, "validation": 1}, ["data.scans.acquisitions=[AXT2]"], "an acquisition of AXT2, got CORPD_FBK",
    ),
    "no such target": (
        {"train": 1, "validation": 1}, ["data.scans.target=noise_free"], r"expected data sets noise_free",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("parts", "changes", "expected"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_with_a_folder(tmp_path, parts, changes, expected):
    folder = tmp_path / "given"
    if parts:
        write_scans(folder, parts=parts)
    with pytest.raises(DataError, match=expected):
        data_of(folder, *changes)


def test_what_is_wrong_with_volumes(tmp_path):
    write_scans(tmp_path)
    add_volume(tmp_path / "train" / "bare.h5", target=False)
    with pytest.raises(DataError, match=r"bare.h5: expected a target to learn from, .* got a volume without"):
        data_of(tmp_path)
    (tmp_path / "train" / "bare.h5").unlink()
    for path in (tmp_path / "validation").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"validation: expected files that end in .h5 or .hdf5, got none"):
        data_of(tmp_path)
    add_volume(tmp_path / "validation" / "small.h5", size=6)
    with pytest.raises(DataError, match=r"small.h5: expected targets of at least 7 x 7 pixels"):
        data_of(tmp_path)


def simulating(tmp_path, **changes) -> Scans:
    files = {part: (str(nifti(tmp_path / f"{part}.nii", ball())),) for part in ("train", "validation", "test")}
    return Scans.model_validate({"simulate": {"size": 16, "slices_per_axis": 2, "axes": ["axial"], **files, **changes}})


def test_scans_are_simulated_once_where_there_are_none(tmp_path, cache):
    told = []
    section = simulating(tmp_path)
    folder, written = provide_scans("heads", section, None, lambda *each: told.append(each))
    assert folder.parent == cache
    assert [each.split for each in written] == ["train", "validation", "test"]
    assert told[-1][:2] == (3, 3)
    assert provide_scans("heads", section, None) == (folder, [])
    assert scan_folder("heads", section, None) == folder
    made = recipe(IRIM, "data.name=heads", f"data.scans={json.dumps(section.model_dump(mode='json'))}")
    assert ScanData(made, None).simulated
    # Another way to simulate has another folder, a folder of the name comes first, and nothing else is left.
    assert provide_scans("heads", simulating(tmp_path, seed=1), None)[0] != folder
    (tmp_path / "data" / "heads").mkdir(parents=True)
    assert provide_scans("heads", section, tmp_path / "data")[0] == tmp_path / "data" / "heads"
    assert len([each for each in cache.iterdir() if each.name.startswith(("heads", "."))]) == 2


def test_a_volume_that_is_missing_is_named_with_its_install_line(tmp_path, monkeypatch):
    monkeypatch.setattr(Shipped, "is_here", False)
    section = simulating(tmp_path, train=["ch2"])
    with pytest.raises(DataError, match="ch2: expected its file .* Run apt install mricron-data"):
        provide_scans("heads", section, None)


SECTIONS = {
    "fractions": ("data.scans.centre_fractions=[0.1]", "expected a centre fraction for each of 2 accelerations, got 1"),
    "twice": ("data.scans.accelerations=[2, 2]", r"expected accelerations that differ, got \[2.*, 2"),
    "slower": ("data.scans.accelerations=[0.5, 2]", "accelerations.0: expected a number of at least 1"),
    "context": ("data.scans={acquisitions: [a, b], context_features: 1}", "context_features of at least the 2"),
    "unknown": ("data.scans.mask=random", "data.scans.mask is unknown. Did you mean data.scans.masks?"),
    "loss": ("reconstruction.loss=l2", "reconstruction.loss: expected one of 'ssim', 'l1', 'mse', got 'l2'"),
    "weights": ("reconstruction.weights=[1, 2]", "expected weights with over: all alone"),
    "flip": ("data.flip=true", "data.flip is for flows and classifiers; irim is a reconstructor"),
    "monitor": ("training.monitor={}", "training.monitor is for flows; irim is a reconstructor"),
    "stream": ("data.stream={}", "data.stream is for classifiers; irim is a reconstructor"),
    "epochs": ("schedule.every_epochs=2", "expected every_epochs with name: step alone, got 2 for cosine"),
}


@pytest.mark.parametrize(("change", "expected"), SECTIONS.values(), ids=SECTIONS.keys())
def test_what_a_recipe_may_not_say(change, expected):
    with pytest.raises(ConfigError, match=expected):
        recipe(IRIM, change)


def test_what_the_data_decide_is_not_an_argument():
    with pytest.raises(ConfigError, match=r"image_channels: expected 2, as the data set scans has it, got 4"):
        build_reconstructor(recipe(UNET, "model.arguments.image_channels=4"))


def test_a_module_alone_does_not_count_epochs():
    model = build_reconstructor(recipe(UNET))
    with pytest.raises(ConfigError, match="ReconstructionModule: expected a schedule in steps, got every_epochs=30"):
        ReconstructionModule(model, schedule=Schedule(name="step", every_epochs=30))


MRI = [name for name in recipes.names() if recipes.load(name).kind == "reconstructor"]


@pytest.mark.parametrize("name", MRI)
def test_shipped_recipes_build_their_model(name):
    made = recipes.load(name)
    with torch.device("meta"):
        model = build_reconstructor(made)
    expected = {"irim-mri-singlecoil": 275_247_552, "irim-mri-multicoil": 329_670_304}
    count = sum(each.numel() for each in model.parameters())
    assert count == expected.get(name, count)
    assert made.data.scans is not None
    assert (made.data.scans.simulate is not None) == name.endswith("small")


def test_the_published_settings():
    single, multi = (recipes.load(f"irim-mri-{each}") for each in ("singlecoil", "multicoil"))
    for made, batch_size, coils in ((single, 8, 1), (multi, 32, 15)):
        scans = made.data.scans
        assert scans is not None
        assert (made.data.batch_size, scans.coils, scans.image_size, scans.context_features) == (
            batch_size, coils, (368, 368), 8,
        )  # fmt: skip
        assert (scans.accelerations, scans.centre_fractions, scans.masks) == ((4, 8), (0.08, 0.04), "random")
        assert (made.optimizer.name, made.optimizer.lr, made.training.epochs) == ("adam", 1e-4, 50)
        assert (made.schedule.name, made.schedule.every_epochs, made.schedule.factor) == ("step", 30, 0.1)
        assert made.training.memory == "reversible"
        assert made.reconstruction in (None, Reconstruction())


def test_recipes_do_not_change_what_they_are_made_of():
    raw = copy.deepcopy(IRIM)
    recipe(IRIM, "data.scans.coils=2")
    assert raw == IRIM
