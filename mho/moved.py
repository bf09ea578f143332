"""Modules of older versions: whoever imports one is told where it is now."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec

PACKAGE = __name__.partition(".")[0]
ARCHITECTURE = ("closed_forms", "cost", "decision", "gantt", "pipeline", "schedule", "stages")
MOVED = {
    "models.adaptive": "mapping.voting.adaptive",
    "models.votes": "mapping.voting.votes",
    **{f"mapping.{name}": f"mapping.architecture.{name}" for name in ARCHITECTURE},
    "mapping.balance": "mapping.architecture.replication",
    "crossbar.compensation": "crossbar.wire_compensation",
    "crossbar.cost": "crossbar.components",
    "crossbar.programming": "crossbar.packed",
}


class Moved:
    """A finder of modules that finds none: it is asked last, for what is nowhere."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Raises ImportError for a module that has moved."""
        package, _, inner = name.partition(".")
        if package == PACKAGE and inner in MOVED:
            raise ImportError(f"{name} is {PACKAGE}.{MOVED[inner]} since version 0.3")
        return None


def watch() -> None:
    """Let imports of moved modules say so, from here on."""
    if Moved not in sys.meta_path:
        sys.meta_path.append(Moved)
