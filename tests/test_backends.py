"""The plain backend programs and reads what the compiled one does, up to rounding, for hardware of every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import hardware, on_tiles
from test_design import ERRING, LAYOUTS, LOSSY, inputs

from mho.crossbar.backends.compiled import Compiled
from mho.crossbar.backends.plain import Plain
from mho.crossbar.programmed import Programmed

TELEGRAPH = {"kind": "telegraph", "amplitude": 0.2, "capture": "1 us", "emission": "1 us"}
EXACT = {"adc__bits": None, "adc__full_scale": None}  # readings that no rounding moves by a step
KINDS: list[dict[str, Any]] = [
    *({"tile__encoding": encoding, "tile__slices": slices} for encoding, slices in LAYOUTS),
    {"dac__bits": 10},
    {"dac__bits": None, "dac__range": None},
    {"dac__bits_per_pulse": 3},
    {"sensing__supply_noise": 0.05, "sensing__gain_noise": 0.02, "dac__bits_per_pulse": 4},
    {"cell__read_noise": {"kind": "constant", "std_g": "0.5 uS"}, "sensing__thermal": False, "sensing__shot": False},
    {"cell__read_noise": TELEGRAPH, "sensing__read_interval": "0.2 us"},
    {"wires": LOSSY},
    {f"output_noise__{name}": 0.1 for name in ("sigma_add", "sigma_mult", "frozen_add", "frozen_mult")},
]


def both(fields: dict[str, Any], x: np.ndarray) -> list[Programmed]:
    rng = np.random.default_rng(5)
    weights, bias = rng.normal(size=(2, 32, 7)), rng.normal(size=(2, 7))
    if fields.get("tile__encoding") == "single":
        weights, bias = np.abs(weights), np.abs(bias)
    hw, given = hardware(**{**ERRING, **fields}), (weights.astype(np.float32), bias.astype(np.float32))
    return [on_tiles(given[0], hw, bias=given[1], inputs=x, backend=kind()) for kind in (Compiled, Plain)]


@pytest.mark.parametrize("fields", KINDS, ids=lambda fields: ", ".join(map(str, fields.items()))[:60])
@pytest.mark.parametrize("signed", [False, True])
def test_twins_read_the_same(fields, signed):
    x = inputs() if signed else np.abs(inputs())  # unsigned codes of 8 bits have squares that are halved
    compiled, plain = both(fields | EXACT, x)
    assert np.allclose(plain.weights, compiled.weights, atol=3e-4)
    assert np.allclose(plain.ranges.array_energy_j, compiled.ranges.array_energy_j, rtol=1e-4)
    for options in ({"noisy": False}, {"read": 3}, {"reads": 2, "shared": True, "read": 1, "first_sample": 7}):
        (mine, counts), (theirs, counted) = plain.reader.read(x, **options), compiled.reader.read(x, **options)
        assert counts == counted
        assert np.abs(mine - theirs).max() < 1e-4 * theirs.std()
    other = compiled.reader.read(x, read=4)[0]  # negative control: the noise of another read
    assert np.abs(other - compiled.reader.read(x, read=3)[0]).max() > 1e-2 * other.std()


@pytest.mark.parametrize("fields", [{}, {"tile__encoding": "offset", "tile__slices": 2}, {"dac__bits_per_pulse": 4}])
def test_twins_convert_the_same(fields):
    """A rounding of currents moves few readings, each by a step; ranges and clipping are the same."""
    compiled, plain = both({**fields, "adc__bits": 6, "adc__percentile": 95.0}, inputs())
    assert np.allclose(plain.ranges.full_scale, compiled.ranges.full_scale, rtol=1e-3)
    plain = plain.with_ranges(compiled.ranges)
    (mine, counts), (theirs, counted) = (found.reader.read(inputs()) for found in (plain, compiled))
    assert np.mean(np.abs(mine - theirs) > 1e-3 * theirs.std()) < 0.02
    assert counts.readings == counted.readings
    assert abs(counts.readings_clipped - counted.readings_clipped) < 0.01 * counted.readings
    assert counted.readings_clipped > 0.02 * counted.readings
