"""White noise of cells and amplifier against closed forms and limits."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from pydantic import ValidationError
from scipy.constants import elementary_charge as q
from scipy.constants import k

from mho.devices.sensing import Sensing

TEMPERATURE = 300.0
KT = k * TEMPERATURE
G = 50e-6


def sensing(**fields: object) -> Sensing:
    return Sensing.model_validate({"v_read": 0.2, "t_read": 100e-9, "temperature": TEMPERATURE, **fields})


def test_bandwidth_and_amplifier() -> None:
    s = sensing(amplifier_noise="10 pA/rtHz")
    assert_allclose(s.bandwidth, 5e6)
    assert_allclose(s.amplifier_variance, (10e-12) ** 2 * 5e6)


def test_the_reset_of_an_integrator() -> None:
    """64 uV on 1 pF: 64 aC a read."""
    s = sensing(capacitance="1 pF", amplifier_noise="10 pA/rtHz")
    assert_allclose(np.sqrt(s.reset_variance) * 100e-9, np.sqrt(KT * 1e-12))
    assert_allclose(np.sqrt(KT * 1e-12), 64e-18, rtol=0.01)
    assert_allclose(s.column_variance, s.amplifier_variance + s.reset_variance)
    assert sensing().column_variance == 0


def test_reads_may_touch_but_not_overlap() -> None:
    assert sensing(read_interval="100 ns").read_interval == 1e-7
    assert sensing().read_interval is None
    with pytest.raises(
        ValidationError, match=r"read_interval must be at least t_read = 1e-07 s, or null, got 9\.9e-08"
    ):
        sensing(read_interval="99 ns")


def test_without_voltage_only_johnson_noise_is_left() -> None:
    s = sensing()
    assert_allclose(s.white_cell_variance(G, 0.0), 4 * KT * G * s.bandwidth, rtol=1e-14)


def test_the_formula_in_full() -> None:
    s = sensing(fano=0.6)
    v = np.array([1e-3, 0.02, 0.1, -0.2, 1.0])
    coth = 1 / np.tanh(q * np.abs(v) / (2 * KT))
    expected = (4 * KT * G * (1 - 0.6) + 2 * q * G * 0.6 * np.abs(v) * coth) * s.bandwidth
    assert_allclose(s.white_cell_variance(G, v), expected, rtol=1e-12)


def test_a_high_voltage_leaves_full_shot_noise() -> None:
    s = sensing(fano=1)
    assert_allclose(s.white_cell_variance(G, 5.0), 2 * q * G * 5.0 * s.bandwidth, rtol=1e-12)


@pytest.mark.parametrize("v", [0.0, 1e-12, 1e-6, 5.17e-4, 5.18e-4, 0.05, 0.2, 10.0])
def test_thermal_and_shot_add_up(v: float) -> None:
    both, thermal, shot, neither = (
        sensing(thermal=a, shot=b).white_cell_variance(G, v)
        for a, b in ((True, True), (True, False), (False, True), (False, False))
    )
    assert neither == 0
    assert_allclose(thermal, 4 * KT * G * sensing().bandwidth, rtol=1e-14)
    assert_allclose(thermal + shot, both, rtol=1e-14)


def test_the_excess_is_accurate_at_low_voltage() -> None:
    """It goes as u^2 / 3, which u coth u - 1 in floating point would lose."""
    s = sensing(thermal=False, fano=1)
    u = q * 1e-7 / (2 * KT)
    assert_allclose(s.white_cell_variance(G, 1e-7), 4 * KT * G * s.bandwidth * u**2 / 3, rtol=1e-10)
    below, above = s.white_cell_variance(G, 2 * KT / q * np.array([0.01 - 1e-9, 0.01 + 1e-9]))
    assert_allclose(below, above, rtol=1e-6)


def test_a_column_of_128_cells() -> None:
    """23 nA thermal and about as much shot noise on top: 100 ns, 0.2 V, 50 uS a cell, F = 1/3."""
    s = sensing()
    thermal = 128 * s.white_cell_variance(G, 0.0)
    excess = 128 * s.white_cell_variance(G, 0.2) - thermal
    assert_allclose(np.sqrt([thermal, excess]), [23.0e-9, 22.5e-9], rtol=2e-3)


def test_conductances_and_voltages_broadcast() -> None:
    g, v = np.array([[1e-6], [2e-6]]), np.array([0.0, 0.1, -0.1])
    variance = sensing().white_cell_variance(g, v)
    assert variance.shape == (2, 3)
    assert_allclose(variance[1], 2 * variance[0])
    assert_allclose(variance[:, 1], variance[:, 2])


def test_the_coefficients_are_the_least_squares_fit() -> None:
    s = sensing(fano=1)
    v = np.linspace(0, s.v_read, 257)
    exact = s.white_cell_variance(1.0, v)
    scale = exact.max()
    fit, *_ = np.linalg.lstsq(np.stack([np.ones_like(v), v**2], axis=1), exact / scale, rcond=None)
    c0, c2 = s.white_cell_coefficients()
    assert_allclose([c0, c2], fit * scale, rtol=1e-9)
    assert_allclose(s.white_fit_error(), np.abs((c0 + c2 * v**2) / exact - 1).max(), rtol=1e-12)


@given(
    v_read=st.floats(1e-3, 2),
    temperature=st.floats(4, 500),
    fano=st.floats(0, 1),
    thermal=st.booleans(),
    shot=st.booleans(),
)
def test_the_coefficients_are_never_negative(
    v_read: float, temperature: float, fano: float, thermal: bool, shot: bool
) -> None:
    s = sensing(v_read=v_read, temperature=temperature, fano=fano, thermal=thermal, shot=shot)
    assert min(s.white_cell_coefficients()) >= 0


def test_the_fit_is_good_at_preset_voltages() -> None:
    assert sensing().white_fit_error() < 0.06
    assert sensing(v_read=0.1, fano=1).white_fit_error() < 0.025


def test_the_fit_without_shot_noise_is_exact() -> None:
    s = sensing(shot=False)
    c0, c2 = s.white_cell_coefficients()
    assert_allclose(c0, 4 * KT * s.bandwidth, rtol=1e-14)
    assert c2 == 0
    assert s.white_fit_error() == 0


def test_the_fit_without_thermal_noise_has_no_relative_error() -> None:
    assert sensing(thermal=False).white_fit_error() == math.inf
    assert sensing(thermal=False, shot=False).white_cell_coefficients() == (0, 0)
    assert sensing(thermal=False, shot=False).white_fit_error() == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("v_read", 0),
        ("v_read", "0.2 A"),
        ("t_read", -1e-9),
        ("temperature", 0),
        ("fano", 1.5),
        ("fano", -0.1),
        ("amplifier_noise", -1e-12),
        ("gain_noise", -0.01),
        ("supply_noise", -0.01),
        ("capacitance", 0),
        ("read_interval", 0),
        ("gain_noise", math.nan),
    ],
)
def test_impossible_values_are_named(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        sensing(**{field: value})
