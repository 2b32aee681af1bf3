"""`invertible data mri-simulate` and `mri-volumes`."""

import pytest

from invertible import cli
from tests.data.mri_files import ball, nifti

pytest.importorskip("h5py", reason="h5py is not installed")
pytest.importorskip("nibabel", reason="nibabel is not installed")


@pytest.fixture
def typed(capsys, tmp_path, monkeypatch):
    """Run a command in a folder with three made-up heads: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    for name, size in (("a", 16), ("b", 14), ("c", 12)):
        nifti(tmp_path / f"{name}.nii", ball(size))

    def run(line):
        status = cli.main(f"data {line}".split())
        return status, *capsys.readouterr()

    return run


HEADS = "--train a.nii --validation b.nii --test c.nii"


def test_a_folder_is_simulated_and_said_to_be(typed, tmp_path):
    line = f"mri-simulate out {HEADS} --size 16 --slices-per-axis 2 --coils 2 --snr 20 --axes axial,coronal"
    status, out, err = typed(line)
    assert (status, err) == (0, "")
    for name in ("train/a-axial.h5", "train/a-coronal.h5", "validation/b-axial.h5", "test/c-coronal.h5"):
        assert name in out
        assert (tmp_path / "out" / name).is_file()
    assert "simulated k-space" in out
    assert "SIMULATED, not measured: 16 x 16 pixels, 2 coils, white noise at 20 dB" in out
    assert "12" in next(row for row in out.splitlines() if row.strip().startswith("all"))
    assert typed(line)[0] == 2
    assert typed(f"{line} --force --snr inf")[:2][0] == 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mri-simulate out --train ch3", "one of 'ch2', 'ch2bet', 'kmeans-t1', 'mni152', 'inia19', 'example4d', 'dipy-s0', got"),
        ("mri-simulate out --train ch2 --test ch2bet", "got 'ch2' in train and 'ch2bet' in test, both of one person"),
        (f"mri-simulate out {HEADS} --axes axial,oblique", "axes to be one of 'sagittal', 'coronal', 'axial', got 'oblique'"),
        (f"mri-simulate out {HEADS} --axes axial,,coronal", "names with commas between"),
        ("mri-simulate out --train a.nii --test a.nii", "each volume in one split, got 'a.nii' in several"),
        ("mri-simulate out --train none.nii", "none.nii: expected a volume in the NIfTI format"),
        (f"mri-simulate out {HEADS} --size 4", "Invalid value for '--size'"),
        (f"mri-simulate out {HEADS} --snr nan", "finite snr"),
        (f"mri-simulate a.nii {HEADS}", "a.nii: expected a folder to write to, got a file"),
        (f"mri-simulate . {HEADS}", "new or empty, got one with files"),
        ("mri-simulate", "Missing argument 'out'"),
        ("mri-simulat", "No such command 'mri-simulat'"),
        ("--data-dri .", "No such option: --data-dri"),
    ],
)  # fmt: skip
def test_wrong_use(typed, tmp_path, line, expected):
    status, out, err = typed(line)
    assert status == 2
    assert not out
    assert expected.lower() in err.lower()
    assert not (tmp_path / "out").exists()


def test_volumes_are_listed(typed):
    status, out, _ = typed("mri-volumes")
    assert status == 0
    assert "apt install mricron-data" in out or "yes" in out
    for name in ("ch2", "ch2bet", "kmeans-t1", "mni152", "inia19", "example4d", "dipy-s0"):
        assert name in out
