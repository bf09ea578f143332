"""The batches of an election, counted one by one: in this process, or where the chip is besides."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from ...crossbar.reader import Counts
from ..chip import Chip
from ..inputs.batches import Batch
from ..progress import told
from .asked import Election, Given, voting
from .elsewhere import Elsewhere

T = TypeVar("T")
Count = Callable[[Election, Given], T]
_COPIES: WeakKeyDictionary[Chip, dict[int, list[Chip]]] = WeakKeyDictionary()  # of the chips that ballots have met


def each(asked: Election, count: Count[T]) -> list[tuple[Given, T]]:
    """What `count` makes of each batch, in their order, with the batches but for their inputs."""
    found: dict[int, tuple[Given, T]] = {}
    done = 0
    with told("voting, samples", asked.progress) as tell:
        for number, given, result in _here(asked, count) if asked.elsewhere is None else _there(asked, count):
            found[number] = given._replace(batch=Batch(())), result
            done += given.samples
            tell(done, asked.total or done)
    return [found[number] for number in sorted(found)]


def _here(asked: Election, count: Count[T]) -> Iterator[tuple[int, Given, T]]:
    for number, given in enumerate(asked.batches):
        yield number, given, count(asked, given)


def _there(asked: Election, count: Count[T]) -> Iterator[tuple[int, Given, T]]:
    """What other processes make of the batches; the chip in this one counts conversions as if it had been read."""
    assert isinstance(asked.elsewhere, Elsewhere)
    chip = asked.chips[0]
    sent: dict[int, Given] = {}
    traces: dict[int, Any] = {}
    told: set[tuple[type[Warning], str]] = set()

    def batches() -> Iterator[Given]:
        for number, given in enumerate(asked.batches):
            sent[number] = given
            yield given._replace(batch=given.batch.apart(), labels=None)  # a part of a tensor would travel as the whole

    light = replace(asked, chips=[], inputs=None, total=None, progress=_silent, elsewhere=None)
    ballot: Ballot[T] = Ballot(light, count, chip.session.shapes)
    for number, counted in asked.elsewhere.results(ballot, batches()):
        for name, counts in counted.counts.items():
            chip.layers[name].counter.add(counts)
        if counted.trace is not None:
            traces[number] = counted.trace
        for category, message in counted.said:
            if (category, message) not in told:
                warnings.warn(message, category, stacklevel=5)
            told.add((category, message))
        yield number, sent.pop(number), counted.result
    if traces:
        chip.session.trace, chip.session.shapes = traces[max(traces)]


def _silent(done: int, total: int) -> None:
    """The progress of a batch is told by the process that has sent it."""


@dataclass(frozen=True)
class Counted(Generic[T]):
    """What came of a batch in another process.

    Attributes:
        result: what its votes gave.
        counts: conversions of each layer.
        trace: of the last inference, and the shapes that it is of, where these are others than the chip knew (see
            `Session`).
        said: warnings, each once.
    """

    result: T
    counts: dict[str, Counts]
    trace: Any
    said: list[tuple[type[Warning], str]]


@dataclass(frozen=True)
class Ballot(Generic[T]):
    """What a process that has the chip does with a batch: what `each` does in the process that asked.

    Attributes:
        election: without chips and inputs.
        count: of a batch.
        shapes: of inputs, that the chip knows in the process that asked.
    """

    election: Election
    count: Count[T]
    shapes: Any

    def __call__(self, chip: Chip, given: Given) -> Counted[T]:
        known, copies = _COPIES.setdefault(chip, {}), self.election.copies
        if copies not in known:
            known[copies] = voting(chip, copies)[1:]
        before = {name: layer.counts for name, layer in chip.layers.items()}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = self.count(replace(self.election, chips=[chip, *known[copies]]), given)
        counts = {name: layer.counts.less(before[name]) for name, layer in chip.layers.items()}
        session = chip.session
        trace = None if session.shapes == self.shapes else (session.trace, session.shapes)
        return Counted(result, counts, trace, list(dict.fromkeys((w.category, str(w.message)) for w in caught)))
