"""Stages that are known by their service times alone: an example of a pipeline, without a chip."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import index

from .stages import StagePlan, Work

__all__ = ["Stages", "count_of", "counts_of", "seconds_of"]


@dataclass(frozen=True)
class Stages:
    """Stages one after the other, or linked as given.

    Attributes:
        times: service times in seconds.
        names: of the stages; `stage 1`, `stage 2`, ... where none are given.
        links: pairs (from, to) of places in `times`, from before to, where the stages are no chain.
        steps: how many times each job goes through the chain, as a sequence does through a recurrent layer.

    Raises:
        ValueError: no stage, a time that is not positive and finite, names or links that do not fit, less than one
            step, links of several steps.

    Example:
        >>> mho.schedule(stages=mho.Stages([1.0, 1.0], steps=50)).makespan_s  # a loop of 50 steps
        100.0
    """

    times: Sequence[float]
    names: Sequence[str] | None = None
    links: Sequence[tuple[int, int]] | None = None
    steps: int = 1

    def __post_init__(self) -> None:
        times = tuple(seconds_of(f"stages[{i}]", t) for i, t in enumerate(self.times))
        if not times:
            raise ValueError("stages: a pipeline needs at least one stage, got none")
        names = [f"stage {i + 1}" for i in range(len(times))] if self.names is None else map(str, self.names)
        steps, links = count_of("steps", self.steps), None if self.links is None else tuple(self.links)
        vars(self).update(times=times, names=tuple(names), links=links, steps=steps)
        if len(self.labels) != len(times):
            raise ValueError(f"names: {len(self.labels)} names for {len(times)} stages")
        for link in links or ():
            if not 0 <= link[0] < link[1] < len(times):
                raise ValueError(f"links: pairs (from, to) with 0 <= from < to < {len(times)}, got {link}")
        if links is not None and steps > 1:
            raise ValueError(f"steps: a sequence goes through a chain, leave links out or set steps to 1, got {steps}")

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the stages."""
        return tuple(self.names or ())

    def plan(self, replicas: Mapping[str, int]) -> StagePlan:
        """What a job does on them, with so many servers of some of them.

        Raises:
            ValueError: replicas of what is no stage.
        """
        unknown = [name for name in replicas if name not in self.labels]
        if unknown:
            raise ValueError(f"replicas: {unknown[0]!r} is none of the stages {', '.join(self.labels)}")
        count = len(self.times)
        calls = range(self.steps * count)
        pairs = list(pairwise(calls)) if self.links is None else self.links
        after = [tuple(sorted({a for a, b in pairs if b == call})) for call in calls]
        work = tuple(Work(call % count, 0.0, self.times[call % count], after[call]) for call in calls)
        return StagePlan(self.labels, tuple(replicas.get(name, 1) for name in self.labels), work)


def seconds_of(field: str, value: float) -> float:
    """A service time.

    Raises:
        ValueError: it is not positive and finite.
    """
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"{field}: a service time is a positive number of seconds, got {value!r}")
    return seconds


def counts_of(replicas: Mapping[str, int] | None) -> dict[str, int]:
    """Replicas by the name of what has them.

    Raises:
        ValueError: they are not by name, or a number is below 1.
    """
    if not isinstance(replicas, Mapping | None):
        raise ValueError(
            f"replicas: expected numbers by name, as {{'conv1': 2}} or replicate(...).replicas, "
            f"got {type(replicas).__name__}"
        )
    return {name: count_of(f"replicas[{name!r}]", n) for name, n in (replicas or {}).items()}


def count_of(field: str, value: int) -> int:
    """A whole number.

    Raises:
        ValueError: it is none, or below 1.
    """
    try:
        count = 0 if isinstance(value, bool) else index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"{field}: a whole number of at least 1, got {value!r}")
    return count
