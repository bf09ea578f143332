"""Every Python block of the README and of docs/ runs, and prints what the page shows."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import pages  # noqa: E402


@pytest.mark.parametrize(
    "page",
    [page for page in pages.pages() if page.name != "README.md"],  # `test_readme.py` runs it and looks at what it gives
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_blocks_of_a_page_run(page: Path) -> None:
    printed, _ = pages.run(page)
    assert pages.differences(page, printed) == []


def test_all_blocks_are_found() -> None:
    """None is fenced in another way, and few are not run."""
    skipped = []
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("tutorials/*.md")):
        text = page.read_text("utf-8")
        found = pages.blocks(text)
        assert len(found) == len(
            re.findall(r"^\s*[`~]{3,}\s*\{?(?:python|py\b|code.*python|pycon)", text, re.MULTILINE)
        ), page
        assert text.count("```output") == sum(block.output is not None for block in found), page
        skipped += [block for block in found if pages.NOT_RUN.match(block.code)]
    assert len(skipped) <= 3


def page_of(tmp_path: Path, text: str) -> Path:
    (tmp_path / "page.md").write_text(text, "utf-8")
    return tmp_path / "page.md"


def test_what_pages_may_hold(tmp_path: Path) -> None:
    """Shared names, modules of their own, blocks that are not run, and the line of an error."""
    page = page_of(
        tmp_path,
        "```python\nimport mine\n\nx = mine.two\nprint(x, 'of 10.0')\n```\n\n```output\n2 of 10.1\n```\n"
        "```python\n# mine.py\ntwo = 2\n```\n```python\n# not run: no network here\nraise ValueError\n```\n"
        "```python\nprint(x + 1)\n```\n",
    )
    printed, _ = pages.run(page)
    assert printed == ["2 of 10.0\n", "", None, "3\n"]
    assert pages.differences(page, printed) == []
    with pytest.raises(RuntimeError, match=r'page.md", line 4, in <module>'):
        pages.run(page_of(tmp_path, "# Title\n\n```python\n1 / 0\n```\n"))


def test_what_a_page_shows_is_compared(tmp_path: Path) -> None:
    page = page_of(tmp_path, "```python\nprint('97.12 % [1,000]')\n```\n\n```output\n80.12 % [1,000]\n```\n")
    printed = ["97.12 % [1,000]\n"]
    (found,) = pages.differences(page, printed)
    assert "shows\n80.12 % [1,000]\nbut prints\n97.12 % [1,000]" in found
    pages.write(page, printed)
    assert pages.differences(page, printed) == []
    assert "```output\n97.12 % [1,000]\n```" in page.read_text()
    assert not pages.same("97.12 %", "97.12")
    assert not pages.same("1\n2", "1 2")
    assert pages.same("0.02", "0.03")
    assert pages.same("1.10e-05 J", "1.14e-05 J")
    assert not pages.same("1.1e-05 J", "1.1e-03 J")
    assert not pages.same("-3.0", "3.0")
