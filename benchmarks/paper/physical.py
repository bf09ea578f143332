"""Beyond the paper: its networks on physical chips, as a sweep; hard, soft and adaptive votes; trained for the chip."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

import mho
from mho.inputs import DATA_SETS
from mho.mapping.voting.intervals import of_chips
from mho.models.networks import NETWORKS
from mho.models.train import evaluate
from mho.models.weights import names

LOW_V = {"reram": 1.4e-3, "pcm": 0.8e-3, "nand": 1.6e-3}  # volts at which reads are so noisy that the CNN fails
WAYS = ("single", "hard", "soft", "adaptive")
BY = ["model", "hardware", "v_read", "sigma_mult", "weights"]
SIGMA = "output_noise.sigma_mult"


class Study(NamedTuple):
    """What of a network is measured on chips.

    weights: at the own voltage of the presets; at_low: at the low one, the same if there are none. low: the low voltage
    over that of `LOW_V`. exact: sigma_mult of a chip that has the paper's noise alone, and weights.
    """

    data: str
    weights: tuple[str, ...]
    at_low: tuple[str, ...] = ()
    low: float = 1.0
    images: int = 300
    rules: tuple[str, ...] = ("hard", "soft")
    exact: tuple[tuple[float, str], ...] = ()


STUDIES = {
    "mnist_cnn": Study("mnist", ("sigma-0.0", "sigma-0.5", "sigma-1.0")),
    "stroke_lstm": Study("strokes", ("sigma-0.0", "sigma-0.4", "sigma-0.8")),
    "densenet40": Study("cifar10", ("sigma-0.0",), ("sigma-0.2",), 5.0, 200, ("hard",), ((0.4, "sigma-0.4"),)),
}


def like(preset: str) -> str:
    """Name of the weights that are trained with the noise of a preset at its low voltage."""
    return f"like-{preset}-low"


def points(model: str) -> list[dict[str, Any]]:
    """A network with some of its weights on all presets, at their own voltage and at the low one, and in exact mode."""
    study, found = STUDIES[model], []
    for preset, low in LOW_V.items():
        own = mho.Hardware.preset(preset).sensing.v_read
        for v, weights in ((own, study.weights), (low * study.low, study.at_low or study.weights)):
            wanted = (*weights, like(preset))
            chip = {"hardware": preset, "sensing.v_read": v, SIGMA: 0.0}
            found += [{**chip, "weights": name} for name in wanted if name in names(model)]
    v = mho.Hardware.preset("ideal").sensing.v_read
    found += [{"hardware": "ideal", "sensing.v_read": v, SIGMA: s, "weights": name} for s, name in study.exact]
    return found


@cache
def digital(model: str, weights: str, images: int) -> float:
    """Accuracy of a network without a chip, on the samples that chips are measured on: the first ones."""
    inputs, labels, _ = NETWORKS[DATA_SETS[STUDIES[model].data]].load("test")
    net = getattr(mho.models, model)(weights=weights).eval()
    return evaluate(net, inputs[:images], labels[:images], batch_size=50)


def measure(model: str, out: Path, images: int, chips: int, votes: int, jobs: int) -> pd.DataFrame:
    """A row per preset, voltage and weights of a network, accuracies in per cent, means over chips.

    `single`, of one inference; `hard`, `soft` and `adaptive`, of the votes; each with half its 95 % interval `..._half`
    (few samples and few chips together); `reads`, mean number of inferences of the adaptive votes. Soft votes are none
    where the network's study has no such rule. `digital`, of the network without a chip.
    """
    study = STUDIES[model]
    images = min(images, study.images)
    asked = {
        "experiment": "voting",
        "model": model,
        "data": study.data,
        "images": images,
        "hardware": "reram",
        "votes": votes,
        "points": points(model),
        "grid": {"rule": list(study.rules), "seed": list(range(chips))},
    }
    found = mho.sweep(asked, out=out, jobs=jobs)
    found = found.assign(model=model).rename(columns={"sensing.v_read": "v_read", SIGMA: "sigma_mult"})
    found["digital"] = [100 * digital(model, weights, images) for weights in found["weights"]]
    rows = []
    for key, group in found.groupby(BY, sort=False):
        by_rule = {rule: group[group["rule"] == rule] for rule in study.rules}
        hard = by_rule["hard"]
        values = {"single": hard["single"], "hard": hard["voted"], "adaptive": hard["adaptive"]}
        if "soft" in by_rule:
            values["soft"] = by_rule["soft"]["voted"]
        row: dict[str, Any] = dict(zip(BY, key, strict=True)) | {"images": images, "chips": chips, "votes": votes}
        for way in WAYS:
            some = values.get(way)
            low, high = (float("nan"),) * 2 if some is None else of_chips(some, images)
            row |= {way: float("nan") if some is None else 100 * float(some.mean()), f"{way}_half": 50 * (high - low)}
        rows.append(row | {"reads": float(hard["mean_reads"].mean()), "digital": float(hard["digital"].iloc[0])})
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """A line for each network on each chip with each of its weights."""
    titles = ["network", "chip", "weights", "digital", "one inference", "hard vote", "soft vote", "adaptive vote"]
    lines = [f"| {' | '.join([*titles, 'its inferences'])} |", "|---" * 9 + "|"]
    for row in table.to_dict("records"):
        found = ["" if row[way] != row[way] else f"{row[way]:.1f} ± {row[f'{way}_half']:.1f}" for way in WAYS]
        chip = f"{row['hardware']}, {1e3 * row['v_read']:g} mV"
        if row["sigma_mult"]:
            chip = f"exact mode, sigma_mult {row['sigma_mult']:g}"
        parts = row["model"], chip, row["weights"], f"{row['digital']:.1f}", *found, f"{row['reads']:.1f}"
        lines += [f"| {' | '.join(parts)} |"]
    return "\n".join(lines)
