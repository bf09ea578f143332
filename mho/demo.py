"""The demonstration: trained networks on simulated chips, classifying real MNIST test images."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
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
from .demo_page import demo_page
from .mapping.chip import Chip
from .mapping.convert import map as map_model
from .mapping.report import Report
from .mapping.reports.page import Page
from .mapping.voting.intervals import Accuracy
from .mapping.voting.votes import vote
from .models import mnist_cnn
from .models.data import mnist
from .sweeps.workers import spread

PRESETS = ("reram", "pcm", "nand")
HARDWARE = {
    "ideal": Hardware.preset("ideal"),
    **{name: Hardware.preset(name) for name in PRESETS},
    "paper 0.6": Hardware.paper(sigma_mult=0.6),  # the paper's multiplicative noise, strong enough to need votes
}
DIGITAL = "digital"
WEIGHTS = ("sigma-0.0", "sigma-0.5")
CALIBRATION_IMAGES = 256
ERROR_IMAGES = 200
PAGE_IMAGES = 32
BATCH = 250


@dataclass(frozen=True)
class Settings:
    """What a demonstration runs: test images for one inference, for votes, and votes of each."""

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
    pages: of the chips with the last of the weights, by preset.
    """

    accuracy: pd.DataFrame
    votes: pd.DataFrame
    layers: pd.DataFrame
    errors: pd.DataFrame
    conductance: pd.DataFrame
    reports: dict[tuple[str, str], Report]
    pages: dict[str, Page]
    seconds: float


@dataclass
class _Part:
    """What one chip, or the digital network, adds to the tables."""

    accuracy: list[dict[str, Any]]
    votes: list[dict[str, Any]]
    errors: list[dict[str, Any]]
    conductance: list[dict[str, Any]]
    report: Report | None
    page: Page | None
    said: str


def run(settings: Settings, jobs: int = 1, step: Callable[[int, int, str], None] = lambda *_: None) -> Results:
    """Run it in `jobs` processes; `step` is told what is finished: how many chips and networks, of how many, and which.

    The results are the same bits whatever `jobs`.
    """
    began = time.perf_counter()
    places = [(weights, name) for weights in WEIGHTS for name in (DIGITAL, *HARDWARE)]
    calls = [(place, *place, settings) for place in places]
    found: dict[tuple[str, str], _Part] = {}
    step(0, len(places), "")
    with closing(spread(_part, calls, min(jobs, len(calls)))) as parts:
        for place, part in parts:
            found[place] = part
            step(len(found), len(places), part.said)
    reports = {place: part.report for place in places if (part := found[place]).report is not None}
    tables = {
        name: pd.DataFrame([row for place in places for row in getattr(found[place], name)])
        for name in ("accuracy", "votes", "errors", "conductance")
    }
    pages = {name: part.page for (_, name), part in found.items() if part.page is not None}
    layers = [report.table.assign(weights=weights, hardware=name) for (weights, name), report in reports.items()]
    return Results(
        **tables,
        layers=pd.concat(layers, ignore_index=True),
        reports=reports,
        pages={name: pages[name] for name in PRESETS if name in pages},
        seconds=time.perf_counter() - began,
    )


def _part(place: tuple[str, str], weights: str, name: str, settings: Settings) -> tuple[tuple[str, str], _Part]:
    """The part of a network on some hardware."""
    images, labels = mnist("test")
    images, labels = images[: settings.images], labels[: settings.images]
    net = mnist_cnn(weights=weights).eval()
    if name == DIGITAL:
        exact = _digital(net, images, labels)
        return place, _Part(
            [_row(weights, name, "exact", exact)], [], [], [], None, None, f"{weights}: digital {exact}"
        )
    chip = map_model(net, HARDWARE[name], calibrate=images[:CALIBRATION_IMAGES], seed=settings.seed)
    once, curve = _votes(chip, images, labels, settings, noisy=name != "ideal")
    where = {"weights": weights, "hardware": name}
    known = name in PRESETS
    report = chip.report()
    return place, _Part(
        accuracy=[_row(weights, name, "1 read", once), _row(weights, name, f"{settings.votes} votes", curve[-1])],
        votes=[{**where, "votes": k, **_interval(a)} for k, a in enumerate(curve, start=1)],
        errors=[{**where, **error} for error in layer_errors(chip, images[:ERROR_IMAGES])] if known else [],
        conductance=[{**where, **shares} for shares in conductances(chip)] if known else [],
        report=report,
        page=report.page(images[:PAGE_IMAGES], votes=curve) if known and weights == WEIGHTS[-1] else None,
        said=f"{weights} on {name}: {once} in one inference, {curve[-1]} by {settings.votes} votes",
    )


def _votes(
    chip: Chip, images: torch.Tensor, labels: torch.Tensor, settings: Settings, noisy: bool
) -> tuple[Accuracy, list[Accuracy]]:
    """One inference of all images, and the accuracy over the votes of the first; its first votes are inferences too.

    Without noise all inferences are alike, and one stands for all votes.
    """
    first = min(settings.vote_images, len(images))
    few = vote(chip, images[:first], settings.votes if noisy else 1, batch_size=BATCH)
    curve = few.accuracy_over_votes(labels[:first])
    right = int((few.winners[:, 0] == labels[:first]).sum())
    if first < len(images):
        rest = vote(chip, images[first:], 1, batch_size=BATCH, first_sample=first)
        right += int((rest.classes == labels[first:]).sum())
    return Accuracy(right, len(images)), curve if noisy else curve * settings.votes


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
    for name, page in results.pages.items():
        page.write(folder / f"{name}.html")
    demo_page(results.accuracy, results.votes, results.errors, tuple(results.pages)).write(folder / "report.html")


def show(results: Results, console: Console) -> None:
    """Print the tile reports and the table of accuracies."""
    for (trained, name), report in results.reports.items():
        if name in PRESETS and trained == WEIGHTS[-1]:
            console.print(str(report), soft_wrap=True, highlight=False)
            console.print()
    table = Table(title="accuracy on MNIST test images, with 95 % intervals")
    kinds = list(dict.fromkeys(results.accuracy["inference"]))[1:]
    shots = [int(results.accuracy.loc[results.accuracy["inference"] == kind, "images"].iloc[0]) for kind in kinds]
    for title in ("weights", "hardware", *(f"{kind} ({n:,} images)" for kind, n in zip(kinds, shots, strict=True))):
        table.add_column(title)
    for (weights, hardware), group in results.accuracy.groupby(["weights", "hardware"], sort=False):
        shares = 100 * group[["accuracy", "low", "high"]].to_numpy()
        cells = [f"{share:.2f} % [{low:.2f}, {high:.2f}]" for share, low, high in shares]
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
                "error": float(
                    (output - exact).double().square().mean().sqrt() / exact.double().square().mean().sqrt()
                ),
            }
        )

    hooks = [layer.register_forward_hook(compare, prepend=True) for layer in chip.layers.values()]  # before folds
    try:
        chip.read(images, read=0)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def conductances(chip: Chip) -> list[dict[str, float]]:
    """Cells of the whole chip by conductance."""
    cells = np.sum([packed.histogram for layer in chip.layers.values() for packed in layer.tiles.packed], axis=0)
    width = HISTOGRAM_TOP * chip.hardware.cell.g_max / BINS
    return [{"g": (i + 0.5) * width, "cells": int(count)} for i, count in enumerate(cells)]


def _digital(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Accuracy:
    with torch.inference_mode():
        right = [
            int((net(images[i : i + BATCH]).argmax(1) == labels[i : i + BATCH]).sum())
            for i in range(0, len(images), BATCH)
        ]
    return Accuracy(sum(right), len(images))


def _interval(accuracy: Accuracy) -> dict[str, Any]:
    return {"images": accuracy.n, "accuracy": float(accuracy), "low": accuracy.low, "high": accuracy.high}


def _row(weights: str, hardware: str, inference: str, accuracy: Accuracy) -> dict[str, Any]:
    return {"weights": weights, "hardware": hardware, "inference": inference, **_interval(accuracy)}
