"""Cost constants, and time and energy of a layer counted by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from torch import nn

import mho
from mho.crossbar.components import ADC_FLOOR, CONSTANTS, Cost, adc_energy
from mho.crossbar.converters import Adc, Dac
from mho.crossbar.lines import Wires
from mho.crossbar.placement import Placement
from mho.crossbar.tile import Tile
from mho.mapping.architecture.cost import AREAS, COMPONENTS, layer_costs
from mho.mapping.architecture.schedule import schedule
from mho.mapping.trace import Call

TILE = Tile(rows=128, columns=64, encoding="differential")


def fake_layer(**changes: object) -> SimpleNamespace:
    """200 word lines by 40 outputs on pairs: 2 row tiles, 2 column tiles of 32 and 8 outputs."""
    fields = {
        "dac_bits": 8,
        "bits_per_pulse": None,
        "adc_bits": 8,
        "t_read": 100e-9,
        "cost": Cost(),
        "placement": Placement.of(TILE, 200, 40),
        "pulses": 1,
        "phases": 1,
        "positions": 10,
        "array_energy_j": 5e-12,
        "wires": Wires(),
    } | changes
    hardware = SimpleNamespace(
        sensing=SimpleNamespace(t_read=fields["t_read"], v_read=0.2),
        dac=Dac(bits=fields["dac_bits"], range="calibrated", bits_per_pulse=fields["bits_per_pulse"]),
        adc=Adc(bits=fields["adc_bits"], full_scale="calibrated" if fields["adc_bits"] else None),
        tile=fields["placement"].tile,
        cost=fields["cost"],
        wires=fields["wires"],
    )
    own = {name: fields[name] for name in ("placement", "pulses", "phases", "positions", "array_energy_j")}
    return SimpleNamespace(hardware=hardware, scaling_operations=lambda *_: 0, fillers=0, **own)


def fake_chip(**layers: SimpleNamespace) -> SimpleNamespace:
    """The layers in a chain, without digital work between them."""
    trace = [
        Call(name, (), (n - 1,) if n else (), layer.positions, 30, layer.placement.rows)
        for n, (name, layer) in enumerate(layers.items())
    ]
    return SimpleNamespace(layers=layers, trace=trace, copy_index=0)


def test_survey_law_is_near_a_built_converter() -> None:
    isaac = 2e-3 / 1.28e9
    assert isaac / 2 < adc_energy(8, 1.28e9) < isaac
    assert adc_energy(8, 1.28e9) == pytest.approx(0.925e-12, rel=5e-3)


def test_survey_law_grows_with_bits_and_rate() -> None:
    assert adc_energy(12, 1e6) / adc_energy(11, 1e6) == pytest.approx(10**0.602)
    assert adc_energy(8, 2e9) > adc_energy(8, 1e9)
    assert adc_energy(14, 1e3) == adc_energy(14, 1e6)


def test_floor_holds_where_the_law_promises_too_much() -> None:
    assert adc_energy(4, 1e6) == ADC_FLOOR * 16


@pytest.mark.parametrize(("bits", "rate"), [(0, 1e9), (8, 0.0), (8, float("nan"))])
def test_impossible_converters_are_refused(bits: int, rate: float) -> None:
    with pytest.raises(ValueError, match=r"bits|rate"):
        adc_energy(bits, rate)


def test_constants_are_read_with_units_and_checked() -> None:
    cost = Cost.model_validate({"sense_power": "9.7 nW", "adc_energy": "1.56 pJ", "adc_rate": "1.28 GHz"})
    assert cost.sense_power == pytest.approx(9.7e-9)
    assert cost.conversion_energy(8) == pytest.approx(1.56e-12)
    for bad in ({"adc_rate": 0.0}, {"adcs_per_tile": 0}, {"adc_energy": -1e-12}, {"digital_time": 0.0}, {"dac": 1.0}):
        with pytest.raises(ValidationError):
            Cost.model_validate(bad)


def test_dac_of_one_bit_is_the_sources() -> None:
    assert Cost().pulse_energy(1) == pytest.approx(3.9e-6 * 100e-9)


def test_every_constant_has_a_source_and_a_node() -> None:
    assert set(CONSTANTS) == set(Cost.model_fields)
    for constant in CONSTANTS.values():
        assert "20" in constant.source or constant.value is None or constant.source.startswith("assumption")
        assert constant.node.endswith("nm") or constant.node in ("any", "none")


def test_layer_counted_by_hand() -> None:
    row = layer_costs(fake_chip(fc=fake_layer())).iloc[0]
    convert = 32 / 1.28e9
    assert row["layer"] == "fc"
    assert row["positions"] == 10
    assert row["read_time_s"] == pytest.approx(100e-9 + convert)
    assert row["read_interval_s"] == pytest.approx(100e-9)  # the conversion overlaps
    assert row["stage_time_s"] == pytest.approx(10 * 100e-9 + convert + 0.833e-9 + 100e-9)  # 2 row tiles: one addition
    assert row["energy_dac_j"] == pytest.approx(10 * 200 * 2 * 8 * 0.39e-12)
    assert row["energy_array_j"] == pytest.approx(10 * 5e-12)
    line = (64 * 0.517e-15 + 11.8e-15) * 0.9**2
    assert row["energy_driver_j"] == pytest.approx(10 * 200 * 2 * line)
    assert row["energy_sense_j"] == pytest.approx(10 * 80 * 2 * (9.7e-9 * 100e-9 + 0.3625e-12))  # 2 amplifiers a pair
    assert row["energy_adc_j"] == pytest.approx(10 * 80 * adc_energy(8, 1.28e9))
    assert row["energy_digital_j"] == pytest.approx(10 * 80 * (0.021e-12 + 0.128e-12) + 30 * 0.383e-12)
    buffered, registered = 200 + 10 * (200 + 2 * 40), 10 * (200 * 2 + 40 * 2)
    assert row["energy_buffer_j"] == pytest.approx(8 * (buffered * 0.0799e-12 + registered * 0.14e-12))
    assert row["energy_interconnect_j"] == pytest.approx(8 * (200 + 10 * 40) * 0.127e-12)
    assert row["energy_j"] == pytest.approx(sum(row[f"energy_{part}_j"] for part in COMPONENTS))


def test_pulses_take_time_and_conversions() -> None:
    one = layer_costs(fake_chip(fc=fake_layer())).iloc[0]
    serial = layer_costs(fake_chip(fc=fake_layer(pulses=8, bits_per_pulse=1))).iloc[0]
    assert serial["read_interval_s"] == pytest.approx(8 * one["read_interval_s"])
    assert serial["energy_adc_j"] == pytest.approx(8 * one["energy_adc_j"])
    assert serial["energy_dac_j"] == pytest.approx(one["energy_dac_j"])


def test_groups_read_in_parallel() -> None:
    one = layer_costs(fake_chip(c=fake_layer(placement=Placement.of(TILE, 9, 4)))).iloc[0]
    four = layer_costs(fake_chip(c=fake_layer(placement=Placement.of(TILE, 9, 4, groups=4)))).iloc[0]
    assert four["read_time_s"] == one["read_time_s"]
    assert four["energy_adc_j"] == pytest.approx(4 * one["energy_adc_j"])
    assert four["energy_dac_j"] == pytest.approx(4 * one["energy_dac_j"])


def test_more_adcs_share_the_fullest_tile() -> None:
    quick = layer_costs(fake_chip(c=fake_layer(cost=Cost(adcs_per_tile=4)))).iloc[0]
    assert quick["read_time_s"] == pytest.approx(100e-9 + 8 / 1.28e9)


def test_the_slower_of_integration_and_conversion_sets_the_pace() -> None:
    def row(**cost: float) -> pd.Series:
        return layer_costs(fake_chip(c=fake_layer(pulses=2, cost=Cost(drive_time=20e-9, **cost)))).iloc[0]

    fast, slow, alone = row(), row(adc_rate=0.1e9), row(overlap=False)
    assert fast["read_interval_s"] == pytest.approx(2 * 120e-9)
    assert fast["read_time_s"] == pytest.approx(2 * 120e-9 + 25e-9)
    assert slow["read_interval_s"] == pytest.approx(2 * 320e-9)
    assert slow["read_time_s"] == pytest.approx(2 * 320e-9 + 120e-9)
    assert alone["read_interval_s"] == alone["read_time_s"] == pytest.approx(2 * 145e-9)


def test_offset_tiles_convert_their_reference_too() -> None:
    tile = Tile(rows=128, columns=64, encoding="offset")
    row = layer_costs(fake_chip(c=fake_layer(placement=Placement.of(tile, 100, 63)))).iloc[0]
    assert row["read_time_s"] == pytest.approx(100e-9 + 64 / 1.28e9)


def test_schedule_of_a_chip() -> None:
    chip = fake_chip(conv=fake_layer(positions=100), fc=fake_layer(positions=1))
    conv, fc = layer_costs(chip)["stage_time_s"]
    run = schedule(chip, votes=5, voter=100e-9)
    assert run.names == ("conv", "fc", "voter")
    assert run.bottleneck == "conv"
    assert run.makespan_s == pytest.approx(conv + fc + 100e-9 + 4 * conv)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": None}, "'fc': .*calibrate="),
        ({"array_energy_j": None}, "'fc': .*calibrate="),
        ({"adc_bits": None}, r"'fc': adc\.bits is null"),
        ({"dac_bits": None}, r"'fc': dac\.bits is null"),
    ],
)
def test_cost_of_what_has_none_is_an_error(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer_costs(fake_chip(fc=fake_layer(**changes)))
    if "is null" in message:
        with pytest.raises(ValueError, match=message):
            schedule(fake_chip(fc=fake_layer(**changes)))


def test_mapped_network() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 3))
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    low, high = (
        layer_costs(mho.map(net, mho.Hardware.preset("reram").replace({"sensing.v_read": v}), calibrate=images))
        for v in (0.1, 0.2)
    )
    assert low["positions"].tolist() == [36, 1]
    assert np.allclose(high["energy_array_j"], 4 * low["energy_array_j"])
    others = ["stage_time_s", *(f"energy_{part}_j" for part in COMPONENTS if part != "array")]
    assert low[others].equals(high[others])
    assert (low[others] > 0).all(axis=None)


def test_chip_without_tiles_is_refused() -> None:
    with pytest.raises(ValueError, match="no layer"):
        schedule(fake_chip())


def test_areas_counted_by_hand() -> None:
    row = layer_costs(fake_chip(fc=fake_layer())).iloc[0]
    tiles, um2 = 4, 1e-12
    assert row["tiles"] == tiles
    assert row["operations"] == 2 * 10 * 200 * 40
    adc = np.exp(1.34619) * 32**0.99328 * 1.28e9**0.18072 * (1e12 * adc_energy(8, 1.28e9)) ** 0.29912
    assert row["area_array_m2"] == pytest.approx(tiles * 128 * 64 * 126 * 0.032**2 * um2)
    assert row["area_dac_m2"] == pytest.approx(tiles * 128 * (8 * 0.166 + 256 * 2.13) * um2)
    assert row["area_driver_m2"] == pytest.approx(tiles * (2 * 128 + 64) * 79 * um2)
    assert row["area_sense_m2"] == pytest.approx(tiles * 64 * 174 * um2)
    assert row["area_adc_m2"] == pytest.approx(tiles * adc * um2)
    assert row["area_digital_m2"] == pytest.approx((tiles * (30 + 128) + 840) * um2)
    assert row["area_buffer_m2"] == pytest.approx((tiles * (128 + 32) * 8 * 1.52 + 200 * 8 * 0.158) * um2)
    analog = sum(row[f"area_{part}_m2"] for part in ("array", "dac", "driver", "sense", "adc"))
    assert row["area_overhead_m2"] == pytest.approx(0.64 * analog)
    assert row["area_interconnect_m2"] == pytest.approx(tiles * 1331 * um2)
    assert row["area_m2"] == pytest.approx(sum(row[f"area_{part}_m2"] for part in AREAS))
    of_tile = 0.1 * adc_energy(8, 1.28e9) * 1.28e9 + 128 * 0.39e-6 + 64 * 0.97e-9 + 5.2e-6
    assert row["leakage_w"] == pytest.approx(tiles * of_tile + 92e-6 + 200 * 8 * 0.88e-9)


def test_adc_area_follows_the_scaled_table() -> None:
    """Accelergy's component library: ISAAC's ADC scaled after Saberi et al. 2011, um2."""
    table = {4: 361.04, 5: 476.91, 6: 626.91, 7: 845.18, 8: 1200, 9: 1827.91, 10: 3002.01}
    for bits, area in table.items():
        assert Cost(adc_area=1200e-12).converter_area(bits) == pytest.approx(area * 1e-12, rel=2e-3)


def test_given_powers_and_sizes_replace_what_is_computed() -> None:
    cost = Cost(array_power=0.3e-3, buffer_bits=1000, register_area=392e-12, adc_leakage=1e-3, adc_area=1200e-12)
    row = layer_costs(fake_chip(fc=fake_layer(cost=cost, pulses=8, bits_per_pulse=1))).iloc[0]
    assert row["energy_array_j"] == pytest.approx(10 * 4 * 8 * 30e-12)
    assert row["area_buffer_m2"] == pytest.approx(4 * (392 + 1000 * 0.158) * 1e-12)
    assert row["area_adc_m2"] == pytest.approx(4 * 1200e-12)
    assert row["leakage_w"] > 4e-3
