"""`mho map`: a checkpoint onto tiles."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import typer

from .options import ARG, IMPORTS, KEY, MODEL, STRIP_PREFIX, import_own


class WireCompensation(str, Enum):
    gain = "gain"
    program = "program"


def map(
    checkpoint: Path = typer.Argument(
        ..., help="State dict (.pt, .pth, .ckpt, .safetensors), folder of Hugging Face, .pt2 or .onnx."
    ),
    model: str = MODEL,
    arg: list[str] = ARG,
    key: str | None = KEY,
    strip_prefix: str | None = STRIP_PREFIX,
    hardware: str = typer.Option("reram", help="Preset (ideal, reram, pcm, nand) or YAML file."),
    calibrate: str = typer.Option(
        "mnist", help="Real inputs that set the converters' ranges: mnist, cifar10, strokes, .npy or .npz file."
    ),
    images: int = typer.Option(256, min=1, help="How many of them."),
    seed: int = typer.Option(0, help="Which chip."),
    exclude: list[str] = typer.Option([], help="Name or pattern of layers that stay digital; may be given again."),
    wire_compensation: WireCompensation | None = typer.Option(
        None, help="What is done about the loss in wires: gains of columns, or cells programmed with it in mind."
    ),
    equalise: float | None = typer.Option(
        None, help="Alpha, 0 to 1: outliers among the channels of inputs go into the weights (SmoothQuant)."
    ),
    out: Path | None = typer.Option(None, help="Folder to save the mapped chip in."),
    compact: bool = typer.Option(
        False, "--compact", help="Save it without its cells, half as large; they are drawn again when it is loaded."
    ),
    imports: list[str] = IMPORTS,
) -> None:
    """Map a trained checkpoint onto virtual tiles, print the report and, with --out, save the chip."""
    from ..inputs import find_hardware, find_inputs
    from ..mapping.checkpoints.factories import parse_arguments
    from ..mapping.checkpoints.networks import find_model
    from ..mapping.convert import map as map_model
    from ..mapping.saved.store import check_target
    from .progress import shown

    import_own(imports, hardware, checkpoint)
    if compact and out is None:
        raise ValueError("--compact is about the chip that is saved; say with --out where")
    if out is not None:
        check_target(out)
    settings = find_hardware(hardware)
    if equalise is not None:
        settings = settings.replace({"dac.equalise": equalise})
    arguments = parse_arguments(arg)
    network, weights = find_model(checkpoint, model or None, arguments=arguments, key=key, strip_prefix=strip_prefix)
    with shown("mapping", every=2.0) as tell:
        chip = map_model(
            network,
            settings,
            calibrate=find_inputs(calibrate)[0][:images],
            seed=seed,
            exclude=exclude,
            wire_compensation=None if wire_compensation is None else wire_compensation.value,
            progress=tell,
        )
    if out is not None:
        chip.save(out, compact=compact)
    if weights is not None and not weights.plain:
        print(weights)
    print(chip.report())
    print(f"ranges calibrated with the first {images} inputs of {calibrate}" + (f"; saved in {out}" if out else ""))
