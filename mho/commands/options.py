"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path

import typer

IMPORTS: list[str] = typer.Option(
    [],
    "--import",
    help="Module of own cells or layers, on PYTHONPATH or beside the file; may be given again.",
)


MODEL: str = typer.Option(
    "",
    help="The network, as timm:NAME, transformers:NAME or package.module:factory; not for files that hold it.",
)
ARG: list[str] = typer.Option([], "--arg", help="Argument of --model, as name=value; may be given again.")
KEY: str | None = typer.Option(None, help="Which state dict of the checkpoint, where it holds several that fit.")
STRIP_PREFIX: str | None = typer.Option(None, help="Prefix to take off the names of the checkpoint's tensors.")


def import_own(modules: list[str], *files: str | Path | None) -> None:
    """Import the modules of `--import`, which may lie beside these files.

    Raises:
        ValueError: there is none, or it does not load.
    """
    from ..devices.imports import import_modules

    import_modules(modules, *(Path(file).parent for file in files if file is not None))
