"""A chip in other processes, whose batches are read there: what stands in its place in votes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from ..chip import Chip

T = TypeVar("T")
R = TypeVar("R")


class Elsewhere(ABC):
    """A chip that other processes have too: `mho.vote` and `mho.adaptive_vote` take it in the place of the chip.

    Attributes:
        chip: the one in this process. It is not read; its counts of conversions are kept as if it were.
    """

    chip: Chip

    @abstractmethod
    def results(self, work: Callable[[Chip, T], R], items: Iterable[T]) -> Iterator[tuple[int, R]]:
        """What `work` makes of the chip and each item, with the number of the item, in any order.

        Items are asked for as they can be sent. An item whose process is lost is done again by another.

        Raises:
            ValueError: what `work` raises.
            OSError: no process is left, or they are lost again and again.
        """

    def __getattr__(self, name: str) -> Any:
        kind = type(self).__name__
        raise AttributeError(f"{kind!r} object has no attribute {name!r}: it votes, for all else use its .chip")
