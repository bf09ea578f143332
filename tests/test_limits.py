"""Bounds of hardware: of each number by its unit, of numbers against each other, and what must stay possible."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import hardware, ideal
from torch import nn

import mho
from mho import Hardware
from mho.crossbar.components import Cost
from mho.crossbar.hardware import PRESETS
from mho.crossbar.lines import Lines
from mho.devices import units
from mho.devices.cell import Cell
from mho.devices.config import Config
from mho.devices.sensing import Sensing

DOCS = Path(__file__).parents[1] / "docs"
QUANTITIES = (
    "Siemens Volt Ampere Second Kelvin Ohm Joule Watt Farad ElectronVolt Hertz SquareMetre AmperePerRootHertz Number"
)
UNITS = {name: typing.get_args(getattr(units, name))[1].func for name in QUANTITIES.split()}


def refusal(preset: str, fields: dict) -> str:
    with pytest.raises(ValueError, match=r"\S") as caught:
        Hardware.preset(preset).replace(fields)
    assert type(caught.value) is ValueError
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 1000
    return said


@pytest.mark.parametrize("name", UNITS)
def test_the_bounds_of_a_unit_are_kept_and_documented(name):
    unit = UNITS[name]
    for inside in (0, unit.high, -unit.high, *([unit.low, -unit.low] if unit.low else [])):
        assert unit(inside) == inside
    for beyond in (unit.high * 1.001, -unit.high * 1.001, 10**400, *([unit.low / 1.001] if unit.low else [])):
        with pytest.raises(ValueError, match=f"expected {unit.name}"):
            unit(beyond)
    if unit.spellings:
        row = f"| {unit.name} ({unit.spellings[0]}) | {unit.low:g} | {unit.high:g} |"
        assert row in (DOCS / "devices.md").read_text(encoding="utf-8")


OUTSIDE = {
    "t_read": ("reram", "sensing.t_read", 5e-324, "seconds: 0 or a size of 1e-15 to 1e.12 s, got 5e-324"),
    "g_max": ("reram", "cell.g_max", 4e35, "siemens: 0 or a size of 1e-15 to 1000 S, got 4e.35"),
    "g_ref": ("reram", "cell.programming.g_ref", 1e-26, "siemens"),
    "full_scale": ("reram", "adc.full_scale", 1e39, "amperes: 0 or a size of 1e-18 to 1000 A, got 1e.39"),
    "calibrated_at": ("nand", "adc.calibrated_at", 1e-45, "volts"),
    "sigma_mult": ("pcm", "output_noise.sigma_mult", 1e30, "a number"),
    "sigma_mult in reach": ("pcm", "output_noise.sigma_mult", 1e6, "less than or equal to 1000"),
    "frozen_add": ("pcm", "output_noise.frozen_add", 1e20, "a number"),
    "cell_area": ("ideal", "cost.cell_area", 10**29, "square metres"),
    "huge integer": ("ideal", "cost.adc_rate", 10**400, "hertz"),
    "rows": ("ideal", "tile.rows", 10**30, "less than or equal to 65536"),
    "levels": ("ideal", "cell.levels", 10**9, "less than or equal to 65536"),
    "seed": ("ideal", "seeds.read", 2**63, "less than or equal to 9223372036854775807"),
    "a truth value for a number": ("ideal", "tile.rows", True, "a whole number, got True"),
    "a truth value for a quantity": ("ideal", "cell.g_max", True, "siemens"),
    "a truth value for a fraction": ("reram", "cell.read_noise.fraction", False, "a number"),
    "coefficients": ("reram", "cell.programming.coefficients", [1e-6, 1e9], "coefficients.1 = 1000000000.0"),
    "a table": ("nand", "cell.drift.std", [[1e30] * 17] * 3, "cell.drift"),
    "a slope": ("pcm", "cell.drift.mean.slope", 1e300, "a number"),
    "lines of a name": ("ideal", "name", "a\nb", "printable characters"),
    "a long name": ("ideal", "name", "x" * 2000, "at most 1000 characters"),
    "an override of overrides": (
        "ideal",
        "layers",
        {"*": {"layers": {"a": {}}}},
        "overrides of a layer have no layers",
    ),
    "lines of a pattern": ("ideal", "layers", {"a\nb": {}}, "printable"),
}


@pytest.mark.parametrize(("preset", "path", "value", "said"), OUTSIDE.values(), ids=OUTSIDE)
def test_a_number_out_of_reach_is_refused_by_field_value_and_bound(preset, path, value, said):
    found = refusal(preset, {path: value})
    assert path.split(".")[0] in found
    assert re.search(said, found)


TOGETHER = {
    "noise far above the range": (
        "reram",
        {"cell.read_noise": {"kind": "constant", "std_g": "1 S"}},
        r"cell.read_noise \(constant\): its standard deviation must be 0.4 S at most \(10000 g_max\), got 1$",
    ),
    "a fit against a tiny conductance": ("reram", {"cell.programming.g_ref": 1e-13}, "cell.programming: its standard"),
    "nothing left of the conductances": (
        "pcm",
        {"cell.drift.mean": {"offset": 900, "slope": 0, "low": 0, "high": 1000}, "time_s": 3600},
        "cell.drift: at least 1e-06 of g_max must be left .* after time_s = 3600 s, got 0",
    ),
    "a transistor far below threshold": (
        "nand",
        {"cell.read_noise": {"kind": "string", "sigma_vt": 1e-3, "string": {"g_ref": "1 uS", "v_overdrive": "-900 V"}}},
        "cell.read_noise: v_overdrive must be at least -27.1446 V at 300 K, .* got -900 V",
    ),
    "no contrast": ("ideal", {"cell.g_min": "99.99 uS"}, "cell.g_min must be below g_max by at least 0.001 of it"),
    "too many digits": ("ideal", {"cell.levels": 65536, "tile.slices": 16}, "tile.slices must keep .*65536 .* 16"),
    "a read too short": ("pcm", {"sensing.t_read": 1e-15, "sensing.v_read": 1e-6}, "sensing: noise of .* v_read g_max"),
    "a full scale that no current reaches": (
        "reram",
        {"adc.full_scale": "100 A"},
        r"adc.full_scale must be 8e-12 to 0.524 A .*, got 100 A",
    ),
    "a full scale of nothing": ("reram", {"adc.full_scale": 1e-15}, "adc.full_scale must be 8e-12 to"),
    "wires that nothing comes through": (
        "reram",
        {"wires.r_sense": "1 Gohm"},
        r"wires.r_sense must be at most 100 / cell.g_max = 2.5e\+06 ohm, got 1e\+09",
    ),
    "a range of another voltage": (
        "reram",
        {"adc.calibrated_at": "100 V"},
        "adc.calibrated_at must be 1e-06 to 256 times sensing.v_read = 0.2 V, .* got 100 V",
    ),
}


@pytest.mark.parametrize(("preset", "fields", "said"), TOGETHER.values(), ids=TOGETHER)
def test_numbers_that_are_impossible_together_are_refused(preset, fields, said):
    assert re.search(said, refusal(preset, fields))


def test_an_input_range_far_above_all_inputs_is_refused():
    net, x = nn.Linear(4, 2), torch.rand(8, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"dac.range = 1e\+06 makes code 0 of all calibration inputs, the largest of"):
        mho.map(net, hardware(dac__range=1e6), calibrate=x)


def test_zero_stays_possible_where_it_means_none():
    fields = {"cell.g_min": 0, "sensing.amplifier_noise": 0, "sensing.fano": 0, "time_s": 0, "cost.dac_energy": 0}
    ideal().replace({**fields, "wires.r_bit_line": 0, "cell.stuck.at_g_min": 0, "output_noise.sigma_add": 0})
    ideal().replace({"cell.stuck.at_g_min": 1})


def test_numbers_of_numpy_are_numbers():
    fields = {
        "adc.bits": np.int64(6),
        "cell.g_max": np.float32(2e-5),
        "tile.rows": np.uint8(8),
        "dac.bits": np.array(5),
    }
    made = hardware().replace({**fields, "cell.programming.coefficients": np.array([1e-6, 2e-6])})
    assert (made.adc.bits, made.tile.rows, made.dac.bits) == (6, 8, 5)
    assert type(made.adc.bits) is int
    assert made.cell.programming.coefficients == (1e-6, 2e-6)
    assert Hardware.parse(made.dump(), "dump") == made


class Unwritable:
    """No text tells what it is."""

    def __repr__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "make",
    [
        lambda: Hardware(cell={"g_min": 2, "g_max": 1}, sensing={"v_read": 0, "t_read": "x"}, colour=1),
        lambda: Cell(g_min=-1, g_max=1e30),
        lambda: Sensing(v_read=0.1, t_read=5e-324),
        lambda: Cost(adc_rate=10**500),
        lambda: Lines(r_word_line="1 V"),
        lambda: Hardware.paper(sigma_mult=1e30),
        lambda: Hardware.preset("reram\n"),
        lambda: ideal().replace({"adc.bits": 99, "a\nb.c": 1}),
        lambda: ideal().replace({3: 1}),
        lambda: ideal().replace({Unwritable(): 1}),
        lambda: ideal().replace({"adc.bits": Unwritable()}),
        lambda: ideal().replace({"cell.g_max": torch.empty((), device="meta")}),
        lambda: ideal().replace([("adc.bits", 6)]),
        lambda: ideal().replace({"layers": {f"l{i}": {} for i in range(1001)}}),
        lambda: ideal().replace({"layers": {"*": {"adc.bits": 99}}}),
        lambda: Hardware.parse("cell: {g_min: 0, g_max: 1e-5, a\\nb: 1}\nsensing: 3\n", "file"),
    ],
)
def test_every_front_door_says_it_in_one_line(make):
    with pytest.raises(ValueError, match=r"\S") as caught:
        make()
    assert type(caught.value) is ValueError
    assert str(caught.value).isprintable()


def test_fields_nested_without_end_are_refused():
    endless: list = []
    endless.append(endless)
    with pytest.raises(ValueError, match=r"cell\.levels.* nested too deep"):
        ideal().replace({"cell.levels": endless})


def models(kind: type) -> set[type]:
    return {kind}.union(*(models(below) for below in kind.__subclasses__()))


def test_every_number_of_a_model_has_bounds():
    """No field of a configuration is a plain number: each is a unit, a `Number`, a `Whole`, or bounded itself."""
    plain = []
    for model in models(Config):
        if not model.__module__.startswith("mho.") or model.__module__.startswith("mho.sweeps"):
            continue
        for name, field in model.model_fields.items():
            text = repr(field)
            if "annotation=float" in text and "Unit(" not in text:
                plain.append(f"{model.__name__}.{name}")
            bounded = "Ge(" in text and "Le(" in text
            if "annotation=int" in text and "_whole" not in text and not bounded:
                plain.append(f"{model.__name__}.{name}")
    assert plain == []


@pytest.mark.parametrize("preset", PRESETS)
def test_wide_sweeps_of_a_preset_stay_possible(preset):
    """The bounds are wide: what people sweep is inside."""
    hw = Hardware.preset(preset)
    for fields in (
        {"sensing.v_read": 1e-4},
        {"sensing.t_read": 1e-12},
        {"sensing.t_read": 1.0},
        {"cell.g_max": 100 * hw.cell.g_max},
        {"cell.g_max": 1.5 * hw.cell.g_min + 1e-9},
        {"sensing.amplifier_noise": "100 nA/rtHz"},
        {"sensing.temperature": 4},
        {"sensing.temperature": 600},
        {"output_noise.sigma_mult": 100},
    ):
        hw.replace(fields)


def pictures() -> torch.Tensor:
    return torch.rand(16, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))


MAPPED = {
    "all inputs clipped": (
        {"dac.range": 1e-9},
        "layer '0': dac.range must be at least 1e-05 of the largest .*, got 1e-09",
    ),
    "no bits": ({"dac.range": 1e-9, "dac.bits": None}, "layer '0': dac.range must be at least 1e-05 of the largest"),
    "a percentile of zeros": ({"dac.percentile": 1}, r"inputs are 0 up to dac.percentile = 1; no DAC range"),
    "a full scale above all": (
        {"adc.full_scale": 0.05},
        "layer '0': adc.full_scale must be .* half a step, got 0.05 A",
    ),
    "a full scale below all": ({"adc.full_scale": "10 pA"}, "layer '0': adc.full_scale must be .*, got 1e-11 A"),
}


@pytest.mark.parametrize(("fields", "said"), MAPPED.values(), ids=MAPPED)
def test_what_makes_the_same_of_all_inputs_is_refused_when_mapped(fields, said):
    with pytest.raises(ValueError, match=said):
        mho.map(network(), Hardware.preset("reram").replace(fields), calibrate=pictures())


def test_outputs_beyond_32_bits_are_refused():
    noise = Hardware.preset("ideal").replace({"output_noise.sigma_mult": 1000})
    chip = mho.map(nn.Linear(4, 2), noise)
    assert chip(torch.full((8, 4), 1e12)).isfinite().all()
    with pytest.raises(ValueError, match="layer '': outputs beyond what 32 bits hold"):
        chip(torch.full((8, 4), 1e37))
