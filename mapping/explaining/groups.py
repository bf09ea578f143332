"""Groups of layers: as asked for by patterns, or by their names, from the whole network down to single layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import groupby, pairwise
from typing import NamedTuple

from ..errors import MappingError

MOST = 12  # groups that one is split into


class Group(NamedTuple):
    """Layers, and what they are called together."""

    name: str
    layers: tuple[str, ...]


def asked_for(patterns: Iterable[str], layers: Sequence[str]) -> list[Group]:
    """A group for each name or pattern of shell wildcards.

    Raises:
        MappingError: a pattern that matches no layer, or none at all.
    """
    if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
        raise MappingError(f"layers must be a list of names or patterns, got {patterns!r}")
    found = []
    for pattern in dict.fromkeys(patterns):
        mine = tuple(name for name in layers if name == pattern or fnmatchcase(name, pattern))
        if not mine:
            raise MappingError(f"layers: pattern {pattern!r} matches no layer; layers are {', '.join(layers)}")
        found.append(Group(pattern, mine))
    if not found:
        raise MappingError(f"layers: no pattern is given; layers are {', '.join(layers)}")
    return found


def split(layers: Sequence[str], most: int = MOST) -> list[Group]:
    """Several layers as 2 to `most` groups, by the first parts of their names that differ, in their order.

    Where these are more, neighbours go together.
    """
    shared = 0
    parts = [name.split(".") for name in layers]
    while all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    key = lambda name: name.split(".")[: shared + 1]  # noqa: E731
    runs = [tuple(run) for _, run in groupby(layers, key)]
    if len(runs) > most:
        sizes = [len(runs) * i // most for i in range(most + 1)]
        runs = [sum(runs[a:b], ()) for a, b in pairwise(sizes)]
    if len(runs) < 2:  # names that say nothing
        middle = len(layers) // 2
        runs = [tuple(layers[:middle]), tuple(layers[middle:])]
    return [Group(_called(run, layers), run) for run in runs]


def _called(run: tuple[str, ...], layers: Sequence[str]) -> str:
    """A pattern that matches these of all layers and no others, or the first and the last."""
    if len(run) == 1:
        return run[0]
    shared: list[str] = []
    for parts in zip(*(name.split(".") for name in run), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    pattern = ".".join([*shared, "*"])
    if tuple(name for name in layers if fnmatchcase(name, pattern)) == run:
        return pattern
    return f"{run[0]} to {run[-1]}"
