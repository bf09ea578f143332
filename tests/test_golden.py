"""Converters and conductance mapping against golden values of an outside tool: see golden/README.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mho.crossbar.converters import Adc, AdcCodes, Dac, quantise
from mho.crossbar.drive import Drive, digits, input_codes
from mho.crossbar.encoding import Encoding
from mho.crossbar.placement import Placement
from mho.crossbar.tile import Tile
from mho.devices.cell import Cell

GOLDEN = Path(__file__).parent / "golden"
DAC, ADC, MAPPING = (np.load(GOLDEN / f"{name}.npz") for name in ("dac", "adc", "mapping"))
MID_RISE = ("RampADC", "SarADC", "PipelineADC", "CyclicADC")


def tie(codes: np.ndarray) -> np.ndarray:
    """Half way between two codes Mho rounds to the even signed code, the peer counts from the lowest."""
    return np.isclose(codes % 1, 0.5, atol=1e-9)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("signed", [False, True])
def test_dac(bits, signed):
    x = DAC["x"] if signed else np.abs(DAC["x"])
    drive = Drive.of(Dac(bits=bits, range=1.0), 1.0, signed)
    expected = DAC[f"{'signmag' if signed else 'unsigned'}_{bits}b"]
    keep = ~tie(x * drive.full_code)
    assert np.allclose(input_codes(x, drive)[keep] / drive.full_code, expected[keep], atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "bits", "size"),
    [
        ("unsigned", 8, 1),
        ("unsigned", 8, 2),
        ("unsigned", 8, 3),
        ("signmag", 8, 1),
        ("signmag", 8, 2),
        ("signmag", 8, 3),
        ("unsigned", 4, 1),
        ("signmag", 4, 2),
    ],
)
def test_bit_serial_digits(kind, bits, size):
    signed = kind == "signmag"
    drive = Drive.of(Dac(bits=bits, range=1.0, bits_per_pulse=size), 1.0, signed)
    x = DAC["x"] if signed else np.abs(DAC["x"])
    keep = ~tie(x * drive.full_code)
    got = digits(input_codes(x, drive), drive)
    assert np.allclose(got[:, keep], DAC[f"{kind}_{bits}b_slices_size{size}"][:, keep], atol=1e-7)


@pytest.mark.parametrize("bits", [4, 8])
def test_adc_with_a_level_at_zero(bits):
    codes = Adc(bits=bits, full_scale=1.0).codes(signed=True)
    keep = ~tie(ADC["v"] / (3.0 * codes.relative_step))
    assert np.allclose(quantise(ADC["v"], codes, 3.0)[keep], ADC[f"SignMagnitudeADC_{bits}b_-3_3"][keep], atol=1e-7)


@pytest.mark.parametrize("bits", [4, 8])
def test_adc_over_an_unsigned_range(bits):
    """The peer's levels include both ends of [-1.5, 3]; ours start at zero, so its case is shifted by 1.5."""
    codes = Adc(bits=bits, full_scale=1.0).codes(signed=False)
    got = quantise(ADC["v"] + 1.5, codes, 4.5) - 1.5
    expected = ADC[f"QuantizerADC_{bits}b_-1.5_3.0"]
    step = 4.5 * codes.relative_step
    edge = np.abs((ADC["v"] + 1.5) / step % 1 - 0.5) < 1e-6  # on an edge between codes rounding may fall either way
    assert np.allclose(got[~edge], expected[~edge], atol=1e-6)
    assert np.abs(got - expected).max() < step * 1.001


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", MID_RISE)
def test_adc_mid_rise(kind, bits):
    v = ADC["v"]
    codes = Adc(bits=bits, full_scale=1.0, transfer="mid_rise").codes(signed=True)
    assert codes == AdcCodes(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0.5, 2.0 / 2**bits)
    got, expected, step = quantise(v, codes, 3.0), ADC[f"{kind}_{bits}b_-3_3"], 6.0 / 2**bits
    edge = np.abs(v / step - np.rint(v / step)) < 1e-6
    if kind in ("PipelineADC", "CyclicADC"):  # a fault of the peer at v = +-0.75
        edge |= np.isclose(np.abs(v), 0.75)
    assert np.allclose(got[~edge], expected[~edge], atol=1e-6)
    keep = ~np.isclose(np.abs(v), 0.75)
    assert np.abs(got - expected)[keep].max() < step * 1.001


def conductances(encoding: str, onoff: float, bits: int) -> np.ndarray:
    """Targets (polarities, rows, columns) for the golden weights, scaled as the peer does: one scale for all."""
    weights = MAPPING["W"].T
    cell = Cell(g_min=1 / onoff, g_max=1.0, levels=2**bits if bits else None)
    placement = Placement.of(Tile(rows=64, columns=64, encoding=encoding, scale="tile"), *weights.shape)
    scaled = weights / np.abs(weights).max()
    return Encoding.of(scaled, placement, cell).targets(scaled, 0)[0].transpose(0, 2, 1)


@pytest.mark.parametrize("onoff", [("onoff1000", 1000), ("onoff10", 10), ("infinite", np.inf)])
@pytest.mark.parametrize("bits", [0, 4, 7])
@pytest.mark.parametrize(
    ("style", "encoding"), [("ONE_SIDED", "differential"), ("TWO_SIDED", "differential_two_sided")]
)
def test_pairs(style, encoding, onoff, bits):
    name, ratio = onoff
    got = conductances(encoding, ratio, bits)
    for polarity, suffix in enumerate(("Gpos", "Gneg")):
        assert np.allclose(got[polarity], MAPPING[f"{style}_{name}_cb{bits}_{suffix}"], atol=2e-6)


@pytest.mark.parametrize("onoff", [("onoff1000", 1000), ("onoff10", 10), ("infinite", np.inf)])
def test_offset_continuous(onoff):
    """With levels the peer drops the lowest one of this encoding; Mho uses all of them (docs/signal-chain.md)."""
    name, ratio = onoff
    got = conductances("offset", ratio, 0)[0]
    expected = MAPPING[f"OFFSET_{name}_cb0_G"]
    assert np.allclose(got[: len(expected)], expected, atol=2e-6)
    assert np.allclose(got[len(expected) :], (1 + 1 / ratio) / 2)
