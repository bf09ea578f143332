"""The noise budget of a column: each source by hand, as a process, and all in closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.constants import elementary_charge as q
from scipy.constants import k

from mho.devices.budget import Converter, budget
from mho.devices.cell import Cell
from mho.devices.sensing import Sensing

KT = k * 300
B = 5e6
ROWS = 128
UNIFORM = (np.arange(200) + 0.5) / 200
G = np.linspace(1e-6, 100e-6, ROWS)
X = np.repeat(UNIFORM[:, None], ROWS, axis=1)  # inputs evenly over [0, 1]


def cell(**fields: object) -> Cell:
    return Cell.model_validate({"g_min": 0, "g_max": "100 uS", **fields})


def sensing(**fields: object) -> Sensing:
    return Sensing.model_validate({"v_read": "0.2 V", "t_read": "100 ns", **fields})


NOISY = cell(read_noise={"kind": "relative", "fraction": 0.01})
LOUD = sensing(amplifier_noise="10 pA/rtHz", capacitance="1 pF", supply_noise=0.002, gain_noise=0.003)
RANGE = Converter(bits=8, full_scale=ROWS * 100e-6 * 0.2, signed=False)


def test_what_rules_a_reram_column() -> None:
    """128 rows of 1-100 uS, 0.2 V, 100 ns: 23 nA thermal, 25 nA shot, 757 nA cells, 2.9 uA quantisation."""
    b = budget(G, X, NOISY, sensing(fano=1), 0.2, converter=RANGE)
    std = {name: float(np.sqrt(variance[0])) for name, variance in b.variances.items()}
    assert std["thermal"] == pytest.approx(23e-9, rel=0.02)
    assert std["shot"] == pytest.approx(25e-9, rel=0.02)
    assert std["cell, relative"] == pytest.approx(757e-9, rel=0.01)
    assert std["quantisation"] == pytest.approx(2.9e-6, rel=0.01)
    assert b.variance == pytest.approx(sum(value**2 for value in std.values()))


def test_each_source_by_hand() -> None:
    """Two cells of 10 and 30 uS, driven by 1 and -0.5 of 1 V."""
    g, x = [10e-6, 30e-6], [1.0, -0.5]
    b = budget(g, x, NOISY, LOUD, [1.0, 2.0], converter=Converter(bits=4, full_scale=70e-6))
    current = 10e-6 - 15e-6
    hand = {
        "thermal": 4 * KT * 40e-6 * B,
        "shot": 2 * q / 3 * (10e-6 + 15e-6) * B - 4 * KT / 3 * 40e-6 * B,
        "cell, relative": 0.01**2 * (10e-6**2 + 15e-6**2),
        "amplifier": 1e-22 * B,
        "kTC": KT * 1e-12 / 1e-14,
        "quantisation": (70e-6 / 7) ** 2 / 12,
        "supply": (0.002 * current) ** 2,
        "gain": (0.003 * current) ** 2,
    }
    assert list(b.variances) == list(hand)
    for name, expected in hand.items():
        assert b.variances[name][0] == pytest.approx(expected, rel=1e-6), name
    squares = {"cell, relative", "supply", "gain"}
    assert b.multiplicative == squares
    for name in hand:
        growth = b.variances[name][1] / b.variances[name][0]
        assert growth == pytest.approx(4 if name in squares else 1 if name != "shot" else growth)
    assert_allclose(b.signal, np.array([1, 4]) * current**2)
    additive = sum(hand[name] for name in hand if name not in squares)
    assert b.sigma_add[0] == pytest.approx(np.sqrt(additive) / 100e-6, rel=1e-6)
    assert b.sigma_mult[0] == pytest.approx(np.sqrt(sum(hand[name] for name in squares)) / abs(current))
    assert_allclose(b.snr, b.signal / b.variance)
    assert_allclose(b.energy, np.array([1, 4]) * (10e-6 + 0.25 * 30e-6) * 100e-9)


@pytest.mark.parametrize("tracks", [None, 0.2])
def test_the_fitted_coefficients_are_the_predicted_ones(tracks: float | None) -> None:
    """Where qV >> 2kT for all inputs: |x| is 1 or 0, and V at least 0.6 V, where coth is 1 to 1e-10."""
    rng = np.random.default_rng(1)
    x = rng.choice([-1.0, 0.0, 1.0], size=(50, ROWS))
    converter = Converter(bits=8, full_scale=1e-3, tracks=tracks)
    v = np.linspace(0.6, 5, 60)
    b = budget(G, x, NOISY, LOUD, v, converter=converter)
    expected = b.coefficients
    powers = np.stack([np.ones_like(v), v, v**2], axis=1) / b.variance[:, None]
    a, b1, c = np.linalg.lstsq(powers, np.ones_like(v), rcond=None)[0]
    assert_allclose([a, b1, c], [expected.a, expected.b, expected.c], rtol=1e-6)
    assert_allclose(b.signal / v**2, expected.signal)
    assert_allclose(expected.snr(v), b.snr, rtol=1e-9)


def test_the_closed_form_is_wrong_at_low_voltage_by_the_coth_only() -> None:
    b = budget(G, X, NOISY, sensing(fano=1), [0.005, 1.0])
    error = b.coefficients.snr(b.v) / b.snr - 1
    assert abs(error[0]) > 0.02
    assert abs(error[1]) < 0.002
    without = budget(G, X, NOISY, sensing(shot=False), [0.005, 1.0])
    assert_allclose(without.coefficients.snr(without.v), without.snr, rtol=1e-12)


def test_snr_saturates_at_s_over_c_with_a_knee_at_root_a_over_c() -> None:
    loud = sensing(shot=False, amplifier_noise="1 nA/rtHz")
    form = budget(G, X, NOISY, loud, 1.0).coefficients
    assert form.b == 0
    knee = np.sqrt(form.a / form.c)
    snr = budget(G, X, NOISY, loud, [knee, 1e3 * knee]).snr
    assert_allclose(snr, [form.signal / form.c / 2, form.signal / form.c], rtol=1e-5)


def test_more_volts_are_more_reads_for_additive_noise() -> None:
    """K reads at V: the noise of one read at V sqrt(K), for the same energy of the array."""
    loud = sensing(shot=False, amplifier_noise="10 pA/rtHz")
    b = budget(G, X, cell(), loud, [0.1, 0.2])
    assert_allclose(b.snr[1], 4 * b.snr[0])
    assert_allclose(b.energy[1], 4 * b.energy[0])


def test_pcm_noise_is_a_part_and_counts_the_time() -> None:
    pcm = {"kind": "pcm", "g_ref": "25 uS", "coefficient": 0.0088, "exponent": 0.65, "maximum": 0.2, "t_0": "20 s"}
    both = cell(read_noise={"kind": "sum", "parts": [pcm, {"kind": "relative", "fraction": 0.01}]})
    fresh, old = (budget(G, X, both, sensing(), 0.2, time_s=t) for t in (0.0, 1e6))
    assert fresh.variances["cell, relative"] == old.variances["cell, relative"]
    assert fresh.variances["cell, pcm"] < old.variances["cell, pcm"]
    again = cell(read_noise={"kind": "sum", "parts": [pcm, pcm]})
    assert_allclose(
        budget(G, X, again, sensing(), 0.2).variances["cell, pcm"], 2 * fresh.variances["cell, pcm"], rtol=1e-12
    )


def test_noise_that_is_not_in_proportion_has_no_closed_form() -> None:
    sonos = cell(read_noise={"kind": "saturating", "i_max": "12 nA", "i_0": "200 nA"})
    b = budget(G, X, sonos, sensing(), [0.1, 0.2])
    assert (b.snr > 0).all()
    with pytest.raises(ValueError, match=r"cell.read_noise of kind 'saturating' is not proportional to V"):
        _ = b.coefficients


def test_without_noise_the_ratio_is_infinite() -> None:
    assert np.isinf(budget(G, X, cell(), sensing(thermal=False, shot=False), 0.2).snr).all()


def test_the_cell_bounds_the_voltage() -> None:
    assert budget(G, X, cell(v_max="0.2 V"), sensing(), [0.1, 0.2, 0.3]).allowed.tolist() == [True, True, False]
    assert budget(G, X, cell(), sensing(), [0.1, 10.0]).allowed.all()


def test_columns_and_samples_are_averaged() -> None:
    rng = np.random.default_rng(2)
    g, x = rng.uniform(1e-6, 1e-4, (ROWS, 3)), rng.uniform(-1, 1, (5, ROWS))
    together = budget(g, x, NOISY, LOUD, 0.2, converter=RANGE)
    one = [budget(g[:, j], x[i], NOISY, LOUD, 0.2, converter=RANGE) for j in range(3) for i in range(5)]
    for name, variance in together.variances.items():
        assert_allclose(variance, np.mean([b.variances[name] for b in one], axis=0), rtol=1e-12)
    assert_allclose(together.signal, np.mean([b.signal for b in one], axis=0))
    assert_allclose(together.energy, 3 * np.mean([b.energy for b in one], axis=0))  # of all columns


def test_a_table() -> None:
    columns = budget(G, X, NOISY, LOUD, [0.1, 0.2], converter=RANGE).columns()
    assert {len(values) for values in columns.values()} == {2}
    parts = [values for name, values in columns.items() if name.startswith("variance: ")]
    assert_allclose(np.sum(parts, axis=0), columns["variance (A^2)"])


@given(v=st.floats(1e-4, 10), fano=st.floats(0, 1), temperature=st.floats(4, 400))
def test_variances_are_never_negative(v: float, fano: float, temperature: float) -> None:
    b = budget(G, X[::20], NOISY, sensing(fano=fano, temperature=temperature, capacitance="1 fF"), v, converter=RANGE)
    assert all((variance >= 0).all() for variance in b.variances.values())


def test_shot_noise_is_that_of_counted_electrons() -> None:
    """Full shot noise at 1 V is Poisson in the electrons of one read."""
    b = budget([1e-6], [1.0], cell(), sensing(fano=1), 1.0)
    expected = b.variances["shot"][0] + b.variances["thermal"][0]
    n = 200_000
    counted = np.random.default_rng(3).poisson(1e-6 * 100e-9 / q, n) * q / 100e-9
    bound = 5 * np.sqrt(2 / n)
    assert counted.var() / expected == pytest.approx(1, abs=bound)
    assert abs(counted.var() / b.variances["shot"][0] - 1) > bound  # the shot part is what is above thermal noise


def test_quantisation_noise_is_that_of_a_quantiser() -> None:
    n, step = 200_000, RANGE.step
    current = np.random.default_rng(4).uniform(0, RANGE.full_scale, n)
    error = np.rint(current / step) * step - current
    assert budget(G, X, cell(), sensing(), 0.2, converter=RANGE).variances["quantisation"][0] == pytest.approx(
        error.var(), rel=5 * np.sqrt(0.8 / n)
    )


def test_cell_noise_adds_up_over_a_column() -> None:
    n, rng = 20_000, np.random.default_rng(5)
    g = G * (1 + 0.01 * rng.standard_normal((n, ROWS)))
    expected = budget(G, UNIFORM[:ROWS], NOISY, sensing(), 0.2).variances["cell, relative"][0]
    assert (0.2 * g @ UNIFORM[:ROWS]).var() / expected == pytest.approx(1, abs=5 * np.sqrt(2 / n))


@pytest.mark.parametrize(
    ("g", "x", "v", "match"),
    [
        ([1e-6], [1.0, 1.0], 0.2, r"g must be \(rows, columns\) and x \(samples, rows\), got \(1, 1\) and \(1, 2\)"),
        ([-1e-6], [1.0], 0.2, "g must be at least 0 S, got -1e-06 S"),
        ([np.nan], [1.0], 0.2, "g must be finite"),
        ([1e-6], [np.inf], 0.2, "x must be finite"),
        ([1e-6], [0.0], 0.2, "g and x must carry a current"),
        ([1e-6], [1.0], 0.0, "v_read must be a voltage above 0"),
        ([1e-6], [1.0], [], "v_read must be finite"),
        ([[[1e-6]]], [1.0], 0.2, "g must be"),
    ],
)
def test_impossible_columns_are_refused(g: object, x: object, v: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        budget(g, x, cell(), sensing(), v)
