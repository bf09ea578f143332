"""`mho vote`: accuracy of a saved chip."""

from __future__ import annotations

from pathlib import Path

import typer


def vote(
    chip: Path = typer.Argument(..., help="Folder of a chip, as `mho map` saves it."),
    data: str = typer.Option("mnist", help="'mnist' (the test pictures), or an .npz file with images and labels."),
    images: int = typer.Option(1000, min=1, help="How many, from the first."),
    votes: int = typer.Option(20, min=1, help="Noisy inferences of each."),
    copies: int = typer.Option(1, min=1, help="Chips that they are dealt out to."),
    rule: str = typer.Option("hard", help="hard: the mode; soft: the mean softmax."),
    batch_size: int = typer.Option(250, min=1, help="Samples worked off together; does not change the result."),
    model: str = typer.Option("", help="The network, as in mho map; only for chips that say they need it."),
) -> None:
    """Classify by repeated noisy inferences of a saved chip, and print the accuracy with its 95 % interval."""
    from ..inputs import find_inputs
    from ..mapping.checkpoint import build_model
    from ..mapping.store import load
    from ..models.votes import vote as cast_votes

    inputs, labels = find_inputs(data)
    if labels is None:
        raise ValueError(f"data {data}: has no labels to compare with")
    result = cast_votes(
        load(chip, model=build_model(model) if model else None),
        inputs[:images],
        votes,
        batch_size=batch_size,
        copies=copies,
        rule=rule,  # type: ignore[arg-type]
    )
    for k, accuracy in enumerate(result.accuracy_over_votes(labels[:images]), start=1):
        if k in (1, 2, 5, 10, votes) or k % 20 == 0:
            print(f"{k:4d} vote{'s' if k > 1 else ' '}  {accuracy}")
