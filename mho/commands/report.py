"""`mho report`: a page about a saved chip, for a browser."""

from __future__ import annotations

from pathlib import Path

import typer

from .options import ARG, DATA, IMPORTS, OF_CHIP, OUTPUT, import_own


def report(
    chip: Path = typer.Argument(..., help="Folder of a chip, as `mho map` saves it."),
    data: str = DATA,
    images: int = typer.Option(200, min=2, help="How many, from the first, for votes, errors and --explain."),
    votes: int = typer.Option(5, min=0, help="Votes up to which accuracy is shown; 0: none."),
    explain: bool = typer.Option(False, help="Measure which layers and sources cost accuracy; takes longer."),
    tile: list[str] = typer.Option([], help="Tile to show a map of, as LAYER:NUMBER; may be given again."),
    output: str | None = OUTPUT,
    out: Path = typer.Option(Path("report.html"), help="File to write."),
    model: str = OF_CHIP,
    arg: list[str] = ARG,
    imports: list[str] = IMPORTS,
) -> None:
    """Write a page about a saved chip: one HTML file, with the network, tiles to the single cell, errors and costs."""
    from ..inputs import find_inputs, find_output
    from ..mapping.checkpoints.factories import build_model, parse_arguments
    from ..mapping.explaining.explain import explain as find_out
    from ..mapping.reduce import reduce
    from ..mapping.reports.page import check_name
    from ..mapping.saved.load import load
    from ..mapping.voting.votes import vote
    from .progress import shown

    import_own(imports, chip)
    check_name(out)
    tiles = [_tile(text) for text in tile]
    inputs, labels = find_inputs(data)
    if labels is None and explain:
        raise ValueError(f"data {data}: has no labels to compare with, as --explain does")
    inputs, labels = inputs[:images], None if labels is None else labels[:images]
    arguments = parse_arguments(arg)
    mapped = load(chip, model=build_model(model, arguments) if model and arguments else model or None)
    where, curve, found = find_output(output), [], None
    classes = labels is not None and not labels.is_floating_point()
    if votes and classes:
        with shown("inputs", every=10.0) as tell:
            curve = vote(mapped, inputs, votes, output=where, progress=tell).accuracy_over_votes(labels)
    if explain:
        with shown("measured", every=2.0) as say:
            found = find_out(mapped, inputs, labels, samples=images, output=where, progress=say)
    reduction = reduce(mapped, inputs[:64])
    mapped.report().save(out, inputs, tiles=tiles, votes=curve, explanation=found, reduction=reduction)
    print(f"to look at in a browser: {out.resolve()}")


def _tile(text: str) -> tuple[str, int]:
    """Layer and number.

    Raises:
        ValueError: none.
    """
    layer, colon, number = text.rpartition(":")
    if not (colon and layer and number.isdecimal()):
        raise ValueError(f"--tile must be a layer and the number of a tile, as conv1:0, got {text!r}")
    return layer, int(number)
