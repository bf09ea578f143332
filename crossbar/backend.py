"""What a compute backend does for a matrix on tiles: from cells to what is read, and from inputs to readings.

Everything above it (design, ranges, order of samples, keys) is the same for all backends. Arrays are numpy arrays of
the shapes given, but for what is the backend's own: what `prepared` returns, which stays with the reader; and inputs,
codes and readings, see `mho.crossbar.arrays.Arrays`. How to add one: docs/kernels.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .arrays import Arrays, Unpadded
from .kernels.philox import Rows
from .kernels.read import Circuit, Geometry, Planes
from .keys import Key

Array = np.ndarray[Any, Any]


class Job(NamedTuple):
    """What is read: input codes (samples, depth, height, width, channels), and what they meet.

    Attributes:
        codes: int16 or float32, as the planes (see `Arrays.empty`); those of one read, which all reads share, or of all
            reads in turn.
        geometry: how rows are taken from them.
        planes: what `Backend.prepared` made.
        circuit: of converters and noise.
    """

    codes: Any
    geometry: Geometry
    planes: Any
    circuit: Circuit


class GroupJob(NamedTuple):
    """What is read of all groups of a matrix: as `Job`, with a geometry of each and what `prepared_groups` made."""

    codes: Any
    geometries: Sequence[Geometry]
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


class WireSolver(ABC):
    """Voltages in an array of cells g (m, n) between lines with resistance; all in siemens, volts and amperes, float64.

    sw (n + 1,) and sb (m + 1,) are the segments along each word line and each bit line: from the driver on, and down to
    the sense amplifier, the first and last of them to what is outside, 0 where a line ends. See `mho.crossbar.wires`.
    """

    @abstractmethod
    def effective(self, g: Array, sw: Array, sb: Array) -> Array:
        """G_eff (m, n): currents of the sense amplifiers for drivers at v (m,), all at 0 V, are G_eff^T v."""

    @abstractmethod
    def node_voltages(
        self, g: Array, wires: tuple[Array, Array], ends: tuple[Array, Array], tolerance: float, *, keep: bool
    ) -> tuple[Array, Array]:
        """Voltages (2, p, m, n) of word and bit lines, and currents (p, n) of the cells of each bit line.

        Args:
            wires: sw, sb.
            ends: drivers at (p, m), sense amplifiers at (p, n).
            tolerance: of the voltages, relative to what they change by from lines without resistance.
            keep: False where the voltages are not used, and need not be there.

        Raises:
            ValueError: no solution.
        """

    @abstractmethod
    def bit_lines(self, g: Array, sb: Array, x: Array, u: Array) -> Array:
        """Voltages (m, n) of bit lines whose word lines are at x (m,) all along, sense amplifiers at u (n,)."""

    @abstractmethod
    def changes(
        self, g: Array, wires: tuple[Array, Array], currents: tuple[Array, Array], tolerance: float
    ) -> tuple[Array, Array]:
        """Changes of the voltages (m, n) of word and bit lines that currents (m, n) into their nodes make."""

    @abstractmethod
    def own_voltages(self, g: Array, sw: Array, sb: Array) -> tuple[Array, Array]:
        """Voltages (m, n) across the cells for 1 V at their own word line, and at their own bit line, the rest at 0 V.

        Other lines answer to first order, each by the resistance between the cell and 0 V: what its wires and all of
        its cells but this one make.
        """


class Backend(Arrays, WireSolver):
    """The arithmetic of tiles. The same call gives the same bits, on any number of threads.

    Instances are made without arguments, shared by the copies of a chip, and pickled with it.
    """

    def __deepcopy__(self, memo: Any) -> Backend:
        return self

    @abstractmethod
    def normals(self, shape: tuple[int, int], place: tuple[int, int], key: Key) -> Array:
        """Standard normals (rows, columns) float32 of the cells; place = (word line of the first row, plane).

        The plane tells apart the normals of a cell that takes several.
        """

    @abstractmethod
    def add_cells(self, g: Array, std: Array, units: tuple[np.float32, np.float32, np.float32], sums: Sums) -> None:
        """Add cells of conductances g >= 0 and read noise std, both (rows, columns) float32, to what they are part of.

        units = (unit, white, bins): signed += g / unit, spread += (std / unit)^2 + white g, columns += sums of g; a
        negative unit takes cells off. A cell is counted in the bin of `histogram` that is the whole part of bins g, the
        last one holding all above.
        """

    @abstractmethod
    def peak_and_total(self, values: Array) -> tuple[float, float]:
        """Largest magnitude of values (rows, columns) float32, and largest sum of magnitudes of a column."""

    @abstractmethod
    def pack_rows(self, values: Array, factor: np.float32, first: int, panels: Array) -> None:
        """Rows (rows, columns) float32 times `factor` into packed panels, from row `first` on; int16 are rounded."""

    @abstractmethod
    def fluctuate(self, std: Array, amplitudes: Array, place: tuple[int, int, int], key: Key, out: Array) -> None:
        """Add the slow part of the noise of cells (rows, columns) of this std to `out` float32.

        `amplitudes` (components,): component m lasts 2^m reads, the last for ever, and the first is left out; place =
        (first row, read, plane).
        """

    @abstractmethod
    def codes(self, x: Any, scale: tuple[np.float32, np.float32, np.float32, bool], out: Any, threads: int) -> Any:
        """out = clip(round(x factor), low, high), flat, with scale = (factor, low, high, rounds).

        Returns:
            How many were clipped, and how many are not finite.
        """

    def padded_codes(
        self, x: Unpadded, scale: tuple[np.float32, np.float32, np.float32, bool], out: Any, threads: int
    ) -> Any:
        """As `codes`, of inputs with zeros around them, into out, of their shape with the zeros.

        By default of `Arrays.padded`; a backend may do both in one pass.
        """
        return self.codes(self.padded(x).reshape(-1), scale, out.reshape(-1), threads)

    @abstractmethod
    def prepared(self, planes: Planes) -> Any:
        """Planes in the form that this backend reads."""

    def prepared_groups(self, planes: Sequence[Planes]) -> Sequence[Any]:
        """The planes of all groups of a matrix, each as `prepared` makes them, for `read_groups`."""
        return [self.prepared(each) for each in planes]

    def prepared_groups_at(
        self,
        prepared: Sequence[Any],
        packed: Sequence[Any],
        at: tuple[int, int | None, Sequence[Key]],
        adcs: Sequence[Mapping[str, Array]],
    ) -> Sequence[Any]:
        """The same for the read of a number, where reads share some of the noise of the cells.

        Args:
            prepared: what all reads have in common.
            packed: the cells of each group, a `Packed`.
            at: the read, the largest code, and the key of the slow noise of each group: see `Packed.at_read`.
            adcs: of each group, fields of the planes beside.
        """
        read, largest, keys = at
        each = zip(packed, keys, adcs, strict=True)
        return self.prepared_groups([one.at_read(read, largest, key, self)._replace(**own) for one, key, own in each])

    @abstractmethod
    def currents(self, job: Job, start: int, rows: int) -> tuple[Any, Any]:
        """Noiseless currents (pulses, slices, row tiles, rows, columns) of rows from `start` on, and their codes."""

    @abstractmethod
    def read(self, job: Job, key: Key, whose: Rows, read: int, threads: int, out: Any) -> int:
        """Read into out (reads, rows, outputs) float32, the reads numbered from `read`; returns clipped readings."""

    def read_groups(self, job: GroupJob, keys: Array, whose: Rows, read: int, threads: int, out: Any) -> int:
        """`read` of several groups into out (reads, rows, groups x outputs), group by group unless redefined.

        keys (groups, ...) are a `Key` of each.
        """
        reads, rows, outputs = out.shape
        found, clipped = self.empty((len(keys), reads, rows, outputs // len(keys)), job.codes), 0
        for g, (geometry, planes, key) in enumerate(zip(job.geometries, job.planes, keys, strict=True)):
            mine = Job(job.codes, geometry, planes, job.circuit)
            clipped += self.read(mine, key, whose, read, threads, found[g])  # a view of its own, as gradients ask
        out[:] = self.joined(found)
        return clipped

    @abstractmethod
    def add_output_noise(
        self, out: Any, sigmas: tuple[float, float], whose: Rows, read: int, key: Key, threads: int
    ) -> None:
        """out (rows, outputs) += sqrt(sigma_add^2 + sigma_mult^2 out^2) normals, in place."""
