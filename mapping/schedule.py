"""The pipeline: a discrete-event schedule of K votes of a stream of inputs through stages with service times.

The events are kept in whole ticks of 2^-n seconds, in which every float service time is an integer: no rounding
gathers over the run, so (L + K) T comes out to the last bit.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import index
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .cost import layer_costs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .chip import Chip

__all__ = ["Schedule", "schedule"]

VOTER = "voter"


@dataclass(frozen=True, eq=False)
class Schedule:
    """One run of the pipeline. Times are in seconds.

    names, service_s: the stages in order, the voter last if there is one.
    votes, inputs: reads of each input (K) and number of inputs.
    makespan_s: end of the last decision. first_latency_s: end of the first decision (its K-th vote has left).
    decision_interval_s: time between decisions in the steady state, K times the slowest stage.
    throughput: decisions per second in the steady state.
    utilisation: share of the makespan in which a stage is busy, by name.
    bottleneck: name of the slowest stage (the first of several).
    events: one row per (stage, job): stage, job, input, vote, start_s, end_s, ordered by start and stage.
    """

    names: tuple[str, ...]
    service_s: tuple[float, ...]
    votes: int
    inputs: int
    makespan_s: float
    first_latency_s: float
    decision_interval_s: float
    throughput: float
    utilisation: dict[str, float]
    bottleneck: str
    events: pd.DataFrame

    def gantt(self, path: str | PathLike[str] | None = None) -> Figure:
        """The chart of the events: a row per stage, a bar and a colour per job. Written to `path` too, if given."""
        from matplotlib import colormaps
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter

        figure = Figure(figsize=(9, 1.2 + 0.35 * len(self.names)), layout="constrained")
        axes = figure.subplots()
        colours = colormaps["tab10"].colors  # type: ignore[attr-defined]
        for row, name in enumerate(self.names):
            mine = self.events[self.events["stage"] == name]
            spans = list(zip(mine["start_s"], mine["end_s"] - mine["start_s"], strict=True))
            axes.broken_barh(
                spans,
                (row - 0.4, 0.8),
                facecolors=[colours[job % len(colours)] for job in mine["job"]],
                edgecolor="face",  # so that a job too short to be seen is seen
                linewidth=0.5,
            )
        axes.set_yticks(range(len(self.names)), self.names)
        axes.invert_yaxis()
        axes.set_xlim(0, self.makespan_s)
        seconds = EngFormatter(unit="s")
        axes.xaxis.set_major_formatter(seconds)
        axes.set_xlabel("time")
        axes.set_title(f"{self.inputs} input(s), {self.votes} vote(s) each: makespan {seconds(self.makespan_s)}")
        if path is not None:
            figure.savefig(path)
        return figure


def schedule(
    chip: Chip | None = None,
    *,
    stages: Sequence[float] | None = None,
    votes: int = 1,
    inputs: int = 1,
    voter: float | None = None,
    names: Sequence[str] | None = None,
) -> Schedule:
    """Run `inputs` inputs, each read `votes` times, through a pipeline of stages.

    The stages are those of a mapped `chip` (one per layer on tiles, times from `layer_costs`), or the service times
    `stages` in seconds. `voter` adds a stage of that many seconds through which every vote passes. A stage serves
    one job at a time, first come first served, with an unlimited buffer before it; the jobs (input 0 vote 0, input 0
    vote 1, ..., input 1 vote 0, ...) all wait at the first stage at time 0.

    With L equal stages T and one input the makespan is (L + K) T with a voter of T and (L + K - 1) T without.
    Raises ValueError for no stage, a time that is not positive and finite, less than one vote or input, names that
    do not fit, and both or neither of `chip` and `stages`.
    """
    if (chip is None) == (stages is None):
        raise ValueError("schedule: give either a chip or stages=[seconds, ...], not both and not neither")
    if chip is not None:
        if names is not None:
            raise ValueError("names: a chip brings the names of its layers, leave names out")
        costs = layer_costs(chip)
        stages, names = costs["stage_time_s"].tolist(), costs["layer"].tolist()
    assert stages is not None
    times = [_seconds(f"stages[{i}]", t) for i, t in enumerate(stages)]
    if not times:
        raise ValueError("stages: a pipeline needs at least one stage, got none")
    labels = [f"stage {i + 1}" for i in range(len(times))] if names is None else [str(name) for name in names]
    if len(labels) != len(times):
        raise ValueError(f"names: {len(labels)} names for {len(times)} stages")
    if voter is not None:
        times.append(_seconds("voter", voter))
        labels.append(VOTER)
    if len(set(labels)) != len(labels):
        raise ValueError(f"names: every stage needs a name of its own ({VOTER!r} is the voter's), got {labels}")
    return _run(labels, times, _count("votes", votes), _count("inputs", inputs))


def _run(names: list[str], times: list[float], votes: int, inputs: int) -> Schedule:
    exact = [Fraction(t) for t in times]
    per_second = max(t.denominator for t in exact)  # floats have powers of two below the line
    ticks = [int(t * per_second) for t in exact]
    jobs = inputs * votes
    starts = _simulate(ticks, jobs)

    seconds = [[start / per_second for start in row] for row in starts]
    ends = [[(start + service) / per_second for start in row] for row, service in zip(starts, ticks, strict=True)]
    job = np.arange(jobs)
    events = pd.concat(
        pd.DataFrame(
            {
                "stage": name,
                "job": job,
                "input": job // votes,
                "vote": job % votes,
                "start_s": seconds[s],
                "end_s": ends[s],
            }
        )
        for s, name in enumerate(names)
    )
    makespan = ends[-1][-1]
    slowest = max(range(len(ticks)), key=ticks.__getitem__)
    interval = votes * ticks[slowest] / per_second
    return Schedule(
        names=tuple(names),
        service_s=tuple(times),
        votes=votes,
        inputs=inputs,
        makespan_s=makespan,
        first_latency_s=ends[-1][votes - 1],
        decision_interval_s=interval,
        throughput=1 / interval,
        utilisation={name: jobs * time / makespan for name, time in zip(names, times, strict=True)},
        bottleneck=names[slowest],
        events=events.sort_values("start_s", kind="stable", ignore_index=True),
    )


def _simulate(service: list[int], jobs: int) -> list[list[int]]:
    """Start times in ticks, by stage and job: the event loop.

    An event is a stage finishing its job: the job joins the next stage's queue, and both stages take up work if they
    are idle and have any.
    """
    queues = [deque(range(jobs)), *(deque[int]() for _ in service[1:])]
    serving: list[int | None] = [None] * len(service)
    starts: list[list[int]] = [[0] * jobs for _ in service]
    finishes: list[tuple[int, int]] = []

    def take_up(stage: int, now: int) -> None:
        if serving[stage] is None and queues[stage]:
            job = serving[stage] = queues[stage].popleft()
            starts[stage][job] = now
            heapq.heappush(finishes, (now + service[stage], stage))

    take_up(0, 0)
    while finishes:
        now, stage = heapq.heappop(finishes)
        job, serving[stage] = serving[stage], None
        take_up(stage, now)
        if job is not None and stage + 1 < len(service):
            queues[stage + 1].append(job)
            take_up(stage + 1, now)
    return starts


def _seconds(field: str, value: float) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"{field}: a service time is a positive number of seconds, got {value!r}")
    return seconds


def _count(field: str, value: int) -> int:
    try:
        count = 0 if isinstance(value, bool) else index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"{field}: a whole number of at least 1, got {value!r}")
    return count
