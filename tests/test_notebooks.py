"""What notebooks show of Mho's objects, and the page of a schedule."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import hardware, pictures
from test_report_page import data_in

import mho
from mho.cli import app, run
from mho.devices.budget import budget
from mho.mapping.architecture.decision import decision


def test_a_chip_and_its_report_are_tables(small_chip: mho.Chip) -> None:
    shown = small_chip._repr_html_()
    assert shown == small_chip.report()._repr_html_()
    for name in small_chip.layers:
        assert f"<td>{name}</td>" in shown
    assert "cost leaves out" in shown


def test_hardware_shows_what_is_not_as_it_would_be() -> None:
    shown = mho.Hardware.preset("reram").replace({"name": "<mine>", "adc.bits": 5})._repr_html_()
    assert "&lt;mine&gt;" in shown
    assert "bits: 5" in shown
    assert "sigma_add" not in shown


def test_reductions_and_explanations_are_tables(small_chip: mho.Chip) -> None:
    x = pictures()
    found = mho.reduce(small_chip, x)
    assert found._repr_html_().count("<tr") == len(found.table) + 1
    said = mho.explain(small_chip, x, small_chip(x).argmax(1), most=8, samples=20)
    shown = said._repr_html_()
    assert shown.count("<li>") == len(said.findings)
    assert "cost alone" in shown


def test_the_page_of_a_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = mho.schedule(stages=[1e-6, 2e-6, 1e-6], votes=3, inputs=2)
    assert "busiest stage" in plan._repr_html_()
    text = str(plan.page())
    (bars,) = data_in(text)["f0"]["data"]
    assert bars["base"] == pytest.approx(list(1e6 * plan.events["start_s"]))
    ends = pd.Series(bars["base"]) + pd.Series(bars["x"])
    assert ends.max() == pytest.approx(1e6 * plan.makespan_s)
    assert "Schedule of 2 inputs, 3 votes each, on 1 pipeline" in text
    assert set(bars["marker"]["line"]["color"]) == {"white"}
    (bars,) = data_in(str(mho.schedule(stages=[1e-6, 1e-9]).page()))["f0"]["data"]
    assert bars["marker"]["line"]["color"] == ["white", bars["marker"]["color"][1]]  # the short one is seen
    out = tmp_path / "schedule.html"
    assert run(app, ["schedule", "--stages", "1e-6,2e-6", "--votes", "3", "--report", str(out)]) == 0
    assert capsys.readouterr().out.endswith(f"to look at in a browser: {out.resolve()}\n")
    assert re.search("<h2>What runs when</h2>", out.read_text())
    assert run(app, ["schedule", "--stages", "1e-6", "--report", str(tmp_path / "x.png")]) == 2
    assert not (tmp_path / "x.png").exists()


def test_pages_of_hardware_are_small() -> None:
    assert len(hardware()._repr_html_()) < 5000


def test_budgets_and_decisions_are_tables(small_chip: mho.Chip) -> None:
    hw = hardware()
    found = budget(np.full(8, hw.cell.g_max), np.ones(8), hw.cell, hw.sensing, [0.1, 0.2])
    shown = found._repr_html_()
    assert shown.count("<tr>") == 3
    assert f"<td>{found.snr[1]:.4g}</td>" in shown
    cost = decision(small_chip, votes=3)
    assert "energy, adc" in cost._repr_html_()
    assert ">3<" in cost._repr_html_()
