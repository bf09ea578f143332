"""Sources of noise that are added from outside: the kernels read them, expectations and budgets know them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import pytest
from helpers import ideal
from numpy.testing import assert_allclose
from pydantic import Field
from test_matrix import inputs, matrix

from mho import Hardware
from mho.crossbar.expected import expected_errors
from mho.devices.budget import budget
from mho.devices.parts import Conditions
from mho.devices.sensing import Sensing
from mho.devices.sources import SensingNoise, Shape, white_fit
from mho.devices.units import Ampere, Number

QUIET = {"sensing__thermal": False, "sensing__shot": False, "cell__g_min": 0.0, "cell__g_max": "50 uS"}
READS = 4000


class Hum(SensingNoise):
    """A constant current noise of each bit line."""

    kind: Literal["test_hum"] = "test_hum"
    shape = Shape.COLUMN
    current: Annotated[Ampere, Field(ge=0)]

    def amount(self, conditions: Conditions) -> float:
        return self.current**2


class Comparator(Hum):
    """A constant current noise of each reading."""

    kind: Literal["test_comparator"] = "test_comparator"  # type: ignore[assignment]
    shape = Shape.READING


class Ripple(SensingNoise):
    """Of the supply."""

    kind: Literal["test_ripple"] = "test_ripple"
    shape = Shape.SUPPLY
    size: Annotated[Number, Field(ge=-1, le=1)]

    def amount(self, conditions: Conditions) -> float:
        return abs(self.size) * self.size


class Slack(Ripple):
    """Of the gain."""

    kind: Literal["test_slack"] = "test_slack"  # type: ignore[assignment]
    shape = Shape.GAIN


class Excess(SensingNoise):
    """Of each cell: size (1 V^2 + v^2) of its conductance, in A^2."""

    kind: Literal["test_excess"] = "test_excess"
    shape = Shape.CELL
    size: Number

    def per_siemens(self, v: Any, conditions: Conditions) -> Any:
        return self.size * (1 + np.square(v))

    def powers(self, conditions: Conditions) -> tuple[float, float, float]:
        return self.size, 0.0, self.size


class Misplaced(Ripple):
    """Of a shape that belongs to cells."""

    kind: Literal["test_misplaced"] = "test_misplaced"  # type: ignore[assignment]
    shape = Shape.CONDUCTANCE


SOURCES = {
    "test_hum": {"current": "2 uA"},
    "test_comparator": {"current": "2 uA"},
    "test_ripple": {"size": 0.1},
    "test_slack": {"size": 0.1},
    "test_excess": {"size": 1e-9},
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("encoding", ["differential", "offset"])
def test_a_source_of_others_is_read_and_expected(kind: str, encoding: str) -> None:
    hw = ideal(**QUIET, tile__encoding=encoding, tile__rows=16, sensing__noise=[{"kind": kind, **SOURCES[kind]}])
    tiled, x = matrix(hw, rows=20, outputs=6), inputs(1, rows=20)
    got = tiled.reader.read(x, reads=READS, shared=True)[0].reshape(READS, -1).astype(np.float64)
    expected = expected_errors(tiled, x, 8)
    assert {name for name, error in expected.fresh.items() if error.any()} == {kind}
    bound = 5 * np.sqrt(2 / READS)
    assert np.abs(got.var(axis=0) / expected.fresh[kind][0] - 1).max() < bound
    assert np.abs(got.var(axis=0) / expected.fresh[kind][0] / 2 - 1).min() > bound  # negative control
    assert Hardware.parse(hw.dump(), "dump") == hw


def test_amplifiers_are_counted_for_columns_and_not_for_readings() -> None:
    x, found = inputs(1, rows=20), {}
    for kind in ("test_hum", "test_comparator"):
        tiled = matrix(ideal(**QUIET, sensing__noise=[{"kind": kind, "current": "2 uA"}]), rows=20, outputs=6)
        found[kind] = expected_errors(tiled, x, 8).fresh[kind]
    assert_allclose(found["test_hum"], 2 * found["test_comparator"])


def test_a_source_of_others_is_in_the_budget() -> None:
    """One cell of 10 uS driven with 0.5, another idle."""
    noise = [{"kind": kind, **fields} for kind, fields in SOURCES.items()]
    sensing = Sensing.model_validate({"v_read": 0.2, "t_read": 1e-7, "noise": noise, "thermal": False, "shot": False})
    b = budget([1e-5, 2e-5], [0.5, 0.0], ideal().cell, sensing, [0.2, 1.0])
    current = np.array([0.2, 1.0]) * 0.5e-5
    hand = {
        "test_hum": 4e-12 * np.ones(2),
        "test_comparator": 4e-12 * np.ones(2),
        "test_ripple": 0.01 * current**2,
        "test_slack": 0.01 * current**2,
        "test_excess": 1e-9 * (3e-5 + 1e-5 * 0.25 * np.array([0.04, 1.0])),
    }
    for kind, expected in hand.items():
        assert_allclose(b.variances[kind], expected, rtol=1e-12)
    assert b.multiplicative == {"supply", "gain", "test_ripple", "test_slack"}
    assert_allclose(b.coefficients.snr(b.v), b.snr, rtol=1e-12)


def test_the_fit_is_that_of_the_sum() -> None:
    sensing = Sensing(v_read=0.2, t_read=1e-7)
    at = sensing.conditions()
    parts = [white_fit([source], at) for source in sensing.sources() if source.shape is Shape.CELL]
    assert_allclose(np.sum(parts, axis=0), sensing.white_cell_coefficients(), rtol=1e-12)


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ({"kind": "test_hum", "current": "-1 uA"}, "sensing.noise.0.current = '-1 uA': Input should be greater"),
        (
            {"kind": "test_ripple", "size": -0.1},
            r"sensing.noise \(test_ripple\): its amount must be finite and at least 0",
        ),
        ({"kind": "test_excess", "size": -1}, r"sensing.noise \(test_excess\): c0 and c2 of its fit must be finite"),
        ({"kind": "test_misplaced", "size": 0.1}, r"sensing.noise \(test_misplaced\): .*list it in cell.read_noise"),
        ({"kind": "test_hum", "current": "1 kA"}, "sensing: noise of .* must be at most 1e.06, got"),
    ],
)
def test_impossible_sources_are_one_line(noise: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ideal(**QUIET, sensing__noise=[noise])
    assert "\n" not in str(caught.value)
