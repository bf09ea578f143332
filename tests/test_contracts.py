"""What parts of a cell, sources of noise and expanders that others write are held to."""

from __future__ import annotations

import collections
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from helpers import hardware
from torch import nn

import mho
from mho.crossbar.slow_noise import block_shares
from mho.devices.drift import DriftModel
from mho.devices.memory import MemoryModel, OneOverF
from mho.devices.parts import Conditions
from mho.devices.programming import ProgrammingModel
from mho.devices.read_noise import ReadNoiseSource
from mho.devices.sources import SensingNoise, Shape
from mho.mapping.errors import MappingError
from mho.mapping.kinds.expander import EXPANDERS, Expander


def in_place(g: Any) -> Any:
    g *= 0.5
    return g


def made(what: str, g: Any, normals: Any) -> Any:
    return {"in place": lambda: in_place(g), "normals": lambda: g + normals[2] * 1e-9, "none": lambda: None}[what]()


class Error(ProgrammingModel):
    kind: Literal["test_held_error"] = "test_held_error"
    draws: ClassVar[int] = 2
    what: str

    def apply(self, g: Any, normals: Any, conditions: Conditions, xp: Any) -> Any:
        return made(self.what, g, normals)


class Drift(DriftModel):
    kind: Literal["test_held_drift"] = "test_held_drift"
    draws: ClassVar[int] = 2
    what: str

    def apply(self, g: Any, normals: Any, conditions: Conditions, xp: Any) -> Any:
        return made(self.what, g, normals)


class Noise(ReadNoiseSource):
    kind: Literal["test_held_noise"] = "test_held_noise"
    what: str

    def std(self, g: Any, conditions: Conditions, xp: Any) -> Any:
        return made(self.what, g, ())


class Undrawn(ProgrammingModel):
    kind: Literal["test_undrawn"] = "test_undrawn"
    draws: ClassVar[int] = -1

    def apply(self, g: Any, normals: Any, conditions: Conditions, xp: Any) -> Any:
        return g


@pytest.mark.parametrize("what", ["in place", "normals", "none"])
@pytest.mark.parametrize("part", ["programming", "drift", "read_noise"])
def test_conductances_stay_and_others_come_out(part: str, what: str) -> None:
    method, kind = ("std", "noise") if part == "read_noise" else ("apply", "drift" if part == "drift" else "error")
    said = {
        "in place": f"`{method}` must leave the conductances that it is given as they are",
        "normals": "`apply` gets 2 normal numbers a cell, its draws",
        "none": f"`{method}` must give float32 .*, got NoneType",
    }[what]
    if (part, what) == ("read_noise", "normals"):
        return
    with pytest.raises(ValueError, match=f"^cell.{part}: {said}") as caught:
        hardware().replace({f"cell.{part}": {"kind": f"test_held_{kind}", "what": what}, "time_s": 10.0})
    assert "\n" not in str(caught.value)


def test_draws_are_a_number() -> None:
    with pytest.raises(ValueError, match=r"^cell.programming: its draws must be a whole number of at least 0, got -1$"):
        hardware().replace({"cell.programming": {"kind": "test_undrawn"}})


CORRELATIONS: dict[str, Any] = {
    "rises": lambda lag: np.where(lag == 0, 1.0, 0.1 + 0.2 * (lag > 5e-6)),
    "negative": lambda lag: np.where(lag == 0, 1.0, -0.5),
    "half": lambda lag: np.full(lag.shape, 0.5),
    "number": lambda lag: 1.0,
    "nan": lambda lag: lag * np.nan,
    "bell": lambda lag: np.exp(-((lag / 3e-6) ** 2)),
    "good": lambda lag: np.exp(-lag / 3e-6),
}


class Memory(MemoryModel):
    kind: Literal["test_held_memory"] = "test_held_memory"
    form: str

    def correlation(self, lag_s: Any, conditions: Conditions) -> Any:
        return CORRELATIONS[self.form](lag_s)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("rises", "must be 1 at lag 0, never rise and never be negative, got 1 at lag 0, then 0.1 to 0.3"),
        ("negative", "must be 1 at lag 0, never rise and never be negative, got 1 at lag 0, then -0.5 to -0.5"),
        ("half", "must be 1 at lag 0, never rise and never be negative, got 0.5 at lag 0"),
        ("number", r"must have the shape \(14,\) of the lags, got \(\)"),
        ("nan", "must be 1 at lag 0"),
        ("bell", "must be convex in the lag, falling ever less from read to read; it bends down 1 read_interval after"),
        ("good", None),
    ],
)
def test_a_correlation_is_one_that_reads_can_have(form: str, said: str | None) -> None:
    asked = {
        "cell.read_noise": {"kind": "relative", "fraction": 0.01, "memory": {"kind": "test_held_memory", "form": form}},
        "sensing.read_interval": 1e-6,
    }
    if said is None:
        hardware().replace(asked)
        return
    with pytest.raises(ValueError, match=rf"^cell.read_noise \(relative\): its correlation {said}") as caught:
        hardware().replace(asked)
    assert "\n" not in str(caught.value)


def test_reads_far_apart_need_no_convex_correlation() -> None:
    memory = {"kind": "test_held_memory", "form": "bell"}
    hardware().replace({"cell.read_noise": {"kind": "relative", "fraction": 0.01, "memory": memory}})


def test_a_spectrum_of_hardly_any_width_has_a_correlation() -> None:
    """A difference of special functions over its width was 0 to 8 there."""
    read = Conditions(v_read=0.2, t_read=43303.290606894705)
    narrow = OneOverF(f_low=1.1546466630884407e-05)
    lags = read.t_read * 2.0 ** np.arange(13)
    wider = OneOverF(f_low=(1 - 1e-5) / (2 * read.t_read))
    assert 0 < narrow.span(read) < 1e-15
    np.testing.assert_allclose(narrow.correlation(lags, read), wider.correlation(lags, read), atol=1e-5)


def test_shares_are_not_bent() -> None:
    """They were cut at 0, and so had another correlation than was asked for."""
    with pytest.raises(ValueError, match="convex"):
        block_shares(lambda distance: np.exp(-((distance / 3) ** 2)))


def source(**body: Any) -> None:
    whole = {"__annotations__": {"kind": Literal["test_loose"]}, "kind": "test_loose", "__module__": "there"}
    type("Loose", (SensingNoise,), {**whole, "__qualname__": "Loose", **body})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"amount": lambda *_: 0.0}, r"must have a `shape`, one of Shape.CELL, .*, got None"),
        ({"shape": "column", "amount": lambda *_: 0.0}, r"must have a `shape`, one of Shape.CELL, .*, got 'column'"),
        ({"shape": Shape.COLUMN}, "must define amount, as its shape is COLUMN"),
        ({"shape": Shape.CELL, "per_siemens": lambda *_: 0.0}, "must define powers, as its shape is CELL"),
    ],
)
def test_a_source_says_what_its_shape_asks_for(body: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=f"^Loose: {said}"):
        source(**body)
    assert "test_loose" not in SensingNoise.registry


class Several(SensingNoise):
    kind: Literal["test_several"] = "test_several"
    shape = Shape.READING
    number: bool

    def amount(self, conditions: Conditions) -> Any:
        return 1e-18 if self.number else np.full(3, 1e-18)


class Flat(SensingNoise):
    kind: Literal["test_flat"] = "test_flat"
    shape = Shape.CELL

    def per_siemens(self, v: Any, conditions: Conditions) -> Any:
        return 1e-20

    def powers(self, conditions: Conditions) -> Any:
        return 1e-20, 0.0, 0.0


def test_amounts_are_numbers() -> None:
    hardware().replace({"sensing.noise": [{"kind": "test_several", "number": True}]})
    with pytest.raises(ValueError, match=r"^sensing.noise \(test_several\): `amount` must be a number, got array"):
        hardware().replace({"sensing.noise": [{"kind": "test_several", "number": False}]})
    with pytest.raises(ValueError, match=r"^sensing.noise \(test_flat\): `per_siemens` must have the shape of the vol"):
        hardware().replace({"sensing.noise": [{"kind": "test_flat"}]})


class Block(nn.Linear):
    """What the expander below takes."""


class Loose(Expander):
    modules = (Block,)
    given: ClassVar[Any] = None

    @classmethod
    def expand(cls, module: Any, tensors: Any) -> Any:
        return cls.given[module]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (collections.defaultdict(lambda: None), "layer '0': Loose.expand must give a module, gave None"),
        ({}, r"layer '0': Loose.expand fails \(KeyError: Block\(.*\)\)"),
    ],
)
def test_an_expander_that_fails_is_named(given: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loose, "given", given)
    EXPANDERS.add("test_loose", Loose)
    try:
        with pytest.raises(MappingError, match=f"^{said}$"):
            mho.map(nn.Sequential(Block(6, 5), nn.Linear(5, 4)), mho.Hardware.preset("ideal"))
    finally:
        del EXPANDERS._things["test_loose"]
