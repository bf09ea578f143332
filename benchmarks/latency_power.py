"""How long K votes take and what they cost: the paper's abstract pipeline, and the MNIST CNN on each preset.

    python benchmarks/latency_power.py [--out runs/latency_power] [--votes 1,2,5,10,20,50] [--abstract-only]

Prints tables and writes them (CSV and Parquet), with figures drawn from them, into one folder. Nothing is written if
anything fails. What is counted: docs/cost.md.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import mho
from mho.mapping.closed_forms import overhead, sequential
from mho.mapping.cost import COMPONENTS, layer_costs

CONFIG = "latency_power.yaml"
GANTT_VOTES = 4
CALIBRATION_IMAGES = 256


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


def map_cnn(preset: str) -> Any:
    """The MNIST CNN, trained with noise, on one chip of a preset."""
    images, _ = mho.models.data.mnist("test")
    net = mho.models.mnist_cnn(weights="sigma-0.5")
    return mho.map(net, mho.Hardware.preset(preset), calibrate=images[:CALIBRATION_IMAGES], seed=0)


def vote_table(costs: pd.DataFrame, voter: float, votes: Sequence[int], rate: float) -> pd.DataFrame:
    """Latency, energy and power of one decision over the number of votes, from the costs of a chip's layers.

    `power_at_rate_w` is what K votes take at `rate` decisions a second (K P; missing where the pipeline is too slow for
    that rate), `power_full_w` what a pipeline that never waits takes.
    """
    stages = costs["stage_time_s"].tolist()
    energy = costs[[f"energy_{part}_j" for part in COMPONENTS]].sum()
    rows = []
    for k in votes:
        run = mho.schedule(stages=stages, votes=k, voter=voter)
        joules = k * float(costs["energy_j"].sum())
        rows.append(
            {
                "votes": k,
                "sequential_s": sequential(stages, k, voter),
                "pipelined_s": run.makespan_s,
                "overhead": overhead(stages, k, voter),
                "decision_interval_s": run.decision_interval_s,
                **{name: k * float(value) for name, value in energy.items()},
                "energy_j": joules,
                "power_at_rate_w": joules * rate if rate * run.decision_interval_s <= 1 else float("nan"),
                "power_full_w": joules / run.decision_interval_s,
            }
        )
    return pd.DataFrame(rows)


def chip_part(presets: Sequence[str], votes: Sequence[int], rate: float, folder: Path, show: Show) -> None:
    """Tables and figures of the MNIST CNN on the presets."""
    layers, decisions = [], []
    for preset in presets:
        chip = map_cnn(preset)
        costs, voter = layer_costs(chip), chip.hardware.cost.digital_time
        table = vote_table(costs, voter, votes, rate)
        layers.append(costs.assign(preset=preset))
        decisions.append(table.assign(preset=preset))
        chip.hardware.save(folder / f"hardware-{preset}.yaml")
        mho.schedule(chip, votes=GANTT_VOTES, voter=voter).gantt(folder / f"gantt_{preset}.png")
        show(f"MNIST CNN on {preset}: layers, one inference", costs, LAYER_COLUMNS)
        show(f"MNIST CNN on {preset}: one decision of K votes, power at {rate:g} decisions/s", table, VOTE_COLUMNS)
    layer_table, vote_tables = (_with_first(pd.concat(t, ignore_index=True), "preset") for t in (layers, decisions))
    write(layer_table, folder / "layers")
    write(vote_tables, folder / "votes")
    plot_chip_latency(vote_tables).savefig(folder / "latency_chip.png")
    plot_energy(vote_tables).savefig(folder / "energy.png")
    plot_power(vote_tables, rate).savefig(folder / "power.png")


def _with_first(table: pd.DataFrame, column: str) -> pd.DataFrame:
    return table[[column, *table.columns.drop(column)]]


def plot_abstract(table: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    latency, extra = figure.subplots(1, 2)
    for i, (depth, rows) in enumerate(table.groupby("depth")):
        latency.plot(rows["votes"], rows["sequential_T"], f"C{i}--o", label=f"L = {depth}, sequential: K L T")
        latency.plot(rows["votes"], rows["pipelined_T"], f"C{i}-o", label=f"L = {depth}, pipelined: (L + K) T")
        extra.plot(rows["votes"], rows["overhead"], f"C{i}-o", label=f"L = {depth}")
    _log_log(latency, "latency (T)")
    _log_log(extra, "latency overhead K / L")
    return figure


def plot_chip_latency(table: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.subplots()
    for i, (preset, rows) in enumerate(table.groupby("preset", sort=False)):
        axes.plot(rows["votes"], 1e6 * rows["sequential_s"], f"C{i}--o", label=f"{preset}, sequential")
        axes.plot(rows["votes"], 1e6 * rows["pipelined_s"], f"C{i}-o", label=f"{preset}, pipelined")
    _log_log(axes, "latency of a decision (us)")
    return figure


def plot_energy(table: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    by_preset = list(table.groupby("preset", sort=False))
    for axes, (preset, rows) in zip(figure.subplots(1, len(by_preset), squeeze=False)[0], by_preset, strict=True):
        bottom = 0.0 * rows["energy_j"]
        labels = [str(k) for k in rows["votes"]]
        for part in COMPONENTS:
            energy = 1e6 * rows[f"energy_{part}_j"]
            axes.bar(labels, energy, bottom=bottom, label=part)
            bottom = bottom + energy
        axes.set_title(str(preset))
        axes.set_xlabel("votes K")
        axes.set_ylabel("energy of a decision (uJ)")
        axes.legend(fontsize="small")
    return figure


def plot_power(table: pd.DataFrame, rate: float) -> Figure:
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.subplots()
    for i, (preset, rows) in enumerate(table.groupby("preset", sort=False)):
        axes.plot(rows["votes"], 1e3 * rows["power_at_rate_w"], f"C{i}-o", label=f"{preset}, {rate:g} decisions/s: K P")
        axes.plot(rows["votes"], 1e3 * rows["power_full_w"], f"C{i}--", label=f"{preset}, full pipeline")
    _log_log(axes, "power (mW)")
    return figure


def _log_log(axes: Axes, label: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("votes K")
    axes.set_ylabel(label)
    axes.legend(fontsize="small")


def write(table: pd.DataFrame, path: Path) -> None:
    """One table as CSV and as Parquet."""
    table.to_csv(path.with_suffix(".csv"), index=False)
    table.to_parquet(path.with_suffix(".parquet"), index=False)


# column -> (heading, factor, format)
Columns = dict[str, tuple[str, float, str]]
Show = Callable[[str, pd.DataFrame, Columns], None]
_ENERGY: Columns = {f"energy_{part}_j": (f"{part} (nJ)", 1e9, ".4g") for part in COMPONENTS}
ABSTRACT_COLUMNS: Columns = {
    "depth": ("layers L", 1, "d"),
    "votes": ("votes K", 1, "d"),
    "sequential_T": ("sequential K L (T)", 1, "g"),
    "pipelined_T": ("pipelined L + K (T)", 1, "g"),
    "overhead": ("overhead K / L", 1, ".3f"),
    "power_factor": ("power (P)", 1, "d"),
}
LAYER_COLUMNS: Columns = {
    "layer": ("layer", 1, "s"),
    "positions": ("reads", 1, "d"),
    "read_time_s": ("one read (ns)", 1e9, ".4g"),
    "stage_time_s": ("stage (us)", 1e6, ".4g"),
    **_ENERGY,
    "energy_j": ("total (nJ)", 1e9, ".4g"),
}
VOTE_COLUMNS: Columns = {
    "votes": ("votes K", 1, "d"),
    "sequential_s": ("sequential (us)", 1e6, ".5g"),
    "pipelined_s": ("pipelined (us)", 1e6, ".5g"),
    "overhead": ("overhead", 1, ".3f"),
    **_ENERGY,
    "energy_j": ("total (nJ)", 1e9, ".4g"),
    "power_at_rate_w": ("power at rate (mW)", 1e3, ".4g"),
    "power_full_w": ("power, full (mW)", 1e3, ".4g"),
}


def print_table(title: str, table: pd.DataFrame, columns: Columns) -> None:
    """A table on the terminal: the chosen columns, scaled; `-` where there is no number."""
    shown = Table(title=title, title_justify="left")
    for heading, _, _ in columns.values():
        shown.add_column(heading, justify="right")
    for row in table.to_dict("records"):
        shown.add_row(*(_cell(row[name], factor, spec) for name, (_, factor, spec) in columns.items()))
    Console(width=None if sys.stdout.isatty() else 160).print(shown)


def _cell(value: Any, factor: float, spec: str) -> str:
    if isinstance(value, str):
        return value
    return "-" if value != value else format(value * factor, spec)


def whole_numbers(text: str) -> list[int]:
    """A comma-separated list of whole numbers of at least 1."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"whole numbers of at least 1, separated by commas, got {text!r}")
    return numbers


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
    parser.add_argument("--depths", type=whole_numbers, default="6,40", help="layers L of the abstract pipeline")
    parser.add_argument("--presets", type=lambda s: s.split(","), default="reram,pcm,nand", help="hardware presets")
    parser.add_argument("--rate", type=positive, default=100.0, help="decisions per second for the power of K votes")
    parser.add_argument("--abstract-only", action="store_true", help="leave out the chip")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, folder: Path) -> None:
    """Everything of one run, written into `folder`."""
    table = abstract_table(options.depths, options.votes)
    print_table("Abstract pipeline, section 3.3 of the paper: latency in T, power in P", table, ABSTRACT_COLUMNS)
    write(table, folder / "abstract")
    plot_abstract(table).savefig(folder / "latency_abstract.png")
    small = mho.schedule(stages=[1.0] * min(options.depths), votes=GANTT_VOTES, voter=1.0)
    small.gantt(folder / "gantt_abstract.png")
    if not options.abstract_only:
        chip_part(options.presets, options.votes, options.rate, folder, print_table)
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
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
            folder = Path(scratch) / out.name
            folder.mkdir()
            run(options, folder)
            if out.exists():
                shutil.rmtree(out)
            folder.rename(out)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
