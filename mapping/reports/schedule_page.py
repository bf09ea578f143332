"""The page of a schedule: what runs when, on which stage, and how busy each is."""

from __future__ import annotations

from typing import Any, Protocol

import pandas as pd

from ..architecture.gantt import Run, asked_of
from .page import COLOURS, Figure, Page, engineering

MOST = 4000  # bars that are drawn, the first
SEEN = 0.002  # of the makespan: shorter bars have an edge of their colour, or nothing of them would be seen


class Timed(Run, Protocol):
    """A schedule, as `mho.schedule` gives it."""

    @property
    def service_s(self) -> tuple[float, ...]: ...
    @property
    def copies(self) -> int: ...
    @property
    def first_latency_s(self) -> float: ...
    @property
    def throughput(self) -> float: ...
    @property
    def utilisation(self) -> dict[str, float]: ...
    @property
    def bottleneck(self) -> str: ...


def cards_of(run: Timed) -> dict[str, str]:
    """What stands out of a schedule."""
    return {
        "makespan": engineering(run.makespan_s, "s"),
        "first decision after": engineering(run.first_latency_s, "s"),
        "decisions a second": f"{run.throughput:.4g}",
        "busiest stage": run.bottleneck,
    }


def schedule_page(run: Timed) -> Page:
    """The page of a schedule."""
    title = f"Schedule of {asked_of(run)}, on {run.copies:,} pipeline{'s' * (run.copies > 1)}"
    page = Page(title, "Made by Mho. This file needs no network.")
    page.section("")
    page.cards(cards_of(run))
    said = (
        "A row is a stage, a bar a job; jobs of one input have one colour. Drag to zoom in, double click to zoom out."
    )
    if len(run.events) > MOST:
        said += f" The first {MOST:,} of {len(run.events):,} jobs are drawn."
    page.section("What runs when", said)
    page.figure(_gantt(run), max(260, 110 + 34 * len(run.names)), "jobs over time by stage")
    page.section("Stages")
    page.table(
        pd.DataFrame(
            {
                "stage": run.names,
                "service time, us": [1e6 * time for time in run.service_s],
                "jobs at once": run.servers,
                "busy, %": [100 * run.utilisation.get(name, float("nan")) for name in run.names],
            }
        ),
        text=("stage",),
    )
    return page


def _gantt(run: Run) -> Figure:
    events = run.events.iloc[:MOST]
    bars: dict[str, Any] = {"type": "bar", "orientation": "h", "y": events["stage"], "showlegend": False}
    bars["base"] = 1e6 * events["start_s"]
    bars["x"] = 1e6 * (events["end_s"] - events["start_s"])
    colours = [COLOURS[int(number) % len(COLOURS)] for number in events["input"]]
    thin = bars["x"] < SEEN * 1e6 * run.makespan_s
    edges = [own if is_thin else "white" for own, is_thin in zip(colours, thin, strict=True)]
    bars["marker"] = {"color": colours, "line": {"color": edges, "width": [1 if is_thin else 0.5 for is_thin in thin]}}
    bars["text"] = [
        f"input {i}, vote {v}, step {s}"
        for i, v, s in zip(events["input"], events["vote"], events["step"], strict=True)
    ]
    bars |= {
        "textposition": "none",
        "hovertemplate": "%{y}<br>%{text}<br>from %{base:.4g} us for %{x:.4g} us<extra></extra>",
    }
    layout = {
        "barmode": "overlay",
        "xaxis": {"title": {"text": "time (us)"}, "range": [0, 1e6 * run.makespan_s]},
        "yaxis": {
            "autorange": "reversed",
            "categoryarray": list(run.names),
            "categoryorder": "array",
            "automargin": True,
        },
    }
    return {"data": [bars], "layout": layout}
