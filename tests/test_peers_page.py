"""The examples of docs/coming-from.md and of the exports in docs/reports.md run, and the words of the page exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import mho
from mho.importing.fields import HEADINGS

DOCS = Path(__file__).parents[1] / "docs"


def blocks_of(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def test_the_examples_of_coming_from_other_simulators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    blocks = [block for block in blocks_of("coming-from.md") if not block.startswith("# not run:")]
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/coming-from.md", "exec"), names)
    said = capsys.readouterr().out
    assert "xbar.array.Icol_max = 100" in said
    assert "fc3" in said
    assert mho.Hardware.load("hardware.yaml").tile.rows == 256


def test_the_words_of_the_report_are_explained() -> None:
    text = (DOCS / "coming-from.md").read_text(encoding="utf-8")
    for heading in HEADINGS.values():
        assert f"| {heading.split(':')[0].replace(' to this importer', '')} |" in text


def test_the_exports_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in blocks_of("reports.md") if ".export(" in block]
    x = torch.rand(20, 8, generator=torch.Generator().manual_seed(0))
    chip = mho.map(nn.Linear(8, 3).eval(), mho.Hardware.preset("reram"), calibrate=x)
    exec(compile(block, "docs/reports.md", "exec"), {"chip": chip})
    assert {file.name for file in tmp_path.iterdir()} == {"layers.csv", "tiles.json", "costs.csv", "chip.yaml"}
