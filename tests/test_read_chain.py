"""Time, energy and area of reads that are composed otherwise, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_cost import fake_chip, fake_layer

from mho.crossbar.components import Cost
from mho.crossbar.lines import Wires
from mho.crossbar.placement import Placement
from mho.crossbar.tile import Tile
from mho.mapping.architecture.cost import Demand, demands
from mho.mapping.architecture.read_chain import Chain

PLAIN = Chain()


def demand(chain: Chain | None = None, **fields: object) -> Demand:
    """200 word lines by 40 outputs on pairs: 2 row tiles, 2 column tiles of 32 and 8 outputs; 10 positions."""
    return replace(demands(fake_chip(fc=fake_layer(**fields)))["fc"], composed=chain)


def close(value: float, rel: float = 1e-12) -> object:
    return pytest.approx(value, rel=rel, abs=0)


def test_a_hardware_says_how_its_inputs_are_coded() -> None:
    assert demand().chain == PLAIN
    assert demand(bits_per_pulse=1).chain == Chain(inputs="bit-serial")


def test_phases_take_their_time_and_conversions() -> None:
    one, four = demand(PLAIN), demand(Chain(phases=4))
    assert four.times.interval_s == close(4 * one.times.interval_s)
    for part in ("dac", "driver", "sense", "adc"):
        assert four.energy()[part] == close(4 * one.energy()[part])
    assert four.area() == one.area()


def test_one_conversion_after_all_pulses() -> None:
    each, once = (demand(chain, pulses=8, bits_per_pulse=1) for chain in (PLAIN, Chain(accumulates=True)))
    assert each.energy()["adc"] == close(8 * once.energy()["adc"])
    assert each.energy()["sense"] == close(once.energy()["sense"])
    assert once.times.interval_s == close(8 * 100e-9)  # 25 ns of conversions are hidden
    alone = demand(Chain(accumulates=True), pulses=8, cost=Cost(overlap=False))
    assert alone.times.interval_s == close(8 * 100e-9 + 32 / 1.28e9)


def test_polarities_apart_are_converted_twice() -> None:
    one, two = demand(PLAIN), demand(Chain(polarities=2))
    assert two.energy()["adc"] == close(2 * one.energy()["adc"])
    assert two.times.fill_s == close(2 * one.times.fill_s)


def test_columns_of_a_converter_are_its_turns() -> None:
    """32 readings of a full tile by ramps of 256 steps: 4 a converter are 8 converters and 4 turns."""
    found = demand(Chain(converter="ramp", columns=4), cost=Cost(adc_clock=1e9, overlap=False))
    assert found.times.interval_s == close(100e-9 + 4 * 256e-9)
    assert found.area()["adc"] == close(4 * 8 * (99.5 + 8 * 1.52) * 1e-12)
    assert found.area()["digital"] == close((4 * 8 * (30 + 128) + 840) * 1e-12)
    assert found.energy()["adc"] == close(10 * 80 * 256 * 75e-15)


def test_an_oscillator_counts_while_the_current_flows() -> None:
    """256 counts at 2 GHz fit into 128 ns of 130; at 1 GHz they are what takes longest."""
    cost = {"drive_time": 2e-9, "adc_rate": 1e6}
    for clock, interval in ((2e9, 130e-9), (1e9, 256e-9)):
        found = demand(Chain(converter="cco", columns=1), t_read=128e-9, cost=Cost(adc_clock=clock, **cost))
        assert (found.times.fill_s, found.times.interval_s) == (0.0, close(interval))
    assert found.energy()["adc"] == close(10 * 80 * 256 * 12 * 0.481e-15)
    plain = demand(Chain(columns=1), t_read=256e-9)
    held = 10 * 80 * 2 * 9.7e-9 * (found.times.interval_s - plain.times.interval_s)
    copy = 10 * 5e-12 * 0.9 / 0.2  # the charge once more, from the supply
    assert found.energy()["sense"] - plain.energy()["sense"] - held == close(copy)


def test_currents_through_regulators_are_drawn_from_the_supply() -> None:
    rails, regulated = demand(), demand(cost=Cost(array_supply=0.8))
    assert rails.energy()["array"] == close(10 * 5e-12)
    assert regulated.energy()["array"] == close(10 * 5e-12 * 0.8 / 0.2)


def test_widths_of_pulses() -> None:
    found = demand(Chain(inputs="time"))
    assert found.energy()["dac"] == close(10 * 200 * 2 * 256 * 0.481e-15)
    assert found.area()["dac"] == close(4 * 128 * 16 * 1.52e-12)


def test_devices_of_a_cell_take_room_lines_and_charge() -> None:
    one, four = demand(PLAIN), demand(Chain(devices=4))
    assert four.area()["array"] == close(4 * one.area()["array"])
    assert one.area()["driver"] == close(4 * (2 * 128 + 64) * 79e-12)
    assert four.area()["driver"] == close(4 * (5 * 128 + 64) * 79e-12)
    assert four.energy()["driver"] == close(10 * 200 * 2 * (256 * 0.517e-15 + 11.8e-15) * 0.81)


def test_pairs_on_one_bit_line_have_half_the_bit_lines() -> None:
    tile = Tile(rows=128, columns=64, encoding="differential")
    found = demand(placement=Placement.of(tile, 200, 40), wires=Wires(pairs="shared"))
    assert found.area()["driver"] == close(4 * (2 * 2 * 128 + 32) * 79e-12)


def test_all_parts_add_up() -> None:
    area = demand(Chain(inputs="time", phases=4, converter="cco", columns=1, polarities=2, devices=4)).area()
    analog = sum(area[part] for part in ("dac", "driver", "array", "sense", "adc"))
    assert area["overhead"] == close(0.64 * analog)
    assert all(size > 0 for size in area.values())
