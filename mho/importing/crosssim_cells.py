"""Cells as CrossSim describes them: generic errors, and those of four devices that were measured."""

from __future__ import annotations

import math
from typing import Any

from ..crossbar.hardware import Hardware
from .fields import Fields

AT = "xbar.device"
MICRO = 1e-6
DAY = 86400.0
SONOS_MAX = 16 * MICRO  # siemens, 1.6 uA at 0.1 V

POLYNOMIALS = {
    "PCMJoshi": ([0.28638599, 0.07585724, -0.00178767], None, "Joshi et al. 2020, Nat. Commun. 11:2473, Fig. 3b"),
    "RRAMWan": ([1.053, 0.2374, -0.01167, 1.536e-4], None, "Wan et al. 2022, Nature 608:504, Extended Data Fig. 3"),
    "RRAMMilo": ([4.782321, -0.009107], 225 * MICRO, "Milo et al. 2021, IRPS, Fig. 4"),
}
"""std in uS against g in uS; what 1 / Rmin stands for (None: itself); the source of the fit."""


OURS = {
    "programming_error": "cell.programming",
    "read_noise": "cell.read_noise",
    "drift_error": "cell.drift",
    "nonlinear_IV": "cell.nonlinearity",
}


def cells(fields: Fields) -> None:
    """Settings of the cell."""
    r_min, r_max = fields.number(f"{AT}.Rmin", 1e-3, 1e15), fields.number(f"{AT}.Rmax", 1e-3, open_end=True)
    if r_min >= r_max:
        raise ValueError(f"{fields.peer}: {AT}.Rmin must be below Rmax = {r_max:g} ohm, got {r_min:g} ohm")
    infinite = fields.flag(f"{AT}.infinite_on_off_ratio")
    fields.set(f"{AT}.Rmin", "cell.g_max", 1 / r_min, "1 / Rmin", unit="S")
    tiny = infinite or 1 / r_max < 1e-15
    fields.set(
        f"{AT}.Rmax", "cell.g_min", 0.0 if tiny else 1 / r_max, "no current at all" if tiny else "1 / Rmax", unit="S"
    )
    fields.say(f"{AT}.infinite_on_off_ratio", "taken", "cell.g_min")
    bits = fields.whole(f"{AT}.cell_bits", 0, 16)
    if bits:
        fields.set(f"{AT}.cell_bits", "cell.levels", 2**bits)
    else:
        fields.say(f"{AT}.cell_bits", "taken", "cell.levels = null")
    _programming(fields)
    _read_noise(fields)
    _drift(fields)
    _law(fields)
    clipped = fields.flag(f"{AT}.clip_conductance") and f"{AT}.programming_error" in _enabled(fields)
    fields.missing_if(f"{AT}.clip_conductance", clipped, "errors beyond the range are cut off there, below 0 S here")


def _enabled(fields: Fields) -> list[str]:
    names = ("programming_error", "read_noise", "drift_error", "nonlinear_IV")
    return [f"{AT}.{name}" for name in names if fields.flag(f"{AT}.{name}.enable")]


def _model(fields: Fields, name: str) -> str | None:
    """The model of an error; None where it is off."""
    at = f"{AT}.{name}"
    model = str(fields.value(f"{at}.model"))
    if at in _enabled(fields) and model != "IdealDevice":
        fields.say(f"{at}.enable", "taken", OURS[name])
        return model
    fields.rest(at, "off")
    return None


def _generic(fields: Fields, name: str, model: str) -> tuple[str, float, str] | None:
    """Law of a generic error (constant, relative), its standard deviation in units of g_max or g, and a note."""
    laws = {"IndependentDevice": "constant", "ProportionalDevice": "relative"}
    shape = "Normal" if model.startswith("Normal") else "Uniform"
    law = laws.get(model.removeprefix(shape))
    if law is None:
        return None
    size = fields.number(f"{AT}.{name}.magnitude", 0)
    if shape == "Normal":
        return law, size, ""
    return law, size / math.sqrt(12), "uniform there, normal of the same standard deviation here"


def _programming(fields: Fields) -> None:
    name, theirs = "programming_error", f"{AT}.programming_error.model"
    model = _model(fields, name)
    if model is None:
        return
    g_max = fields.settings["cell.g_max"]
    generic = _generic(fields, name, model)
    if generic is not None:
        law, size, note = generic
        std = [size * g_max] if law == "constant" else [0.0, size * g_max]
        part = {"kind": "polynomial", "coefficients": std, "g_ref": g_max}
        said = note or f"std {size:g} of {'g_max' if law == 'constant' else 'g'}"
        fields.set(theirs, "cell.programming", part, said, exact=not note)
        fields.say(f"{AT}.{name}.magnitude", "taken", "of cell.programming")
    elif model in POLYNOMIALS:
        coefficients, full, source = POLYNOMIALS[model]
        scale = 1.0 if full is None else g_max / full
        part = {"kind": "polynomial", "coefficients": [c * MICRO * scale for c in coefficients], "g_ref": MICRO * scale}
        fields.set(theirs, "cell.programming", part, source)
    elif model == "SONOS":
        scale = g_max / SONOS_MAX
        part = {"kind": "saturating", "s_max": 0.1988665e-6 * scale, "g_0": 1.763115e-6 * scale}
        fields.set(theirs, "cell.programming", part, "Agrawal et al. 2022, IEDM 21.7, Fig. 10a")
    else:
        fields.say(theirs, "missing", note="a device of its own: add it as docs/devices.md tells")
    fields.rest(f"{AT}.{name}", "off")


def _read_noise(fields: Fields) -> None:
    name, theirs = "read_noise", f"{AT}.read_noise.model"
    model = _model(fields, name)
    if model is None:
        return
    g_max = fields.settings["cell.g_max"]
    generic = _generic(fields, name, model)
    if generic is not None:
        law, size, note = generic
        part: dict[str, Any] = {"kind": "relative", "fraction": size}
        if law == "constant":
            part = {"kind": "constant", "std_g": size * g_max}
        fields.set(theirs, "cell.read_noise", part, note, exact=not note)
        fields.say(f"{AT}.{name}.magnitude", "taken", "of cell.read_noise")
    elif model == "SONOS":
        full = g_max * fields.settings["sensing.v_read"] / 1600.0  # of a nanoampere there, in amperes
        part = {"kind": "saturating", "i_max": 12.58037 * full, "i_0": 215.36557 * full}
        fields.set(theirs, "cell.read_noise", part, "Agrawal et al. 2022, IEDM 21.7, Fig. 11b")
    else:
        fields.say(theirs, "missing", note="no read noise here")
    fields.rest(f"{AT}.{name}", "off")


def _drift(fields: Fields) -> None:
    theirs, time = f"{AT}.drift_error.model", fields.number(f"{AT}.time", 0)
    model = _model(fields, "drift_error")
    if model == "SONOS":
        table = Hardware.preset("nand").cell.drift.model_dump()
        table = {key: value for key, value in table.items() if key != "data"}
        note = "Agrawal et al. 2022, IEDM 21.7, Fig. 10; variance of the spread taken apart from that of programming"
        fields.set(theirs, "cell.drift", {**table, "g_ref": fields.settings["cell.g_max"]}, note, exact=False)
        fields.set(f"{AT}.time", "time_s", time * DAY, "days there", unit="s")
        if fields.settings.get("cell.programming", {}).get("kind") != "saturating":
            fields.say(f"{AT}.programming_error.model", "missing", note="errors of drift include those of programming")
    elif model is not None:
        fields.say(theirs, "missing", note="no drift here")
        fields.missing_if(f"{AT}.time", time > 0, "time of its drift")
    fields.say(f"{AT}.time", "off")
    fields.rest(f"{AT}.drift_error", "off")


def _law(fields: Fields) -> None:
    model = _model(fields, "nonlinear_IV")
    if model is not None:
        fields.rest(f"{AT}.nonlinear_IV", "missing", "cells obey Ohm's law here: see cell.nonlinearity")
