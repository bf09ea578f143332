"""Noise that reads share: correlations against closed forms, averages and simulated trajectories."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from pydantic import TypeAdapter, ValidationError

from mho.devices.memory import Memory, OneOverF, Spectrum, Telegraph, White, left_of_mean
from mho.devices.parts import Conditions
from mho.devices.read_noise import ReadNoise, TelegraphReadNoise

T_READ = 250e-9
READ = Conditions(v_read=0.2, t_read=T_READ, time_s=3600.0)
START = replace(READ, time_s=0.0)
PCM = {"kind": "pcm", "g_ref": "25 uS", "coefficient": 0.0088, "exponent": 0.65, "maximum": 0.2, "t_0": "20 s"}
PART = {"kind": "telegraph", "amplitude": 0.1, "capture": "1 us", "emission": "3 us"}
G = np.array([1e-6, 10e-6])


def noise(**fields: object) -> ReadNoise:
    return TypeAdapter(ReadNoise).validate_python(fields)


@pytest.mark.parametrize(("reads", "left"), [(4, 0.94), (16, 0.88), (100, 0.80)])
def test_votes_barely_average_pcm_noise(reads: int, left: float) -> None:
    """Averages of K reads back to back are reads K times as long, of variance Q^2 G^2 ln(f_h / K f_l)."""
    got = left_of_mean(noise(**PCM), reads, T_READ, READ)
    assert got == pytest.approx(left, abs=0.01)
    span = np.log(3620 / (2 * T_READ))
    assert got == pytest.approx(1 - np.log(reads) / span, abs=0.003)
    assert left_of_mean(White(), reads, T_READ, START) == pytest.approx(1 / reads)
    assert left_of_mean(noise(**PCM), reads, None, READ) == 1 / reads


def test_reads_further_apart_share_less() -> None:
    left = [left_of_mean(noise(**PCM), 16, t, READ) for t in (T_READ, 1e-3, 1.0, 1e3)]
    assert (np.diff(left) < -0.1).all()
    assert left[-1] > 1 / 16


def test_one_over_f_is_that_of_averages_far_apart() -> None:
    """Two reads 1 ms apart covary as c (ln(f_h / f_l) - ln(lag / t_read) - 3/2)."""
    s = Spectrum(f_low=1e-4)
    span = s.span(START)
    assert span == pytest.approx(np.log(1 / (2 * T_READ * 1e-4)))
    got = span * s.correlation(np.array([1e-3]), START)
    assert_allclose(got, span - np.log(1e-3 / T_READ) - 1.5, atol=1e-6)


MEMORIES = st.one_of(
    st.builds(White),
    st.builds(OneOverF, t_0=st.floats(1e-3, 1e3)),
    st.builds(OneOverF, f_low=st.floats(1e-6, 1e6)),
    st.builds(Telegraph, tau=st.floats(1e-9, 1e3)),
)


@given(memory=MEMORIES, interval=st.floats(1, 1e6), time_s=st.floats(0, 1e6))
def test_correlations_fall_and_belong_to_a_process(memory: Memory, interval: float, time_s: float) -> None:
    """1 at 0, convex, never negative, and no combination of reads has a negative variance."""
    k = np.arange(24)
    c = memory.correlation(k * interval * T_READ, replace(READ, time_s=time_s))
    assert c[0] == 1
    assert (np.diff(c) <= 0).all()
    assert (np.diff(c, 2) >= -1e-9).all()
    assert (c >= 0).all()
    assert np.linalg.eigvalsh(c[np.abs(k[:, None] - k)]).min() > -1e-9


def test_a_spectrum_without_room_is_white() -> None:
    short = OneOverF(f_low=1e9)
    assert short.span(START) == 0
    assert_allclose(short.correlation(np.array([0.0, T_READ]), START), [1, 0])


def trajectories(model: TelegraphReadNoise, reads: int, traps: int, seed: int) -> np.ndarray:
    """(reads, traps) averages of a trap's occupation over reads back to back, in 50 steps each."""
    rng, steps = np.random.default_rng(seed), 50
    p = model.emission / (model.capture + model.emission)
    moves = -np.expm1(-T_READ / steps / model.tau)  # exact for any step
    full, means = rng.random(traps) < p, np.zeros((reads, traps))
    for read in range(reads):
        for _ in range(steps):
            u = rng.random(traps)
            full = np.where(full, u >= (1 - p) * moves, u < p * moves)
            means[read] += full / steps
    return means


def test_the_variance_of_telegraph_noise_is_that_of_averaged_trajectories() -> None:
    model = TelegraphReadNoise.model_validate({**PART, "capture": "0.5 us", "emission": "1 us"})
    means = trajectories(model, 60, 4000, 0)
    std = model.std(np.ones(1), READ, np)[0] / model.amplitude
    bound = 5 * np.sqrt(2 / (4000 * 22))  # 60 reads of a trap are about 60 t_read / 2 tau = 22 independent ones
    assert means.var() / std**2 == pytest.approx(1, abs=bound)
    assert abs(means.var() / (2 / 9) - 1) > bound  # an average over t_read has less than the level itself


def test_slow_traps_correlate_as_trajectories_do() -> None:
    model = TelegraphReadNoise.model_validate({**PART, "capture": "10 us", "emission": "20 us"})
    means = trajectories(model, 40, 10_000, 1) - 2 / 3
    bound = 5 * np.sqrt(2 / 10_000)
    for lag in (1, 20, 39):
        got = (means[lag:] * means[:-lag]).mean() / (means**2).mean()
        expected = model.correlation(np.array(lag * T_READ), START)
        assert got == pytest.approx(expected, abs=bound)
        assert abs(got) > bound  # white it is not
    left = left_of_mean(model, 40, T_READ, START)
    assert means.mean(axis=0).var() / means.var() == pytest.approx(left, abs=bound)


def test_a_slow_trap_is_seen_in_full() -> None:
    slow = noise(**{**PART, "capture": "1 s", "emission": "3 s"})
    assert_allclose(slow.std(G, READ, np), 0.1 * np.sqrt(3 / 16) * G, rtol=1e-6)
    assert_allclose(slow.correlation(np.array([0.75]), START), np.exp(-1), rtol=1e-5)
    fast = noise(**{**PART, "capture": "1 ps", "emission": "3 ps"})
    assert_allclose(fast.std(G, READ, np), 0.1 * np.sqrt(3 / 16 * 2 * 0.75e-12 / T_READ) * G, rtol=1e-5)


def test_flicker_noise_in_closed_form() -> None:
    for fields, low in (({"t_0": "20 s"}, 1 / (3620 + T_READ)), ({"f_low": "1 Hz"}, 1)):
        model = noise(kind="flicker", k_f=1e-5, **fields)
        assert_allclose(model.std(G, READ, np), G * np.sqrt(1e-5 * np.log(2e6 / low)), rtol=1e-12)
        assert model.correlation(np.array([T_READ]), READ)[0] > 0.8


def test_a_sum_has_the_variance_of_its_parts() -> None:
    parts = [{"kind": "relative", "fraction": 0.01}, PART, PCM]
    total = noise(kind="sum", parts=parts)
    squares = [noise(**part).std(G, READ, np) ** 2 for part in parts]
    assert_allclose(total.std(G, READ, np) ** 2, sum(squares), rtol=1e-12)
    assert [part.kind for part in total.parts] == ["relative", "telegraph", "pcm"]
    (single,) = noise(**PART).parts
    assert single == noise(**PART)


def test_measured_noise_can_have_a_memory() -> None:
    lag = np.array([0.0, 1e-6])
    fields = {"kind": "relative", "fraction": 0.01}
    slow = noise(**fields, memory={"kind": "one_over_f", "t_0": "1 s"})
    assert_allclose(slow.std(G, READ, np), 0.01 * G)
    assert slow.correlation(lag, START)[1] > 0.7
    assert_allclose(noise(**fields).correlation(lag, START), [1, 0])


STRING = {"g_ref": "100 nS", "v_overdrive": "0.5 V", "r_pass": "8 Mohm", "slope_factor": 1.5}
PHI = 1.380649e-23 * 300 / 1.602176634e-19


def string(g: float, **fields: object) -> float:
    model = noise(kind="string", sigma_vt="1 mV", string={**STRING, **fields})
    return float(model.std(np.array([g]), READ, np)[0]) / g


def test_a_string_above_threshold_is_r_cell_over_r_string_over_overdrive() -> None:
    """At 100 nS the string is 10 Mohm and the cell 2 Mohm."""
    assert string(100e-9) == pytest.approx(0.2 * 1e-3 / 0.5, rel=1e-4)
    assert string(100e-9, v_overdrive="1 V") == pytest.approx(0.2 * 1e-3, rel=1e-4)
    half = 0.5 * (1 / (1 / 50e-9 - 8e6)) / (1 / 2e6)  # the overdrive of a cell of 12 Mohm
    assert string(50e-9) == pytest.approx(12 / 20 * 1e-3 / half * -np.expm1(-half / (1.5 * PHI)), rel=1e-4)


def test_a_string_below_threshold_loses_1_over_n_phi() -> None:
    """2.6 % per millivolt at n = 1.5 and 300 K."""
    assert string(1e-12) == pytest.approx(1e-3 / (1.5 * PHI), rel=1e-3)
    assert string(1e-12) == pytest.approx(0.026, rel=0.01)
    assert string(100e-9, v_overdrive="-0.5 V", r_pass=0) == pytest.approx(1e-3 / (1.5 * PHI), rel=1e-4)
    hot = noise(kind="string", sigma_vt="1 mV", string=STRING)
    assert hot.std(np.array([1e-12]), replace(READ, temperature=400.0), np)[0] / 1e-12 == pytest.approx(
        0.75 * string(1e-12), rel=1e-3
    )


def test_a_lone_transistor_has_the_measured_noise_of_sonos_cells() -> None:
    """12.58 nA (1 - exp(-I / 215.4 nA)) at 0.1 V (Agrawal 2022): 2.3 mV, and y = 1 at 2.154 uS."""
    measured = noise(kind="saturating", i_max="12.58 nA", i_0="215.4 nA")
    overdrive = 1.5 * PHI * np.log(np.expm1(1.0))
    lone = {"g_ref": "2.154 uS", "v_overdrive": overdrive}
    model = noise(kind="string", sigma_vt=1.5 * PHI * 12.58 / 215.4, string=lone)
    assert model.sigma_vt == pytest.approx(2.3e-3, rel=0.02)
    g = np.linspace(0, 16e-6, 20)
    assert_allclose(model.std(g, READ, np), measured.std(g, replace(READ, v_read=0.1), np), rtol=1e-9)


def test_a_string_that_is_all_pass_cells_has_no_noise() -> None:
    model = noise(kind="string", sigma_vt="1 mV", string=STRING)
    for dtype in ("float32", "float64"):
        std = model.std(np.array([0.0, 1 / 8e6, 1.0], dtype=dtype), READ, np)
        assert std.dtype == dtype
        assert_allclose(std, 0, atol=1e-15)


@pytest.mark.parametrize("g", [1e-9, 30e-9, 100e-9])
def test_the_sensitivity_is_the_slope_of_the_string(g: float) -> None:
    """Against a difference quotient of the string's own conductance."""
    model = noise(kind="string", sigma_vt="1 mV", string=STRING)
    step = 1.5 * PHI
    beta = 1 / (1 / 100e-9 - 8e6) / np.logaddexp(0, 0.5 / step)

    def conductance(v: float) -> float:
        return 1 / (1 / (beta * np.logaddexp(0, v / step)) + 8e6)

    y = 1 / (1 / g - 8e6) / beta
    v = step * np.log(np.expm1(y))
    slope = (conductance(v + 1e-6) - conductance(v - 1e-6)) / 2e-6
    assert_allclose(model.string.sensitivity(np.array([g]), 300.0, np), slope, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"kind": "telegraph", "amplitude": 1.5, "capture": 1, "emission": 1}, "amplitude"),
        ({"kind": "telegraph", "amplitude": 0.1, "capture": 0, "emission": 1}, "capture"),
        ({"kind": "flicker", "k_f": 1e-6}, "one of t_0 and f_low must be set, the other null, got None and None"),
        ({"kind": "flicker", "k_f": -1, "t_0": 1}, "k_f"),
        ({"kind": "sum", "parts": []}, "parts"),
        ({"kind": "sum", "parts": [{"kind": "sum", "parts": [PART]}]}, "sum"),
        ({"kind": "string", "sigma_vt": 1e-3, "string": {**STRING, "r_pass": "10 Mohm"}}, r"r_pass must be below"),
        ({"kind": "relative", "fraction": 0.1, "memory": {"kind": "telegraph", "tau": 0}}, "tau"),
        ({"kind": "relative", "fraction": 0.1, "memory": {"kind": "eternal"}}, "memory"),
    ],
)
def test_impossible_noise_is_refused(fields: dict[str, object], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        noise(**fields)
