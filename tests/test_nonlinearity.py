"""Cells whose current is no multiple of their voltage, in arrays with resistive wires."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import hardware, pictures, small_cnn
from scipy.optimize import root

import mho
from mho.crossbar.backends import plain_wires
from mho.crossbar.lines import Lines
from mho.crossbar.wires import read
from mho.devices.cell import Cell
from mho.devices.nonlinearity import Cubic, Linear, Sinh
from mho.devices.parts import Conditions
from mho.mapping.errors import MappingError

LAWS = [Sinh(v_0=0.1), Sinh(v_0=0.03), Cubic(c_3=30.0)]
AT = Conditions(v_read=0.2, t_read=1e-7)
LINES = {"r_word_line": 100.0, "r_bit_line": 150.0}


def array(m=7, n=5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.uniform(1e-6, 1e-4, (m, n)) * (rng.random((m, n)) < 0.8), rng.uniform(-0.05, 0.2, m)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("ends", [{}, {"r_driver": 50.0, "drivers": "both", "sense": "both"}])
def test_against_a_general_solver(law, ends):
    """Kirchhoff's law at every node, by scipy's root of the same circuit, written as one matrix without its cells."""
    g, v = array()
    lines = Lines(**LINES, **ends)
    wires = plain_wires.admittance(np.zeros_like(g), lines.word_line(5), lines.bit_line(7))
    inside, outside = 2 * g.size, np.concatenate([v, np.zeros(5)])

    def left_over(nodes: np.ndarray) -> np.ndarray:
        word, bit = nodes.reshape(2, *g.shape)
        cells = (g * law.current(word - bit, AT, np)).ravel()
        return 1e5 * (wires[:inside, :inside] @ nodes + wires[:inside, inside:] @ outside + np.r_[cells, -cells])

    found = root(left_over, np.zeros(inside), tol=1e-14).x.reshape(2, *g.shape)
    solved = read(g, v, **LINES, **ends, law=law, voltages=True)
    assert np.abs(solved.word_line - found[0]).max() < 1e-9
    assert np.abs(solved.bit_line - found[1]).max() < 1e-9
    currents = (g * law.current(found[0] - found[1], AT, np)).sum(axis=0)
    assert np.allclose(solved.currents, currents, rtol=1e-8, atol=1e-15)
    assert not np.allclose(read(g, v, **LINES, **ends), currents, rtol=1e-2)  # negative control: linear cells


@pytest.mark.parametrize("law", [Sinh(v_0=1e4), Cubic(c_3=0.0), Linear()])
def test_limits_are_ohms_law(law):
    g, v = array()
    assert np.allclose(read(g, v, **LINES, law=law), read(g, v, **LINES), rtol=1e-7)


def test_large_arrays_of_strong_cells():
    """64 x 64 cells that carry 20 times the current at twice the voltage: charge is conserved."""
    rng = np.random.default_rng(1)
    g, v = rng.uniform(1e-6, 1e-4, (64, 64)), rng.uniform(0, 0.3, 64)
    law = Sinh(v_0=0.05)
    solved = read(g, v, r_word_line=10.0, r_bit_line=10.0, law=law, voltages=True)
    into_sense = solved.bit_line[-1] / 10.0
    assert np.allclose(into_sense, solved.currents, rtol=1e-8)
    from_drivers = (v - solved.word_line[:, 0]) / 10.0
    assert from_drivers.sum() == pytest.approx(into_sense.sum(), rel=1e-8)


@pytest.mark.parametrize("law", LAWS)
def test_conductance_is_that_at_v_read(law):
    v = np.array([0.2])
    assert law.current(v, AT, np) == pytest.approx(v)
    assert law.current(v / 2, AT, np) < v / 2
    step = 1e-6
    rise = (law.current(v + step, AT, np) - law.current(v - step, AT, np)) / (2 * step)
    assert law.slope(v, AT, np) == pytest.approx(rise, rel=1e-6)


def test_from_yaml_and_not_with_wires():
    cell = Cell.model_validate({"g_min": 0, "g_max": "1 uS", "nonlinearity": {"kind": "sinh", "v_0": "100 mV"}})
    assert cell.nonlinearity == Sinh(v_0=0.1)
    curved = hardware(cell__nonlinearity={"kind": "cubic", "c_3": 1.0}, wires__r_word_line=1.0)
    with pytest.raises(MappingError, match=r"layer '0': cell\.nonlinearity is 'cubic', and wires"):
        mho.map(small_cnn(), curved, calibrate=pictures(8))
    g, v = array()
    with pytest.raises(ValueError, match="r_word_line and r_bit_line above 0"):
        read(g, v, r_word_line=0.0, r_bit_line=1.0, law=LAWS[0])
