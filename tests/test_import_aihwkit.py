"""aihwkit's configuration becomes hardware that computes as aihwkit does, and no field is lost.

Expected numbers are computed here, from the formulas that aihwkit documents.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mho
from mho.devices.parts import Conditions
from mho.importing import Imported, aihwkit


class Kind(Enum):  # as aihwkit's enumerations: names in capitals, values as text
    NONE = "None"
    ABS_MAX = "AbsMax"
    CONSTANT = "Constant"
    ITERATIVE = "Iterative"
    ONE_PASS = "OnePass"
    PCM_READ = "PCMRead"


@dataclass
class IOParameters:
    is_perfect: bool = False
    mv_type: Kind = Kind.ONE_PASS
    inp_bound: float = 1.0
    inp_res: float = 1 / 126
    inp_noise: float = 0.0
    out_bound: float = 12.0
    out_noise: float = 0.06
    out_res: float = 1 / 510
    bound_management: Kind = Kind.ITERATIVE
    noise_management: Kind = Kind.ABS_MAX
    nm_thres: float = 0.0
    w_noise: float = 0.0
    w_noise_type: Kind = Kind.NONE
    ir_drop: float = 0.0


@dataclass
class MappingParameter:
    digital_bias: bool = True
    weight_scaling_omega: float = 1.0
    weight_scaling_columnwise: bool = True
    max_input_size: int = 512
    max_output_size: int = 0


class SinglePairConductanceConverter:
    def __init__(self, g_max: float = 25.0, g_min: float = 0.0) -> None:
        self.g_max, self.g_min, self.scale_ratio = g_max, g_min, None


class PCMLikeNoiseModel:
    def __init__(self, g_max: float = 25.0, **more: Any) -> None:
        self.g_converter = SinglePairConductanceConverter(g_max)
        self.g_max, self.prog_coeff, self.prog_coeff_g_max_reference = g_max, [0.26348, 1.9650, -1.1731], 25.0
        self.t_0, self.t_read, self.prog_noise_scale, self.read_noise_scale, self.drift_scale = 20.0, 250e-9, 1, 1, 1
        vars(self).update(more)


class GlobalDriftCompensation:
    pass


@dataclass
class InferenceRPUConfig:
    tile_class: type = PCMLikeNoiseModel
    mapping: MappingParameter = field(default_factory=MappingParameter)
    forward: IOParameters = field(default_factory=IOParameters)
    backward: IOParameters = field(default_factory=lambda: IOParameters(is_perfect=True))
    noise_model: Any = field(default_factory=PCMLikeNoiseModel)
    drift_compensation: Any = field(default_factory=GlobalDriftCompensation)


def imported(noise_model: Any = None, **forward: Any) -> Imported:
    return aihwkit(InferenceRPUConfig(forward=IOParameters(**forward), noise_model=noise_model))


def hardware(noise_model: Any = None, **forward: Any) -> mho.Hardware:
    found = imported(noise_model, **forward).hardware
    assert found is not None
    return found


RNG = np.random.default_rng(0)
W, X = RNG.normal(size=(20, 50)), RNG.normal(size=(50, 40))


def theirs(**forward: Any) -> np.ndarray[Any, Any]:
    """What aihwkit computes for W @ X without noise, by its documented formulas."""
    io = IOParameters(**forward)
    scale = np.abs(W).max(axis=1, keepdims=True)
    alpha = np.abs(X).max(axis=0) if io.noise_management is Kind.ABS_MAX else 1.0
    x, y_of = X / alpha, W / scale
    if io.inp_res > 0:
        step = 2 * io.inp_bound / (1 / io.inp_res if io.inp_res < 1 else io.inp_res)
        x = np.rint(x / step) * step
    x = np.clip(x, -io.inp_bound, io.inp_bound)
    y = y_of @ x
    step = 2 * io.out_bound / (1 / io.out_res if io.out_res < 1 else io.out_res)
    y = np.rint(y / step) * step if io.out_res > 0 else y
    return np.clip(y, -io.out_bound, io.out_bound) * alpha * scale


@pytest.mark.parametrize(
    "forward",
    [
        {},
        {"out_bound": 2.0},
        {"inp_res": 62.0, "out_res": 254.0},
        {"noise_management": Kind.NONE, "inp_bound": 2.0},
        {"noise_management": Kind.NONE, "inp_bound": 0.5, "out_bound": 3.0},
        {"inp_res": -1, "out_res": -1},
    ],
)
def test_products_are_those_of_the_peer(forward: dict[str, Any]) -> None:
    got = np.asarray(mho.matrix(W, hardware(out_noise=0.0, **forward), calibrate=X) @ X)
    expected = theirs(**forward)
    off = np.abs(got - expected) > 1e-5 * np.abs(expected).max()
    assert off.mean() < 0.005  # a reading on the edge of two codes may fall to either side


def test_noise_of_outputs_is_that_of_the_peer() -> None:
    matrix = mho.matrix(W, hardware(out_noise=0.05, out_res=-1), calibrate=X)
    noise = np.array([np.asarray(matrix @ X) for _ in range(60)]).std(axis=0)
    expected = 0.05 * np.abs(X).max(axis=0) * np.abs(W).max(axis=1, keepdims=True)
    assert np.allclose((noise / expected).mean(), 1, atol=5 / np.sqrt(2 * 60 * noise.size))


def test_noise_of_weights_is_that_of_the_peer() -> None:
    fields = {"out_noise": 0.0, "out_res": -1, "inp_res": -1, "w_noise": 0.02}
    found = aihwkit({"forward": {**fields, "w_noise_type": "ADDITIVE_CONSTANT", "bound_management": "NONE"},
                     "mapping": {"weight_scaling_omega": 1.0}, "noise_model": None})  # fmt: skip
    assert not found.missing
    assert found.hardware is not None
    matrix = mho.matrix(W, found.hardware, calibrate=X)
    noise = np.array([np.asarray(matrix @ X) for _ in range(60)]).std(axis=0)
    expected = 0.02 * np.abs(W).max() * np.linalg.norm(X, axis=0)
    assert np.allclose((noise / expected).mean(), 1, atol=5 / np.sqrt(2 * 60 * noise.size))


@pytest.mark.parametrize(("g_max", "scale"), [(25.0, 1.0), (18.0, 0.5)])
def test_errors_of_cells_are_those_of_the_peer(g_max: float, scale: float) -> None:
    cell = hardware(PCMLikeNoiseModel(g_max, prog_noise_scale=scale, drift_scale=2 * scale)).cell
    x = np.array([0.0, 0.1, 0.4, 1.0])
    now = Conditions(v_read=0.2, t_read=250e-9, temperature=300.0, time_s=3600.0)
    std = scale * (0.26348 + 1.9650 * x - 1.1731 * x**2) * g_max / 25.0  # uS
    assert np.allclose(1e6 * cell.programming.std(x * cell.g_max, now, np), std)  # type: ignore[arg-type]
    nu = 2 * scale * np.clip(-0.0155 * np.log(np.maximum(x, 1e-9)) + 0.0244, 0.049, 0.1)
    drifted = cell.drift.apply(x * cell.g_max, [np.zeros(4)], now, np)  # type: ignore[arg-type]
    assert np.allclose(1e6 * drifted, x * g_max * (1 + 3600 / 20) ** -nu)
    q = np.minimum(0.0088 / np.maximum(x[1:], 1e-9) ** 0.65, 0.2) * np.sqrt(np.log(3620 / 5e-7))
    noise = cell.read_noise.std(x[1:] * cell.g_max, now, np)  # type: ignore[arg-type]
    assert np.allclose(1e6 * noise, x[1:] * g_max * q, rtol=1e-6)


def test_tables_of_drift_have_the_moments_of_power_laws() -> None:
    model = {"class": "CustomDriftPCMLikeNoiseModel", "g_max": 25.0, "custom_drift_model": {
        "g_lst": [0.0, 10.0, 25.0], "nu_mean_lst": [0.08, 0.05, 0.04], "nu_std_lst": [0.03, 0.02, 0.01]}}  # fmt: skip
    cell = aihwkit({"forward": {}, "noise_model": model}).hardware.cell  # type: ignore[union-attr]
    now = Conditions(v_read=0.2, t_read=250e-9, temperature=300.0, time_s=86400.0)
    exponents = np.abs(0.05 + 0.02 * np.random.default_rng(1).standard_normal(200_000))
    left = 10 * (1 + 86400 / 20) ** -exponents
    mean, variance = cell.drift.moments(np.array([10e-6]), now, np)  # type: ignore[arg-type]
    assert np.allclose(1e6 * mean, left.mean(), rtol=2e-3)
    assert np.allclose(1e6 * np.sqrt(variance), left.std(), rtol=1e-2)


@pytest.mark.parametrize(
    "name",
    [
        "HermesNoiseModel",
        "StateIndependentNoiseModel",
        "ReRamWan2022NoiseModel",
        "ReRamCMONoiseModel",
    ],
)
def test_other_cells_with_the_values_that_they_have_there(name: str) -> None:
    found = aihwkit({"forward": {"bound_management": "None"}, "noise_model": {"class": name}})
    assert found.hardware is not None
    assert found.hardware.cell.programming.kind == "polynomial"
    assert found.hardware.cell.drift.kind in ("relaxation", "power_law")
    assert not [name for name in found.missing if name not in ("noise_model.read_noise_scale",)]


def test_reram_after_wan() -> None:
    cell = hardware_of({"class": "ReRamWan2022NoiseModel", "g_max": 40.0}).cell
    now = Conditions(v_read=0.2, t_read=1e-7, temperature=300.0, time_s=86400.0)
    x = 0.5
    first, later = (np.polyval(fit, x) for fit in ([-16.815, 45.393, -43.853, 16.030, 0.348],
                                                   [-16.458, 47.095, -50.773, 22.086, 0.701]))  # fmt: skip
    g = np.array([x * cell.g_max])
    assert np.allclose(1e6 * cell.programming.std(g, now, np), first)  # type: ignore[arg-type]
    added = np.sqrt(cell.drift.moments(g, now, np)[1])  # type: ignore[arg-type]
    assert np.allclose(1e6 * np.hypot(added, first * 1e-6), later, rtol=1e-3)


def hardware_of(noise_model: dict[str, Any]) -> mho.Hardware:
    found = aihwkit({"forward": {}, "noise_model": noise_model}).hardware
    assert found is not None
    return found


def test_an_object_its_fields_and_their_json_are_the_same(tmp_path: Path) -> None:
    config = InferenceRPUConfig()
    path = tmp_path / "Konfiguration µ.json"

    def plain(part: Any) -> Any:  # as docs/coming-from.md writes it
        if isinstance(part, Enum):
            return part.value
        return part.__name__ if isinstance(part, type) else {"class": type(part).__name__, **vars(part)}

    path.write_text(json.dumps(config, default=plain).replace(", ", ",\r\n"), encoding="utf-8-sig")
    found, from_file = aihwkit(config), aihwkit(path)
    assert found.hardware == from_file.hardware == aihwkit(json.loads(path.read_text("utf-8-sig"))).hardware
    assert [row.status for row in found.rows] == [row.status for row in from_file.rows]


def test_each_field_is_told_and_what_has_none_is_seen() -> None:
    found = imported(PCMLikeNoiseModel(), inp_noise=0.1, nm_thres=0.5)
    names = [row.theirs for row in found.rows if row.theirs]
    assert len(names) == len(set(names))
    assert set(found.missing) == {"forward.inp_noise", "forward.bound_management", "forward.nm_thres"}
    by_name = {row.theirs: row for row in found.rows}
    assert by_name["backward.inp_res"].status == "aside"
    assert by_name["drift_compensation.class"].status == "approximated"
    assert by_name["forward.out_bound"].ours.startswith("adc.full_scale = 6e-05 A")
    assert "sensing.v_read" in str(found)
    assert "forward.inp_noise" in found._repr_html_()


def test_a_perfect_forward_pass_has_no_converters() -> None:
    found = imported(PCMLikeNoiseModel(), is_perfect=True, w_noise=0.3, w_noise_type=Kind.PCM_READ)
    assert found.hardware is not None
    assert not found.missing
    assert found.hardware.adc.bits is None is found.hardware.dac.bits
    assert found.hardware.sensing.amplifier_noise == 0
    assert found.hardware.cell.programming.kind == "polynomial"  # of the cells, as there
    exact = mho.matrix(W, hardware(None, is_perfect=True), calibrate=X)
    assert np.allclose(np.asarray(exact @ X), W @ X, atol=1e-4)


def test_drops_in_wires_keep_their_ratio() -> None:
    found = aihwkit({"forward": {"ir_drop": 2.0, "ir_drop_g_ratio": 1 / 0.35 / 5e-6}, "noise_model": None})
    assert found.hardware is not None
    assert found.hardware.wires.r_bit_line == pytest.approx(2 * 0.35 * 5e-6 / 25e-6)


def test_unknown_fields_and_models_are_not_lost() -> None:
    found = aihwkit({"forward": {"out_nosie": 0.1}, "noise_model": {"class": "OwnModel", "size": 3}})
    assert {"forward.out_nosie", "noise_model.class", "noise_model.size"} <= set(found.missing)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (3, "expected its fields by name, got int"),
        ({}, "expected the fields of an InferenceRPUConfig"),
        ({"core": {}}, "expected the fields of an InferenceRPUConfig"),
        ({"forward": 3}, "forward must be a group of fields, got int"),
        ({"forward": {"out_noise": -1}}, "forward.out_noise must be a number of at least 0, got -1"),
        ({"forward": {"out_bound": "12 V"}}, "forward.out_bound must be a number, got '12 V'"),
        ({"forward": {"out_bound": float("nan")}}, "forward.out_bound must be a number"),
        ({"forward": {"is_perfect": "yes"}}, "forward.is_perfect must be true or false"),
        ({"forward": {"mv_type": "TwoPass"}}, "forward.mv_type must be one of Ideal, OnePass"),
        ({"mapping": {"max_input_size": 1.5}}, "mapping.max_input_size must be a whole number, got 1.5"),
        ({"noise_model": {"g_max": 3.0}}, "noise_model.class is needed"),
        ({"noise_model": {"class": "PCMLikeNoiseModel", "g_max": -25.0}}, "g_max must be a number of at least"),
        ({"noise_model": {"class": "PCMLikeNoiseModel", "t_0": "20 s"}}, "noise_model.t_0 must be a number"),
        ({"noise_model": {"class": "PCMLikeNoiseModel", "prog_coeff": 3}}, "prog_coeff must be a list"),
    ],
)
def test_bad_values_are_one_line(config: Any, said: str) -> None:
    with pytest.raises(ValueError, match="aihwkit: ") as error:
        aihwkit(config)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
