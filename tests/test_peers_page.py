"""docs/coming-from.md explains each word of an importer's report (tests/test_pages.py runs its examples)."""

from __future__ import annotations

from pathlib import Path

from mho.importing.fields import HEADINGS

DOCS = Path(__file__).parents[1] / "docs"


def test_the_words_of_the_report_are_explained() -> None:
    text = (DOCS / "coming-from.md").read_text(encoding="utf-8")
    for heading in HEADINGS.values():
        assert f"| {heading.split(':')[0].replace(' to this importer', '')} |" in text
