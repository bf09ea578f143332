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


def test_a_twin_that_rounds_otherwise_is_one_code_off_at_a_tie(script):
    """Chain 220 of seed 7, whose currents are few and even: some are half a code, but for rounding in 32 bits."""
    fields = {
        "dac.phases": 2,
        "dac.bits": 2,
        "dac.bits_per_pulse": 1,
        "adc.span": "fitted",
        "adc.transfer": "mid_rise",
        "adc.bits": 6,
        "cell.stuck": {"at_g_min": 0.2, "at_g_max": 0.1},
        "cell.g_min": 0.0,
        "cell.programming": {"kind": "none"},
        "cell.levels": 9,
        "tile.slices": 3,
        "tile.slicing": "shares",
        "tile.significance": 2.0,
        "tile.join": "mirror",
    }
    hw, (weights, bias, x) = script.Hardware.model_validate(script.NOISY).replace(fields), script.layer(220, 7, False)

    def made(backend):
        matrix, cells = script.Matrix("layer", weights, bias, hw), script.Drawn(hw, 5)
        return script.calibrate(matrix, (x,), cells, script.Seeds(5), backend)

    tiled, twin = made(script.Compiled()), made(script.Plain())
    design, (full_scale,), (middle,) = tiled.design, tiled.ranges.full_scale, tiled.ranges.middle
    g = tiled.cells.conductances(design, 0, 0, tiled.backend).astype(float)
    signed = np.tensordot([1 / 4, 1 / 2, 1], g[:, 0] - g[:, 1], axes=1) / hw.cell.g_max
    step, pulses = (
        full_scale / 32,
        script.pulses_of(script.input_codes(x[:, 0, 0, 0].astype(float), design.drive), design.drive),
    )
    level = (np.stack([[v @ signed for v in phase] for phase in pulses]) - middle) / step - 0.5
    tie = np.abs(level - np.floor(level) - 0.5) < 1e-5  # (phases, pulses, samples, outputs)
    weight = np.abs(np.asarray(design.drive.weights))[:, None, None]
    may = (weight * tie).sum(axis=(0, 1)) * step * design.encodings[0].scale[0, 0] * hw.cell.g_max * design.drive.limit
    off = np.abs(tiled.reader.read(x, noisy=False)[0] - twin.reader.read(x, noisy=False)[0])
    assert (off <= may + 1e-6).all()
    assert 0 < tie.mean() < 0.1
