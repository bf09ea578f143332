"""Inputs as aihwkit describes them: their scaling, range, steps and passes."""

from __future__ import annotations

import math

from .fields import Fields, bits_of_levels

MV = {name: name for name in ("Ideal", "OnePass", "PosNegSeparate", "PosNegSeparateDigitalSum", "SplitMode", "BitWise")}
NOISE = {name: name for name in ("None", "AbsMax", "AbsMaxNPSum", "Max", "Constant", "AverageAbsMax")}
KERNELS = "set 'sample' for layers whose kernels have several places"


def steps_of(fields: Fields, path: str) -> float:
    """Steps of a converter from end to end; 0 without one."""
    resolution = fields.number(path)
    return 0.0 if resolution <= 0 else (resolution if resolution > 1 else 1 / resolution)


def bits_of(fields: Fields, path: str, most: int) -> tuple[int, bool, str]:
    """Of a converter of so many steps; whether that is exact, and a note."""
    steps = steps_of(fields, path)
    bits = bits_of_levels(steps + 1)
    if bits is not None and 2 <= bits <= most:
        return bits, True, ""
    near = min(max(round(math.log2(steps + 2)), 2), most)
    return near, False, f"{steps:g} steps there, {2**near - 2} here"


def inputs(fields: Fields) -> None:
    bound = fields.number("forward.inp_bound", open_end=True)
    clips = 0 < bound < math.inf
    management = fields.choice("forward.noise_management", NOISE)
    learned = fields.flag("pre_post.input_range.enable")
    steps = steps_of(fields, "forward.inp_res")
    if steps and not clips:
        raise ValueError(
            f"{fields.peer}: forward.inp_bound must be above 0 where forward.inp_res is set, got {bound:g}"
        )
    _range(fields, management, bound, learned=learned, converts=bool(steps))
    if steps:
        bits, exact, note = bits_of(fields, "forward.inp_res", 16)
        more = "a layer whose inputs are never negative has 2^bits levels here, half as many there"
        fields.set("forward.inp_res", "dac.bits", bits, f"{note}; {more}" if note else more, exact=exact)
    else:
        fields.say("forward.inp_res", "taken", "dac.bits = null", "")
    if not clips:
        fields.say("forward.inp_bound", "taken", "dac.range: no inputs are clipped")
    fields.missing_if("forward.inp_sto_round", fields.flag("forward.inp_sto_round"), "rounded at random")
    _passes(fields)


def _range(fields: Fields, management: str, bound: float, *, learned: bool, converts: bool) -> None:
    theirs, threshold = "forward.noise_management", fields.number("forward.nm_thres", 0)
    constant = threshold if management == "Constant" and threshold else 1.0
    if management in ("AbsMax", "Max", "AbsMaxNPSum"):
        fields.set(
            theirs,
            "dac.scaling",
            "token",
            ("" if management == "AbsMax" else "by the largest |x| here; ") + KERNELS,
            exact=management == "AbsMax",
        )
        fields.set(
            "forward.inp_bound",
            "dac.range",
            "calibrated",
            "" if bound == 1 else f"inputs are scaled to 1 and clipped at {bound:g} there, at 1 here",
            exact=bound == 1,
        )
        fields.missing_if("forward.nm_thres", threshold > 0, "inputs beyond it are clipped there")
        if learned:
            fields.say(
                "pre_post.input_range.enable",
                "approximated",
                "",
                "clipped to the learned range before they are scaled there",
            )
    elif learned or management == "AverageAbsMax":
        which = "pre_post.input_range.enable" if learned else theirs
        fields.set(
            which,
            "dac.range",
            "calibrated",
            "a range for each tile there, found in training; here for each layer, from the calibration inputs",
            exact=False,
        )
        fields.say(theirs, "taken" if management in ("None", "Constant") else "approximated", "dac.scaling = layer")
        fields.say("forward.inp_bound", "taken" if bound * constant == 1 else "approximated", "dac.range")
        fields.say("forward.nm_thres", "taken" if management == "Constant" else "off", "dac.range")
    else:
        fields.say(theirs, "taken", "dac.scaling = layer")
        fields.say("forward.nm_thres", "taken" if management == "Constant" else "off", "dac.range")
        if 0 < bound < math.inf:
            fields.set("forward.inp_bound", "dac.range", bound * constant, "in the units of the layer's inputs")
    fields.say("pre_post.input_range.enable", "off")
    fields.rest("pre_post.input_range", "aside", "of the training of ranges")


def _passes(fields: Fields) -> None:
    kind, theirs = fields.choice("forward.mv_type", MV), "forward.mv_type"
    if kind == "OnePass":
        fields.set(theirs, "dac.phases", 1)
    elif kind == "PosNegSeparateDigitalSum":
        fields.set(theirs, "dac.phases", 2)
    elif kind == "PosNegSeparate":
        fields.set(theirs, "dac.phases", 2, "one conversion of both there, one of each here", exact=False)
    else:
        bits = 1 if kind == "BitWise" else fields.whole("forward.split_mode_bit_shift", 1, 15)
        if "dac.bits" not in fields.settings:
            raise ValueError(f"{fields.peer}: forward.inp_res must be set where forward.mv_type is {kind}")
        bits = min(bits, fields.settings["dac.bits"])
        note = "pulses are converted each" + ("" if kind == "BitWise" else "; all of them have the same bits here")
        fields.set(theirs, "dac.bits_per_pulse", bits, note, exact=False)
