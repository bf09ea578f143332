"""Which parts of the chain from inputs to readings go together."""

from __future__ import annotations

from ..devices.cell import Cell
from ..devices.sensing import Sensing
from .converters import Adc, Dac
from .lines import Wires
from .tile import Tile


def check_chain(cell: Cell, sensing: Sensing, tile: Tile, dac: Dac, adc: Adc, wires: Wires) -> None:
    """Raises ValueError for parts that make no circuit together, in one line that names the fields."""
    if adc.polarity == "apart":
        if not tile.paired:
            raise ValueError(f"adc.polarity must be 'together' for tile.encoding {tile.encoding!r}, which has no pairs")
        if wires.pairs == "shared":
            raise ValueError("adc.polarity must be 'together' when wires.pairs is 'shared': a pair has one bit line")
        if tile.amplifiers == "pair":
            raise ValueError("adc.polarity must be 'together' when tile.amplifiers is 'pair': a pair has one reading")
    if tile.slicing == "residual":
        _check_residual(cell, sensing)
    if sensing.mode == "voltage":
        if tile.joined:
            raise ValueError("tile.join must be 'digital' when sensing.mode is 'voltage': mirrors add up currents")
        _check_voltage(cell, tile, adc, wires)
        if dac.coding == "time":
            raise ValueError(
                "dac.coding must be 'amplitude' when sensing.mode is 'voltage': the voltage of a floating bit line "
                "changes with each word line that switches off, and does not average on-times"
            )


def _check_voltage(cell: Cell, tile: Tile, adc: Adc, wires: Wires) -> None:
    if not wires.ideal:
        raise ValueError(
            "wires must have no resistance when sensing.mode is 'voltage': they are solved for bit lines that are held "
            "at 0 V"
        )
    if not tile.paired:
        raise ValueError(
            f"tile.encoding must be differential when sensing.mode is 'voltage', got {tile.encoding!r}: what its cells "
            "hold too much is taken off in amperes"
        )
    if wires.pairs != "shared" and adc.polarity != "apart":
        raise ValueError(
            "sensing.mode 'voltage' needs wires.pairs 'shared' (a pair on one bit line) or adc.polarity 'apart': the "
            "voltages of two bit lines with different sums of conductances cannot be subtracted before conversion"
        )
    if cell.stuck.alive < 1:
        raise ValueError(
            "cell.stuck.word_lines and bit_lines must be 0 when sensing.mode is 'voltage': a bit line without cells "
            "has no voltage"
        )
    if isinstance(adc.full_scale, float):
        raise ValueError(
            f"adc.full_scale must be 'calibrated' or null when sensing.mode is 'voltage', got {adc.full_scale:g} A"
        )
    if cell.nonlinearity.kind != "linear":
        raise ValueError(
            f"cell.nonlinearity must be 'linear' when sensing.mode is 'voltage', got {cell.nonlinearity.kind!r}: the "
            "voltage of a floating bit line is a weighted mean of the inputs only for linear cells"
        )


def _check_residual(cell: Cell, sensing: Sensing) -> None:
    if sensing.mode == "voltage":
        raise ValueError(
            "tile.slicing must not be 'residual' when sensing.mode is 'voltage': a bit line that floats divides by the "
            "sum of its cells, which is what is left of others here and no design knows"
        )
    if cell.stuck.alive < 1 or cell.stuck.map is not None:
        raise ValueError(
            "cell.stuck.map must be null, word_lines and bit_lines 0 when tile.slicing is 'residual': what cells on "
            "other lines make up for is not modelled"
        )
