"""Energy, time and area of converters by kind, and of circuits from node to node, worked out by hand."""

from __future__ import annotations

import math

import pytest

import mho
from mho.crossbar import nodes
from mho.crossbar.components import ADC_FLOOR, Cost, adc_energy
from mho.crossbar.conversion import (
    KINDS,
    adc_area,
    conversion_area,
    conversion_energy,
    conversion_time,
    decisions,
)


def test_decisions_of_four_bits() -> None:
    assert {kind: decisions(kind, 4) for kind in KINDS} == {"sar": 4, "cyclic": 4, "flash": 15, "ramp": 16, "cco": 16}


def test_times_of_eight_bits() -> None:
    """At 10 MS/s, or at 1 GHz a step."""
    times = {kind: conversion_time(kind, 8, 1e7, 1e9) for kind in KINDS}
    assert times == pytest.approx({"sar": 1e-7, "flash": 1e-7, "cyclic": 8e-9, "ramp": 256e-9, "cco": 256e-9})


def test_energies_of_eight_bits() -> None:
    """75 fJ a comparison, 12 gates of 0.5 fJ a count; one by successive approximation follows the survey."""
    law = adc_energy(8, 1e7)
    assert law == ADC_FLOOR * 256
    found = {kind: conversion_energy(kind, 8, 1e7, comparison=75e-15, gate=0.5e-15) for kind in KINDS}
    by_hand = {"sar": law, "cyclic": 0.6e-12, "flash": 19.125e-12, "ramp": 19.2e-12, "cco": 1.536e-12}
    assert found == pytest.approx(by_hand, rel=1e-12)


def test_no_kind_is_better_than_the_survey() -> None:
    for kind in KINDS:
        assert conversion_energy(kind, 10, 1e9, comparison=0.0, gate=0.0) == adc_energy(10, 1e9)


def test_areas() -> None:
    """ln A = 1.34619 + 0.99328 ln 32 + 0.18072 ln 1.2e9 + 0.29912 ln 2.55 is 8.84670: 6951 um2 for Kull's converter."""
    assert adc_area(1.2e9, 2.55e-12, 32e-9) == pytest.approx(6951e-12, rel=1e-3)
    sizes = {"comparator": 100e-12, "latch": 2e-12}
    found = {kind: conversion_area(kind, 4, 1e7, 1e-12, 32e-9, **sizes) for kind in KINDS}
    assert found["ramp"] == found["cyclic"] == pytest.approx(108e-12, rel=1e-12)
    assert found["flash"] == pytest.approx(1508e-12, rel=1e-12)
    assert found["sar"] == found["cco"] == adc_area(1e7, 1e-12)


@pytest.mark.parametrize(("bits", "rate"), [(0, 1e6), (8, 0.0), (8, math.nan)])
def test_impossible_converters_are_refused(bits: int, rate: float) -> None:
    for kind in KINDS:
        with pytest.raises(ValueError, match=r"bits|rate"):
            conversion_energy(kind, bits, rate, comparison=1e-15, gate=1e-15)
        with pytest.raises(ValueError, match=r"bits|rate"):
            conversion_area(kind, bits, rate, 1e-12, 32e-9, comparator=1e-12, latch=1e-12)
        with pytest.raises(ValueError, match=r"bits|rate"):
            conversion_time(kind, bits, rate, 1e9)


def test_nodes_by_the_published_tables() -> None:
    """Stillmaker and Baas 2017: 32 to 14 nm takes 0.38 of the area; energies a V^2 + b V + c of both nodes."""
    assert (nodes.digital_area(32e-9), nodes.digital_energy(32e-9, 0.9)) == (1.0, 1.0)
    assert nodes.digital_area(14e-9) == pytest.approx(0.38)
    assert nodes.digital_area(130e-9) == pytest.approx(14.0)
    here = 0.2363 * 0.64 - 0.09675 * 0.8 + 0.02239
    there = 0.9559 * 0.81 - 0.7823 * 0.9 + 0.471
    assert nodes.digital_energy(14e-9, 0.8) == pytest.approx(here / there)
    assert 0.38 < nodes.digital_area(15e-9) < 0.41
    assert nodes.analog_area(14e-9) == pytest.approx((14 / 32) ** 0.99328)
    assert nodes.analog_energy(1.8) == pytest.approx(4.0)


@pytest.mark.parametrize("node", [5e-9, 180e-9])
def test_nodes_outside_the_tables_are_refused(node: float) -> None:
    with pytest.raises(ValueError, match="node"):
        nodes.digital_area(node)
    with pytest.raises(ValueError, match="node"):
        Cost(node=node)


def test_a_supply_must_be_positive() -> None:
    with pytest.raises(ValueError, match="supply"):
        nodes.digital_energy(14e-9, 0.0)


def test_costs_at_their_own_node_are_the_defaults() -> None:
    assert Cost(node="32 nm", supply="0.9 V") == Cost()


def test_costs_at_another_node() -> None:
    """Digital, analog and wires each by their own law, and what is given as it is."""
    plain, scaled = Cost(), Cost(node="14 nm", supply="0.8 V", driver_area="5 um2")
    assert scaled.shift_add_area == pytest.approx(0.38 * plain.shift_add_area, rel=1e-12, abs=0)
    assert scaled.buffer_energy == pytest.approx(
        plain.buffer_energy * nodes.digital_energy(14e-9, 0.8), rel=1e-12, abs=0
    )
    assert scaled.sense_area == pytest.approx(plain.sense_area * (14 / 32) ** 0.99328, rel=1e-12, abs=0)
    assert scaled.comparison_energy == pytest.approx(plain.comparison_energy * (8 / 9) ** 2, rel=1e-12, abs=0)
    assert scaled.line_capacitance == pytest.approx(plain.line_capacitance * 14 / 32, rel=1e-12, abs=0)
    assert (scaled.driver_area, scaled.adc_rate, scaled.node, scaled.supply) == (5e-12, plain.adc_rate, 14e-9, 0.8)
    assert scaled.device_area() == pytest.approx(126 * (14e-9) ** 2, rel=1e-12, abs=0)


def test_costs_are_scaled_once() -> None:
    """Written and read again they stay, and a hardware of defaults that gets another node is scaled as well."""
    preset, fields = mho.Hardware.preset("reram"), {"cost.node": "14 nm", "cost.supply": 0.8}
    scaled = preset.replace(fields)
    assert scaled.cost == Cost(node=14e-9, supply=0.8)
    assert mho.Hardware.parse(scaled.dump(), "dump") == scaled
    assert scaled.replace({"adc.bits": 6}).cost == scaled.cost
    given = preset.replace(fields | {"cost.shift_add_area": "1 um2"})
    assert given.cost.shift_add_area == 1e-12


def test_inputs_by_their_coding() -> None:
    """8 bits: an amplitude has 256 levels, a pulse of one bit is an inverter, a width 16 latches and 256 steps."""
    cost = Cost()
    assert cost.input_area(8) == pytest.approx((8 * 0.166 + 256 * 2.13) * 1e-12)
    assert cost.input_area(1, "bit-serial") == pytest.approx(0.166e-12)
    assert cost.input_area(8, "time") == pytest.approx(16 * 1.52e-12)
    assert cost.pulse_energy(8, "time") == pytest.approx(256 * 0.481e-15)
    assert cost.line_energy(256) == pytest.approx((256 * 0.517e-15 + 11.8e-15) * 0.81)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"node": "3 nm"}, "node"),
        ({"supply": 0}, "supply"),
        ({"array_supply": -0.8}, "array_supply"),
        ({"cell": "3T1R"}, "cell"),
        ({"tiles": 0}, "tiles"),
        ({"tiles": 1.5}, "tiles"),
        ({"written_at_once": 0}, "written_at_once"),
        ({"write_time": "-1 us"}, "write_time"),
        ({"overhead": -0.1}, "overhead"),
        ({"adc_clock": 0}, "adc_clock"),
    ],
)
def test_impossible_costs_are_one_line(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Cost(**fields)
    assert "\n" not in str(error.value)
