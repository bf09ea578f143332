"""`mho devices`: the hardware presets."""

from __future__ import annotations

import typer


def devices(
    preset: str = typer.Argument("", help="Print this preset as YAML, with the source of each number; none: list all."),
) -> None:
    """List the hardware presets, or print one."""
    from ..crossbar.hardware import PRESETS, Hardware

    if preset:
        print(Hardware.preset(preset).dump(), end="")
        return
    for name in PRESETS:
        hardware = Hardware.preset(name)
        cell, tile = hardware.cell, hardware.tile
        size = f"{1e6 * cell.g_min:g} to {1e6 * cell.g_max:g} uS, tiles of {tile.rows} x {tile.columns}"
        print(f"{name:6s} {size}: {hardware.description}")
