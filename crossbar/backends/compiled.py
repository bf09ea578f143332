"""The backend of compiled kernels (numba): the one that is used unless another is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ..arrays import Unpadded
from ..backend import Backend, GroupJob, Job, Sums
from ..kernels.convert import (
    BLOCK,
    add_output_noise,
    add_output_noise_parallel,
    make_codes,
    make_codes_parallel,
    make_padded_codes,
    make_padded_codes_parallel,
)
from ..kernels.digits import square, square_parallel
from ..kernels.group_layout import Cut
from ..kernels.groups import read_groups, read_groups_parallel
from ..kernels.held import Held, hold
from ..kernels.panel import ROWS, pack_rows
from ..kernels.philox import Rows
from ..kernels.program import add_cells, fill_rows, peak_and_total
from ..kernels.read import (
    CHUNK,
    Circuit,
    Deal,
    Geometry,
    Planes,
    read_currents,
    read_matrix,
    read_matrix_parallel,
)
from ..kernels.slow_noise import fluctuation
from ..keys import Key
from ..threads import pool_of
from .compiled_wires import CompiledWires
from .together import Sizes, fits, sizes_of, together

Array = np.ndarray[Any, Any]
WORTH_A_THREAD = 6_000_000  # products of a read; below, starting other threads takes longer than they save
CACHE = 384 * 1024  # bytes of scratch that stay in the second-level cache
READING = 64  # products that take as long as the noise and conversion of one reading


class Prepared:
    """Planes, and what reads of them are made ready with; see `Backend.prepared`.

    Attributes:
        lines: word lines, in whole pairs.
        work: of one reading of all slices, in products.
    """

    def __init__(self, planes: Planes) -> None:
        self.planes, self.lines = planes, int(planes.edges[-1])
        self.work = len(planes.mean) * (self.lines + READING * (len(planes.edges) - 1))
        self._held: dict[tuple[int, int, bool], tuple[Geometry, Circuit, tuple[Held, bool]]] = {}

    def held(self, geometry: Geometry, circuit: Circuit, *, direct: bool = False) -> tuple[Held, bool]:
        """What kernels take, and whether their products take inputs where they are: if `direct`, and they can.

        A reader has few geometries and circuits: each pair is kept.
        """
        place = id(geometry), id(circuit), direct
        if place not in self._held:
            can = direct and _direct(self.planes, geometry, circuit)
            made = hold(geometry, self.planes, circuit, can), can
            self._held[place] = geometry, circuit, made  # all three live with their ids
        return self._held[place][2]


class Grouped(list[Prepared]):
    """The prepared planes of all groups of a matrix, and what reads of all in one call are made ready with."""

    def __init__(self, prepared: Sequence[Prepared]) -> None:
        super().__init__(prepared)
        self._held: dict[tuple[int, int], tuple[Geometry, Circuit, tuple[Held, Sizes] | None]] = {}

    def held(self, geometry: Geometry, circuit: Circuit) -> tuple[Held, Sizes] | None:
        """As `Prepared.held`, for the geometry of the first group, and how to cut reads; None for group by group."""
        place = id(geometry), id(circuit)
        if place not in self._held:
            planes, found = [each.planes for each in self], None
            if fits(planes, circuit):
                whole = together(planes, geometry, circuit)
                found = hold(geometry, whole, circuit, False), sizes_of(geometry, whole, circuit)
            self._held[place] = geometry, circuit, found
        return self._held[place][2]


class Compiled(CompiledWires, Backend):
    """Kernels in machine code, on several threads where it is worth it."""

    def normals(self, shape: tuple[int, int], place: tuple[int, int], key: Key) -> Array:
        (first_row, plane), out = place, np.empty(shape, dtype=np.float32)
        fill_rows(out, np.uint64(first_row), plane, 0, key)
        return out

    def add_cells(self, g: Array, std: Array, units: tuple[np.float32, np.float32, np.float32], sums: Sums) -> None:
        add_cells(g, std, units, *sums)

    def peak_and_total(self, values: Array) -> tuple[float, float]:
        peak, total = peak_and_total(values)
        return float(peak), float(total)

    def pack_rows(self, values: Array, factor: np.float32, first: int, panels: Array) -> None:
        pack_rows(values, factor, first, panels)

    def fluctuate(self, std: Array, amplitudes: Array, place: tuple[int, int, int], key: Key, out: Array) -> None:
        first_row, read, plane = place
        fluctuation(std, amplitudes, np.uint64(first_row), np.uint32(read), np.uint32(plane), key, out)

    def codes(self, x: Array, scale: tuple[np.float32, np.float32, np.float32, bool], out: Array, threads: int) -> Any:
        if threads > 1 and x.size > 4 * BLOCK:
            with pool_of(threads):
                return make_codes_parallel(x, *scale, out)
        return make_codes(x, *scale, out)

    def padded_codes(
        self, x: Unpadded, scale: tuple[np.float32, np.float32, np.float32, bool], out: Array, threads: int
    ) -> Any:
        if type(self).codes is not Compiled.codes:  # another backend's own
            return super().padded_codes(x, scale, out, threads)
        given, before = x.values, (x.margins[0][0], x.margins[1][0], x.margins[2][0])
        planar = given.transpose(0, 4, 1, 2, 3)
        flat = next((each for each in (given, planar) if each.flags.c_contiguous), None)
        if flat is None or given.dtype != np.float32:
            return super().padded_codes(x, scale, out, threads)
        job = flat.reshape(-1), given.shape, flat is not given, before, scale
        if threads > 1 and given.size > 4 * BLOCK:
            with pool_of(threads):
                return make_padded_codes_parallel(*job, threads, out)
        return make_padded_codes(*job, out)

    def prepared(self, planes: Planes) -> Prepared:
        return Prepared(planes)

    def prepared_groups(self, planes: Sequence[Planes]) -> Grouped:
        return Grouped([self.prepared(each) for each in planes])

    def currents(self, job: Job, start: int, rows: int) -> tuple[Array, Array]:
        codes, geometry, prepared, circuit = job
        planes = prepared.planes
        tiles, columns = len(planes.edges) - 1, planes.bias.size
        if planes.reference.size:
            columns = int(planes.reference.max()) + 1
        out = np.empty((circuit.conversions, len(planes.mean), tiles, rows, columns), dtype=np.float32)
        gathered = np.empty((rows, prepared.lines), codes.dtype)
        read_currents(codes, prepared.held(geometry, circuit)[0], start, gathered, out)
        return out, gathered

    def read(self, job: Job, key: Key, whose: Rows, read: int, threads: int, out: Array) -> int:
        codes, geometry, prepared, circuit = job
        reads, rows, outputs = out.shape
        work = reads * rows * outputs * prepared.work * circuit.conversions
        workers = min(threads, -(-reads * rows // ROWS)) if work > WORTH_A_THREAD else 1
        held, direct = prepared.held(geometry, circuit, direct=rows >= CHUNK)
        squared = squares_of(codes, prepared, circuit, workers) if direct else codes[:0]
        deal = Deal(*whose, np.uint32(read), _chunk(rows, workers, 0 if direct else prepared.lines, outputs))
        if workers == 1:
            return int(read_matrix(codes, squared, held, key, deal, out))
        with pool_of(workers):
            return int(read_matrix_parallel(codes, squared, held, key, deal, workers, out))

    def read_groups(self, job: GroupJob, keys: Array, whose: Rows, read: int, threads: int, out: Array) -> int:
        codes, geometries, prepared, circuit = job
        geometry, (reads, rows, outputs) = geometries[0], out.shape
        held = prepared.held(geometry, circuit)
        if held is None:
            return super().read_groups(job, keys, whose, read, threads, out)
        work = reads * rows * outputs * prepared[0].work * circuit.conversions
        workers = threads if work > WORTH_A_THREAD else 1
        cut = Cut(*whose, np.uint32(read), *held[1].boxes(rows, 4 * workers if workers > 1 else 1))
        if workers == 1:
            return int(read_groups(codes, held[0], keys, cut, out))
        with pool_of(workers):
            return int(read_groups_parallel(codes, held[0], keys, cut, workers, out))

    def add_output_noise(
        self, out: Array, sigmas: tuple[float, float], whose: Rows, read: int, key: Key, threads: int
    ) -> None:
        (add, mult), place = map(np.float32, sigmas), (whose, 0, np.uint32(read))
        if threads > 1 and out.size > BLOCK:
            with pool_of(threads):
                add_output_noise_parallel(out, add, mult, *place, key)
        else:
            add_output_noise(out, add, mult, *place, key)


def _direct(planes: Planes, geometry: Geometry, circuit: Circuit) -> bool:
    """Whether products take inputs where they are: a pulse drives their codes, and pairs of them are neighbours.

    Rows of a kernel of one place are copied: a copy takes less than looking up where each input is.
    """
    each = 2 if circuit.integers else 1
    codes = circuit.conversions == 1 and not circuit.levels.size and not circuit.pedestal and not circuit.constant
    alone = circuit.pulses == 1 and not (planes.linear.size or planes.total.size or planes.uniform.size)
    places = int(np.prod(geometry.kernel))
    pairs = geometry.channels % each == 0 and geometry.first_channel % each == 0 and not np.any(planes.edges % each)
    return bool(codes and alone and pairs and places > 1 and places * geometry.channels == planes.edges[-1])


def squares_of(codes: Array, prepared: Prepared, circuit: Circuit, threads: int) -> Array:
    """The squares of codes, as kernels want them for the noise of cells; of no sample where there is none."""
    if not circuit.noisy or not prepared.planes.variance.shape[1]:
        return codes[:0]
    out = np.empty_like(codes)
    if threads > 1:
        with pool_of(threads):
            square_parallel(codes.reshape(-1), circuit.integers, circuit.halve, threads, out.reshape(-1))
    else:
        square(codes.reshape(-1), circuit.integers, circuit.halve, out.reshape(-1))
    return out


@lru_cache(maxsize=1024)
def _chunk(rows: int, workers: int, lines: int, outputs: int) -> int:
    """Rows to be processed together: what the cache holds, and equal shares for the workers where they are few."""
    per_row = 4 * lines + 12 * outputs  # bytes of scratch: two int16 a word line, three float32 an output
    most = max(CHUNK, CACHE // per_row // ROWS * ROWS)
    chunks = max(1, -(-rows // most))
    if chunks < 4 * workers:
        chunks += -chunks % workers
    chunk = -(-rows // chunks)
    return max(ROWS, chunk + -chunk % ROWS)
