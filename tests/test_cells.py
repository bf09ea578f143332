"""Cells: their errors against closed forms and measured values, and the presets."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from pydantic import ValidationError

from mho.devices import drift, programming, read_noise
from mho.devices.cell import Cell
from mho.devices.parts import Conditions
from mho.devices.sensing import Sensing
from mho.devices.stuck import Stuck

HERE = Path(__file__).parent
PRESETS = HERE.parent / "devices" / "presets"
NAMES = ["ideal", "reram", "pcm", "nand"]
DAY = 86400.0
ROOM = 300.0
READ = Conditions(v_read=0.2, t_read=250e-9, temperature=ROOM)


def after(time_s: float, temperature: float = ROOM) -> Conditions:
    return replace(READ, time_s=time_s, temperature=temperature)


def preset(name: str) -> dict[str, Any]:
    return yaml.safe_load((PRESETS / f"{name}.yaml").read_text(encoding="utf-8"))


@cache
def cell(name: str) -> Cell:
    return Cell.model_validate(preset(name)["cell"])


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(HERE / "golden" / "devices.npz") as file:
        return dict(file)


JOSHI = programming.PolynomialProgrammingError(
    coefficients=("0.28638599 uS", "0.07585724 uS", "-0.00178767 uS"), g_ref="1 uS"
)
MILO = programming.PolynomialProgrammingError(coefficients=("4.782321 uS", "-0.009107 uS"), g_ref="1 uS")


@pytest.mark.parametrize(
    ("key", "model"),
    [
        ("PCMJoshi", JOSHI),
        ("RRAMMilo", MILO),
        ("RRAMWan", cell("reram").programming),
        ("SONOS", cell("nand").programming),
    ],
)
def test_programming_error_is_that_of_the_peer(key: str, model: Any, golden: dict[str, np.ndarray]) -> None:
    g_max = 1 / golden[f"{key}_Rmin"]
    std = model.std(golden[f"{key}_g"] * g_max, READ, np)
    assert_allclose(std, golden[f"{key}_prog_sigma"] * g_max, rtol=1e-9)


def test_two_fits_to_the_same_pcm_data_agree(golden: dict[str, np.ndarray]) -> None:
    """The preset has IBM's fit, the golden values are of Sandia's."""
    g_max = 1 / golden["PCMJoshi_Rmin"]
    std = cell("pcm").programming.std(golden["PCMJoshi_g"] * g_max, READ, np)
    assert_allclose(std, golden["PCMJoshi_prog_sigma"] * g_max, rtol=0.08)


def test_sonos_read_noise_is_that_of_the_peer(golden: dict[str, np.ndarray]) -> None:
    g_max = 1 / golden["SONOS_Rmin"]
    std = cell("nand").read_noise.std(golden["SONOS_g"] * g_max, replace(READ, v_read=0.1), np)
    assert_allclose(std, golden["SONOS_read_sigma"] * g_max, rtol=1e-9)


@pytest.mark.parametrize("days", [1, 2.5, 5])
def test_sonos_drift_is_that_of_the_peer(days: float, golden: dict[str, np.ndarray]) -> None:
    nand, g_max = cell("nand"), 1 / golden["SONOS_Rmin"]
    g = golden["SONOS_g"] * g_max
    mean = nand.drift.apply(g, (np.zeros_like(g),), after(days * DAY), np)
    added = nand.drift.apply(g, (np.ones_like(g),), after(days * DAY), np) - mean
    assert_allclose(mean / g_max, golden[f"SONOS_drift_t{days}d_mean"], atol=3e-4)
    total = np.hypot(added, nand.programming.std(g, READ, np))
    assert_allclose(total / g_max, golden[f"SONOS_drift_t{days}d_sigma"], atol=1e-4, rtol=0.02)


MODELS = [
    programming.NoProgrammingError(),
    JOSHI,
    *(cell(name).programming for name in NAMES),
]
NOISES = [read_noise.NoReadNoise(), *(cell(name).read_noise for name in NAMES)]
DRIFTS = [drift.NoDrift(), *(cell(name).drift for name in NAMES)]


@given(fractions=st.lists(st.floats(0, 1.2), min_size=1, max_size=5), dtype=st.sampled_from(["float32", "float64"]))
def test_standard_deviations_are_finite_and_keep_the_dtype(fractions: list[float], dtype: str) -> None:
    g = np.array([fractions, [0.0] * len(fractions)], dtype=dtype) * np.array(40e-6, dtype=dtype)
    stds = [m.std(g, READ, np) for m in MODELS] + [
        m.std(g, replace(READ, time_s=t), np) for m in NOISES for t in (0.0, 1e4)
    ]
    for std in stds:
        assert std.shape == g.shape
        assert std.dtype == g.dtype
        assert np.isfinite(std).all()
        assert (std >= 0).all()


@pytest.mark.parametrize("model", DRIFTS, ids=lambda m: m.kind)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_drift_starts_from_what_was_programmed(model: Any, dtype: str) -> None:
    g = np.linspace(0, 20e-6, 7).astype(dtype).reshape(7, 1)
    normal = np.linspace(-3, 3, 7).astype(dtype).reshape(7, 1)
    assert_array_equal(model.apply(g, (normal,), after(0.0), np), g)
    later = model.apply(g, (normal,), after(DAY), np)
    assert later.dtype == g.dtype
    assert later.shape == g.shape
    assert (later >= 0).all()
    with pytest.raises(ValueError, match="time_s must be at least 0"):
        model.apply(g, (normal,), after(-1.0), np)


def test_a_polynomial_is_floored_at_zero() -> None:
    model = programming.PolynomialProgrammingError(coefficients=(1e-6, -2e-6), g_ref=1e-5)
    assert_allclose(model.std(np.array([0.0, 2.5e-6, 5e-6, 1e-5]), READ, np), [1e-6, 0.5e-6, 0, 0], atol=1e-20)


def test_pcm_drift_is_a_power_law_with_its_own_exponent_for_each_cell() -> None:
    model, t = cell("pcm").drift, 3600.0
    g = np.array([25e-6, 25e-6, 2.5e-6, 0.25e-6, 0.0])
    normal = np.array([0.0, 2.0, 1.0, 0.0, 0.0])
    middle = 0.0244 - 0.0155 * np.log(0.1) + (-0.0125 * np.log(0.1) - 0.0059)
    nu = np.array([0.049, 0.049 + 2 * 0.008, middle, 0.0244 - 0.0155 * np.log(0.01), 0.1])
    assert_allclose(model.apply(g, (normal,), after(t), np), g * (1 + t / 20) ** -nu, rtol=1e-12)
    conductances = [model.apply(g[:3], (normal[:3],), after(s), np) for s in (0.0, 1.0, 1e3, 1e8)]
    assert (np.diff(conductances, axis=0) < 0).all()


def test_a_drift_exponent_is_never_negative() -> None:
    g = np.full(3, 25e-6)
    assert_array_equal(cell("pcm").drift.apply(g, (np.array([-7.0, -10.0, -100.0]),), after(1e6), np), g)


def test_relaxation_is_linear_in_the_logarithm_of_time() -> None:
    model = drift.TabulatedRelaxation(
        t_0=1.0,
        g_ref=1e-5,
        times=(np.e - 1, np.e**2 - 1),
        conductances=(0, 1),
        shift=((0, 0.1), (0, 0.3)),
        std=((0, 0), (0.2, 0.2)),
    )
    g, one, none = np.array([1e-5, 0.5e-5]), np.ones(2), np.zeros(2)
    half = np.expm1([0.5, 1.5])
    assert_allclose(model.apply(g, (one,), after(half[0]), np), g * 1.05)
    assert_allclose(model.apply(g, (none,), after(half[1]), np), g * 1.2)
    assert_allclose(model.apply(g, (one,), after(half[1]), np) - g * 1.2, 1e-5 * np.sqrt(0.5) * 0.2)
    assert_array_equal(model.apply(np.array([1e-6]), (np.array([-5.0]),), after(half[1]), np), [0.0])
    with pytest.raises(ValueError, match="time_s must be at most"):
        model.apply(g, (none,), after(100.0), np)


def test_charge_loss_is_faster_in_the_heat() -> None:
    """1.1 eV from 300 K to 330 K: 48 times."""
    table = {"t_0": 1, "g_ref": 1e-5, "times": (1e5,), "conductances": (0, 1), "std": ((0.1, 0.1),)}
    model = drift.TabulatedRelaxation.model_validate({**table, "activation": "1.1 eV", "t_data": "300 K"})
    pace = np.exp(1.1 / 8.617333e-5 * (1 / 300 - 1 / 330))
    assert_allclose(pace, 47.8, rtol=0.01)
    g, one = np.array([1e-5]), np.ones(1)
    cool = model.apply(g, (one,), after(1e3 * pace, 300.0), np)
    assert_allclose(model.apply(g, (one,), after(1e3, 330.0), np), cool, rtol=1e-6)
    assert model.apply(g, (one,), after(1e3, 300.0), np) < cool
    with pytest.raises(ValueError, match=r"time_s must be at most 20\d\d.* s at 330 K, where the drift data end"):
        model.apply(g, (one,), after(1e4, 330.0), np)
    assert model.pace(1.0) == 0
    absurd = model.model_copy(update={"t_data": 1.0})
    with pytest.raises(ValueError, match="time_s must be at most"):
        absurd.apply(g, (one,), after(1.0, 300.0), np)
    plain = drift.TabulatedRelaxation.model_validate(table)
    assert_array_equal(plain.apply(g, (one,), after(1e3, 330.0), np), plain.apply(g, (one,), after(1e3, 300.0), np))


STRING = {"g_ref": "100 nS", "v_overdrive": "0.5 V"}


def test_incremental_steps_leave_a_uniform_error_and_the_grain_of_charge() -> None:
    """0.2 V steps: 58 mV; and 5.7 mV from 0.2 V C_pp / q = 1248 electrons at 1 fF, 0.2 / sqrt(1248)."""
    model = programming.IncrementalProgrammingError.model_validate({"v_step": "0.2 V", "string": STRING})
    assert_allclose(model.sigma_vt, 0.0577, rtol=1e-3)
    grain = model.model_copy(update={"c_pp": 1e-15})
    assert_allclose(grain.sigma_vt, np.hypot(0.2 / 12**0.5, 0.2 / (0.2e-15 / 1.602177e-19) ** 0.5), rtol=1e-6)
    g = np.array([0, 50e-9, 100e-9])
    expected = model.sigma_vt * model.string.sensitivity(g, ROOM, np)
    assert_array_equal(model.std(g, READ, np), expected)
    assert_allclose(expected[2] / 100e-9, 0.0577 / 0.5, rtol=1e-3)


def test_the_error_of_incremental_steps_bounds_that_of_simulated_ones() -> None:
    """Steps of Poisson electrons until a level is passed, and renewal theory, which has half the grain of the bound."""
    n, v_step, electrons, rng = 20_000, 0.1, 20, np.random.default_rng(0)
    c_pp = electrons * 1.602177e-19 / v_step
    model = programming.IncrementalProgrammingError.model_validate({"v_step": v_step, "c_pp": c_pp, "string": STRING})
    v = rng.uniform(-2, -1, n)
    while (below := v < 0).any():
        v[below] += rng.poisson(electrons, below.sum()) * v_step / electrons
    cv2 = 1 / electrons  # moments of a step in units of v_step: 1 + cv2, and 1 + 3 cv2 + cv2^2
    renewal = v_step**2 * ((1 + 3 * cv2 + cv2**2) / 3 - ((1 + cv2) / 2) ** 2)
    assert v.var() == pytest.approx(renewal, rel=5 * np.sqrt(2 / n))
    assert v_step**2 / 12 < 0.9 * renewal
    assert renewal < model.sigma_vt**2 < 1.3 * renewal


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": (2.0, 1.0)}, "times must increase"),
        ({"times": (0.0, 1.0)}, "times must increase"),
        ({"conductances": (1, 0)}, "conductances must increase"),
        ({"shift": ((0, 0),)}, "shift must have 2 rows of 2, got rows of"),
        ({"shift": ()}, "shift must have 2 rows of 2, got rows of"),
        ({"std": ((0, 0), (0,))}, "std must have 2 rows of 2, got rows of"),
        ({"std": ((0, 0), (0, -1))}, "std"),
        ({"g_ref": 0}, "g_ref"),
        ({"activation": 1.1}, "activation and t_data must both be set or both be null, got 1.1 and None"),
        ({"activation": -1, "t_data": 300}, "activation"),
    ],
)
def test_a_crooked_table_is_refused(change: dict[str, Any], message: str) -> None:
    table = {"t_0": 1, "g_ref": 1, "times": (1, 2), "conductances": (0, 1), "std": ((0, 0), (0, 0))}
    with pytest.raises(ValidationError, match=message):
        drift.TabulatedRelaxation.model_validate({**table, **change})


def test_pcm_read_noise_in_closed_form() -> None:
    g = np.array([25e-6, 2.5e-6, 1e-9, 0.0])
    for time_s in (0.0, 3600.0):
        spectrum = np.sqrt(np.log((20 + time_s + 250e-9) / 500e-9))
        q = np.array([0.0088, 0.0088 * 0.1**-0.65, 0.2, 0.2])
        assert_allclose(cell("pcm").read_noise.std(g, replace(READ, time_s=time_s), np), g * q * spectrum, rtol=1e-12)
    with pytest.raises(ValueError, match="time_s must be at least 0"):
        cell("pcm").read_noise.std(g, replace(READ, time_s=-1.0), np)


def test_saturating_read_noise_is_a_current() -> None:
    model = read_noise.SaturatingReadNoise(i_max="12 nA", i_0="200 nA")
    g = np.array([0.0, 1e-13, 1e-3])
    assert_allclose(model.std(g, READ, np), [0, 1e-13 * 12 / 200, 12e-9 / 0.2], rtol=1e-6)
    assert_allclose(model.std(g, replace(READ, v_read=0.1), np)[2], 12e-9 / 0.1)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("g_min", "25 uS", "g_min must be below g_max"),
        ("g_min", -1e-6, "g_min"),
        ("levels", 1, "levels"),
        ("v_max", 0, "v_max"),
        ("programming", {"kind": "cubic"}, "polynomial"),
        ("programming", {"kind": "polynomial", "coefficients": [], "g_ref": 1}, "coefficients"),
        ("programming", {"kind": "saturating", "s_max": "-1 uS", "g_0": 1}, "s_max"),
        ("programming", {"kind": "incremental", "v_step": 0, "string": STRING}, "v_step"),
        ("stuck", {"at_g_min": 0.7, "at_g_max": 0.5}, r"at_g_min \+ at_g_max must be at most 1, got 0.7 \+ 0.5"),
        ("stuck", {"at_g_min": -0.1}, "at_g_min"),
        ("drift", {"kind": "none", "t_0": 1}, "NoDrift has no field t_0"),
        ("read_noise", {"kind": "relative", "fraction": -0.01}, "fraction"),
        ("gmax", 1, "Cell has no field gmax"),
    ],
)
def test_impossible_cells_are_refused(path: str, value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Cell.model_validate({"g_min": 0, "g_max": "25 uS", path: value})


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        (read_noise.FlickerReadNoise(k_f=1e-6, t_0=1), {"f_low": 1.0}, "one of t_0 and f_low must be set"),
        (drift.LogLinear(offset=0, slope=0, low=0, high=1), {"low": 2.0}, "low must not exceed high"),
    ],
)
def test_contradictions_are_refused(model: Any, change: dict[str, float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        type(model).model_validate({**model.model_dump(), **change})


def test_a_cell_without_errors_is_the_default() -> None:
    plain = Cell(g_min=0, g_max=1e-4)
    assert {plain.programming.kind, plain.drift.kind, plain.read_noise.kind} == {"none"}
    assert plain.stuck == Stuck(at_g_min=0, at_g_max=0)


def numeric_leaves(tree: Any, path: str = "") -> list[str]:
    """Dotted paths of numbers and quantities in a configuration; a list counts once."""
    if isinstance(tree, dict):
        return [leaf for name, node in tree.items() for leaf in numeric_leaves(node, f"{path}.{name}".lstrip("."))]
    if isinstance(tree, list):
        return [path] if any(numeric_leaves(node, path) for node in tree) else []
    if isinstance(tree, str):
        return [path] if re.match(r"[-+.]?\d", tree) else []
    return [path] if isinstance(tree, (int, float)) and not isinstance(tree, bool) else []


def test_numeric_leaves_are_found() -> None:
    tree = {"a": {"b": "50 uS", "c": "column", "d": True, "e": None}, "f": [[1, 2], [3]], "g": [{"kind": "x"}], "h": 0}
    assert numeric_leaves(tree) == ["a.b", "f", "h"]


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_a_preset_has_a_source_and_no_other(name: str) -> None:
    tree = preset(name)
    sources = tree.pop("sources")
    del tree["description"]
    tree.pop("cost", None)  # costs have their sources beside them
    assert sorted(sources) == sorted(numeric_leaves(tree))
    assert all(isinstance(source, str) and len(source) > 10 for source in sources.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_named_and_reads_within_its_limits(name: str) -> None:
    tree = preset(name)
    sensing = Sensing.model_validate(tree["sensing"])
    assert tree["name"] == name
    v_max = cell(name).v_max
    assert v_max is None or sensing.v_read <= v_max


def test_the_ideal_preset_has_no_noise() -> None:
    ideal, sensing = cell("ideal"), Sensing.model_validate(preset("ideal")["sensing"])
    assert {ideal.programming.kind, ideal.drift.kind, ideal.read_noise.kind} == {"none"}
    assert ideal.stuck == Stuck()
    assert (*sensing.white_cell_coefficients(), sensing.amplifier_variance, sensing.gain_noise) == (0, 0, 0, 0)
