"""A weight matrix on tiles: programmed once, read many times."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from math import prod
from typing import Any, Literal

import numpy as np

from .calibration import calibrate
from .compensation import Compensate, compensated
from .converters import Drive
from .encoding import Encoding
from .hardware import Hardware
from .kernels.convert import (
    BLOCK,
    add_output_noise,
    add_output_noise_parallel,
    make_codes,
    make_codes_parallel,
)
from .kernels.panel import ROWS
from .kernels.philox import Rows
from .kernels.read import (
    CHUNK,
    SUPPLY_PLANE,
    Circuit,
    Deal,
    Geometry,
    Planes,
    read_matrix,
    read_matrix_parallel,
)
from .keys import Key, Purpose, stream_key
from .positions import position_numbers
from .programming import Programmed, halves_squares, largest_factors, program
from .threads import available, pool_of
from .tile import Plan
from .wiring import Moments

Array = np.ndarray[Any, Any]
WORTH_A_THREAD = 6_000_000  # products of a read; below, starting other threads takes longer than they save
CACHE = 192 * 1024  # bytes of scratch that stay in the second-level cache
READING = 64  # products that take as long as the noise and conversion of one reading
LARGEST = 2**32  # samples and reads, counted from 0, are below; see docs/random-numbers.md
COLUMNS = 2**18

_changing = threading.Lock()  # held while what the reads of several threads share is changed


@dataclass
class Counts:
    """Conversions since the matrix was mapped, and how many of them were clipped."""

    inputs: int = 0
    inputs_clipped: int = 0
    readings: int = 0
    readings_clipped: int = 0


@dataclass
class TiledMatrix:
    """The matrix of one layer on the tiles of one chip.

    The inputs of a read are an array x (samples, depth, height, width, channels) of which `kernel`, `stride` and
    `dilation` take patches in the order (kd, kh, kw, channel), as a convolution does; a plain matrix reads x (samples,
    1, 1, 1, rows). A row of a read is one patch: samples times positions.

    Attributes:
        weights: (groups, rows, outputs) float32. Group g reads the g-th part of the channels.
        bias: (groups, outputs) float32, or None.
        name, seed, copy: what the chip's random numbers are keyed with.
        full_scale: (slices,) full scale of the ADCs in units of v_read g_max; empty until known.
        array_energy_j: mean energy of the array for one read of the matrix, over the calibration batch, in joules.
        moments: (2, groups, rows) mean and mean square of the word lines' voltages, in units of v_read, that wires are
            solved for; None for inputs spread evenly over their range.
        compensate: what is done about the loss in wires: gains of the columns, measured on each chip, or conductances
            chosen with the loss in mind.
        gains: of each group, see `Programmed`; empty until measured.
        encodings: of each group; they are those of all copies.
        tell: called when the wires of a tile are solved.
    """

    weights: Array
    bias: Array | None
    hardware: Hardware
    name: str
    seed: int = 0
    copy: int = 0
    kernel: tuple[int, int, int] = (1, 1, 1)
    stride: tuple[int, int, int] = (1, 1, 1)
    dilation: tuple[int, int, int] = (1, 1, 1)
    drive: Drive | None = None
    full_scale: Array = field(default_factory=lambda: np.empty(0))
    array_energy_j: float | None = None
    moments: Array | None = None
    compensate: Compensate | None = None
    gains: list[Array] = field(default_factory=list)
    encodings: list[Encoding] = field(default_factory=list)
    tell: Callable[[], None] | None = None
    programmed: list[Programmed] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)  # what reads would make anew each time

    def __post_init__(self) -> None:
        groups, rows, outputs = self.weights.shape
        self.bias_on_array = self.bias is not None and self.hardware.tile.bias == "array"
        self.plan = Plan.of(self.hardware.tile, rows + self.bias_on_array, outputs, groups)
        if outputs + self.plan.column_tiles > COLUMNS:
            raise ValueError(f"layer {self.name!r}: outputs of a group must be below {COLUMNS}, got {outputs}")

    @property
    def signed_currents(self) -> bool:
        assert self.drive is not None
        return self.drive.signed or self.hardware.tile.encoding.startswith("differential")

    def set_drive(self, limit: float | None, signed: bool) -> None:
        """Fix the range of the inputs and program the cells: a bias on the array depends on it."""
        self.drive = Drive.of(self.hardware.dac, limit, signed)
        self._check_planes()
        self.gains, self.encodings = [], []
        self.program()

    def _check_planes(self) -> None:
        """Raises ValueError where there are more planes than have random numbers."""
        assert self.drive is not None
        planes = self.drive.pulses * self.plan.tile.slices * self.plan.row_tiles
        if planes > SUPPLY_PLANE:
            raise ValueError(
                f"layer {self.name!r}: pulses x slices x row tiles must be at most {SUPPLY_PLANE}, got {planes}"
            )

    def program(self) -> None:
        """Program all groups into the tiles, with the errors of this seed and copy."""
        assert self.drive is not None
        seed = self.seed if self.hardware.seeds.program is None else self.hardware.seeds.program
        self.programmed, self._kept = [], {}
        designed = bool(self.encodings)
        for g in range(self.plan.groups):
            rows, moments = self.rows_of(g), self.moments_of(g)
            if not designed:
                self.encodings.append(self._encode(rows, moments))
            gains: Array | None = np.ones((self.plan.tile.slices, self.plan.row_tiles, self.plan.outputs))
            if self.compensate == "gain":
                gains = self.gains[g] if self.gains else None
            stream = seed, self.name, g, self.copy
            encoding = self.encodings[g]
            programmed = program(
                rows, encoding, self.hardware, self.drive, stream, moments, gains=gains, tell=self.tell
            )
            planes = programmed.planes._replace(bias=self.bias_of(g))
            self.programmed.append(replace(programmed, planes=planes))
        self.gains = [p.gains for p in self.programmed]
        if self.hardware.adc.full_scale not in (None, "calibrated"):
            sensing, cell = self.hardware.sensing, self.hardware.cell
            relative = float(self.hardware.adc.full_scale) / (sensing.v_read * cell.g_max)
            self.full_scale = np.full(self.plan.tile.slices, relative)

    def adopt(self, programmed: list[Programmed]) -> None:
        """Take over cells that were programmed before, as a saved chip has them: see `kept.restore`."""
        self._check_planes()
        self.encodings = [self._encode(self.rows_of(g), self.moments_of(g)) for g in range(self.plan.groups)]
        self.programmed, self.gains, self._kept = programmed, [p.gains for p in programmed], {}

    def rows_of(self, group: int) -> Array:
        """(rows, outputs) weights of a group's word lines, those of a bias on the array included."""
        if not self.bias_on_array:
            return self.weights[group]
        assert self.bias is not None
        assert self.drive is not None
        return np.concatenate([self.weights[group], self.bias[group : group + 1] / np.float32(self.drive.limit)])

    def bias_of(self, group: int) -> Array:
        """(outputs,) float32 that are added digitally."""
        if self.bias is None or self.bias_on_array:
            return np.zeros(self.plan.outputs, dtype=np.float32)
        return self.bias[group].astype(np.float32)

    def moments_of(self, group: int) -> Moments:
        """Of the voltages of a group's word lines."""
        assert self.drive is not None
        if self.moments is None:
            return Moments.uniform(self.plan.rows, self.drive.signed)
        return Moments(*self.moments[:, group])

    def _encode(self, weights: Array, moments: Moments) -> Encoding:
        encoding = Encoding.of(weights, self.plan, self.hardware.cell)
        if self.compensate != "program":
            return encoding
        return compensated(encoding, weights, self.hardware.wires, moments, self.tell)

    def replica(self, copy: int) -> TiledMatrix:
        """Another copy of the chip: the same weights and ranges, programmed anew."""
        other = replace(self, copy=copy, counts=Counts(), gains=[], programmed=[], _kept={})
        other.program()
        return other

    def later(self, time_s: float, *, compensate: bool) -> TiledMatrix:
        """The same matrix so many seconds after programming: see `Chip.at`."""
        hardware = self.hardware.replace({"time_s": time_s})
        other = replace(self, hardware=hardware, counts=Counts(), programmed=[], _kept={})
        other.program()
        if compensate:
            start = self if self.hardware.time_s == 0 else self.later(0.0, compensate=False)
            other.programmed = [
                now.compensated(then) for now, then in zip(other.programmed, start.programmed, strict=True)
            ]
        return other

    def forgetful(self) -> TiledMatrix:
        """The same matrix without what successive reads share of the noise of its cells."""
        programmed = [replace(p, slow_std=p.slow_std[:0], slow_shares=p.slow_shares[:0]) for p in self.programmed]
        return replace(self, counts=Counts(), programmed=programmed, _kept={})

    def circuit(self, *, noisy: bool = True) -> Circuit:
        """What the read kernel needs to know of converters and noise."""
        if ("circuit", noisy) not in self._kept:
            self._kept["circuit", noisy] = self._make_circuit(noisy)
        kept: Circuit = self._kept["circuit", noisy]
        return kept

    def _make_circuit(self, noisy: bool) -> Circuit:
        assert self.drive is not None
        drive, hardware, planes = self.drive, self.hardware, self.programmed[0].planes
        step, low, high, centre = np.empty(0, np.float32), 0.0, 0.0, 0.0
        if hardware.adc.bits is not None and self.full_scale.size:
            codes = hardware.adc.codes(self.signed_currents)
            step = (self.full_scale * codes.relative_step).astype(np.float32)
            low, high, centre = float(codes.low), float(codes.high), codes.centre
        gain, supply = hardware.sensing.gain_variance, hardware.sensing.supply_variance**0.5
        integers = planes.mean.dtype == np.int16
        return Circuit(
            pulses=drive.pulses,
            digit_bits=drive.digit_bits,
            full_code=float(drive.full_code),
            integers=integers,
            halve=integers and halves_squares(drive.largest_digit),
            constant=float(drive.full_code) if self.bias_on_array else 0.0,
            gain_variance=gain,
            supply=supply,
            noisy=noisy and (gain > 0 or supply > 0 or any(_is_noisy(p.planes) for p in self.programmed)),
            step=step,
            low=low,
            high=high,
            centre=centre,
            pedestal=hardware.cell.g_min / hardware.cell.g_max if hardware.tile.encoding == "single" else 0.0,
        )

    def positions(self, size: tuple[int, ...]) -> tuple[int, int, int]:
        """Patches along depth, height and width of inputs of this (depth, height, width), padding included."""
        if self.kernel == self.stride == (1, 1, 1):
            return size  # type: ignore[return-value]
        depth, height, width = (
            (n - d * (k - 1) - 1) // s + 1
            for n, k, s, d in zip(size, self.kernel, self.stride, self.dilation, strict=True)
        )
        return depth, height, width

    def geometry(self, shape: tuple[int, ...], group: int) -> Geometry:
        """How the kernel takes the patches of one group from inputs of this shape."""
        if ("geometry", shape[1:], group) not in self._kept:
            channels = shape[4] // self.plan.groups
            size = self.positions(shape[1:4])
            kernel, stride, dilation, out = np.array([self.kernel, self.stride, self.dilation, size], dtype=np.int64)
            geometry = Geometry(kernel, stride, dilation, out, group * channels, channels)
            self._kept["geometry", shape[1:], group] = geometry
        kept: Geometry = self._kept["geometry", shape[1:], group]
        return kept

    def _key(self, purpose: Purpose, *place: int) -> Key:
        """Key of the noise of reads."""
        if (purpose, place) not in self._kept:
            seed = self.seed if self.hardware.seeds.read is None else self.hardware.seeds.read
            self._kept[purpose, place] = stream_key(seed, purpose, self.name, *place)
        kept: Key = self._kept[purpose, place]
        return kept

    def input_codes(self, x: Array, threads: int = 1) -> Array:
        """DAC codes of inputs of any shape, contiguous, in the type that the planes have.

        Raises:
            ValueError: inputs that are not finite.
        """
        assert self.drive is not None
        x = np.ascontiguousarray(x, dtype=np.float32)
        codes = np.empty_like(x, dtype=self.programmed[0].planes.mean.dtype)
        high = float(self.drive.full_code) if self.drive.clips else np.inf
        low = -high if self.drive.signed else 0.0
        factor = self.drive.full_code / self.drive.limit
        scale = np.float32(factor), np.float32(low), np.float32(high), self.drive.rounds
        if threads > 1 and x.size > 4 * BLOCK:
            with pool_of(threads):
                clipped, broken = make_codes_parallel(x.reshape(-1), *scale, codes.reshape(-1))
        else:
            clipped, broken = make_codes(x.reshape(-1), *scale, codes.reshape(-1))
        if broken:
            raise ValueError(f"layer {self.name!r}: inputs must be finite, got {broken} NaN or infinite of {x.size}")
        with _changing:
            self.counts.inputs += x.size
            self.counts.inputs_clipped += int(clipped)
        return codes

    def rows(self, first_sample: int, shape: tuple[int, ...]) -> Rows:
        """The rows of samples from this one on that have positions of this shape each.

        Raises:
            ValueError: more positions than have numbers.
        """
        if ("positions", shape) not in self._kept:
            try:
                self._kept["positions", shape] = position_numbers(shape)
            except ValueError as error:
                raise ValueError(f"layer {self.name!r}: {error}") from error
        return Rows(np.uint64(first_sample), self._kept["positions", shape])

    def read(
        self,
        x: Array,
        *,
        read: int = 0,
        reads: int = 1,
        shared: bool = False,
        first_sample: int = 0,
        shape: tuple[int, ...] | None = None,
        call: int = 0,
        noisy: bool = True,
        threads: int = 1,
    ) -> Array:
        """Read every patch of x: (reads * samples * positions, groups * outputs) float32, in weight units, with bias.

        Args:
            x: (samples, depth, height, width, channels) inputs in the layer's own units, padding included; for several
                reads, their inputs one after the other, or once if they are `shared`.
            read: number of the (first) read; other numbers give other noise.
            reads: how many, numbered consecutively.
            shared: whether all reads have the same inputs, given once.
            first_sample: place of the first sample in the whole data set, the same in all reads.
            shape: of the positions of one sample, the last index running fastest, where the samples of x are positions
                of a sample too; None for the positions of the patches.
            call: number of this call within one inference, for a layer that is used several times.
            noisy: False leaves out the noise of the read; converters and frozen errors stay.
            threads: threads to use at most; the result does not depend on it.

        Raises:
            ValueError: inputs or outputs that are not finite, or reads, samples or positions beyond those that have
                random numbers.
        """
        threads = available(threads)
        outputs, size = self.plan.outputs, self.positions(x.shape[1:4])
        count = x.shape[0] * prod(size) // (1 if shared else reads)
        if shape is None:
            shape = size[next((axis for axis, many in enumerate(size) if many > 1), 3) :]
        rows = self.rows(first_sample, shape)
        for what, first, many in (
            ("read", read, reads),
            ("sample", first_sample, count // max(1, len(rows.positions))),
        ):
            if not 0 <= first <= LARGEST - many:
                raise ValueError(f"layer {self.name!r}: {what} must be 0 to {LARGEST - many}, got {first}")
        codes = self.input_codes(x, threads)
        circuit = self.circuit(noisy=noisy)
        clipped = 0
        groups = np.empty((self.plan.groups, reads, count, outputs), dtype=np.float32)
        for g in range(self.plan.groups):
            geometry, key = self.geometry(x.shape, g), self._key("read", g, self.copy, call)
            for first, many, planes in self._planes(g, read, reads, noisy):
                one = len(codes) // reads
                part = codes if shared or many == reads else codes[one * first : one * (first + many)]
                job = part, geometry, planes, circuit, key
                out = groups[g, first : first + many]
                clipped += self._read_group(job, rows, read + first, threads, out)
        out = groups.transpose(1, 2, 0, 3).reshape(reads, count, self.plan.groups * outputs)
        if circuit.step.size:
            with _changing:
                self.counts.readings_clipped += clipped
                self.counts.readings += reads * count * self.plan.conversions * circuit.pulses
        noise = self.hardware.output_noise
        for v in range(reads):
            self._add_output_noise(out[v], "frozen", (noise.frozen_add, noise.frozen_mult), rows, 0, call, threads)
            if noisy:
                sigmas = noise.sigma_add, noise.sigma_mult
                self._add_output_noise(out[v], "output", sigmas, rows, read + v, call, threads)
        if not np.isfinite(np.vdot(out, out)) and not np.isfinite(out).all():
            raise ValueError(
                f"layer {self.name!r}: outputs beyond what 32 bits hold; its noise or inputs are too large"
            )
        return out.reshape(reads * count, self.plan.groups * outputs)

    def _planes(self, group: int, read: int, reads: int, noisy: bool) -> list[tuple[int, int, Planes]]:
        """Consecutive reads that have the same planes: the first, counted from `read`, how many, and the planes.

        Where reads share some of the noise of the cells, each has planes of its own, which are kept until other reads
        are asked for.
        """
        programmed = self.programmed[group]
        if not (noisy and len(programmed.slow_std)):
            return [(0, reads, programmed.planes)]
        assert self.drive is not None
        largest, _ = largest_factors(self.plan, self.drive)
        with _changing:
            kept: dict[int, Planes] = self._kept.setdefault(("slow planes", group), {})
            if any(not read <= other < read + reads for other in kept):
                kept.clear()
            for v in range(read, read + reads):
                if v not in kept:
                    kept[v] = programmed.at_read(v, largest, self._key("slow", group, self.copy))
            return [(v, 1, kept[read + v]) for v in range(reads)]

    def _add_output_noise(
        self,
        out: Array,
        purpose: Literal["output", "frozen"],
        sigmas: tuple[float, float],
        rows: Rows,
        read: int,
        call: int,
        threads: int,
    ) -> None:
        """Add output-referred noise of sigmas (additive, multiplicative) to out (rows, outputs) in place."""
        if not any(sigmas):
            return
        key, place = self._key(purpose, self.copy, call), (rows, 0, np.uint32(read))
        add, mult = map(np.float32, sigmas)
        if threads > 1 and out.size > BLOCK:
            with pool_of(threads):
                add_output_noise_parallel(out, add, mult, *place, key)
        else:
            add_output_noise(out, add, mult, *place, key)

    def _read_group(self, job: tuple[Any, ...], whose: Rows, read: int, threads: int, out: Array) -> int:
        """Read one group into out (reads, rows, outputs), by several threads where it is worth it; clipped readings.

        `job` are the first arguments of `read_matrix`.
        """
        reads, rows, outputs = out.shape
        readings = reads * rows * outputs * self.plan.tile.slices * self.drive.pulses  # type: ignore[union-attr]
        work = readings * (self.plan.rows + READING * self.plan.row_tiles)
        workers = min(threads, -(-reads * rows // ROWS)) if work > WORTH_A_THREAD else 1
        deal = Deal(*whose, np.uint32(read), self._chunk(rows, workers))
        if workers == 1:
            return int(read_matrix(*job, deal, out))
        with pool_of(workers):
            return int(read_matrix_parallel(*job, deal, workers, out))

    def _chunk(self, rows: int, workers: int) -> int:
        """Rows to be worked off together: what the cache holds, and equal shares for the workers where they are few."""
        per_row = 4 * self.plan.rows + 12 * self.plan.outputs  # bytes of scratch: two int16 a word line, three float32
        most = max(CHUNK, CACHE // per_row // ROWS * ROWS)
        chunks = max(1, -(-rows // most))
        if chunks < 4 * workers:
            chunks += -chunks % workers
        chunk = -(-rows // chunks)
        return max(ROWS, chunk + -chunk % ROWS)

    def digest(self) -> bytes:
        """16 bytes that tell this matrix on this chip from all others: cells, ranges, and the seeds of its noise."""
        found = blake2b(
            repr((self.name, self.seed, self.copy, self.drive, self.hardware.seeds)).encode(), digest_size=16
        )
        arrays = [self.full_scale]
        for programmed in self.programmed:
            arrays += [*programmed.planes, programmed.slow_std, programmed.slow_shares]
        for array in arrays:
            found.update(f"{array.dtype} {array.shape}".encode())
            found.update(np.ascontiguousarray(array).data)
        return found.digest()

    def forget(self) -> None:
        """Count conversions from now on, and make anew what reads keep."""
        self.counts, self._kept = Counts(), {}

    def calibrate(self, *inputs: Array) -> None:
        """Set what is calibrated from inputs (as in `read`), those of all calls of one inference, and program.

        Raises:
            ValueError: inputs that are not finite, or all zero where a range is to be set.
        """
        calibrate(self, inputs)


def _is_noisy(planes: Planes) -> bool:
    """Whether the readings of a plane vary from read to read."""
    return bool(planes.variance.size or planes.uniform.size or planes.floor.any())
