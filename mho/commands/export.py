"""`mho export`: a saved chip, for other programs: its cells, tables of layers and costs, AccelForge's description."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import typer

from .options import IMPORTS, import_own


class To(str, Enum):
    conductances = "conductances"
    layers = "layers"
    tiles = "tiles"
    costs = "costs"
    accelforge = "accelforge"


def export(
    chip: Path = typer.Argument(..., help="Folder of a chip, as `mho map` saves it."),
    out: Path | None = typer.Option(
        None,
        help="File: .parquet, .npz or .csv for conductances, .csv or .json for tables, .yaml for AccelForge; for a "
        "netlist any, or none to print it.",
    ),
    to: To = typer.Option(
        To.conductances,
        help="What: conductances of all cells, a table of layers, tiles or costs, or AccelForge's YAML.",
    ),
    spice: bool = typer.Option(False, "--spice", help="A netlist of one tile for ngspice, instead of conductances."),
    layer: str | None = typer.Option(None, help="Which layer: the netlist's, or the only one whose cells are written."),
    tile: int = typer.Option(0, help="Which of the layer's tiles the netlist is of."),
    inputs: Path | None = typer.Option(
        None, help=".npy file: what one read of the layer's matrix takes, in its own units; none: all at v_read."
    ),
    pulse: int = typer.Option(0, help="Which pulse of these inputs, the least significant first."),
    phase: int = typer.Option(0, help="1: the pulses of negative inputs, where these have their own."),
    model: str = typer.Option("", help="The network, as in mho map; only for chips that say they need it."),
    imports: list[str] = IMPORTS,
) -> None:
    """Write conductances, a table of layers, tiles or costs, AccelForge's YAML; or with --spice a tile for ngspice."""
    from ..mapping.checkpoints.loading import build_model
    from ..mapping.saved.load import load
    from ..mapping.tile_circuit import tile_circuit

    import_own(imports, chip)
    if to is not To.conductances:
        if spice or layer is not None or out is None:
            raise ValueError(f"--to {to.value} needs --out FILE, and neither --spice nor --layer")
        load(chip, model=build_model(model) if model else None).export(out, to.value)
        print(f"{to.value} in {out}")
        return
    if not spice and out is None:
        raise ValueError("give --out FILE.parquet, FILE.npz or FILE.csv for conductances, or --spice for a netlist")
    if spice and layer is None:
        raise ValueError("give --layer NAME, the layer whose tile the netlist is of")
    mapped = load(chip, model=build_model(model) if model else None)
    if not spice:
        assert out is not None
        found = mapped.conductances(*([] if layer is None else [layer]))
        found.save(out)
        print(f"{found!r} in {out}")
        return
    assert layer is not None
    circuit = tile_circuit(mapped, layer, tile, _vector(inputs), pulse=pulse, phase=phase)
    text = circuit.netlist(f"{mapped.hardware.name}, layer {layer}, tile {tile}")
    if out is None:
        print(text, end="")
    else:
        out.write_text(text, encoding="utf-8")


def _vector(path: Path | None) -> object:
    """The numbers in a .npy file.

    Raises:
        ValueError: it holds none.
    """
    import numpy as np

    if path is None:
        return None
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"inputs {path}: is no .npy file of numbers") from error
    if not isinstance(found, np.ndarray):
        raise ValueError(f"inputs {path}: must be a .npy file of one array")
    return found
