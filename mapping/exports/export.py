"""A chip written for other programs, by what is asked for."""

from __future__ import annotations

from os import PathLike

from ..mapped import MappedNetwork
from ..saved.folders import as_path
from .accelforge import accelforge_yaml
from .tables import TABLES, check_ending, write_rows, write_text

KINDS = (*TABLES, "accelforge")


def export(chip: MappedNetwork, path: str | PathLike[str], what: str) -> None:
    """Write `what` of a chip: complete or not at all. See `Chip.export`."""
    if what not in KINDS:
        raise ValueError(f"export: expected one of {', '.join(KINDS)}, got {what!r}")
    if what in TABLES:
        check_ending(path)
        write_rows(TABLES[what](chip), path)
        return
    found = as_path(path, "export")
    if found.suffix.lower() not in (".yaml", ".yml"):
        raise ValueError(f"export: AccelForge's description ends in .yaml, got {found.name!r}")
    write_text(accelforge_yaml(chip), found)
