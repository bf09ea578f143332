"""Built chips as settings, and what their cost comes out at beside what is published.

    python benchmarks/published_cost.py [--out runs/published_cost]

Prints the table and writes it as CSV. Only what the papers say of a chip is set (`published_cost.yaml`); constants are
the defaults, scaled to its node. What is off, and why: docs/cost.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import isaac
import pandas as pd
import yaml

import mho
from mho.devices.units import Unit
from mho.mapping.architecture.cost import peak
from mho.mapping.architecture.read_chain import Chain

SOURCE = Path(__file__).with_name("published_cost.yaml")
SECONDS, JOULES = Unit("seconds", ("s",), 0.0, 1.0), Unit("joules", ("J",), 0.0, 1.0)
# mean share of the full conductance and of the full pulse
WORK = {
    "uniform weights and inputs": (0.5, 0.5),
    "normal weights (3 sigma), uniform inputs": (0.266, 0.5),
    "normal weights (3 sigma), MNIST pixels": (0.266, 0.1307),
}


class Row(NamedTuple):
    """One figure of one chip."""

    chip: str
    work: str
    figure: str
    published: float
    modelled: float


def hermes(chip: dict[str, Any]) -> Iterator[Row]:
    """TOPS, TOPS/W and TOPS/mm2 of the core, for each kind of work."""
    stated, hardware = chip["published"], mho.Hardware.model_validate(chip["hardware"])
    tile, v_read = hardware.tile, hardware.sensing.v_read
    for work, (weight, pulse) in WORK.items():
        array = tile.rows * tile.outputs * weight * hardware.cell.g_max * pulse * v_read**2
        table = peak(hardware.replace({"cost.array_power": array}), chain=Chain(**chip["chain"]))
        found = _rates(table, 1)
        yield from (Row("HERMES core", work, name, stated[name], found[name]) for name in stated)


def neurram(chip: dict[str, Any]) -> Iterator[Row]:
    """TOPS and TOPS/W of all cores for each number of bits, and the area of one."""
    for bits, stated in chip["published"].items():
        outputs, inputs = (int(part) for part in bits.split("/"))
        pulses = inputs - 1  # sign and magnitude
        parts = [pulses] if pulses <= 3 else [-(-pulses // 2), pulses // 2]
        samples = sum(2**part - 1 for part in parts) / pulses  # of one pulse, on average
        per_pulse = samples * SECONDS(chip["sample"])
        fields = {
            "sensing.t_read": per_pulse,
            "adc.bits": outputs,
            "dac.bits": max(pulses, 1),
            "dac.bits_per_pulse": 1,
            "cost.sense_energy": JOULES(chip["sampling"]) + samples * JOULES(chip["integrating"]),
            "cost.drive_time": len(parts) * SECONDS(chip["settle"]) / pulses,
        }
        hardware = mho.Hardware.model_validate(chip["hardware"]).replace(fields)
        cell, tile = hardware.cell, hardware.tile
        mean = cell.g_min + 0.25 * (cell.g_max - cell.g_min)  # uniform weights: one cell of a pair at half, one at none
        share = 0.5 * SECONDS(chip["pulse"]) / per_pulse  # half of the bits are set
        array = tile.rows * tile.columns * mean * hardware.sensing.v_read**2 * share
        # halves that are read apart are converted apart
        chain = Chain(**chip["chain"], polarities=len(parts))
        found = _rates(peak(hardware.replace({"cost.array_power": array}), chain=chain), chip["cores"])
        yield from (Row("NeuRRAM", f"{bits} bits", name, stated[name], found[name]) for name in stated)
    yield Row("NeuRRAM", "one core", "area_mm2", chip["area_mm2"], found["area_mm2"])


def isaacs() -> Iterator[Row]:
    """The tile of ISAAC from its own constants, and its area with the parts that its table leaves out."""
    table = isaac.compare().set_index(["figure", "unit"])
    for unit, figure in (("mW", "power_mw"), ("mm2", "area_mm2")):
        row = table.loc[("total", unit)]
        yield Row("ISAAC tile", "its own constants", figure, row["published"], row["modelled"])
    text = yaml.safe_load(isaac.SOURCE.read_text(encoding="utf-8"))
    own = text["hardware"]["cost"]
    kept = {name: own[name] for name in ("array_power", "buffer_bits")}
    tile = peak(mho.Hardware.model_validate(text["hardware"] | {"cost": kept}), tiles=text["published"]["arrays"])
    total = text["published"]["total"]
    yield Row("ISAAC tile", "defaults", "power_mw", total["power"], 1e3 * tile.loc["total", "power_w"])
    yield Row("ISAAC tile", "defaults", "area_mm2", total["area"], 1e6 * tile.loc["total", "area_m2"])


def _rates(table: pd.DataFrame, cores: int) -> dict[str, float]:
    found: dict[str, Any] = table.attrs
    return {
        "tops": 1e-12 * cores * found["operations_per_s"],
        "tops_per_w": 1e-12 * found["per_watt"],
        "tops_per_mm2": 1e-18 * found["per_m2"],
        "area_mm2": 1e6 * float(table.loc["total", "area_m2"]),
    }


def compare() -> pd.DataFrame:
    """A row per figure: chip, work, figure, as published, as modelled, and modelled / published."""
    chips: dict[str, Any] = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))
    rows = [*hermes(chips["hermes_core"]), *neurram(chips["neurram"]), *isaacs()]
    table = pd.DataFrame(rows)
    return table.assign(ratio=table["modelled"] / table["published"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/published_cost"), help="folder for the table")
    out: Path = parser.parse_args(arguments).out
    table = compare()
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "published_cost.csv", index=False, float_format="%.6g")
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
