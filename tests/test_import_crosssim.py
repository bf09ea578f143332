"""CrossSim's parameters become hardware that gives CrossSim's own numbers (golden/README.md), and no field is lost."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mho
from mho.crossbar.converters import quantise
from mho.crossbar.drive import Drive, input_codes
from mho.importing import Imported, crosssim

GOLDEN = Path(__file__).parent / "golden"
DAC, ADC, MAPPING, DEVICES = (np.load(GOLDEN / f"{name}.npz") for name in ("dac", "adc", "mapping", "devices"))
OFF = {"enable": False, "model": "IdealDevice", "magnitude": 0}
RANGE = {"clipping": False, "min": -1.0, "max": 1.0, "percentile": None}
ADC_OFF = {
    "model": "IdealADC",
    "bits": 0,
    "signed": True,
    "stochastic_rounding": False,
    "adc_per_ibit": False,
    "calibrated_range": None,
    "adc_range_option": 1,
}
DAC_OFF = {"model": "IdealDAC", "bits": 0, "input_bitslicing": False, "signed": True, "slice_size": 1}
FILE: dict[str, Any] = {  # all fields that CrossSim 3 writes, at its defaults
    "core": {
        "style": 1,
        "rows_max": 1024,
        "cols_max": 1024,
        "weight_bits": 0,
        "complex_matrix": False,
        "complex_input": False,
        "balanced": {"style": 1, "interleaved_posneg": False, "subtract_current_in_xbar": True},
        "bit_sliced": {"style": 1, "num_slices": 2},
        "offset": {"style": 1},
        "mapping": {
            "weights": {
                "clipping": True,
                "min": None,
                "max": None,
                "percentile": 1.0,
                "row_partition_priority": [],
                "col_partition_priority": [],
                "row_partition_strategy": 2,
                "col_partition_strategy": 2,
            },
            "inputs": {"_match": True, "mvm": RANGE, "vmm": RANGE},
        },
    },
    "simulation": {
        "convolution": {"is_conv_core": False, "x_par": 1, "y_par": 1, "Nwindows": 1},
        "analytics": {"profile_adc_inputs": False, "ntest": 0},
        "useGPU": False,
        "Verr_th_mvm": 0.001,
    },
    "xbar": {
        "device": {
            "cell_bits": 0,
            "Rmin": 1000,
            "Rmax": 10000,
            "time": 0,
            "infinite_on_off_ratio": False,
            "clip_conductance": False,
            "read_noise": OFF,
            "programming_error": OFF,
            "drift_error": OFF,
        },
        "array": {"Icol_max": 0, "parasitics": {"enable": False, "Rp_row": 0, "Rp_col": 0, "gate_input": False}},
        "adc": {"_match": True, "mvm": ADC_OFF, "vmm": ADC_OFF},
        "dac": {"_match": True, "mvm": DAC_OFF, "vmm": DAC_OFF},
    },
}


def given(**fields: Any) -> dict[str, Any]:
    """The file with some fields set by dotted path (dots written as two underscores)."""
    found = deepcopy(FILE)
    for path, value in fields.items():
        *parents, last = path.split("__")
        node = found
        for part in parents:
            node = node[part]
        node[last] = value
    return found


def imported(**fields: Any) -> Imported:
    return crosssim(given(**fields))


def row(found: Imported, theirs: str) -> tuple[str, str]:
    (one,) = [row for row in found.rows if row.theirs == theirs]
    return one.status, one.ours


def test_the_defaults_are_an_ideal_array() -> None:
    found = imported()
    assert found.hardware is not None
    assert not found.missing
    cell, tile = found.hardware.cell, found.hardware.tile
    assert (cell.g_min, cell.g_max, cell.levels) == (1e-4, 1e-3, None)
    assert (tile.rows, tile.columns, tile.encoding) == (1024, 2048, "differential")
    assert found.hardware.adc.bits is None is found.hardware.dac.bits
    assert found.hardware.sources["cell.g_max"] == "crosssim: xbar.device.Rmin = 1000"


def test_each_field_is_told_once() -> None:
    found = imported()
    names = [row.theirs for row in found.rows if row.theirs]
    assert len(names) == len(set(names))
    assert {"core.mapping.inputs.vmm.min", "simulation.Verr_th_mvm", "xbar.adc.vmm.bits"} <= set(names)
    text = str(found)
    assert "simulation" in text
    assert "xbar.device.Rmin = 1000 -> cell.g_max = 0.001 S" in text
    assert "xbar.device.Rmin" in found._repr_html_()
    assert set(found.table["status"]) == {"taken", "off", "aside", "assumed"}


def test_fields_of_no_version_are_not_lost() -> None:
    found = crosssim(given(core__colour="red"))
    assert found.missing == ["core.colour"]
    assert "not known" in str(found)


@pytest.mark.parametrize(("onoff", "ratio"), [("onoff1000", 1000), ("onoff10", 10), ("infinite", 0)])
@pytest.mark.parametrize("bits", [0, 4, 7])
@pytest.mark.parametrize(("style", "number"), [("ONE_SIDED", 1), ("TWO_SIDED", "TWO_SIDED")])
def test_conductances_are_those_of_the_peer(style: str, number: Any, onoff: str, ratio: int, bits: int) -> None:
    fields: dict[str, Any] = {"xbar__device__cell_bits": bits, "core__balanced__style": number}
    fields |= {"xbar__device__infinite_on_off_ratio": not ratio, "xbar__device__Rmax": 1000.0 * (ratio or 7)}
    hardware = imported(**fields).hardware
    assert hardware is not None
    weights = MAPPING["W"]
    (cells,) = mho.matrix(weights, hardware, calibrate=np.ones((weights.shape[1], 2))).conductances().values()
    got = np.asarray(cells).reshape(2, weights.shape[1], weights.shape[0]) / hardware.cell.g_max
    for polarity, suffix in enumerate(("Gpos", "Gneg")):
        expected = MAPPING[f"{style}_{onoff}_cb{bits}_{suffix}"]
        assert np.allclose(got[polarity].T, expected, atol=2e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("signed", [False, True])
def test_inputs_are_those_of_the_peer(bits: int, signed: bool) -> None:
    name = "SignMagnitudeDAC" if signed else "QuantizerDAC"
    hardware = imported(xbar__dac__mvm={**DAC_OFF, "model": name, "bits": bits, "signed": signed}).hardware
    assert hardware is not None
    x = DAC["x"] if signed else np.abs(DAC["x"])
    drive = Drive.of(hardware.dac, hardware.dac.range, signed)
    keep = ~np.isclose(x * drive.full_code % 1, 0.5, atol=1e-9)
    expected = DAC[f"{'signmag' if signed else 'unsigned'}_{bits}b"]
    assert np.allclose(input_codes(x, drive)[keep] / drive.full_code, expected[keep], atol=1e-7)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("model", ["SignMagnitudeADC", "RampADC", "SarADC", "CyclicADC"])
def test_readings_are_those_of_the_peer(model: str, bits: int) -> None:
    converter = {**ADC_OFF, "model": model, "bits": bits, "calibrated_range": [-3, 3]}
    hardware = imported(xbar__adc__mvm=converter, xbar__adc__vmm=converter).hardware
    assert hardware is not None
    unit = hardware.cell.g_max * hardware.sensing.v_read  # of the peer's currents, in amperes
    v, codes = ADC["v"], hardware.adc.codes(signed=True)
    got = quantise(v * unit, codes, hardware.adc.full_scale) / unit
    steps = v / (3.0 * codes.relative_step) - codes.centre
    keep = ~(np.abs(np.abs(steps % 1) - 0.5) < 1e-6)
    if model == "CyclicADC":
        keep &= ~np.isclose(np.abs(v), 0.75)
    assert keep.mean() > 0.9
    assert np.allclose(got[keep], ADC[f"{model}_{bits}b_-3_3"][keep], atol=1e-6)


def test_a_quantiser_about_zero_has_both_ends() -> None:
    converter = {**ADC_OFF, "model": "QuantizerADC", "bits": 4, "calibrated_range": [-3.0, 3.0]}
    hardware = imported(xbar__adc__mvm=converter).hardware
    assert hardware is not None
    unit = hardware.cell.g_max * hardware.sensing.v_read
    v = np.linspace(-3.2, 3.2, 401)
    got = quantise(v * unit, hardware.adc.codes(signed=True), hardware.adc.full_scale) / unit
    expected = np.clip(np.rint((v + 3) / 0.4), 0, 15) * 0.4 - 3
    edge = np.isclose((v + 3) / 0.4 % 1, 0.5, atol=1e-6)
    assert np.allclose(got[~edge], expected[~edge])


@pytest.mark.parametrize("device", ["PCMJoshi", "RRAMMilo", "RRAMWan", "SONOS"])
def test_errors_of_cells_are_those_of_the_peer(device: str) -> None:
    fields = {"xbar__device__Rmin": float(DEVICES[f"{device}_Rmin"]), "xbar__device__Rmax": 1e12}
    on = {"enable": True, "model": device, "magnitude": 0}
    found = imported(xbar__device__programming_error=on, **fields)
    assert not found.missing
    assert found.hardware is not None
    g, cell = DEVICES[f"{device}_g"], found.hardware.cell
    std = cell.programming.std(g * cell.g_max, found.hardware.conditions, np)  # type: ignore[arg-type]
    assert np.allclose(std / cell.g_max, DEVICES[f"{device}_prog_sigma"], rtol=0.03, atol=2e-4)


def test_charge_traps_drift_and_flicker_as_those_of_the_peer() -> None:
    fields = {"xbar__device__Rmin": float(DEVICES["SONOS_Rmin"]), "xbar__device__Rmax": 6.25e10}
    on = {"enable": True, "model": "SONOS", "magnitude": 0}
    errors = {f"xbar__device__{name}": on for name in ("programming_error", "read_noise", "drift_error")}
    found = imported(xbar__device__time=2.5, **fields, **errors)
    assert found.hardware is not None
    assert found.hardware.time_s == 2.5 * 86400
    g, cell, now = DEVICES["SONOS_g"], found.hardware.cell, found.hardware.conditions
    read = cell.read_noise.std(g * cell.g_max, now, np) / cell.g_max  # type: ignore[arg-type]
    assert np.allclose(read, DEVICES["SONOS_read_sigma"], rtol=0.03, atol=2e-4)
    mean, _ = cell.drift.moments(g * cell.g_max, now, np)  # type: ignore[arg-type]
    assert np.allclose(mean / cell.g_max, DEVICES["SONOS_drift_t2.5d_mean"], atol=2e-3)


def test_generic_errors_are_in_units_of_the_peer() -> None:
    error = {"enable": True, "model": "NormalIndependentDevice", "magnitude": 0.02}
    noise = {"enable": True, "model": "NormalProportionalDevice", "magnitude": 0.03}
    found = imported(xbar__device__programming_error=error, xbar__device__read_noise=noise)
    assert found.hardware is not None
    g = np.array([1e-4, 5e-4])
    now = found.hardware.conditions
    assert np.allclose(found.hardware.cell.programming.std(g, now, np), 2e-5)  # type: ignore[arg-type]
    assert np.allclose(found.hardware.cell.read_noise.std(g, now, np), 0.03 * g)  # type: ignore[arg-type]


def test_bit_slices_with_offsets_after_isaac() -> None:
    converter = {**ADC_OFF, "model": "SignMagnitudeADC", "bits": 9, "adc_per_ibit": True, "adc_range_option": 3}
    dac = {**DAC_OFF, "model": "SignMagnitudeDAC", "bits": 16, "input_bitslicing": True}
    found = imported(
        core__style=2,
        core__rows_max=128,
        core__cols_max=128,
        core__weight_bits=16,
        core__bit_sliced={"style": 3, "num_slices": 8},
        core__offset={"style": 2},
        xbar__device__cell_bits=2,
        xbar__device__Rmin=2000.0,
        xbar__device__Rmax=2e6,
        xbar__adc__mvm=converter,
        xbar__dac__mvm=dac,
    )
    assert found.hardware is not None
    tile, hardware = found.hardware.tile, found.hardware
    assert (tile.slices, tile.encoding, hardware.cell.levels, tile.rows) == (8, "offset", 4, 128)
    assert tile.outputs == 128
    assert (hardware.dac.bits, hardware.dac.bits_per_pulse, hardware.dac.accumulate) == (16, 1, "digital")
    step = (hardware.cell.g_max - hardware.cell.g_min) / 3 * hardware.sensing.v_read
    assert hardware.adc.full_scale == pytest.approx(255 * step)
    assert "xbar.adc.vmm.bits" not in found.missing  # the two are matched


def test_products_with_fine_converters_are_exact_products() -> None:
    rng = np.random.default_rng(0)
    weights, x = rng.normal(size=(9, 14)), rng.uniform(-1, 1, (14, 30))
    fine = {**ADC_OFF, "model": "SignMagnitudeADC", "bits": 16, "calibrated_range": [-8, 8]}
    dac = {**DAC_OFF, "model": "SignMagnitudeDAC", "bits": 12}
    hardware = imported(xbar__adc__mvm=fine, xbar__adc__vmm=fine, xbar__dac__mvm=dac, xbar__dac__vmm=dac).hardware
    assert hardware is not None
    got = np.asarray(mho.matrix(weights, hardware, calibrate=x) @ x)
    assert np.abs(got - weights @ x).max() < 2e-3 * np.abs(weights @ x).max()


def test_wires_need_to_be_understood() -> None:
    wires = {"enable": True, "Rp_row": 0.5, "Rp_col": 0.25, "gate_input": False}
    found = imported(xbar__array__parasitics=wires)
    assert found.hardware is not None
    assert (found.hardware.wires.r_word_line, found.hardware.wires.r_bit_line) == (0.5, 0.25)
    assert row(found, "xbar.array.parasitics.Rp_row")[0] == "approximated"
    relative = crosssim(given(xbar__array__parasitics={**wires, "Rp_col": 1e-4}), relative_wires=True)
    assert relative.hardware is not None
    assert relative.hardware.wires.r_bit_line == pytest.approx(0.1)
    newer = {"enable": True, "Rp_row": 0.5, "Rp_col": 0.25, "Rp_row_terminal": 10, "Rp_col_terminal": 20}
    newer |= {"current_from_input": False, "selected_rows": "top"}
    gates = imported(xbar__array__parasitics=newer)
    assert gates.hardware is not None
    assert (gates.hardware.wires.r_word_line, gates.hardware.wires.r_driver) == (0, 0)
    assert (gates.hardware.wires.r_bit_line, gates.hardware.wires.r_sense) == (0.25, 20)


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("core__complex_matrix", True, "core.complex_matrix"),
        ("xbar__array__Icol_max", 5, "xbar.array.Icol_max"),
        ("core__mapping__weights__percentile", 0.99, "core.mapping.weights.percentile"),
        ("core__mapping__weights__max", 2.0, "core.mapping.weights.max"),
        (
            "xbar__device__nonlinear_IV",
            {**OFF, "enable": True, "model": "CubicDevice"},
            "xbar.device.nonlinear_IV.model",
        ),
        ("xbar__device__read_noise", {**OFF, "enable": True, "model": "MyDevice"}, "xbar.device.read_noise.model"),
        ("xbar__adc__mvm__stochastic_rounding", True, "xbar.adc.mvm.stochastic_rounding"),
    ],
)
def test_what_changes_numbers_and_has_no_counterpart_is_seen(field: str, value: Any, name: str) -> None:
    converter = {**ADC_OFF, "model": "SarADC", "bits": 8, "calibrated_range": [-3, 3]}
    assert name in crosssim({**given(**{"xbar__adc__mvm": converter, field: value})}).missing


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("xbar__device__Rmin", -5, "xbar.device.Rmin must be a number of at least 0.001"),
        ("xbar__device__Rmin", "1 kohm", "xbar.device.Rmin must be a number"),
        ("xbar__device__Rmin", 2e4, "xbar.device.Rmin must be below Rmax = 10000 ohm, got 20000 ohm"),
        ("xbar__device__time", 10**400, "xbar.device.time must be a number"),
        ("xbar__device__cell_bits", 2.5, "xbar.device.cell_bits must be a whole number, got 2.5"),
        ("xbar__device__cell_bits", True, "xbar.device.cell_bits must be a number"),
        ("core__style", "CURVED", "core.style must be one of BALANCED, BITSLICED, OFFSET, got 'CURVED'"),
        ("core__style", 7, "core.style must be one of"),
        ("core", 3, "core.style"),
        ("xbar__device__clip_conductance", 1, "xbar.device.clip_conductance must be true or false, got 1"),
        ("core__mapping__inputs__mvm__max", -2.0, "core.mapping.inputs.mvm.min must be below max"),
    ],
)
def test_bad_values_are_one_line(field: str, value: Any, said: str) -> None:
    if field == "core":
        found = crosssim({**FILE, "core": value})
        assert found.missing == ["core"]
        return
    with pytest.raises(ValueError, match="crosssim: ") as error:
        imported(**{field: value})
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "\ufeff[1]", '{"core": 1, "core": 2}', "NaN", '"core"'])
def test_files_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "Gerät.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"crosssim parameters .*Gerät\.json"):
        crosssim(path)


def test_files_of_any_editor(tmp_path: Path) -> None:
    path = tmp_path / "Parameter für µA.json"
    path.write_bytes(json.dumps(FILE, indent=4).replace("\n", "\r\n").encode("utf-8-sig"))
    assert crosssim(path).hardware == crosssim(FILE).hardware
    with pytest.raises(FileNotFoundError):
        crosssim(tmp_path / "none.json")
