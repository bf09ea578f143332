"""How many conversions a layer's reads have taken."""

from __future__ import annotations

import threading
from typing import Any

from ..crossbar.reader import Counts

NONE = Counts()


class Counter:
    """Conversions of a layer, counted by the reads of any number of threads."""

    def __init__(self, counts: Counts = NONE) -> None:
        self._counts = counts
        self._lock = threading.Lock()

    @property
    def counts(self) -> Counts:
        """So far. Those of a device are waited for when they are asked for, not in each read."""
        return Counts(*map(int, self._counts))

    @counts.setter
    def counts(self, counts: Counts) -> None:
        self._counts = counts

    def add(self, counts: Counts) -> None:
        """Count those of one more read."""
        with self._lock:
            self._counts = self._counts.plus(counts)

    def __reduce__(self) -> Any:
        return Counter, (self.counts,)
