"""What counts and temperatures make of cells, against simulations of single cells."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from helpers import hardware, on_tiles
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from test_cells import READ, cell

import mho
from mho import Hardware
from mho.crossbar.cells import Given
from mho.crossbar.expected import ExpectedCells
from mho.crossbar.extrapolation import extrapolations

N = 40_000
K_EV = 8.617333e-5  # Boltzmann's constant in eV / K
DISTURB = {"kind": "read_disturb", "tau": "10 ms", "v_ref": "0.2 V", "v_0": "25 mV", "shape": 0.6, "toward": "40 uS"}
WEAR = {"kind": "wear", "loss": 0.2, "exponent": 0.5, "n_ref": 1e6, "toward": "5 uS"}
FAILURE = {"kind": "failure", "life": 1e7, "shape": 1.5, "low": "1 uS", "high": "40 uS", "stuck_low": 0.3}
LINEAR = {
    "kind": "temperature_coefficient",
    "g_ref": "40 uS",
    "conductances": [0.1, 1.0],
    "per_kelvin": [0.01, -0.002],
}
ACTIVATED = {"kind": "thermally_activated", "g_ref": "40 uS", "conductances": [0, 1], "energies": ["0.2 eV", "0.02 eV"]}
SPREADS = {"read_disturb": {**DISTURB, "spread": 0.4}, "wear": {**WEAR, "spread": 0.5}, "failure": FAILURE}
AT = replace(READ, reads=20_000, cycles=3_000_000)


def drift(fields: dict[str, Any]) -> Any:
    return hardware().replace({"cell.drift": fields}).cell.drift


def simulated(kind: str, g: float, rng: np.random.Generator) -> np.ndarray:
    if kind == "read_disturb":
        tau = 10e-3 * stats.lognorm(0.4).rvs(N, random_state=rng)  # seconds of reading, cell by cell
        return 40e-6 - (40e-6 - g) * np.exp(-((20_000 * 250e-9 / tau) ** 0.6))
    if kind == "wear":
        kept = np.exp(-0.2 * np.sqrt(3) * stats.lognorm(0.5).rvs(N, random_state=rng))
        return 5e-6 + (g - 5e-6) * kept
    lives = 1e7 * rng.weibull(1.5, N)
    ends = np.where(rng.uniform(size=N) < 0.3, 1e-6, 40e-6)
    return np.where(lives < 3_000_000, ends, g)


@pytest.mark.parametrize("kind", SPREADS)
@pytest.mark.parametrize("g", [2e-6, 2e-5])
def test_counts_change_cells_as_in_a_simulation(kind: str, g: float) -> None:
    made, others = drift(SPREADS[kind]), simulated(kind, g, np.random.default_rng(1))
    found = made.apply(np.full(N, g), [np.random.default_rng(2).standard_normal(N)], AT, np)
    assert stats.ks_2samp(found, others).pvalue > 1e-4
    less = made.apply(
        np.full(N, g), [np.random.default_rng(2).standard_normal(N)], replace(AT, reads=5000, cycles=10**6), np
    )
    assert stats.ks_2samp(less, others).pvalue < 1e-4  # the negative control
    mean, variance = (float(v[0]) for v in made.moments(np.array([g]), AT, np))
    kurtosis = float(stats.kurtosis(others))
    assert abs(others.mean() - mean) < 5 * np.sqrt(variance / N) + 2e-4 * g
    assert abs(others.var() / variance - 1) < 5 * np.sqrt((kurtosis + 2) / N) + 0.01


@pytest.mark.parametrize("kind", SPREADS)
def test_nothing_changes_without_counts(kind: str) -> None:
    made, g = drift(SPREADS[kind]), np.linspace(1e-6, 4e-5, 9)
    assert not made.active(READ)
    assert_array_equal(made.apply(g, [np.ones(9)], READ, np), g)


def test_a_failed_cell_has_failed_for_good() -> None:
    made, n = drift(FAILURE), np.random.default_rng(0).standard_normal(N)
    states = [made.apply(np.full(N, 2e-5), [n], replace(READ, cycles=c), np) for c in (10**5, 10**6, 10**7, 10**8)]
    for early, late in pairwise(states):
        failed = early != 2e-5
        assert_array_equal(late[failed], early[failed])
    assert (states[-1] != 2e-5).all()


def test_reads_at_a_higher_voltage_disturb_more() -> None:
    made, g, none = drift({**DISTURB, "shape": 1.0}), np.array([1e-5]), [np.zeros(1)]
    low = (made.apply(g, none, replace(READ, reads=1000), np) - g) / (40e-6 - g)
    high = (made.apply(g, none, replace(READ, reads=1000, v_read=0.225), np) - g) / (40e-6 - g)
    assert_allclose(np.log1p(-high) / np.log1p(-low), np.e, rtol=1e-9)
    once = made.apply(g, none, replace(READ, reads=40_000), np)  # 10 ms at the voltage of the data
    assert_allclose((once - g) / (40e-6 - g), 1 - np.exp(-1), rtol=1e-9)


def test_a_chip_has_its_reads_and_cycles() -> None:
    net, x = torch.nn.Sequential(torch.nn.Linear(30, 8)).eval(), torch.rand(40, 30)
    chip = mho.map(net, hardware(cell__drift=DISTURB), calibrate=x)
    later = chip.at(0.0, reads=10**6)
    assert later.hardware.reads == 10**6
    assert not torch.equal(later.read(x, read=0), chip.read(x, read=0))
    assert torch.equal(later.at(0.0, reads=0).read(x, read=0), chip.read(x, read=0))
    assert torch.equal(later.at(0.0).read(x, read=0), later.read(x, read=0))
    mapped = mho.map(net, hardware(cell__drift=DISTURB, reads=10**6), calibrate=x)
    assert torch.equal(mapped.layers["0"].weight, later.layers["0"].weight)


CHAIN = [SPREADS["wear"], cell("pcm").drift.model_dump(), SPREADS["read_disturb"], LINEAR]


def test_changes_happen_one_after_another() -> None:
    made, rng = drift({"kind": "sequence", "changes": CHAIN}), np.random.default_rng(0)
    at = replace(AT, time_s=1e4, temperature=330.0, program_temperature=300.0)
    n, g = [rng.standard_normal(N) for _ in range(3)], np.full(N, 2e-5)
    assert made.draws == 3
    step = drift(CHAIN[0]).apply(g, n[:1], at, np)
    step = drift(CHAIN[1]).apply(step, n[1:2], at, np)
    step = drift(CHAIN[2]).apply(step, n[2:], at, np)
    step = drift(CHAIN[3]).apply(step, [], at, np)
    assert_allclose(made.apply(g, n, at, np), step, rtol=1e-12)
    mean, variance = made.moments(np.array([2e-5]), at, np)
    assert abs(step.mean() - mean[0]) < 5 * np.sqrt(variance[0] / N)
    assert step.var() == pytest.approx(variance[0], rel=0.03)
    cold = replace(READ, time_s=1e4)
    assert_allclose(made.apply(g, n, cold, np), drift(CHAIN[1]).apply(g, n[1:2], cold, np), rtol=1e-12)


def test_expected_cells_know_them() -> None:
    hw = hardware(
        cell__drift={"kind": "sequence", "changes": CHAIN[::2]}, reads=20_000, cycles=3_000_000, cell__g_min=0
    )
    expected, rng = ExpectedCells.of(hw), np.random.default_rng(0)
    g = hw.cell.settle(np.full(N, 2e-5), lambda purpose, i: rng.standard_normal(N), hw.conditions, np)
    mean, variance = (float(expected.at(v, np.array(2e-5))) for v in (expected.mean, expected.variance))
    assert abs(g.mean() - mean) < 5 * np.sqrt(variance / N)
    assert g.var() == pytest.approx(variance, rel=0.03)


def test_temperatures_of_reading_move_conductances() -> None:
    g = np.array([1e-6, 4e-6, 4e-5])
    at = replace(READ, temperature=320.0, program_temperature=300.0)
    assert_allclose(drift(LINEAR).apply(g, [], at, np), g * np.array([1.2, 1.2, 0.96]), rtol=1e-9)
    energy = np.array([0.2 - 0.18 * 0.025, 0.2 - 0.18 * 0.1, 0.02])
    factor = np.exp(energy / K_EV * (1 / 300 - 1 / 320))
    assert_allclose(drift(ACTIVATED).apply(g, [], at, np), g * factor, rtol=1e-6)
    for fields in (LINEAR, ACTIVATED):
        assert not drift(fields).active(replace(at, program_temperature=None))
        assert_array_equal(drift(fields).apply(g, [], replace(at, temperature=300.0), np), g)


def test_each_temperature_acts_on_its_own() -> None:
    """Reading: white noise. Storage: relaxation. Programming: the time before the verifying read."""
    pcm = Hardware.preset("pcm").replace({"time_s": 1e4, "cell.drift.activation": "0.3 eV"})

    def lost(**fields: Any) -> float:
        hw = pcm.replace(fields)
        g = hw.cell.drift.apply(np.array([2e-5]), [np.zeros(1)], hw.conditions, np)
        return float(1 - g[0] / 2e-5)

    def white(**fields: Any) -> float:
        return pcm.replace(fields).sensing.white_cell_coefficients()[0]

    assert lost(**{"sensing.temperature": "330 K"}) == lost()  # the same for all three
    assert lost(storage_temperature="330 K") > lost() > lost(program_temperature="330 K")
    pace = np.exp(0.3 / K_EV * (1 / 300 - 1 / 330))
    same = pcm.replace({"time_s": 1e4 * pace})
    expected = same.cell.drift.apply(np.array([2e-5]), [np.zeros(1)], same.conditions, np)
    assert lost(storage_temperature="330 K") == pytest.approx(1 - expected[0] / 2e-5, rel=1e-5)
    assert white(**{"sensing.temperature": "330 K"}) == pytest.approx(1.1 * white(), rel=0.05)
    assert white(storage_temperature="330 K", program_temperature="330 K") == white()
    said = extrapolations(pcm.replace({"storage_temperature": "400 K"}))
    assert said == ["storage_temperature = 400 K is outside the data of cell.drift, 288.15 to 308.15 K"]
    said = extrapolations(pcm.replace({"program_temperature": "400 K"}))
    assert said == ["program_temperature = 400 K is outside the data of cell.programming, 288.15 to 308.15 K"]


def test_a_table_with_an_activation_energy_goes_with_storage() -> None:
    table = {"t_0": 1, "g_ref": 1e-5, "times": (1e5,), "conductances": (0, 1), "std": ((0.1, 0.1),)}
    made = drift({"kind": "relaxation", **table, "activation": "1.1 eV", "t_data": "300 K"})
    g, one = np.array([1e-5]), [np.ones(1)]
    hot = made.apply(g, one, replace(READ, time_s=100.0, storage_temperature=330.0), np)
    pace = np.exp(1.1 / K_EV * (1 / 300 - 1 / 330))
    assert_allclose(hot, made.apply(g, one, replace(READ, time_s=100.0 * pace), np), rtol=1e-6)
    assert_array_equal(
        made.apply(g, one, replace(READ, time_s=100.0, temperature=330.0, storage_temperature=300.0), np),
        made.apply(g, one, replace(READ, time_s=100.0), np),
    )


ALL = [*SPREADS.values(), LINEAR, ACTIVATED, {"kind": "sequence", "changes": CHAIN}]


@pytest.mark.parametrize("fields", ALL, ids=lambda f: f["kind"])
def test_the_same_under_torch_and_in_single_precision(fields: dict[str, Any]) -> None:
    made = drift(fields)
    at = replace(AT, time_s=1e3, temperature=320.0, program_temperature=300.0)
    g, normals = np.linspace(1.1e-6, 3.9e-5, 9), [np.linspace(-1, 1, 9)] * made.draws
    expected = made.apply(g, normals, at, np)
    x = torch.tensor(g, requires_grad=True)
    found = made.apply(x, [torch.tensor(n) for n in normals], at, torch)
    assert_allclose(found.detach().numpy(), expected, rtol=1e-12)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert torch.isfinite(gradient).all()
    assert made.apply(g.astype(np.float32), [n.astype(np.float32) for n in normals], at, np).dtype == np.float32


@pytest.mark.parametrize("fields", ALL, ids=lambda f: f["kind"])
def test_hardware_with_them_is_written_and_read_back(fields: dict[str, Any]) -> None:
    hw = hardware(cell__drift=fields, reads=7, cycles=8, program_temperature="310 K", storage_temperature="320 K")
    assert Hardware.parse(hw.dump(), "dump") == hw


def test_hardware_without_them_is_written_as_before() -> None:
    fields = Hardware.preset("pcm").model_dump()
    assert not fields.keys() & {"reads", "cycles", "program_temperature", "storage_temperature"}
    assert fields["cell"]["stuck"].keys() == {"at_g_min", "at_g_max"}
    assert "activation" not in fields["cell"]["drift"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reads": -1}, "reads"),
        ({"cycles": 1.5}, "cycles"),
        ({"reads": 10**16}, "reads"),
        ({"program_temperature": "0 K"}, "program_temperature"),
        ({"storage_temperature": "1e9 K"}, "storage_temperature"),
        ({"cell.drift": {**DISTURB, "v_0": 0}}, "cell.drift.v_0"),
        ({"cell.drift": {**DISTURB, "spread": 1e9}}, "cell.drift.spread"),
        ({"cell.drift": {**DISTURB, "toward": "900 S"}, "reads": 1000}, "cell.drift: conductances after"),
        (
            {"cell.drift": {**DISTURB, "tau": "1e-15 s"}, "reads": 10**9},
            "cell.drift: at least 1e-06 of g_max must be left",
        ),
        ({"cell.drift": {**WEAR, "loss": 2}}, "cell.drift.loss"),
        (
            {"cell.drift": {**WEAR, "loss": 1, "spread": 0}, "cycles": 10**12},
            "cell.drift: at least 1e-06 of g_max must",
        ),
        ({"cell.drift": {**FAILURE, "life": 0}}, "cell.drift.life"),
        ({"cell.drift": {**FAILURE, "life": float("inf")}}, "cell.drift.life"),
        ({"cell.drift": {**LINEAR, "per_kelvin": [0.1]}}, "per_kelvin must have 2 values, as conductances has, got 1"),
        ({"cell.drift": {**ACTIVATED, "conductances": [1, 0]}}, "conductances must increase"),
        ({"cell.drift": {"kind": "sequence", "changes": []}}, "cell.drift.changes"),
        ({"cell.drift": {"kind": "sequence", "changes": [{"kind": "x"}]}}, "cell.drift.changes.0: kind must be one of"),
    ],
)
def test_impossible_changes_are_refused_in_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        hardware().replace(fields)
    assert "\n" not in str(caught.value)


def test_cells_given_one_by_one_are_known_after_their_reads_only() -> None:
    made = on_tiles(np.ones((1, 4, 3), np.float32), hardware(), limit=1.0)

    given = Given(made.hardware, ())
    assert given.aged(made.hardware.time_s, reads=0) is given
    with pytest.raises(ValueError, match="reads must be 0, when the cells were measured, got 5"):
        given.aged(made.hardware.time_s, reads=5)
