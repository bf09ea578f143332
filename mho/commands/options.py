"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path

import typer

IMPORTS: list[str] = typer.Option(
    [],
    "--import",
    help="Module of own cells or layers, on PYTHONPATH or beside the file; may be given again.",
)


def import_own(modules: list[str], *files: str | Path | None) -> None:
    """Import the modules of `--import`, which may lie beside these files.

    Raises:
        ValueError: there is none, or it does not load.
    """
    from ..devices.imports import import_modules

    import_modules(modules, *(Path(file).parent for file in files if file is not None))
