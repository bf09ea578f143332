"""A chip written for other programs, by what is asked for."""

from __future__ import annotations

from os import PathLike

from ..mapped import MappedNetwork
from ..saved.folders import as_path
from .accelforge import accelforge_yaml
from .tables import TABLES, check_ending, write_rows, write_text

KINDS = (*TABLES, "accelforge")


def export(chip: MappedNetwork, path: str | PathLike[str], what: str) -> None:
    """Write a table or a description of a chip for other programs: complete or not at all.

    Args:
        chip: the mapped network.
        path: file that ends in .csv or .json for tables, in .yaml for AccelForge.
        what: `layers`, `tiles` or `costs`, tables with a row each; `accelforge`, workload and architecture.

    Raises:
        ValueError: another ending, or something else asked for.
        MappingError: costs of layers that have seen no inputs.
        OSError: the file cannot be written.
    """
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
