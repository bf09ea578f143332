"""Programming errors beyond unbiased Gaussians, each against cells that are simulated another way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import hardware, on_tiles
from numpy.testing import assert_allclose
from scipy import stats
from test_cells import READ

from mho import Hardware
from mho.crossbar.expected import ExpectedCells
from mho.devices.programming import PolynomialProgrammingError
from mho.devices.programming_errors import DeviceToDevice, QuantileProgrammingError, SkewedProgrammingError

N = 40_000
TARGETS = np.array([1e-6, 1e-5, 3e-5])
SKEWED = {
    "kind": "skewed",
    "g_ref": "40 uS",
    "bias": ["-0.5 uS", "1 uS"],
    "coefficients": ["0.4 uS", "2 uS"],
    "skewness": 1.5,
}
QUANTILES = {
    "kind": "quantiles",
    "g_ref": "10 uS",
    "conductances": [0.1, 2.0],
    "probabilities": [0.05, 0.25, 0.5, 0.75, 0.95],
    "errors": [[-0.02, -0.01, 0.0, 0.01, 0.05], [-0.3, -0.1, -0.05, 0.0, 0.1]],
}
POLYNOMIAL = {"kind": "polynomial", "coefficients": ["0.5 uS", "1 uS"], "g_ref": "40 uS"}
DEVICES = {"kind": "device_to_device", "range_spread": 0.05, "error_spread": 0.3, "error": POLYNOMIAL}


def model(fields: dict[str, Any]) -> Any:
    return hardware().replace({"cell.programming": fields}).cell.programming


def drawn(made: Any, g: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.maximum(made.apply(np.full(N, g), [rng.standard_normal(N) for _ in range(made.draws)], READ, np), 0)


def simulated_skewed(g: float, rng: np.random.Generator) -> np.ndarray:
    """A gamma distribution has another shape, the lognormal of SciPy the same: made of it, by its own moments."""
    s = next(s for s in np.linspace(0.01, 1, 100_000) if (np.exp(s**2) + 2) * np.sqrt(np.expm1(s**2)) >= 1.5)
    law = stats.lognorm(s)
    z = (law.rvs(N, random_state=rng) - law.mean()) / law.std()
    x = g / 40e-6
    return np.maximum(g + (-0.5e-6 + 1e-6 * x) + (0.4e-6 + 2e-6 * x) * z, 0)


def simulated_quantiles(g: float, rng: np.random.Generator) -> np.ndarray:
    """By the inverse of the distribution, of uniform numbers."""
    u = rng.uniform(size=N)
    share = np.clip((g / 10e-6 - 0.1) / 1.9, 0, 1)
    errors = np.array(QUANTILES["errors"])
    row, scores = errors[0] + share * (errors[1] - errors[0]), stats.norm.ppf(QUANTILES["probabilities"])
    score = stats.norm.ppf(u)
    error = np.interp(score, scores, row)
    for end, inner in ((0, 1), (-1, -2)):
        beyond = score < scores[0] if end == 0 else score > scores[-1]
        slope = (row[end] - row[inner]) / (scores[end] - scores[inner])
        error[beyond] = row[end] + slope * (score[beyond] - scores[end])
    return np.maximum(g + 10e-6 * error, 0)


def simulated_devices(g: float, rng: np.random.Generator) -> np.ndarray:
    r = stats.lognorm(0.05, scale=np.exp(-(0.05**2) / 2)).rvs(N, random_state=rng)
    e = stats.lognorm(0.3, scale=np.exp(-(0.3**2) / 2)).rvs(N, random_state=rng)
    return np.maximum(r * g + e * rng.normal(0, 0.5e-6 + 1e-6 * g / 40e-6, N), 0)


SIMULATED = {"skewed": (SKEWED, simulated_skewed), "quantiles": (QUANTILES, simulated_quantiles)}
SIMULATED |= {"device_to_device": (DEVICES, simulated_devices)}


@pytest.mark.parametrize("kind", SIMULATED)
@pytest.mark.parametrize("g", TARGETS)
def test_cells_are_distributed_as_those_of_a_simulation(kind: str, g: float) -> None:
    fields, simulate = SIMULATED[kind]
    cells, others = drawn(model(fields), g), simulate(g, np.random.default_rng(1))
    assert stats.ks_2samp(cells, others).pvalue > 1e-4
    gaussian = np.random.default_rng(2).normal(cells.mean(), cells.std(), N)  # the negative control
    assert kind == "device_to_device" or stats.ks_2samp(cells, np.maximum(gaussian, 0)).pvalue < 1e-4
    mean, variance = (float(v[0]) for v in model(fields).moments(np.array([g]), READ, np))
    assert abs(others.mean() - mean) < 5 * np.sqrt(variance / N)
    kurtosis = float(stats.kurtosis(others))
    assert abs(others.var() / variance - 1) < 5 * np.sqrt((kurtosis + 2) / N) + 0.002


@pytest.mark.parametrize("kind", SIMULATED)
def test_expected_cells_are_those_of_many_after_drift(kind: str) -> None:
    hw = Hardware.preset("pcm").replace({"time_s": 1e4, "cell.programming": SIMULATED[kind][0], "cell.g_max": "40 uS"})
    expected, rng = ExpectedCells.of(hw), np.random.default_rng(3)
    g = hw.cell.settle(np.full(N, 2e-5), lambda purpose, i: rng.standard_normal(N), hw.conditions, np)
    mean, variance = (expected.at(values, np.array(2e-5)) for values in (expected.mean, expected.variance))
    assert abs(g.mean() - mean) < 5 * np.sqrt(variance / N)
    assert abs(g.var() / variance - 1) < 0.05


@pytest.mark.parametrize("kind", SIMULATED)
def test_the_same_under_torch_with_gradients(kind: str) -> None:
    made = model(SIMULATED[kind][0])
    g, normals = np.linspace(2.1e-6, 3e-5, 15), [np.linspace(-2, 2, 15) for _ in range(made.draws)]
    expected = made.apply(g, normals, READ, np)
    slope = (made.apply(g + 1e-10, normals, READ, np) - made.apply(g - 1e-10, normals, READ, np)) / 2e-10
    x = torch.tensor(g, requires_grad=True)
    found = made.apply(x, [torch.tensor(n) for n in normals], READ, torch)
    assert_allclose(found.detach().numpy(), expected, rtol=1e-12)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert_allclose(gradient.numpy(), slope, rtol=1e-4, atol=1e-5)
    single = made.apply(g.astype(np.float32), [n.astype(np.float32) for n in normals], READ, np)
    assert single.dtype == np.float32


def test_skewness_has_both_signs_and_none() -> None:
    n = np.random.default_rng(0).standard_normal(400_000)
    for skewness in (-2.0, 0.0, 0.5, 3.0):
        made = model({**SKEWED, "bias": ["0 S"], "skewness": skewness})
        z = (made.apply(np.full_like(n, 3e-5), [n], READ, np) - 3e-5) / (0.4e-6 + 2e-6 * 0.75)
        assert abs(z.mean()) < 0.01
        assert z.std() == pytest.approx(1, abs=0.02)
        assert stats.skew(z) == pytest.approx(skewness, abs=0.02 + 0.15 * abs(skewness))


def test_errors_grow_with_the_temperature_of_programming() -> None:
    fields = {**SKEWED, "bias": ["0 S"], "skewness": 0, "per_kelvin": 0.01}
    hw = hardware(cell__programming=fields, program_temperature="350 K", sensing__temperature="300 K")
    hot, cold = (
        hw.cell.programming.std(TARGETS, h.conditions, np) for h in (hw, hw.replace({"program_temperature": None}))
    )
    assert_allclose(hot[1:], 1.5 * cold[1:], rtol=1e-3)


def test_the_factors_of_devices_stay_when_cells_are_programmed_again() -> None:
    """And the error of the cycle does not: correlation of a cell with itself, and with the cell of another chip."""
    weights = np.full((1, 60, 60), 0.5, np.float32)
    fields = {"cell__programming": {**DEVICES, "range_spread": 0.1, "error_spread": 0}, "cell__drift": {"kind": "none"}}

    def cells(seed: int = 0, **more: Any) -> np.ndarray:
        return on_tiles(weights, hardware(**fields, **more), limit=1.0, seed=seed).weights.reshape(-1)

    first, again, other = cells(), cells(cycles=7), cells(seed=1)
    assert not np.array_equal(first, again)
    assert np.corrcoef(first, again)[0, 1] > 0.5
    assert abs(np.corrcoef(first, other)[0, 1]) < 5 / np.sqrt(first.size)
    alone = {**fields, "cell__programming": POLYNOMIAL}
    a, b = (on_tiles(weights, hardware(**alone, cycles=c), limit=1.0).weights.reshape(-1) for c in (0, 7))
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(a.size)


@pytest.mark.parametrize("fields", [SKEWED, QUANTILES, DEVICES], ids=lambda f: f["kind"])
def test_hardware_with_them_is_written_and_read_back(fields: dict[str, Any]) -> None:
    hw = hardware(cell__programming=fields, program_temperature="340 K", reads=5, cycles=6, storage_temperature=310)
    assert Hardware.parse(hw.dump(), "dump") == hw


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({**SKEWED, "coefficients": ["1e9 S"]}, r"cell.programming.coefficients.0 = '1e9 S': expected siemens"),
        ({**SKEWED, "coefficients": ["900 S"]}, "cell.programming: its standard deviation must be"),
        ({**SKEWED, "bias": ["-900 S"]}, "cell.programming: at least 1e-06 of g_max must be left"),
        ({**SKEWED, "skewness": 1e9}, "cell.programming.skewness"),
        ({**SKEWED, "skewness": float("nan")}, "cell.programming.skewness"),
        ({**QUANTILES, "probabilities": [0.05, 0.25, 0.25, 0.75, 0.95]}, "probabilities must increase"),
        ({**QUANTILES, "probabilities": [0.0, 0.25, 0.5, 0.75, 0.95]}, "cell.programming.probabilities.0"),
        ({**QUANTILES, "conductances": [2.0, 0.1]}, "conductances must increase"),
        ({**QUANTILES, "errors": [[0.0] * 5]}, "errors must have 2 rows of 5, got rows of"),
        ({**QUANTILES, "errors": [[0.0] * 5, [0.0, 0.1, 0.05, 0.2, 0.3]]}, "errors must not fall"),
        ({**DEVICES, "range_spread": 1e9}, "cell.programming.range_spread"),
        ({**DEVICES, "error_spread": 10}, "cell.programming.error_spread = 10.*: Input should be less"),
        ({**DEVICES, "error": DEVICES}, "error must be of a kind without factors that last"),
        ({**DEVICES, "error": {"kind": "loud"}}, "cell.programming.error: kind must be one of"),
    ],
)
def test_impossible_errors_are_refused_in_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        hardware().replace({"cell.programming": fields})
    assert "\n" not in str(caught.value)


def test_without_bias_skew_and_factors_they_are_the_gaussian() -> None:
    plain = PolynomialProgrammingError.model_validate(POLYNOMIAL)
    skewed = SkewedProgrammingError.model_validate(
        {**POLYNOMIAL, "kind": "skewed", "coefficients": POLYNOMIAL["coefficients"]}
    )
    devices = DeviceToDevice.model_validate({"error": POLYNOMIAL})
    normal = np.linspace(-3, 3, 3)
    expected = plain.apply(TARGETS, [normal], READ, np)
    assert_allclose(skewed.apply(TARGETS, [normal], READ, np), expected, rtol=1e-12)
    assert_allclose(devices.apply(TARGETS, [normal, normal, normal], READ, np), expected, rtol=1e-12)
    scores = np.linspace(-2, 2, 9)
    table = QuantileProgrammingError(
        g_ref=1e-6, conductances=(1,), probabilities=tuple(stats.norm.cdf(scores)), errors=(tuple(scores.tolist()),)
    )
    assert_allclose(table.apply(TARGETS, [normal], READ, np), TARGETS + 1e-6 * normal, rtol=1e-9)


def blocks(section: str) -> list[Any]:
    """The YAML of a section of docs/devices.md."""
    text = (Path(__file__).parents[1] / "docs" / "devices.md").read_text(encoding="utf-8")
    text = text.split(f"# {section}\n")[1].split("\n## ")[0].split("\n### ")[0]
    return [yaml.safe_load(part.split("```")[0]) for part in text.split("```yaml\n")[1:]]


def test_published_fits_of_the_documentation_can_be_used() -> None:
    (fits,) = blocks("Published fits")
    stds = [hardware(cell__programming=fit).cell.programming.std(np.array([2e-5]), READ, np)[0] for fit in fits]
    assert_allclose(stds[0], (0.166 + (4.718 + (-8.481 + 4.690 * 20 / 20.7) * 20 / 20.7) * 20 / 20.7) * 1e-6, rtol=1e-6)
    assert_allclose(stds[2], stds[3], rtol=0.2)  # two fits to the same cells
    assert fits[4]["coefficients"] == ["0.26348 uS", "1.9650 uS", "-1.1731 uS"]


def test_the_example_of_counts_is_hardware() -> None:
    (fields,) = blocks("Reads and cycles")
    changes = fields.pop("cell")["drift"]
    hw = hardware(cell__drift=changes, **fields)
    assert [change.kind for change in hw.cell.drift.parts] == [
        "wear",
        "failure",
        "read_disturb",
        "temperature_coefficient",
    ]
    assert hw.cell.drift.active(hw.conditions)
