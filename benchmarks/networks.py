"""Networks of timm, transformers and torch on tiles: what share, how exact, how noisy, how fast, how large.

    python benchmarks/networks.py [--only PATTERN] [--threads 2] [--again]      docs/results/networks/networks.csv
    python benchmarks/networks.py --table                                       its rows as in docs/networks.md

Each network is mapped in a process of its own, on `ideal` and on the presets, with random weights. A network that was
measured is left out (`--again` measures it once more), so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch
from network_list import NETWORKS, built
from torch.utils._pytree import tree_leaves, tree_map

import mho
from mho.mapping.check import Check
from mho.records import record, write_json
from mho.tables import Column, print_table

RESULTS = Path(__file__).resolve().parents[1] / "docs/results/networks"
PRESETS = ("reram", "pcm", "nand")
COLUMNS = {
    "network": Column("network", "s"),
    "parameters": Column("parameters (M)", ".1f", 1e-6),
    "parameters_on_tiles": Column("on tiles (%)", ".1f", 100),
    "macs_on_tiles": Column("MACs on tiles (%)", ".1f", 100),
    "tiles": Column("tiles", ",.0f"),
    "error_torch": Column("torch, 32 bits", ".0e"),
    "error_ideal": Column("ideal", ".0e"),
    "error_reram": Column("reram (%)", ".0f", 100),
    "error_pcm": Column("pcm (%)", ".0f", 100),
    "error_nand": Column("nand (%)", ".0f", 100),
    "ratio": Column("time / torch", ".1f"),
    "map_cpu_s": Column("map (s)", ".0f"),
    "memory": Column("memory / weights", ".1f"),
}
RUNS = 3  # timed
LONGEST = 1800  # seconds of a network
GIB = 2**30


def first_tensor(output: Any) -> torch.Tensor:
    """The logits of an output of any kind, or what else comes first in it."""
    named = output.to_tuple() if hasattr(output, "to_tuple") else output
    return next(x for x in tree_leaves(named) if isinstance(x, torch.Tensor) and x.is_floating_point())


def call(network: Any, inputs: Any, **more: Any) -> torch.Tensor:
    return first_tensor(network(**inputs, **more) if isinstance(inputs, dict) else network(inputs, **more))


def difference(wanted: torch.Tensor, got: torch.Tensor) -> float:
    """Relative RMS."""
    return float((wanted.double() - got.double()).norm() / wanted.double().norm())


@torch.no_grad()
def measured(name: str, threads: int) -> dict[str, Any]:
    """What the table says of a network."""
    torch.set_num_threads(threads)
    network, inputs = built(name)
    wanted = call(network, inputs)
    row: dict[str, Any] = {"network": name, "parameters": sum(p.numel() for p in network.parameters())}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    chip = mho.map(network, mho.Hardware.preset("reram"), calibrate=inputs)
    row["map_cpu_s"] = time.process_time() - began
    row["error_reram"] = difference(wanted, call(chip, inputs))
    row["memory"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (4 * row["parameters"])
    row |= covered(chip)
    with suppress(RuntimeError):  # products of experts have no form in 64 bits
        row["error_torch"] = difference(call(copy.deepcopy(network).double(), doubled(inputs)), wanted)
    row["torch_cpu_s"], noisy = seconds(network, chip, inputs)
    row["ratio"] = noisy / row["torch_cpu_s"]
    for preset in ("ideal", *PRESETS[1:]):
        del chip
        chip = mho.map(network, mho.Hardware.preset(preset), calibrate=inputs)
        row[f"error_{preset}"] = difference(wanted, call(chip, inputs))
    return row


def seconds(network: Any, chip: mho.Chip, inputs: Any) -> tuple[float, float]:
    """CPU seconds of a call of each, in turn: medians."""
    found: tuple[list[float], list[float]] = [], []
    for _ in range(RUNS):
        for which, times in zip((network, chip), found, strict=True):
            began = time.process_time()
            call(which, inputs)
            times.append(time.process_time() - began)
    return median(found[0]), median(found[1])


def doubled(inputs: Any) -> Any:
    """Inputs in 64 bits."""
    return tree_map(lambda x: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x, inputs)


def covered(chip: mho.Chip) -> dict[str, Any]:
    """How much of a network is on tiles."""
    report, cover = chip.report(), chip.cover
    assert cover is not None
    assert isinstance(cover.check, Check)
    return {
        "layers": len(chip.layers),
        "tiles": int(report.table["tiles"].sum()),
        "parameters_on_tiles": cover.on_tiles / cover.parameters,
        "macs_on_tiles": cover.check.macs_on_tiles / cover.check.macs,
    }


def attempt(name: str, threads: int) -> dict[str, Any]:
    """The row of a network, measured in a process of its own, or why there is none."""
    command = [sys.executable, __file__, "--one", name, "--threads", str(threads)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return {"network": name, "failed": f"not done in {LONGEST} s"}
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if line and not line.startswith(" ")]
        return {"network": name, "failed": said[-1][:300] if said else f"exit status {done.returncode}"}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="networks whose names match, in shell wildcards")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--again", action="store_true", help="measure those that are in the table too")
    parser.add_argument("--table", action="store_true", help="print what was measured as Markdown, and measure nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        warnings.simplefilter("ignore")
        print(json.dumps(measured(options.one, options.threads)))
        return
    path = RESULTS / "networks.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    if options.table:
        print_table("networks", pd.DataFrame(rows), COLUMNS, markdown=True)
        return
    known = {row["network"] for row in rows if not options.again and not isinstance(row.get("failed"), str)}
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in NETWORKS:
        if name in known or not fnmatchcase(name, options.only):
            continue
        row = attempt(name, options.threads)
        rows = [other for other in rows if other["network"] != name] + [row]
        rows.sort(key=lambda other: list(NETWORKS).index(other["network"]))
        pd.DataFrame(rows).to_csv(path, index=False, float_format="%.4g")
        write_json(record(["mho", "torch", "timm", "transformers"], "benchmarks/networks.py"), RESULTS / "run.json")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
