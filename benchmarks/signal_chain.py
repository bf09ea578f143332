"""The chain from a layer's inputs to its outputs, as a picture: what each part may be, read from the settings.

python benchmarks/signal_chain.py [--out docs/images/signal_chain.png]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from mho.crossbar.adc_kinds import AdcKind
from mho.crossbar.converters import Adc, Dac
from mho.crossbar.tile import Tile
from mho.devices.nonlinearity import NonlinearityModel
from mho.devices.sensing import Sensing

AMPLIFIERS = "amplifiers of bit lines"
COLOURS: dict[str, str] = {"digital": "#d8e6f5", "analog": "#fbe3c8", "noise": "#f7d3d6"}
WIDTH, STEP, LINE = 3.5, 4.0, 0.42


def choices(config: Any, field: str) -> str:
    """What a field may be, its default first."""
    info = config.model_fields[field]
    values = [v for v in get_args(info.annotation) if isinstance(v, (str, int))]
    return " | ".join(str(v) for v in sorted(values, key=lambda v: v != info.default))


def parts() -> list[tuple[str, str, list[str]]]:
    """(name, sort, lines) of each box, in the order of the chain."""
    return [
        ("inputs", "digital", ["dac.range, percentile", "codes of dac.bits"]),
        (
            "drive",
            "digital",
            [
                f"coding: {choices(Dac, 'coding')}",
                "bits_per_pulse",
                f"phases: {choices(Dac, 'phases')}",
                f"levels: {choices(Dac, 'levels')}",
            ],
        ),
        (
            "cells",
            "analog",
            [
                "tile.encoding, slices:",
                f"  {choices(Tile, 'slicing')}",
                "tile.devices: 1 to 4",
                "nonlinearity:",
                f"  {' | '.join(NonlinearityModel.registry)}",
            ],
        ),
        ("lines", "analog", ["wires: resistance,", "  pairs, order", "sensing.mode:", f"  {choices(Sensing, 'mode')}"]),
        ("noise", "noise", ["cells, thermal, shot", "amplifier, kTC or kT/C", "gain, supply", AMPLIFIERS]),
        (
            "adding up",
            "analog",
            [
                "dac.accumulate:",
                *(f"  {v}" for v in choices(Dac, "accumulate").split(" | ")),
                f"join: {choices(Tile, 'join')}",
            ],
        ),
        (
            "conversion",
            "analog",
            [
                f"polarity: {choices(Adc, 'polarity')}",
                f"per: {choices(Adc, 'per')}",
                f"span: {choices(Adc, 'span')}",
                "kind: " + " ".join(AdcKind.registry),
                "offset, gain, calibrated",
            ],
        ),
        ("outputs", "digital", ["phases, pulses, slices,", "row tiles added up", "scales, bias", "output_noise"]),
    ]


def drawn() -> Figure:
    """The picture: two rows of boxes."""
    figure = Figure(figsize=(13, 6.4), layout="constrained")
    axes = figure.add_subplot()
    boxes = parts()
    half = len(boxes) // 2
    for number, (name, sort, lines) in enumerate(boxes):
        x, y = STEP * (number % half), -3.7 * (number // half)
        box = FancyBboxPatch(
            (x, y), WIDTH, 2.6, boxstyle="round,pad=0.08", facecolor=COLOURS[sort], edgecolor="#555555"
        )
        axes.add_patch(box)
        axes.text(x + 0.08, y + 2.3, name, fontsize=12, weight="bold", va="center")
        for k, line in enumerate(lines):
            axes.text(x + 0.08, y + 1.85 - LINE * k, line, fontsize=8.6, va="center", family="monospace")
        if number + 1 < len(boxes):
            turn = number + 1 == half
            start = (x + WIDTH / 2, y - 0.1) if turn else (x + WIDTH + 0.1, y + 1.3)
            end = (WIDTH / 2, y - 1.0) if turn else (x + STEP - 0.1, y + 1.3)
            axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=14, color="#555555"))
    for k, (sort, colour) in enumerate(COLOURS.items()):
        axes.text(2.2 * k, -4.3, sort, fontsize=10, bbox={"facecolor": colour, "edgecolor": "#555555"})
    axes.set(xlim=(-0.3, STEP * half), ylim=(-4.6, 2.9))
    axes.axis("off")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/signal_chain.png"))
    options = parser.parse_args(arguments)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    drawn().savefig(options.out, dpi=110)
    print(options.out)


if __name__ == "__main__":
    main()
