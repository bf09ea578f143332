"""Settings of hardware outside the data behind its models."""

from __future__ import annotations

from ..devices.data import Setting
from .hardware import Hardware


def extrapolations(hardware: Hardware) -> list[str]:
    """Where a chip of this hardware would use a fit, a table or a law outside its data: setting, value and range.

    A line each, none where all data cover it or no range is known. Cells are programmed to conductances from
    `cell.g_min` to `cell.g_max`, and read at up to `sensing.v_read`. Overrides of `layers` are not looked at: ask for
    the hardware of each layer (`Hardware.for_layer`).

    Example:
        >>> from mho.crossbar.extrapolation import extrapolations
        >>> extrapolations(hardware)
        []
    """
    cell, sensing = hardware.cell, hardware.sensing
    settings = {
        "conductance": [Setting("cell.g_min", cell.g_min), Setting("cell.g_max", cell.g_max)],
        "current": [Setting("cell.g_max sensing.v_read", cell.g_max * sensing.v_read)],
        "time": [Setting("time_s", hardware.time_s)],
        "temperature": [Setting("sensing.temperature", sensing.temperature)],
        "voltage": [Setting("sensing.v_read", sensing.v_read)],
    }
    return cell.extrapolations(settings, hardware.conditions)
