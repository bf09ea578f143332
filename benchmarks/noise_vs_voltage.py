"""What the read voltage buys: noise by source, accuracy with and without votes, and energy, on three presets.

    python benchmarks/noise_vs_voltage.py [--out runs/noise_vs_voltage] [--images 250] [--chips 3] [--jobs 2]

Maps the MNIST CNN to ReRAM, PCM and NAND chips at read voltages from below a millivolt to beyond the limit of the cell,
once with an ADC range that is made for the largest voltage allowed and stays, once with one that tracks the voltage.
It is a sweep: interrupted, it resumes. Writes tables (Parquet and CSV) and figures drawn from them.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import voltage_figures as figures
from rich.console import Console

import mho
from mho.commands.progress import shown
from mho.crossbar.patches import gather
from mho.devices.budget import Converter, budget
from mho.mapping.inference import Survey
from mho.mapping.voting.intervals import of_chips
from mho.records import record, write_json
from mho.tables import write_table

PRESETS = ("reram", "pcm", "nand")
WEIGHTS = "sigma-0.5"
CALIBRATE = 256
LAYER = "conv4"  # whose columns the noise is shown for
SAMPLES = 256  # inputs of these columns
FIXED = (-6.0, -5.5, -5.25, -5.0, -4.75, -4.5, -4.0, 0.0, 0.5)  # octaves from the largest voltage allowed
TRACKING = (-10.0, -9.0, -8.5, -8.0, -7.5, -7.0, -6.0, -4.0, 0.0)
WAYS = ("single", "voted", "adaptive")
Array = np.ndarray[Any, Any]


class Columns(NamedTuple):
    """The bit-line pairs of a row tile: conductances (cells, columns), inputs (samples, cells), and their ADC."""

    g: Array
    x: Array
    full_scale: float


def v_max(preset: str) -> float:
    """The largest read voltage that the cell allows."""
    found = mho.Hardware.preset(preset).cell.v_max
    assert found is not None
    return found


def columns_of(chip: mho.Chip, layer: str, images: torch.Tensor) -> Columns:
    """The first row tile of a layer, and what real images drive it with.

    A pair is a column of twice the cells: those of the second bit line have the negative input.
    """
    survey = Survey({layer: []})
    chip.run((images,), survey)
    tiles = chip.layers[layer].tiles
    design, reader = tiles.design, tiles.reader
    inputs = np.concatenate(survey.inputs[layer])
    codes, _ = reader.input_codes(inputs)
    patches = gather(codes.astype(float), reader.geometry(inputs.shape, 0))
    rows = slice(*design.placement.edges[:2])
    x = patches[np.linspace(0, len(patches) - 1, SAMPLES).astype(int), rows] / design.drive.full_code
    ((positive, negative),) = design.encodings[0].targets(design.rows_of(0)[rows], 0)
    sensing, cell = design.hardware.sensing, design.hardware.cell
    full_scale = float(tiles.ranges.full_scale[0]) * sensing.v_read * cell.g_max
    return Columns(np.concatenate([positive, negative]), np.concatenate([x, -x], axis=1), full_scale)


def noise_table(images: torch.Tensor) -> pd.DataFrame:
    """The noise budget of the columns, a row per preset, kind of ADC range and read voltage."""
    net = mho.models.mnist_cnn(weights=WEIGHTS)
    tables = []
    for preset in PRESETS:
        limit = v_max(preset)
        own = mho.Hardware.preset(preset).sensing.v_read
        hardware = mho.Hardware.preset(preset).replace({"sensing.v_read": limit})
        columns = columns_of(mho.map(net, hardware, calibrate=images[:CALIBRATE]), LAYER, images[:CALIBRATE])
        noise = hardware.sensing.amplifier_noise * np.sqrt(2)  # two bit lines
        sensing = hardware.sensing.model_copy(update={"amplifier_noise": noise})
        v = np.union1d(limit * 2.0 ** np.arange(-11, 1.01, 0.25), own)
        for adc in ("fixed", "tracking"):
            bits, tracks = hardware.adc.bits, limit if adc == "tracking" else None
            converter = Converter(bits=bits, full_scale=columns.full_scale, tracks=tracks)
            found = budget(columns.g, columns.x, hardware.cell, sensing, v, converter=converter)
            tables.append(pd.DataFrame({"preset": preset, "adc": adc, "v_max": limit, **found.columns()}))
    return pd.concat(tables, ignore_index=True)


def settings(images: int, chips: int, votes: int) -> dict[str, Any]:
    """The sweep."""
    points = [
        {
            "hardware": preset,
            "sensing.v_read": v_max(preset) * 2.0**octave,
            "cell.v_max": None,  # so that what lies beyond can be shown
            "adc.calibrated_at": v_max(preset) if fixed else None,
        }
        for preset in PRESETS
        for fixed, octaves in ((True, FIXED), (False, TRACKING))
        for octave in octaves
    ]
    return {
        "experiment": "voting",
        "model": "mnist_cnn",
        "weights": WEIGHTS,
        "data": "mnist",
        "images": images,
        "calibrate": CALIBRATE,
        "hardware": PRESETS[0],
        "votes": votes,
        "points": points,
        "grid": {"seed": list(range(chips))},
    }


def warm_up(images: torch.Tensor) -> None:
    """Compile what the workers need, so that each finds it."""
    net = mho.models.mnist_cnn(weights=WEIGHTS)
    for preset in PRESETS:
        mho.vote(mho.map(net, mho.Hardware.preset(preset), calibrate=images[:8]), images[:8], k=2)


def accuracy_table(chips: pd.DataFrame, digital: float) -> pd.DataFrame:
    """Means over the chips, a row per preset, kind of ADC range and read voltage.

    The 95 % intervals `..._low`, `..._high` are those of `of_chips`.
    """
    rows = []
    chips = chips.assign(adc=np.where(chips["adc.calibrated_at"].isna(), "tracking", "fixed"))
    for (preset, adc, v), group in chips.groupby(["hardware", "adc", "sensing.v_read"], sort=False):
        n, many, limit = int(group["pictures"].iloc[0]), len(group), v_max(str(preset))
        row: dict[str, Any] = {"preset": preset, "adc": adc, "v_read": v, "v_max": limit}
        row |= {"allowed": v <= limit, "chips": many, "pictures": n, "digital": digital}
        for way in WAYS:
            row[way] = float(group[way].mean())
            row[f"{way}_low"], row[f"{way}_high"] = of_chips(group[way], n)
        energies = ["mean_reads", "array_energy_j", "inference_energy_j", "decision_energy_j", "adaptive_energy_j"]
        rows.append(row | {name: float(group[name].mean()) for name in energies})
    return pd.DataFrame(rows)


def pareto_table(accuracy: pd.DataFrame, votes: int) -> pd.DataFrame:
    """A row per decision that can be had at an allowed voltage: its energy, of all and of the arrays, and accuracy.

    `front` says that no other of the preset has less energy and is at least as accurate; `array_front` the same for the
    energy of the arrays.
    """
    allowed = accuracy[accuracy["allowed"]]
    parts = []
    for way in WAYS:
        reads = allowed["mean_reads"] if way == "adaptive" else pd.Series(votes if way == "voted" else 1, allowed.index)
        part = allowed[["preset", "adc", "v_read"]].assign(way=way, reads=reads.astype(float), accuracy=allowed[way])
        part["energy_j"] = part["reads"] * allowed["inference_energy_j"]
        parts.append(part.assign(array_energy_j=part["reads"] * allowed["array_energy_j"]))
    table = pd.concat(parts, ignore_index=True)
    for name, energy in (("front", "energy_j"), ("array_front", "array_energy_j")):
        table[name] = False
        for _, group in table.sort_values([energy, "accuracy"], ascending=[True, False]).groupby("preset"):
            before = group["accuracy"].cummax().shift(fill_value=-1.0)
            table.loc[group.index, name] = group["accuracy"] > before
    return table


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/noise_vs_voltage"))
    parser.add_argument("--images", type=int, default=250, help="test pictures")
    parser.add_argument("--chips", type=int, default=3, help="seeds 0, 1, ...: chips of each point")
    parser.add_argument("--votes", type=int, default=20, help="most inferences of a decision")
    parser.add_argument("--jobs", type=int, default=2)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console, began = Console(), time.perf_counter()
    images, labels = mho.models.data.mnist("test")
    options.out.mkdir(parents=True, exist_ok=True)
    console.print("compiling, noise budgets ...")
    warm_up(images)
    noise = noise_table(images)
    net = mho.models.mnist_cnn(weights=WEIGHTS).eval()
    with torch.no_grad():
        right = net(images[: options.images]).argmax(dim=1) == labels[: options.images]
    with shown("chips", every=10.0) as tell:
        chips = mho.sweep(
            settings(options.images, options.chips, options.votes),
            out=options.out / "sweep",
            jobs=options.jobs,
            progress=tell,
        )
    chips = chips[[name for name in chips if not name.endswith("_meta")]]
    accuracy = accuracy_table(chips, float(right.double().mean()))
    pareto = pareto_table(accuracy, options.votes)
    for name, table in (("noise", noise), ("accuracy", accuracy), ("pareto", pareto), ("chips", chips)):
        write_table(table, options.out / name, csv_format="%.6g")
    figures.noise_vs_voltage(noise, accuracy, options.votes).savefig(options.out / "noise_vs_voltage.png", dpi=130)
    figures.pareto(pareto, options.votes).savefig(options.out / "energy_accuracy.png", dpi=130)
    command = (
        f"benchmarks/noise_vs_voltage.py --images {options.images} --chips {options.chips} --votes {options.votes}"
    )
    found = record(("mho", "torch", "numba", "numpy", "scipy"), f"{command} --jobs {options.jobs}")
    found |= {"seeds": list(range(options.chips)), "tasks": len(chips)}
    found["seconds"] = round(time.perf_counter() - began)
    write_json(found, options.out / "run.json")
    console.print(f"{len(chips)} chips in {found['seconds']} s, tables and figures in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
