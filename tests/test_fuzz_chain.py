"""Chains at random (benchmarks/fuzz_chain.py, some of them), and that the judge can find fault."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FINE = ("refused", "refused by map", "works")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("fuzz_chain")


def test_each_chain_is_an_error_in_one_line_or_right(script):
    judge = script.Judge()
    found = {number: judge(number) for number in range(60)}
    assert {number: said for number, said in found.items() if said not in FINE} == {}
    assert sum(said == "works" for said in found.values()) > 15
    assert sum(said == "refused" for said in found.values()) > 15


@pytest.mark.parametrize(
    ("fault", "said"), [("scale", "outputs are off"), ("noise", "varies"), ("twin", "the twin differs")]
)
def test_the_judge_finds_fault(script, monkeypatch, fault, said):
    """Negative controls, on a chain of no parts."""
    quiet = {"adc.bits": None, "adc.full_scale": None, "cell.programming": {"kind": "none"}}
    monkeypatch.setattr(script, "chain", lambda number, seed: quiet)
    judge = script.Judge()
    assert judge(0) == "works"
    expected = script.expected_errors
    if fault == "scale":
        as_is = script.as_conductances_say
        monkeypatch.setattr(script, "as_conductances_say", lambda tiled, x: 1.1 * as_is(tiled, x))
    elif fault == "noise":

        class Half:
            def __init__(self, found):
                self.found = found

            def total(self, part):
                return 0.5 * self.found.total(part)

        monkeypatch.setattr(script, "expected_errors", lambda *args, **kw: Half(expected(*args, **kw)))
    else:
        codes = script.Plain.codes
        monkeypatch.setattr(
            script.Plain, "codes", lambda self, x, scale, out, threads: codes(self, np.sqrt(np.abs(x)), scale, out, 1)
        )
    assert said in judge(0)
