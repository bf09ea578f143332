"""Hardware from IBM aihwkit's inference configuration: the object itself, its fields as a dict, or these as JSON.

Weights w = 1 there are the largest conductances, and inputs x = 1 the largest voltages: an output y = 1 is a current of
(g_max - g_min) v_read here. Written after the fields of aihwkit 1.2 (Rasch et al. 2021, AICAS), which is not imported.
"""

from __future__ import annotations

import math
from os import PathLike
from typing import Any

from .aihwkit_cells import cells
from .aihwkit_inputs import MV, bits_of, inputs, steps_of
from .fields import Fields, Imported
from .files import json_of

PEER = "aihwkit"
V_READ, T_READ = 0.2, 250e-9
LARGEST_TILE = 65536
NEXT_TO_NONE = 24  # bits of a converter that stands for none, but clips

BOUND = {name: name for name in ("None", "Iterative", "IterativeWorstCase", "Shift")}
WEIGHT_NOISE = {name: name for name in ("None", "AdditiveConstant", "PCMRead")}

FORWARD: dict[str, Any] = {
    "is_perfect": False,
    "mv_type": "OnePass",
    "inp_bound": 1.0,
    "inp_noise": 0.0,
    "inp_res": 1 / 126,
    "inp_sto_round": False,
    "inp_asymmetry": 0.0,
    "out_bound": 12.0,
    "out_noise": 0.06,
    "out_noise_std": 0.0,
    "out_res": 1 / 510,
    "out_sto_round": False,
    "out_scale": 1.0,
    "out_asymmetry": 0.0,
    "bound_management": "Iterative",
    "noise_management": "AbsMax",
    "w_noise": 0.0,
    "w_noise_type": "None",
    "ir_drop": 0.0,
    "ir_drop_g_ratio": 1 / 0.35 / 5e-6,
    "out_nonlinearity": 0.0,
    "out_nonlinearity_std": 0.0,
    "slope_calibration": 0.0,
    "v_offset_std": 0.0,
    "v_offset_w_min": -1.0,
    "r_series": 0.0,
    "w_read_asymmetry_dtod": 0.0,
    "nm_thres": 0.0,
}
OF_TIMED_DROP = {
    "ir_drop_rs": 0.15,
    "ir_drop_v_read": 0.4005,
    "apply_xdep_pcm_read_noise": False,
    "adc_quantization": True,
    "split_mode_bit_shift": 3,
}
DEFAULTS: dict[str, Any] = {
    **{f"forward.{name}": value for name, value in (FORWARD | OF_TIMED_DROP).items()},
    "mapping.digital_bias": True,
    "mapping.weight_scaling_omega": 0.0,
    "mapping.weight_scaling_columnwise": False,
    "mapping.max_input_size": 512,
    "mapping.max_output_size": 512,
    "pre_post.input_range.enable": False,
    "modifier.type": "None",
    "modifier.enable_during_test": False,
}
WITHOUT = {
    "inp_noise": "noise of the inputs behind the DACs",
    "inp_asymmetry": "gain of negative inputs",
    "out_noise_std": "a noise of its own for each output",
    "out_asymmetry": "gain of negative outputs",
    "out_nonlinearity": "curve of the outputs before the ADCs",
    "v_offset_std": "offset of the voltage of each output",
    "r_series": "series resistance as a share of the output",
    "w_read_asymmetry_dtod": "cells that conduct otherwise for negative inputs",
}
WITH = {
    "out_nonlinearity": ("out_nonlinearity_std", "slope_calibration"),
    "v_offset_std": ("v_offset_w_min",),
}
TRAINING = ("backward", "update", "device", "clip", "remap", "modifier", "runtime")


def aihwkit(config: Any) -> Imported:
    """Hardware as aihwkit's `InferenceRPUConfig` has it, and what became of each of its fields.

    Args:
        config: the configuration; its fields as a dict, with the `class` of noise model and converter beside their
            fields; or the path of a JSON file of these.

    Raises:
        ValueError: no such configuration, a value that is impossible, or settings that make no hardware.
        OSError: the file cannot be read.
    """
    given = json_of(config, "aihwkit configuration") if isinstance(config, str | PathLike) else config
    fields = Fields(PEER, given, DEFAULTS)
    _check(fields)
    name = str(fields.given.get("class", "InferenceRPUConfig"))
    fields.say("class", "aside") if "class" in fields.given else None
    _tile(fields)
    cells(fields, T_READ)
    perfect = fields.flag("forward.is_perfect") or fields.choice("forward.mv_type", MV) == "Ideal"
    if perfect:
        _perfect(fields)
    else:
        fields.say("forward.is_perfect", "off")
        inputs(fields)
        _outputs(fields, _unit(fields))
        _weight_noise(fields)
        _wires(fields)
        _other(fields)
    _training(fields)
    return fields.finish(f"aihwkit {name}"[:200], "imported from aihwkit's configuration")


def _check(fields: Fields) -> None:
    groups = {path.split(".")[0] for path in fields.given}
    if not groups & {"forward", "noise_model", "mapping", "pre_post", "drift_compensation"}:
        raise ValueError(f"{PEER}: expected the fields of an InferenceRPUConfig (forward, noise_model, mapping, ...)")
    for group in ("forward", "mapping", "pre_post"):
        if group in fields.given and fields.given[group] not in (None, {}):
            raise ValueError(f"{PEER}: {group} must be a group of fields, got {type(fields.given[group]).__name__}")


def _tile(fields: Fields) -> None:
    for theirs, ours, factor in (("max_input_size", "rows", 1), ("max_output_size", "columns", 2)):
        size = fields.whole(f"mapping.{theirs}")
        fits = 0 < size <= LARGEST_TILE // factor
        note = "" if fits else "no limit there: the largest tile; set it before you ask what it costs"
        if ours == "columns" and fits:
            note = "two bit lines for each output"
        fields.set(f"mapping.{theirs}", f"tile.{ours}", size * factor if fits else LARGEST_TILE, note, exact=fits)
    bias = "digital" if fields.flag("mapping.digital_bias") else "array"
    fields.set("mapping.digital_bias", "tile.bias", bias)
    omega = fields.number("mapping.weight_scaling_omega", 0)
    columnwise = fields.flag("mapping.weight_scaling_columnwise")
    if omega:
        fields.set("mapping.weight_scaling_columnwise", "tile.scale", "column" if columnwise else "tile")
        note = "" if omega == 1 else f"the largest weight is {omega:g} there: outputs are in units of that here"
        fields.say("mapping.weight_scaling_omega", "taken", "largest weights at cell.g_max", note)
    else:
        fields.set("mapping.weight_scaling_columnwise", "tile.scale", "tile", "off there where omega is 0")
        note = (
            "weights are not scaled there: ranges and noises of outputs are taken for a largest weight of 1 in each "
            "tile; else multiply adc.full_scale and sensing.amplifier_noise by 1 / max|w|, in `layers`"
        )
        fields.say("mapping.weight_scaling_omega", "approximated", "largest weights at cell.g_max", note)
    fields.rest("mapping", "aside", "the network carries what was learned")


def _unit(fields: Fields) -> float:
    """Amperes of an output of 1: inputs at `inp_bound` are at v_read, the largest weights at g_max.

    In one cell a weight, the largest weight has half of the range.
    """
    omega = fields.number("mapping.weight_scaling_omega", 0) or 1.0
    if fields.has("forward.ir_drop_v_read"):
        volts = fields.number("forward.ir_drop_v_read", 1e-6, 1e3)
        fields.set("forward.ir_drop_v_read", "sensing.v_read", volts, unit="V")
    else:
        fields.assume("sensing.v_read", V_READ, "cancels: nothing there has volts", "V")
    settings = fields.settings
    swing = (settings["cell.g_max"] - settings["cell.g_min"]) / (2 if settings.get("tile.encoding") == "offset" else 1)
    bound = fields.number("forward.inp_bound", open_end=True)
    largest = bound if 0 < bound < math.inf and settings.get("dac.scaling", "layer") == "layer" else 1.0
    return float(swing * settings["sensing.v_read"] / omega / largest)


def _perfect(fields: Fields) -> None:
    theirs = "forward.is_perfect" if fields.flag("forward.is_perfect") else "forward.mv_type"
    fields.say(theirs, "taken", "no converters, no noise of outputs", "errors and read noise of cells stay")
    fields.assume("sensing.v_read", V_READ, "cancels: nothing there has volts", "V")
    fields.rest("forward", "off", "")
    fields.rest("pre_post", "off")


def _outputs(fields: Fields, unit: float) -> None:
    bound = fields.number("forward.out_bound", open_end=True)
    clips, steps = 0 < bound < math.inf, steps_of(fields, "forward.out_res")
    if clips and fields.settings.get("tile.slices", 1) > 1:
        note = "of the sum of all pairs there, of each pair here"
        fields.set("forward.out_bound", "adc.full_scale", "calibrated", note, exact=False)
    elif clips:
        note = f"{bound:g} (g_max - g_min) v_read"
        fields.set("forward.out_bound", "adc.full_scale", bound * unit, note, unit="A")
    if clips:
        if steps:
            bits, exact, note = bits_of(fields, "forward.out_res", 24)
            fields.set("forward.out_res", "adc.bits", bits, note, exact=exact)
        else:
            note = "no steps there, but a bound: so many bits stand for none"
            fields.set("forward.out_res", "adc.bits", NEXT_TO_NONE, note, exact=False)
    else:
        fields.say("forward.out_bound", "taken", "no bound")
        fields.missing_if("forward.out_res", bool(steps), "steps without a bound")
    noise = fields.number("forward.out_noise", 0)
    if noise:
        fields.settings["tile.amplifiers"] = "pair"
        density = noise * unit * math.sqrt(2 * fields.settings["sensing.t_read"])
        note = f"{noise:g} (g_max - g_min) v_read in t_read, once for each pair (tile.amplifiers = pair)"
        fields.set("forward.out_noise", "sensing.amplifier_noise", density, note, unit="A/rtHz")
    else:
        fields.say("forward.out_noise", "off")
    management = fields.choice("forward.bound_management", BOUND)
    note = "an output that clips is read again with smaller inputs there; here it is counted as clipped"
    if management == "Shift":
        note = "outputs are shifted by what the largest is beyond the bound there"
    fields.missing_if("forward.bound_management", management != "None" and clips, note)
    for theirs in ("max_bm_factor", "max_bm_res", "bm_test_negative_bound"):
        if fields.has(f"forward.{theirs}"):
            fields.say(f"forward.{theirs}", "off", note="of forward.bound_management")
    fields.missing_if("forward.out_sto_round", fields.flag("forward.out_sto_round"), "rounded at random")
    scale = fields.number("forward.out_scale")
    fields.missing_if("forward.out_scale", scale != 1, "a digital factor of all outputs")


def _weight_noise(fields: Fields) -> None:
    kind, size = fields.choice("forward.w_noise_type", WEIGHT_NOISE), fields.number("forward.w_noise", 0)
    if kind == "None" or not size:
        fields.say("forward.w_noise", "off")
        fields.say("forward.w_noise_type", "off")
        return
    swing = fields.settings["cell.g_max"] - fields.settings["cell.g_min"]
    omega = fields.number("mapping.weight_scaling_omega", 0) or 1.0
    of_pair = size * swing / omega
    if kind == "AdditiveConstant":
        source: dict[str, Any] = {"kind": "constant", "std_g": of_pair / math.sqrt(2)}
        note, exact = f"{size:g} of the largest weight, over the two cells of a pair", True
    else:
        t_0, t_read = 20.0, fields.settings["sensing.t_read"]
        spread = math.sqrt(math.log((t_0 + t_read) / (2 * t_read)))
        source = {
            "kind": "pcm",
            "g_ref": swing,
            "coefficient": of_pair / swing / spread,
            "exponent": 0.5,
            "maximum": 1000.0,
            "t_0": t_0,
        }
        note, exact = "std in proportion to the root of the weight; here 1/f noise, which grows slowly with time", False
    before = fields.settings.get("cell.read_noise")
    both = source if before is None else {"kind": "sum", "parts": [before, source]}
    fields.set("forward.w_noise", "cell.read_noise", both, note, exact=exact)
    fields.say("forward.w_noise_type", "taken" if exact else "approximated", f"cell.read_noise = {source['kind']}")


def _wires(fields: Fields) -> None:
    scale = fields.number("forward.ir_drop", 0)
    if not scale:
        for name in ("ir_drop", "ir_drop_g_ratio", "ir_drop_rs"):
            if name == "ir_drop" or fields.has(f"forward.{name}"):
                fields.say(f"forward.{name}", "off")
        return
    note = "solved for all nodes of the array here, approximated there"
    if fields.has("forward.ir_drop_rs"):
        ohms = scale * fields.number("forward.ir_drop_rs", 0)
        fields.set("forward.ir_drop_rs", "wires.r_bit_line", ohms, note, exact=False, unit="ohm")
    else:
        ratio = fields.number("forward.ir_drop_g_ratio", 1e-12)
        ohms = scale / (ratio * fields.settings["cell.g_max"])
        fields.set("forward.ir_drop_g_ratio", "wires.r_bit_line", ohms, note, exact=False, unit="ohm")
    fields.say("forward.ir_drop", "approximated", "wires.r_bit_line", "a factor of its resistance")


def _other(fields: Fields) -> None:
    for name, note in WITHOUT.items():
        differs = fields.number(f"forward.{name}") != 0
        fields.missing_if(f"forward.{name}", differs, note)
        for other in WITH.get(name, ()):
            fields.missing_if(f"forward.{other}", differs, f"of forward.{name}")
    if fields.has("forward.ir_drop_rs"):  # of TorchInferenceRPUConfigIRDropT
        timed = fields.settings.get("dac.range") is not None and "dac.bits_per_pulse" not in fields.settings
        if timed:
            fields.assume("dac.coding", "time", "its inputs are pulses of different lengths")
        floor = fields.flag("forward.adc_quantization") if fields.has("forward.adc_quantization") else False
        fields.missing_if("forward.adc_quantization", floor, "counts of an oscillator are rounded down there")
        for name in ("adc_frequency", "xdep_pcm_read_noise_scale"):
            if fields.has(f"forward.{name}"):
                fields.say(f"forward.{name}", "off", note="of the field before it")
        if fields.has("forward.apply_xdep_pcm_read_noise"):
            on = fields.flag("forward.apply_xdep_pcm_read_noise")
            fields.missing_if("forward.apply_xdep_pcm_read_noise", on, "read noise that depends on the inputs")
        for name in (
            "ir_drop_g_ratio",
            "ir_drop_segments",
            "ir_drop_time_step_resolution_scale",
            "ir_drop_integration_sum",
        ):
            if fields.has(f"forward.{name}"):
                fields.say(f"forward.{name}", "aside", note="accuracy of its solver")
        if fields.has("forward.split_mode_bit_shift"):
            fields.say("forward.split_mode_bit_shift", "off")
    if "forward.class" in fields.given:
        fields.say("forward.class", "aside")


def _training(fields: Fields) -> None:
    tested = fields.has("modifier.enable_during_test") and fields.flag("modifier.enable_during_test")
    if (
        tested
        and fields.choice("modifier.type", {"None": "None", "Copy": "Copy", "other": fields.value("modifier.type")})
        == "other"
    ):
        fields.rest("modifier", "missing", "weights are modified in tests too: mho.noisy does it in torch")
    bits = fields.given.get("pre_post.periph_quant.n_bits", 0)
    quantized = isinstance(bits, int | float) and bits > 0
    fields.rest("pre_post.periph_quant", "missing" if quantized else "off", "rounding of scales and biases")
    given = fields.tree.get("act_quant_config")
    fields.rest("act_quant_config", "missing" if given else "off", "rounding of activations")
    for name in TRAINING:
        fields.rest(name, "aside")
    for name in ("tile_class", "tile_array_class", "simulator_tile_class", "pre_post.class", "bindings_class"):
        fields.rest(name, "aside")
