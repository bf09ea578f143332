"""Arrays with resistive wires: golden values of a circuit solver, the twins of the kernels, limits, bad input."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mho.crossbar import wires
from mho.crossbar.backends import plain_wires
from mho.crossbar.kernels import dissect
from mho.crossbar.kernels import wires as kernels
from mho.crossbar.lines import Lines
from mho.crossbar.wires import Network, effective_conductance, read

GOLDEN = np.load(Path(__file__).parent / "golden" / "wires.npz")
CASES = sorted({name.rsplit("_", 1)[0] for name in GOLDEN if name.endswith("_g")})
EXACT = 1e-9


def error(got: np.ndarray, exact: np.ndarray) -> float:
    """Largest relative error of an entry."""
    return float(np.max(np.abs(got - exact) / np.where(exact == 0, 1, np.abs(exact))))


def array(m: int, n: int, seed: int = 0, zero: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Conductances of 1 to 100 uS, some cells missing, and voltages up to 0.3 V."""
    rng = np.random.default_rng(seed)
    g = rng.uniform(1e-6, 1e-4, (m, n)) * (rng.random((m, n)) >= zero)
    return g, rng.uniform(0, 0.3, m)


@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    g, v, (r_word_line, r_bit_line), currents = (GOLDEN[f"{case}_{part}"] for part in ("g", "v", "r", "currents"))
    lines = {"r_word_line": r_word_line, "r_bit_line": r_bit_line}
    solved = read(g, v, **lines, voltages=True)
    assert error(solved.currents, currents) < EXACT
    assert error(read(g, v[:, 1], **lines), currents[:, 1]) < EXACT
    assert error(effective_conductance(g, **lines).T @ v, currents) < EXACT
    assert np.abs(solved.word_line[..., 0] - GOLDEN[f"{case}_word_line"]).max() < 1e-10
    assert np.abs(solved.bit_line[..., 0] - GOLDEN[f"{case}_bit_line"]).max() < 1e-10
    assert error(v.T @ g, currents.T) > 1e-4 or case == "fine"  # negative control: without wires


def test_many_inputs_at_once():
    g, _ = array(24, 40)
    v = np.random.default_rng(1).normal(size=(24, 2 * wires.MANY))
    lines = {"r_word_line": 2.0, "r_bit_line": 1.0}
    one_by_one = np.stack([read(g, x, **lines) for x in v.T], axis=1)
    assert np.allclose(read(g, v, **lines), one_by_one, rtol=1e-9, atol=1e-15)
    assert np.allclose(read(g, v[:, :3], **lines), one_by_one[:, :3], rtol=1e-9, atol=1e-15)
    assert read(g, v, **lines, voltages=True).bit_line.shape == (24, 40, 2 * wires.MANY)


sizes = st.integers(1, 18)


@settings(max_examples=25)
@given(sizes, sizes, st.integers(0, 99), st.floats(-3, 4), st.floats(-3, 4), st.booleans(), st.booleans())
def test_kernels_and_their_twins(m, n, seed, word, bit, right, top):
    rng = np.random.default_rng(seed)
    g, v = array(m, n, seed)
    sw, sb = 10.0**-word * rng.uniform(0.5, 2, n + 1), 10.0**-bit * rng.uniform(0.5, 2, m + 1)
    sw[-1] *= right
    sb[0] *= top
    expected = plain_wires.effective(g, sw, sb)
    assert np.allclose(dissect.effective(g, sw, sb), expected, rtol=1e-7, atol=1e-9 * expected.max())
    u = rng.uniform(-0.1, 0.1, n)
    nodes = plain_wires.solve(g, sw, sb, v, u)
    pivots = np.empty_like(g), np.empty_like(g)
    kernels.factor_word_lines(g, sw, pivots[0])
    kernels.factor_bit_lines(g, sb, pivots[1])
    got = np.empty_like(g), np.empty_like(g)
    work = tuple(np.empty_like(g) for _ in range(4))
    assert kernels.solve(g, (sw, sb), pivots, (v, u), 1e-12, 1000, got, work) >= 0
    assert all(np.allclose(a, b, atol=1e-9) for a, b in zip(got, nodes, strict=True))


@pytest.mark.parametrize("r", [0.01, 1.0, 100.0])
@pytest.mark.parametrize(("m", "n"), [(128, 128), (200, 60), (61, 150)])
def test_two_ways_agree(m, n, r):
    g, v = array(m, n)
    network = Network(g, Lines(r_word_line=r, r_bit_line=r))
    word, bit = network.solve(v)
    assert error((g * (word - bit)).sum(axis=0), network.effective.T @ v) < EXACT


@pytest.mark.parametrize(
    ("drivers", "sense"), [("left", "bottom"), ("left", "both"), ("both", "bottom"), ("both", "both")]
)
@pytest.mark.parametrize(("m", "n"), [(1, 1), (5, 9), (9, 4)])
def test_any_resistance_may_be_zero(m, n, drivers, sense):
    """What is 0 is compared with very little, which the twin can do."""
    g, v = array(m, n, zero=0.3)
    g *= 100  # so that wires matter in a small array
    for zero in itertools.product([True, False], repeat=4):
        names = ("r_word_line", "r_bit_line", "r_driver", "r_sense")
        values = dict(zip(names, np.where(zero, 0.0, [2.0, 0.7, 5.0, 3.0]).tolist(), strict=True))
        little = {name: value or 1e-8 for name, value in values.items()}
        lines = Lines(**little, drivers=drivers, sense=sense)
        word, bit = plain_wires.solve(g, lines.word_line(n), lines.bit_line(m), v, np.zeros(n))
        solved = read(g, v, **values, drivers=drivers, sense=sense, voltages=True)
        assert np.abs(solved.word_line - word).max() < 1e-5
        assert np.abs(solved.bit_line - bit).max() < 1e-5
        scale = np.abs(v @ g).max() or 1.0
        g_eff = effective_conductance(g, **values, drivers=drivers, sense=sense)
        assert np.abs(g_eff.T @ v - (g * (word - bit)).sum(axis=0)).max() < 1e-4 * scale
        assert np.abs(solved.currents - g_eff.T @ v).max() < 1e-9 * scale


def test_loss_grows_with_resistance_and_size():
    """12, 35 and 66 % of the current are lost at 1 ohm, with all word lines at the same voltage."""
    found = []
    for n, expected in ((64, 0.12), (128, 0.35), (256, 0.66)):
        g = np.random.default_rng(n).uniform(1e-6, 1e-4, (n, n))
        lost = [
            1 - effective_conductance(g, r_word_line=r, r_bit_line=r).sum() / g.sum() for r in (0.01, 0.1, 1.0, 10.0)
        ]
        assert lost == sorted(lost)
        assert lost[2] == pytest.approx(expected, abs=0.01)
        found.append(lost[2])
    assert found == sorted(found)


def test_both_ends_lose_less():
    g, _ = array(48, 48)
    lines = {"r_word_line": 10.0, "r_bit_line": 10.0}
    one = effective_conductance(g, **lines)
    both = effective_conductance(g, **lines, drivers="both", sense="both")
    assert one.sum() < both.sum() < g.sum()


def test_small_currents_keep_their_digits():
    """Far from their drivers, cells see 1e-12 of the voltage; the currents are right all the same."""
    g = np.full((1, 60), 1e-4)
    got = effective_conductance(g, r_word_line=1e4, r_bit_line=1e-3)[0]
    # a line of equal cells: voltages fall by a constant factor, but for its end; ends at 0 V as bit lines lose nothing
    x = np.arccosh(1 + 0.5)
    voltage = np.cosh(x * (59.5 - np.arange(60))) / np.cosh(x * 60.5)
    assert got[-1] < 1e-23
    assert np.allclose(got, 1e-4 * voltage, rtol=1e-5)


def test_no_cells_no_current():
    solved = read(np.zeros((3, 4)), np.ones(3), r_word_line=1.0, r_bit_line=1.0, voltages=True)
    assert (solved.currents == 0).all()
    assert np.allclose(solved.word_line, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"g": np.ones(3)}, r"g must be a matrix .* got shape \(3,\)"),
        ({"g": np.array([[1.0, np.nan]])}, "g must be finite and not negative"),
        ({"g": np.array([[1.0, -1e-6]])}, "g must be finite and not negative"),
        ({"v": np.ones(3)}, r"v must have shape \(2,\) or \(2, p\), got \(3,\)"),
        ({"v": np.array([1, np.inf])}, "v must be finite"),
        ({"r_word_line": -1.0}, "r_word_line"),
        ({"r_bit_line": float("inf")}, "r_bit_line"),
        ({"sense": "top"}, "sense"),
        ({"r_wordline": 1.0}, "Lines has no field r_wordline"),
        ({"r_word_line": 1e308}, r"r_word_line = 1e\+308: expected ohms: 0 or a size of 1e-09 to 1e\+12 ohm"),
    ],
)
def test_bad_input(change, message):
    given_ = {"g": np.full((2, 3), 1e-5), "v": np.ones(2), "r_word_line": 1.0, "r_bit_line": 1.0, **change}
    with pytest.raises(ValueError, match=message):
        read(**given_)
