"""Hardware from the assignments of NeuroSim's `Param.cpp`."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from typing import Any

from ..crossbar.hardware import Hardware
from .fields import Fields, Row

PEER = "neurosim"
ASSIGNED = re.compile(r"^\s*(?:[\w.]+(?:->|\.))?(\w+)\s*=\s*([^;=][^;]*);", re.MULTILINE)
COMMENTS = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
}
NODES = (130, 90, 65, 45, 32, 22, 14, 10, 7)
DEFAULTS: dict[str, Any] = {"cellBit": 1, "numRowSubArray": 128, "numColSubArray": 128, "levelOutput": 32}
COSTS = (
    "accesstype", "transistortype", "deviceroadmap", "globalBufferType", "globalBufferCoreSizeRow",
    "globalBufferCoreSizeCol", "tileBufferType", "tileBufferCoreSizeRow", "tileBufferCoreSizeCol", "peBufferType",
    "chipActivation", "novelMapping", "pipeline", "speedUpDegree", "validated", "synchronous", "clkFreq", "featuresize",
    "globalBusDelayTolerance", "localBusDelayTolerance", "treeFoldedRatio", "maxGlobalBusWidth",
    "relaxArrayCellHeight", "relaxArrayCellWidth", "heightInFeatureSize1T1R", "widthInFeatureSize1T1R",
    "heightInFeatureSizeCrossbar", "widthInFeatureSizeCrossbar", "accessVoltage", "resistanceAccess", "writeVoltage",
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "minSenseVoltage", "writePulseWidth", "currentMode",
)  # fmt: skip
"""Of circuits, in area, time and energy: Mho has costs of its own."""


def hardware_of(text: str, synapse_bits: int, input_bits: int) -> tuple[Hardware, tuple[Row, ...]]:
    """Hardware, and what became of each assignment.

    Raises:
        ValueError: no parameters of NeuroSim, or impossible ones.
    """
    fields = Fields(PEER, _assigned(text), DEFAULTS)
    if not fields.has("resistanceOn"):
        raise ValueError(f"{PEER}: expected the assignments of Param.cpp (resistanceOn = ...;), found none")
    if fields.has("memcelltype"):
        kind = fields.whole("memcelltype", 1, 3)
        if kind == 1:
            raise ValueError(f"{PEER}: memcelltype must be 2 (RRAM) or 3 (FeFET), got 1: SRAM has no conductances here")
        fields.say("memcelltype", "taken", "cell.technology", "RRAM" if kind == 2 else "FeFET")
    _cell(fields)
    _array(fields, synapse_bits, input_bits)
    _circuits(fields)
    found = fields.finish("neurosim", "imported from NeuroSim's Param.cpp")
    assert found.hardware is not None
    return found.hardware, found.rows


def _assigned(text: str) -> dict[str, Any]:
    """The assignments of constants in the part that users set; of a name that is set twice, the first."""
    head = COMMENTS.sub(lambda found: "\n" if "NO need to modify" not in found[0] else "\0", text).partition("\0")[0]
    found: dict[str, Any] = {}
    for name, value in ASSIGNED.findall(head):
        number = _constant(value, found)
        if number is not None:
            found.setdefault(name, number)
    return found


def _constant(text: str, names: dict[str, Any]) -> Any:
    text = text.strip()
    if text in ("true", "false"):
        return text == "true"
    try:
        found = _evaluated(ast.parse(re.sub(r"\(\s*double\s*\)", "", text).strip(), mode="eval").body, names)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError):
        return None
    return found if math.isfinite(found) else None


def _evaluated(node: ast.AST, names: dict[str, Any]) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.Name) and node.id in names:
        return float(names[node.id])
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return float(OPERATORS[type(node.op)](_evaluated(node.left, names), _evaluated(node.right, names)))
    if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
        return float(OPERATORS[type(node.op)](_evaluated(node.operand, names)))
    raise ValueError("no constant")


def _cell(fields: Fields) -> None:
    on, off = fields.number("resistanceOn", 1e-3, 1e15), fields.number("resistanceOff", 1e-3, 1e15)
    if on >= off:
        raise ValueError(f"{PEER}: resistanceOn must be below resistanceOff = {off:g} ohm, got {on:g} ohm")
    fields.set("resistanceOn", "cell.g_max", 1 / on, "1 / resistanceOn", unit="S")
    fields.set("resistanceOff", "cell.g_min", 1 / off, "1 / resistanceOff", unit="S")
    fields.rest("maxConductance", "taken", "of cell.g_max")
    fields.rest("minConductance", "taken", "of cell.g_min")
    fields.set("cellBit", "cell.levels", 2 ** fields.whole("cellBit", 1, 16))
    if fields.has("readVoltage"):
        fields.set("readVoltage", "sensing.v_read", fields.number("readVoltage", 1e-6, 1e3), unit="V")
    else:
        fields.assume("sensing.v_read", 0.5, "as NeuroSim's file has it", "V")
    if fields.has("readPulseWidth"):
        fields.set("readPulseWidth", "sensing.t_read", fields.number("readPulseWidth", 1e-12, 1.0), unit="s")
    if fields.has("temp"):
        fields.set("temp", "sensing.temperature", fields.number("temp", 1, 1000), unit="K")


def _array(fields: Fields, synapse_bits: int, input_bits: int) -> None:
    for name, bits in (("synapse_bits", synapse_bits), ("input_bits", input_bits)):
        if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
            raise ValueError(f"{PEER}: {name} must be a whole number from 1 to 16, got {bits!r}")
    fields.set("numRowSubArray", "tile.rows", fields.whole("numRowSubArray", 1, 65536))
    fields.set("numColSubArray", "tile.columns", fields.whole("numColSubArray", 1, 65536))
    cell_bits = fields.whole("cellBit", 1, 16)
    if cell_bits > synapse_bits:
        raise ValueError(f"{PEER}: cellBit must be at most synapse_bits = {synapse_bits}, got {cell_bits}")
    slices = -(-synapse_bits // cell_bits)
    fields.assume("tile.slices", slices, f"weights of {synapse_bits} bits in cells of {cell_bits}")
    fields.assume("tile.encoding", "offset", "weights are above a column of reference cells")
    fields.assume("dac.bits", input_bits, "inputs")
    fields.assume("dac.range", "calibrated", "it has no ranges of inputs")
    fields.assume("dac.bits_per_pulse", 1, "one bit a cycle")
    levels = fields.whole("levelOutput", 2, 2**24)
    bits = round(math.log2(levels))
    bits = max(bits, 2)
    fields.set(
        "levelOutput", "adc.bits", bits, "" if 2**bits == levels else f"{levels} levels there", exact=2**bits == levels
    )
    fields.assume("adc.full_scale", "calibrated", "its levels follow the current")
    if fields.has("SARADC"):
        sar = fields.flag("SARADC")
        if bits <= 12:
            fields.set("SARADC", "adc.kind", {"kind": "sar"} if sar else {"kind": "flash"})
    if fields.has("operationmode"):
        mode = fields.whole("operationmode", 1, 6)
        note = "rows are read one after another there" if mode == 1 else "binary networks"
        fields.missing_if("operationmode", mode != 2, note)
    for name in ("algoWeightMax", "algoWeightMin", "reLu"):
        fields.rest(name, "aside")


def _circuits(fields: Fields) -> None:
    if fields.has("technode"):
        node = fields.whole("technode", 1, 1000)
        if 7 <= node <= 130:
            fields.set("technode", "cost.node", node * 1e-9, "" if node in NODES else "nm there", unit="m")
        else:
            fields.say("technode", "missing", note="costs go from 7 to 130 nm")
    if fields.has("numColMuxed"):
        shared = fields.whole("numColMuxed", 1, 65536)
        fields.set("numColMuxed", "cost.adcs_per_tile", max(fields.settings["tile.columns"] // shared, 1))
    if fields.has("accesstype"):
        kinds = {1: "1T1R", 4: "crosspoint"}
        cell = kinds.get(fields.whole("accesstype", 1, 4))
        if cell:
            fields.set("accesstype", "cost.cell", cell)
        else:
            fields.say("accesstype", "missing", note="area of a cell with a diode or bipolar transistor")
    if fields.has("wireWidth"):
        fields.missing_if("wireWidth", fields.number("wireWidth") > 0, "resistance of wires: set wires.r_bit_line")
    for name in COSTS:
        fields.rest(name, "missing", "costs: constants of Mho's own, see docs/cost.md")
    for name in list(fields.given):
        if "SRAM" in name or name == "widthAccessCMOS":
            fields.rest(name, "off")
