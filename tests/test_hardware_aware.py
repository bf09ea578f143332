"""`benchmarks/hardware_aware.py`: the table of its rows."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("hardware_aware")


def rows(way: str, values: list[list[float]], **more: Any) -> list[dict[str, Any]]:
    """Of trainings by chips."""
    place = {"network": "mnist-cnn", "setting": "adc-4", "way": way, "votes": 20, "digital": 0.98, "weights": way}
    made = [
        {**place, "seed": s, "chip": c, "single": value, "voted": value + 0.01, **more}
        for s, chips in enumerate(values)
        for c, value in enumerate(chips)
    ]
    return [{"network": "mnist-cnn", "way": "validation", "weights": "sigma-0.1"}, *made]


def test_intervals_are_over_trainings_and_chips(study: ModuleType) -> None:
    chips = [0.80, 0.82, 0.84]
    same = rows("through", [chips, chips])[1:]
    mean, half = study.mean_of(same, "single")
    assert mean == pytest.approx(82)
    assert half == pytest.approx(4.303 * 2 / 3**0.5, rel=1e-3)  # Student's t of 2 degrees, of chips alone
    differing = [{**row, "single": row["single"] + 0.02 * row["seed"]} for row in same]
    assert study.mean_of(differing, "single")[1] == pytest.approx((4.968**2 + 12.706**2) ** 0.5, rel=1e-3)
    assert study.mean_of(same[:1], "single") == (pytest.approx(80), 0.0)


def test_the_table_says_what_training_recovers(study: ModuleType) -> None:
    some = rows("plain", [[0.50, 0.50]]) + rows("sigma", [[0.70, 0.70]])
    some += rows("through", [[0.90, 0.90], [0.90, 0.90]], epochs=1) + rows("through", [[0.92, 0.92]], epochs=5)
    lines = study.table(some).splitlines()[2:]
    assert lines == [
        "| mnist-cnn | adc-4 | 1 | 98.0 | 50.0 ± 0.0 | 70.0 ± 0.0 (`sigma`) | 90.0 ± 0.0 | 2 x 1 epoch | 83 % |",
        "| mnist-cnn | adc-4 | 20 | 98.0 | 51.0 ± 0.0 | 71.0 ± 0.0 (`sigma`) | 91.0 ± 0.0 | 2 x 1 epoch | 85 % |",
        "| mnist-cnn | adc-4 | 1 | 98.0 | 50.0 ± 0.0 | 70.0 ± 0.0 (`sigma`) | 92.0 ± 0.0 | 1 x 5 epochs | 88 % |",
        "| mnist-cnn | adc-4 | 20 | 98.0 | 51.0 ± 0.0 | 71.0 ± 0.0 (`sigma`) | 93.0 ± 0.0 | 1 x 5 epochs | 89 % |",
    ]
    assert study.table(rows("plain", [[0.5]])).count("\n") == 1  # the other ways are not measured yet


def test_samples_are_spread_over_all(study: ModuleType) -> None:
    images, labels = study.spread((torch.arange(10.0), torch.arange(10)), 4)
    assert images.tolist() == [0, 3, 6, 9]
    assert labels.tolist() == [0, 3, 6, 9]
    assert len(study.spread((torch.arange(3.0), torch.arange(3)), 4)[0]) == 3


def test_ranges_of_the_training_have_rows_of_their_own(study: ModuleType) -> None:
    some = rows("plain", [[0.50]]) + rows("sigma", [[0.70]])
    some += rows("through", [[0.60]], epochs=1) + rows(study.THROUGH[1], [[0.90]], epochs=1)
    lines = study.table(some).splitlines()[2::2]
    assert lines == [
        "| mnist-cnn | adc-4 | 1 | 98.0 | 50.0 ± 0.0 | 70.0 ± 0.0 (`sigma`) | 60.0 ± 0.0 | 1 x 1 epoch | 21 % |",
        "| mnist-cnn | adc-4, ranges of training | 1 | 98.0 | 50.0 ± 0.0 | 70.0 ± 0.0 (`sigma`) | 90.0 ± 0.0 "
        "| 1 x 1 epoch | 83 % |",
    ]
