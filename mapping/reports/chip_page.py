"""The page of a chip: what is where, what it is off, what its converters do, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from ...crossbar.row_tile import BINS, HISTOGRAM_TOP
from ..architecture.cost import layer_costs
from ..errors import MappingError
from ..inputs.batches import Batch
from ..layers import TileLayer
from .measured import Counted, Measured, measure
from .network import height_of, network_figure, nodes_of
from .page import COLOURS, Figure, Page, axis_of_votes, engineering, number
from .tile_maps import chosen, figure_of, maps_of

FEW = 40  # layers whose bars have room for their names


class Votes(Protocol):
    """An accuracy with its interval: `mho.vote(...).accuracy_over_votes(labels)` gives some."""

    low: float
    high: float

    def __float__(self) -> float: ...


class Explained(Protocol):
    """What `mho.explain` returns."""

    layers: pd.DataFrame
    sources: pd.DataFrame

    @property
    def findings(self) -> list[str]: ...
    @property
    def classes(self) -> bool: ...


class Reduced(Protocol):
    """What `mho.reduce` returns."""

    sources: pd.DataFrame


class ChipPage:
    """Collects the sections of a chip's page."""

    def __init__(self, report: Any, chip: Any, batches: Sequence[Batch]) -> None:
        self.report, self.chip = report, chip
        self.layers: Mapping[str, TileLayer] = chip.layers
        self.measured: Mapping[str, Measured] = measure(chip, batches) if batches else {}
        self.costs: pd.DataFrame | None = None
        self.no_costs = ""
        try:
            self.costs = layer_costs(chip)
        except MappingError as error:
            self.no_costs = str(error)
        self.page = Page(f"Chip: {report.title}", "Made by Mho. This file needs no network.")

    def summary(self) -> None:
        """What stands out, and the report's text."""
        table, cover = self.report.table, self.report.cover
        cards = {
            "layers on tiles": f"{len(table):,}",
            "tiles": f"{int(table['tiles'].sum()):,}",
            "cells in use": f"{int(table['cells'].sum()):,}",
            "of the parameters are on tiles": f"{100 * cover.on_tiles / max(1, cover.parameters):.1f} %",
        }
        if self.costs is not None:
            cards["energy of an inference"] = engineering(float(self.costs["energy_j"].sum()), "J")
            cards["area"] = f"{1e6 * float(self.costs['area_m2'].sum()):.3g} mm2"
        self.page.section("")
        self.page.cards(cards)
        self.page.section("What the mapping says")
        self.page.html(f"<details><summary>as text</summary><pre>{_escaped(str(self.report))}</pre></details>")
        self.page.table(self._table(), text=("layer",))

    def _table(self) -> pd.DataFrame:
        table = self.report.table
        found = pd.DataFrame(
            {
                "layer": table["layer"],
                "weights": [f"{a} x {b}" for a, b in zip(table["outputs"], table["inputs"], strict=True)],
                "tiles": table["tiles"],
                "cells": table["cells"],
                "in use, %": 100 * table["utilisation"],
                "weight error, %": 100 * table["weight_rmse"],
            }
        )
        if self.measured:
            found["output error, %"] = [100 * self.measured[name].error for name in table["layer"]]
        if self.costs is not None:
            found["energy, nJ"] = 1e9 * self.costs["energy_j"].to_numpy()
            found["time, us"] = 1e6 * self.costs["stage_time_s"].to_numpy()
            found["multiply-accumulates"] = self.costs["operations"].to_numpy() // 2
        return found

    def network(self) -> None:
        """The network coloured by what can be known."""
        nodes = nodes_of(self.chip.trace, tuple(self.layers))
        table = self._table().set_index("layer")
        words = {
            str(name): "<br>".join(
                f"{key}: {number(float(value)) if isinstance(value, float) else value}" for key, value in row.items()
            )
            for name, row in table.to_dict("index").items()
        }
        known = ("output error, %", "weight error, %", "energy, nJ", "time, us", "multiply-accumulates")
        figures = {
            name: network_figure(
                nodes,
                {str(key): float(value) for key, value in table[name].items()},
                name,
                words,
            )
            for name in known
            if name in table
        }
        said = "Squares are layers on tiles, dots digital work between them; the input is at the top."
        if not self.chip.trace:
            said += " No inference was recorded, so the layers stand in a row."
        self.page.section("The network", said)
        self.page.figures(figures, "coloured by", height=height_of(nodes))

    def conductances(self) -> None:
        """The histogram of each layer."""
        self.page.section(
            "Conductances", "Cells in use by their conductance, as they were programmed and have drifted."
        )
        figures = {"all layers": _conductances(self.layers.values())}
        figures |= {name: _conductances([layer]) for name, layer in self.layers.items()}
        self.page.figures(figures, "layer", height=340)

    def tiles(self, asked: Sequence[tuple[str, int]]) -> None:
        """Maps of the tiles asked for, and of the worst."""
        places = chosen(self.layers, asked)
        figures: dict[str, Figure] = {}
        for tile in sorted(maps_of(self.layers, places), key=lambda tile: places.index((tile.layer, tile.tile))):
            rows, columns = tile.siemens.shape
            figures[f"{tile.layer}, tile {tile.tile} ({rows} x {columns} cells)"] = figure_of(tile)
        self.page.section(
            "Tiles",
            "Each square is a cell, in its place. Drag to zoom in, down to single cells; a double click zooms out. The "
            "error of a cell is its difference from what it was programmed to. "
            + ("The tiles that you asked for come first; then those" if asked else "These are the tiles")
            + " with the largest weight errors, as many as fit.",
        )
        self.page.figures(figures, "tile", height=560)

    def converters(self) -> None:
        """What converters take and see."""
        figures = {}
        for name, found in self.measured.items():
            if found.inputs is not None:
                figures[f"{name}: inputs of the DACs"] = _histogram(found.inputs, "input", COLOURS[0])
            if found.readings is not None:
                figures[f"{name}: readings of the ADCs"] = _histogram(found.readings, "ADC code", COLOURS[1])
        self.page.section(
            "Converters",
            "Of the inputs given, on a logarithmic scale. Dashed lines are the ends of the range: what lies outside is "
            "clipped. Readings are shown before they are rounded, without noise, for the first group of the layer.",
        )
        self.page.figures(figures, "layer and converter", height=340)

    def errors(self, reduction: Reduced | None) -> None:
        """What layers are off, and by which source."""
        if self.measured:
            self.page.section(
                "Errors of layers", "RMS error of the outputs of each layer in one noisy read, relative to their RMS."
            )
            errors = [(name, 100 * found.error) for name, found in self.measured.items()]
            self.page.figure(_bars([("error", errors)], "%"), height=_height(len(errors)), label="errors of layers")
        if reduction is None:
            return
        self.page.section(
            "Errors by source",
            "Mean squared error of the outputs of each layer by its source, as predicted from devices and sensing: "
            "frozen is the same in all reads, slow lasts over some, fresh differs from read to read.",
        )
        table = reduction.sources
        series = [
            (f"{part}: {source}", [(str(n), float(v)) for n, v in zip(rows["layer"], rows["variance"], strict=True)])
            for (part, source), rows in table.groupby(["part", "source"], sort=False)
            if float(rows["variance"].abs().sum()) > 0
        ]
        self.page.figure(
            _bars(series, "squared error", share=True), _height(table["layer"].nunique()), "errors by source"
        )

    def costs_by_component(self) -> None:
        """Energy and area by component, time by layer."""
        if self.costs is None:
            self.page.section("Energy, area and time", f"Not known: {self.no_costs}.")
            return
        costs = self.costs
        self.page.section(
            "Energy, area and time",
            "Of one inference. Left out: " + ", ".join(self.report.uncounted) + ".",
        )

        def series(kind: str, unit: str, factor: float) -> list[tuple[str, list[tuple[str, float]]]]:
            columns = [c for c in costs.columns if c.startswith(f"{kind}_") and c != f"{kind}_{unit}"]
            return [
                (
                    column.removeprefix(f"{kind}_").removesuffix(f"_{unit}"),
                    [(str(n), factor * float(v)) for n, v in zip(costs["layer"], costs[column], strict=True)],
                )
                for column in columns
                if float(costs[column].sum()) > 0
            ]

        times = [(str(n), 1e6 * float(v)) for n, v in zip(costs["layer"], costs["stage_time_s"], strict=True)]
        figures = {
            "energy": _bars(series("energy", "j", 1e9), "nJ"),
            "area": _bars(series("area", "m2", 1e6), "mm2"),
            "time": _bars([("all reads of an inference", times)], "us"),
        }
        self.page.figures(figures, "what", height=_height(len(costs)))

    def votes(self, curve: Sequence[Votes]) -> None:
        """Accuracy over votes."""
        self.page.section("Votes", "Accuracy after so many inferences of each sample, with 95 % intervals.")
        k = list(range(1, len(curve) + 1))
        values = [100 * float(v) for v in curve]
        errors = {
            "type": "data",
            "symmetric": False,
            "array": [100 * v.high - value for v, value in zip(curve, values, strict=True)],
            "arrayminus": [value - 100 * v.low for v, value in zip(curve, values, strict=True)],
        }
        line = {"type": "scatter", "x": k, "y": values, "mode": "lines+markers", "error_y": errors}
        line |= {"line": {"color": COLOURS[0]}, "hovertemplate": "%{x} votes: %{y:.2f} %<extra></extra>"}
        layout = {"xaxis": axis_of_votes(len(k)), "yaxis": {"title": {"text": "accuracy (%)"}}}
        self.page.figure({"data": [line], "layout": layout}, 340, "accuracy over votes")

    def explanation(self, found: Explained) -> None:
        """What was found to cost accuracy."""
        self.page.section("What costs accuracy", *found.findings)
        factor, unit = (100, "points of accuracy") if found.classes else (1, "mean squared error")
        whole = found.sources[found.sources["layer"] == "all"]
        figures = {
            what: _bars(
                [(said, [(str(n), factor * float(v)) for n, v in zip(table[by], table[key], strict=True)])
                 for key, said in (("gain", "gain without it"), ("cost", "cost of it alone")) if key in table],
                unit, stacked=False,
            )
            for what, table, by in (("layers", found.layers, "layer"), ("sources of error", whole, "source"))
            if len(table)
        }  # fmt: skip
        if figures:
            self.page.figures(figures, "by", height=_height(max(len(found.layers), len(whole))))


def _conductances(layers: Iterable[TileLayer]) -> Figure:
    lines: dict[str, Any] = {"x": [], "y": []}
    for layer in layers:
        histogram = np.sum([packed.histogram for packed in layer.tiles.packed], axis=0)
        width = 1e6 * HISTOGRAM_TOP * layer.hardware.cell.g_max / BINS
        x = (np.arange(BINS) + 0.5) * width
        if len(lines["x"]) and np.array_equal(lines["x"], x):
            lines["y"] = np.asarray(lines["y"]) + histogram
        elif not len(lines["x"]):
            lines = {"x": x, "y": histogram}
    data = {"type": "bar", **lines, "marker": {"color": COLOURS[2]}}
    data["hovertemplate"] = "%{x:.4g} uS: %{y} cells<extra></extra>"
    layout = {
        "xaxis": {"title": {"text": "conductance (uS)"}},
        "yaxis": {"title": {"text": "cells"}, "type": "log", "exponentformat": "power", "dtick": 1},
        "bargap": 0,
    }
    return {"data": [data], "layout": layout}


def _histogram(found: Counted, what: str, colour: str) -> Figure:
    middles = (found.edges[1:] + found.edges[:-1]) / 2
    bars = {"type": "bar", "x": middles, "y": found.counts, "marker": {"color": colour}}
    bars |= {"width": np.diff(found.edges), "hovertemplate": "%{x:.4g}: %{y}<extra></extra>"}
    ends = [] if found.low is None else [found.low, found.high]
    lines = [
        {"type": "line", "x0": at, "x1": at, "yref": "paper", "y0": 0, "y1": 1}
        | {"line": {"dash": "dash", "color": "#1b1f24", "width": 1.5}}
        for at in ends
    ]
    layout = {
        "xaxis": {"title": {"text": what}},
        "yaxis": {"title": {"text": "values"}, "type": "log", "exponentformat": "power", "dtick": 1},
        "shapes": lines,
        "title": {"text": f"{100 * found.clipped:.3g} % clipped" if ends else "no range", "font": {"size": 13}},
        "bargap": 0,
    }
    return {"data": [bars], "layout": layout}


def _bars(
    series: Sequence[tuple[str, Sequence[tuple[str, float]]]], unit: str, *, stacked: bool = True, share: bool = False
) -> Figure:
    """Bars across, a row a name, the first on top."""
    data = [
        {"type": "bar", "orientation": "h", "name": name, "marker": {"color": COLOURS[k % len(COLOURS)]}}
        | {"y": [n for n, _ in values], "x": [v for _, v in values]}
        | ({"marker": {"color": COLOURS[k % len(COLOURS)], "pattern": {"shape": "/"}}} if k >= len(COLOURS) else {})
        | {"hovertemplate": f"%{{y}}: %{{x:.4g}} {unit}<extra>{name}</extra>"}
        for k, (name, values) in enumerate(series)
    ]
    layout = {
        "barmode": ("relative" if stacked else "group"),
        "xaxis": {"title": {"text": f"share of {unit}" if share else unit}},
        "yaxis": {"autorange": "reversed", "type": "category", "automargin": True},
        "showlegend": len(series) > 1,
    }
    if share:
        layout["barnorm"] = "fraction"
    return {"data": data, "layout": layout}


def _height(rows: int) -> int:
    return max(260, min(4000, 110 + 24 * rows))


def _escaped(text: str) -> str:
    from html import escape

    return escape(text)
