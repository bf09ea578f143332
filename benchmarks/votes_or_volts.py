"""Votes or volts: four consequences of the physics of reads, each beside its prediction.

    python benchmarks/votes_or_volts.py [--out runs/votes_or_volts] [--images 300] [--chips 3] [--jobs 2]

1. `coefficients`: SNR(V) = S V^2 / (A + B V + C V^2), fitted to the noise of reads and predicted by the budget.
2. `volts`: K votes at a voltage V beside one read at V sqrt(K), where white additive noise rules.
3. `memory`: K reads of PCM one hour after programming, back to back and far apart.
4. `majority`: the mode of K reads beside their mean, near the threshold of a decision.

Writes a table of each (CSV and Parquet), and a figure drawn from them. The sweeps in it are resumable.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import voltage_figures as figures
from rich.console import Console
from scipy.stats import norm

import mho
from mho.crossbar.backends.compiled import Compiled
from mho.crossbar.cells import Drawn
from mho.crossbar.design import Design
from mho.crossbar.drive import Drive
from mho.crossbar.matrix import Matrix
from mho.crossbar.programmed import Programmed
from mho.crossbar.reader import Reader, Seeds
from mho.devices.budget import Coefficients, budget
from mho.devices.memory import left_of_mean
from mho.records import record, write_json
from mho.tables import write_table

Array = np.ndarray[Any, Any]
ROWS, PAIRS, SAMPLES = 128, 32, 32
VOLTS = tuple(np.geomspace(0.5, 8, 9))  # far above 2 k T / q, and so beyond what cells allow: for the closed form only
QUIET: dict[str, Any] = {  # cells and amplifiers for which no term of the closed form is small
    "cell.read_noise": {"kind": "relative", "fraction": 2e-4},
    "cell.programming": {"kind": "none"},
    "sensing.fano": 1.0,
    "sensing.amplifier_noise": "30 pA/rtHz",
}
CONVERTERS: dict[str, Any] = {"dac.bits": None, "dac.range": None, "adc.bits": None, "adc.full_scale": None}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {"reram": ("reram", {}), "pcm": ("pcm", {}), "quiet": ("reram", QUIET)}
START = (-9.0, -8.5)  # octaves from the largest voltage of ReRAM, where votes begin
VOTES = (4, 16)
LOUD = 12  # times the read noise of the PCM preset
HOUR = 3600.0
LINE = 576  # word lines of the layer whose noise is averaged
MEMORY = (1, 4, 16, 100)
NEAR = 0.08  # margin of a decision over the noise of one read
MAJORITY = (1, 3, 11, 31, 101, 201, 401, 601)
DECISIONS = 4000


def column(kind: str, seed: int = 0) -> tuple[mho.Hardware, Array, Array]:
    """Hardware, weights (rows, pairs) and inputs (samples, rows) of a tile of pairs."""
    preset, fields = KINDS[kind]
    hardware = mho.Hardware.preset(preset).replace({**CONVERTERS, "cell.v_max": None, **fields})
    rng = np.random.default_rng(seed)
    weights = rng.uniform(-1, 1, (ROWS, PAIRS)).astype(np.float32)
    weights[:2] = [[1.0], [-1.0]]  # so that each column has the same scale
    return hardware, weights, rng.uniform(-1, 1, (SAMPLES, ROWS)).astype(np.float32)


def tile(name: str, weights: Array, hardware: mho.Hardware, seed: int) -> Reader:
    """What reads weights (rows, outputs) on tiles with unscaled inputs."""
    design = Design.of(Matrix(name, weights[None], None, hardware), Drive.of(hardware.dac, None, signed=True))
    return Programmed.of(design, Drawn(hardware, seed), Seeds(seed), Compiled()).reader


def predicted(hardware: mho.Hardware, weights: Array, x: Array) -> tuple[Coefficients, Array]:
    """The closed form of the pairs, and the exact variance of the budget at `VOLTS`."""
    cell, sensing = hardware.cell, hardware.sensing
    span = cell.g_max - cell.g_min
    cells = [cell.g_min + span * np.maximum(sign * weights.astype(float), 0) for sign in (1, -1)]
    noise = np.sqrt(2) * sensing.amplifier_noise  # two bit lines
    sensing = sensing.model_copy(update={"amplifier_noise": noise})
    found = budget(np.concatenate(cells), np.concatenate([x, -x], axis=1), cell, sensing, VOLTS)
    return found.coefficients, found.variance


def measured(hardware: mho.Hardware, weights: Array, x: Array, reads: int) -> Array:
    """The variance of reads of the tile at `VOLTS`, in A^2, as `predicted` has it."""
    cell, variances = hardware.cell, []
    for seed, v in enumerate(VOLTS):  # other noise at each voltage
        at = hardware.replace({"sensing.v_read": float(v), "cell.programming": {"kind": "none"}})
        y, _ = tile("column", weights, at, seed).read(x[:, None, None, None, :], reads=reads, shared=True)
        amperes = v * (cell.g_max - cell.g_min)  # of a weight of 1 at an input of 1
        variances.append(amperes**2 * float(y.reshape(reads, SAMPLES, PAIRS).astype(float).var(axis=0, ddof=1).mean()))
    return np.array(variances)


def fit(variance: Array, error: float) -> tuple[Array, Array]:
    """A, B, C of variances at `VOLTS`, and their standard errors for a relative `error` of each variance."""
    v = np.array(VOLTS)
    powers = np.stack([np.ones_like(v), v, v**2], axis=1) / variance[:, None]
    found = np.linalg.lstsq(powers, np.ones_like(v), rcond=None)[0]
    return found, error * np.sqrt(np.diag(np.linalg.inv(powers.T @ powers)))


def coefficients_table(reads: int) -> pd.DataFrame:
    """A row per tile and coefficient: as predicted, as fitted to the exact budget, and as fitted to reads."""
    rows = []
    for kind in KINDS:
        hardware, weights, x = column(kind)
        closed, exact = predicted(hardware, weights, x)
        error = float(np.sqrt(2 / ((reads - 1) * SAMPLES * PAIRS)))
        (from_budget, _), (from_reads, errors) = fit(exact, 0.0), fit(measured(hardware, weights, x, reads), error)
        values = zip("ABC", (closed.a, closed.b, closed.c), from_budget, from_reads, errors, strict=True)
        for name, value, in_budget, in_reads, sigma in values:
            share = value * 0.2 ** "ABC".index(name) / (closed.a + closed.b * 0.2 + closed.c * 0.04)
            row = {"tile": kind, "coefficient": name, "predicted": value, "fitted_to_budget": in_budget}
            rows.append({**row, "fitted_to_reads": in_reads, "standard_error": sigma, "share_at_0.2_V": share})
    return pd.DataFrame(rows)


def run(name: str, options: argparse.Namespace, **changes: Any) -> pd.DataFrame:
    """A sweep of the MNIST CNN, without the columns that are no results."""
    asked = {
        "experiment": "accuracy",
        "model": "mnist_cnn",
        "weights": "sigma-0.5",
        "images": options.images,
        "grid": {"seed": list(range(options.chips))},
        **changes,
    }
    table = mho.sweep(asked, out=options.out / name, jobs=options.jobs)
    return table[[column for column in table if not column.endswith("_meta")]]


def volts_table(options: argparse.Namespace) -> pd.DataFrame:
    """Votes at a voltage and single reads at that voltage times sqrt(K), means over chips."""
    limit = mho.Hardware.preset("reram").cell.v_max
    assert limit is not None
    points = []
    for octave in START:
        v = limit * 2.0**octave
        points += [{"sensing.v_read": v, "votes": k, "rule": rule} for k in VOTES for rule in ("hard", "soft")]
        points += [{"sensing.v_read": v * float(np.sqrt(k)), "votes": 1, "rule": "hard"} for k in (1, *VOTES)]
    unique = list({json.dumps(point): point for point in points}.values())
    table = run("volts", options, hardware="reram", points=unique)
    by = table.groupby(["sensing.v_read", "votes", "rule"], sort=False)
    means = by[["accuracy", "array_energy_j", "inference_energy_j", "decision_energy_j"]].mean()
    means["array_energy_j"] *= means.index.get_level_values("votes")
    means["chips_std"] = by["accuracy"].std()
    return means.reset_index().drop(columns="inference_energy_j")


def memory_table(reads: int) -> pd.DataFrame:
    """Variance of the mean of K reads over that of one, of the PCM cells of a layer: predicted and as read."""
    hardware = mho.Hardware.preset("pcm").replace(
        {**CONVERTERS, "time_s": HOUR, "cell.drift": {"kind": "none"}, "cell.programming": {"kind": "none"}}
    )
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(LINE, 64)).astype(np.float32)
    x = rng.uniform(0, 1, (16, 1, 1, 1, LINE)).astype(np.float32)
    rows = []
    for interval in (hardware.sensing.t_read, None):
        at, means = hardware.replace({"sensing.read_interval": interval}), {k: np.zeros(0) for k in MEMORY}
        for seed in range(reads):
            reader = tile("layer", weights, at, seed)
            y, _ = reader.read(x, reads=max(MEMORY), shared=True)
            error = y.reshape(max(MEMORY), -1).astype(float) - reader.read(x, noisy=False)[0].reshape(-1)
            for k in MEMORY:
                means[k] = np.append(means[k], np.square(error[:k].mean(axis=0)).mean())
        part = at.cell.read_noise.parts[0]
        for k in MEMORY:
            expected = left_of_mean(part, k, interval, at.sensing.conditions(HOUR))
            found = means[k].mean() / means[1].mean()
            rows.append({"reads": k, "back_to_back": interval is not None, "predicted": expected, "measured": found})
    return pd.DataFrame(rows)


def memory_accuracy(options: argparse.Namespace) -> pd.DataFrame:
    """What votes win on PCM chips of larger read noise, with and without its memory, means over chips."""
    fields: Mapping[str, Any] = {
        "time_s": HOUR,
        "cell.drift": {"kind": "none"},
        "cell.read_noise.coefficient": 0.0088 * LOUD,
        "cell.read_noise.maximum": 1.0,
    }
    points = [{**fields, "sensing.read_interval": interval} for interval in (None, 250e-9)]
    grid = {"seed": list(range(options.chips)), "votes": [1, *VOTES]}
    table = run("memory", options, hardware="pcm", points=points, grid=grid)
    table = table.assign(back_to_back=table["sensing.read_interval"].notna())
    by = table.groupby(["back_to_back", "votes"], sort=False)["accuracy"]
    return by.agg(accuracy="mean", chips_std="std").reset_index()


def majority_table() -> pd.DataFrame:
    """Right decisions by the mode and by the mean of K reads of two outputs that differ by little."""
    net = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False)).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [0.0]]))
    chip = mho.map(net, mho.Hardware.paper(sigma_add=1 / np.sqrt(2)), seed=0)
    x = torch.full((DECISIONS, 1), NEAR)
    outputs = chip.read(x, read=0, reads=max(MAJORITY)).reshape(max(MAJORITY), DECISIONS, 2).numpy().astype(float)
    lead = outputs[..., 0] - outputs[..., 1]
    rows = []
    for k in MAJORITY:
        mode, mean = (np.sign(lead[:k]).sum(axis=0) > 0).mean(), (lead[:k].sum(axis=0) > 0).mean()
        row = {"reads": k, "mode": mode, "predicted_mode": norm.cdf(NEAR * np.sqrt(2 * k / np.pi))}
        rows.append({**row, "mean": mean, "predicted_mean": norm.cdf(NEAR * np.sqrt(k))})
    return pd.DataFrame(rows)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/votes_or_volts"))
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--chips", type=int, default=3)
    parser.add_argument("--reads", type=int, default=400, help="of the tiles whose noise is fitted")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    options.out.mkdir(parents=True, exist_ok=True)
    tables = {
        "coefficients": coefficients_table(options.reads),
        "majority": majority_table(),
        "memory": memory_table(max(1, options.reads // 20)),
        "volts": volts_table(options),
        "memory_accuracy": memory_accuracy(options),
    }
    for name, table in tables.items():
        Console().print(name, table.to_string(index=False), sep="\n")
        write_table(table, options.out / name, csv_format="%.6g")
    figures.votes_or_volts(tables).savefig(options.out / "votes_or_volts.png", dpi=130)
    asked = " ".join(f"--{name} {getattr(options, name)}" for name in ("images", "chips", "reads", "jobs"))
    found = record(("mho", "torch", "numba", "numpy", "scipy"), f"benchmarks/votes_or_volts.py {asked}")
    found |= {"seeds": list(range(options.chips)), "seconds": round(time.perf_counter() - began)}
    write_json(found, options.out / "run.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
