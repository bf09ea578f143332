"""The stages of a chip: how long each read takes on its hardware, and the operations of one inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, gcd, log2
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..errors import MappingError, check_chip
from ..held import checked_layers
from ..trace import downstream
from .pipeline import Operation, loops_of
from .read_chain import Chain

if TYPE_CHECKING:
    from ...crossbar.hardware import Hardware
    from ...crossbar.placement import Placement
    from ..mapped import MappedNetwork
    from ..trace import Call

__all__ = ["Reading", "StagePlan", "Work", "chip_plan", "reading", "unit_names"]


@dataclass(frozen=True)
class Reading:
    """Times of the reads of one layer, in seconds.

    fill_s: before the first read is on its way at full pace. interval_s: from one read to the next, all pulses
    included. tail_s: from the last conversion to the result in the buffer.
    """

    fill_s: float
    interval_s: float
    tail_s: float

    def time(self, positions: int, replicas: int = 1) -> float:
        """Of the reads at all positions, which replicas of the layer share."""
        return self.fill_s + ceil(positions / replicas) * self.interval_s + self.tail_s


class Readable(Protocol):
    """What the times of a layer's reads depend on: a `TileLayer` has it."""

    @property
    def hardware(self) -> Hardware: ...
    @property
    def placement(self) -> Placement: ...
    @property
    def pulses(self) -> int: ...
    @property
    def phases(self) -> int: ...


def reading(layer: Readable, chain: Chain | None = None) -> Reading:
    """How the reads of a layer follow one another on its hardware.

    A pulse is driven and integrated, then the ADCs of each tile share the conversions of its bit lines; the fullest
    tile takes longest. With `cost.overlap` the next pulse is integrated meanwhile, and the longer of the two sets the
    pace. The partial sums of the row tiles are added in a tree. `chain` says more of the read than its hardware does.
    """
    hardware, placement, cost = layer.hardware, layer.placement, layer.hardware.cost
    integrate = cost.drive_time + hardware.sensing.t_read
    chain = chain or Chain.of(hardware, layer.phases)
    convert = chain.conversion_time(placement, cost, hardware.adc.bits or 1)
    tail = ceil(log2(placement.row_tiles)) * cost.add_time + cost.digital_time
    fill, interval = chain.interval(layer.pulses, integrate, convert, cost.overlap)
    return Reading(fill, interval, tail)


def check_converters(hardware: Hardware, where: str = "") -> None:
    """Raises MappingError if a converter has no number of bits: it has no cost."""
    for converter, bits in (("dac", hardware.dac.bits), ("adc", hardware.adc.bits)):
        if bits is None:
            raise MappingError(f"{where}{converter}.bits is null, which has no cost; set {converter}.bits")


class Work(NamedTuple):
    """A call of one inference on a stage: its number, seconds before the first of its rows, seconds of each row, the
    calls it needs, and for each row the last row of theirs (of `rows_in`).
    """

    stage: int
    head_s: float
    row_s: float
    after: tuple[int, ...] = ()
    needs: tuple[int, ...] = (0,)
    rows_in: int = 1

    @property
    def time_s(self) -> float:
        return self.head_s + len(self.needs) * self.row_s


@dataclass(frozen=True)
class StagePlan:
    """Stages and what one job does on them.

    names: of the stages. servers: jobs that a stage works on at once. work: the calls of one job, each after those
    whose results it needs. again: of each call, whether every vote makes it; None: all do.
    """

    names: tuple[str, ...]
    servers: tuple[int, ...]
    work: tuple[Work, ...]
    again: tuple[bool, ...] | None = None

    def ends(self) -> list[int]:
        """The calls whose results nobody needs."""
        needed = {before for work in self.work for before in work.after}
        return [number for number in range(len(self.work)) if number not in needed]

    def with_voter(self, name: str, seconds: float) -> StagePlan:
        """The same with a last stage that waits for all the others."""
        voter = Work(len(self.names), 0.0, seconds, tuple(self.ends()))
        again = None if self.again is None else (*self.again, True)
        return StagePlan((*self.names, name), (*self.servers, 1), (*self.work, voter), again)

    def of_all_votes(self, rounds: int) -> tuple[StagePlan, list[int]]:
        """The plan of one job that is an input with all its rounds of votes, and the round of each call.

        The first round makes all calls, the others those `again`, which take the results of the first for the rest.
        """
        work, of_round = list(self.work), [0] * len(self.work)
        for number in range(1, rounds):
            place: dict[int, int] = {}
            for call, (made, again) in enumerate(zip(self.work, self.again or (), strict=True)):
                if again:
                    place[call] = len(work)
                    work.append(made._replace(after=tuple(place.get(before, before) for before in made.after)))
                    of_round.append(number)
        return replace(self, work=tuple(work), again=None), of_round

    def operations(self) -> tuple[list[Operation], Fraction]:
        """The operations of the event loop, and the seconds of one of its ticks: the largest that all times are
        multiples of.
        """
        seconds = [Fraction(t) for w in self.work for t in (w.head_s, w.row_s)]
        below = max(t.denominator for t in seconds)  # floats have powers of two below the line
        ticks = [int(t * below) for t in seconds]
        unit = gcd(*ticks)
        first = [0]
        for work in self.work:
            first.append(first[-1] + len(work.needs))
        loop = loops_of([Operation(w.stage, 0, w.after) for w in self.work], len(self.names))
        buffers: dict[tuple[int, int], int] = {}
        for number, work in enumerate(self.work):
            for before in work.after:
                if loop[self.work[before].stage] < 0 or loop[self.work[before].stage] != loop[work.stage]:
                    buffers[before, number] = len(buffers)
        puts: dict[int, list[int]] = {}
        takes: dict[int, list[int]] = {}
        for (before, number), buffer in buffers.items():
            puts.setdefault(before, []).append(buffer)
            takes.setdefault(number, []).append(buffer)
        operations = []
        for number, work in enumerate(self.work):
            head, row = (t // unit for t in ticks[2 * number : 2 * number + 2])
            for index, need in enumerate(work.needs):
                after = [
                    first[before] - 1 - (-(need + 1) * (first[before + 1] - first[before]) // work.rows_in)
                    for before in work.after
                ]
                operations.append(
                    Operation(
                        work.stage,
                        row + (0 if index else head),
                        tuple(after),
                        tuple(puts.get(number, ())) if index == 0 else (),
                        tuple(takes.get(number, ())) if index == len(work.needs) - 1 else (),
                    )
                )
        return operations, Fraction(unit, below)


def unit_names(calls: Sequence[Call]) -> list[str]:
    """The stage of each call: the layer, or the digital unit behind it."""
    return [call.layer if not call.digital else f"{call.layer or 'input'}.digital" for call in calls]


def chip_plan(
    chip: MappedNetwork,
    replicas: Mapping[str, int] | None = None,
    line_buffers: bool = False,
    layers: str | Sequence[str] | None = None,
) -> StagePlan:
    """The plan of a mapped network.

    Args:
        chip: mapped with calibration inputs, from which it knows its graph.
        replicas: sets of tiles of layers by name. They share the positions of one image, and whole jobs where there
            are more of them than positions.
        line_buffers: rows of an image go on to the next layer as they are ready, not the image as a whole.
        layers: those that every vote reads, with what comes after them; None: all.

    Raises:
        ValueError: `layers` that are none on tiles.
        MappingError: an inference of the chip is not known, a layer is not part of it or has a converter without a
            number of bits, or no layer has a name in `replicas`.
    """
    check_chip(chip)
    calls = chip.trace
    if not chip.layers:
        raise MappingError("schedule: no layer of this chip is on tiles")
    if not calls:
        raise MappingError("schedule: needs real inputs, map with calibrate=, a batch of them")
    for name, layer in chip.layers.items():
        check_converters(layer.hardware, f"layer {name!r}: ")
    unseen = [name for name in chip.layers if all(call.layer != name or call.digital for call in calls)]
    if unseen:
        raise MappingError(f"schedule: layer(s) {', '.join(unseen)} took no part in the inference that was recorded")
    counts = dict(replicas or {})
    unknown = [name for name in counts if name not in chip.layers]
    if unknown:
        raise MappingError(
            f"replicas: {', '.join(map(repr, unknown))} is no layer on tiles; those are {', '.join(chip.layers)}"
        )
    units = unit_names(calls)
    names = list(dict.fromkeys(units))
    place = {name: number for number, name in enumerate(names)}
    loop = loops_of(
        [Operation(place[unit], 0, call.after) for unit, call in zip(units, calls, strict=True)], len(names)
    )
    readings = {name: reading(layer) for name, layer in chip.layers.items()}
    servers = [1] * len(names)
    work = []
    for unit, call in zip(units, calls, strict=True):
        stage = place[unit]
        by_rows = line_buffers and len(call.needs) > 1 and loop[stage] < 0 and units.count(unit) == 1
        needs, rows_in = (call.needs, call.rows_in) if by_rows else ((0,), 1)
        if call.digital:
            rate = chip.hardware.cost.digital_rate
            work.append(Work(stage, 0.0, call.work / rate / len(needs), call.after, needs, rows_in))
            continue
        times, count = readings[call.layer], counts.get(call.layer, 1)
        share = min(count, call.positions)
        servers[stage] = max(servers[stage], count // share)
        rows = ceil(call.positions / len(needs) / share) * times.interval_s
        layer = chip.layers[call.layer]
        scaling = layer.scaling_operations(call.values, call.positions) / layer.hardware.cost.digital_rate
        work.append(Work(stage, times.fill_s + times.tail_s + scaling, rows, call.after, needs, rows_in))
    again = None if layers is None else tuple(downstream(calls, checked_layers(chip.layers, layers)))
    return StagePlan(tuple(names), tuple(servers), tuple(work), again)
