"""Pictures of a schedule: the chart of its events, and the trace that a browser shows."""

from __future__ import annotations

import heapq
import json
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Run(Protocol):
    """What is shown of a run: a `Schedule` has it."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def servers(self) -> tuple[int, ...]: ...
    @property
    def votes(self) -> int: ...
    @property
    def inputs(self) -> int: ...
    @property
    def makespan_s(self) -> float: ...
    @property
    def events(self) -> pd.DataFrame: ...


def gantt(run: Run, path: str | PathLike[str] | None = None) -> Figure:
    """The chart of the events: a row per stage and server, a bar and a colour per job. Written to `path`, if given."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    rows = _rows(run)
    figure = Figure(figsize=(9, 1.2 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["tab10"].colors  # type: ignore[attr-defined]
    for row, (_, mine) in enumerate(rows):
        spans = list(zip(mine["start_s"], mine["end_s"] - mine["start_s"], strict=True))
        axes.broken_barh(
            spans,
            (row - 0.4, 0.8),
            facecolors=[colours[job % len(colours)] for job in mine["job"]],
            edgecolor="face",  # so that a job too short to be seen is seen
            linewidth=0.5,
        )
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, run.makespan_s)
    seconds = EngFormatter(unit="s")
    axes.xaxis.set_major_formatter(seconds)
    axes.set_xlabel("time")
    axes.set_title(f"{asked_of(run)}: makespan {seconds(run.makespan_s)}")
    if path is not None:
        figure.savefig(path)
    return figure


def chrome_trace(run: Run, path: str | PathLike[str]) -> None:
    """The events in the Trace Event Format (JSON), a row per stage and server, for chrome://tracing."""
    events: list[dict[str, Any]] = []
    for row, (name, mine) in enumerate(_rows(run)):
        events.append({"name": "thread_name", "ph": "M", "pid": 0, "tid": row, "args": {"name": name}})
        columns = (mine[name] for name in ("input", "vote", "step", "start_s", "end_s", "left_s"))
        events += [
            {
                "name": f"input {sample} vote {vote}",
                "ph": "X",
                "pid": 0,
                "tid": row,
                "ts": 1e6 * start,  # microseconds, as the format has it
                "dur": 1e6 * (end - start),
                "args": {"step": step, "delivered_us": 1e6 * left},
            }
            for sample, vote, step, start, end, left in zip(*(c.tolist() for c in columns), strict=True)
        ]
    Path(path).write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}), encoding="utf-8")


def _rows(run: Run) -> list[tuple[str, pd.DataFrame]]:
    """Name and events of each row: a stage, or one server of a stage that has several."""
    rows: list[tuple[str, pd.DataFrame]] = []
    for name, servers in zip(run.names, run.servers, strict=True):
        mine = run.events[run.events["stage"] == name]
        if servers == 1:
            rows.append((name, mine))
            continue
        lane, free = np.zeros(len(mine), dtype=int), [(0.0, n) for n in range(servers)]
        for place, (start, left) in enumerate(zip(mine["start_s"], mine["left_s"], strict=True)):
            ended, lane[place] = heapq.heappop(free)
            assert ended <= start
            heapq.heappush(free, (left, int(lane[place])))
        rows += [(f"{name} #{n + 1}", mine[lane == n]) for n in range(servers) if (lane == n).any()]
    return rows


def asked_of(run: Run) -> str:
    """Inputs and votes of a run, as words."""
    inputs, votes = (f"{n:,} {what}{'s' * (n > 1)}" for n, what in ((run.inputs, "input"), (run.votes, "vote")))
    return f"{inputs}, {votes} each"
