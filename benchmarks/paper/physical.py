"""Beyond the paper: its networks on physical chips, as a sweep; hard, soft and adaptive votes; trained for the chip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

import mho
from mho.mapping.voting.intervals import of_chips
from mho.models.weights import names

DATA = {"mnist_cnn": "mnist", "stroke_lstm": "strokes"}
LOW_V = {"reram": 1.4e-3, "pcm": 0.8e-3, "nand": 1.6e-3}  # volts at which reads are so noisy that the CNN fails
SHOWN = {"mnist_cnn": ("sigma-0.0", "sigma-0.5", "sigma-1.0"), "stroke_lstm": ("sigma-0.0", "sigma-0.4", "sigma-0.8")}
WAYS = ("single", "hard", "soft", "adaptive")
BY = ["model", "hardware", "v_read", "weights"]


def like(preset: str) -> str:
    """Name of the weights that are trained with the noise of a preset at its low voltage."""
    return f"like-{preset}-low"


def points() -> list[dict[str, Any]]:
    """The networks with some of their weights on all presets, at their own voltage and at the low one."""
    found = []
    for model, data in DATA.items():
        for preset, low in LOW_V.items():
            for v in (mho.Hardware.preset(preset).sensing.v_read, low):
                network = {"model": model, "data": data, "hardware": preset, "sensing.v_read": v}
                wanted = (*SHOWN[model], like(preset))
                found += [{**network, "weights": name} for name in wanted if name in names(model)]
    return found


def measure(out: Path, images: int, chips: int, votes: int, jobs: int) -> pd.DataFrame:
    """A row per network, preset, voltage and weights, accuracies in per cent, means over chips.

    `single`, of one inference; `hard`, `soft` and `adaptive`, of the votes; each with half its 95 % interval `..._half`
    (few samples and few chips together); `reads`, mean number of inferences of the adaptive votes.
    """
    asked = {
        "experiment": "voting",
        "model": "mnist_cnn",
        "images": images,
        "hardware": "reram",
        "votes": votes,
        "points": points(),
        "grid": {"rule": ["hard", "soft"], "seed": list(range(chips))},
    }
    found = mho.sweep(asked, out=out, jobs=jobs).rename(columns={"sensing.v_read": "v_read"})
    rows = []
    for key, group in found.groupby(BY, sort=False):
        hard, soft = (group[group["rule"] == rule] for rule in ("hard", "soft"))
        row: dict[str, Any] = dict(zip(BY, key, strict=True)) | {"images": images, "chips": chips, "votes": votes}
        for way, values in zip(WAYS, (hard["single"], hard["voted"], soft["voted"], hard["adaptive"]), strict=True):
            low, high = of_chips(values, images)
            row |= {way: 100 * float(values.mean()), f"{way}_half": 50 * (high - low)}
        rows.append(row | {"reads": float(hard["mean_reads"].mean())})
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """A line for each network on each chip with each of its weights."""
    lines = ["| network | chip | weights | one inference | hard vote | soft vote | adaptive vote | its inferences |"]
    lines += ["|---" * 8 + "|"]
    for row in table.to_dict("records"):
        found = [f"{row[way]:.1f} ± {row[f'{way}_half']:.1f}" for way in WAYS]
        chip = f"{row['hardware']}, {1e3 * row['v_read']:g} mV"
        lines += [f"| {row['model']} | {chip} | {row['weights']} | {' | '.join(found)} | {row['reads']:.1f} |"]
    return "\n".join(lines)
