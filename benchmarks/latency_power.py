"""How long K votes take and what they cost: the paper's abstract pipeline, and the networks on each preset.

    python benchmarks/latency_power.py [--out runs/latency_power] [--votes 1,2,5,10,20,50] [--abstract-only]

Prints tables and writes them (CSV and Parquet), with figures drawn from them, into one folder. Nothing is written if
anything fails. What is counted: docs/cost.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import latency_figures as figures
import numpy as np
import pandas as pd
import torch
import yaml

import mho
from mho.mapping.architecture.closed_forms import interleaved, overhead, sequential
from mho.mapping.architecture.cost import COMPONENTS, layer_costs
from mho.mapping.architecture.decision import decision
from mho.mapping.architecture.replication import ways
from mho.mapping.saved.folders import whole_folder
from mho.models import densenet
from mho.models.data import strokes
from mho.tables import Column, Columns, print_table, write_table

CONFIG = "latency_power.yaml"
GANTT_VOTES = 4
CALIBRATION, PHOTOS = 64, 8  # inputs
PRINTED = 10  # layers, the slowest
VOLTAGES = (0.25, 0.5, 1.0)  # of the preset's own


class Network(NamedTuple):
    """A network and the inputs it is calibrated with."""

    make: Callable[[], torch.nn.Module]
    inputs: Callable[[], torch.Tensor]


def _digits() -> torch.Tensor:
    return mho.models.data.mnist("test")[0][:CALIBRATION]


def _strokes() -> torch.Tensor:
    return torch.from_numpy(np.stack([strokes.sequence(strokes.points_of(image[0])) for image in _digits()]))


def _photos() -> torch.Tensor:
    """Pictures of CIFAR-10, or, where the data folder has none, random ones of the same mean and deviation."""
    try:
        return mho.models.data.cifar10("test")[0][:PHOTOS]
    except FileNotFoundError:
        print("no CIFAR-10 in the data folder: DenseNet-40 is calibrated with random pictures")
        mean, deviation = (torch.tensor(values).reshape(3, 1, 1) for values in (densenet.MEAN, densenet.DEVIATION))
        noise = torch.randn(PHOTOS, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        return (mean + deviation * noise).clamp(0, 1)


def _untrained_densenet() -> torch.nn.Module:
    torch.manual_seed(0)
    return mho.models.densenet40()


NETWORKS = {
    "mnist_cnn": Network(lambda: mho.models.mnist_cnn(weights="sigma-0.5"), _digits),
    "stroke_lstm": Network(lambda: mho.models.stroke_lstm(weights="sigma-0.0"), _strokes),
    "densenet40": Network(_untrained_densenet, _photos),
}


def abstract_table(depths: Sequence[int], votes: Sequence[int]) -> pd.DataFrame:
    """Section 3.3 of the paper in units of T: L equal layers and a voter of T each.

    The pipelined latency is the event simulation's; it has to equal (L + K) T.
    """
    rows = []
    for depth in depths:
        stages = [1.0] * depth
        for k in votes:
            makespan = mho.schedule(stages=stages, votes=k, voter=1.0).makespan_s
            if makespan != depth + k:
                raise AssertionError(f"the schedule of L = {depth}, K = {k} is {makespan} T, not (L + K) T")
            rows.append(
                {
                    "depth": depth,
                    "votes": k,
                    "sequential_T": sequential(stages, k),
                    "pipelined_T": makespan,
                    "overhead": overhead(stages, k, voter=1.0),
                    "power_factor": k,
                }
            )
    return pd.DataFrame(rows)


def recurrent_table(steps: int, votes: Sequence[int]) -> pd.DataFrame:
    """K votes of a sequence through a recurrent layer of two stages of T, its matrix and its gates, in units of T."""
    rows = []
    for k in votes:
        turns, mixed = (mho.schedule(stages=mho.Stages([1.0, 1.0], steps=steps), votes=k, buffers=b) for b in (1, None))
        if mixed.makespan_s != interleaved([1.0, 1.0], steps, k):
            raise AssertionError(f"the schedule of {steps} steps, K = {k} is {mixed.makespan_s} T, not its closed form")
        rows.append(
            {
                "steps": steps,
                "votes": k,
                "one_after_the_other_T": turns.makespan_s,
                "interleaved_T": mixed.makespan_s,
                "busy": mixed.utilisation["stage 1"],
            }
        )
    return pd.DataFrame(rows)


def map_network(name: str, preset: str, **fields: Any) -> mho.Chip:
    """A network on one chip of a preset, with fields of the hardware replaced (dots written as two underscores)."""
    network = NETWORKS[name]
    hardware = mho.Hardware.preset(preset).replace({key.replace("__", "."): value for key, value in fields.items()})
    return mho.map(network.make(), hardware, calibrate=network.inputs(), seed=0)


def vote_table(chip: mho.Chip, votes: Sequence[int], rate: float) -> pd.DataFrame:
    """Latency, energy and power of one decision over the number of votes.

    `power_at_rate_w` is what K votes take at `rate` decisions a second (K P, and leakage; missing where the pipeline is
    too slow for that rate), `power_full_w` what a pipeline that never waits takes, `energy_full_j` its energy of a
    decision, of which leakage is a part.
    """
    voter = chip.hardware.cost.digital_time
    alone = decision(chip).latency_s - voter
    rows = []
    for k in votes:
        d = decision(chip, k)
        rows.append(
            {
                "layers": len(chip.layers),
                "votes": k,
                "sequential_s": sequential([alone], k, voter),
                "pipelined_s": d.latency_s,
                "copies_s": decision(chip, k, copies=k).latency_s,
                "overhead": d.latency_s / alone - 1,
                "decision_interval_s": d.interval_s,
                **{f"energy_{part}_j": joules for part, joules in d.energy.items()},
                "energy_leakage_j": d.leakage_w * d.interval_s,
                "energy_j": d.work_j,
                "energy_full_j": d.energy_j,
                "power_at_rate_w": d.power_w(rate) if rate * d.interval_s <= 1 else float("nan"),
                "power_full_w": d.power_full_w,
                "area_m2": d.area_m2,
                "tops": 1e-12 * d.operations_per_s,
                "tops_per_w": 1e-12 * d.operations_per_joule,
                "tops_per_mm2": 1e-18 * d.operations_per_s / d.area_m2,
            }
        )
    return pd.DataFrame(rows)


def voltage_table(name: str, preset: str, chip: mho.Chip) -> pd.DataFrame:
    """Power of a full pipeline over the read voltage, the array's apart from the rest, which does not depend on it.

    `chip` is the one at the preset's own voltage.
    """
    rows = []
    for factor in VOLTAGES:
        v_read = factor * chip.hardware.sensing.v_read
        d = decision(chip if factor == 1 else map_network(name, preset, sensing__v_read=v_read))
        array = d.scales_with_v_j / d.interval_s
        rows.append({"v_read": v_read, "power_array_w": array, "power_rest_w": d.power_full_w - array})
    return pd.DataFrame(rows)


def chip_part(options: argparse.Namespace, folder: Path) -> None:
    """Tables and figures of the networks on the presets."""
    tables: dict[str, list[pd.DataFrame]] = {"layers": [], "votes": [], "ways": [], "voltage": []}
    for name in options.networks:
        for preset in options.presets:
            chip = map_network(name, preset)
            found = {
                "layers": layer_costs(chip),
                "votes": vote_table(chip, options.votes, options.rate),
                "ways": ways(chip, options.ways),
                "voltage": voltage_table(name, preset, chip),
            }
            for kind, table in found.items():
                title = f"{name} on {preset}: {TITLES[kind].format(**vars(options))}"
                if len(table) > PRINTED:
                    title += f"; the slowest {PRINTED} of {len(table)}"
                shown = table.nlargest(PRINTED, "stage_time_s") if len(table) > PRINTED else table
                print_table(title, shown, COLUMNS[kind])
                tables[kind].append(_named(table, network=name, preset=preset))
            chip.hardware.save(folder / f"hardware-{preset}.yaml")
            _gantt(chip, folder / f"gantt_{name}_{preset}")
    written = {kind: pd.concat(parts, ignore_index=True) for kind, parts in tables.items()}
    for kind, table in written.items():
        write_table(table, folder / kind)
    votes = written["votes"]
    figures.latency(votes).savefig(folder / "latency_chip.png")
    figures.overhead(votes).savefig(folder / "overhead.png")
    figures.energy(votes).savefig(folder / "energy.png")
    figures.power(votes, options.rate).savefig(folder / "power.png")
    figures.voltage(written["voltage"]).savefig(folder / "voltage.png")


def _gantt(chip: mho.Chip, path: Path) -> None:
    """Charts of a few votes, of whole pictures and of rows that go on, and the trace of the latter."""
    voter = chip.hardware.cost.digital_time
    mho.schedule(chip, votes=GANTT_VOTES, voter=voter).gantt(path.with_suffix(".png"))
    rows = mho.schedule(chip, votes=GANTT_VOTES, voter=voter, line_buffers=True)
    rows.gantt(path.with_name(f"{path.name}_lines.png"))
    rows.trace(path.with_name(f"{path.name}_lines.json"))


def _named(table: pd.DataFrame, **names: str) -> pd.DataFrame:
    return table.assign(**names)[[*names, *table.columns]]


_ENERGY: Columns = {f"energy_{part}_j": Column(f"{part} (nJ)", ".4g", 1e9) for part in COMPONENTS}
ABSTRACT_COLUMNS: Columns = {
    "depth": Column("layers L", "d"),
    "votes": Column("votes K", "d"),
    "sequential_T": Column("sequential K L (T)", "g"),
    "pipelined_T": Column("pipelined L + K (T)", "g"),
    "overhead": Column("overhead K / L", ".3f"),
    "power_factor": Column("power (P)", "d"),
}
RECURRENT_COLUMNS: Columns = {
    "steps": Column("steps", "d"),
    "votes": Column("votes K", "d"),
    "one_after_the_other_T": Column("one after the other (T)", "g"),
    "interleaved_T": Column("interleaved (T)", "g"),
    "busy": Column("matrix busy", ".1%"),
}
_LAYERS: Columns = {
    "layer": Column("layer", "s"),
    "positions": Column("reads", "d"),
    "read_time_s": Column("one read (ns)", ".4g", 1e9),
    "stage_time_s": Column("stage (us)", ".4g", 1e6),
    **_ENERGY,
    "energy_j": Column("total (nJ)", ".4g", 1e9),
    "area_m2": Column("area (mm2)", ".3g", 1e6),
}
_VOTES: Columns = {
    "votes": Column("votes K", "d"),
    "sequential_s": Column("sequential (us)", ".5g", 1e6),
    "pipelined_s": Column("pipelined (us)", ".5g", 1e6),
    "copies_s": Column("K copies (us)", ".5g", 1e6),
    "overhead": Column("overhead", ".3f"),
    "energy_j": Column("energy (uJ)", ".4g", 1e6),
    "energy_leakage_j": Column("leakage, full (uJ)", ".4g", 1e6),
    "power_at_rate_w": Column("power at rate (mW)", ".4g", 1e3),
    "power_full_w": Column("power, full (mW)", ".4g", 1e3),
    "tops": Column("TOPS", ".3g"),
    "tops_per_w": Column("TOPS/W", ".3g"),
    "tops_per_mm2": Column("TOPS/mm2", ".3g"),
}
_WAYS: Columns = {
    "way": Column("way", "s"),
    "latency_s": Column("latency (us)", ".5g", 1e6),
    "overhead": Column("overhead", ".3f"),
    "interval_s": Column("interval (us)", ".5g", 1e6),
    "energy_j": Column("energy (uJ)", ".4g", 1e6),
    "energy_full_j": Column("with leakage, full (uJ)", ".4g", 1e6),
    "area_m2": Column("area (mm2)", ".4g", 1e6),
    "power_full_w": Column("power, full (mW)", ".4g", 1e3),
}
_VOLTAGE: Columns = {
    "v_read": Column("read voltage (V)", ".3g"),
    "power_array_w": Column("array (mW)", ".4g", 1e3),
    "power_rest_w": Column("the rest (mW)", ".4g", 1e3),
}
COLUMNS = {"layers": _LAYERS, "votes": _VOTES, "ways": _WAYS, "voltage": _VOLTAGE}
TITLES = {
    "layers": "layers, one inference",
    "votes": "one decision of K votes, power at {rate:g} decisions/s",
    "ways": "the ways to {ways} votes",
    "voltage": "power of a full pipeline over the read voltage",
}


def whole_numbers(text: str) -> list[int]:
    """A comma-separated list of whole numbers of at least 1."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"whole numbers of at least 1, separated by commas, got {text!r}")
    return numbers


def whole_number(text: str) -> int:
    """One whole number of at least 1."""
    (number,) = whole_numbers(text) if "," not in text else whole_numbers("0")
    return number


def network_names(text: str) -> list[str]:
    """A comma-separated list of networks of the table."""
    names = text.split(",")
    for name in names:
        if name not in NETWORKS:
            raise argparse.ArgumentTypeError(f"networks are {', '.join(NETWORKS)}, got {name!r}")
    return names


def positive(text: str) -> float:
    """A positive number."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"a positive number, got {text!r}")
    return value


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/latency_power"), help="folder for tables and figures")
    parser.add_argument("--votes", type=whole_numbers, default="1,2,5,10,20,50", help="numbers of votes K")
    parser.add_argument(
        "--depths", type=whole_numbers, default="6,10,20,40,100", help="layers L of the abstract pipeline"
    )
    parser.add_argument("--presets", type=lambda s: s.split(","), default="reram,pcm,nand", help="hardware presets")
    parser.add_argument("--steps", type=whole_number, default="28", help="steps of the abstract recurrent layer")
    parser.add_argument("--networks", type=network_names, default=",".join(NETWORKS), help="networks, comma separated")
    parser.add_argument("--ways", type=whole_number, default="20", help="votes of the ways side by side")
    parser.add_argument("--rate", type=positive, default=100.0, help="decisions per second for the power of K votes")
    parser.add_argument("--abstract-only", action="store_true", help="leave out the chip")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, folder: Path) -> None:
    """Everything of one run, written into `folder`."""
    table = abstract_table(options.depths, options.votes)
    print_table("Abstract pipeline, section 3.3 of the paper: latency in T, power in P", table, ABSTRACT_COLUMNS)
    write_table(table, folder / "abstract")
    figures.abstract(table).savefig(folder / "latency_abstract.png")
    small = mho.schedule(stages=[1.0] * min(options.depths), votes=GANTT_VOTES, voter=1.0)
    small.gantt(folder / "gantt_abstract.png")
    loop = recurrent_table(options.steps, options.votes)
    print_table("A recurrent layer: votes fill the bubbles", loop, RECURRENT_COLUMNS)
    write_table(loop, folder / "recurrent")
    gates = mho.Stages([1.0, 1.0], names=["matrix", "gates"], steps=4)
    for name, depth in (("turns", 1), ("interleaved", None)):
        run = mho.schedule(stages=gates, votes=GANTT_VOTES, buffers=depth)
        run.gantt(folder / f"gantt_recurrent_{name}.png")
    if not options.abstract_only:
        chip_part(options, folder)
    settings = {name: value if name != "out" else str(value) for name, value in vars(options).items()}
    (folder / CONFIG).write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, and put the folder in place only when it is complete. Returns the exit code."""
    options = parse(arguments)
    out: Path = options.out
    if out.exists() and not (out / CONFIG).is_file() and not (out.is_dir() and not any(out.iterdir())):
        print(f"error: --out {out} exists and is not a former run of this benchmark", file=sys.stderr)
        return 2
    try:
        with whole_folder(out) as folder:
            run(options, folder)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
