"""Quantities written as numbers or text, and the strict base of all configuration."""

import math

import pytest
from pydantic import TypeAdapter, ValidationError

from mho.devices import units
from mho.devices.config import Config


def parse(unit: str, value: object) -> float:
    return TypeAdapter(getattr(units, unit)).validate_python(value)


@pytest.mark.parametrize(
    ("unit", "text", "si"),
    [
        ("Siemens", "50 uS", 50e-6),
        ("Siemens", "50uS", 50e-6),
        ("Siemens", "50 µS", 50e-6),
        ("Siemens", "50 μS", 50e-6),
        ("Siemens", " 5e1  uS ", 50e-6),
        ("Siemens", "-1.5E+2 nS", -150e-9),
        ("Siemens", "1e-3", 1e-3),
        ("Siemens", ".5 mS", 0.5e-3),
        ("Hertz", "1 MHz", 1e6),
        ("Volt", "0.2 V", 0.2),
        ("Volt", "200 mV", 0.2),
        ("Ampere", "12.58037 nA", 12.58037e-9),
        ("Second", "100 ns", 100e-9),
        ("Second", "3 fs", 3e-15),
        ("Kelvin", "300 K", 300.0),
        ("Kelvin", "4 mK", 4e-3),
        ("Ohm", "10 kohm", 1e4),
        ("Ohm", "10 kΩ", 1e4),
        ("Joule", "1.6 pJ", 1.6e-12),
        ("Watt", "2 mW", 2e-3),
        ("Hertz", "1.28 GHz", 1.28e9),
        ("Farad", "30 fF", 30e-15),
        ("ElectronVolt", "1.1 eV", 1.1),
        ("SquareMetre", "1200 um2", 1200e-12),
        ("SquareMetre", "0.09 mm^2", 0.09e-6),
        ("SquareMetre", "2 m²", 2.0),
        ("AmperePerRootHertz", "10 pA/rtHz", 10e-12),
        ("AmperePerRootHertz", "10 pA/sqrt(Hz)", 10e-12),
        ("AmperePerRootHertz", "10 pA/√Hz", 10e-12),
    ],
)
def test_text_is_read_in_si(unit: str, text: str, si: float) -> None:
    assert parse(unit, text) == si


def test_text_gives_the_nearest_float() -> None:
    """50 * 1e-6 would be one bit off."""
    assert parse("Siemens", "50 uS") == float("50e-6") != 50 * 1e-6


@pytest.mark.parametrize("value", [3, 3.0, 0.0, -2.5])
def test_numbers_are_taken_as_si(value: float) -> None:
    assert parse("Volt", value) == value


@pytest.mark.parametrize(
    "value",
    [
        "5 A",
        "5 uV",
        "5 xS",
        "5 k",
        "5 us",
        "5 S S",
        "fifty uS",
        "",
        " ",
        "uS",
        "1,5 uS",
        "0x10",
        "1_000",
        "nan",
        "inf",
        "1e400 S",
        "1e99999 S",
        "5e S",
        True,
        None,
        [1.0],
        math.nan,
        math.inf,
        -math.inf,
        1j,
    ],
)
def test_anything_else_is_refused_and_named(value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        parse("Siemens", value)
    (error,) = caught.value.errors()
    assert "siemens" in error["msg"]
    assert repr(value) in error["msg"]
    assert "\n" not in error["msg"]


class Part(Config):
    g: units.Siemens
    fraction: float = 0.5


def test_a_configuration_reads_units_and_writes_si() -> None:
    part = Part.model_validate({"g": "50 uS"})
    assert part.model_dump(mode="json") == {"g": 5e-05, "fraction": 0.5}
    assert Part.model_validate(part.model_dump()) == part


@pytest.mark.parametrize("fields", [{"g": 1.0, "fraction": math.nan}, {"g": 1.0, "fraction": math.inf}])
def test_a_configuration_refuses_what_is_not_finite(fields: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="fraction"):
        Part.model_validate(fields)


def test_an_unknown_field_is_named_with_those_there_are() -> None:
    with pytest.raises(ValidationError, match="Part has no field gmax; its fields are g, fraction"):
        Part.model_validate({"g": 1.0, "gmax": 2.0})


def test_a_configuration_is_frozen() -> None:
    part = Part(g=1.0)
    with pytest.raises(ValidationError, match="frozen"):
        part.g = 2.0  # type: ignore[misc]
