"""The numpy backend against that of compiled kernels, from cells to readings; and backends that others add."""

from __future__ import annotations

import copy
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import hardware, on_tiles, pictures, small_cnn
from torch import nn

import mho
from mho.crossbar import wires
from mho.crossbar.backend import Backend, WireSolver
from mho.crossbar.backends import BACKENDS, DEFAULT, backend_of
from mho.crossbar.backends.compiled import Compiled
from mho.crossbar.backends.conformance import compared
from mho.crossbar.backends.plain import Plain
from mho.crossbar.programmed import Programmed
from mho.devices.nonlinearity import Sinh

DOCS = Path(__file__).parents[1] / "docs"
CLOSE = 1e-5  # of outputs, relative to the largest
TELEGRAPH = {"kind": "telegraph", "amplitude": 0.2, "capture": "1 us", "emission": "1 us"}
SLOW = {"cell.read_noise": TELEGRAPH, "sensing.read_interval": "200 ns"}
FLICKER = {"cell.read_noise": {"kind": "flicker", "k_f": 1e-4, "f_low": 1.0}, "sensing.read_interval": "200 ns"}
SLICED = {"tile.slices": 2, "cell.levels": 16}
WIRES = {"wires.r_word_line": 15.0, "wires.r_bit_line": 15.0}
SMALL = {"tile.rows": 16, "tile.columns": 16}
ENDS = {**WIRES, "wires.r_driver": 50.0, "wires.r_sense": 20.0, "wires.drivers": "both", "wires.sense": "both"}
NO_DAC: dict[str, Any] = {"dac.bits": None, "dac.range": None}
NO_ADC: dict[str, Any] = {"adc.bits": None, "adc.full_scale": None}

NOISE = {"gain": {"sensing.gain_noise": 0.02}, "supply": {"sensing.supply_noise": 0.02}}
OUTPUTS = {f"output_noise.{kind}": 0.1 for kind in ("sigma_add", "sigma_mult", "frozen_add", "frozen_mult")}
CASES: dict[str, dict[str, Any]] = {
    **{f"preset {name}": {"preset": name} for name in ("ideal", "reram", "pcm", "nand")},
    **{name: {"tile.encoding": name} for name in ("differential", "differential_two_sided", "offset", "single")},
    **{f"{name}, slices": {"tile.encoding": name, **SLICED} for name in ("differential", "offset", "single")},
    "four slices": {"tile.slices": 4, "cell.levels": 4},
    "serial": {"dac.bits_per_pulse": 1},
    "serial, slices, offset": {"dac.bits_per_pulse": 3, "tile.encoding": "offset", **SLICED},
    "10 bits in pulses": {"dac.bits": 10, "dac.bits_per_pulse": 5},
    "bias on the array": {"tile.bias": "array"},
    "bias on the array, offset, odd rows": {"tile.bias": "array", "tile.encoding": "offset", "tile.rows": 7},
    "slow noise": SLOW,
    "flicker noise, offset slices": {**FLICKER, "tile.encoding": "offset", **SLICED},
    "gain and supply noise, pulses": {**NOISE["gain"], **NOISE["supply"], "dac.bits_per_pulse": 3},
    "output noise": OUTPUTS,
    "constant noise": {"cell.read_noise": {"kind": "constant", "std_g": "0.5 uS"}},
    "no DAC": NO_DAC,
    "no converters": {**NO_DAC, **NO_ADC},
    "mid-rise": {"adc.transfer": "mid_rise", "tile.encoding": "offset"},
    "clipped": {"adc.percentile": 90.0, "dac.percentile": 80.0},
    "stuck cells": {"cell.stuck.at_g_min": 0.05, "cell.stuck.at_g_max": 0.03},
    "wires": {**WIRES, **SMALL},
    "wires, shared, both ends, offset slices": {**ENDS, **SMALL, "tile.encoding": "offset", **SLICED},
    "wires of pairs shared, ordered": {**WIRES, **SMALL, "wires.pairs": "shared", "wires.order": "conductance"},
    "word lines alone": {"wires.r_word_line": 15.0, **SMALL},
    "bit lines alone": {"wires.r_bit_line": 15.0, "wires.r_driver": 30.0, "wires.r_sense": 100.0, **SMALL},
    "wires, slow noise": {**WIRES, **SMALL, **SLOW},
    "wires, gain": {**WIRES, **SMALL, "compensation": "gain"},
    "wires, program": {**WIRES, **SMALL, "compensation": "program"},
}


def tiled(case: str, backend: Backend) -> Programmed:
    """A matrix of 20 x 9 with a bias, calibrated with 24 inputs."""
    fields = {"tile.rows": 12, "tile.columns": 12, **CASES[case]}
    preset, compensation = fields.pop("preset", None), fields.pop("compensation", None)
    hw = (hardware() if preset is None else mho.Hardware.preset(preset)).replace(fields)
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(1, 20, 9)).astype(np.float32)
    if fields.get("tile.encoding") == "single":
        weights = np.abs(weights)
    bias = rng.uniform(0.1, 0.5, (1, 9)).astype(np.float32)
    inputs = rng.uniform(0, 1, (24, 1, 1, 1, 20)).astype(np.float32)
    inputs[0, ..., 0] = -0.5
    return on_tiles(weights, hw, bias=bias, inputs=inputs, wire_compensation=compensation, backend=backend)


X = np.random.default_rng(1).uniform(0, 1, (10, 1, 1, 1, 20)).astype(np.float32)


def differences(a: Programmed, b: Programmed) -> list[str]:
    """What of two programmed matrices is not the same up to rounding, and of their reads."""
    return compared(a, b, X)


@pytest.mark.parametrize("case", CASES)
def test_plain_numpy_gives_what_the_kernels_give(case: str) -> None:
    a, b = tiled(case, Compiled()), tiled(case, Plain())
    assert differences(a, b) == []
    assert differences(a.copied(1), b.copied(1)) == []
    if case != "preset ideal":
        assert differences(a, b.copied(1)) != []  # negative control: another chip


@pytest.mark.parametrize("name", ["pcm", "reram"])
@pytest.mark.parametrize("drift_compensation", [False, True])
def test_later_too(name: str, drift_compensation: bool) -> None:
    a, b = tiled(f"preset {name}", Compiled()), tiled(f"preset {name}", Plain())
    late = {"drift_compensation": drift_compensation}
    assert differences(a.at(3600.0, **late), b.at(3600.0, **late)) == []


def scaled(method: str, take: Any = lambda found: found) -> type[Plain]:
    """A plain backend of which one method gives 1 % too much."""

    def wrong(self: Plain, *arguments: Any, **named: Any) -> Any:
        return take(getattr(Plain, method)(self, *arguments, **named))

    return type("Wrong", (Plain,), {method: wrong})


def in_place(method: str, which: int, name: str | None = None) -> type[Plain]:
    """A plain backend of which one method makes one of its arguments 1 % too small."""

    def wrong(self: Plain, *arguments: Any, **named: Any) -> Any:
        found = getattr(Plain, method)(self, *arguments, **named)
        out = arguments[which] if name is None else getattr(arguments[which], name)
        out[:] = 0.99 * out
        return found

    return type("Wrong", (Plain,), {method: wrong})


def more(found: Any) -> Any:
    return found * np.float32(1.01) if isinstance(found, np.ndarray) else tuple(1.01 * part for part in found)


WRONG: dict[str, tuple[type[Plain], str]] = {
    "normals": (scaled("normals", more), "differential"),
    "add_cells, signed": (in_place("add_cells", 3, "signed"), "differential"),
    "add_cells, spread": (in_place("add_cells", 3, "spread"), "differential"),
    "add_cells, columns": (in_place("add_cells", 3, "columns"), "preset reram"),
    "add_cells, histogram": (in_place("add_cells", 3, "histogram"), "differential"),
    "peak_and_total": (scaled("peak_and_total", more), "differential"),
    "pack_rows": (in_place("pack_rows", 3), "no DAC"),
    "pack_rows, integers": (in_place("pack_rows", 3), "differential"),
    "fluctuate": (in_place("fluctuate", 4), "slow noise"),
    "codes": (in_place("codes", 2), "no DAC"),
    "codes, clipped": (scaled("codes", lambda found: (found[0] + 1, found[1])), "clipped"),
    "prepared": (
        scaled("prepared", lambda found: found._replace(mean=[1.01 * plane for plane in found.mean])),
        "differential",
    ),
    "currents": (scaled("currents", lambda found: (found[0] * np.float32(1.01), found[1])), "differential"),
    "read": (in_place("read", 5), "differential"),
    "read, clipped": (scaled("read", lambda found: found + 1), "clipped"),
    "add_output_noise": (in_place("add_output_noise", 0), "output noise"),
    "effective": (scaled("effective", more), "wires"),
    "node_voltages": (scaled("node_voltages", lambda found: (1.01 * found[0], found[1])), "wires, slow noise"),
    "bit_lines": (scaled("bit_lines", more), "bit lines alone"),
    "own_voltages": (scaled("own_voltages", more), "wires"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_method_that_is_wrong_shows(what: str) -> None:
    wrong, case = WRONG[what]
    assert differences(tiled(case, Compiled()), tiled(case, wrong())) != []


def test_every_method_is_compared() -> None:
    nonlinear = {"changes"}  # of circuits that tiles do not have: below
    assert {what.split(",")[0] for what in WRONG} | nonlinear == Backend.__abstractmethods__
    assert WireSolver.__abstractmethods__ < Backend.__abstractmethods__


def test_circuits_of_nonlinear_cells_are_solved_alike() -> None:
    rng = np.random.default_rng(0)
    g, v = rng.uniform(1e-6, 1e-4, (7, 5)), rng.uniform(-0.05, 0.2, 7)
    options: dict[str, Any] = {"r_word_line": 100.0, "r_bit_line": 150.0, "law": Sinh(v_0=0.1)}
    expected = wires.read(g, v, **options)
    assert np.allclose(wires.read(g, v, **options, backend="numpy"), expected, rtol=1e-8)
    changes = []

    class Counting(Plain):
        def changes(self, *arguments: Any) -> Any:
            changes.append(arguments)
            return super().changes(*arguments)

    assert np.allclose(wires.read(g, v, **options, backend=Counting()), expected, rtol=1e-8)
    assert changes
    linear = {"r_word_line": 100.0, "r_bit_line": 150.0}
    exact = wires.effective_conductance(g, **linear)
    assert np.allclose(wires.effective_conductance(g, **linear, backend="numpy"), exact, rtol=1e-9)
    spread = wires.noise_variance(g, (0.01 * g) ** 2, v, **linear)
    assert np.allclose(wires.noise_variance(g, (0.01 * g) ** 2, v, **linear, backend="numpy"), spread, rtol=1e-8)


def test_networks_are_read_alike() -> None:
    """Groups, convolutions, several reads of inputs of their own."""
    model, x = small_cnn(), pictures()
    hw = hardware(sensing__supply_noise=0.01, tile__bias="array", adc__bits=None, adc__full_scale=None)
    a, b = (mho.map(model, hw, calibrate=x, backend=name) for name in ("numba", "numpy"))
    for options in ({"read": 2}, {"read": 0, "reads": 2}, {"read": 1, "noisy": False}):
        y, z = a.read(x, **options), b.read(x, **options)
        assert (y - z).abs().max() < CLOSE * y.abs().max()
    assert {n: layer.counts for n, layer in a.layers.items()} == {n: layer.counts for n, layer in b.layers.items()}
    assert isinstance(a.backend, Compiled)
    assert isinstance(b.backend, Plain)


class Counted(Compiled):
    """Counts what it is asked for."""

    asked: dict[str, int]

    def __init__(self) -> None:
        self.asked = {}


def _counted(name: str) -> Any:
    def method(self: Counted, *arguments: Any, **named: Any) -> Any:
        self.asked[name] = self.asked.get(name, 0) + 1
        return getattr(Compiled, name)(self, *arguments, **named)

    return method


for _name in Backend.__abstractmethods__:
    setattr(Counted, _name, _counted(_name))


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(BACKENDS, "_things", BACKENDS.loaded())
    BACKENDS.add("counted", Counted)
    return "counted"


def test_a_backend_of_others_does_all_the_work(registered: str, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4)).requires_grad_(False)
    x = torch.rand(12, 20, generator=torch.Generator().manual_seed(0))
    fields = {**WIRES, **SMALL, **SLOW, **OUTPUTS}
    hw = hardware().replace(fields)
    mine = mho.map(net, hw, calibrate=x, backend=registered)
    usual = mho.map(net, hw, calibrate=x)
    backend = mine.backend
    assert isinstance(backend, Counted)
    assert not isinstance(usual.backend, Counted)
    assert torch.equal(mine.read(x, read=1), usual.read(x, read=1))
    unused = {"bit_lines", "changes"}  # of lines without resistance, and of cells that are not linear
    assert set(backend.asked) == Backend.__abstractmethods__ - unused

    def asks(what: str, chip: mho.Chip) -> None:
        before = backend.asked[what]
        assert chip.backend is backend
        assert all(layer.tiles.backend is backend for layer in chip.layers.values())
        chip.read(x, read=5)
        assert backend.asked["read"] > before if what == "read" else backend.asked[what] > 0

    asks("read", mine)
    for way in (lambda chip: chip.copy(1), lambda chip: chip.at(10.0), copy.deepcopy, lambda chip: chip.trial()):
        asks("read", way(mine))
    cells = backend.asked["normals"]
    other = mine.copy(2)
    assert backend.asked["normals"] > cells
    assert torch.equal(other.read(x, read=1), usual.copy(2).read(x, read=1))
    before = backend.asked["read"]
    votes, expected = mho.vote(mine, x, 5, copies=2), mho.vote(usual, x, 5, copies=2)
    assert backend.asked["read"] > before
    assert torch.equal(votes.winners, expected.winners)

    mine.save(tmp_path / "chip")
    assert isinstance(mho.load(tmp_path / "chip").backend, Compiled)
    again = mho.load(tmp_path / "chip", backend=backend)
    asks("read", again)
    assert torch.equal(again.read(x, read=1), mine.read(x, read=1))
    plain = mho.load(tmp_path / "chip", backend="numpy")
    assert isinstance(plain.layers["0"].tiles.backend, Plain)
    y = mine.read(x, read=1)
    assert (plain.read(x, read=1) - y).abs().max() < CLOSE * y.abs().max()
    assert isinstance(pickle.loads(pickle.dumps(mine)).backend, Counted)


def test_what_is_no_backend_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^backend must be one of numba, numpy, torch, got 'cuda'$"):
        mho.map(small_cnn(), hardware(), calibrate=pictures(), backend="cuda")
    with pytest.raises(ValueError, match=r"^backend must be one of numba, numpy, torch, got 'cuda'$"):
        mho.load(tmp_path, backend="cuda")
    with pytest.raises(ValueError, match=r"^backend must be a name \(numba, numpy, torch\) or a Backend, got 3$"):
        mho.map(small_cnn(), hardware(), calibrate=pictures(), backend=3)  # type: ignore[arg-type]
    partly = type("Partly", (WireSolver,), {})
    with pytest.raises(TypeError, match=r"backend 'x' must be a class derived from mho.crossbar.backend.Backend, got"):
        BACKENDS.add("x", partly)
    with pytest.raises(TypeError, match=r"backend 'x' must be a class derived from .*, got <mho.*Plain object"):
        BACKENDS.add("x", Plain())
    lacking = type("Lacking", (Backend,), dict.fromkeys(Backend.__abstractmethods__ - {"read", "codes"}))
    with pytest.raises(TypeError, match=r"^backend 'x': Lacking must define codes, read, see mho.crossbar.backend"):
        BACKENDS.add("x", lacking)

    class Device(Compiled):
        def __init__(self, number: int, other: int = 0) -> None: ...

    with pytest.raises(TypeError, match=r"^backend 'x': Device must be made without arguments, takes number$"):
        BACKENDS.add("x", Device)
    assert list(BACKENDS) == ["numba", "numpy", "torch"]
    assert isinstance(backend_of(DEFAULT), Compiled)


def test_normals_of_another_shape_are_refused() -> None:
    class Short(Compiled):
        def normals(self, shape: tuple[int, int], place: tuple[int, int], key: Any) -> Any:
            return super().normals(shape, place, key)[:1]

    with pytest.raises(ValueError, match=r"Short.normals must give the shape \(\d+, \d+\), gave \(1, \d+\)"):
        mho.map(small_cnn(), mho.Hardware.preset("reram"), calibrate=pictures(), backend=Short())


def blocks() -> tuple[str, str, str]:
    """The module, its use and its entry point, in the docs."""
    text = (DOCS / "kernels.md").read_text(encoding="utf-8").split("## How to add a backend")[1].split("\n### ")[0]
    module, use = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    toml = text.split("```toml\n")[1].split("```")[0]
    return module, use, toml.replace('[project.entry-points."', "[").replace('"]', "]").replace('"', "")


def test_the_example_of_the_docs_runs_outside_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, use, points = blocks()
    (tmp_path / "my_backend.py").write_text(module, encoding="utf-8")
    info = tmp_path / "my_backend-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-backend\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    assert "my_backend" not in use
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(BACKENDS, "_things", BACKENDS.loaded())
    exec(use, {})
    monkeypatch.delitem(sys.modules, "my_backend")


def test_the_core_does_not_know_the_twins() -> None:
    """Plain numpy is asked for by its name alone."""
    root = DOCS.parent
    for folder in ("crossbar", "devices", "mapping", "models", "mho"):
        for path in (root / folder).rglob("*.py"):
            if path.parent.name != "backends":
                text = path.read_text(encoding="utf-8")
                assert not re.search(r"backends\.plain|backends import .*plain", text), path
