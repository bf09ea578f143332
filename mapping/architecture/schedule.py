"""The pipeline: a discrete-event schedule of K votes of a stream of inputs through stages with service times.

The events are kept in whole ticks, of which every float service time is a multiple: no rounding gathers over the run,
so (L + K) T comes out to the last bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..reports.page import Page, as_table, as_text
from ..reports.schedule_page import cards_of, schedule_page
from .chain import Stages, count_of, counts_of, seconds_of
from .gantt import chrome_trace, gantt
from .loading import Loading
from .pipeline import Operation, Times, simulate
from .stages import StagePlan, chip_plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..chip import Chip

__all__ = ["Schedule", "schedule"]

VOTER = "voter"
WRITING = "writing of tiles"


@dataclass(frozen=True, eq=False)
class Schedule:
    """One run of the pipeline. Times are in seconds.

    names, service_s, servers: the stages in order, the voter last if there is one; how long each works on one job
    (all its calls together), and on how many jobs at once.
    votes, inputs: reads of each input (K) and number of inputs. copies: chips that share the votes.
    makespan_s: end of the last decision. first_latency_s: end of the first decision (its last vote has left).
    steady_latency_s: of the last input, from the start of its first vote to its decision. With buffers of any depth it
    grows with the number of inputs, which then wait before the slowest stage; with limited ones it settles.
    decision_interval_s: time between decisions, the mean over the later half of the inputs; not less than K times the
    busiest stage, which is all that one input tells.
    throughput: decisions per second at that interval.
    utilisation: share of the makespan in which a stage works, by name.
    bottleneck: name of the busiest stage (the first of several).
    events: one row per (call of a stage, job): stage, job, input, vote (the first of a job that stands for several
    copies), step (number of the call or row on this stage), start_s, end_s, left_s (the result is delivered, after
    waiting for room in a buffer), ordered by start and stage.
    loading: of a chip, the tiles that it needs and has. Where the network does not fit, the inputs are one batch, and
    the time of its writes is part of makespan, latencies and interval, and no part of the events; the bottleneck may be
    the "writing of tiles".
    """

    names: tuple[str, ...]
    service_s: tuple[float, ...]
    servers: tuple[int, ...]
    votes: int
    inputs: int
    copies: int
    makespan_s: float
    first_latency_s: float
    steady_latency_s: float
    decision_interval_s: float
    throughput: float
    utilisation: dict[str, float]
    bottleneck: str
    events: pd.DataFrame
    loading: Loading | None = None

    def gantt(self, path: str | PathLike[str] | None = None) -> Figure:
        """The chart of the events: a row per stage, a bar and a colour per job. Written to `path` too, if given.

        Example:
            >>> figure = mho.schedule(stages=[1.0, 2.0], votes=3).gantt("gantt.png")
        """
        return gantt(self, path)

    def page(self) -> Page:
        """A page for a browser: what runs when on which stage, and how busy each is. `write` makes the file."""
        return schedule_page(self)

    def _repr_html_(self) -> str:
        return as_table(cards_of(self))

    def __str__(self) -> str:
        return as_text(cards_of(self))

    def trace(self, path: str | PathLike[str]) -> None:
        """Write the events as JSON that chrome://tracing and Perfetto show.

        Example:
            >>> mho.schedule(stages=[1.0, 2.0], votes=3).trace("trace.json")
        """
        chrome_trace(self, path)


def schedule(
    chip: Chip | None = None,
    *,
    stages: Stages | Sequence[float] | None = None,
    votes: int = 1,
    inputs: int = 1,
    voter: float | None = None,
    replicas: Mapping[str, int] | None = None,
    buffers: int | None = None,
    copies: int = 1,
    line_buffers: bool = False,
    layers: str | Sequence[str] | None = None,
) -> Schedule:
    """Run `inputs` inputs, each read `votes` times, through a pipeline of stages.

    The stages are those of a mapped `chip` (a layer on tiles, or the digital unit behind one, connected as its model
    is), or `stages` of given service times. A stage serves one job at a time, first come first
    served; the jobs (input 0 vote 0, input 0 vote 1, ..., input 1 vote 0, ...) all wait at time 0.

    With L equal stages T and one input the makespan is (L + K) T with a voter of T and (L + K - 1) T without.

    Args:
        chip: a network on tiles, mapped with calibration inputs.
        stages: instead of a chip: service times in seconds, of a chain; or `Stages`, with names, links or steps.
        votes: K, reads of each input.
        inputs: how many inputs, one behind the other.
        voter: seconds of a last stage through which every vote passes; None leaves it out.
        replicas: sets of tiles of layers by name, as in `replicate(...).replicas`, or servers of some of
            `stages`. Those of a layer share the positions of its image, and jobs where there are more than positions;
            those of one of `stages` work on different jobs.
        buffers: results that fit between two stages, and jobs inside the loop of a recurrent layer; a stage with no
            room for its result waits. None: no limit.
        copies: chips, whole pipelines, that share the votes of each input and work in step; the voter takes one vote of
            each at a time.
        line_buffers: rows of an image are passed to the next layer of a chip as they are ready.
        layers: of a chip, those that every vote reads, with what comes after them, as in `mho.vote`; the others are
            read in the first vote of each copy, and their results held. A job is then an input with all its votes.

    Raises:
        ValueError: no stage, a time that is not positive and finite, less than one vote, input, copy, replica or place
            in a buffer, buffers in which jobs block each other forever, two stages of one name, and both or neither of
            `chip` and `stages`.

    Example:
        >>> mho.schedule(stages=[1.0] * 6, votes=20, voter=1.0).makespan_s  # (L + K) T
        26.0
        >>> mho.schedule(chip, votes=5).makespan_s < 1e-4  # seconds
        True
    """
    counts = counts_of(replicas)
    if chip is not None and stages is None:
        plan = chip_plan(chip, counts, line_buffers, layers)
    elif stages is not None and chip is None:
        if line_buffers:
            raise ValueError(
                "line_buffers: only a chip has images whose rows can be passed on, leave it out with stages"
            )
        if layers is not None:
            raise ValueError("layers: only a chip has layers on tiles, leave it out with stages")
        plan = (stages if isinstance(stages, Stages) else Stages(stages)).plan(counts)
    else:
        raise ValueError("schedule: give a chip or stages=[seconds, ...], one of the two")
    if voter is not None:
        plan = plan.with_voter(VOTER, seconds_of("voter", voter))
    depth = None if buffers is None else count_of("buffers", buffers)
    if depth is not None and layers is not None:
        raise ValueError("buffers: how long a result is held for votes of some layers is not modelled; leave one out")
    run = _run(plan, count_of("votes", votes), count_of("inputs", inputs), count_of("copies", copies), depth)
    return run if chip is None else _loaded(run, Loading.of(chip, counts))


def _loaded(run: Schedule, loading: Loading) -> Schedule:
    """The run with the writes of its batch, during which nothing is read."""
    if loading.fits:
        return replace(run, loading=loading)
    time, interval = loading.time_s, run.decision_interval_s + loading.time_s / run.inputs
    busiest = max(run.utilisation.values()) * run.makespan_s
    return replace(
        run,
        loading=loading,
        makespan_s=run.makespan_s + time,
        first_latency_s=run.first_latency_s + time,
        steady_latency_s=run.steady_latency_s + time,
        decision_interval_s=interval,
        throughput=1 / interval,
        utilisation={n: share * run.makespan_s / (run.makespan_s + time) for n, share in run.utilisation.items()},
        bottleneck=WRITING if time > busiest else run.bottleneck,
    )


def _check_names(plan: StagePlan) -> None:
    if len(set(plan.names)) != len(plan.names):
        raise ValueError(
            f"names: every stage needs a name of its own ({VOTER!r} is the voter's), got {list(plan.names)}"
        )


def _run(plan: StagePlan, votes: int, inputs: int, copies: int, depth: int | None) -> Schedule:
    _check_names(plan)
    rounds, of_round = -(-votes // copies), [0] * len(plan.work)
    if plan.again is not None:
        plan, of_round = plan.of_all_votes(rounds)
        rounds = 1
    jobs = inputs * rounds
    operations, tick = plan.operations()
    times = simulate(operations, plan.servers, jobs, depth)

    above, below = tick.numerator, tick.denominator

    def seconds(ticks: int) -> float:
        return ticks * above / below  # rounded once

    load = [0] * len(plan.names)
    for operation in operations:
        load[operation.unit] += operation.ticks
    needed = {before for operation in operations for before in operation.after}
    last = [lefts for number, lefts in enumerate(times.left) if number not in needed]
    finished = [max(column) for column in zip(*last, strict=True)]
    decided = [max(finished[i * rounds : (i + 1) * rounds]) for i in range(inputs)]
    begun = min(start for starts in times.start for start in starts[jobs - rounds :])
    busiest = max(range(len(load)), key=lambda u: Fraction(load[u], plan.servers[u]))
    half = (inputs - 1) // 2
    interval = Fraction(rounds * load[busiest], plan.servers[busiest])
    if inputs > 1:
        interval = max(interval, Fraction(decided[-1] - decided[half], inputs - 1 - half))
    interval *= tick
    makespan = decided[-1]
    return Schedule(
        names=plan.names,
        service_s=tuple(seconds(ticks) for ticks in load),
        servers=plan.servers,
        votes=votes,
        inputs=inputs,
        copies=copies,
        makespan_s=seconds(makespan),
        first_latency_s=seconds(decided[0]),
        steady_latency_s=seconds(decided[-1] - begun),
        decision_interval_s=float(interval),
        throughput=float(1 / interval),
        utilisation={
            name: jobs * ticks / (makespan * servers)
            for name, ticks, servers in zip(plan.names, load, plan.servers, strict=True)
        },
        bottleneck=plan.names[busiest],
        events=_events(plan, operations, times, (rounds, of_round, copies), seconds),
    )


def _events(
    plan: StagePlan,
    operations: Sequence[Operation],
    times: Times,
    voting: tuple[int, Sequence[int], int],
    seconds: Callable[[int], float],
) -> pd.DataFrame:
    """The table of events; `voting`: jobs of an input, the round of each call within a job, and copies."""
    jobs, (rounds, of_round, copies) = len(times.start[0]), voting
    turn = [number for number, work in zip(of_round, plan.work, strict=True) for _ in work.needs]
    step, counts = [], Counter[tuple[int, int]]()
    for operation, number in zip(operations, turn, strict=True):
        step.append(counts[operation.unit, number])
        counts[operation.unit, number] += 1
    job = np.tile(np.arange(jobs), len(operations))
    stage = np.repeat([operation.unit for operation in operations], jobs)
    table = {
        "stage": stage,
        "job": job,
        "input": job // rounds,
        "vote": (job % rounds + np.repeat(turn, jobs)) * copies,
        "step": np.repeat(step, jobs),
        "start_s": np.array([seconds(t) for starts in times.start for t in starts]),
        "end_s": np.array(
            [seconds(t + o.ticks) for o, starts in zip(operations, times.start, strict=True) for t in starts]
        ),
        "left_s": np.array([seconds(t) for lefts in times.left for t in lefts]),
    }
    order = np.lexsort((table["step"], job, stage, table["start_s"]))
    table["stage"] = np.array(plan.names, dtype=object)[stage]
    return pd.DataFrame({column: values[order] for column, values in table.items()})
