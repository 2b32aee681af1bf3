"""Runs are measured, kept, judged and drawn; what is broken says so."""

import json
import math

import pytest
import torch

from invertible import cli
from invertible.errors import ConfigError, DataError
from invertible.reproduce import EXPERIMENTS, Results, RunFailedError, Task, judge, measure_all, write
from invertible.reproduce.experiment import SCALES
from invertible.reproduce.page import page
from tests.reproduce.examples import Squares


def tasks_of(experiment):
    return [Task(experiment, run) for run in experiment.runs("quick", 0)]


def found_of(experiment, results):
    return [results.get(experiment, run) for run in experiment.runs("quick", 0)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_back_as_they_were_measured(tmp_path, jobs):
    experiment, results, heard = Squares(), Results(tmp_path, "cpu"), []
    before = torch.random.get_rng_state()
    measure_all(tasks_of(experiment), results, jobs=jobs, listen=lambda task, part: heard.append((str(task), part)))
    assert torch.equal(before, torch.random.get_rng_state())
    found = found_of(experiment, results)
    assert [each.numbers["square"] for each in found] == [1.0, 4.0, math.inf]
    assert math.isnan(found[0].numbers["list"][0])
    assert found[1].arrays["curve"].tolist() == pytest.approx(found[1].numbers["drawn"])
    ended = [name for name, part in heard if part == 1.0]
    assert sorted(ended) == sorted(str(task) for task in tasks_of(experiment))
    assert all(part < 1 for name, part in heard if (name, part) != (name, 1.0))


def test_a_result_is_kept_for_its_config_version_and_device(tmp_path):
    experiment = Squares()
    runs = experiment.runs("quick", 0) + experiment.runs("quick", 1) + experiment.runs("full", 0)
    paths = {Results(tmp_path, "cpu").path(experiment, run) for run in runs}
    paths |= {Results(tmp_path, "cuda").path(experiment, run) for run in runs}
    experiment.version = 2
    paths |= {Results(tmp_path, "cpu").path(experiment, run) for run in runs}
    assert len(paths) == 3 * len(runs)


@pytest.mark.parametrize("spoil", ["text", "field", "arrays"])
def test_a_spoilt_result_is_named(tmp_path, spoil):
    experiment, results = Squares(), Results(tmp_path, "cpu")
    measure_all(tasks_of(experiment), results, jobs=1)
    path = results.path(experiment, experiment.runs("quick", 0)[0])
    if spoil == "arrays":
        path.with_suffix(".safetensors").write_bytes(b"1234")
    else:
        path.write_text("{" if spoil == "text" else "{}")
    with pytest.raises(DataError, match=f"{path.name}.*--fresh"):
        found_of(experiment, results)


@pytest.mark.parametrize(
    ("failing", "jobs", "error", "words"),
    [
        ("refuse", 1, ConfigError, "expected another x"),
        ("break", 2, RunFailedError, r"squares: x = [12]\.0: ZeroDivisionError: no such thing"),
        ("die", 2, RunFailedError, r"squares: x = 2\.0: .*status 9.*--jobs 1"),
    ],
)
def test_a_run_that_fails_says_so_and_leaves_the_others(tmp_path, failing, jobs, error, words):
    experiment, results = Squares((1.0, 2.0), failing), Results(tmp_path, "cpu")
    with pytest.raises(error, match=words):
        measure_all(tasks_of(experiment), results, jobs=jobs)
    if failing == "die":
        assert found_of(experiment, results)[1] is None


def test_an_outcome_is_written_and_shown(tmp_path):
    experiment, results = Squares(holds=False), Results(tmp_path / "results", "cpu")
    measure_all(tasks_of(experiment), results, jobs=1)
    outcome = judge(experiment, "quick", 0, found_of(experiment, results))
    paths = write(outcome, tmp_path / "squares")
    assert [path.name for path in paths] == ["squares.png", "squares.svg", "result.json"]
    kept = json.loads(paths[-1].read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert kept["holds"] is False
    assert kept["runs"][2]["numbers"]["square"] == "inf"
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in write(outcome, tmp_path / "squares")]
    shown = page([outcome, outcome])
    assert "0 of 2 claims hold" in shown
    assert "They grow &lt;fast&gt;." in shown
    assert "They are small." in shown
    assert "smaller numbers" in shown
    assert shown.count("data:image/png;base64,") == 2
    assert "http://" not in shown
    assert "https://" not in shown


@pytest.fixture
def registered(monkeypatch):
    def register(experiment):
        monkeypatch.setitem(EXPERIMENTS, "squares", experiment)

    return register


def test_the_command_measures_once_and_fails_with_a_claim(tmp_path, registered, capsys):
    registered(Squares())
    arguments = ["reproduce", "squares", "--jobs", "1", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    first = capsys.readouterr()
    assert "holds: They grow <fast>." in first.out
    assert "3 of 3: squares: x = inf" in first.err
    registered(Squares(holds=False))
    assert cli.main(arguments) == 1
    second = capsys.readouterr()
    assert "3 of 3 runs were measured before" in second.err
    assert "They are small." in second.out
    assert cli.main([*arguments, "--fresh"]) == 1
    assert "measured before" not in capsys.readouterr().err
    assert (tmp_path / "squares" / "index.html").exists()


def test_several_are_summed_up(tmp_path, monkeypatch, capsys):
    false = Squares(holds=False)
    monkeypatch.setattr(type(false), "name", property(lambda self: "squares" if self.expected else "cubes"))
    monkeypatch.setitem(EXPERIMENTS, "squares", Squares())
    monkeypatch.setitem(EXPERIMENTS, "cubes", false)
    assert cli.main(["reproduce", "squares", "cubes", "--jobs", "1", "--out", str(tmp_path)]) == 1
    *_, count, failed = capsys.readouterr().out.splitlines()
    assert count == "1 of 2 claims hold"
    assert failed == "does not hold: cubes: They grow <fast>."
    assert "1 of 2 claims hold" in (tmp_path / "index.html").read_text()


def test_ctrl_c_keeps_what_was_measured(tmp_path, registered, capsys, monkeypatch):
    experiment = Squares()
    registered(experiment)
    measure = Squares.measure

    def interrupted(self, config, device, progress):
        if config["x"] == "inf":
            raise KeyboardInterrupt
        return measure(self, config, device, progress)

    monkeypatch.setattr(Squares, "measure", interrupted)
    assert cli.main(["reproduce", "squares", "--jobs", "1", "--out", str(tmp_path)]) == 130
    assert "2 of 3 runs are measured and kept" in capsys.readouterr().err


def test_the_command_lists_and_names_what_there_is(capsys):
    assert cli.main(["reproduce", "--list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in EXPERIMENTS)
    assert cli.main(["reproduce", "nothing"]) == 2
    assert "expected 'all' or one of residual-vs-coupling" in capsys.readouterr().err


def test_a_file_is_no_folder_for_results(tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert cli.main(["reproduce", "regression-2d", "--out", str(tmp_path / "out")]) == 2
    assert "--out: expected a folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_complete(name):
    experiment = EXPERIMENTS[name]
    assert experiment.name == name
    assert experiment.title.endswith(".")
    assert experiment.source
    for scale in SCALES:
        runs = experiment.runs(scale, 0)
        assert (
            len({json.dumps(run.config, sort_keys=True) for run in runs})
            == len({run.name for run in runs})
            == len(runs)
        )
        assert all(sentence for sentence in experiment.departures(scale))
    assert experiment.runs("quick", 0) == experiment.runs("quick", 0) != experiment.runs("quick", 100)
