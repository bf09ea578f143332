"""`mho devices`: the hardware presets."""

from __future__ import annotations

import typer


def devices(
    preset: str | None = typer.Argument(
        None, help="Print this preset as YAML, with the source of each number; none: list all."
    ),
) -> None:
    """List the hardware presets, or print one."""
    from ..crossbar.hardware import PRESETS, Hardware

    if preset is not None:
        print(Hardware.preset(preset).dump(), end="")
        return
    for name in PRESETS:
        hardware = Hardware.preset(name)
        cell, tile, sensing = hardware.cell, hardware.tile, hardware.sensing
        size = f"{1e6 * cell.g_min:g} to {1e6 * cell.g_max:g} uS, tiles of {tile.rows} x {tile.columns}"
        read = f"read at {sensing.v_read:g} V for {1e9 * sensing.t_read:g} ns"
        print(f"{name:6s} {size}, {read}: {hardware.description}")
