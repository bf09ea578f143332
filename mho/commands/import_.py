"""`mho import`: hardware and networks from the files of other simulators."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ..importing import Imported


class Peer(str, Enum):
    aihwkit = "aihwkit"
    crosssim = "crosssim"
    neurosim = "neurosim"


def import_(
    file: Path = typer.Argument(
        ..., help="aihwkit's configuration as JSON, CrossSim's parameters (JSON), or NeuroSim's NetWork.csv."
    ),
    peer: Peer = typer.Option(..., "--from", help="Whose file it is."),
    out: Path | None = typer.Option(None, help="Hardware file to write: .yaml, for mho map --hardware."),
    table: Path | None = typer.Option(None, help="What became of each field, as a table: .csv or .json."),
    relative_wires: bool = typer.Option(
        False, "--relative-wires", help="CrossSim 3.0: Rp_row and Rp_col are in units of Rmin."
    ),
    param: Path | None = typer.Option(None, help="NeuroSim's Param.cpp, which describes the hardware."),
    synapse_bits: int = typer.Option(8, help="NeuroSim: bits of a weight."),
    input_bits: int = typer.Option(8, help="NeuroSim: bits of an input."),
) -> None:
    """Read another simulator's file and tell what became of each of its fields."""
    from ..importing import aihwkit, crosssim, neurosim
    from ..mapping.exports.tables import check_ending, write_rows, write_text

    if table is not None:
        check_ending(table)
    if out is not None and out.suffix not in (".yaml", ".yml"):
        raise ValueError(f"--out must end in .yaml, got {out.name!r}")
    if peer is Peer.aihwkit:
        found = aihwkit(file)
    elif peer is Peer.crosssim:
        found = crosssim(file, relative_wires=relative_wires)
    else:
        found = neurosim(file, param, synapse_bits=synapse_bits, input_bits=input_bits)
    _say(found)
    if table is not None:
        write_rows(found.table, table)
    if out is not None:
        if found.hardware is None:
            raise ValueError("--out: a table of layers has no hardware; give NeuroSim's Param.cpp with --param")
        write_text(found.hardware.dump(), out)
        print(f"hardware written to {out}")


def _say(found: Imported) -> None:
    print(found)
    if found.layers is not None:
        print(f"\n{found.layers.to_string(index=False)}")
        print(f"{found.layers['macs'].sum():,} multiply-accumulates a sample")
