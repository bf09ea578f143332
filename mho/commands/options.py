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
OF_CHIP: str = typer.Option("", "--model", help="The network, as in mho map; only for chips that say they need it.")
DATA: str = typer.Option(
    "mnist", help="mnist, cifar10, strokes (test sets), or an .npz file: images, or inputs by name; and labels."
)
OUTPUT: str | None = typer.Option(
    None, help="Where the scores are in what the network returns: a name, a number, or package.module:function."
)
NEXT_TOKEN: bool = typer.Option(
    False, "--next-token", help="Labels are the tokens of the texts; the answer at each is about the next one."
)
LAYERS: list[str] = typer.Option(
    [], "--layer", help="Read only this layer again in each vote, and what comes after it; may be given again."
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
