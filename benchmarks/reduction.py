"""How well the reduced model (`mho.reduce`) predicts the accuracy of the chip that it was made from.

    python benchmarks/reduction.py [--out runs/reduction] [--images 300] [--chips 5] [--jobs 2]

The MNIST CNN on the presets, at their own voltage and at voltages so low that it fails, with one inference and with 20
votes, beside its reduction to the paper's noise model; also with one scale for a whole tile in place of one a column.
It is a sweep: interrupted, it resumes. Writes a table (Parquet, CSV): a row per point, means over chips.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

import mho
from mho.commands.progress import shown
from mho.mapping.voting.intervals import half_of_mean
from mho.records import record, write_json
from mho.tables import write_table

POINT = 0.01  # of accuracy, that a model may be off
WAYS = ("single", "voted")
SHARED = {"tile.scale": "tile"}
EXACT: dict[str, Any] = {"cell.programming": {"kind": "none"}}
FIELDS = {"": {}, "exact cells": EXACT, "tile": SHARED, "tile, exact cells": {**SHARED, **EXACT}}
OCTAVES: dict[tuple[str, str, str], tuple[float, ...]] = {  # preset, cells, ADC range: from the largest voltage
    ("reram", "", "tracking"): (-8.5, -8.0),
    ("reram", "", "fixed"): (-5.0, -4.75),
    ("reram", "exact cells", "tracking"): (-8.5, -8.0),
    ("reram", "tile", "tracking"): (-8.0, -7.5, -7.0),
    ("reram", "tile, exact cells", "tracking"): (-8.0, -7.5),
    ("pcm", "", "tracking"): (-8.5, -8.0),
    ("pcm", "", "fixed"): (-5.0, -4.75),
    ("pcm", "exact cells", "tracking"): (-8.5, -8.0),
    ("pcm", "tile", "tracking"): (-8.0, -7.5, -7.0),
    ("pcm", "tile, exact cells", "tracking"): (-8.0, -7.5),
    ("nand", "", "tracking"): (-7.0, -6.5),
    ("nand", "", "fixed"): (-5.0, -4.75),
    ("nand", "tile", "tracking"): (-6.0, -5.5, -5.0),
}


def points() -> list[dict[str, Any]]:
    """Those of the sweep; the presets as they are come first."""
    found: list[dict[str, Any]] = [{"hardware": name} for name in ("ideal", "reram", "pcm", "nand")]
    for (preset, cells, adc), octaves in OCTAVES.items():
        limit = mho.Hardware.preset(preset).cell.v_max
        assert limit is not None
        fixed = {"adc.calibrated_at": limit} if adc == "fixed" else {}
        found += [
            {"hardware": preset, "sensing.v_read": limit * 2.0**octave, **fixed, **FIELDS[cells]} for octave in octaves
        ]
    return found


def compare(chips: pd.DataFrame) -> pd.DataFrame:
    """A row per point: accuracy of chip and model, their difference with its 95 % interval, and what the model claims.

    The interval adds what few pictures make uncertain (those of all chips together) and what few chips do. `claims`
    says that the fits hold on all chips, `agrees` that the difference is at most 1 point or within its interval of 0.
    """
    rows = []
    by = ["hardware", "sensing.v_read", "adc.calibrated_at", "tile.scale", "cell.programming"]
    for (preset, v, calibrated_at, scale, programming), group in chips.groupby(by, sort=False, dropna=False):
        exact = '"none"' in str(programming) or preset == "ideal"
        row: dict[str, Any] = {"preset": preset, "v_read": v, "adc": "tracking" if pd.isna(calibrated_at) else "fixed"}
        row |= {"scale": scale, "cells": "exact" if exact else "programmed", "chips": len(group)}
        for way in WAYS:
            found, model = group[f"chip_{way}"], group[f"model_{way}"]
            n = int(group["pictures"].sum())
            spread = half_of_mean(model - found)
            p = np.array([found.mean(), model.mean()])
            interval = float(np.hypot(spread, norm.ppf(0.975) * np.sqrt((p * (1 - p)).sum() / n)))
            off = float(p[1] - p[0])
            agrees = abs(off) <= max(POINT, interval)
            values = {"chip": p[0], "model": p[1], "off": off, "interval": interval, "agrees": agrees}
            row |= {f"{name}_{way}": value for name, value in values.items()}
        worst = group.loc[group["misfit"].idxmax()]
        row["claims"] = bool(group["holds"].all())
        rows.append(row | {"misfit": worst["misfit"], "layer": worst["layer"], "frozen": group["frozen"].max()})
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> dict[str, int]:
    """Points, each with one inference and with votes, by whether the model claims to hold and whether it agrees."""
    claims = pd.concat([table["claims"] for _ in WAYS])
    agrees = pd.concat([table[f"agrees_{way}"] for way in WAYS])
    return {
        "claimed": int(claims.sum()),
        "claimed_and_agrees": int((claims & agrees).sum()),
        "not_claimed": int((~claims).sum()),
        "not_claimed_and_agrees": int((~claims & agrees).sum()),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/reduction"))
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--chips", type=int, default=5)
    parser.add_argument("--votes", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    asked = {
        "experiment": "reduction",
        "model": "mnist_cnn",
        "weights": "sigma-0.5",
        "images": options.images,
        "calibrate": min(64, options.images),
        "hardware": "reram",
        "votes": options.votes,
        "points": points(),
        "grid": {"seed": list(range(options.chips))},
    }
    with shown("chips", every=10.0) as tell:
        chips = mho.sweep(
            asked,
            out=options.out / "sweep",
            jobs=options.jobs,
            progress=tell,
        )
    table = compare(chips)
    write_table(table, options.out / "reduction", csv_format="%.6g")
    words = " ".join(f"--{name} {getattr(options, name)}" for name in ("images", "chips", "votes", "jobs"))
    found = record(("mho", "torch", "numba", "numpy", "scipy"), f"benchmarks/reduction.py {words}")
    found |= {"seeds": list(range(options.chips)), **summary(table)}
    found["seconds"] = round(time.perf_counter() - began)
    write_json(found, options.out / "run.json")
    print(table.round(3).to_string(index=False))
    print(summary(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
