"""The event loop of the pipeline: operations of many jobs on units with servers, buffers of limited depth between them.

Time is counted in whole ticks, so that no rounding gathers over a run.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Operation", "Times", "loops_of", "simulate"]


class Operation(NamedTuple):
    """One thing that every job needs done once: on which unit, for how long, after which other operations.

    `puts` are the buffers that hold its result from when it is delivered, `takes` those that it empties when it starts.
    """

    unit: int
    ticks: int
    after: tuple[int, ...] = ()
    puts: tuple[int, ...] = ()
    takes: tuple[int, ...] = ()


class Times(NamedTuple):
    """By operation and job, in ticks: start, and when the result was delivered and the server free again.

    The end of the work is start + ticks; a delivery later than that waited for room in a buffer.
    """

    start: list[list[int]]
    left: list[list[int]]


def loops_of(operations: Sequence[Operation], units: int) -> list[int]:
    """For each unit the number of the loop it is part of, -1 for none.

    Units are in one loop if each needs results of the other within one job, as the gates and the hidden-state matrix
    of a recurrent layer do.
    """
    reach = [0] * units
    for operation in operations:
        for before in operation.after:
            reach[operations[before].unit] |= 1 << operation.unit
    for middle in range(units):
        for unit in range(units):
            if reach[unit] >> middle & 1:
                reach[unit] |= reach[middle]
    together = [tuple(v for v in range(units) if reach[u] >> v & 1 and reach[v] >> u & 1) for u in range(units)]
    numbers = {members: n for n, members in enumerate(sorted({t for t in together if t}))}
    return [numbers.get(members, -1) for members in together]


def simulate(operations: Sequence[Operation], servers: Sequence[int], jobs: int, depth: int | None = None) -> Times:
    """Run `jobs` jobs, all there at time 0, through operations listed in an order that respects `after`.

    A unit serves what is ready first come first served, ties in the order of jobs, on as many jobs at once as it has
    `servers`. A result that finds a buffer full (`depth` results; None: no limit) stays on its server, which is blocked
    until there is room. At most `depth` jobs are inside one loop of units.

    Raises:
        ValueError: the buffers are so short that the jobs block each other forever.
    """
    return _Run(operations, servers, jobs, depth).times()


class _Run:
    def __init__(self, operations: Sequence[Operation], servers: Sequence[int], jobs: int, depth: int | None) -> None:
        self.operations, self.jobs, self.depth = operations, jobs, depth
        self.followers: list[list[int]] = [[] for _ in operations]
        for number, operation in enumerate(operations):
            for before in operation.after:
                self.followers[before].append(number)
        self.free = list(servers)
        self.ready: list[list[tuple[int, int, int]]] = [[] for _ in servers]
        self.missing = [[len(operation.after)] * jobs for operation in operations]
        self.start = [[0] * jobs for _ in operations]
        self.left = [[0] * jobs for _ in operations]
        self.finishes: list[tuple[int, int, int]] = []
        self.done: list[deque[int]] = [deque() for _ in operations]  # finished, not yet delivered
        buffers = 1 + max((b for operation in operations for b in operation.puts), default=-1)
        self.stored = [0] * buffers
        self.source = [0] * buffers
        for number, operation in enumerate(operations):
            for buffer in operation.puts:
                self.source[buffer] = number
        self.loop = [-1] * len(servers) if depth is None else loops_of(operations, len(servers))
        loops = 1 + max(self.loop, default=-1)
        self.inside = [0] * loops
        for operation in operations:
            if self.loop[operation.unit] >= 0:
                self.inside[self.loop[operation.unit]] += 1
        self.remaining = [[count] * jobs for count in self.inside]
        self.admitted = [depth or 0] * loops
        self.parked: list[dict[int, list[int]]] = [{} for _ in range(loops)]

    def times(self) -> Times:
        idle = set()
        for number, operation in enumerate(self.operations):
            if not operation.after:
                for job in range(self.jobs):
                    self._offer(number, job, 0)
                idle.add(operation.unit)
        self._settle(0, set(), idle)
        delivered = 0
        while self.finishes:
            now, finished = self.finishes[0][0], set()
            while self.finishes and self.finishes[0][0] == now:
                _, job, number = heapq.heappop(self.finishes)
                self.done[number].append(job)
                finished.add(number)
            delivered += self._settle(now, finished, set())
        if delivered < self.jobs * len(self.operations):
            raise ValueError(f"buffers: with a depth of {self.depth} the jobs block each other forever, make it larger")
        return Times(self.start, self.left)

    def _settle(self, now: int, finished: set[int], idle: set[int]) -> int:
        """All that can be delivered and started at one moment; returns the number of deliveries."""
        delivered = 0
        while finished or idle:
            for number in sorted(finished):
                delivered += self._deliver(number, now, idle)
            finished = set()
            for unit in sorted(idle):
                self._take_up(unit, now, finished)
            idle = set()
        return delivered

    def _deliver(self, number: int, now: int, idle: set[int]) -> int:
        operation, done, stored, depth = self.operations[number], self.done[number], self.stored, self.depth
        delivered = 0
        while done and (depth is None or all(stored[b] < depth for b in operation.puts)):
            job = done.popleft()
            delivered += 1
            self.left[number][job] = now
            self.free[operation.unit] += 1
            idle.add(operation.unit)
            for buffer in operation.puts:
                stored[buffer] += 1
            for follower in self.followers[number]:
                missing = self.missing[follower]
                missing[job] -= 1
                if not missing[job]:
                    self._offer(follower, job, now)
                    idle.add(self.operations[follower].unit)
            if self.loop[operation.unit] >= 0:
                self._leave(self.loop[operation.unit], job, now, idle)
        return delivered

    def _leave(self, loop: int, job: int, now: int, idle: set[int]) -> None:
        """One operation of a job in a loop is over; after the last one the next job may enter."""
        self.remaining[loop][job] -= 1
        if self.remaining[loop][job]:
            return
        self.admitted[loop] += 1
        entering = self.admitted[loop] - 1
        for number in self.parked[loop].pop(entering, ()):
            heapq.heappush(self.ready[self.operations[number].unit], (now, entering, number))
            idle.add(self.operations[number].unit)

    def _offer(self, number: int, job: int, now: int) -> None:
        unit = self.operations[number].unit
        loop = self.loop[unit]
        if loop >= 0 and job >= self.admitted[loop]:
            self.parked[loop].setdefault(job, []).append(number)
        else:
            heapq.heappush(self.ready[unit], (now, job, number))

    def _take_up(self, unit: int, now: int, finished: set[int]) -> None:
        ready = self.ready[unit]
        while self.free[unit] and ready:
            _, job, number = heapq.heappop(ready)
            operation = self.operations[number]
            self.free[unit] -= 1
            self.start[number][job] = now
            heapq.heappush(self.finishes, (now + operation.ticks, job, number))
            for buffer in operation.takes:
                self.stored[buffer] -= 1
                finished.add(self.source[buffer])
