"""The demonstration: trained networks on simulated chips, classifying real MNIST test pictures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from rich.console import Console
from rich.table import Table
from torch import nn

from . import figures
from .crossbar.hardware import Hardware
from .crossbar.row_tile import BINS, HISTOGRAM_TOP
from .mapping.chip import Chip
from .mapping.convert import map as map_model
from .mapping.report import Report
from .models import mnist_cnn
from .models.data import mnist
from .models.votes import Accuracy, vote

PRESETS = ("reram", "pcm", "nand")
HARDWARE = {
    "ideal": Hardware.preset("ideal"),
    **{name: Hardware.preset(name) for name in PRESETS},
    "paper 0.6": Hardware.paper(sigma_mult=0.6),  # the paper's multiplicative noise, strong enough to need votes
}
WEIGHTS = ("sigma-0.0", "sigma-0.5")
CALIBRATION_IMAGES = 256
ERROR_IMAGES = 200
BATCH = 250


@dataclass(frozen=True)
class Settings:
    """What a demonstration runs: test pictures for one inference, for votes, and votes of each."""

    images: int = 10_000
    vote_images: int = 1_000
    votes: int = 20
    seed: int = 0


@dataclass
class Results:
    """Tables of a demonstration, and the mapping reports by weights and preset.

    accuracy: weights, hardware, inference (digital, 1 read, K votes), images, accuracy, low, high.
    votes: weights, hardware, votes, accuracy, low, high.
    layers: the reports' tables with weights and hardware.
    errors: weights, hardware (presets), layer, error (of its output, relative RMS), in one noisy inference.
    conductance: weights, hardware (presets), g (siemens, middle of a bin), cells.
    """

    accuracy: pd.DataFrame
    votes: pd.DataFrame
    layers: pd.DataFrame
    errors: pd.DataFrame
    conductance: pd.DataFrame
    reports: dict[tuple[str, str], Report]
    seconds: float


def run(settings: Settings, step: Callable[[str], None] = lambda text: None) -> Results:
    """Run it; `step` is told what comes next, once for each of `steps(settings)`."""
    began = time.perf_counter()
    images, labels = mnist("test")
    images, labels = images[: settings.images], labels[: settings.images]
    rows: dict[str, list[Any]] = {"accuracy": [], "votes": [], "layers": [], "errors": [], "conductance": []}
    reports = {}
    for weights in WEIGHTS:
        net = mnist_cnn(weights=weights).eval()
        step(f"{weights}: digital")
        rows["accuracy"].append(_row(weights, "digital", "exact", _digital(net, images, labels)))
        for name, hardware in HARDWARE.items():
            place = {"weights": weights, "hardware": name}
            step(f"{weights} on {name}: mapping")
            chip = map_model(net, hardware, calibrate=images[:CALIBRATION_IMAGES], seed=settings.seed)
            step(f"{weights} on {name}: {len(images)} pictures")
            rows["accuracy"].append(_row(weights, name, "1 read", _once(chip, images, labels)))
            step(f"{weights} on {name}: {settings.votes} votes")
            few, few_labels = images[: settings.vote_images], labels[: settings.vote_images]
            curve = vote(chip, few, settings.votes, batch_size=BATCH).accuracy_over_votes(few_labels)
            rows["accuracy"].append(_row(weights, name, f"{settings.votes} votes", curve[-1]))
            rows["votes"] += [{**place, "votes": k, **_interval(a)} for k, a in enumerate(curve, start=1)]
            if name in PRESETS:
                rows["errors"] += [{**place, **error} for error in layer_errors(chip, images[:ERROR_IMAGES])]
                rows["conductance"] += [{**place, **found} for found in conductances(chip)]
            reports[weights, name] = chip.report()
            rows["layers"].append(reports[weights, name].table.assign(**place))
    layers = pd.concat(rows.pop("layers"), ignore_index=True)
    tables = {name: pd.DataFrame(found) for name, found in rows.items()}
    return Results(**tables, layers=layers, reports=reports, seconds=time.perf_counter() - began)


def steps(settings: Settings) -> int:
    """How often `run` reports a step."""
    return len(WEIGHTS) * (1 + 3 * len(HARDWARE))


def write(results: Results, settings: Settings, folder: Path) -> None:
    """Fill a run folder: settings, hardware as resolved, tables, figures drawn from the tables, reports."""
    text = {"command": "mho demo", **vars(settings), "weights": list(WEIGHTS), "hardware": list(HARDWARE)}
    (folder / "run.yaml").write_text(yaml.safe_dump(text, sort_keys=False), encoding="utf-8")
    for name, hardware in HARDWARE.items():
        hardware.save(folder / f"hardware-{name.replace(' ', '-')}.yaml")
    for name in ("accuracy", "votes", "layers", "errors", "conductance"):
        getattr(results, name).to_csv(folder / f"{name}.csv", index=False)
    report = "\n\n".join(f"weights {weights}, {text}" for (weights, _), text in results.reports.items())
    (folder / "report.txt").write_text(report + "\n", encoding="utf-8")
    figures.accuracy_over_votes(results.votes, results.accuracy).savefig(folder / "accuracy_over_votes.png", dpi=150)
    figures.conductances(results.conductance).savefig(folder / "conductances.png", dpi=150)
    figures.layer_errors(results.errors).savefig(folder / "layer_errors.png", dpi=150)


def show(results: Results, console: Console) -> None:
    """Print the tile reports and the table of accuracies."""
    for (trained, name), report in results.reports.items():
        if name in PRESETS and trained == WEIGHTS[-1]:
            console.print(str(report), soft_wrap=True, highlight=False)
            console.print()
    table = Table(title="accuracy on MNIST test pictures, with 95 % intervals")
    kinds = list(dict.fromkeys(results.accuracy["inference"]))[1:]
    shots = [int(results.accuracy.loc[results.accuracy["inference"] == kind, "images"].iloc[0]) for kind in kinds]
    for title in ("weights", "hardware", *(f"{kind} ({n:,} pictures)" for kind, n in zip(kinds, shots, strict=True))):
        table.add_column(title)
    for (weights, hardware), group in results.accuracy.groupby(["weights", "hardware"], sort=False):
        cells = [f"{a:.2%} [{low:.2%}, {high:.2%}]" for a, low, high in group[["accuracy", "low", "high"]].to_numpy()]
        table.add_row(str(weights), str(hardware), *cells)
    console.print(table)
    console.print(
        "Votes on one chip average its fresh read noise; the errors of its programming stay. paper 0.6: "
        "the paper's multiplicative noise on the outputs, sigma 0.6."
    )


def layer_errors(chip: Chip, images: torch.Tensor) -> list[dict[str, Any]]:
    """Relative RMS error of each layer's output in one noisy inference, against the digital layer on the same input."""
    found = []

    def compare(layer: Any, inputs: Any, output: torch.Tensor) -> None:
        exact = layer.digital(inputs[0])
        found.append(
            {
                "layer": layer.name,
                "error": float((output - exact).square().mean().sqrt() / exact.square().mean().sqrt()),
            }
        )

    hooks = [layer.register_forward_hook(compare) for layer in chip.layers.values()]
    try:
        chip.read(images, read=0)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def conductances(chip: Chip) -> list[dict[str, float]]:
    """Cells of the whole chip by conductance."""
    cells = np.sum([p.histogram for layer in chip.layers.values() for p in layer.matrix.programmed], axis=0)
    width = HISTOGRAM_TOP * chip.hardware.cell.g_max / BINS
    return [{"g": (i + 0.5) * width, "cells": int(count)} for i, count in enumerate(cells)]


def _digital(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Accuracy:
    with torch.inference_mode():
        right = [
            int((net(images[i : i + BATCH]).argmax(1) == labels[i : i + BATCH]).sum())
            for i in range(0, len(images), BATCH)
        ]
    return Accuracy(sum(right), len(images))


def _once(chip: Chip, images: torch.Tensor, labels: torch.Tensor) -> Accuracy:
    return vote(chip, images, 1, batch_size=BATCH).accuracy(labels)


def _interval(accuracy: Accuracy) -> dict[str, Any]:
    return {"images": accuracy.n, "accuracy": float(accuracy), "low": accuracy.low, "high": accuracy.high}


def _row(weights: str, hardware: str, inference: str, accuracy: Accuracy) -> dict[str, Any]:
    return {"weights": weights, "hardware": hardware, "inference": inference, **_interval(accuracy)}
