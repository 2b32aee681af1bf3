"""fastMRI's HDF5: what is written is read to the bit, damaged files are named, headers are kept."""

import sys

import numpy as np
import pytest
import torch

from invertible.data.mri import SliceDataset, VolumeFolder, read_header, write_reconstructions, write_volume
from invertible.errors import ConfigError, DataError, DomainError, MissingDependencyError, ShapeError
from tests.data.mri_files import write

h5py = pytest.importorskip("h5py", reason="h5py is not installed")


@pytest.mark.parametrize("coils", [0, 3])
@pytest.mark.parametrize("compress", [False, True])
def test_round_trip(tmp_path, coils, compress):
    path = tmp_path / "file1.h5"
    kspace, target = write(path, coils=coils, compress=compress)
    header = read_header(path)
    assert (header.slices, header.coils, header.multicoil) == (3, max(coils, 1), coils > 0)
    assert (header.shape, header.crop, header.acquired) == ((12, 10), (8, 8), (0, 10))
    assert (header.acquisition, header.patient, header.simulated) == ("CORPD_FBK", "p", False)
    assert header.maximum == pytest.approx(target.max().item())
    dataset = SliceDataset(path)
    for index in range(3):
        found = dataset[index]
        assert torch.equal(found.kspace, kspace[index] if coils else kspace[index][None])
        assert torch.equal(found.target, target[index])
        assert (found.volume, found.index, found.crop, found.maximum) == ("file1.h5", index, (8, 8), header.maximum)
        assert found.mask.all()


def test_the_schema_is_fastmris(tmp_path):
    write(tmp_path / "single.h5")
    write(tmp_path / "multi.h5", coils=2)
    with h5py.File(tmp_path / "single.h5") as single, h5py.File(tmp_path / "multi.h5") as multi:
        assert set(single) == {"kspace", "ismrmrd_header", "reconstruction_esc"}
        assert set(multi) == {"kspace", "ismrmrd_header", "reconstruction_rss"}
        assert (single["kspace"].shape, multi["kspace"].shape) == ((3, 12, 10), (3, 2, 12, 10))
        assert (single["kspace"].dtype, single["reconstruction_esc"].dtype) == (np.complex64, np.float32)
        assert {"acquisition", "max", "norm", "patient_id"} <= set(single.attrs)
        assert single.attrs["norm"] == pytest.approx(np.linalg.norm(single["reconstruction_esc"]), rel=1e-6)


def edit(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def replace(file, name, value):
    del file[name]
    file[name] = value


DAMAGE = {
    "no HDF5": (lambda path: path.write_text("kspace"), "an HDF5 file that is whole"),
    "empty": (lambda path: path.write_bytes(b""), "an HDF5 file that is whole"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-500]), "an HDF5 file that is whole"),
    "no k-space": (
        lambda path: edit(path, lambda f: f.pop("kspace")),
        "expected a data set kspace, got ismrmrd_header",
    ),
    "real": (lambda path: edit(path, lambda f: replace(f, "kspace", np.ones((3, 12, 10)))), "a complex dtype, got"),
    "flat": (
        lambda path: edit(path, lambda f: replace(f, "kspace", np.ones((12, 10), complex))),
        r"of shape \(slices, height, width\)",
    ),
    "a slice missing": (
        lambda path: edit(path, lambda f: replace(f, "reconstruction_esc", np.ones((2, 8, 8), np.float32))),
        "expected reconstruction_esc of 3 slices of at most 12 x 10 pixels",
    ),
    "too large a target": (
        lambda path: edit(path, lambda f: replace(f, "reconstruction_esc", np.ones((3, 8, 11), np.float32))),
        r"at most 12 x 10 pixels, as kspace has, got shape \(3, 8, 11\)",
    ),
    "another mask": (
        lambda path: edit(path, lambda f: f.create_dataset("mask", data=np.ones(9))),
        r"expected mask of shape \(10,\)",
    ),
    "header": (lambda path: edit(path, lambda f: replace(f, "ismrmrd_header", b"<a>")), "an ISMRMRD header in XML"),
    "header without sizes": (
        lambda path: edit(path, lambda f: replace(f, "ismrmrd_header", b"<a/>")),
        "with no reconSpace/matrixSize/x",
    ),
    "maximum": (lambda path: edit(path, lambda f: f.attrs.modify("max", np.nan)), "a finite attribute max, got nan"),
}


@pytest.mark.parametrize(("damage", "expected"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_is_left_out_by_name_or_refused(tmp_path, damage, expected):
    write(tmp_path / "good.h5")
    write(tmp_path / "bad.h5")
    damage(tmp_path / "bad.h5")
    with pytest.warns(UserWarning, match=rf"left out 1 files.*bad\.h5: .*{expected}"):
        folder = VolumeFolder(tmp_path)
    assert [header.name for header in folder] == ["good.h5"]
    assert list(folder.problems) == ["bad.h5"]
    assert "1 volumes, 1 files left out" in repr(folder)
    with pytest.raises(DataError, match=rf"bad\.h5: .*{expected}"):
        VolumeFolder(tmp_path, "raise")
    (tmp_path / "good.h5").unlink()
    with pytest.raises(DataError, match=r"got none that can be read.*bad\.h5"):
        VolumeFolder(tmp_path)


def test_values_that_are_not_finite_name_file_and_slice(tmp_path):
    write(tmp_path / "a.h5")
    edit(tmp_path / "a.h5", lambda f: f["kspace"].__setitem__((1, 2, 3), np.nan))
    dataset = SliceDataset(tmp_path)
    assert dataset[0].kspace.isfinite().all()
    with pytest.raises(DataError, match=r"a\.h5: expected finite values in kspace, got NaN or infinity in slice 1"):
        dataset[1]


def test_a_slice_that_cannot_be_decompressed_is_named(tmp_path):
    write(tmp_path / "a.h5", compress=True)
    with h5py.File(tmp_path / "a.h5") as file:
        chunk = file["kspace"].id.get_chunk_info_by_coord((2, 0, 0))
    content = bytearray((tmp_path / "a.h5").read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    (tmp_path / "a.h5").write_bytes(content)
    dataset = SliceDataset(tmp_path)
    assert dataset[1].index == 1
    with pytest.raises(DataError, match=r"a\.h5: expected an HDF5 file with kspace in slice 2"):
        dataset[2]


def test_headers_are_kept_until_a_file_changes(tmp_path, monkeypatch):
    folder = tmp_path / "volumes"
    for name in "ab":
        write(folder / f"{name}.h5")
    read = []
    monkeypatch.setattr(
        "invertible.data.mri.folder.read_header", lambda path: read.append(path.name) or read_header(path)
    )
    first = VolumeFolder(folder)
    assert read == ["a.h5", "b.h5"]
    assert VolumeFolder(folder).headers == first.headers
    assert read == ["a.h5", "b.h5"]
    write(folder / "b.h5", slices=4)
    assert [header.slices for header in VolumeFolder(folder)] == [3, 4]
    assert read[2:] == ["b.h5"]
    VolumeFolder(folder, cache=False)
    assert read[3:] == ["a.h5", "b.h5"]


def test_a_damaged_index_is_made_again(tmp_path, cache):
    write(tmp_path / "v" / "a.h5")
    first = VolumeFolder(tmp_path / "v")
    (index,) = (cache / "mri").iterdir()
    for text in ("{", "[]", '{"version": 1, "files": {"a.h5": {"stamp": 1}}}'):
        index.write_text(text)
        assert VolumeFolder(tmp_path / "v").headers == first.headers


def test_folders_that_hold_no_volumes(tmp_path):
    with pytest.raises(DataError, match="found nothing there"):
        VolumeFolder(tmp_path / "none")
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=r"end in \.h5 or \.hdf5, got none\. It holds the folders train"):
        VolumeFolder(tmp_path)


def test_padding_and_size_stand_in_the_scanners_header(tmp_path):
    """As in fastMRI's reader: columns beyond the encoding limits are padding, tests are cropped to reconSpace."""
    write_volume(tmp_path / "a.h5", torch.randn(2, 12, 10, dtype=torch.complex64), mask=torch.arange(10) % 3 == 0)
    xml = (
        '<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>'
        "<encodedSpace><matrixSize><x>12</x><y>10</y><z>1</z></matrixSize></encodedSpace>"
        "<reconSpace><matrixSize><x>6</x><y>8</y><z>1</z></matrixSize></reconSpace><encodingLimits>"
        "<kspace_encoding_step_1><maximum>6</maximum><center>3</center></kspace_encoding_step_1>"
        "</encodingLimits></encoding></ismrmrdHeader>"
    )
    edit(tmp_path / "a.h5", lambda f: replace(f, "ismrmrd_header", xml.encode()))
    header = read_header(tmp_path / "a.h5")
    assert (header.target, header.maximum, header.measured) == (None, None, True)
    assert (header.crop, header.acquired) == ((6, 8), (2, 9))
    found = SliceDataset(tmp_path)[1]
    assert (found.target, found.maximum, found.crop) == (None, None, (6, 8))
    assert found.mask.nonzero().flatten().tolist() == [3, 6]
    edit(tmp_path / "a.h5", lambda f: f.pop("mask"))
    assert SliceDataset(tmp_path)[1].mask.nonzero().flatten().tolist() == [2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("text", [False, True], ids=["bytes", "text"])
def test_headers_as_bytes_and_as_text(tmp_path, text):
    write(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        xml = file["ismrmrd_header"][()]
    edit(tmp_path / "a.h5", lambda f: replace(f, "ismrmrd_header", xml.decode() if text else xml))
    assert read_header(tmp_path / "a.h5").crop == (8, 8)


def test_reconstructions(tmp_path):
    volumes = {"a.h5": torch.rand(2, 5, 5), "folder/b.h5": torch.rand(1, 4, 4)}
    paths = write_reconstructions(tmp_path / "out", volumes)
    assert [path.name for path in paths] == ["a.h5", "b.h5"]
    for path, volume in zip(paths, volumes.values(), strict=True):
        with h5py.File(path) as file:
            assert np.array_equal(file["reconstruction"][()], volume.numpy())
    (single,) = write_reconstructions(tmp_path / "one.h5", {"a.h5": volumes["a.h5"]})
    assert single == tmp_path / "one.h5"
    with pytest.raises(DataError, match="expected a folder for 2 volumes"):
        write_reconstructions(tmp_path / "two.h5", volumes)
    with pytest.raises(ShapeError, match=r"a\.h5 to be magnitudes"):
        write_reconstructions(tmp_path, {"a.h5": torch.rand(5, 5)})
    with pytest.raises(DomainError, match=r"finite values in a\.h5"):
        write_reconstructions(tmp_path, {"a.h5": torch.full((1, 5, 5), torch.nan)})


def test_what_is_not_written(tmp_path):
    good, path = torch.randn(2, 8, 8, dtype=torch.complex64), tmp_path / "a.h5"
    with pytest.raises(ShapeError, match="a complex dtype, got .* of float32"):
        write_volume(path, good.real)
    with pytest.raises(ShapeError, match="magnitudes of 2 slices of at most 8 x 8"):
        write_volume(path, good, torch.rand(3, 8, 8))
    with pytest.raises(ShapeError, match=r"mask of shape \(8,\)"):
        write_volume(path, good, mask=torch.ones(7))
    with pytest.raises(DomainError, match="finite values in kspace"):
        write_volume(path, good * torch.inf)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="a file that can be written"):
        write_volume(tmp_path / "file" / "a.h5", good)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file"]


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*paths):
        raise KeyboardInterrupt

    write(tmp_path / "a.h5")
    before = (tmp_path / "a.h5").read_bytes()
    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.h5", seed=1)
    assert [each.name for each in tmp_path.iterdir()] == ["a.h5"]
    assert (tmp_path / "a.h5").read_bytes() == before


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    write(tmp_path / "a.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'invertible\[mri\]'"):
        VolumeFolder(tmp_path)


def test_wrong_on_error(tmp_path, unchecked_types):
    write(tmp_path / "a.h5")
    with unchecked_types(), pytest.raises(ConfigError, match="'skip' or 'raise', got 'ignore'"):
        VolumeFolder(tmp_path, "ignore")
