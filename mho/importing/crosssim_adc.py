"""ADCs as CrossSim describes them."""

from __future__ import annotations

from typing import Any

from ..crossbar.converters import MOST_BITS
from .fields import Fields

AT = "xbar.adc.mvm"
LIMITS = {"CALIBRATED": 1, "MAX": 2, "GRANULAR": 3}
KINDS = {"RampADC": "ramp", "SarADC": "sar", "CyclicADC": "cyclic", "PipelineADC": "cyclic"}
STEPS = {"QuantizerADC", "SignMagnitudeADC"}


def adc(fields: Fields) -> None:
    """Settings of the ADCs."""
    model, bits = str(fields.value(f"{AT}.model")), fields.whole(f"{AT}.bits", 0, 24)
    if model == "IdealADC" or not bits:
        fields.rest(AT, "off")
        fields.say(f"{AT}.bits", "off")
        return
    if model not in KINDS and model not in STEPS:
        fields.say(f"{AT}.model", "missing", note="an ADC of its own; equal steps here")
    fields.set(f"{AT}.bits", "adc.bits", bits)
    mid_rise, stretch = _transfer(fields, model, bits)
    fields.settings["adc.transfer"] = "mid_rise" if mid_rise else "mid_tread"
    _full_scale(fields, bits, mid_rise=mid_rise, stretch=stretch)
    _circuit(fields, model, bits)
    fields.missing_if(f"{AT}.stochastic_rounding", fields.flag(f"{AT}.stochastic_rounding"), "rounded at random")
    fields.say(f"{AT}.signed", "taken", "", "the sign of currents follows from the encoding here")
    fields.say(f"{AT}.adc_per_ibit", "off")
    fields.rest(AT, "missing", "of its ADC")


def _transfer(fields: Fields, model: str, bits: int) -> tuple[bool, float]:
    """Whether levels are in the middle of intervals, and what the range grows by so that the outermost are at its ends.

    A quantiser has 2^b levels, both ends included. About 0 these are those of `mid_rise` of a range that is half a step
    wider on each side; from 0 on they are those of `mid_tread`.
    """
    if model in KINDS:
        return True, 1.0
    signed = fields.settings["tile.encoding"] != "single" and fields.flag(f"{AT}.signed")
    if model == "QuantizerADC" and signed:
        return True, 2**bits / (2**bits - 1)
    return False, 1.0


def _full_scale(fields: Fields, bits: int, *, mid_rise: bool, stretch: float) -> None:
    option, theirs = fields.choice(f"{AT}.adc_range_option", LIMITS), f"{AT}.calibrated_range"
    unit = fields.settings["cell.g_max"] * fields.settings["sensing.v_read"]
    given = fields.value(theirs) or None
    if option == "GRANULAR" and fields.settings.get("cell.levels"):
        swing = fields.settings["cell.g_max"] - fields.settings["cell.g_min"]
        step = swing / (fields.settings["cell.levels"] - 1) * fields.settings["sensing.v_read"]
        full = step * (2 ** (bits - 1) if mid_rise else 2 ** (bits - 1) - 1)
        note = "a step is one level of a cell at v_read"
        fields.set(f"{AT}.adc_range_option", "adc.full_scale", full, note, unit="A")
    elif option == "CALIBRATED" and given is not None:
        low, high, alike = _ends(fields, theirs)
        largest = max(abs(low), abs(high))
        even = alike and (low in (0.0, -high))
        note = f"{largest:g} g_max v_read" + ("" if even else f", symmetric here, from {low:g} to {high:g} there")
        note += "" if alike else ", and the largest of those of all slices"
        fields.set(theirs, "adc.full_scale", largest * stretch * unit, note, exact=even, unit="A")
        fields.say(f"{AT}.adc_range_option", "taken", "adc.full_scale")
    else:
        notes = {
            "MAX": "the largest current that a layer can have there, of its calibration inputs here",
            "GRANULAR": "needs levels of cells",
            "CALIBRATED": "no range is given: calibrated by mho.map",
        }
        fields.set(f"{AT}.adc_range_option", "adc.full_scale", "calibrated", notes[option], exact=False)
    fields.say(theirs, "off")


def _ends(fields: Fields, theirs: str) -> tuple[float, float, bool]:
    """Lowest and highest value of the ranges, one or one for each slice, and whether they are alike."""
    given: Any = fields.value(theirs)
    ranges = given if isinstance(given, list) and given and isinstance(given[0], list) else [given]
    pairs = []
    for pair in ranges:
        good = isinstance(pair, list) and len(pair) == 2
        if not good or not all(isinstance(x, int | float) and not isinstance(x, bool) for x in pair):
            raise ValueError(f"{fields.peer}: {theirs} must be two numbers, or two for each slice, got {given!r}"[:300])
        low, high = map(float, pair)
        if not -1e9 < low < high < 1e9:
            raise ValueError(f"{fields.peer}: {theirs} must rise, got {low:g} and {high:g}")
        pairs.append((low, high))
    widest = max(pairs, key=lambda pair: max(map(abs, pair)))
    return *widest, len(set(pairs)) == 1


def _circuit(fields: Fields, model: str, bits: int) -> None:
    kind, theirs = KINDS.get(model), f"{AT}.model"
    offset = fields.number(f"{AT}.sigma_comparator", 0) if fields.has(f"{AT}.sigma_comparator") else 0.0
    sizes = {
        name: fields.number(f"{AT}.{name}", 0)
        for name in ("sigma_capacitor", "sigma_C1", "sigma_C2", "sigma_Cpar")
        if fields.has(f"{AT}.{name}")
    }
    if kind is None:
        fields.say(theirs, "taken", f"adc.transfer = {fields.settings['adc.transfer']}")
        return
    if bits > MOST_BITS:
        fields.say(theirs, "approximated", "adc.transfer = mid_rise", f"equal steps beyond {MOST_BITS} bits")
        for name, size in {**sizes, "sigma_comparator": offset}.items():
            fields.missing_if(f"{AT}.{name}", size > 0, "errors of its elements")
    else:
        mismatch = _mismatch(fields, kind, sizes)
        part = {"kind": kind, **({"mismatch": mismatch} if mismatch else {})}
        fields.set(
            theirs,
            "adc.kind",
            part,
            "a pipeline has a stage for each bit" if model == "PipelineADC" else "",
            exact=model != "PipelineADC",
        )
        if offset:
            # one offset for each converter, in units of half the range there
            fields.set(
                f"{AT}.sigma_comparator",
                "adc.offset",
                offset * 2 ** (bits - 1),
                "for each ADC here",
                exact=model == "RampADC",
                unit="LSB",
            )
    for name in ("symmetric_cdac", "split_cdac", "group_size"):
        fields.rest(
            f"{AT}.{name}",
            "approximated" if any(sizes.values()) or offset else "off",
            "each ADC has errors of its own here",
        )
    if fields.has(f"{AT}.gain_db"):
        gain = fields.number(f"{AT}.gain_db", 0)
        fields.missing_if(f"{AT}.gain_db", gain < 6.02 * bits + 20, "finite gain of its amplifier")
    for name in (*sizes, "sigma_comparator"):
        if fields.has(f"{AT}.{name}"):
            fields.say(f"{AT}.{name}", "off")


def _mismatch(fields: Fields, kind: str, sizes: dict[str, float]) -> float:
    """Of the elements of a SAR or cyclic ADC; what has none here is said."""
    if kind == "ramp":
        fields.missing_if(f"{AT}.sigma_capacitor", sizes.get("sigma_capacitor", 0) > 0, "capacitors of the ramp")
        return 0.0
    names = ("sigma_capacitor",) if kind == "sar" else ("sigma_C1", "sigma_C2")
    # the gain of a stage is 1 + C1 / C2: half of the relative error of the ratio
    total = sum(sizes.get(name, 0.0) ** 2 for name in names) ** 0.5 * (1.0 if kind == "sar" else 0.5)
    if total > 0.3:
        raise ValueError(f"{fields.peer}: {AT}.{names[0]} must be a mismatch of at most 0.3 here, got {total:g}")
    for name in names:
        if sizes.get(name, 0) > 0:
            fields.say(f"{AT}.{name}", "approximated", f"adc.kind.mismatch = {total:g}", "a law of its own here")
    fields.missing_if(
        f"{AT}.sigma_Cpar", sizes.get("sigma_Cpar", 0) > 0, "parasitic capacitor"
    ) if kind == "cyclic" else 0
    return total
