"""The event loop against the recurrence that it must fulfil, on random graphs of stages, servers and buffers."""

import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mho.mapping.architecture.chain import Stages
from mho.mapping.architecture.closed_forms import interleaved, parallel, pipelined
from mho.mapping.architecture.pipeline import Operation, loops_of, simulate
from mho.mapping.architecture.schedule import Schedule, schedule

TICKS = st.integers(1, 50)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Operation], list[int]]:
    """Stages of one operation each, linked at random, each link with a buffer; and their servers."""
    stages = draw(st.integers(1, 7))
    operations, buffers = [], 0
    takes: list[list[int]] = [[] for _ in range(stages)]
    puts: list[list[int]] = [[] for _ in range(stages)]
    after = []
    for stage in range(stages):
        before = draw(st.sets(st.sampled_from(range(stage)), max_size=3)) if stage else set()
        after.append(tuple(sorted(before)))
        for source in before:
            puts[source].append(buffers)
            takes[stage].append(buffers)
            buffers += 1
    for stage in range(stages):
        ticks = draw(TICKS)
        operations.append(Operation(stage, ticks, after[stage], tuple(puts[stage]), tuple(takes[stage])))
    return operations, draw(st.lists(st.integers(1, 3), min_size=stages, max_size=stages))


def recurrence(
    operations: list[Operation], servers: list[int], jobs: int, depth: int | None
) -> tuple[list[list[int]], list[list[int]]]:
    """Start and delivery times, job by job: the plain twin of the event loop.

    A job starts when all it needs is delivered and the server of the job `servers` places before is free; it leaves
    when it is done, its predecessor has left, and every follower has taken the job `depth` places before.
    """
    start = [[0] * jobs for _ in operations]
    left = [[0] * jobs for _ in operations]
    followers = [[f for f, o in enumerate(operations) if n in o.after] for n in range(len(operations))]
    for job in range(jobs):
        for n, operation in enumerate(operations):
            ready = [left[b][job] for b in operation.after]
            ready += [left[n][job - servers[n]]] if job >= servers[n] else []
            start[n][job] = max(ready, default=0)
            end = [start[n][job] + operation.ticks]
            end += [left[n][job - 1]] if job else []
            if depth is not None and job >= depth:
                end += [start[f][job - depth] for f in followers[n]]
            left[n][job] = max(end)
    return start, left


@given(graph=graphs(), jobs=st.integers(1, 9), depth=st.none() | st.integers(1, 4))
def test_event_loop_fulfils_the_recurrence(
    graph: tuple[list[Operation], list[int]], jobs: int, depth: int | None
) -> None:
    operations, servers = graph
    times = simulate(operations, servers, jobs, depth)
    assert (times.start, times.left) == recurrence(operations, servers, jobs, depth)


@given(graph=graphs(), jobs=st.integers(1, 9), depth=st.none() | st.integers(1, 4))
def test_no_job_is_lost_order_is_kept_and_bounds_hold(
    graph: tuple[list[Operation], list[int]], jobs: int, depth: int | None
) -> None:
    operations, servers = graph
    times = simulate(operations, servers, jobs, depth)
    for number, operation in enumerate(operations):
        start, left = np.array(times.start[number]), np.array(times.left[number])
        assert len(start) == len(left) == jobs
        assert (np.diff(start) >= 0).all()
        assert (np.diff(left) >= 0).all()
        assert (left >= start + operation.ticks).all()
        for before in operation.after:
            assert (start >= times.left[before]).all()
        for moment in start:  # a job occupies its server until its result is delivered
            assert ((start <= moment) & (moment < left)).sum() <= servers[number]
        if depth is not None:
            for follower, other in enumerate(operations):
                if number in other.after:
                    taken = np.array(times.start[follower])
                    assert all((left <= moment).sum() - (taken <= moment).sum() <= depth for moment in left)
    makespan = max(max(left) for left in times.left)
    longest: list[int] = []
    for operation in operations:
        longest.append(operation.ticks + max((longest[b] for b in operation.after), default=0))
    busiest = max(-(-jobs // s) * o.ticks for o, s in zip(operations, servers, strict=True))
    assert max(*longest, busiest) <= makespan <= jobs * sum(o.ticks for o in operations)


def test_a_wrong_recurrence_is_told_apart() -> None:
    """Negative control: with one place more in each buffer the times are others."""
    operations = [Operation(0, 1, (), (0,)), Operation(1, 5, (0,), (), (0,))]
    assert simulate(operations, [1, 1], 6, 1) == recurrence(operations, [1, 1], 6, 1)
    assert simulate(operations, [1, 1], 6, 1) != recurrence(operations, [1, 1], 6, 2)


def test_a_full_buffer_holds_back_the_stage_before() -> None:
    run = schedule(stages=[1.0, 5.0], votes=4, buffers=1)
    first = run.events[run.events["stage"] == "stage 1"]
    assert first["start_s"].tolist() == [0, 1, 2, 6]
    assert first["left_s"].tolist() == [1, 2, 6, 11]
    assert run.makespan_s == schedule(stages=[1.0, 5.0], votes=4).makespan_s == 21


def test_a_short_buffer_beside_a_long_branch_costs_throughput() -> None:
    stages = Stages([1.0] * 5, links=[(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)])
    residual = {"stages": stages, "inputs": 40}
    free, tight = schedule(**residual), schedule(**residual, buffers=1)
    assert free.decision_interval_s == 1
    assert tight.decision_interval_s > 1.5
    assert schedule(**residual, buffers=4).decision_interval_s == 1


def test_limited_buffers_settle_the_latency() -> None:
    chain = {"stages": [1.0, 1.0, 4.0], "votes": 2}
    assert schedule(**chain, inputs=50).steady_latency_s > schedule(**chain, inputs=25).steady_latency_s
    settled = [schedule(**chain, inputs=n, buffers=1).steady_latency_s for n in (25, 50)]
    assert settled[0] == settled[1]


def recurrent(steps: int, units: tuple[int, int] = (0, 1)) -> list[Operation]:
    """A recurrent layer: the matrix (3 ticks) and the gates (2) in turn, once a step."""
    operations: list[Operation] = []
    for _ in range(steps):
        for unit, ticks in zip(units, (3, 2), strict=True):
            operations.append(Operation(unit, ticks, (len(operations) - 1,) if operations else ()))
    return operations


def test_votes_fill_the_bubbles_of_a_recurrent_layer() -> None:
    steps, votes = 10, 4
    operations = recurrent(steps)
    assert loops_of(operations, 2) == [0, 0]

    def makespan(jobs: int, depth: int | None) -> int:
        return max(simulate(operations, [1, 1], jobs, depth).left[-1])

    assert makespan(1, None) == steps * 5
    assert makespan(votes, 1) == votes * steps * 5  # one sequence at a time: no pipelining at all
    assert makespan(votes, 2) < makespan(votes, 1)
    assert makespan(votes, None) == votes * steps * 3 + 2  # the matrix never waits


@given(steps=st.integers(1, 6), jobs=st.integers(1, 6), depth=st.none() | st.integers(1, 3))
def test_recurrent_jobs_stay_within_bounds(steps: int, jobs: int, depth: int | None) -> None:
    operations = recurrent(steps)
    times = simulate(operations, [1, 1], jobs, depth)
    makespan = max(times.left[-1])
    assert max(5 * steps, 3 * steps * jobs) <= makespan <= 5 * steps * jobs
    if depth is not None and steps > 1:
        begin, end = np.array(times.start[0]), np.array(times.left[-1])
        assert all(((begin <= moment) & (moment < end)).sum() <= depth for moment in begin)


def test_two_jobs_that_block_each_other_are_an_error() -> None:
    """Stage 1 holds its second result until stage 3 takes the first, and stage 3 waits for both results of stage 1."""
    operations = [Operation(0, 1, (), (0,)), Operation(0, 1, (), (0,)), Operation(1, 1, (0, 1), (), (0, 0))]
    with pytest.raises(ValueError, match=r"buffers: with a depth of 1 .* make it larger"):
        simulate(operations, [1, 1], 2, 1)
    assert simulate(operations, [1, 1], 1, 2).left[-1] == [3]


@given(
    times=st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=6),
    votes=st.integers(1, 12),
    copies=st.integers(1, 5),
    voter=st.none() | st.floats(1e-9, 1e3),
)
def test_parallel_copies_equal_their_closed_form(
    times: list[float], votes: int, copies: int, voter: float | None
) -> None:
    run = schedule(stages=times, votes=votes, copies=copies, voter=voter)
    assert run.makespan_s == parallel(times, votes, copies, voter)
    servers = {f"stage {i + 1}": copies for i in range(len(times))}
    assert schedule(stages=times, votes=votes, replicas=servers).makespan_s == parallel(times, votes, copies)
    assert parallel(times, votes, 1, voter) == pipelined(times, votes, voter)
    assert parallel(times, votes, votes) == float(sum(map(Fraction, times)))  # the paper: no overhead


@given(
    times=st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=4),
    steps=st.integers(1, 6),
    votes=st.integers(1, 7),
    inputs=st.integers(1, 2),
)
def test_interleaved_sequences_equal_their_closed_form(times: list[float], steps: int, votes: int, inputs: int) -> None:
    run = schedule(stages=Stages(times, steps=steps), votes=votes, inputs=inputs)
    assert run.makespan_s == interleaved(times, steps, votes, inputs)
    assert run.makespan_s <= interleaved(times, steps, 1) * votes * inputs * (1 + 1e-12)


def traced(run: Schedule, path: Path) -> list[dict]:
    run.trace(path)
    return json.loads(path.read_text(encoding="utf-8"))["traceEvents"]


def test_chrome_trace_holds_every_event(tmp_path: Path) -> None:
    run = schedule(stages=[1e-6, 5e-6], votes=3, inputs=2, voter=1e-6, replicas={"stage 2": 2}, buffers=1)
    events = traced(run, tmp_path / "trace.json")
    names = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    assert list(names.values()) == ["stage 1", "stage 2 #1", "stage 2 #2", "voter"]
    bars = [e for e in events if e["ph"] == "X"]
    assert len(bars) == len(run.events) == 18
    for tid in names:
        row = sorted((e["ts"], e["ts"] + e["dur"]) for e in bars if e["tid"] == tid)
        assert all(end <= start + 1e-9 for (_, end), (start, _) in pairwise(row))


def test_a_network_of_the_size_of_resnet_50_is_laid_out_event_by_event() -> None:
    times = [1e-6 * (1 + i % 7) + 1e-9 * i for i in range(100)]
    links = [(i, i + 1) for i in range(99)] + [(i, i + 4) for i in range(0, 96, 3)]
    run = schedule(stages=Stages(times, links=links), votes=20, inputs=100)
    assert len(run.events) == 200_000
