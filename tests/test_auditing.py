import io
import json
import re
import sys

import pytest
import torch
from rich.console import Console

from invertible import models
from invertible.auditing import AuditReport, audit
from invertible.errors import ConfigError, DataError, MissingDependencyError
from invertible.reports.audit_progress import audit_progress
from invertible.stability import AuditOptions
from tests.stability.maps import Hole, Shift


@pytest.fixture(scope="module")
def good():
    torch.manual_seed(0)
    flow = models.glow((1, 8, 8), levels=2, depth=1, hidden=8, grey_levels=17)
    x = torch.randint(0, 17, (40, 1, 8, 8), dtype=torch.uint8)
    return audit(flow, x, train=x, samples=20, temperatures=(0.7, 1.0), traced=4)


@pytest.fixture(scope="module")
def bad():
    x = torch.rand(40, 1, 4, 4)
    x[:5] += 3
    return audit(Hole(), x, samples=40)


def test_a_glow_passes(good):
    assert good.passed
    assert good.record.model["name"] == "glow"
    assert "PASSED  glow: The inverse held on all 13 sets" in str(good)
    assert repr(good).startswith("AuditReport(passed=True")


def test_the_text_names_sets_and_findings(bad):
    text = str(bad)
    assert text.startswith("FAILED  Hole: The inverse cannot be trusted on")
    assert re.search(r"^test +failed +5/40 +\S+ +inf", text, re.M)
    assert "The inverse is lost on test: 5 of 40 samples do not come back finite" in text.replace("\n  ", " ")
    assert {each.level for each in bad.findings} == {"failure"}


def test_a_good_model_fits_on_a_screen(good):
    lines = str(good).splitlines()
    assert len(lines) <= 36
    assert max(map(len, lines)) <= 120
    for title in ("round trips", "attack", "trusted digits", "singular values", "Lipschitz bounds", "gradients"):
        assert sum(line.startswith(f"{title} ") for line in lines) == 1


def test_what_to_do_is_said_once(bad):
    text = str(bad)
    assert text.index("What was found") < text.index("What to do")
    assert text.count("scale='half-sigmoid'") == 1
    assert all(each.remedy for each in bad.findings)


def test_progress_by_name_is_told_and_a_bar_needs_a_terminal(capsys):
    told = []
    audit(Shift(), torch.rand(9, 2), samples=5, sections=(), progress=lambda *each: told.append(each))
    assert told
    audit(Shift(), torch.rand(9, 2), samples=5, sections=(), progress=True)
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80)
    with audit_progress(console=console) as told:
        audit(Shift(), torch.rand(9, 2), samples=5, sections=(), progress=told)
    assert "round trips" in stream.getvalue()


def test_rich_prints_within_80_columns(bad):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(bad)
    text = console.export_text()
    assert "FAILED" in text
    assert re.search(r"scaled x10 +failed", text)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_options_by_name_and_as_an_object():
    report = audit(Shift(), torch.rand(9, 2), options=AuditOptions(samples=5), ood=False, temperatures=[1], sections=())
    assert report.record.options == AuditOptions(samples=5, ood=False, temperatures=(1.0,), sections=())
    assert [one.name for one in report.record.sets] == ["test", "latents T=1"]
    with pytest.raises(ConfigError, match="audit: expected options among tolerance, effort, .*, got speed"):
        audit(Shift(), torch.rand(9, 2), speed=3)


def test_json_is_strict_and_comes_back(bad, tmp_path):
    path = bad.to_json(tmp_path / "new" / "audit.json")
    text = path.read_text()
    record = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    test = next(one for one in record["sets"] if one["name"] == "test")
    assert test["data"]["worst"] is None
    assert test["data"]["non_finite"] == 5
    again = AuditReport.from_json(path)
    assert str(again) == str(bad)
    assert again.to_json(tmp_path / "again.json").read_text() == text


@pytest.mark.parametrize("content", [None, "nonsense", "{}", "[]", '{"schema_version": 99}'])
def test_files_that_are_no_audit(content, tmp_path):
    path = tmp_path / "audit.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError):
        AuditReport.from_json(path)


def test_the_page_stands_alone(good, bad, tmp_path):
    for report in (good, bad):
        page = report.to_html(tmp_path / "audit.html").read_text(encoding="utf-8")
        sources = re.findall(r"""(?<![\w-])(?:src|href|url\()\s*=?\s*["']?([^"')>\s]+)""", page)
        assert all(source.startswith(("#", "data:image/png;base64,", "data:,")) for source in sources)
        addresses = set(re.findall(r"https?://[^\"' )]+", page))
        assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
        # The one script that there is sorts tables.
        assert page.count("<script") == 1
        assert not re.search(r"fetch\(|XMLHttpRequest|import\(|eval\(", page)
        assert "@import" not in page
        assert all(one.name in page for one in report.record.sets)
        identifiers = re.findall(r'\bid="([^"]+)"', page)
        assert len(identifiers) == len(set(identifiers))


def test_the_page_shows_verdict_findings_and_broken_pictures(bad, tmp_path):
    page = bad.to_html(tmp_path / "audit.html").read_text(encoding="utf-8")
    assert "<strong>Failed</strong>" in page
    assert "16 pixels broken" in page
    assert page.count('<li class="failure">') == len(bad.findings)
    assert page.count("<b>What to do</b>") == len({each.remedy for each in bad.findings})
    assert page.count('alt="the data"') >= 1


def test_the_page_escapes_what_it_did_not_write(tmp_path):
    report = audit(type("<b>Shift", (Shift,), {})(), torch.rand(9, 2), samples=9, control=False, traced=4)
    page = report.to_html(tmp_path / "audit.html").read_text(encoding="utf-8")
    assert "<b>Shift" not in page.replace("<b>&lt;b&gt;Shift", "")
    assert "Points and where they come back" in page
    assert "switched off" in page


def test_notebooks_get_a_frame_and_text_without_matplotlib(bad, monkeypatch):
    assert bad._repr_html_().startswith("<iframe srcdoc=")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert bad._repr_html_().startswith("<pre>FAILED")
    with pytest.raises(MissingDependencyError, match=re.escape("pip install 'invertible[report]'")):
        bad.to_html("audit.html")
