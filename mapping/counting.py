"""How many conversions a layer's reads have taken."""

from __future__ import annotations

import threading
from typing import Any

from ..crossbar.reader import Counts

NONE = Counts()


class Counter:
    """Conversions of a layer, counted by the reads of any number of threads."""

    def __init__(self, counts: Counts = NONE) -> None:
        self.counts = counts
        self._lock = threading.Lock()

    def add(self, counts: Counts) -> None:
        """Count those of one more read."""
        with self._lock:
            self.counts = self.counts.plus(counts)

    def __reduce__(self) -> Any:
        return Counter, (self.counts,)
