"""Parts of a cell: each model under numpy and torch alike, moments, and kinds that others add."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from helpers import hardware
from numpy.testing import assert_allclose, assert_array_equal
from pydantic import Field
from test_cells import READ, cell
from test_matrix import inputs, matrix

from mho import Hardware
from mho.crossbar.expected import ExpectedCells
from mho.devices import drift, nonlinearity, programming, read_noise
from mho.devices.arrays import interp, ndtr
from mho.devices.cell import Cell
from mho.devices.memory import MemoryModel
from mho.devices.nonlinearity import NonlinearityModel
from mho.devices.parts import Conditions, Part
from mho.devices.sources import SensingNoise
from mho.devices.stuck import Stuck
from mho.devices.units import Number

DOCS = Path(__file__).parents[1] / "docs"
LATE = replace(READ, time_s=1e5, temperature=310.0)
STRING = {"g_ref": "100 nS", "v_overdrive": "0.5 V", "r_pass": "1 kohm"}
G = np.concatenate([[0.0, 1e-12], np.linspace(1e-7, 30e-6, 23)])
N = np.linspace(-3, 3, len(G))


def one(base: type[Part], **fields: Any) -> Any:
    return base.registry[fields["kind"]].model_validate(fields)


PROGRAMMING = [
    *(cell(name).programming for name in ("ideal", "reram", "pcm", "nand")),
    one(programming.ProgrammingModel, kind="incremental", v_step="0.1 V", string=STRING),
]
DRIFT = [cell(name).drift for name in ("ideal", "reram", "pcm", "nand")]
NOISE = [
    *(cell(name).read_noise for name in ("ideal", "reram", "pcm", "nand")),
    one(read_noise.ReadNoiseModel, kind="constant", std_g="1 uS"),
    one(read_noise.ReadNoiseModel, kind="flicker", k_f=1e-4, t_0=1),
    one(read_noise.ReadNoiseModel, kind="telegraph", amplitude=0.1, capture=1e-6, emission=3e-6),
    one(read_noise.ReadNoiseModel, kind="string", sigma_vt="2 mV", string=STRING),
    one(read_noise.ReadNoiseModel, kind="sum", parts=[{"kind": "relative", "fraction": 0.1}]),
]
LAWS = [nonlinearity.Linear(), nonlinearity.Sinh(v_0=0.1), nonlinearity.Cubic(c_3=3.0)]

FUNCTIONS: dict[str, Any] = {}
for p in PROGRAMMING:
    FUNCTIONS[f"programming {p.kind}"] = lambda g, n, xp, p=p: p.apply(g, (n,), READ, xp)
    FUNCTIONS[f"mean of programming {p.kind}"] = lambda g, n, xp, p=p: p.moments(g, READ, xp)[0]
    FUNCTIONS[f"variance of programming {p.kind}"] = lambda g, n, xp, p=p: p.moments(g, READ, xp)[1]
for i, d in enumerate(DRIFT):
    FUNCTIONS[f"drift {d.kind} {i}"] = lambda g, n, xp, d=d: d.apply(g, (n,), LATE, xp)
for i, s in enumerate(NOISE):
    FUNCTIONS[f"read noise {s.kind} {i}"] = lambda g, n, xp, s=s: s.std(g, LATE, xp)
for law in LAWS:
    FUNCTIONS[f"current {law.kind}"] = lambda v, n, xp, law=law: law.current(1e4 * v, READ, xp)
    FUNCTIONS[f"slope {law.kind}"] = lambda v, n, xp, law=law: law.slope(1e4 * v, READ, xp)
STUCK = Stuck(at_g_min=0.1, at_g_max=0.2)
FUNCTIONS["stuck"] = lambda g, n, xp: STUCK.apply(g, n, (1e-6, 3e-5), xp)
FUNCTIONS["a whole cell"] = lambda g, n, xp: cell("reram").settle(g, lambda purpose, i: n, LATE, xp)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_model_is_the_same_under_torch_and_gradients_flow(name: str) -> None:
    function = FUNCTIONS[name]
    with np.errstate(all="ignore"):
        expected = function(G, N, np)
        step = 1e-10
        slope = (function(G + step, N, np) - function(G - step, N, np)) / (2 * step)
    g = torch.tensor(G, requires_grad=True)
    found = function(g, torch.tensor(N), torch)
    assert found.dtype == torch.float64
    assert_allclose(found.detach().numpy(), expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())
    gradient = torch.zeros_like(g)
    if found.requires_grad:
        (gradient,) = torch.autograd.grad(found.sum(), g)
    assert torch.isfinite(gradient).all()
    assert_allclose(gradient.numpy()[3:], slope[3:], rtol=1e-4, atol=1e-5 * np.abs(slope[3:]).max() + 1e-12)


def test_single_precision_stays_single() -> None:
    for name, function in FUNCTIONS.items():
        assert function(G.astype(np.float32), N.astype(np.float32), np).dtype == np.float32, name


def test_helpers_are_the_same_under_torch() -> None:
    x = np.array([-1.0, 0.0, 0.3, 1.0, 1.7, 2.0, 5.0])
    for at, values in (([0.0, 1.0, 2.0], [3.0, -1.0, 4.0]), ([1.0], [2.0])):
        assert_allclose(interp(torch.tensor(x), at, values, torch).numpy(), np.interp(x, at, values), rtol=1e-14)
    assert_allclose(ndtr(torch.tensor(x), torch).numpy(), ndtr(x, np), rtol=1e-12)


@pytest.mark.parametrize("model", PROGRAMMING[1:], ids=lambda m: m.kind)
def test_closed_moments_are_those_of_many_cells(model: Any) -> None:
    n = np.random.default_rng(0).standard_normal((400_000, 1))
    g = np.array([0.0, 0.5e-7, 1e-6, 2e-5])
    drawn = np.maximum(model.apply(g + 0 * n, (n + 0 * g,), READ, np), 0)
    mean, variance = model.moments(g, READ, np)
    unit = model.std(g, READ, np) + 1e-12
    assert (np.abs(drawn.mean(axis=0) - mean) < 5 * unit / np.sqrt(len(n))).all()
    assert (np.abs(drawn.var(axis=0) - variance) < 5 * unit**2 * np.sqrt(2 / len(n))).all()
    numeric = super(programming.GaussianProgrammingModel, model).moments(g, READ, np)
    assert_allclose(numeric[0], mean, atol=0.02 * unit.max())  # nodes do not see the cut at 0 well
    assert_allclose(numeric[1][-1], variance[-1], rtol=1e-9)  # far from it they are exact


class Skewed(programming.ProgrammingModel):
    """g exp(spread n_1 + noise n_2 - bias): skewed, biased, and cells differ among themselves."""

    kind: Literal["test_skewed"] = "test_skewed"
    draws: ClassVar[int] = 2
    spread: Annotated[Number, Field(ge=0, le=1)]
    noise: Annotated[Number, Field(ge=0, le=1)] = 0.0
    bias: Annotated[Number, Field(ge=-1, le=1)] = 0.0

    def apply(self, g: Any, normals: Any, conditions: Conditions, xp: Any) -> Any:
        return g * xp.exp(self.spread * normals[0] + self.noise * normals[1] - self.bias)


class Leak(drift.DriftModel):
    """A part of the conductance is gone."""

    kind: Literal["test_leak"] = "test_leak"
    draws: ClassVar[int] = 0
    part: Annotated[Number, Field(ge=0, le=1)]

    def apply(self, g: Any, normals: Any, conditions: Conditions, xp: Any) -> Any:
        return g * (1 - self.part)


class Forgets(MemoryModel):
    """1 / (1 + lag / time)."""

    kind: Literal["test_forgets"] = "test_forgets"

    def correlation(self, lag_s: Any, conditions: Conditions) -> Any:
        return 1 / (1 + lag_s / conditions.t_read)


class RootNoise(read_noise.Measured):
    """std = c sqrt(g)."""

    kind: Literal["test_root"] = "test_root"
    c: Annotated[Number, Field(ge=0, le=1)]

    def std(self, g: Any, conditions: Conditions, xp: Any) -> Any:
        return self.c * xp.sqrt(g)


class Root(NonlinearityModel):
    """A law of its own."""

    kind: Literal["test_law"] = "test_law"

    def current(self, v: Any, conditions: Conditions, xp: Any) -> Any:
        return v

    def slope(self, v: Any, conditions: Conditions, xp: Any) -> Any:
        return xp.ones_like(v)


OWN = {
    "cell.programming": {"kind": "test_skewed", "spread": 0.1, "noise": 0.05, "bias": 0.1},
    "cell.drift": {"kind": "test_leak", "part": 0.25},
    "cell.read_noise": {
        "kind": "sum",
        "parts": [{"kind": "test_root", "c": 1e-5, "memory": {"kind": "test_forgets"}}, {"kind": "none"}],
    },
}


def test_parts_of_others_load_dump_and_settle() -> None:
    hw = hardware().replace({**OWN, "time_s": 10.0, "cell.nonlinearity": {"kind": "test_law"}})
    assert isinstance(hw.cell.programming, Skewed)
    assert isinstance(hw.cell.drift, Leak)
    assert isinstance(hw.cell.read_noise.parts[0].memory, Forgets)  # type: ignore[attr-defined]
    assert Hardware.parse(hw.dump(), "dump") == hw
    assert hw.model_json_schema()["properties"]["cell"]
    n = 200_000
    rng = np.random.default_rng(0)
    g = hw.cell.settle(np.full(n, 1e-5), lambda purpose, i: rng.standard_normal(n), hw.conditions, np)
    expected = ExpectedCells.of(hw)
    mean, variance = expected.at(expected.mean, np.array(1e-5)), expected.at(expected.variance, np.array(1e-5))
    s2 = 0.1**2 + 0.05**2
    assert mean == pytest.approx(0.75e-5 * np.exp(s2 / 2 - 0.1), rel=1e-6)
    assert variance == pytest.approx(mean**2 * np.expm1(s2), rel=1e-6)
    assert abs(g.mean() - mean) < 5 * np.sqrt(variance / n)
    assert abs(g.var() / variance - 1) < 5 * np.sqrt(3 / n)


def test_a_matrix_of_cells_of_others_has_their_errors() -> None:
    hw = hardware().replace({**OWN, "sensing.read_interval": "0.2 us", "cell.g_min": 0.0, "cell.g_max": "40 uS"})
    tiled = matrix(hw, rows=400, outputs=40)
    x = inputs(2, rows=400)
    first, second = tiled.reader.read(x)[0], tiled.reader.read(x, read=1)[0]
    assert not np.array_equal(first, second)
    assert len(tiled.packed[0].slow_std)  # its memory is used
    plain = matrix(hw.replace({"cell.read_noise": {"kind": "none"}}), rows=400, outputs=40)
    g, weights = plain.weights[0][:400], plain.design.matrix.weights[0]
    ratio = (g / weights)[np.abs(weights) > 0.5]
    s2 = 0.1**2 + 0.05**2
    assert ratio.mean() == pytest.approx(np.exp(s2 / 2 - 0.1), abs=5 * 0.12 / np.sqrt(ratio.size))
    assert np.log(ratio).std() == pytest.approx(np.sqrt(s2), rel=5 / np.sqrt(2 * ratio.size))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"cell.programming": {"kind": "test_skewed", "spread": 2}},
            r"cell.programming.spread = 2: Input should be less",
        ),
        ({"cell.programming": {"kind": "test_skewed"}}, r"cell.programming.spread: Field required"),
        ({"cell.programming": {"kind": "test_skewed", "spread": 0.1, "x": 1}}, "Skewed has no field x; its fields are"),
        (
            {"cell.programming": {"kind": "test_leak", "part": 1}},
            r"cell.programming: kind must be one of none, .*test_sk",
        ),
        ({"cell.programming": {"kind": 3}}, r"cell.programming: kind must be one of none, .*, got 3$"),
        ({"cell.programming": {"spread": 3}}, r"cell.programming: kind must be one of none, .*, and is missing"),
        ({"cell.programming": None}, r"cell.programming: Input should be"),
        (
            {"cell.read_noise": {"kind": "sum", "parts": [{"kind": "sum"}]}},
            r"parts.0: kind must be one of .* got 'sum'",
        ),
        ({"sensing.noise": [{"kind": "hum"}]}, r"sensing.noise.0: kind must be one of .*got 'hum'"),
    ],
)
def test_impossible_parts_are_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        hardware().replace(fields)
    assert "\n" not in str(caught.value)


def broken(**body: Any) -> None:
    type("Broken", (programming.ProgrammingModel,), {"__module__": "there", "__qualname__": "Broken", **body})


def test_a_class_that_breaks_the_contract_is_refused_where_it_is_written() -> None:
    with pytest.raises(TypeError, match="Broken: must define apply, see ProgrammingModel"):
        broken(__annotations__={"kind": Literal["broken"]}, kind="broken")
    with pytest.raises(TypeError, match=r'Broken: its kind must be a field `kind: Literal."broken". = "broken"`'):
        broken(__annotations__={"kind": str}, kind="broken", apply=Skewed.apply)
    with pytest.raises(ValueError, match=r"programming error 'test_skewed' is test_parts.Skewed already; there.Broken"):
        broken(__annotations__={"kind": Literal["test_skewed"]}, kind="test_skewed", apply=Skewed.apply)
    assert programming.ProgrammingModel.registry["test_skewed"] is Skewed


class Wrong(programming.ProgrammingModel):
    """Gives what is no conductance."""

    kind: Literal["test_wrong"] = "test_wrong"
    how: Literal["dtype", "shape", "nan", "huge", "negative"]

    def apply(self, g: Any, normals: Any, conditions: Conditions, xp: Any) -> Any:
        wrong = {"dtype": g.astype(int), "shape": g[:1], "nan": g * np.nan, "huge": g * 1e9, "negative": -g}
        return wrong[self.how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("dtype", r"cell.programming: `apply` must give float32 \(9,\) for conductances of that kind, got int64"),
        ("shape", r"cell.programming: `apply` must give float32 \(9,\)"),
        ("nan", r"cell.programming: its .* must be"),
        ("huge", r"cell.programming: its .* must be"),
    ],
)
def test_what_a_part_gives_is_looked_at(how: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hardware().replace({"cell.programming": {"kind": "test_wrong", "how": how}})


class Below(programming.GaussianProgrammingModel):
    """A line whose lower end is below zero, as fits are that were made without small conductances."""

    kind: Literal["test_below"] = "test_below"

    def std(self, g: Any, conditions: Conditions, xp: Any) -> Any:
        return 0.1 * g - np.float32(5e-7)


class Under(read_noise.ReadNoiseSource):
    kind: Literal["test_under"] = "test_under"
    std = Below.std


@pytest.mark.parametrize(
    ("field", "kind", "where"),
    [
        ("cell.programming", "test_below", "cell.programming: "),
        ("cell.read_noise", "test_under", r"cell.read_noise \(test_under\): "),
    ],
)
def test_a_standard_deviation_below_zero_is_refused(field: str, kind: str, where: str) -> None:
    with pytest.raises(ValueError, match=where + r"its standard deviation must be at least 0, got -\S+ S at \S+ S"):
        hardware().replace({field: {"kind": kind}})


def test_conductances_below_zero_count_as_zero() -> None:
    negative = Cell.model_validate(
        {"g_min": 0, "g_max": 1e-5, "programming": {"kind": "test_wrong", "how": "negative"}}
    )
    assert_array_equal(negative.settle(G, lambda purpose, i: N, READ, np), np.zeros_like(G))


def blocks() -> list[str]:
    text = (DOCS / "devices.md").read_text(encoding="utf-8").split("## How to add a cell")[1]
    return [block.split("```")[0] for block in text.split("```python\n")[1:]]


def test_the_example_of_the_docs_runs_outside_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an installed package with entry points: its cells are mapped here, and loaded by a process of its own."""
    module, use = blocks()
    (tmp_path / "my_cells.py").write_text(module, encoding="utf-8")
    info = tmp_path / "my_cells-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-cells\nVersion: 1.0\n", encoding="utf-8")
    text = (DOCS / "devices.md").read_text(encoding="utf-8").split("## How to add a cell")[1]
    toml = text.split("```toml\n")[1].split("```")[0]
    points = toml.replace('[project.entry-points."', "[").replace('"]', "]").replace('"', "")
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert "import my_cells" not in use
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for part in (programming.ProgrammingModel, SensingNoise):
        monkeypatch.setattr(part.registry, "_things", part.registry.loaded())
    exec(use, {})
    monkeypatch.delitem(sys.modules, "my_cells")
    loaded = subprocess.run(
        [sys.executable, "-c", "import mho; print(mho.load('chip').hardware.cell.programming)"],
        cwd=tmp_path, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert loaded.returncode == 0, loaded.stderr
    assert "sigma=0.08" in loaded.stdout
