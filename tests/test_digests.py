"""No number changes unnoticed: the digests of small chips of every kind are those on record."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import mho

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def digests() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("digests")


def test_all_cases_are_as_on_record(digests: ModuleType) -> None:
    wanted = digests.wanted()
    found = digests.record(everywhere=not any(digests.is_machines(name) for name in wanted))
    assert digests.differing(found, wanted) == []


def test_every_preset_has_cases(digests: ModuleType) -> None:
    from mho.crossbar.hardware import PRESETS

    assert tuple(importlib.import_module("digest_parts").PRESETS) == PRESETS


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0000002])),
        (torch.tensor([0.0]), torch.tensor([-0.0])),
        (np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32)),
        (np.zeros(2, np.float32), np.zeros(1, np.float64)),
        ([1, 2], [12]),
        ({"a": 1.0}, {"b": 1.0}),
        (1.0, 1.00000000001),
        (1, 1.0),
        (True, 1),
        (float("nan"), 0.0),
    ],
)
def test_digests_tell_apart(digests: ModuleType, one: object, other: object) -> None:
    assert digests.digest(one) == digests.digest(one)
    assert digests.digest(one) != digests.digest(other)


def test_figures_count_to_twelve_digits(digests: ModuleType) -> None:
    assert digests.digest({"j": 1.0 + 1e-14}) == digests.digest({"j": 1.0})


def test_differences_name_case_and_part(digests: ModuleType) -> None:
    record = {"a": {"reads": "1", "report": "2"}, "b": {"reads": "3"}}
    assert digests.differing(record, record) == []
    changed = {"a": {"reads": "1", "report": "0"}, "c": {"reads": "3"}}
    assert digests.differing(changed, record) == ["a: report", "b: missing", "c: new"]


def test_a_changed_key_is_noticed(digests: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: other random numbers for reads."""
    monkeypatch.setattr(mho.crossbar.reader, "stream_key", lambda *place: mho.crossbar.keys.stream_key(*place, 1))
    name = "tile differential"
    found, wanted = digests.record(name), digests.wanted(name)
    assert digests.differing(found, wanted)[0].startswith(name)
