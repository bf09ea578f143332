"""`mho explain`: why a saved chip is less accurate than its network."""

from __future__ import annotations

from pathlib import Path

import typer

from .options import ARG, DATA, IMPORTS, NEXT_TOKEN, OF_CHIP, OUTPUT, import_own


def explain(
    chip: Path = typer.Argument(..., help="Folder of a chip, as `mho map` saves it."),
    data: str = DATA,
    images: int = typer.Option(1000, min=1, help="How many, from the first; four times as many are twice as precise."),
    votes: int = typer.Option(1, min=1, help="Noisy inferences that decide about each."),
    layer: list[str] = typer.Option(
        [],
        help="Name or pattern of layers that are measured as one; may be given again. None: each, or groups of many.",
    ),
    time: float | None = typer.Option(None, min=0, help="Seconds since programming; none: as the chip was saved."),
    output: str | None = OUTPUT,
    next_token: bool = NEXT_TOKEN,
    calibrate: str | None = typer.Option(
        None, help="Inputs that set the ranges of what is tried, as in mho map; none: the first 256 of the data."
    ),
    most: int = typer.Option(200, min=2, help="Accuracies that are measured at most."),
    out: Path | None = typer.Option(None, help="Folder for tables (CSV), text and figure (PNG)."),
    model: str = OF_CHIP,
    arg: list[str] = ARG,
    imports: list[str] = IMPORTS,
) -> None:
    """Say which layers and which sources of error cost a saved chip its accuracy, and what wins it back.

    All is measured on the same inputs with the same reads; differences come with 95 % intervals.
    """
    from ..inputs import find_inputs, find_output
    from ..mapping.checkpoints.factories import build_model, parse_arguments
    from ..mapping.explaining.explain import explain as find_out
    from ..mapping.saved.load import load
    from .progress import shown

    import_own(imports, chip)
    if out is not None and out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} exists and is not a folder")
    inputs, labels = find_inputs(data)
    if labels is None:
        raise ValueError(f"data {data}: has no labels to compare with")
    if next_token:
        if labels.ndim != 2 or labels.shape[1] < 2:
            raise ValueError(f"--next-token needs labels of two tokens or more, got shape {tuple(labels.shape)}")
        labels = labels.roll(-1, 1).index_fill(1, labels.new_tensor([labels.shape[1] - 1]), IGNORED)
    given = None if calibrate is None else find_inputs(calibrate)[0][:CALIBRATED]
    arguments = parse_arguments(arg)
    mapped = load(chip, model=build_model(model, arguments) if model and arguments else model or None)
    mapped = mapped if time is None else mapped.at(time)
    with shown("measured", every=2.0) as tell:
        found = find_out(
            mapped,
            inputs[:images],
            labels[:images],
            layers=layer or None,
            samples=images,
            votes=votes,
            output=find_output(output),
            calibrate=given,
            most=most,
            progress=tell,
        )
    print(found)
    if out is not None:
        found.save(out)
        print(f"written to {out}")


IGNORED = -100  # label of answers that do not count
CALIBRATED = 256
