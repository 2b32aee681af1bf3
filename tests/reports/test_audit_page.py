"""The page of an audit in a real browser."""

import base64
import re

import pytest
import torch

from invertible import models
from invertible.auditing import audit
from tests.reports.browser import Browser, executable
from tests.stability.maps import Hole

pytestmark = pytest.mark.skipif(executable() is None, reason="needs chromium or chrome on PATH")

ROWS = "[...document.querySelectorAll('table.sortable')[0].tBodies[0].rows].map(row => row.cells[{}].innerText.trim())"
HEAD = "document.querySelectorAll('table.sortable')[0].tHead.rows[0].cells[{}]"
# Width of A4 at 96 dots an inch, less margins of 1 cm.
PAPER = 718


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pages")
    flow = models.glow((1, 8, 8), levels=2, depth=1, hidden=8, grey_levels=17)
    good = audit(flow, torch.randint(0, 17, (20, 1, 8, 8), dtype=torch.uint8), samples=8, temperatures=(1.0,), traced=4)
    x = torch.rand(40, 1, 4, 4)
    x[:5] += 3
    bad = audit(Hole(), x, samples=40, temperatures=(1.0,), traced=4)
    plane = audit(
        models.realnvp(2, layers=2, hidden=(8,)), torch.randn(30, 2), samples=30, temperatures=(1.0,), traced=4
    )
    made = {"good": good, "bad": bad, "plane": plane}
    assert (good.passed, bad.passed) == (True, False)
    return {name: report.to_html(folder / f"{name}.html") for name, report in made.items()}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(params=["good", "bad", "plane"])
def opened(request, browser, pages):
    browser.size(1100, 900)
    browser.open(pages[request.param])
    return browser


def test_it_opens_from_disk_without_complaints_or_network(opened):
    assert opened.evaluate("document.title").startswith("Audit of")
    assert opened.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert opened.complaints == []
    assert len(opened.requests) >= 1
    assert all(address.startswith(("file://", "data:")) for address in opened.requests)


def test_a_network_address_would_be_blocked(opened):
    opened.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://192.0.2.1/x.png', id: 'probe'}))")
    opened.evaluate("document.body.offsetHeight")
    assert any("Content Security Policy" in str(each) for each in opened.complaints)


def test_tables_sort_by_numbers_and_by_words(browser, pages):
    browser.open(pages["bad"])
    lost = ROWS.format(2)
    start = browser.evaluate(lost)
    for direction, sign in (("ascending", 1), ("descending", -1)):
        browser.evaluate(HEAD.format(2) + ".querySelector('button').click()")
        assert browser.evaluate(HEAD.format(2) + ".ariaSort") == direction
        counts = [int(each.split(" / ")[0]) for each in browser.evaluate(lost)]
        assert counts == sorted(counts, key=lambda count: sign * count)
        assert len(counts) == len(start)
        assert len(set(counts)) > 1
    browser.evaluate(HEAD.format(0) + ".querySelector('button').click()")
    names = [each.split("\n")[0] for each in browser.evaluate(ROWS.format(0))]
    assert names == sorted(
        names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    )
    assert browser.evaluate("document.querySelectorAll('th[aria-sort]').length") == 1
    assert browser.complaints == []


def test_what_is_infinite_is_the_largest(browser, pages):
    browser.open(pages["bad"])
    browser.evaluate(HEAD.format(4) + ".querySelector('button').click()")
    figures = [float(each) for each in browser.evaluate(ROWS.format(4))]
    assert figures == sorted(figures)
    assert figures[-1] == float("inf")


def test_headers_take_the_keyboard(browser, pages):
    browser.open(pages["bad"])
    browser.evaluate(HEAD.format(3) + ".querySelector('button').focus()")
    enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
    browser.call("Input.dispatchKeyEvent", type="keyDown", **enter)
    browser.call("Input.dispatchKeyEvent", type="keyUp", **enter)
    assert browser.evaluate(HEAD.format(3) + ".ariaSort") == "ascending"


def test_it_can_be_read_without_scripts(browser, pages):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(pages["bad"])
        root = browser.call("DOM.getDocument", depth=0)["root"]["nodeId"]
        page = browser.call("DOM.getOuterHTML", nodeId=root)["outerHTML"]
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert "<button" not in page
    assert page.count("<tr>") > 20


def test_a_phone_scrolls_tables_and_not_the_page(opened):
    opened.size(390, 844, mobile=True)
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    assert opened.evaluate("visualViewport.scale") == 1
    boxes = opened.evaluate(
        "[...document.querySelectorAll('table, .card svg')].map(each => each.closest('.card') !== null)"
    )
    assert boxes
    assert all(boxes)
    small = opened.evaluate(
        "[...document.querySelectorAll('p, li, td, dd')].filter(each => each.offsetHeight"
        " && parseFloat(getComputedStyle(each).fontSize) < 12).length"
    )
    assert small == 0


def test_it_prints(opened):
    opened.size(PAPER, 1000)
    opened.call("Emulation.setEmulatedMedia", media="print")
    try:
        wide = opened.evaluate(
            f"[...document.querySelectorAll('table, svg, .strip, li')].filter(each =>"
            f" each.getBoundingClientRect().right > {PAPER} + 1).map(each => each.outerHTML.slice(0, 80))"
        )
        paper = opened.call(
            "Page.printToPDF", paperWidth=8.27, paperHeight=11.69, marginTop=0.4, marginBottom=0.4, marginLeft=0.4,
            marginRight=0.4, printBackground=True,
        )  # fmt: skip
    finally:
        opened.call("Emulation.setEmulatedMedia", media="")
    assert wide == []
    pdf = base64.b64decode(paper["data"])
    assert pdf.startswith(b"%PDF")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 10
    assert opened.complaints == []


def test_it_follows_the_dark(opened):
    colour = "getComputedStyle(document.body).backgroundColor"
    light = opened.evaluate(colour)
    opened.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    dark = opened.evaluate(colour)
    opened.call("Emulation.setEmulatedMedia", features=[])
    assert light != dark
