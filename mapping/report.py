"""What a mapping took: tiles, cells, errors and clipping of each layer, and what stayed digital."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from os import PathLike
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch

from ..crossbar.extrapolation import extrapolations
from ..crossbar.row_tile import BINS, HISTOGRAM_TOP
from .architecture.loading import Loading
from .architecture.uncounted import uncounted
from .check import Check
from .cover import Cover
from .inputs.batches import Batch, batches_of
from .layers import TileLayer
from .mapped import MappedNetwork
from .reports.chip_page import ChipPage, Explained, Reduced, Votes
from .reports.page import Page, check_name
from .writing import write_costs

LOADED = "the chip was loaded"
SAMPLES = 64  # that a page is measured with
NAMED = 3  # modules of one type and reason that the text names


class Covered(MappedNetwork, Protocol):
    """A mapped network of which `map` knows how much is on tiles; None where it was loaded."""

    cover: Cover | None


@dataclass(frozen=True)
class Report:
    """The mapping of a chip.

    Attributes:
        table: one row a layer. `weight_rmse` is the error of the programmed weights as a share of the RMS weight;
            clipping is counted over all reads of the chip since it was calibrated (NaN where nothing was converted);
            conductances are in siemens, over all cells in use; `array_energy_j` is the array's energy for one sample.
        digital: name, type, reason and number of parameters of what is not on tiles, and its multiply-accumulates a
            sample in the pass of the check (NaN without one). A parameter that several parts share, or that tiles hold
            too, counts once.
        title: the hardware and the seed, and the age of cells that are not new.
        cover: how much of the model is on tiles, and whether the mapping was checked.
        extrapolated: settings of the hardware outside the data behind its models, with the layers that have them.
        loading: the tiles that it needs and has, and what writing them again costs where it does not fit.
        uncounted: what energy, time and area leave out.
        writing: what programming takes, see `mho.mapping.writing.write_costs`.
        chip: whose report it is; None in a copy that was pickled.
        inputs: what is done digitally with the inputs of layers, for those that have it: `scaling` (see `dac.scaling`),
            and the least and the largest factor that channels are divided by (NaN: none).
    """

    table: pd.DataFrame
    digital: pd.DataFrame
    title: str
    cover: Cover
    extrapolated: dict[str, list[str]]
    loading: Loading
    uncounted: list[str]
    writing: pd.DataFrame
    inputs: pd.DataFrame
    chip: Covered | None = field(repr=False, compare=False)

    @classmethod
    def of(cls, chip: Covered) -> Report:
        title = f"{chip.hardware.name}, seed {chip.seed}" + (f", copy {chip.copy_index}" if chip.copy_index else "")
        title += f", {chip.hardware.time_s:g} s after programming" if chip.hardware.time_s else ""
        cover = chip.cover or Cover.of(chip, None, set(), LOADED)
        digital = pd.DataFrame(list(chip.digital), columns=["name", "type", "reason"])
        digital["parameters"] = [cover.digital.get(name, 0) for name in digital["name"]]
        digital["macs"] = [_macs_of(cover.check, name) for name in digital["name"]]
        extrapolated: dict[str, list[str]] = {}
        for name, layer in chip.layers.items():
            for said in extrapolations(layer.hardware):
                extrapolated.setdefault(said, []).append(name)
        sharing = any(layer.matrix.sharing > 1 for layer in chip.layers.values())
        table = pd.DataFrame([_row(layer, sharing=sharing) for layer in chip.layers.values()])
        left_out, written = uncounted(layer.hardware for layer in chip.layers.values()), write_costs(chip)
        inputs = pd.DataFrame([_inputs_of(layer) for layer in chip.layers.values()])
        inputs = inputs[(inputs["scaling"] != "layer") | inputs["equaliser_max"].notna()]
        return cls(table, digital, title, cover, extrapolated, Loading.of(chip), left_out, written, inputs, chip)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "chip": None}

    def save(self, path: str | PathLike[str], images: Any = None, **more: Any) -> None:
        """Write the `page` of the chip to a file that ends in .html: complete or not at all. Arguments as of `page`.

        Raises:
            ValueError: another ending, or a report that has lost its chip.
            MappingError: a tile that there is not.
        """
        check_name(path)
        self.page(images, **more).write(path)

    def page(
        self,
        images: Any = None,
        *,
        tiles: Iterable[tuple[str, int]] = (),
        votes: Sequence[Votes] = (),
        explanation: Explained | None = None,
        reduction: Reduced | None = None,
    ) -> Page:
        """A page for a browser: one file of at most 20 MB, which needs no network.

        It has the network as a picture, a table and histograms of its layers, maps of tiles, costs, and what is given
        here.

        Args:
            images: a few inputs of the model, in the forms that `mho.map(calibrate=)` takes: errors of layers, and what
                converters take and see, are measured with them. The first 64 samples are used.
            tiles: layer and number of tiles to show maps of; those whose weights are furthest off follow.
            votes: what `mho.vote(...).accuracy_over_votes(labels)` gives.
            explanation: what `mho.explain` gives: which layers and sources cost accuracy.
            reduction: what `mho.reduce` gives: errors of layers by source.

        Raises:
            ValueError: a report that was pickled: its chip is not with it.
            MappingError: a tile that there is not.
        """
        if self.chip is None:
            raise ValueError("this report was pickled and has lost its chip: take chip.report() anew")
        batches = [] if images is None else _few(batches_of(images, self.chip.model, "images"))
        found = ChipPage(self, self.chip, batches)
        found.summary()
        found.network()
        found.conductances()
        found.tiles(tuple(tiles))
        if batches:
            found.converters()
        found.errors(reduction)
        found.costs_by_component()
        if votes:
            found.votes(votes)
        if explanation is not None:
            found.explanation(explanation)
        return found.page

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{escape(line)}</li>" for line in self._lines())
        return f"<b>{escape(self.title)}</b>{self._shown().to_html(index=False)}<ul>{lines}</ul>"

    def __str__(self) -> str:
        return "\n".join([f"chip: {self.title}", self._shown().to_string(index=False), *self._lines()])

    def _shown(self) -> pd.DataFrame:
        """The table for people."""
        shown = pd.DataFrame(
            {
                "layer": self.table["layer"],
                "weights": self.table["outputs"].astype(str) + " x " + self.table["inputs"].astype(str),
                "word x bit lines": self.table["word_lines"].astype(str) + " x " + self.table["bit_lines"].astype(str),
                "tiles": self.table["tiles"],
                "cells": self.table["cells"].map("{:,}".format),
                "used": self.table["utilisation"].map("{:.1%}".format),
                "weight error": self.table["weight_rmse"].map("{:.2%}".format),
                "DAC clip": self.table["dac_clipped"].map(_share),
                "ADC clip": self.table["adc_clipped"].map(_share),
                "G mean (uS)": (1e6 * self.table["g_mean"]).map(_number),
                "G std (uS)": (1e6 * self.table["g_std"]).map(_number),
            }
        )
        if "holding" in self.table:  # most cells in use hold no weight
            shown["hold weights"] = self.table["holding"].map("{:.1%}".format)
        return shown

    def _lines(self) -> list[str]:
        """What stands below the table."""
        cells = int(self.table["cells"].sum())
        lines = []
        lines.append(f"total: {int(self.table['tiles'].sum())} tiles, {cells:,} cells in use")
        if self.loading.available is not None:
            lines.append(str(self.loading))
        if len(self.writing):
            written = self.writing
            pulses, failed = (np.average(written[key], weights=written["cells"]) for key in ("pulses", "failed"))
            lines.append(
                f"programming: {pulses:.3g} pulses a cell, {failed:.2%} not verified, "
                f"{written['energy_j'].sum():.3g} J, {written['time_s'].max():.3g} s"
            )
        if len(self.digital):
            lines.append("not on tiles:")
            for (kind, reason), rows in self.digital.groupby(["type", "reason"], sort=False):
                more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
                names = ", ".join(name or "the model" for name in rows["name"][:NAMED])
                count = int(rows["parameters"].sum())
                held = f"; {count:,} parameter{'s' * (count != 1)}" if count else ""
                macs = int(rows["macs"].sum())
                held += f"; {macs:,} multiply-accumulates a sample" if macs else ""
                lines.append(f"  {names}{more} ({kind}): {reason}{held}")
        lines += _inputs(self.inputs)
        for said, layers in self.extrapolated.items():
            where = "all layers" if len(layers) == len(self.table) else ", ".join(map(repr, layers[:NAMED]))
            more = f" and {len(layers) - NAMED} more" if NAMED < len(layers) < len(self.table) else ""
            lines.append(f"outside the data ({where}{more}): {said}")
        lines.append(f"cost leaves out: {', '.join(self.uncounted)}")
        return [*lines, *_checked(self.cover.check), _shares(self.cover)]


def _few(batches: list[Batch]) -> list[Batch]:
    """The first samples of batches."""
    found, left = [], SAMPLES
    for batch in batches:
        if left > 0:
            found.append(batch.first(left))
            left -= found[-1].samples
    return found


def _inputs(table: pd.DataFrame) -> list[str]:
    """What is done digitally with the inputs of layers, a line for each that has its channels equalised."""
    lines = []
    for scaling in ("sample", "token"):
        layers = [str(name) for name in table["layer"][table["scaling"] == scaling]]
        if layers:
            more = f" and {len(layers) - NAMED} more" if len(layers) > NAMED else ""
            lines.append(f"inputs scaled in each read, by {scaling}: {', '.join(layers[:NAMED])}{more}")
    for name, low, high in table[["layer", "equaliser_min", "equaliser_max"]].dropna().itertuples(index=False):
        lines.append(f"equalised: {name}: input channels divided by {low:.3g} to {high:.3g}, weights multiplied")
    return lines


def _checked(check: Check | str) -> list[str]:
    """What the comparison with the caller's network showed, and which layers it did not see."""
    if isinstance(check, str):
        return [f"unchecked: {check}"]
    samples = f"{check.samples} sample{'s' * (check.samples != 1)}"
    lines = [
        f"checked: computed digitally, it equals the caller's network on {samples} within {check.error:.1g} "
        f"(tolerance {check.tolerance:.1g})"
    ]
    if unreached := check.unreached:
        more = f" and {len(unreached) - NAMED} more" if len(unreached) > NAMED else ""
        lines.append(f"unchecked, as the inputs never reach them: {', '.join(unreached[:NAMED])}{more}")
    return lines


def _shares(cover: Cover) -> str:
    parameters = f"{_part(cover.on_tiles, cover.parameters)} of {cover.parameters:,} parameters"
    if isinstance(cover.check, str) or not cover.check.macs:
        return f"on tiles: {parameters}; multiply-accumulates unknown without inputs"
    macs = cover.check.macs // cover.check.samples
    share = _part(cover.check.macs_on_tiles, cover.check.macs)
    return f"on tiles: {parameters}, {share} of {macs:,} multiply-accumulates a sample"


def _macs_of(check: Check | str, name: str) -> float:
    """Multiply-accumulates a sample of a digital part."""
    return np.nan if isinstance(check, str) else check.macs_within.get(name, 0) // check.samples


def _part(part: int, whole: int) -> str:
    """A share; 100 % only where nothing is left out."""
    return f"{math.floor(1000 * part / whole) / 10:.1f} %" if whole else "all"


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3g}"


def _share(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3%}"


def _inputs_of(layer: TileLayer) -> dict[str, Any]:
    factors = torch.full((1,), torch.nan) if layer.equaliser is None else layer.equaliser
    ends = {"equaliser_min": float(factors.min()), "equaliser_max": float(factors.max())}
    return {"layer": layer.name, "scaling": layer.hardware.dac.scaling, **ends}


def _shared(layer: TileLayer) -> dict[str, Any]:
    """How many groups are on each tile, and the share of the cells of its tiles that hold a weight."""
    placement = layer.placement
    numbers = placement.groups * placement.rows * placement.outputs
    holding = placement.utilisation * (1 - layer.fillers / numbers)
    return {"groups_per_tile": layer.matrix.sharing, "holding": holding}


def _row(layer: TileLayer, *, sharing: bool) -> dict[str, Any]:
    placement, matrix = layer.placement, layer.matrix
    programmed = layer.tiles
    stored = programmed.weights[:, : matrix.weights.shape[1]]
    histogram = sum(packed.histogram for packed in programmed.packed)
    g = (np.arange(BINS) + 0.5) * HISTOGRAM_TOP * layer.hardware.cell.g_max / BINS
    g_mean = float(np.average(g, weights=histogram))
    counts, clips = layer.counts, programmed.design.drive.clips
    return {
        "layer": layer.name,
        "aliases": ", ".join(layer.aliases[1:]),
        "outputs": layer.spec.out_features,
        "inputs": matrix.weights.shape[1] * (len(matrix.weights) if layer.spec.dims == 0 else 1),
        "groups": len(matrix.weights),
        "word_lines": placement.rows,
        "bit_lines": placement.columns,
        "row_tiles": placement.row_tiles,
        "column_tiles": placement.column_tiles,
        "tiles": placement.tiles,
        "cells": placement.cells,
        "utilisation": placement.utilisation,
        **(_shared(layer) if sharing else {}),
        "weight_rmse": float(np.sqrt(np.mean((stored - matrix.weights) ** 2) / np.mean(np.square(matrix.weights)))),
        "dac_clipped": counts.inputs_clipped / counts.inputs if counts.inputs and clips else np.nan,
        "adc_clipped": counts.readings_clipped / counts.readings if counts.readings else np.nan,
        "g_mean": g_mean,
        "g_std": float(np.sqrt(np.average((g - g_mean) ** 2, weights=histogram))),
        "positions": layer.positions,
        "array_energy_j": (layer.array_energy_j or np.nan) * (layer.positions or np.nan),
    }
