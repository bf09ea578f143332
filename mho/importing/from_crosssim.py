"""Hardware from Sandia CrossSim's parameters: the object itself, its fields as a dict, or the JSON that it writes.

Conductances there are in units of 1 / Rmin, inputs of the largest one and currents of g_max v_read. Rows are word
lines of matrix-vector products: `rows_max` bounds the inputs. Written after the fields of CrossSim 3.0 to 3.2, which is
not imported.
"""

from __future__ import annotations

from os import PathLike
from typing import Any

from .crosssim_adc import adc
from .crosssim_cells import cells
from .fields import Fields, Imported
from .files import json_of

PEER = "crosssim"
V_READ, T_READ = 0.1, 100e-9
LARGEST_TILE = 65536

CORES = {"BALANCED": 1, "BITSLICED": 2, "OFFSET": 3}
PAIRS = {"ONE_SIDED": 1, "TWO_SIDED": 2}
SLICES = {"BALANCED": 1, "OFFSET": 3}
OFFSETS = {"DIGITAL_OFFSET": 1, "UNIT_COLUMN_SUBTRACTION": 2}
PARTITIONS = {"MAX": 1, "EQUAL": 2}

DEFAULTS: dict[str, Any] = {
    "core.style": 1,
    "core.rows_max": 1024,
    "core.cols_max": 1024,
    "core.weight_bits": 0,
    "core.complex_matrix": False,
    "core.complex_input": False,
    "core.balanced.style": 1,
    "core.balanced.interleaved_posneg": False,
    "core.balanced.subtract_current_in_xbar": True,
    "core.bit_sliced.style": 1,
    "core.bit_sliced.num_slices": 2,
    "core.offset.style": 1,
    "core.mapping.weights.percentile": 1.0,
    "core.mapping.weights.min": None,
    "core.mapping.weights.max": None,
    "core.mapping.weights.row_partition_strategy": 2,
    "core.mapping.weights.col_partition_strategy": 2,
    "core.mapping.inputs.mvm.min": -1.0,
    "core.mapping.inputs.mvm.max": 1.0,
    "core.mapping.inputs.mvm.percentile": None,
    "core.mapping.inputs.mvm.clipping": False,
    "xbar.device.cell_bits": 0,
    "xbar.device.Rmin": 1000.0,
    "xbar.device.Rmax": 10000.0,
    "xbar.device.time": 0,
    "xbar.device.infinite_on_off_ratio": False,
    "xbar.device.clip_conductance": False,
    **{
        f"xbar.device.{error}.{name}": value
        for error in ("read_noise", "programming_error", "drift_error", "nonlinear_IV")
        for name, value in {"enable": False, "model": "IdealDevice", "magnitude": 0}.items()
    },
    "xbar.array.Icol_max": 0,
    "xbar.array.parasitics.enable": False,
    "xbar.array.parasitics.Rp_row": 0,
    "xbar.array.parasitics.Rp_col": 0,
    "xbar.dac.mvm.model": "IdealDAC",
    "xbar.dac.mvm.bits": 0,
    "xbar.dac.mvm.signed": True,
    "xbar.dac.mvm.input_bitslicing": False,
    "xbar.dac.mvm.slice_size": 1,
    "xbar.adc.mvm.model": "IdealADC",
    "xbar.adc.mvm.bits": 0,
    "xbar.adc.mvm.signed": True,
    "xbar.adc.mvm.stochastic_rounding": False,
    "xbar.adc.mvm.adc_per_ibit": False,
    "xbar.adc.mvm.calibrated_range": None,
    "xbar.adc.mvm.adc_range_option": 1,
}


def crosssim(parameters: Any, *, relative_wires: bool = False) -> Imported:
    """Hardware as CrossSim's `CrossSimParameters` has it, and what became of each of its fields.

    Args:
        parameters: the parameters; their fields as a dict; or the path of the JSON file that `to_json` writes.
        relative_wires: Rp_row and Rp_col are in units of Rmin, as in files of CrossSim 3.0, and not in ohms.

    Raises:
        ValueError: no such parameters, a value that is impossible, or settings that make no hardware.
        OSError: the file cannot be read.
    """
    given = json_of(parameters, "crosssim parameters") if isinstance(parameters, str | PathLike) else parameters
    if hasattr(given, "as_dict"):
        given = given.as_dict()
    fields = Fields(PEER, given, DEFAULTS)
    if not {path.split(".")[0] for path in fields.given} & {"core", "xbar"}:
        raise ValueError(f"{PEER}: expected the fields of CrossSimParameters (core, xbar, simulation)")
    if fields.has("xbar.device.Vread"):
        fields.set("xbar.device.Vread", "sensing.v_read", fields.number("xbar.device.Vread", 1e-6, 1e3), unit="V")
    else:
        fields.assume("sensing.v_read", V_READ, "cancels where cells obey Ohm's law", "V")
    fields.assume("sensing.t_read", T_READ, "enters latency and energy only", "s")
    cells(fields)
    _core(fields)
    _inputs(fields)
    adc(fields)
    _wires(fields, relative_wires)
    _other(fields)
    return fields.finish("crosssim", "imported from CrossSim's parameters")


def _core(fields: Fields) -> None:
    style = fields.choice("core.style", CORES)
    sliced = style == "BITSLICED"
    kind = fields.choice("core.bit_sliced.style", SLICES) if sliced else style
    where = "core.bit_sliced.style" if sliced else "core.style"
    if kind == "BALANCED":
        pairs = fields.choice("core.balanced.style", PAIRS)
        encoding = "differential" if pairs == "ONE_SIDED" else "differential_two_sided"
        fields.set("core.balanced.style", "tile.encoding", encoding)
        fields.say(where, "taken", f"tile.encoding = {encoding}")
        together = fields.flag("core.balanced.subtract_current_in_xbar")
        fields.set("core.balanced.subtract_current_in_xbar", "adc.polarity", "together" if together else "apart")
        if together:
            fields.settings["tile.amplifiers"] = "pair"
    else:
        note = "its lowest level is left out there" if fields.settings.get("cell.levels") and not sliced else ""
        fields.set(where, "tile.encoding", "offset", note, exact=not note)
        unit = fields.choice("core.offset.style", OFFSETS) == "UNIT_COLUMN_SUBTRACTION"
        note = "" if unit else "computed from the inputs there; a column of cells, with their errors, here"
        fields.say("core.offset.style", "taken" if unit else "approximated", "a reference column", note)
    if sliced:
        _slices(fields, kind)
    if where != "core.style":
        fields.say("core.style", "taken", "tile.slices")
    for name in ("balanced", "offset", "bit_sliced"):
        fields.rest(f"core.{name}", "off")
    _size(fields)
    fields.set("core.mapping.weights.percentile", "tile.scale", "tile", *_percentile(fields))
    _partition(fields)


def _percentile(fields: Fields) -> tuple[str]:
    percentile = fields.value("core.mapping.weights.percentile")
    if percentile is not None:
        percentile = fields.number("core.mapping.weights.percentile", 0, 1)
    low, high = (fields.value(f"core.mapping.weights.{end}") for end in ("min", "max"))
    fixed = low is not None or high is not None
    for end in ("min", "max"):
        fields.missing_if(f"core.mapping.weights.{end}", fixed, "the largest weight of each tile is at g_max here")
    if percentile is not None and percentile < 1:
        fields.say("core.mapping.weights.percentile", "missing", note="weights beyond it are clipped there")
    return ("one scale for a matrix there, for each of its tiles here",)


def _slices(fields: Fields, kind: str) -> None:
    number = fields.whole("core.bit_sliced.num_slices", 1, 16)
    bits, cell_bits = fields.whole("core.weight_bits", 0, 64), fields.whole("xbar.device.cell_bits", 0, 16)
    wanted = -(-(bits - (kind == "BALANCED")) // number) if bits else cell_bits
    if bits and bits % number == 0 and cell_bits == bits // number:
        wanted = cell_bits
    if wanted < 1 and number > 1:
        raise ValueError(f"{PEER}: core.weight_bits or xbar.device.cell_bits must be set where core.style is BITSLICED")
    if number > 1:
        fields.settings["cell.levels"] = 2**wanted
    note = f"digits of {2**wanted} levels"
    fields.set("core.bit_sliced.num_slices", "tile.slices", number, note, exact=wanted == cell_bits or not cell_bits)
    fields.say("core.weight_bits", "taken", f"cell.levels = {2**wanted}")


def _size(fields: Fields) -> None:
    encoding, slices = fields.settings["tile.encoding"], fields.settings.get("tile.slices", 1)
    pairs, references = ("differential" in encoding, encoding == "offset")
    for theirs, ours in (("rows_max", "rows"), ("cols_max", "columns")):
        size = fields.whole(f"core.{theirs}")
        lines = size if ours == "rows" else (size * (1 + pairs) + references) * slices
        fits = size > 0 and lines <= LARGEST_TILE
        note = "" if fits else "no limit there: the largest tile; set it before you ask what it costs"
        if fits and ours == "columns" and lines != size:
            note = f"{size} outputs of {lines // size} bit lines" + (", and those of references" if references else "")
        fields.set(f"core.{theirs}", f"tile.{ours}", lines if fits else LARGEST_TILE, note, exact=fits)
    fields.say("core.weight_bits", "taken", "cell.levels", "cells have so many levels, not the weights")


def _partition(fields: Fields) -> None:
    at = "core.mapping.weights"
    for name in ("row", "col"):
        even = fields.choice(f"{at}.{name}_partition_strategy", PARTITIONS) == "EQUAL"
        note = "" if even else "the last tile takes what is left there, here rows are shared out evenly"
        fields.say(f"{at}.{name}_partition_strategy", "taken" if even else "approximated", "tiles", note)
        given = fields.given.get(f"{at}.{name}_partition_priority")
        if f"{at}.{name}_partition_priority" in fields.given:
            fields.missing_if(f"{at}.{name}_partition_priority", bool(given), "which rows share a tile")
    fields.rest(at, "taken", "weights beyond the largest do not occur")


def _inputs(fields: Fields) -> None:
    model, bits = str(fields.value("xbar.dac.mvm.model")), fields.whole("xbar.dac.mvm.bits", 0, 16)
    ideal = model == "IdealDAC" or bits == 0
    _range(fields, ideal=ideal)
    if ideal:
        fields.rest("xbar.dac.mvm", "off")
        fields.say("xbar.dac.mvm.bits", "off")
        return
    if model not in ("QuantizerDAC", "SignMagnitudeDAC"):
        fields.say("xbar.dac.mvm.model", "missing", note="a DAC of its own; equal steps here")
    signed = fields.flag("xbar.dac.mvm.signed")
    even = model == "QuantizerDAC" and signed
    note = "2^bits levels for signed inputs there, one less and one of them at 0 here" if even else ""
    fields.say("xbar.dac.mvm.model", "approximated" if even else "taken", "steps of dac.bits", note)
    fields.say("xbar.dac.mvm.signed", "taken", "", "here inputs are signed in layers that have some below 0")
    fields.set("xbar.dac.mvm.bits", "dac.bits", bits, exact=not even)
    if fields.flag("xbar.dac.mvm.input_bitslicing"):
        size = min(fields.whole("xbar.dac.mvm.slice_size", 1, 15), bits)
        fields.set("xbar.dac.mvm.slice_size", "dac.bits_per_pulse", size)
        fields.say("xbar.dac.mvm.input_bitslicing", "taken", "dac.bits_per_pulse")
        each = fields.flag("xbar.adc.mvm.adc_per_ibit")
        fields.set("xbar.adc.mvm.adc_per_ibit", "dac.accumulate", "digital" if each else "scaled")
    fields.rest("xbar.dac.mvm", "off")


def _range(fields: Fields, *, ideal: bool) -> None:
    at = "core.mapping.inputs.mvm"
    percentile = fields.value(f"{at}.percentile")
    if percentile is not None:
        share = fields.number(f"{at}.percentile", 1e-6, 1)
        fields.settings["dac.percentile"] = 100 * share
        fields.set(
            f"{at}.percentile",
            "dac.range",
            "calibrated",
            "of the inputs of each call there, of the calibration inputs here (dac.percentile)",
            exact=False,
        )
    else:
        ends = [fields.number(f"{at}.{end}") for end in ("min", "max")]
        largest = max(map(abs, ends))
        if ends[0] >= ends[1] or not largest:
            raise ValueError(f"{PEER}: {at}.min must be below max = {ends[1]:g}, got {ends[0]:g}")
        even = ends[0] in (0.0, -ends[1])
        clips = fields.flag(f"{at}.clipping")
        note = "" if even else f"from {ends[0]:g} to {ends[1]:g} there, symmetric here"
        if ideal and not clips:
            if largest == 1:
                fields.say(f"{at}.max", "taken", "dac.range = null", "inputs are not clipped")
            else:
                note = f"{note}; inputs beyond it are clipped here".lstrip("; ")
        if not (ideal and not clips and largest == 1):
            exact = even and not (ideal and not clips)
            fields.set(f"{at}.max", "dac.range", largest, note, exact=exact)
        fields.say(f"{at}.min", "taken" if even else "approximated", "dac.range", note)
        fields.say(f"{at}.clipping", "taken", "dac.range")
    fields.rest(at, "off")


def _wires(fields: Fields, relative: bool) -> None:
    at = "xbar.array.parasitics"
    ours = {
        "Rp_row": "r_word_line",
        "Rp_col": "r_bit_line",
        "Rp_row_terminal": "r_driver",
        "Rp_col_terminal": "r_sense",
    }
    if not fields.flag(f"{at}.enable"):
        fields.rest(at, "off")
        fields.rest("core.balanced.interleaved_posneg", "off")
        return
    gates = f"{at}.gate_input" in fields.given and fields.flag(f"{at}.gate_input")
    gates |= f"{at}.current_from_input" in fields.given and not fields.flag(f"{at}.current_from_input")
    in_ohms = fields.has(f"{at}.Rp_row_terminal") and not relative
    unit = 1 / fields.settings["cell.g_max"] if relative else 1.0
    note = "relative to Rmin there" if relative else "ohms; relative to Rmin in files of CrossSim 3.0: relative_wires"
    for theirs, wire in ours.items():
        if not fields.has(f"{at}.{theirs}") and theirs.endswith("terminal"):
            continue
        ohms = fields.number(f"{at}.{theirs}", 0) * unit
        if gates and "row" in theirs:
            fields.say(f"{at}.{theirs}", "taken", f"wires.{wire} = 0", "inputs are at gates, which draw no current")
        elif ohms:
            fields.set(
                f"{at}.{theirs}", f"wires.{wire}", ohms, "" if in_ohms else note, exact=in_ohms or relative, unit="ohm"
            )
        else:
            fields.say(f"{at}.{theirs}", "off")
    for name in ("enable", "gate_input", "current_from_input"):
        if fields.has(f"{at}.{name}"):
            fields.say(f"{at}.{name}", "taken", "wires")
    fields.rest(f"{at}.selected_rows", "approximated", "rows in use are next to the sense amplifiers here")
    fields.rest(at, "missing", "of the wires")
    if "differential" in fields.settings["tile.encoding"]:
        shared = fields.flag("core.balanced.interleaved_posneg")
        fields.rows.pop("core.balanced.interleaved_posneg", None)
        note = "" if shared else "arrays of their own there, one tile here"
        fields.set(
            "core.balanced.interleaved_posneg", "wires.pairs", "shared" if shared else "apart", note, exact=shared
        )


def _other(fields: Fields) -> None:
    largest = fields.number("xbar.array.Icol_max", 0, open_end=True)
    fields.missing_if("xbar.array.Icol_max", 0 < largest < 1e5, "currents of bit lines are clipped there")
    for name in ("complex_matrix", "complex_input"):
        fields.missing_if(f"core.{name}", fields.flag(f"core.{name}"), "complex numbers")
    fields.rest("core.output_dtype", "aside")
    if fields.given.get("simulation.convolution.bias_row") is True:
        fields.set("simulation.convolution.bias_row", "tile.bias", "array")
    fields.rest("simulation", "aside")
    for at in ("xbar.adc", "xbar.dac", "core.mapping.inputs"):
        same = fields.given.get(f"{at}._match", True) is True
        mine = {p.removeprefix(f"{at}.vmm"): v for p, v in fields.given.items() if p.startswith(f"{at}.vmm")}
        theirs = {p.removeprefix(f"{at}.mvm"): v for p, v in fields.given.items() if p.startswith(f"{at}.mvm")}
        alike = same or mine == theirs
        fields.rest(
            f"{at}.vmm",
            "taken" if alike else "missing",
            "as mvm" if alike else "transposed products have the converters of the others here",
        )
        fields.rest(f"{at}._match", "taken")
