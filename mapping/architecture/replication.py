"""Replicas of slow layers under a budget, and copies of the whole chip beside them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, inf, lcm
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from ..errors import MappingError, check_chip
from ..reports.page import as_text, engineering
from .closed_forms import sequential
from .cost import Demand, demands
from .decision import Decision, decision
from .loading import Loading
from .stages import chip_plan, reading

if TYPE_CHECKING:
    from ..chip import Chip

__all__ = ["Replication", "replicate", "ways"]


@dataclass(frozen=True)
class Replication:
    """Replicas of layers that fit a budget.

    Attributes:
        replicas: sets of tiles of each layer, by name; what `mho.schedule` takes.
        tiles, area_m2: that they take in all.
        slowest_s: of the slowest stage, the least time between two votes.
        stages_s: of all stages together.
    """

    replicas: dict[str, int]
    tiles: int
    area_m2: float
    slowest_s: float
    stages_s: float

    def __str__(self) -> str:
        cards = {
            "tiles": f"{self.tiles:,}",
            "area": f"{1e6 * self.area_m2:.4g} mm2",
            "slowest stage": engineering(self.slowest_s, "s"),
            "all stages": engineering(self.stages_s, "s"),
            "replicas": ", ".join(f"{name} {count}" for name, count in self.replicas.items()),
        }
        return as_text(cards)


class _Option(NamedTuple):
    """A number of replicas of one layer: the units of the budget that it takes beyond one, the time of a job on it, and
    the time between two jobs.
    """

    replicas: int
    price: int
    time_s: float
    pace_s: float


def replicate(
    chip: Chip,
    *,
    tiles: int | None = None,
    area: float | None = None,
    votes: int = 1,
    goal: Literal["throughput", "latency"] = "throughput",
) -> Replication:
    """The best numbers of replicas of the layers on tiles under a budget of tiles or of area.

    For `throughput` no other choice has a shorter slowest stage, and of those that have it this one takes the least of
    the budget. For `latency` no other choice has a smaller sum of the stages' times and `votes` - 1 times the slowest,
    which is the latency of one decision of `votes` votes through a chain; through a model with branches it is an upper
    bound. Digital units are never replicated. Images go on as a whole.

    Args:
        chip: a mapped network.
        tiles: that may be used in all, one set for each layer included.
        area: that the layers may take, in square metres, instead of tiles. Where layers have tiles of different size,
            what a replica takes is rounded up to 1 / 20000 of it.
        votes: K.
        goal: what is to be best.

    Raises:
        MappingError: no budget or two, one that does not hold a set of tiles for each layer, a network that does not
            fit its chip, or no such goal.

    Example:
        >>> from mho.mapping.architecture.replication import replicate
        >>> found = replicate(chip, tiles=4, votes=5, goal="latency")
        >>> mho.schedule(chip, votes=5, replicas=found.replicas).votes
        5
    """
    if goal not in ("throughput", "latency"):
        raise MappingError(f"goal: throughput or latency, got {goal!r}")
    if votes < 1:
        raise MappingError(f"votes: a whole number of at least 1, got {votes!r}")
    check_chip(chip)
    field, budget = _budget(tiles, area)
    if not (loading := Loading.of(chip)).fits:
        raise MappingError(f"replicate: the network {loading}; set cost.tiles to at least {loading.needed}, or to null")
    asked = demands(chip)
    least = sum(_size(demand, 1, field) for demand in asked.values())
    if budget < least:
        raise MappingError(f"{field}: one set of tiles for each layer takes {least:g}, got a budget of {budget:g}")
    steps = [_size(demand, 2, field) - _size(demand, 1, field) for demand in asked.values()]
    prices, most = _in_units(steps, budget - least)
    options = []
    for (name, demand), price in zip(asked.items(), prices, strict=True):
        calls = [call.positions for call in chip.trace if call.layer == name and call.positions]
        options.append(_options(demand, calls, price, most))
    plan = chip_plan(chip)
    digital = [
        sum(work.time_s for work in plan.work if work.stage == stage)
        for stage, name in enumerate(plan.names)
        if name not in asked
    ]
    floor = max(digital, default=0.0)
    chosen = _fastest(options, floor, most)
    if goal == "latency":
        chosen = _shortest(options, floor, most, votes, chosen)
    replicas = {name: option.replicas for name, option in zip(asked, chosen, strict=True)}
    return Replication(
        replicas,
        sum(replicas[name] * demand.placement.tiles for name, demand in asked.items()),
        sum(sum(demand.area(replicas[name]).values()) for name, demand in asked.items()),
        max(floor, *(option.pace_s for option in chosen)),
        sum(digital) + sum(option.time_s for option in chosen),
    )


def _budget(tiles: int | None, area: float | None) -> tuple[str, float]:
    """What is limited, and to how much."""
    if (tiles is None) == (area is None):
        raise MappingError("replicate: give a budget of tiles or of area, one of the two")
    return ("tiles", float(tiles)) if tiles is not None else ("area", float(area or 0.0))


def _size(demand: Demand, replicas: int, field: str) -> float:
    return float(replicas * demand.placement.tiles) if field == "tiles" else sum(demand.area(replicas).values())


def _in_units(steps: list[float], spare: float) -> tuple[list[int], int]:
    """What one more replica of each layer takes and what can be spent, in whole units.

    The unit is the largest that all steps are multiples of; where they have none to speak of (different tiles), they
    are rounded up to 1 / 20000 of what can be spent.
    """
    ratios = [Fraction(step / min(steps)).limit_denominator(1000) for step in steps]
    unit = min(steps) / lcm(*(ratio.denominator for ratio in ratios))
    prices = [round(step / unit) for step in steps]
    if any(abs(price * unit - step) > 1e-9 * step for price, step in zip(prices, steps, strict=True)):
        unit = spare / 20000 if spare else inf
        prices = [ceil(step / unit) if spare else 1 for step in steps]
    return prices, int(spare / unit * (1 + 1e-9))


def _options(demand: Demand, calls: list[int], price: int, most: int) -> list[_Option]:
    """Every number of replicas that is faster than the next smaller one, as far as what can be spent goes."""
    times, found, best = reading(demand), [], inf
    split = max(calls)
    useful = sorted({ceil(split / reads) for reads in range(1, split + 1)} if len(calls) == 1 else range(1, split + 1))
    useful += [split * servers for servers in range(2, (1 + most // price) // split + 1)]
    for replicas in useful:
        if (replicas - 1) * price > most:
            break
        time = sum(times.time(positions, min(replicas, positions)) for positions in calls)
        pace = time / max(1, replicas // split)
        if pace < best:
            best = pace
            found.append(_Option(replicas, (replicas - 1) * price, time, pace))
    return found


def _fastest(options: list[list[_Option]], floor: float, most: int) -> list[_Option]:
    """Replicate the bottleneck until the budget is spent or a digital unit is the bottleneck: exact, since no choice
    beats the present pace without at least these replicas.
    """
    chosen = [mine[0] for mine in options]
    while True:
        slowest = max(option.pace_s for option in chosen)
        if slowest <= floor:
            return chosen
        faster = []
        for option, mine in zip(chosen, options, strict=True):
            better = [o for o in mine if o.pace_s < slowest] if option.pace_s == slowest else [option]
            if not better:
                return chosen
            faster.append(better[0])
        if sum(option.price for option in faster) > most:
            return chosen
        chosen = faster


def _shortest(
    options: list[list[_Option]], floor: float, most: int, votes: int, fastest: list[_Option]
) -> list[_Option]:
    """The choice with the smallest sum of times and (votes - 1) times the slowest stage.

    For each pace that a stage may set, from the fastest that fits, the best sum among choices that keep it; a pace
    whose share alone, with the best sum of all, is no better than what was found ends the search.
    """

    def latency(chosen: list[_Option]) -> float:
        return sum(o.time_s for o in chosen) + (votes - 1) * max(floor, *(o.pace_s for o in chosen))

    free = _least_sum(options, most)
    assert free is not None
    best = min(free, fastest, key=latency)
    least = sum(option.time_s for option in free)
    start = max(floor, *(option.pace_s for option in fastest))
    for pace in sorted({max(floor, o.pace_s) for mine in options for o in mine}):
        if pace < start:
            continue
        if least + (votes - 1) * pace >= latency(best):
            break
        found = _least_sum([[o for o in mine if o.pace_s <= pace] for mine in options], most)
        if found is not None:
            best = min(best, found, key=latency)
    return best


def _least_sum(options: list[list[_Option]], most: int) -> list[_Option] | None:
    """The choice of one option each with the smallest sum of times for `most` units, None if there is none.

    Layer by layer, the least sum for every number of units that may be spent so far (a knapsack).
    """
    most = min(most, sum(max((option.price for option in mine), default=0) for mine in options))
    least = np.zeros(most + 1)
    picks = []
    for mine in options:
        best, pick = np.full(most + 1, inf), np.zeros(most + 1, dtype=np.int32)
        fastest = inf
        for number, option in enumerate(mine):
            if option.time_s >= fastest or option.price > most:
                continue
            fastest = option.time_s
            sums = least[: most + 1 - option.price] + option.time_s
            better = np.flatnonzero(sums < best[option.price :])
            best[option.price + better] = sums[better]
            pick[option.price + better] = number
        least = best
        picks.append(pick)
    if not np.isfinite(least[most]):
        return None
    chosen, left = [], most
    for mine, pick in zip(reversed(options), reversed(picks), strict=True):
        chosen.append(mine[pick[left]])
        left -= chosen[-1].price
    return chosen[::-1]


def ways(chip: Chip, votes: int) -> pd.DataFrame:
    """The ways to K votes side by side, for one decision and for a stream of them.

    Rows: `sequential` (a vote starts when the one before is done), `pipelined`, `lines` (pipelined, rows go on as they
    are ready), `replicated` (pipelined, slow layers replicated for latency in the area of K chips) and `copies` (a chip
    for each vote). The paper's two ways are `copies` and `pipelined` (Qin and Vucinic, section 3.3).

    Raises:
        MappingError: a chip with a number of tiles, as the ways are chips of different size.

    Columns: `latency_s`, `overhead` over one inference without a voter, `interval_s` of a stream, `energy_j` of a
    decision without leakage and `energy_full_j` with that of its interval, `area_m2`, `power_full_w`.
    """
    check_chip(chip)
    if (tiles := Loading.of(chip).available) is not None:
        raise MappingError(f"ways: compares chips of different size, set cost.tiles to null, got {tiles}")
    one = decision(chip, votes)
    voter = chip.hardware.cost.digital_time
    alone = decision(chip, 1).latency_s - voter
    replicas = replicate(chip, area=votes * one.area_m2, votes=votes, goal="latency").replicas
    table: dict[str, Decision] = {
        "pipelined": one,
        "lines": decision(chip, votes, line_buffers=True),
        "replicated": decision(chip, votes, replicas=replicas),
        "copies": decision(chip, votes, copies=votes),
    }
    rows = [{"way": "sequential"} | _numbers(one, sequential([alone], votes, voter), votes * alone, alone)]
    rows += [{"way": way} | _numbers(d, d.latency_s, d.interval_s, alone) for way, d in table.items()]
    return pd.DataFrame(rows)


def _numbers(d: Decision, latency: float, interval: float, alone: float) -> dict[str, Any]:
    full = d.work_j + d.leakage_w * interval
    return {
        "latency_s": latency,
        "overhead": latency / alone - 1,
        "interval_s": interval,
        "energy_j": d.work_j,
        "energy_full_j": full,
        "area_m2": d.area_m2,
        "power_full_w": full / interval,
    }
