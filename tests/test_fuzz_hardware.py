"""Hardware files at random (benchmarks/fuzz_hardware.py, some hundred of them), and that the judge can find fault."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from mho import Hardware

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("fuzz_hardware")


def test_each_file_is_an_error_in_one_line_or_a_chip(script):
    judge = script.Judge()
    found = {number: judge(script.make(number, 1)) for number in range(80)}
    assert {n: said for n, said in found.items() if said not in ("refused", "refused by map", "works")} == {}
    assert sum(said == "works" for said in found.values()) > 10
    assert sum(said == "refused" for said in found.values()) > 10


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("seed", "two reads of one number differ"),
        ("many lines", "an error of another kind"),
        ("traceback", "OverflowError"),
        ("dump", "dump is not what was read"),
        ("clip", "outputs are constant"),
    ],
)
def test_the_judge_finds_fault(script, monkeypatch, fault, said):
    """Negative controls."""
    judge, text = script.Judge(), Hardware.preset("ideal").dump()
    assert judge(text) == "works"
    read, parse = script.mho.Chip.read, Hardware.parse
    if fault == "seed":
        numbers = iter(range(9))
        monkeypatch.setattr(script.mho.Chip, "read", lambda chip, x, **how: read(chip, x, **how) + next(numbers))
    elif fault == "clip":
        monkeypatch.setattr(script.mho.Chip, "read", lambda chip, x, **how: 0 * read(chip, x, **how))
    elif fault == "dump":
        monkeypatch.setattr(Hardware, "dump", lambda hardware: text.replace("1024", "512"))
    else:
        error = ValueError("a\nb") if fault == "many lines" else OverflowError("too large")

        def refuse(*args):
            raise error

        monkeypatch.setattr(Hardware, "parse", refuse)
    assert said in judge(text)
    monkeypatch.setattr(Hardware, "parse", parse)
