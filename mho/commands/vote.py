"""`mho vote`: accuracy of a saved chip."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .options import ARG, DATA, IMPORTS, LAYERS, NEXT_TOKEN, OF_CHIP, OUTPUT, import_own

if TYPE_CHECKING:
    from ..mapping.chip import Chip


def vote(
    chip: Path = typer.Argument(..., help="Folder of a chip, as `mho map` saves it."),
    data: str = DATA,
    images: int = typer.Option(1000, min=1, help="How many, from the first."),
    votes: int = typer.Option(20, min=1, help="Noisy inferences of each."),
    copies: int = typer.Option(1, min=1, help="Chips that they are dealt out to."),
    rule: str = typer.Option(
        "hard", help="hard: the mode; soft: the mean softmax; mean: the mean of the output, for a regression."
    ),
    output: str | None = OUTPUT,
    next_token: bool = NEXT_TOKEN,
    error: float | None = typer.Option(
        None, help="Read each image only until its lead is safe: accepted probability that it is not."
    ),
    layer: list[str] = LAYERS,
    batch_size: int = typer.Option(250, min=1, help="Samples processed together; does not change the result."),
    jobs: int = typer.Option(1, min=1, help="Processes of this machine that read the batches; needs mho[cluster]."),
    cluster: str | None = typer.Option(None, help="Dask cluster whose workers read them, as tcp://host:8786."),
    model: str = OF_CHIP,
    arg: list[str] = ARG,
    imports: list[str] = IMPORTS,
) -> None:
    """Decide by repeated noisy inferences of a saved chip, and print the accuracy or error with its 95 % interval."""
    from ..dask_workers import on_workers
    from ..inputs import find_inputs, find_output
    from ..mapping.checkpoints.factories import build_model, parse_arguments
    from ..mapping.inputs.batches import Batch
    from ..mapping.saved.load import load
    from ..mapping.voting.adaptive import adaptive_vote
    from ..mapping.voting.votes import vote as cast_votes
    from .progress import shown

    import_own(imports, chip)
    inputs, labels = find_inputs(data)
    if labels is None and next_token and isinstance(inputs, Batch):
        labels = inputs.kwargs.get("input_ids")
    if labels is None:
        wanted = "labels, nor input_ids to take for them," if next_token else "labels"
        raise ValueError(f"data {data}: has no {wanted} to compare with")
    inputs, labels = inputs[:images], labels[:images]
    arguments = parse_arguments(arg)
    given = build_model(model, arguments) if model and arguments else model or None
    with shown("layers", every=10.0) as tell:
        mapped = load(chip, model=given, progress=tell)
    if cluster is not None and jobs > 1:
        raise ValueError("--jobs is for processes of this machine, and --cluster names others; give one of them")
    options: dict[str, Any] = {"batch_size": batch_size, "copies": copies, "rule": rule, "output": find_output(output)}
    if layer and error is not None:
        raise ValueError("--layer is for a fixed number of votes, and --error for votes that stop; give one of them")
    if next_token and rule == "mean":
        raise ValueError("--next-token is for classes, and --rule mean has none")
    with ExitStack() as stack:
        where: Any = mapped
        if cluster is not None or jobs > 1:
            where = stack.enter_context(on_workers(mapped, jobs=None if cluster else jobs, cluster=cluster))
        tell = stack.enter_context(shown("inputs", every=10.0))
        if error is not None:
            found = adaptive_vote(where, inputs, votes, error=error, progress=tell, **options)
        else:
            result = cast_votes(where, inputs, votes, progress=tell, layers=layer or None, **options)
    print(f"  digital  {_digital(mapped, inputs, labels, next_token, options)}")
    if error is not None:
        print(
            f"{found.mean_reads:.2f} votes on average, {votes} at most  "
            f"{found.accuracy(labels, next_token=next_token)}\n"
            f"{found.capped} of {found.answers} not safe at an error of {error:g}"
        )
        return
    if rule == "mean":
        curve: Sequence[object] = [f"RMSE {error}" for error in result.rmse_over_votes(labels)]
    else:
        curve = result.accuracy_over_votes(labels, next_token=next_token)
    for k, shown_as in enumerate(curve, start=1):
        if k in (1, 2, 5, 10, votes) or k % 20 == 0:
            print(f"{k:4d} vote{'s' if k > 1 else ' '}  {shown_as}")


def _digital(chip: Chip, inputs: Any, labels: Any, next_token: bool, options: dict[str, Any]) -> object:
    """What one inference of the chip's network is worth without its tiles: torch's arithmetic, without noise."""
    from ..mapping.explaining.partly import Variant, View
    from ..mapping.voting.votes import vote as cast_votes

    view: Any = View(chip, Variant(digital=frozenset(chip.layers)))
    result = cast_votes(view, inputs, 1, **{**options, "copies": 1})
    if options["rule"] == "mean":
        return f"RMSE {result.rmse(labels)}"
    return result.accuracy(labels, next_token=next_token)
