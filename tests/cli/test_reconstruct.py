"""`invertible reconstruct` as typed."""

import json
import shlex

import pytest
import torch

from invertible import cli, models, saving
from invertible.cli import reconstruction
from invertible.data.mri import SliceDataset, collate, simulate, write_volume
from invertible.data.mri.simulation import Simulation
from invertible.image_metrics import nmse, psnr, ssim
from invertible.physics.masks import EquispacedColumns, RandomColumns
from invertible.reconstruction import reconstruct_volume
from tests.data.mri_files import write

h5py = pytest.importorskip("h5py", reason="h5py is not installed")

TINY = {"channels": 8, "hidden": (4, 4), "factors": (1, 2), "steps": 2}
FIGURES = {"nmse": nmse, "psnr": psnr, "ssim": ssim}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models, and folders of volumes: of two shapes, of coils with and without sensitivities, without target."""
    folder = tmp_path_factory.mktemp("reconstruct")
    torch.manual_seed(0)
    built = {
        "irim": models.irim("small", **TINY),
        "rim": models.rim(hidden=(4, 4), steps=2),
        "unet": models.unet(channels=2, levels=1),
        "two-coils": models.irim("small", image_channels=4, **{**TINY, "channels": 12}),
        "context": models.irim("small", context_features=3, **TINY),
        "flow": models.realnvp(2, layers=2, hidden=(8,)),
        "classifier": models.revnet(units=(1, 1), filters=(8, 8, 16), shape=(1, 8, 8)),
    }
    for name, model in built.items():
        metadata = {"acquisitions": json.dumps(["CORPD_FBK", "other"])} if name == "context" else None
        saving.save(model.eval(), folder / f"{name}.safetensors", metadata=metadata)
    (folder / "run").mkdir()
    saving.save(built["irim"], folder / "run" / "model.safetensors")
    for place in ("knees", "coils", "maps", "unknown"):
        (folder / place).mkdir()
    write(folder / "knees" / "a.h5", shape=(16, 20), crop=(12, 12))
    write(folder / "knees" / "b.h5", slices=2, shape=(18, 16), crop=(10, 10), seed=1)
    write(folder / "coils" / "c.h5", coils=2, shape=(16, 16), crop=(12, 12))
    scan = simulate(torch.rand(2, 16, 16), Simulation(size=16, coils=2), generator=0)
    told = {"simulated": 1, "acquisition": "SIMULATED", "patient_id": "p"}
    maps = {"sensitivities": scan.sensitivities[None]}
    write_volume(folder / "maps" / "d.h5", scan.kspace, scan.target, attributes=told, others=maps)
    write_volume(folder / "unknown" / "e.h5", scan.kspace[:, 0], mask=torch.arange(16) % 3 > 0)
    return folder


@pytest.fixture
def typed(capsys, folder, tmp_path, monkeypatch):
    """Run `invertible reconstruct` in an empty folder: exit status, stdout, stderr. `{}` stands for the fixture's."""
    monkeypatch.chdir(tmp_path)

    def run(line):
        status = cli.main(["reconstruct", *shlex.split(line.replace("{}", str(folder)))])
        return status, *capsys.readouterr()

    return run


def images(path):
    with h5py.File(path) as file:
        return torch.from_numpy(file["reconstruction"][...])


def cells(out, name):
    return next(line.split() for line in out.splitlines() if line.strip().startswith(name))


def by_hand(path, mask, method):
    """Magnitudes of a model or zero-filled, and the target, from the data set itself."""
    batch = collate(list(SliceDataset(path, mask)))
    with torch.no_grad():
        found = batch.magnitude(batch.observation.backprojection() if method is None else method(batch.observation))
    return found, batch.target


@pytest.mark.parametrize("name", ["irim", "rim", "unet", "run"])
def test_what_is_written_and_told_is_what_python_makes(typed, folder, tmp_path, name):
    path = folder / name if name == "run" else folder / f"{name}.safetensors"
    status, out, err = typed(f"{path} {{}}/knees -o out --json a.json --batch 2")
    assert (status, err) == (0, "")
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["a.h5", "b.h5"]
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["left_out"] == {}
    model = saving.load(path / "model.safetensors" if name == "run" else path)
    for each in record["volumes"]:
        source, mask = folder / "knees" / each["volume"], RandomColumns((0.08,), (4,))
        found, target = by_hand(source, mask, model)
        start, _ = by_hand(source, mask, None)
        assert torch.allclose(images(each["out"]), found, atol=1e-6)
        expected = [float(figure(target, volume)) for volume in (found, start) for figure in FIGURES.values()]
        told = [each[which][figure] for which in ("reconstruction", "zero_filled") for figure in FIGURES]
        assert told == pytest.approx(expected, rel=1e-5)
        row = cells(out, each["volume"])
        columns = int(mask(target_width(source), each["volume"]).sum())
        assert row[1:5] == [str(len(found)), str(columns), "of", str(target_width(source))]
        assert [float(cell) for cell in row[5:]] == pytest.approx(expected, abs=0.006)


def target_width(path):
    with h5py.File(path) as file:
        return file["kspace"].shape[-1]


def test_a_file_goes_to_a_file(typed, tmp_path):
    assert typed("{}/irim.safetensors {}/knees/b.h5 -o deep/out.h5 --png p.png")[0] == 0
    assert images(tmp_path / "deep" / "out.h5").shape == (2, 10, 10)
    assert [each.name for each in (tmp_path / "deep").iterdir()] == ["out.h5"]
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    assert typed("{}/irim.safetensors {}/knees/b.h5 -o into --slices 1:")[0] == 0
    with h5py.File(tmp_path / "into" / "b.h5") as file:
        assert file.attrs["first_slice"] == 1
        assert file["reconstruction"].shape == (1, 10, 10)
    whole = images(tmp_path / "deep" / "out.h5")
    assert torch.allclose(images(tmp_path / "into" / "b.h5")[0], whole[1], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "mask"),
    [
        ("--acceleration 8", RandomColumns((0.04,), (8,))),
        ("--acceleration 2 --center-fraction 0.2", RandomColumns((0.2,), (2,))),
        ("--acceleration 2 --centre-fraction 0.2 --mask equispaced", EquispacedColumns((0.2,), (2,))),
        ("--acceleration 1", None),
    ],
)
def test_the_columns_are_fastmri_s(typed, folder, tmp_path, options, mask):
    assert typed(f"--baseline zero-filled {{}}/knees -o out {options}")[0] == 0
    expected, _ = by_hand(folder / "knees" / "a.h5", mask, None)
    assert torch.allclose(images(tmp_path / "out" / "a.h5"), expected, atol=1e-6)


def test_a_seed_draws_other_columns(typed, tmp_path):
    found = []
    for number, seed in enumerate(("", "--seed 1", "--seed 1", "--seed 2")):
        assert typed(f"--baseline zero-filled {{}}/knees/a.h5 -o {number}.h5 {seed}")[0] == 0
        found.append(images(tmp_path / f"{number}.h5"))
    assert torch.equal(found[1], found[2])
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[3])


def test_a_file_s_own_mask_is_kept_and_without_target_nothing_is_judged(typed, folder, tmp_path):
    status, out, _ = typed("{}/irim.safetensors {}/unknown -o out --mask file --json a.json --png p.png")
    assert status == 0
    assert "NMSE" not in out
    assert cells(out, "e.h5")[1:] == ["2", "10", "of", "16"]
    record = json.loads((tmp_path / "a.json").read_text())["volumes"][0]
    assert (record["reconstruction"], record["measured_columns"]) == (None, 10)
    expected, _ = by_hand(folder / "unknown" / "e.h5", None, saving.load(folder / "irim.safetensors"))
    assert torch.allclose(images(tmp_path / "out" / "e.h5"), expected, atol=1e-6)
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_coils(typed, folder, tmp_path):
    """As many as the model has, or one image by sensitivities; simulated k-space is called that."""
    assert typed("{}/two-coils.safetensors {}/coils -o out")[0] == 0
    status, out, _ = typed("{}/irim.safetensors {}/maps -o maps --json a.json")
    assert status == 0
    assert "irim, SIMULATED k-space" in out
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["simulated"]
    batch = collate(list(SliceDataset(folder / "maps", RandomColumns((0.08,), (4,)), sensitivities="file")))
    with torch.no_grad():
        expected = batch.magnitude(saving.load(folder / "irim.safetensors")(batch.observation))
    assert torch.allclose(images(tmp_path / "maps" / "d.h5"), expected, atol=1e-6)
    for model, files, message in (
        ("irim", "coils", "expected one coil, or sensitivities beside k-space, for a model of 2 channels"),
        ("two-coils", "knees", "expected as many coils, for a model of 4 channels"),
    ):
        status, _, err = typed(f"{{}}/{model}.safetensors {{}}/{files} -o no")
        assert status == 2
        assert message in err
        assert not (tmp_path / "no").exists()


def test_a_model_s_context(typed, folder, tmp_path):
    assert typed("{}/context.safetensors {}/knees -o out")[0] == 0
    assert typed("{}/context.safetensors {}/knees -o two --acquisitions other,CORPD_FBK")[0] == 0
    assert not torch.equal(images(tmp_path / "out" / "a.h5"), images(tmp_path / "two" / "a.h5"))
    model = saving.load(folder / "context.safetensors")
    saving.save(model, tmp_path / "bare.safetensors")
    status, _, err = typed("bare.safetensors {}/knees -o three")
    assert status == 2
    assert "expected acquisitions, for the model takes a context of 3 features" in err
    status, _, err = typed("{}/context.safetensors {}/knees -o three --acquisitions other")
    assert status == 1
    assert "a.h5: expected an acquisition of other, got 'CORPD_FBK'" in err
    saving.save(model, tmp_path / "wrong.safetensors", metadata={"acquisitions": "{"})
    assert "acquisitions as a list in JSON" in typed("wrong.safetensors {}/knees -o three")[2]


@pytest.mark.parametrize(("name", "weight"), [("tv", 1e-2), ("least-squares", 0.5)])
def test_baselines(typed, folder, tmp_path, name, weight):
    from invertible.physics.baselines import baseline

    assert typed(f"--baseline {name} --weight {weight} {{}}/maps/d.h5 -o out.h5")[0] == 0
    batch = collate(list(SliceDataset(folder / "maps", RandomColumns((0.08,), (4,)), sensitivities="file")))
    expected = batch.magnitude(baseline(name, weight)(batch.observation))
    assert torch.allclose(images(tmp_path / "out.h5"), expected, atol=1e-5)


def spoiled(folder, tmp_path):
    """Both knees, one value of the second not a number, and a file that is none."""
    (tmp_path / "knees").mkdir()
    for name in ("a.h5", "b.h5"):
        (tmp_path / "knees" / name).write_bytes((folder / "knees" / name).read_bytes())
    with h5py.File(tmp_path / "knees" / "a.h5", "a") as file:
        file["kspace"][2, 0, 0] = float("nan")
    (tmp_path / "knees" / "none.h5").write_text("no HDF5")


def test_what_is_broken_is_named_and_the_others_go_on(typed, folder, tmp_path):
    spoiled(folder, tmp_path)
    status, out, err = typed("{}/irim.safetensors knees -o out --json a.json --png p.png")
    assert status == 1
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["b.h5"]
    assert "b.h5" in out
    assert "left out a.h5: knees/a.h5: expected finite values in kspace, got NaN or infinity in slice 2" in err
    assert "left out none.h5: knees/none.h5: expected an HDF5 file that is whole" in err
    assert sorted(json.loads((tmp_path / "a.json").read_text())["left_out"]) == ["a.h5", "none.h5"]


def test_a_model_that_has_diverged(typed, folder, tmp_path):
    model = saving.load(folder / "unet.safetensors")
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    saving.save(model, tmp_path / "nan.safetensors")
    status, _, err = typed("nan.safetensors {}/knees -o out")
    assert status == 1
    assert "knees/a.h5: Reconstructor: expected a finite result" in err
    assert not list((tmp_path / "out").iterdir())


def test_what_is_there_is_kept(typed, folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.h5").write_text("precious")
    status, _, err = typed("{}/irim.safetensors {}/knees -o out")
    assert status == 2
    assert "expected nothing there, got out/b.h5" in err
    assert (tmp_path / "out" / "b.h5").read_text() == "precious"
    assert not (tmp_path / "out" / "a.h5").exists()
    assert typed("{}/irim.safetensors {}/knees -o out --force")[0] == 0
    assert images(tmp_path / "out" / "b.h5").shape == (2, 10, 10)


def test_k_space_is_never_written_over(typed, folder, tmp_path):
    before = (folder / "knees" / "a.h5").read_bytes()
    for line in ("{}/knees -o {}/knees", "{}/knees/a.h5 -o {}/knees/a.h5", "{}/knees/a.h5 -o {}/knees"):
        status, _, err = typed(f"{{}}/irim.safetensors {line} --force")
        assert status == 2
        assert "expected another place than the k-space itself" in err
    assert (folder / "knees" / "a.h5").read_bytes() == before


def test_interrupted(typed, tmp_path, monkeypatch):
    def stopped(method, path, *args, **kwargs):
        if path.name == "b.h5":
            raise KeyboardInterrupt
        return reconstruct_volume(method, path, *args, **kwargs)

    monkeypatch.setattr(reconstruction, "reconstruct_volume", stopped)
    status, _, err = typed("{}/irim.safetensors {}/knees -o out --json a.json --png p.png")
    assert status == 130
    assert "1 of 2 volumes are complete in out" in err
    assert images(tmp_path / "out" / "a.h5").shape == (3, 12, 12)
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["a.h5", "out"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{}/none.safetensors {}/knees -o o", "none.safetensors, found none"),
        ("{}/knees/a.h5 {}/knees -o o", "expected a safetensors file at"),
        ("{}/knees {}/knees -o o", "model.safetensors, found none"),
        ("{}/irim.safetensors {}/nothing -o o", "nothing: expected a volume or a folder of them, found nothing"),
        ("{}/irim.safetensors {}/run -o o", "expected files that end in .h5 or .hdf5, got none"),
        ("{}/irim.safetensors {}/irim.safetensors -o o", "expected volumes in hdf5, got none that can be read"),
        ("{}/flow.safetensors {}/knees -o o", "expected a model that reconstructs, such as models.irim makes, got a flow"),
        ("{}/classifier.safetensors {}/knees -o o", "got a classifier"),
        ("{}/irim.safetensors -o o", "expected two paths, model and file.h5 or folder"),
        ("--baseline tv {}/irim.safetensors {}/knees -o o", "one path, of volumes, with --baseline"),
        ("--baseline sparse {}/knees -o o", "one of 'zero-filled', 'least-squares', 'tv', got 'sparse'"),
        ("--baseline zero-filled --weight 1 {}/knees -o o", "expected no weight for zero-filled"),
        ("--baseline tv --memory exact {}/knees -o o", "expected no --memory"),
        ("{}/irim.safetensors {}/knees -o o --weight 1", "expected --baseline with it"),
        ("{}/irim.safetensors {}/knees -o o --memory all", "one of"),
        ("{}/irim.safetensors {}/knees -o o.h5", "expected a folder for"),
        ("{}/irim.safetensors {}/knees -o o --mask radial", "one of 'random', 'equispaced', 'file', got 'radial'"),
        ("{}/irim.safetensors {}/knees -o o --mask file", "expected a mask in the file"),
        ("{}/irim.safetensors {}/knees -o o --mask file --seed 1", "expected no --acceleration, --center-fraction or --seed"),
        ("{}/irim.safetensors {}/knees -o o --acceleration 0.5", "invalid value for '--acceleration'"),
        ("{}/irim.safetensors {}/knees -o o --center-fraction 0.5", "expected a centre of fewer than"),
        ("{}/irim.safetensors {}/knees -o o --slices 3", "expected first:end"),
        ("{}/irim.safetensors {}/knees -o o --slices 2:2", "expected first below end"),
        ("{}/irim.safetensors {}/knees -o o --slices 7:9", "expected slices below 3, got --slices from 7"),
        ("{}/irim.safetensors {}/knees -o o --device abacus", "expected a device of this machine"),
        ("{}/irim.safetensors {}/knees", "missing option '--out'"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line_and_status_2(typed, tmp_path, line, expected):
    status, _, err = typed(line)
    assert status == 2, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err.lower(), err
    assert not list(tmp_path.rglob("*.h5"))


@pytest.mark.parametrize("line", ["score {}/irim.safetensors --data digits", "predict {}/irim.safetensors a.png"])
def test_other_commands_refuse_a_reconstructor(folder, capsys, line):
    assert cli.main(shlex.split(line.replace("{}", str(folder)))) == 2
    assert "got a model that reconstructs images. 'invertible reconstruct" in capsys.readouterr().err
