"""Whether the standard errors of `mho.reduce` are right: the same chip many times, where the truth is known.

    python benchmarks/reduction_trials.py [--trials 300] [--images 128] [--reads 8] [--out FILE]

Chips of a convolution and two linear layers, each trial with a seed of its own and the same inputs. A row per hardware,
part and figure, over all layers: `within`, the share of the trials that are within 3 standard errors of the truth;
`ratio`, the root mean square standard error over the spread of the trials; `none`, the share that are said to be none.
The truth of the paper's noise is its sigma; that of a physical chip is that of `LONG` reads of the same cells.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

import mho

LONG = 400
PARTS = ("frozen", "slow", "fresh", "total")
SIGMAS = ("sigma_add", "sigma_mult", "frozen_add", "frozen_mult")
FIGURES = ("sigma_add", "sigma_mult", "rms")
CHIPS: dict[str, dict[str, Any]] = {
    "exact": {},
    "additive": {"sigma_add": 0.1},
    "multiplicative": {"sigma_mult": 0.4},
    "both": {"sigma_add": 0.05, "sigma_mult": 0.2},
    "frozen": {"sigma_add": 0.1, "frozen_add": 0.05, "frozen_mult": 0.2},
    "weak frozen": {"sigma_mult": 0.3, "frozen_mult": 0.1},
    "reram": {},
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 24), nn.ReLU(), nn.Linear(24, 10)
    return nn.Sequential(*layers).eval().requires_grad_(False)


def trial(name: str, net: nn.Module, x: torch.Tensor, reads: int, seed: int) -> pd.DataFrame:
    """The table of one chip; of a physical one always the same cells, and other reads."""
    if CHIPS[name] or name == "exact":
        fields = {f"output_noise.{field}": value for field, value in CHIPS[name].items()}
        chip = mho.map(net, mho.Hardware.paper().replace(fields), seed=seed)
    else:
        hardware = mho.Hardware.preset(name).replace({"sensing.v_read": 0.004, "seeds.read": seed, "seeds.program": 1})
        chip = mho.map(net, hardware, calibrate=x, seed=1)
    return mho.reduce(chip, x, reads=reads).table.assign(seed=seed)


def truth(name: str, net: nn.Module, x: torch.Tensor, table: pd.DataFrame) -> dict[tuple[str, str, str], float]:
    """By layer, part and figure."""
    found: dict[tuple[str, str, str], float] = {}
    if name == "reram":
        long = trial(name, net, x, LONG, 10**6).set_index(["layer", "part"])
        return {(*place, figure): long.loc[place, figure] for place in long.index for figure in FIGURES}
    noise = CHIPS[name]
    y_rms = table.drop_duplicates("layer").set_index("layer")["y_rms"]
    for layer, power in (y_rms**2).items():
        add, mult, kept_add, kept_mult = (noise.get(field, 0.0) for field in SIGMAS)
        sigmas = {"frozen": (kept_add, kept_mult), "slow": (0.0, 0.0)}
        # fresh noise goes with the output as it comes out, frozen noise and all
        sigmas["fresh"] = float(np.hypot(add, mult * kept_add)), float(mult * np.hypot(1, kept_mult))
        sigmas["total"] = tuple(np.hypot(sigmas["frozen"], sigmas["fresh"]).tolist())
        for part, (add, mult) in sigmas.items():
            values = (add, mult, float(np.sqrt(add**2 + mult**2 * power)))
            found |= {(str(layer), part, figure): value for figure, value in zip(FIGURES, values, strict=True)}
    return found


def summary(name: str, table: pd.DataFrame, known: dict[tuple[str, str, str], float]) -> list[dict[str, Any]]:
    rows = []
    for part in PARTS:
        groups = [group for _, group in table[table["part"] == part].groupby("layer")]
        for figure in FIGURES:
            within, ratio, none = [], [], []
            for group in groups:
                value, error = group[figure].to_numpy(), group[f"{figure}_se"].to_numpy()
                right = known[str(group["layer"].iloc[0]), part, figure]
                within.append((np.abs(value - right) <= 3 * error + 1e-6).mean())
                none.append((value == 0).mean())
                ratio.append(np.sqrt(np.square(error).mean()) / value.std() if value.std() > 1e-9 else np.nan)
            rows.append({"hardware": name, "part": part, "figure": figure, "within": np.mean(within)})
            rows[-1] |= {"worst": np.min(within), "ratio": ratio, "none": np.mean(none)}
        part_table = table[table["part"] == part]
        for figure in ("misfit", "misfit_outputs", "holds"):
            share = (part_table[figure] if figure == "holds" else part_table[figure] == 0).mean()
            rows.append({"hardware": name, "part": part, "figure": figure, "none": share})
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--reads", type=int, default=8)
    parser.add_argument("--only", nargs="*", default=list(CHIPS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    net, rows = network(), []
    x = torch.rand(options.images, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    for name in options.only:
        table = pd.concat([trial(name, net, x, options.reads, seed) for seed in range(options.trials)])
        rows += summary(name, table, truth(name, net, x, table))
        shown = pd.DataFrame([row for row in rows if row["hardware"] == name])
        print(shown.to_string(index=False, float_format="{:.3f}".format), flush=True)
    if options.out:
        pd.DataFrame(rows).to_csv(options.out, index=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
