"""Hardware configurations: presets, YAML in and out, and errors that name the field and what would be right."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from helpers import NOISY, hardware, ideal

from mho import Hardware
from mho.cli import describe
from mho.crossbar.hardware import PRESETS

LEFT = {"tile.slices": 2, "tile.slicing": "residual", "tile.significance": 8}
LOWEST = """
cell: {g_min: 1 uS, g_max: 50 uS}
sensing: {v_read: 200 mV, t_read: 100 ns}
"""


@pytest.mark.parametrize("name", PRESETS)
def test_presets_load_and_come_back_equal(name, tmp_path):
    preset = Hardware.preset(name)
    assert preset.name == name
    assert len(preset.description) > 30
    assert Hardware.parse(preset.dump(), "dump") == preset
    preset.save(tmp_path / "a.yaml")
    assert Hardware.load(str(tmp_path / "a.yaml")) == preset
    assert preset.replace({}) == preset
    assert preset.for_layer("any") == preset


def test_the_presets_are_those_named():
    assert set(PRESETS) == {"ideal", "nand", "pcm", "reram"}


def numbers(tree: Any, path: str = "") -> list[str]:
    """Paths of the numbers in a tree; those of one list share one."""
    if isinstance(tree, dict):
        return [found for key, value in tree.items() for found in numbers(value, f"{path}.{key}".lstrip("."))]
    if isinstance(tree, list):
        return list(dict.fromkeys(found for value in tree for found in numbers(value, path)))
    return [path] if isinstance(tree, (int, float)) and not isinstance(tree, bool) else []


@pytest.mark.parametrize("name", PRESETS)
def test_numbers_of_a_preset_have_sources(name):
    """Numbers that a preset sets itself, that is; the cost's have theirs beside their defaults."""
    preset = Hardware.preset(name)
    default = Hardware.parse(LOWEST, "default").model_dump(mode="json")
    own = preset.model_dump(mode="json", exclude={"cost", "sources"})
    for path in numbers(own):
        value, usual = own, default
        for part in path.split("."):
            value, usual = value[part], (usual or {}).get(part) if isinstance(usual, dict) else None
        if value != usual:
            assert any(path == source or path.startswith(f"{source}.") for source in preset.sources), path
    assert set(preset.sources) <= set(numbers(own)), "a source for nothing"


def test_yaml_may_write_units_and_exponents_without_a_dot():
    parsed = Hardware.parse(
        """
        cell: {g_min: 1e-6, g_max: 50 uS, v_max: 0.5 V, drift: {kind: none}}
        sensing: {v_read: 200 mV, t_read: 1e-7, amplifier_noise: 10 pA/rtHz, gain_noise: 1e-3}
        adc: {bits: 8, full_scale: 20 uA}
        cost: {adc_rate: 1 GHz}
        time_s: 1e3
        """,
        "text",
    )
    assert (parsed.cell.g_min, parsed.cell.g_max) == (1e-6, 50e-6)
    assert (parsed.sensing.v_read, parsed.sensing.t_read) == (0.2, 1e-7)
    assert (parsed.sensing.amplifier_noise, parsed.sensing.gain_noise) == (1e-11, 1e-3)
    assert (parsed.adc.full_scale, parsed.cost.adc_rate, parsed.time_s) == (20e-6, 1e9, 1000.0)
    assert Hardware.parse(parsed.dump(), "dump") == parsed


def test_the_papers_hardware():
    paper = Hardware.paper(sigma_add=0.3, sigma_mult=0.2)
    assert (paper.output_noise.sigma_add, paper.output_noise.sigma_mult) == (0.3, 0.2)
    assert paper.name == "paper"
    assert "nothing is noisy" not in paper.description
    same = {name: getattr(ideal(), name) for name in ("name", "description", "sources")}
    assert paper.replace({"output_noise.sigma_add": 0.0, "output_noise.sigma_mult": 0.0, **same}) == ideal()
    assert Hardware.paper().output_noise == ideal().output_noise


def test_replace_gives_another_and_checks_it():
    before = hardware()
    after = before.replace({"adc.bits": 6, "cell.g_max": "30 uS", "tile": {"rows": 8}})
    assert (after.adc.bits, after.cell.g_max, after.tile.rows, after.tile.columns) == (6, 30e-6, 8, 256)
    assert before == hardware()
    assert before.adc.bits == 8
    with pytest.raises(ValueError, match="frozen"):
        before.adc.bits = 6


def test_overrides_of_layers_apply_in_order():
    overrides = {"*": {"adc.bits": 6, "tile.rows": 16}, "conv[12]": {"adc.bits": 4}, "fc": {"tile": {"rows": 8}}}
    base = hardware(layers=overrides)
    assert [base.for_layer(name).adc.bits for name in ("conv1", "conv3", "fc")] == [4, 6, 6]
    assert [base.for_layer(name).tile.rows for name in ("conv1", "conv3", "fc")] == [16, 16, 8]
    assert base.for_layer("conv1").layers == {}
    assert base.adc.bits == 8
    assert Hardware.parse(base.dump(), "dump") == base


def refusal(fields: dict[str, Any]) -> str:
    """How the command line says that these fields make no hardware."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        hardware().replace(fields)
    text = describe(caught.value)
    assert "\n" not in text
    assert " at 0x" not in text
    return text


IMPOSSIBLE = {
    "cell.g_min": [
        ("50 uS", r"cell: g_min must be below g_max, got g_min = 5e-05 S and g_max = 4e-05 S"),
        -1e-6,
        "1 V",
    ],
    "cell.g_max": ["0 S", ("1 uS", "cell: g_min must be below g_max"), "nan", float("inf"), None],
    "cell.levels": [1, 0, 2.5],
    "cell.v_max": ["0 V", -1],
    "cell.stuck.at_g_min": [-0.1, 1.1],
    "cell.read_noise.fraction": [(-0.02, r"cell.read_noise\.(relative\.)?fraction")],
    "cell.read_noise": [{"kind": "loud"}, {"kind": "relative"}],
    "cell.programming.g_ref": [("0 S", r"cell.programming\.(polynomial\.)?g_ref")],
    "sensing.v_read": ["0 V", "-0.2 V", "0.2 A"],
    "sensing.t_read": [0],
    "sensing.temperature": ["0 K", "-1 K"],
    "sensing.fano": [-0.1, 1.1],
    "sensing.amplifier_noise": ["-10 pA/rtHz"],
    "sensing.capacitance": ["0 F", "1 V"],
    "sensing.supply_noise": [-0.01],
    "sensing.read_interval": ["0 s", ("1 ns", "sensing: read_interval must be at least t_read = 1e-07 s")],
    "sensing.gain_noise": [-0.01, float("nan")],
    "tile.rows": [0, -1, 1.5, "many"],
    "tile.columns": [0],
    "tile.slices": [0, 17],
    "tile.slicing": ["bits", ("shares", "tile.significance must be set, got null with tile.slicing 'shares'")],
    "tile.significance": [0.5, 1001, (2, "tile.significance must be null when tile.slicing is 'digits', got .2")],
    "tile.join": ["analog"],
    "tile.mirror_mismatch": [-0.1, 0.4],
    "tile.encoding": ["triple"],
    "tile.scale": ["row"],
    "tile.bias": ["none"],
    "dac.bits": [0, 17, 0.5],
    "dac.range": [0, -1.0, "auto"],
    "dac.percentile": [0, 100.1, -5],
    "dac.bits_per_pulse": [0, (9, "dac: dac.bits_per_pulse must be at most dac.bits = 8, got 9")],
    "adc.bits": [0, (1, "adc: adc.bits must be at least 2 for transfer 'mid_tread', got 1"), 25],
    "adc.full_scale": ["0 A", "-1 uA", "1 V", "auto"],
    "adc.percentile": [0, 101],
    "adc.transfer": ["round"],
    "output_noise.sigma_add": [-0.1, float("inf")],
    "output_noise.sigma_mult": [-0.1],
    "cost.adcs_per_tile": [0],
    "cost.adc_rate": [0],
    "time_s": [-1],
    "seeds.program": [0.5, "one"],
    "layers": [["conv"], {"conv": 3}],
}


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, values in IMPOSSIBLE.items() for value in values])
def test_impossible_values_are_refused_by_the_name_of_the_field(path, value):
    value, said = value if isinstance(value, tuple) else (value, path)
    assert re.search(said, refusal({path: value}))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"dac.range": None}, r"dac.range must be 'calibrated' or a number when dac.bits is set, got null"),
        ({"adc.bits": None}, "adc.bits and adc.full_scale must both be set or both be null, got None and calibrated"),
        ({"tile.slices": 2}, "cell.levels must be set when tile.slices > 1"),
        (LEFT | {"tile.slices": 1}, "tile.slices must be at least 2 when tile.slicing is 'residual', got 1"),
        (LEFT | {"tile.encoding": "single"}, "tile.encoding must not be 'single' when tile.slicing is 'residual'"),
        (LEFT | {"cell.stuck": {"bit_lines": 0.1}}, "cell.stuck.map must be null, word_lines and bit_lines 0 when"),
        (
            LEFT | {"sensing.mode": "voltage", "wires.pairs": "shared"},
            "tile.slicing must not be 'residual' when sensing.mode is 'voltage'",
        ),
        (LEFT | {"tile.mirror_mismatch": 0.1}, "tile.mirror_mismatch must be 0 unless tile.join is 'mirror', got 0.1"),
        (LEFT | {"tile.significance": [2, 3]}, "tile.significance must be one number, or 1 for 2 slices, got 2"),
        (LEFT | {"tile.significance": []}, "tile.significance must be one number, or 1 for 2 slices, got 0"),
        (LEFT | {"tile.significance": ["two"]}, "tile.significance.0 = 'two': expected a number"),
        ({"tile.join": "mirror"}, "tile.slices must be at least 2 when tile.join is 'mirror', got 1"),
        (
            {"tile.join": "mirror", "tile.slices": 2, "cell.levels": 4, "sensing.mode": "voltage"},
            "tile.join must be 'digital' when sensing.mode is 'voltage': mirrors add up currents",
        ),
        (LEFT | {"tile.slices": 16}, "tile.significance must keep what the last slice counts at most 1e.06 times"),
        ({"cell.v_max": "0.1 V"}, r"sensing.v_read must be at most cell.v_max = 0.1 V, got 0.2 V"),
        ({"cell.stuck": {"at_g_min": 0.6, "at_g_max": 0.6}}, r"at_g_min \+ at_g_max must be at most 1, got 0.6 \+ 0.6"),
    ],
)
def test_values_that_do_not_go_together_are_refused(fields, match):
    assert re.search(match, refusal(fields))


def test_a_cell_may_be_read_at_its_largest_voltage():
    assert hardware(cell__v_max="0.2 V").sensing.v_read == 0.2


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("colour", "Hardware has no field colour; its fields are name, description, cell"),
        ("adc.colour", "adc.*Adc has no field colour; its fields are bits, full_scale"),
        ("cell.read_noise.colour", r"cell.read_noise.*RelativeReadNoise has no field colour"),
        ("colour.red", "hardware has no field 'colour.red'"),
        ("name.red", "hardware has no field 'name.red'"),
        ("adc.bits.red", "hardware has no field 'adc.bits.red'"),
    ],
)
def test_unknown_fields_are_refused_by_name(path, match):
    assert re.search(match, refusal({path: 1}))


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        ({"adc.bits": 0}, r"layers.conv\*: adc.bits = 0: Input should be greater than or equal to 1"),
        (
            {"adc.full_scale": "-1 uA"},
            r"layers.conv\*: adc.full_scale = '-1 uA': .*; adc.full_scale = '-1 uA': Input should be greater",
        ),
        ({"adc.colour": 1}, r"layers.conv\*: adc: Adc has no field colour"),
        ({"cell.g_min": "1 S"}, r"layers.conv\*: cell: g_min must be below g_max"),
        ({"cell.v_max": "0.1 V"}, r"layers.conv\*: sensing.v_read must be at most cell.v_max"),
        ({"colour.red": 1}, r"hardware has no field 'colour.red'"),
    ],
)
def test_overrides_that_make_no_hardware_are_refused_at_once(overrides, match):
    assert re.search(match, refusal({"layers": {"*": {"adc.bits": 6}, "conv*": overrides}}))


def test_an_unknown_preset_is_refused_with_the_names_of_all():
    for name in ("flash", "", "../presets/reram", "RERAM"):
        with pytest.raises(ValueError, match=f"hardware preset must be one of {', '.join(PRESETS)}, got {name!r}"):
            Hardware.preset(name)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"cell: [1", "not a YAML file"),
        (b"- cell", "expected a mapping of hardware fields, got list"),
        (b"", "expected a mapping of hardware fields, got NoneType"),
        (b"\xff\xfe\x00", "a.yaml|utf-8"),
        (b"name: x", "Field required"),
        (yaml.safe_dump({**NOISY, "colour": 1}).encode(), "Hardware has no field colour"),
    ],
)
def test_files_that_are_no_hardware_are_refused(content, match, tmp_path):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=match):
        Hardware.load(tmp_path / "a.yaml")


def test_files_that_cannot_be_read_are_named(tmp_path):
    for path in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(ValueError, match=f"hardware file {path}: "):
            Hardware.load(path)
