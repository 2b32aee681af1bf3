"""Simulated k-space: targets, coils, phase, noise, seeds, subjects; and the volumes it comes from."""

import math

import numpy as np
import pytest
import torch

from invertible.data.mri import (
    Shipped,
    Simulation,
    SliceDataset,
    Volume,
    VolumeFolder,
    coil_sensitivities,
    load_volume,
    random_phase,
    simulate,
    simulate_dataset,
    volumes,
)
from invertible.errors import ConfigError, DataError, DomainError, ShapeError
from invertible.physics.fourier import centred_ifft2
from tests.data.mri_files import ball, nifti, write

BALL = torch.from_numpy(ball()).float()


@pytest.mark.parametrize("coils", [1, 4])
@pytest.mark.parametrize("size", [16, 20, 33])
def test_k_space_reconstructs_to_the_target(coils, size):
    scan = simulate(BALL, Simulation(size=size, coils=coils), generator=0)
    images = centred_ifft2(scan.kspace)
    assert scan.kspace.shape == (20, *([coils] if coils > 1 else []), size, size)
    magnitude = images.abs() if coils == 1 else images.abs().square().sum(1).sqrt()
    assert torch.allclose(magnitude, scan.target, atol=1e-5)
    if coils > 1:
        combined = (scan.sensitivities.conj() * images).sum(1).abs()
        inside = scan.noise_free > 0.1
        assert (combined - scan.noise_free)[inside].abs().max() < 6 * scan.noise


@pytest.mark.parametrize("coils", [1, 3])
def test_without_noise_the_target_is_the_image(coils):
    scan = simulate(BALL, Simulation(size=24, coils=coils, snr=None), generator=0)
    assert scan.noise == 0
    assert torch.allclose(scan.target, scan.noise_free, atol=1e-5)
    # 20 x 20 pixels stand in the middle of 24 x 24, divided by their brightest.
    assert torch.allclose(scan.noise_free[:, 2:22, 2:22], BALL / BALL.max())
    assert not scan.noise_free[:, :2].any()


def test_the_phase_makes_k_space_asymmetric():
    def asymmetry(phase):
        k = simulate(BALL, Simulation(size=21, snr=None, phase=phase), generator=0).kspace
        return ((k - k.flip(1, 2).conj()).abs().square().sum() / k.abs().square().sum()).item()

    assert asymmetry(0.0) < 1e-10
    assert asymmetry(1.0) > 0.1


@pytest.mark.parametrize("snr", [0.0, 20.0, 40.0])
@pytest.mark.parametrize("coils", [1, 4])
def test_noise_is_as_asked(snr, coils):
    noisy, clean = (simulate(BALL, Simulation(size=20, coils=coils, snr=each), generator=3) for each in (snr, None))
    noise = (noisy.kspace - clean.kspace).abs().square().mean().item()
    signal = clean.noise_free[clean.noise_free > 0.1].square().mean().item()
    assert signal / noise == pytest.approx(10 ** (snr / 10), rel=0.05)
    assert noisy.noise**2 == pytest.approx(noise, rel=0.05)


@pytest.mark.parametrize("coils", [1, 2, 8, 32])
@pytest.mark.parametrize("shape", [(48, 48), (41, 60)])
def test_squares_of_sensitivities_sum_to_one_and_are_smooth(coils, shape):
    maps = coil_sensitivities(shape, coils, generator=coils)
    assert (maps.dtype, maps.shape) == (torch.complex64, (coils, *shape))
    assert torch.allclose(maps.abs().square().sum(0), torch.ones(shape), atol=1e-5)
    assert max(maps.diff(dim=axis).abs().max() for axis in (1, 2)) < 0.5
    if coils > 1:
        assert (maps.abs().amax((1, 2)) > 1.2 * maps.abs().mean((1, 2))).all(), "each coil sees one side best"


def test_sensitivities_obey_the_law_of_biot_and_savart():
    """Bx - i By of straight wires is analytic in x + i y: its derivatives satisfy Cauchy and Riemann's equations."""
    maps = coil_sensitivities((200, 200), 3, generator=0, normalise=False)[:, 60:140, 60:140]
    along_x, up_y = (maps[:, 1:-1, 2:] - maps[:, 1:-1, :-2]), (maps[:, :-2, 1:-1] - maps[:, 2:, 1:-1])
    assert ((1j * along_x - up_y).abs().max() / along_x.abs().max()).item() < 1e-3


@pytest.mark.parametrize("shape", [(1, 16, 16), (9, 20, 12), (1, 1, 1)])
def test_phase(shape):
    phase = random_phase(shape, 0.7, generator=1)
    assert phase.shape == shape
    if phase.numel() > 1:
        assert phase.std(correction=0).item() == pytest.approx(0.7, rel=1e-4)
        # At most two periods over the image, of waves: neighbours differ by far less than the deviation.
        assert phase.diff(dim=1).square().mean().sqrt() < 0.7
    assert random_phase((2, 4, 4), 0.0).abs().max() == 0
    with pytest.raises(ConfigError, match="a finite deviation of at least 0, got -1"):
        random_phase(shape, -1.0)


def test_pixels_become_square_and_images_fit():
    flat = torch.zeros(1, 10, 40)
    flat[:, 2:8, 10:30] = 1
    scan = simulate(flat, Simulation(size=30, snr=None), pixel=(2.0, 1.0), generator=0)
    # 20 x 40 mm on 30 pixels of 4/3 mm: 15 x 30 pixels, of which the box takes 9 x 15.
    rows, columns = scan.noise_free[0, 15].nonzero().flatten(), scan.noise_free[0, :, 15].nonzero().flatten()
    assert len(rows) in (15, 16, 17)
    assert len(columns) in (9, 10, 11)
    assert scan.noise_free.sum().item() == pytest.approx(9 * 15, rel=0.02)


def test_seeds():
    how = Simulation(size=16, coils=2)
    first = simulate(BALL, how, generator=5)
    assert torch.equal(simulate(BALL, how, generator=torch.Generator().manual_seed(5)).kspace, first.kspace)
    assert not torch.equal(simulate(BALL, how, generator=6).kspace, first.kspace)
    torch.manual_seed(1)
    free = simulate(BALL, how)
    torch.manual_seed(1)
    assert torch.equal(simulate(BALL, how).kspace, free.kspace)


def test_what_cannot_be_simulated():
    for wrong in (BALL[0], BALL.int(), BALL[:0]):
        with pytest.raises(ShapeError, match="simulate: expected images of shape"):
            simulate(wrong)
    for wrong in (-BALL, BALL * 0, BALL * math.nan):
        with pytest.raises(DomainError, match="finite and at least 0 and not all 0"):
            simulate(wrong)
    for arguments, message in (
        ({"size": 0}, "size to be an integer"),
        ({"snr": math.nan}, "finite snr in decibels, or None"),
        ({"phase": -1.0}, "finite phase of at least 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            Simulation(**arguments)


# Volumes and folders.


@pytest.fixture
def heads(tmp_path):
    """Three made-up heads as NIfTI files, one of them of other voxels and turned."""
    pytest.importorskip("nibabel", reason="nibabel is not installed")
    pytest.importorskip("h5py", reason="h5py is not installed")
    (tmp_path / "heads").mkdir()
    paths = {
        name: nifti(tmp_path / "heads" / f"{name}.nii.gz", ball(size))
        for name, size in zip("abc", (18, 16, 14), strict=True)
    }
    return {name: str(path) for name, path in paths.items()}


def test_axes_are_turned_to_the_body(tmp_path):
    pytest.importorskip("nibabel", reason="nibabel is not installed")
    import nibabel

    data = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    # Axes of this file grow to the left, the bottom and the front.
    affine = np.array([[-1.0, 0, 0, 0], [0, 0, 3, 0], [0, -2, 0, 0], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(data, affine), tmp_path / "head.nii")
    volume = load_volume(tmp_path / "head.nii")
    assert (volume.name, volume.voxel) == ("head", (1.0, 3.0, 2.0))
    assert np.array_equal(volume.data.numpy(), data[::-1, ::-1].transpose(0, 2, 1))
    images, pixel = volume.slices("axial")
    assert (images.shape, pixel) == ((3, 4, 2), (3.0, 1.0))
    assert torch.equal(images[0, 0], volume.data[:, -1, 0]), "the front is up"
    images, pixel = volume.slices("sagittal")
    assert (images.shape, pixel) == ((2, 3, 4), (2.0, 3.0))
    assert torch.equal(images[1, 0], volume.data[1, :, -1]), "the top is up"
    with pytest.raises(ConfigError, match="axis to be one of 'sagittal', 'coronal', 'axial', got 'z'"):
        volume.slices("z")


def test_volumes_that_cannot_be_read(tmp_path):
    pytest.importorskip("nibabel", reason="nibabel is not installed")
    with pytest.raises(ConfigError, match="one of 'ch2', 'ch2bet', 'kmeans-t1', 'mni152', .* got 'ch3'"):
        load_volume("ch3")
    (tmp_path / "a.nii").write_text("no volume")
    with pytest.raises(DataError, match=r"a\.nii: expected a volume in the NIfTI format"):
        load_volume(tmp_path / "a.nii")
    nifti(tmp_path / "b.nii", -ball(6).astype(np.int16))
    with pytest.raises(DataError, match=r"b\.nii: expected magnitudes"):
        load_volume(tmp_path / "b.nii")
    nifti(tmp_path / "c.nii", ball(6)[0])
    with pytest.raises(DataError, match=r"c\.nii: expected a volume of three axes"):
        load_volume(tmp_path / "c.nii")


def test_a_volume_that_is_not_here_names_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(Shipped, "is_here", False)
    for name, install in (("ch2", "apt install mricron-data"), ("mni152", "pip install nilearn")):
        with pytest.raises(DataError, match=rf"{name}: expected its file at .*, found none\. Run {install}\."):
            load_volume(name)


SHAPES = {
    "ch2": (181, 217, 181),
    "ch2bet": (181, 217, 181),
    "kmeans-t1": (128, 62, 128),
    "mni152": (197, 233, 189),
    "inia19": (168, 206, 128),
    "example4d": (128, 96, 24),
    "dipy-s0": (128, 128, 10),
}


@pytest.mark.parametrize("name", list(volumes()))
def test_volumes_of_packages(name):
    pytest.importorskip("nibabel", reason="nibabel is not installed")
    if not volumes()[name].is_here:
        pytest.skip(f"{name} is not here: {volumes()[name].install}")
    volume = load_volume(name)
    assert volume.data.shape == SHAPES[name]
    assert volume.subject == volumes()[name].subject
    assert isinstance(volume, Volume)
    assert volumes()[name].licence in volume.source


def test_a_folder_in_three_parts(tmp_path, heads):
    told = []
    out = tmp_path / "out"
    splits = {part: (heads[name],) for part, name in zip(("train", "validation", "test"), "abc", strict=True)}
    how = Simulation(size=16, coils=2)
    written = simulate_dataset(out, how, splits=splits, seed=3, progress=lambda *state: told.append(state))
    names = [
        f"{part}/{name}-{axis}.h5"
        for part, name in zip(splits, "abc", strict=True)
        for axis in ("sagittal", "coronal", "axial")
    ]
    assert [str(each.path.relative_to(out)) for each in written] == names
    assert told == [(k, 9, name) for k, name in enumerate([*names, ""])]
    assert sorted(each.name for each in out.iterdir()) == ["test", "train", "validation"]
    patients = {part: {header.patient for header in VolumeFolder(out / part)} for part in splits}
    assert patients == {"train": {"a"}, "validation": {"b"}, "test": {"c"}}
    dataset = SliceDataset(out / "test", sensitivities="file", target="noise_free")
    assert dataset.simulated
    assert repr(dataset) == f"SliceDataset({len(dataset)} slices of 3 volumes, SIMULATED k-space)"
    assert "SIMULATED from magnitude images of c " in dataset.headers[0].note
    assert "2 coils, white noise at 30 dB" in dataset.headers[0].note
    assert dataset.acquisitions == ("SIMULATED_AXIAL", "SIMULATED_CORONAL", "SIMULATED_SAGITTAL")
    found = dataset[len(dataset) // 2]
    combined = (found.sensitivities.conj() * centred_ifft2(found.kspace)).sum(0).abs()
    assert (combined - found.target)[found.target > 0.1].abs().max() < 0.2
    # Files depend on seed, volume and axis alone.
    again = simulate_dataset(tmp_path / "2", how, splits={"train": splits["test"]}, axes=("coronal",), seed=3)
    assert again[0].path.read_bytes() == (out / "test" / "c-coronal.h5").read_bytes()
    (other,) = simulate_dataset(tmp_path / "3", how, splits={"train": splits["test"]}, axes=("coronal",), seed=4)
    assert not torch.equal(SliceDataset(other.path)[0].kspace, SliceDataset(again[0].path)[0].kspace)


def test_fewer_slices_are_spread_over_the_volume(tmp_path, heads):
    h5py = pytest.importorskip("h5py")
    for count in (None, 4):
        (each,) = simulate_dataset(
            tmp_path / str(count),
            Simulation(size=16),
            splits={"test": (heads["a"],)},
            axes=("axial",),
            slices_per_axis=count,
        )
        with h5py.File(each.path) as file:
            chosen = file.attrs["source_slices"]
            assert len(chosen) == each.slices == len(file["kspace"])
        if count is None:
            assert 4 < len(chosen) < 18
            first = chosen
        else:
            assert set(chosen) < set(first)
            assert chosen[0] - first[0] <= 3 >= first[-1] - chosen[-1]


def test_splits_share_no_subject(tmp_path, heads):
    a, other = heads["a"], nifti(tmp_path / "a.nii", ball(12))
    with pytest.raises(ConfigError, match=r"each volume in one split, got .*a\.nii\.gz' in several"):
        simulate_dataset(tmp_path / "out", splits={"train": (a,), "test": (a,)})
    with pytest.raises(ConfigError, match="volumes of different names"):
        simulate_dataset(tmp_path / "out", splits={"train": (a,), "test": (str(other),)})
    with pytest.raises(ConfigError, match="splits to be one of 'train', 'validation', 'test', got 'val'"):
        simulate_dataset(tmp_path / "out", splits={"val": (a,)})
    with pytest.raises(ConfigError, match="axes, each axis once"):
        simulate_dataset(tmp_path / "out", splits={"train": (a,)}, axes=("axial", "axial"))
    assert not (tmp_path / "out").exists()


def test_existing_folders_are_kept(tmp_path, heads):
    out, splits, how = tmp_path / "out", {"train": (heads["a"],)}, Simulation(size=16)
    simulate_dataset(out, how, splits=splits)
    with pytest.raises(DataError, match="new or empty, got one with files"):
        simulate_dataset(out, how, splits=splits)
    simulate_dataset(out, how, splits={"test": (heads["b"],)}, axes=("axial",), overwrite=True)
    assert [path.name for path in out.rglob("*.h5")] == ["b-axial.h5"]
    write(out / "train" / "real.h5")
    with pytest.raises(DataError, match=r"real\.h5: expected simulated volumes to replace, got a measured one"):
        simulate_dataset(out, how, splits=splits, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="expected a folder to write to, got a file"):
        simulate_dataset(tmp_path / "file", how, splits=splits)


@pytest.mark.parametrize("was_there", [False, True])
def test_an_interruption_leaves_nothing(tmp_path, heads, was_there):
    def interrupt(done, total, name):
        if done == 2:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    if was_there:
        out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        simulate_dataset(out, Simulation(size=16), splits={"train": (heads["a"],)}, progress=interrupt)
    assert not out.exists() if not was_there else not any(out.iterdir())
