"""What a compute backend does for a matrix on tiles: from cells to what is read, and from inputs to readings.

Everything above it (design, ranges, order of samples, keys) is the same for all backends. Arrays are numpy arrays of
the shapes given, but for what `prepared` returns, which is the backend's own and stays with the reader.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from .kernels.philox import Rows
from .kernels.read import Circuit, Geometry, Planes
from .keys import Key

Array = np.ndarray[Any, Any]


class Job(NamedTuple):
    """What is read: input codes (samples, depth, height, width, channels), and what they meet.

    Attributes:
        codes: int16 or float32, as the planes; those of one read, which all reads share, or of all reads in turn.
        geometry: how rows are taken from them.
        planes: what `Backend.prepared` made.
        circuit: of converters and noise.
    """

    codes: Array
    geometry: Geometry
    planes: Any
    circuit: Circuit


class Sums(NamedTuple):
    """What cells (rows, columns) are added up in: see `Backend.add_cells`.

    Attributes:
        signed, spread: (rows, columns) float32 conductances in units of g_max, and variances in units of its square.
        columns: (columns,) float64 siemens.
        histogram: (bins,) int64.
    """

    signed: Array
    spread: Array
    columns: Array
    histogram: Array


class Backend(Protocol):
    """The arithmetic of tiles. The same call gives the same bits, on any number of threads."""

    def normals(self, shape: tuple[int, int], place: tuple[int, int], key: Key) -> Array:
        """Standard normals (rows, columns) float32 of the cells; place = (word line of the first row, plane).

        The plane tells apart the normals of a cell that takes several.
        """

    def add_cells(self, g: Array, std: Array, units: tuple[np.float32, np.float32, np.float32], sums: Sums) -> None:
        """Add cells of conductances g >= 0 and read noise std, both (rows, columns) float32, to what they are part of.

        units = (unit, white, bins): signed += g / unit, spread += (std / unit)^2 + white g, columns += sums of g; a
        negative unit takes cells off. A cell is counted in the bin of `histogram` that is the whole part of bins g, the
        last one holding all above.
        """

    def peak_and_total(self, values: Array) -> tuple[float, float]:
        """Largest magnitude of values (rows, columns) float32, and largest sum of magnitudes of a column."""

    def pack_rows(self, values: Array, factor: np.float32, first: int, panels: Array) -> None:
        """Rows (rows, columns) float32 times `factor` into packed panels, from row `first` on; int16 are rounded."""

    def fluctuate(self, std: Array, amplitudes: Array, place: tuple[int, int, int], key: Key, out: Array) -> None:
        """Add the slow part of the noise of cells (rows, columns) of this std to `out` float32.

        `amplitudes` (components,): component m lasts 2^m reads, the last for ever, and the first is left out; place =
        (first row, read, plane).
        """

    def codes(self, x: Array, scale: tuple[np.float32, np.float32, np.float32, bool], out: Array, threads: int) -> Any:
        """out = clip(round(x factor), low, high), flat, with scale = (factor, low, high, rounds).

        Returns:
            How many were clipped, and how many are not finite.
        """

    def prepared(self, planes: Planes) -> Any:
        """Planes in the form that this backend reads."""

    def currents(self, job: Job, start: int, rows: int) -> tuple[Array, Array]:
        """Noiseless currents (pulses, slices, row tiles, rows, columns) of rows from `start` on, and their codes."""

    def read(self, job: Job, key: Key, whose: Rows, read: int, threads: int, out: Array) -> int:
        """Read into out (reads, rows, outputs) float32, the reads numbered from `read`; returns clipped readings."""

    def add_output_noise(
        self, out: Array, sigmas: tuple[float, float], whose: Rows, read: int, key: Key, threads: int
    ) -> None:
        """out (rows, outputs) += sqrt(sigma_add^2 + sigma_mult^2 out^2) normals, in place."""
