"""One tile as a netlist for SPICE: cells as resistors, wires as segments, sources at the word lines.

The circuit is that of `mho.crossbar.wires`: a source drives each word line, and a source of 0 V holds each bit line and
measures its current.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .lines import Lines
from .wires import Network

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TileCircuit:
    """An array of cells between driven word lines and bit lines at 0 V.

    Attributes:
        g: (devices, word lines, bit lines) siemens; devices of a cell are in parallel.
        volts: (word lines,) of the drivers.
        lines: resistances of the wires, and which ends are connected.
    """

    g: Array
    volts: Array
    lines: Lines

    @property
    def currents(self) -> Array:
        """(bit lines,) amperes into the virtual grounds, as Mho solves the circuit, to 1e-9 of themselves."""
        return Network(self.g.sum(axis=0), self.lines).effective.T @ self.volts

    def netlist(self, title: str) -> str:
        """The text of the netlist, for ngspice and others.

        Word line i has the source `Vword<i>`, bit line j the source `Vbit<j>` of 0 V, whose current is that of the
        column, positive into the virtual ground. Numbers have all their digits. Cells of 0 S are left out.

        Args:
            title: its first line.
        """
        return "\n".join([f"* {' '.join(title.split())}", *self._elements(), *self._control(), ".end", ""])

    def _elements(self) -> Iterator[str]:
        yield "* drivers of the word lines, and the virtual grounds of the bit lines"
        for i, volts in enumerate(self.volts):
            yield f"Vword{i} drive{i} 0 DC {float(volts)!r}"
        for j in range(self.g.shape[2]):
            yield f"Vbit{j} sense{j} 0 DC 0"
        yield from self._wires()
        yield "* cells: from word line to bit line, with their device"
        for (device, i, j), g in np.ndenumerate(self.g):
            if g:
                yield f"Rcell{i}_{j}_{device} {self._word(i, j)} {self._bit(i, j)} {1 / float(g)!r}"

    def _wires(self) -> Iterator[str]:
        """Segments of lines, and what stands at their ends; those without resistance are no elements."""
        lines, (_, m, n) = self.lines, self.g.shape
        if lines.r_word_line or lines.r_driver:
            yield "* word lines, with the drivers at their ends"
            for i in range(m):
                ends = [0] if lines.drivers == "left" else [0, n - 1]
                for end, j in zip("lr", ends, strict=False):
                    yield f"Rword{i}_{end} drive{i} {self._word(i, j)} {lines.r_word_line + lines.r_driver!r}"
                for j in range(1, n) if lines.r_word_line else ():
                    yield f"Rword{i}_{j} {self._word(i, j - 1)} {self._word(i, j)} {lines.r_word_line!r}"
        if lines.r_bit_line or lines.r_sense:
            yield "* bit lines, with the sense amplifiers at their ends"
            for j in range(n):
                ends = [m - 1] if lines.sense == "bottom" else [m - 1, 0]
                for end, i in zip("bt", ends, strict=False):
                    yield f"Rbit{j}_{end} {self._bit(i, j)} sense{j} {lines.r_bit_line + lines.r_sense!r}"
                for i in range(1, m) if lines.r_bit_line else ():
                    yield f"Rbit{j}_{i} {self._bit(i - 1, j)} {self._bit(i, j)} {lines.r_bit_line!r}"

    def _word(self, i: int, j: int) -> str:
        """The node of word line i at bit line j."""
        if self.lines.r_word_line:
            return f"w{i}_{j}"
        return f"w{i}" if self.lines.r_driver else f"drive{i}"

    def _bit(self, i: int, j: int) -> str:
        """The node of bit line j at word line i."""
        if self.lines.r_bit_line:
            return f"b{i}_{j}"
        return f"b{j}" if self.lines.r_sense else f"sense{j}"

    def _control(self) -> Iterator[str]:
        yield "* the currents of the columns, in amperes"
        yield from (".control", "set numdgt=15", "op")
        yield from (f"print i(Vbit{j})" for j in range(self.g.shape[2]))
        yield from ("quit", ".endc")
