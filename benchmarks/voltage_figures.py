"""The figures of `noise_vs_voltage.py` and `votes_or_volts.py`, drawn from their tables only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

NAMES = {"reram": "ReRAM", "pcm": "PCM", "nand": "NAND (SONOS)"}
SOURCES = {
    "thermal": ("thermal", "#e69f00"),
    "shot": ("shot", "#cc79a7"),
    "cell": ("cells", "#009e73"),
    "amplifier": ("amplifier", "#0072b2"),
    "quantisation": ("ADC, 8 bits", "#d55e00"),
    "all": ("all sources", "black"),
}
WAYS = {"single": ("single read", "#0072b2"), "voted": ("{} votes", "#d55e00"), "adaptive": ("adaptive", "#009e73")}
STYLES = {"fixed": "-", "tracking": "--"}
RANGES = {"fixed": "ADC range fixed, for the largest voltage", "tracking": "ADC range tracks the voltage"}
FORBIDDEN = "beyond the limit of the cell"


def noise_vs_voltage(noise: pd.DataFrame, accuracy: pd.DataFrame, votes: int) -> Figure:
    """Above the noise by source, below the accuracy, over the read voltage; a column of panels per preset."""
    presets = list(dict.fromkeys(noise["preset"]))
    figure = Figure(figsize=(5.2 * len(presets), 9.6), layout="constrained")
    axes = figure.subplots(2, len(presets), squeeze=False, sharex="col", sharey="row")
    for (above, below), preset in zip(axes.T, presets, strict=True):
        _noise(above, noise[noise["preset"] == preset])
        _accuracy(below, accuracy[accuracy["preset"] == preset])
        above.set_title(NAMES.get(preset, preset), fontweight="bold")
        below.set_xlabel("read voltage (V)")
    _decibels(axes[0, -1])
    axes[0, 0].set_ylabel("noise of a column over its signal (RMS)")
    axes[1, 0].set_ylabel("MNIST accuracy (%)")
    axes[0, 0].set_ylim(1e-5, 20)
    axes[1, 0].set_ylim(0, 101)
    above, below = axes[:, -1]
    drawn = [Line2D([], [], color=colour, label=label) for label, colour in SOURCES.values()]
    above.legend(handles=drawn, loc="upper left", bbox_to_anchor=(1.16, 1), frameon=False, title="noise")
    ways = [Line2D([], [], color=colour, marker="o", ms=3, label=label) for label, colour in _ways(votes)[:2]]
    label, colour = _ways(votes)[2]
    ways.append(Line2D([], [], color=colour, marker="D", mfc="none", ms=5, ls="", label=label))
    below.legend(
        handles=[*ways, Line2D([], [], color="black", ls=":", label="digital"), *_common()],
        loc="upper left",
        bbox_to_anchor=(1.02, 1),
        frameon=False,
        title="accuracy, 95 % bands",
    )
    return figure


def pareto(table: pd.DataFrame, votes: int) -> Figure:
    """Error over energy of a decision, of all components above and of the arrays alone below."""
    presets = list(dict.fromkeys(table["preset"]))
    figure = Figure(figsize=(4.6 * len(presets), 7.2), layout="constrained")
    axes = figure.subplots(2, len(presets), squeeze=False, sharey=True, sharex="row")
    for column, preset in zip(axes.T, presets, strict=True):
        mine = table[table["preset"] == preset]
        for axis, energy, front in zip(column, ("energy_j", "array_energy_j"), ("front", "array_front"), strict=True):
            for way, (_, colour) in WAYS.items():
                for adc, marker in (("fixed", "o"), ("tracking", "^")):
                    rows = mine[(mine["way"] == way) & (mine["adc"] == adc)]
                    axis.plot(rows[energy], 100 * rows["accuracy"], marker, color=colour, alpha=0.7, ms=5)
            best = mine[mine[front]].sort_values(energy)
            ends = [*best[energy], 1.0], [*(100 * best["accuracy"]), 100 * best["accuracy"].max()]
            axis.step(*ends, color="black", lw=1, where="post", zorder=0)
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(FuncFormatter(_joules))
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.grid(alpha=0.25)
        column[0].set_xlim(1e-6, 1e-4)
        column[1].set_xlim(table["array_energy_j"].min() / 2, 2 * table["array_energy_j"].max())
        column[0].set_title(NAMES.get(preset, preset), fontweight="bold")
        column[0].set_xlabel("energy of a decision")
        column[1].set_xlabel("energy of the arrays in a decision")
    for axis in axes[:, 0]:
        axis.set_ylabel("MNIST accuracy (%)")
    handles = [Line2D([], [], color=colour, marker="s", ls="", label=label) for label, colour in _ways(votes)]
    handles += [
        Line2D([], [], color="grey", marker=marker, ls="", label=RANGES[adc])
        for adc, marker in (("fixed", "o"), ("tracking", "^"))
    ]
    handles.append(Line2D([], [], color="black", lw=1, label="Pareto front"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def votes_or_volts(tables: dict[str, pd.DataFrame]) -> Figure:
    """Accuracy over the energy of the arrays, variance over reads with memory, and the mode beside the mean."""
    figure = Figure(figsize=(15, 4.2), layout="constrained")
    energy, memory, majority = figure.subplots(1, 3)
    volts = tables["volts"]
    single = volts[volts["votes"] == 1].sort_values("array_energy_j")
    energy.plot(
        single["array_energy_j"], 100 * single["accuracy"], "-o", color="black", label="single reads, more volts"
    )
    for i, (v, rows) in enumerate(volts[volts["rule"] == "hard"].groupby("sensing.v_read")):
        if (rows["votes"] > 1).any():
            rows = rows.sort_values("votes")
            energy.plot(rows["array_energy_j"], 100 * rows["accuracy"], f"C{i}--s", label=f"votes at {1e3 * v:.2f} mV")
    energy.set(title="White noise: votes or volts", xlabel="energy of the arrays in a decision", ylabel="accuracy (%)")
    energy.set_xscale("log")
    energy.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    energy.xaxis.set_major_formatter(FuncFormatter(_joules))
    energy.xaxis.set_minor_formatter(NullFormatter())
    for apart, rows in tables["memory"].groupby("back_to_back"):
        name, colour = ("back to back", "C1") if apart else ("far apart", "C0")
        memory.plot(rows["reads"], rows["predicted"], color=colour, label=f"{name}, predicted")
        memory.plot(rows["reads"], rows["measured"], "o", color=colour, label=f"{name}, read")
    memory.set(title="PCM after one hour", xlabel="reads", ylabel="variance of their mean, of one read = 1")
    memory.set_xscale("log")
    memory.set_yscale("log")
    for i, rule in enumerate(("mode", "mean")):
        table = tables["majority"]
        majority.plot(table["reads"], 100 * table[f"predicted_{rule}"], color=f"C{i}", label=f"{rule}, predicted")
        majority.plot(table["reads"], 100 * table[rule], "o", color=f"C{i}", label=f"{rule}, read")
    majority.set(title="Near a threshold", xlabel="reads", ylabel="right decisions (%)")
    majority.set_xscale("log")
    for axis in (energy, memory, majority):
        axis.grid(alpha=0.25)
        axis.legend(fontsize="small")
    return figure


def _ways(votes: int) -> list[tuple[str, str]]:
    return [(label.format(votes), colour) for label, colour in WAYS.values()]


def _common() -> list[Any]:
    lines: list[Any] = [Line2D([], [], color="grey", ls=STYLES[adc], label=RANGES[adc]) for adc in STYLES]
    return [*lines, Patch(color="grey", alpha=0.2, label=FORBIDDEN)]


def _noise(axis: Axes, table: pd.DataFrame) -> None:
    for adc, rows in table.groupby("adc", sort=False):
        v, signal = rows["v_read (V)"], rows["signal (A^2)"]
        for source, (_, colour) in SOURCES.items():
            names = [name for name in rows if name.startswith(f"variance: {source}") and rows[name].notna().all()]
            variance = rows["variance (A^2)"] if source == "all" else rows[names].sum(axis=1)
            depends = source in ("quantisation", "all")
            if variance.any() and (depends or adc == "fixed"):
                style, width = STYLES[str(adc)], 2.2 if source == "all" else 1.4
                axis.plot(v, np.sqrt(variance / signal), style, color=colour, lw=width)
    axis.set_xscale("log")
    axis.set_yscale("log")
    _shade(axis, table)


def _decibels(axis: Axes) -> None:
    """The signal-to-noise ratio on the right."""
    ratio = axis.secondary_yaxis("right")
    ratio.yaxis.set_major_formatter(FuncFormatter(lambda noise, _: f"{0 - 20 * np.log10(noise):.0f}"))
    ratio.yaxis.set_minor_formatter(NullFormatter())
    ratio.set_ylabel("signal to noise (dB)")


def _accuracy(axis: Axes, table: pd.DataFrame) -> None:
    for adc, rows in table.groupby("adc", sort=False):
        v = rows["v_read"]
        for way, (_, colour) in WAYS.items():
            middle, low, high = (100 * rows[name] for name in (way, f"{way}_low", f"{way}_high"))
            if way == "adaptive":
                axis.errorbar(v, middle, [middle - low, high - middle], fmt="D", mfc="none", ms=5, color=colour, lw=0.8)
            else:
                axis.plot(v, middle, STYLES[str(adc)], color=colour, marker="o", ms=3, lw=1.5)
                axis.fill_between(v, low, high, color=colour, alpha=0.15, lw=0)
    axis.axhline(100 * table["digital"].iloc[0], color="black", ls=":", lw=1)
    _shade(axis, table)
    allowed = table[table["allowed"]]
    most = allowed.loc[allowed["v_read"].idxmax()]
    joules = most["array_energy_j"] / most["v_read"] ** 2
    energy = axis.secondary_xaxis("top", functions=(lambda v: joules * v**2, lambda e: np.sqrt(np.abs(e) / joules)))
    energy.xaxis.set_major_locator(LogLocator(base=100, numticks=12))
    energy.xaxis.set_minor_formatter(NullFormatter())
    energy.xaxis.set_major_formatter(FuncFormatter(_joules))
    rest = 1e6 * (most["inference_energy_j"] - most["array_energy_j"])
    energy.set_xlabel(f"energy of the arrays in one inference (all else: {rest:.2f} uJ)", fontsize="small")


def _shade(axis: Axes, table: pd.DataFrame) -> None:
    """What the cell does not allow."""
    limit = float(table["v_max"].iloc[0])
    axis.axvspan(limit, 2 * limit, color="grey", alpha=0.2, lw=0)
    axis.set_xlim(limit * 2.0**-11, 2 * limit)
    axis.grid(alpha=0.25)


def _joules(value: float, _: int) -> str:
    for factor, unit in ((1e6, "uJ"), (1e9, "nJ"), (1e12, "pJ"), (1e15, "fJ")):
        if value * factor >= 0.999:
            return f"{value * factor:.3g} {unit}"
    return f"{value:.0e} J"
