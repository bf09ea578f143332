"""Cells as aihwkit's noise models and conductance converters describe them."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from .fields import Fields

MICRO = 1e-6
YEAR = 365.25 * 86400
GRID = (0.0, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
TIMES = (1.0, 10.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0, 604800.0, 2592000.0, YEAR)
Array = np.ndarray[Any, Any]

WAN = {
    "1.0": [0.348, 16.030, -43.853, 45.393, -16.815],
    "86400.0": [0.701, 22.086, -50.773, 47.095, -16.458],
    "172800.0": [0.782, 20.274, -43.507, 37.062, -11.934],
}
"""uS against g / g_max: fits of aihwkit to Wan et al. 2022 (Nature 608:504)."""


def cells(fields: Fields, t_read: float) -> None:
    """Settings of the cell from `noise_model` and `drift_compensation`."""
    name = fields.given.get("noise_model.class")
    usual = str(fields.given.get("class", "InferenceRPUConfig")).removeprefix("Quantized").removeprefix("Torch")
    if not fields.has("noise_model") and usual.startswith("InferenceRPUConfig"):
        name = "PCMLikeNoiseModel"
    if fields.given.get("noise_model", "") is None or (not fields.has("noise_model") and name is None):
        _without(fields, t_read)
    elif not isinstance(name, str):
        raise ValueError(
            f"{fields.peer}: noise_model.class is needed, one of {', '.join(MODELS)}, or pass the configuration itself"
        )
    else:
        known = name in MODELS
        fields.say("noise_model.class", "taken" if known else "missing", note="" if known else _UNKNOWN)
        _converter(fields, name)
        if known:
            MODELS[name](fields)
        else:
            fields.rest("noise_model", "missing", _UNKNOWN)
        if "sensing.t_read" not in fields.settings:
            fields.assume("sensing.t_read", t_read, "as long as its PCM cells are read", "s")
    _compensation(fields)


_UNKNOWN = "a noise model of its own: cells without errors here; add a cell as docs/devices.md tells"


def _without(fields: Fields, t_read: float) -> None:
    fields.assume("cell.g_max", 25 * MICRO, "it cancels without a noise model", "S")
    fields.assume("cell.g_min", 0.0, "the converter's default", "S")
    fields.assume("sensing.t_read", t_read, "as long as its PCM cells are read", "s")
    if "noise_model" in fields.given:
        fields.say("noise_model", "taken", "cell without errors")


def _converter(fields: Fields, model: str) -> None:
    at = "noise_model.g_converter"
    single = fields.given.get(f"{at}.class") == "SingleDeviceConductanceConverter" or model == "ReRamCMONoiseModel"
    usual = {"HermesNoiseModel": 20.7, "ReRamWan2022NoiseModel": 25.0}.get(model, 88.199997 if single else 25.0)
    fields.defaults = {
        **fields.defaults,
        f"{at}.g_max": fields.given.get("noise_model.g_max") or usual,
        f"{at}.g_min": fields.given.get("noise_model.g_min") or (9.0 if single else 0.0),
    }
    g_max, g_min = fields.number(f"{at}.g_max", 1e-6, 1e6), fields.number(f"{at}.g_min", 0, 1e6)
    if g_min >= g_max:
        raise ValueError(f"{fields.peer}: {at}.g_min must be below g_max = {g_max:g} uS, got {g_min:g} uS")
    fields.set(f"{at}.g_max", "cell.g_max", g_max * MICRO, "uS there", unit="S")
    fields.set(f"{at}.g_min", "cell.g_min", g_min * MICRO, "uS there", unit="S")
    fields.rest("noise_model.g_max", "taken", "of cell.g_max")
    fields.rest("noise_model.g_min", "taken", "of cell.g_min")
    kind = fields.given.get(f"{at}.class", "SinglePairConductanceConverter")
    theirs = f"{at}.class"
    if single:
        fields.settings["tile.columns"] = fields.settings["tile.columns"] // 2
        note = "one cell a weight there, from the smallest to the largest; here around the middle of the range"
        fields.set(theirs, "tile.encoding", "offset", note, exact=False)
    elif kind == "SinglePairConductanceConverter":
        fields.set(theirs, "tile.encoding", "differential")
    elif kind in ("NPairConductanceConverter", "DualPairConductanceConverter"):
        _pairs(fields, theirs)
    else:
        fields.say(theirs, "missing", note="weights sit in one differential pair here")
        fields.rest(at, "missing", "of the converter")
    fields.rest(at, "aside")


def _pairs(fields: Fields, theirs: str) -> None:
    at = "noise_model.g_converter.f_lst"
    factors = fields.numbers(at)
    ratios = [b / a for a, b in pairwise(factors)] if min(factors) > 0 else []
    if len(factors) == 1:
        fields.set(theirs, "tile.encoding", "differential")
        fields.say(at, "taken", "one pair")
    elif len(ratios) == len(factors) - 1 and all(1 <= ratio <= 1000 for ratio in ratios) and len(factors) <= 16:
        fields.settings |= {"tile.slicing": "shares", "tile.significance": ratios}
        fields.set(theirs, "tile.encoding", "differential")
        fields.set(
            at,
            "tile.slices",
            len(factors),
            "pairs are filled one after another there, all alike here (tile.slicing = shares)",
            exact=False,
        )
        fields.settings["tile.columns"] = min(fields.settings["tile.columns"] * len(factors), 65536)
    else:
        fields.set(theirs, "tile.encoding", "differential", "one pair here", exact=False)
        fields.say(at, "missing", note="pairs that count less than the ones before them")


def _compensation(fields: Fields) -> None:
    at = "drift_compensation"
    if not fields.has(at) or fields.given.get(at, "") is None:
        fields.rest(at, "off")
        return
    kind = fields.given.get(f"{at}.class", fields.given.get(at))
    call = "chip.at(t, drift_compensation=True)"
    if str(kind).startswith("GlobalDriftCompensation"):
        fields.rest(at, "approximated", "one factor for each tile there; here ask for it: " + call)
    else:
        fields.rest(at, "missing", f"no setting; {call}, or chip.recalibrate(x) for gains of columns")


def _at(fields: Fields, name: str, default: float, low: float = 0.0) -> float:
    """A number of the noise model, which an object has and a short dict may leave out."""
    path = f"noise_model.{name}"
    if path not in fields.given or fields.given[path] is None:
        fields.defaults = {**fields.defaults, path: default}
        if path in fields.given:
            return default
    return fields.number(path, low)


def _programming(fields: Fields, default: list[float], reference: float, name: str = "prog_coeff") -> None:
    """std = sum_k c_k (g / g_max)^k in uS, scaled."""
    path = f"noise_model.{name}"
    fields.defaults = {**fields.defaults, path: default}
    given = fields.given.get(path) is not None
    coefficients = fields.numbers(path) if given else default
    g_max = fields.settings["cell.g_max"] / MICRO
    usual = g_max if given and coefficients != default else reference
    of = _at(fields, "prog_coeff_g_max_reference", usual, 1e-6) if reference else g_max
    scale = _at(fields, "prog_noise_scale", 1.0) * g_max / of
    if scale == 0 or not any(coefficients):
        fields.say(path, "off")
        fields.rest("noise_model.prog_noise_scale", "off")
    else:
        std = {"kind": "polynomial", "coefficients": [c * scale * MICRO for c in coefficients], "g_ref": g_max * MICRO}
        fields.set(path, "cell.programming", std, "std in uS against g / g_max there")
        fields.rest("noise_model.prog_noise_scale", "taken", "a factor of cell.programming")
    fields.rest("noise_model.prog_coeff_g_max_reference", "taken", "a factor of cell.programming")


def _times(fields: Fields, t_0: float, t_read: float) -> float:
    t_0, t_read = _at(fields, "t_0", t_0, 1e-9), _at(fields, "t_read", t_read, 1e-12)
    fields.say("noise_model.t_0", "taken", f"cell.drift.t_0 = {t_0:g} s")
    fields.set("noise_model.t_read", "sensing.t_read", t_read, unit="s")
    return t_0


def _drift(fields: Fields, t_0: float, scale: float, mean: dict[str, float], spread: dict[str, float]) -> None:
    """nu = scale (mean(x) + spread(x) n), each a + b ln x between two limits."""
    theirs = "noise_model.drift_scale"
    if not scale:
        fields.say(theirs, "off")
        return
    model = {
        "kind": "power_law",
        "t_0": t_0,
        "g_ref": fields.settings["cell.g_max"],
        "mean": {key: value * scale for key, value in mean.items()},
        "spread": {key: value * scale for key, value in spread.items()},
    }
    note = "exponents go by the conductance that was programmed here, by the target there"
    fields.set(theirs, "cell.drift", model, note, exact=False)


def _read_noise(fields: Fields, t_0: float, scale: float, noise: dict[str, float], more: str = "") -> None:
    theirs = "noise_model.read_noise_scale"
    if not scale:
        fields.say(theirs, "off")
        return
    model = {"kind": "pcm", "t_0": t_0, "g_ref": fields.settings["cell.g_max"], **noise}
    model["coefficient"], model["maximum"] = noise["coefficient"] * scale, noise["maximum"] * scale
    note = "drawn anew in each read here, once for each time that drift is asked for there"
    if model["exponent"]:
        note += "; by the conductance that is read here, by the programmed one there, so that it is larger after drift"
    fields.set(theirs, "cell.read_noise", model, note + more, exact=False)


def _pcm(fields: Fields) -> None:
    t_0 = _pcm_but_drift(fields)
    mean = {"offset": 0.0244, "slope": -0.0155, "low": 0.049, "high": 0.1}
    spread = {"offset": -0.0059, "slope": -0.0125, "low": 0.008, "high": 0.045}
    _drift(fields, t_0, _at(fields, "drift_scale", 1.0), mean, spread)


def _pcm_but_drift(fields: Fields) -> float:
    _programming(fields, [0.26348, 1.9650, -1.1731], 25.0)
    t_0 = _times(fields, 20.0, 250e-9)
    noise = {"coefficient": 0.0088, "exponent": 0.65, "maximum": 0.2}
    _read_noise(fields, t_0, _at(fields, "read_noise_scale", 1.0), noise)
    return t_0


def _own_drift(fields: Fields) -> None:
    at = "noise_model.custom_drift_model"
    scale, g_max = _at(fields, "drift_scale", 1.0), fields.settings["cell.g_max"] / MICRO
    g, mean, std = (np.array(fields.numbers(f"{at}.{name}", 2)) for name in ("g_lst", "nu_mean_lst", "nu_std_lst"))
    if not len(g) == len(mean) == len(std) or (np.diff(g) <= 0).any():
        raise ValueError(f"{fields.peer}: {at} must have three lists of one length, g_lst rising")
    t_0 = _pcm_but_drift(fields)

    def nu(x: Array) -> tuple[Array, Array]:
        return scale * np.interp(x * g_max, g, mean), scale * np.interp(x * g_max, g, std)

    _tabulated(fields, f"{at}.nu_mean_lst", t_0, nu)
    for name in ("noise_model.drift_scale", f"{at}.g_lst", f"{at}.nu_std_lst"):
        fields.say(name, "approximated", "cell.drift")


def _tabulated(fields: Fields, theirs: str, t_0: float, nu: Callable[[Array], tuple[Array, Array]]) -> None:
    """Drift as a table of times: mean and spread of (1 + t / t_0)^-|nu|, with nu normal."""
    x = np.array(GRID)
    mean, std = nu(x)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    exponents, weights = np.abs(mean + std * nodes[:, None]), weights[:, None] / weights.sum()
    shifts, spreads = [], []
    for t in TIMES:
        left = (1 + t / t_0) ** -exponents
        average = (weights * left).sum(0)
        variance = np.maximum((weights * left**2).sum(0) - average**2, 0)
        shifts.append((x * (average - 1)).tolist())
        spreads.append((x * np.sqrt(variance)).tolist())
    times = {"kind": "relaxation", "t_0": t_0, "g_ref": fields.settings["cell.g_max"], "times": list(TIMES)}
    table = {**times, "conductances": list(GRID), "shift": shifts, "std": spreads}
    fields.set(theirs, "cell.drift", table, "as a table of times up to a year", exact=False)


def _hermes(fields: Fields) -> None:
    """Le Gallo et al. 2023 (Nat. Electron. 6:680), in the fits that aihwkit publishes."""
    pairs = int(_at(fields, "num_devices", 2))
    if pairs not in (1, 2):
        raise ValueError(f"{fields.peer}: noise_model.num_devices must be 1 or 2, got {pairs}")
    note = "one cell a polarity of the fit to two there" if pairs == 2 else ""
    fields.say("noise_model.num_devices", "taken", "which fit", note)
    two = [0.16603222, 4.71806468, -8.48101252, 4.68961419], 20.7, 300.0
    one = [0.15781817, 2.32443916, -2.16310839, 0.68841818], 10.35, 200.0
    coefficients, reference, rest = two if pairs == 2 else one
    _programming(fields, coefficients, reference)
    t_0 = _times(fields, rest, 512e-9)
    scale = _at(fields, "drift_scale", 1.0)
    if scale:
        _tabulated(fields, "noise_model.drift_scale", t_0, lambda x: _hermes_nu(x, pairs, scale))
    else:
        fields.say("noise_model.drift_scale", "off")
    of_two = {"coefficient": 0.01416, "exponent": 0.1393, "maximum": 0.04}
    of_one = {"coefficient": 0.01826, "exponent": 0.0958, "maximum": 0.04}
    more = "; Q is a power of g here, within 25 % of the fit there from 0.05 g_max up"
    _read_noise(fields, t_0, _at(fields, "read_noise_scale", 1.0), of_two if pairs == 2 else of_one, more)


def _hermes_nu(x: Array, pairs: int, scale: float) -> tuple[Array, Array]:
    low = np.log(np.maximum(x, 1e-7))
    mean = np.where(x < 0.0945, np.clip(-0.0387 * low - 0.0182, 0.072, 0.13), np.polyval([-0.0436, -0.0126, 0.0736], x))
    if pairs == 1:
        high = np.polyval([-0.0165, 0.0116, 0.0104], x)
        std = np.where(x < 0.3039, np.clip(-0.0120 * low - 0.0023, 0.0124, 0.04), high)
    else:
        high = np.polyval([-0.0118, 0.0093, 0.0073], x)
        std = np.where(x < 0.3055, np.clip(-0.0117 * low - 0.0057, 0.0091, 0.04), high)
    return scale * mean, scale * std


def _independent(fields: Fields) -> None:
    _programming(fields, [0.2, 0.0, 0.0], 0.0)
    t_0 = _times(fields, 20.0, 250e-9)
    mean, std = _at(fields, "drift_nu_mean", 0.1), _at(fields, "drift_nu_std", 0.05)
    flat = [{"offset": value, "slope": 0.0, "low": value, "high": value} for value in (mean, std)]
    _drift(fields, t_0, _at(fields, "drift_scale", 1.0), *flat)
    for name in ("drift_nu_mean", "drift_nu_std"):
        fields.say(f"noise_model.{name}", "taken", "cell.drift")
    g_max = fields.settings["cell.g_max"] / MICRO
    noise = {"coefficient": 1 / g_max, "exponent": 0.0, "maximum": 1000.0}
    _read_noise(fields, t_0, _at(fields, "read_noise_scale", 1.0), noise)


def _wan(fields: Fields) -> None:
    """Wan et al. 2022 (Nature 608:504): polynomials of g / g_max in uS, after 1 s, 1 day, 2 days."""
    at = "noise_model.coeff_dic"
    fields.defaults = {**fields.defaults, **{f"{at}.{time}": list(fit) for time, fit in WAN.items()}}
    given = sorted((name for name in fields.given if name.startswith(f"{at}.")), key=lambda name: _time(fields, name))
    names = given or [f"{at}.{time}" for time in WAN]
    g_max = fields.settings["cell.g_max"]
    scale = _at(fields, "noise_scale", 1.0) * g_max / MICRO / _at(fields, "coeff_g_max_reference", g_max / MICRO, 1e-6)
    fits = [np.array(fields.numbers(name)) * scale * MICRO for name in names]
    for name in ("noise_scale", "coeff_g_max_reference", "prog_coeff_g_max_reference"):
        fields.rest(f"noise_model.{name}", "taken", "a factor of cell.programming and cell.drift")
    std = {"kind": "polynomial", "coefficients": fits[0].tolist(), "g_ref": g_max}
    fields.set(names[0], "cell.programming", std, "std in uS against g / g_max there")
    x = np.linspace(0, 1, 41)
    variances = [np.maximum(np.polynomial.polynomial.polyval(x, fit), 0) ** 2 for fit in fits]
    if len(fits) > 1:
        rows = [(np.sqrt(np.maximum(v - variances[0], 0)) / g_max).tolist() for v in variances[1:]]
        times = [_time(fields, name) for name in names[1:]]
        table = {"kind": "relaxation", "t_0": _time(fields, names[0]), "g_ref": g_max, "times": times}
        drift = {**table, "conductances": x.tolist(), "std": rows}
        fields.set(names[1], "cell.drift", drift, "what it has more than the first, in quadrature", exact=False)
        for name in names[2:]:
            fields.say(name, "approximated", "cell.drift", "what it has more than the first, in quadrature")


def _time(fields: Fields, name: str) -> float:
    text = name.removeprefix("noise_model.coeff_dic.")
    try:
        time = float(text)
    except ValueError:
        time = math.nan
    if not 0 < time < 1e12:
        raise ValueError(f"{fields.peer}: noise_model.coeff_dic must have times in seconds as keys, got {text!r}")
    return time


def _cmo(fields: Fields) -> None:
    """Analog filamentary CMO/HfOx cells of IBM Zurich: errors in uS, linear in g; relaxation with the log of time."""
    at = "noise_model"
    fields.defaults = {
        **fields.defaults,
        f"{at}.coeff_dict.2": [0.0112185391, 0.01129027418],
        f"{at}.coeff_dict.0.2": [0.00081107, 0.00106879],
        f"{at}.decay_dict.mean": [-0.08900206],
        f"{at}.decay_dict.std": [0.04201137, 0.41183342],
    }
    wanted = _at(fields, "acceptance_range", 0.2)
    found = [name for name in fields.given if name.startswith(f"{at}.coeff_dict.")] or [f"{at}.coeff_dict.0.2"]
    ranges = {float(name.removeprefix(f"{at}.coeff_dict.")): name for name in found}
    chosen = ranges.get(wanted, ranges[min(ranges)])
    scale, g_max = _at(fields, "prog_noise_scale", 1.0), fields.settings["cell.g_max"]
    std = {"kind": "polynomial", "coefficients": [c * scale * MICRO for c in fields.numbers(chosen)], "g_ref": MICRO}
    fields.set(chosen, "cell.programming", std, "std in uS against g in uS there")
    fields.rest(f"{at}.coeff_dict", "off", "of another acceptance range")
    for name in ("acceptance_range", "prog_noise_scale", "coeff_g_max_reference"):
        fields.rest(f"{at}.{name}", "taken", "of cell.programming")
    mean, std_2 = fields.numbers(f"{at}.decay_dict.mean"), fields.numbers(f"{at}.decay_dict.std", 2)
    pace, x = _at(fields, "drift_scale", 1.0) * MICRO / g_max, (0.0, 1.0)
    logs = [math.log(t) for t in TIMES[1:]]
    table = {"kind": "relaxation", "t_0": 1.0, "g_ref": g_max, "times": list(TIMES[1:]), "conductances": list(x)}
    shift = [[mean[0] * log * pace] * 2 for log in logs]
    spread = [[abs(std_2[0] * log + std_2[1]) * pace] * 2 for log in logs]
    fields.set(
        f"{at}.decay_dict.std",
        "cell.drift",
        {**table, "shift": shift, "std": spread},
        "as a table of times from 10 s to a year",
        exact=False,
    )
    fields.say(f"{at}.decay_dict.mean", "approximated", "cell.drift")
    fields.rest(f"{at}.drift_scale", "approximated", "a factor of cell.drift")
    size = _at(fields, "read_noise_scale", 1.0)
    fields.rest(f"{at}.read_dict", "missing" if size else "off", "read noise in proportion to the logarithm of g")
    fields.missing_if(f"{at}.read_noise_scale", size > 0, "read noise in proportion to the logarithm of g")


MODELS: dict[str, Callable[[Fields], None]] = {
    "PCMLikeNoiseModel": _pcm,
    "CustomDriftPCMLikeNoiseModel": _own_drift,
    "HermesNoiseModel": _hermes,
    "StateIndependentNoiseModel": _independent,
    "ReRamWan2022NoiseModel": _wan,
    "ReRamCMONoiseModel": _cmo,
}
