"""AccelForge's description of a chip: the products of its layers as einsums, and its tiles as an architecture.

AccelForge (Accelergy, CiMLoop and Timeloop's successor) takes one YAML of `workload` and `arch`. A convolution is given
as the products that its tiles do, one for each position of the kernel: what its inputs share is not told. Energies are
Mho's own (docs/cost.md): those of a component over the network, divided by how often it acts, so that the totals are
Mho's where every layer has tiles of its own.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from ..architecture.cost import layer_costs
from ..errors import MappingError, check_chip
from ..mapped import MappedNetwork
from .tables import layers_table

ANALOG_BITS = 8  # of a weight in cells without levels
HEAD = """\
# {name}: {layers} layers on {tiles} tiles, from mho.
# Convolutions are the products that tiles do: m positions, k word lines, n outputs.
# Energies in J, areas in m^2, powers in W, throughputs in 1/s: averages of the components over this network.
"""


class _Node(dict[str, Any]):
    """A mapping with a tag, as AccelForge marks the kinds of its nodes."""

    def __init__(self, tag: str, **fields: Any) -> None:
        super().__init__(fields)
        self.tag = tag


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(_Node, lambda dumper, node: dumper.represent_mapping(node.tag, node.items()))


def accelforge_yaml(chip: MappedNetwork) -> str:
    """Workload and architecture of a chip, for `accelforge.Spec.from_yaml`.

    Raises:
        MappingError: no layer on tiles, a converter without a number of bits, or a layer that has seen no input yet.
    """
    check_chip(chip)
    costs, layers = layer_costs(chip), layers_table(chip)
    found = {"workload": {"einsums": _einsums(layers)}, "arch": {"nodes": _nodes(chip, costs, layers)}}
    hardware = next(iter(chip.layers.values())).hardware
    name = re.sub(r"[^\x20-\x7e]", "?", hardware.name)
    head = HEAD.format(name=name, layers=len(layers), tiles=int(layers["tiles"].sum()))
    return head + yaml.dump(found, Dumper=_Dumper, sort_keys=False, width=1000)


def _einsums(layers: Any) -> list[dict[str, Any]]:
    found, taken = [], set()
    for i, row in enumerate(layers.to_dict("records")):
        name = re.sub(r"[^0-9A-Za-z]+", "_", str(row["layer"])).strip("_") or "layer"
        name = name if name[0].isalpha() else f"layer_{name}"
        name = name if name not in taken else f"{name}_{i}"
        taken.add(name)
        ranks = {"m": row["positions"], "k": row["rows"], "n": row["outputs"]}
        groups = [f"g{i}"] if row["groups"] > 1 else []
        sizes = {f"{rank.upper()}{i}": int(size) for rank, size in ranks.items()}
        if groups:
            sizes[f"G{i}"] = int(row["groups"])
        tensors = [
            ("I", [f"m{i}", *groups, f"k{i}"], int(row["dac_bits"])),
            ("W", [*groups, f"k{i}", f"n{i}"], _weight_bits(row)),
            ("O", [f"m{i}", *groups, f"n{i}"], int(row["adc_bits"])),
        ]
        accesses = [
            {"name": f"{letter}_{name}", "projection": projection, "bits_per_value": bits}
            | ({"output": True} if letter == "O" else {})
            for letter, projection, bits in tensors
        ]
        found.append(
            {
                "name": name,
                "rank_sizes": sizes,
                "tensor_accesses": accesses,
                "renames": {"input": f"I_{name}", "weight": f"W_{name}", "output": f"O_{name}"},
            }
        )
    return found


def _weight_bits(row: dict[str, Any]) -> int:
    return ANALOG_BITS if not row["levels"] else math.ceil(row["slices"] * math.log2(row["levels"]))


def _nodes(chip: MappedNetwork, costs: Any, layers: Any) -> list[_Node]:
    """The nodes from the buffer down to the cells."""
    counts = _counts(layers)
    tiles = int(layers["tiles"].sum())
    tile = next(iter(chip.layers.values())).placement.tile
    interval = float(costs["read_interval_s"].max())
    each = {part: float(costs[f"energy_{part}_j"].sum()) for part in ("buffer", "interconnect")}
    area = {name: float(costs[f"area_{name}_m2"].sum()) for name in _AREAS}
    moved = counts["input_bits"] + counts["output_bits"]
    keep_all = {"keep": "input | output"}
    return [
        _Node(
            "!Memory",
            name="Buffer",
            size="inf",
            leak_power=float(costs["leakage_w"].sum()),
            area=area["buffer"] + area["interconnect"] + area["overhead"],
            tensors=keep_all,
            actions=[_action(way, (each["buffer"] + each["interconnect"]) / moved) for way in ("read", "write")],
        ),
        _Node("!Container", name="Tile", spatial=[{"name": "tiles", "fanout": tiles}]),
        _toll("ShiftAdd", "output", "up", costs, "digital", counts["outputs"], area, tiles),
        _toll("ADC", "output", "up", costs, "adc", counts["outputs"], area, tiles),
        _toll("Sense", "output", "up", costs, "sense", counts["outputs"], area, tiles),
        _toll("DAC", "input", "down", costs, "dac", counts["inputs"], area, tiles),
        _toll("Driver", "input", "down", costs, "driver", counts["inputs"], area, tiles),
        _Node(
            "!Container",
            name="Array",
            spatial=[
                {"name": "outputs", "fanout": tile.outputs, "may_reuse": "input", "min_usage": 0},
                {"name": "word_lines", "fanout": tile.rows, "reuse": "output", "min_usage": 0},
            ],
        ),
        _cells(chip, costs, counts, area["array"] / (tiles * tile.outputs * tile.rows)),
        _Node("!Compute", name="MAC", leak_power=0, area=0, actions=[_action("compute", 0.0, 1 / interval)]),
    ]


_AREAS = ("dac", "driver", "array", "sense", "adc", "digital", "buffer", "interconnect", "overhead")


def _counts(layers: Any) -> dict[str, float]:
    """How often the parts act for a sample: values that go down to word lines, up from tiles, and products."""
    groups, positions = layers["groups"], layers["positions"]
    inputs = positions * groups * layers["rows"] * layers["column_tiles"]
    outputs = positions * groups * layers["outputs"] * layers["row_tiles"]
    return {
        "inputs": float(inputs.sum()),
        "outputs": float(outputs.sum()),
        "input_bits": float((positions * groups * layers["rows"] * layers["dac_bits"]).sum()),
        "output_bits": float((positions * groups * layers["outputs"] * layers["adc_bits"]).sum()),
        "products": float(layers["macs"].sum()),
    }


def _toll(
    name: str, tensor: str, way: str, costs: Any, part: str, count: float, area: dict[str, float], tiles: int
) -> _Node:
    energy = float(costs[f"energy_{part}_j"].sum()) / count
    return _Node(
        "!Toll",
        name=name,
        tensors={"keep": tensor},
        direction=way,
        leak_power=0,
        area=area[part] / tiles,
        values_per_action={"All": 1},
        actions=[_action("read", energy)],
    )


def _cells(chip: MappedNetwork, costs: Any, counts: dict[str, float], area: float) -> _Node:
    hardware = next(iter(chip.layers.values())).hardware
    write = hardware.cost.write_energy * hardware.tile.columns_per_output * hardware.tile.devices
    return _Node(
        "!Memory",
        name="Cells",
        size=max(_weight_bits(row) for row in _rows(chip)),
        leak_power=0,
        area=area,
        tensors={"keep": "weight", "no_refetch_from_above": "weight", "force_memory_hierarchy_order": False},
        values_per_action={"All": 1},
        actions=[
            _action("read", float(costs["energy_array_j"].sum()) / counts["products"]),
            _action("write", float(write)),
        ],
    )


def _rows(chip: MappedNetwork) -> list[dict[str, Any]]:
    return layers_table(chip).to_dict("records")  # type: ignore[return-value]


def _action(name: str, energy: float, throughput: float | str = "inf") -> dict[str, Any]:
    if not math.isfinite(energy):
        raise MappingError(f"accelforge: {name} has no finite energy")
    return {"name": name, "energy": float(f"{energy:.6g}"), "throughput": throughput}
