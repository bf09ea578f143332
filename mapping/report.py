"""What a mapping took: tiles, cells, errors and clipping of each layer, and what stayed digital."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..crossbar.row_tile import BINS, HISTOGRAM_TOP

if TYPE_CHECKING:
    from .chip import Chip
    from .layers import TileLayer

NAMED = 3  # modules of one type and reason that the text names


@dataclass(frozen=True)
class Report:
    """The mapping of a chip.

    Attributes:
        table: one row a layer. `weight_rmse` is the error of the programmed weights as a share of the RMS weight;
            clipping is counted over all reads of the chip since it was calibrated (NaN where nothing was converted);
            conductances are in siemens, over all cells in use; `array_energy_j` is the array's energy for one sample.
        digital: name, type and reason of what is not on tiles.
        title: the hardware and the seed.
    """

    table: pd.DataFrame
    digital: pd.DataFrame
    title: str

    @classmethod
    def of(cls, chip: Chip) -> Report:
        title = f"{chip.hardware.name}, seed {chip.seed}" + (f", copy {chip.copy_index}" if chip.copy_index else "")
        return cls(
            pd.DataFrame([_row(layer) for layer in chip.layers.values()]),
            pd.DataFrame(list(chip.digital), columns=["name", "type", "reason"]),
            title,
        )

    def __str__(self) -> str:
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
                "G mean (uS)": (1e6 * self.table["g_mean"]).map("{:.3g}".format),
                "G std (uS)": (1e6 * self.table["g_std"]).map("{:.3g}".format),
            }
        )
        cells = int(self.table["cells"].sum())
        lines = [f"chip: {self.title}", shown.to_string(index=False)]
        lines.append(f"total: {int(self.table['tiles'].sum())} tiles, {cells:,} cells in use")
        if len(self.digital):
            lines.append("not on tiles:")
            for (kind, reason), rows in self.digital.groupby(["type", "reason"], sort=False):
                more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
                lines.append(f"  {', '.join(rows['name'][:NAMED])}{more} ({kind}): {reason}")
        return "\n".join(lines)


def _share(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3%}"


def _row(layer: TileLayer) -> dict[str, Any]:
    plan, matrix = layer.plan, layer.matrix
    stored = np.stack([p.weights[: matrix.weights.shape[1]] for p in matrix.programmed])
    histogram = sum(p.histogram for p in matrix.programmed)
    g = (np.arange(BINS) + 0.5) * HISTOGRAM_TOP * layer.hardware.cell.g_max / BINS
    g_mean = float(np.average(g, weights=histogram))
    counts = matrix.counts
    return {
        "layer": layer.name,
        "aliases": ", ".join(layer.aliases[1:]),
        "outputs": layer.spec.out_features,
        "inputs": matrix.weights.shape[1] * (plan.groups if layer.spec.dims == 0 else 1),
        "groups": plan.groups,
        "word_lines": plan.rows,
        "bit_lines": plan.columns,
        "row_tiles": plan.row_tiles,
        "column_tiles": plan.column_tiles,
        "tiles": plan.tiles,
        "cells": plan.cells,
        "utilisation": plan.utilisation,
        "weight_rmse": float(np.sqrt(np.mean((stored - matrix.weights) ** 2) / np.mean(np.square(matrix.weights)))),
        "dac_clipped": counts.inputs_clipped / counts.inputs if counts.inputs and layer.hardware.dac.bits else np.nan,
        "adc_clipped": counts.readings_clipped / counts.readings if counts.readings else np.nan,
        "g_mean": g_mean,
        "g_std": float(np.sqrt(np.average((g - g_mean) ** 2, weights=histogram))),
        "positions": layer.positions,
        "array_energy_j": (layer.array_energy_j or np.nan) * (layer.positions or np.nan),
    }
