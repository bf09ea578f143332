"""The figure of an explanation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 14  # rows of a panel, those that matter most
BLUE, ORANGE = "#0072b2", "#d55e00"  # of Okabe and Ito 2008, told apart by all eyes; filled where sure
WAYS = (("gain", BLUE, "o", "gain without it, or of what was tried"), ("cost", ORANGE, "s", "cost alone"))


def draw(layers: pd.DataFrame, sources: pd.DataFrame, tries: pd.DataFrame, *, classes: bool, title: str) -> Figure:
    """Rows of layers, sources and tries, a panel each: gain (circles) and cost alone (squares), filled where sure."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    places = sources.assign(
        named=[
            s if where == "all" else f"{s}, {where}"
            for s, where in zip(sources["source"], sources["layer"], strict=True)
        ]
    )
    panels = [("layers", layers, "layer"), ("sources of error", places, "named")]
    panels += [("tried", tries, "try")] if len(tries) else []
    rows = max(min(MOST, len(table)) for _, table, _ in panels)
    figure = Figure(figsize=(5.2 * len(panels), 1.6 + 0.32 * rows), layout="constrained")
    for axes, (name, table, column) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _panel(axes, table, column, 100 if classes else 1)
        axes.set(title=name, xlabel="points of accuracy" if classes else "mean squared error")
    figure.suptitle(title, fontsize=9)
    marks = [Line2D([], [], color=colour, marker=mark, label=label) for _, colour, mark, label in WAYS]
    marks += [Line2D([], [], color=BLUE, marker="o", markerfacecolor="white", label="not sure: may be chance")]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=8, frameon=False)
    return figure


def _panel(axes: Axes, table: pd.DataFrame, column: str, factor: float) -> None:
    ways = [way for way in WAYS if way[0] in table]
    weight = pd.concat([table[way[0]].abs() for way in ways], axis=1).max(axis=1)
    table = table.loc[weight.nlargest(MOST).index.sort_values()].iloc[::-1]
    for i, (key, colour, mark, _) in enumerate(ways):
        height = [y + (0.14 if i else -0.14) * (len(ways) - 1) for y in range(len(table))]
        value, low, high = (factor * table[name] for name in (key, f"{key}_low", f"{key}_high"))
        spread = [(value - low).clip(lower=0), (high - value).clip(lower=0)]
        axes.errorbar(value, height, xerr=spread, fmt="none", ecolor=colour, elinewidth=1)
        for sure, fill in ((True, colour), (False, "white")):
            mine = (table[f"{key}_sure"] == sure).to_numpy()
            axes.plot(
                value[mine],
                [y for y, is_mine in zip(height, mine, strict=True) if is_mine],
                mark,
                color=colour,
                markerfacecolor=fill,
            )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(table)), table[column])
    axes.set_ylim(-0.7, len(table) - 0.3)
