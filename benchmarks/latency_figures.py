"""The figures of `latency_power.py`, drawn from its tables only."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from mho.mapping.architecture.cost import COMPONENTS

PARTS = (*COMPONENTS, "leakage")


def abstract(table: pd.DataFrame) -> Figure:
    """Latency over votes, and overhead over votes and over depth, in units of T."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    latency, extra, depths = figure.subplots(1, 3)
    for i, (depth, rows) in enumerate(table.groupby("depth")):
        latency.plot(rows["votes"], rows["sequential_T"], f"C{i}--o", label=f"L = {depth}, sequential: K L T")
        latency.plot(rows["votes"], rows["pipelined_T"], f"C{i}-o", label=f"L = {depth}, pipelined: (L + K) T")
        extra.plot(rows["votes"], rows["overhead"], f"C{i}-o", label=f"L = {depth}")
    for i, (votes, rows) in enumerate(table.groupby("votes")):
        depths.plot(rows["depth"], rows["overhead"], f"C{i}-o", label=f"K = {votes}")
    _log_log(latency, "votes K", "latency (T)")
    _log_log(extra, "votes K", "latency overhead K / L")
    _log_log(depths, "layers L", "latency overhead K / L")
    return figure


def latency(table: pd.DataFrame) -> Figure:
    """Latency of a decision over votes, an axis per network."""
    figure, axes = _axes_by(table, "network")
    for axis, (_, mine) in axes:
        for i, (preset, rows) in enumerate(mine.groupby("preset", sort=False)):
            for style, way in (("--o", "sequential"), ("-o", "pipelined"), (":o", "copies")):
                axis.plot(rows["votes"], 1e6 * rows[f"{way}_s"], f"C{i}{style}", label=f"{preset}, {way}", **_size(i))
        _log_log(axis, "votes K", "latency of a decision (us)")
    return figure


def overhead(table: pd.DataFrame) -> Figure:
    """Overhead of a decision over votes beside K / L of equal stages, an axis per network."""
    figure, axes = _axes_by(table, "network")
    for axis, (_, mine) in axes:
        for i, (preset, rows) in enumerate(mine.groupby("preset", sort=False)):
            axis.plot(rows["votes"], rows["overhead"], f"C{i}-o", label=preset, **_size(i))
        rows = mine.drop_duplicates("votes")
        axis.plot(rows["votes"], rows["votes"] / rows["layers"], "k--", label="K / L")
        _log_log(axis, "votes K", "latency overhead")
    return figure


def energy(table: pd.DataFrame) -> Figure:
    """Energy of one inference by component, a bar per network and preset."""
    one = table[table["votes"] == table["votes"].min()]
    figure = Figure(figsize=(2 + 0.9 * len(one), 3.8), layout="constrained")
    axis = figure.subplots()
    labels = [f"{row.network}\n{row.preset}" for row in one.itertuples()]
    bottom = [0.0] * len(one)
    for part in PARTS:
        share = one[f"energy_{part}_j"] / (one["energy_full_j"])
        axis.bar(labels, share, bottom=bottom, label=part)
        bottom = [b + s for b, s in zip(bottom, share, strict=True)]
    axis.set_ylabel("share of the energy, full pipeline")
    axis.tick_params(axis="x", labelsize="small")
    axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def power(table: pd.DataFrame, rate: float) -> Figure:
    """Power over votes at a fixed rate of decisions and of a full pipeline, an axis per network."""
    figure, axes = _axes_by(table, "network")
    for axis, (_, mine) in axes:
        for i, (preset, rows) in enumerate(mine.groupby("preset", sort=False)):
            held, full = f"{preset}, {rate:g} decisions/s", f"{preset}, full pipeline"
            axis.plot(rows["votes"], 1e3 * rows["power_at_rate_w"], f"C{i}-o", label=held, **_size(i))
            axis.plot(rows["votes"], 1e3 * rows["power_full_w"], f"C{i}--", label=full, **_size(i))
        _log_log(axis, "votes K", "power (mW)")
    return figure


def voltage(table: pd.DataFrame) -> Figure:
    """Power of a full pipeline over the read voltage: the array's, which goes with V^2, and that of all the rest."""
    figure, axes = _axes_by(table, "network")
    for axis, (_, mine) in axes:
        for i, (preset, rows) in enumerate(mine.groupby("preset", sort=False)):
            axis.plot(rows["v_read"], 1e3 * rows["power_array_w"], f"C{i}-o", label=f"{preset}, array", **_size(i))
            axis.plot(rows["v_read"], 1e3 * rows["power_rest_w"], f"C{i}--", label=f"{preset}, the rest", **_size(i))
        _log_log(axis, "read voltage (V)", "power, full pipeline (mW)")
    return figure


def _axes_by(table: pd.DataFrame, column: str) -> tuple[Figure, zip[tuple[Axes, tuple[object, pd.DataFrame]]]]:
    groups = list(table.groupby(column, sort=False))
    figure = Figure(figsize=(5 * len(groups), 3.6), layout="constrained")
    axes = figure.subplots(1, len(groups), squeeze=False)[0]
    for axis, (name, _) in zip(axes, groups, strict=True):
        axis.set_title(str(name))
    return figure, zip(axes, groups, strict=True)


def _size(i: int) -> dict[str, float]:
    """Of the line of the i-th preset: those drawn later are thinner, so that equal ones show."""
    return {"linewidth": 4 - 1.3 * i, "markersize": 8 - 2 * i}


def _log_log(axis: Axes, x: str, y: str) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    ticks = sorted({value for line in axis.lines for value in np.asarray(line.get_xdata(), float).tolist()})
    axis.set_xticks(ticks, [f"{value:g}" for value in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.legend(fontsize="x-small")
