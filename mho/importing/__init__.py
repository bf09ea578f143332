"""Hardware and layers from the files of other simulators, with a report of what became of each field.

`aihwkit`, `crosssim` and `neurosim` each return an `Imported`: see `docs/coming-from.md`.
"""

from __future__ import annotations

from .fields import Imported, Row
from .from_aihwkit import aihwkit
from .from_crosssim import crosssim
from .from_neurosim import network, neurosim

__all__ = ["Imported", "Row", "aihwkit", "crosssim", "network", "neurosim"]
