"""Every Python block of the README and the documentation runs; every page of the navigation exists."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in [ROOT / "README.md", *DOCS.rglob("*.md")] if page.is_file())

# Any fence is matched, so that a block shown inside another one is not taken for code to run.
FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>```+|~~~+)(?P<info>[^\n]*)\n(?P<body>.*?)^ *(?P=ticks) *$", re.M | re.S)
NOT_RUN = re.compile(r"<!--\s*not run:\s*(?P<reason>.*?)\s*-->\s*\Z", re.S)
LANGUAGES = {"python", "py", "python3"}


@dataclass(frozen=True)
class Block:
    code: str
    line: int
    not_run: str | None


def blocks(text: str) -> Iterator[Block]:
    """The Python blocks of a page: their code, the line it starts on, and why it is not run, if so."""
    for fence in FENCE.finditer(text):
        language = re.match(r"[\w.+-]*", fence["info"].strip().lstrip("{.").lower())
        if language is None or language.group() not in LANGUAGES:
            continue
        before = NOT_RUN.search(text, 0, fence.start())
        line = text.count("\n", 0, fence.start("body")) + 1
        yield Block(textwrap.dedent(fence["body"]), line, before and before["reason"])


def run(page: Path) -> None:
    """Run a page's blocks in order in one namespace; a traceback points at the page's own lines."""
    namespace = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.not_run is None:
            exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), namespace)


def named_pages(nav: object) -> Iterator[str]:
    match nav:
        case str():
            yield nav
        case list():
            for each in nav:
                yield from named_pages(each)
        case dict():
            for each in nav.values():
                yield from named_pages(each)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    run(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_not_run_says_why(page):
    for block in blocks(page.read_text(encoding="utf-8")):
        assert block.not_run != "", f"{page.name}, line {block.line}: give the reason in <!-- not run: reason -->."


def test_every_page_of_the_navigation_exists():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = {page for page in named_pages(nav) if "://" not in page}
    missing = sorted(page for page in pages if not (DOCS / page).is_file())
    assert pages
    assert not missing, f"mkdocs.yml names pages that docs/ does not hold: {missing}."


# The reader itself.

PAGE = """
# A page

```python
a = 1
```

=== "A tab"

    ```py title="b"
    b = a + 1
    ```

<!-- not run: needs a GPU -->

```python
raise RuntimeError
```

````markdown
```python
raise RuntimeError
```
````

```console
$ python
```
"""


def test_blocks_are_found():
    assert list(blocks(PAGE)) == [
        Block("a = 1\n", 5, None),
        Block("b = a + 1\n", 11, None),
        Block("raise RuntimeError\n", 17, "needs a GPU"),
    ]


def test_a_page_is_one_namespace_and_errors_carry_its_lines(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    run(page)
    page.write_text(PAGE + "\n```python\nassert b == 3\n```\n")
    with pytest.raises(AssertionError) as caught:
        run(page)
    assert page.read_text().splitlines()[caught.traceback[-1].lineno] == "assert b == 3"
