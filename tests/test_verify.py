"""Program and verify as a process, against a loop over single cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import hardware, on_tiles
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from test_cells import READ

import mho
from mho import Hardware
from mho.crossbar.expected import ExpectedCells
from mho.devices.verify import VerifiedProgramming
from mho.mapping.architecture.decision import decision
from mho.mapping.writing import programming_energy, write_costs

FIELDS: dict[str, Any] = {
    "kind": "verify",
    "tolerance": "1 uS",
    "step": "0.5 uS",
    "gain": 0.6,
    "step_max": "10 uS",
    "step_spread": 0.5,
    "device_spread": 0.3,
    "read_std": "0.4 uS",
    "start": "2 uS",
    "start_std": "0.5 uS",
    "pulses": 25,
}
COST = {"pulse_energy": "10 pJ", "pulse_time": "100 ns", "verify_energy": "1 pJ", "verify_time": "50 ns"}
CELLS = 4000


def model(**changes: Any) -> VerifiedProgramming:
    return VerifiedProgramming.model_validate({**FIELDS, **changes})


def by_hand(made: VerifiedProgramming, g: float, rng: np.random.Generator) -> tuple[float, int]:
    """One cell: where it ends up, and how many pulses it took."""
    now = max(made.start + made.start_std * rng.normal(), 0.0)
    device = np.exp(made.device_spread * rng.normal() - made.device_spread**2 / 2)
    for pulse in range(made.pulses):
        error = g - (now + made.read_std * rng.normal())
        if abs(error) <= made.tolerance:
            return now, pulse
        size = max(made.gain * abs(error), made.step)
        size = min(size, np.inf if made.step_max is None else made.step_max)
        change = size * device * max(1 + made.step_spread * rng.normal(), 0.0)
        now = max(now + np.sign(error) * change, 0.0)
    return now, made.pulses


def simulated(made: VerifiedProgramming, g: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    cells = [by_hand(made, g, rng) for _ in range(CELLS)]
    return np.array([c for c, _ in cells]), np.array([p for _, p in cells])


CHANGES: list[dict[str, Any]] = [{}, {"gain": 0.0, "step": "2 uS", "pulses": 6}, {"read_std": 0, "device_spread": 0}]


@pytest.mark.parametrize("changes", CHANGES, ids=["gain", "equal steps", "exact reads"])
@pytest.mark.parametrize("g", [1e-6, 2e-5])
def test_what_is_left_and_the_pulses_are_those_of_single_cells(changes: dict[str, Any], g: float) -> None:
    made, rng = model(**changes), np.random.default_rng(0)
    others, pulses = simulated(made, g, 1)
    normals = [rng.standard_normal(CELLS) for _ in range(made.draws)]
    found = made.program(np.full(CELLS, g), normals, READ)
    assert stats.ks_2samp(found.g, others).pvalue > 1e-4
    assert abs(found.pulses.mean() - pulses.mean()) < 5 * np.sqrt(2 / CELLS) * (pulses.std() + 1e-9)
    other, _ = simulated(model(**changes, tolerance="6 uS"), g, 1)  # the negative control
    assert stats.ks_2samp(found.g, other).pvalue < 1e-4
    mean, variance = (float(v[0]) for v in made.moments(np.array([g]), READ, np))
    assert abs(others.mean() - mean) < 5 * np.sqrt(variance * (1 / CELLS + 1 / 1024))
    kurtosis = float(stats.kurtosis(others))
    assert abs(others.var() / variance - 1) < 5 * np.sqrt((kurtosis + 2) * (1 / CELLS + 1 / 1024)) + 0.02
    cost = made.programming_cost(np.array([g]), READ)
    assert abs(cost.pulses[0] - pulses.mean()) < 5 * np.sqrt(1 / CELLS + 1 / 1024) * (pulses.std() + 1e-9)


def test_exact_reads_leave_no_error_beyond_the_tolerance_but_of_cells_that_gave_up() -> None:
    made, rng = model(read_std=0, pulses=8, step_spread=1.0), np.random.default_rng(0)
    g = rng.uniform(2e-6, 4e-5, 20_000)
    found = made.program(g, [rng.standard_normal(len(g)) for _ in range(made.draws)], READ)
    assert (np.abs(found.g - g)[found.verified] <= 1e-6 * (1 + 1e-9)).all()
    assert (np.abs(found.g - g)[~found.verified] > 1e-6).all()
    assert 0 < (~found.verified).mean() < 0.5
    assert (found.pulses[~found.verified] == 8).all()


def test_numbers_are_asked_for_only_while_a_cell_takes_pulses() -> None:
    made, asked = model(gain=1.0, step_spread=0, device_spread=0, read_std=0, start_std=0, step_max=None), []

    def draw(purpose: str, i: int) -> np.ndarray:
        asked.append((purpose, i))
        return np.zeros(5)

    cell = hardware(cell__programming=made.model_dump()).cell
    cell.settle(np.full(5, 2e-5), draw, READ, np)
    assert asked == []
    noisy = hardware(cell__programming=model().model_dump()).cell
    noisy.settle(np.full(5, 2e-5), draw, READ, np)
    assert asked[:2] == [("program", 1), ("device", 0)]
    assert max(i for _, i in asked) < model().draws / 2


def test_a_chip_is_the_same_from_the_same_seed_and_programs_millions_of_cells() -> None:
    hw, weights = hardware(cell__programming=FIELDS), np.random.default_rng(0).normal(size=(1, 700, 700))
    first = on_tiles(weights.astype(np.float32), hw, limit=1.0)
    again = on_tiles(weights.astype(np.float32), hw, limit=1.0)
    assert_array_equal(first.packed[0].planes.mean, again.packed[0].planes.mean)


def test_expected_cells_are_those_of_a_chip() -> None:
    hw = hardware(cell__programming=FIELDS, cell__g_min=0, tile={"rows": 200, "columns": 200, "encoding": "single"})
    weights = np.full((1, 200, 200), 0.5, np.float32)
    weights[:, 0] = 1.0
    chip = on_tiles(weights, hw, limit=1.0)
    expected = ExpectedCells.of(hw)
    g = chip.weights[0, 1:] * hw.cell.g_max
    mean, variance = (float(expected.at(v, np.array(hw.cell.g_max / 2))) for v in (expected.mean, expected.variance))
    assert g.mean() == pytest.approx(mean, abs=5 * np.sqrt(variance / 1024))
    assert g.var() == pytest.approx(variance, rel=0.25)


def test_what_it_takes_is_reported() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.ReLU(), torch.nn.Linear(30, 5)).eval()
    hw = hardware(cell__programming={**FIELDS, **COST, "at_once": 2}, tile__rows=16, tile__columns=24)
    chip = mho.map(net, hw, calibrate=torch.rand(50, 40))
    table = write_costs(chip)
    assert list(table["layer"]) == ["0", "2"]
    for _, row in table.iterrows():
        assert 1 < row["pulses"] < 25
        assert 0 <= row["failed"] < 0.1
        assert row["energy_j"] == pytest.approx(row["cells"] * (row["pulses"] * 11e-12 + 1e-12), rel=1e-6)
        tiles = chip.layers[row["layer"]].placement.tiles
        whole = row["cells"] * (row["pulses"] * 150e-9 + 50e-9) / 2
        assert whole / tiles <= row["time_s"] * (1 + 1e-9)
        assert row["time_s"] < 2.5 * whole / tiles
    assert programming_energy(chip) == pytest.approx(table["energy_j"].sum())
    plain = mho.map(net, hardware(cost__write_energy="2 nJ", tile__devices=3), calibrate=torch.rand(50, 40))
    cells = sum(layer.placement.cells for layer in plain.layers.values())
    assert programming_energy(plain) == pytest.approx(3 * cells * 2e-9)
    assert programming_energy(plain, {"0": 2}) > programming_energy(plain)
    found = decision(plain, votes=4, copies=4, programmed_for=1000)
    assert found.programming_j == pytest.approx(4 * 3 * cells * 2e-12)
    assert found.work_j == pytest.approx(decision(plain, votes=4, copies=4).work_j + found.programming_j)
    assert "programming" in str(found)
    assert "programming" not in str(decision(plain))
    with pytest.raises(ValueError, match="programmed_for: a whole number of at least 1, got 0"):
        decision(plain, programmed_for=0)
    assert "programming: " in str(chip.report())
    assert "programming: " not in str(mho.map(net, hardware(), calibrate=torch.rand(50, 40)).report())


def test_pulses_move_more_in_the_heat() -> None:
    made = model(activation="0.5 eV", t_data="300 K")
    assert made.pace(300.0) == 1
    assert made.pace(330.0) == pytest.approx(np.exp(0.5 / 8.617333e-5 * (1 / 300 - 1 / 330)), rel=1e-6)
    hw = hardware(cell__programming=made.model_dump(), sensing__temperature="300 K")
    costs = [
        h.cell.programming.programming_cost(np.array([3e-5]), h.conditions).pulses[0]  # type: ignore[union-attr]
        for h in (hw, hw.replace({"program_temperature": "280 K"}), hw.replace({"storage_temperature": "280 K"}))
    ]
    assert costs[1] > costs[0] == costs[2]


def test_torch_gets_the_same_cells_with_a_gradient_of_one() -> None:
    made, rng = model(), np.random.default_rng(0)
    g, normals = rng.uniform(1e-6, 3e-5, 50), [rng.standard_normal(50) for _ in range(model().draws)]
    x = torch.tensor(g, requires_grad=True)
    found = made.apply(x, [torch.tensor(n) for n in normals], READ, torch)
    assert_allclose(found.detach().numpy(), made.apply(g, normals, READ, np), rtol=1e-12)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert_array_equal(gradient.numpy(), np.ones(50))
    assert made.apply(g.astype(np.float32), [n.astype(np.float32) for n in normals], READ, np).dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tolerance": 0}, "cell.programming.tolerance"),
        ({"tolerance": "1e9 S"}, "cell.programming.tolerance"),
        ({"step": "nan"}, "cell.programming.step"),
        ({"step_max": "0.1 uS"}, "step_max must be at least step = 5e-07 S, or null, got 1e-07 S"),
        ({"step_spread": 1e9}, "cell.programming.step_spread"),
        ({"read_std": "900 S"}, "cell.programming: "),
        ({"start_std": "900 S"}, "cell.programming: "),
        ({"pulses": 0}, "cell.programming.pulses"),
        ({"pulses": 10**6}, "cell.programming.pulses"),
        ({"gain": 3}, "cell.programming.gain"),
        ({"activation": 0.5}, "activation and t_data must both be set or both be null, got 0.5 and None"),
        ({"start": "900 S"}, "cell.programming: "),
    ],
)
def test_impossible_processes_are_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        hardware().replace({"cell.programming": {**FIELDS, **changes}})
    assert "\n" not in str(caught.value)


def test_hardware_with_it_is_written_and_read_back(tmp_path: Any) -> None:
    hw = hardware(cell__programming={**FIELDS, **COST})
    assert Hardware.parse(hw.dump(), "dump") == hw
    net = torch.nn.Sequential(torch.nn.Linear(20, 5)).eval()
    x = torch.rand(10, 20)
    chip = mho.map(net, hw, calibrate=x)
    chip.save(tmp_path / "chip")
    assert torch.equal(mho.load(tmp_path / "chip").copy(1).read(x, read=0), chip.copy(1).read(x, read=0))
