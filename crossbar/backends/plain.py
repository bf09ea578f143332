"""Plain numpy twins of the kernels, a backend of their own: the same arithmetic in float64, for tests and for reading.

`per_cell_read` is what the kernels must equal in distribution: it draws one random number for every cell.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..backend import Backend, Job, Sums
from ..kernels.lanes import LANES
from ..kernels.panel import PANEL, unpack
from ..kernels.philox import GROUP, Rows
from ..kernels.read import SUPPLY_PLANE, Circuit, Geometry, Planes
from ..kernels.slow_noise import FRACTION, NEVER
from ..keys import Key
from ..patches import gather
from .plain_wires import PlainWires

Array = np.ndarray[Any, Any]


def philox4x32(counter: Array, round_keys: Array) -> Array:
    """Words (..., 4) uint32 of counters (..., 4) uint32 under one key, given as the keys of its rounds."""
    c = [counter[..., i].astype(np.uint64) for i in range(4)]
    mask = np.uint64(0xFFFFFFFF)
    for k0, k1 in round_keys.astype(np.uint64).reshape(-1, 2):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ k0, p1 & mask, (p0 >> np.uint64(32)) ^ c[3] ^ k1, p0 & mask]
    return np.stack(c, axis=-1).astype(np.uint32)


def normal_pair(radius_word: Array, angle_word: Array) -> tuple[Array, Array]:
    """Box-Muller with numpy's own logarithm, sine and cosine."""
    radius = np.sqrt(-2 * np.log(((radius_word >> 1) + 0.5) / 2.0**31))
    angle = np.pi * angle_word.astype(np.int32) / 2.0**32
    sign = np.where(angle_word & 1, -1.0, 1.0)
    return sign * radius * np.cos(angle), sign * radius * np.sin(angle)


def draw_normals(samples: Array, positions: Array, columns: int, plane: int, read: Any, key: Array) -> Array:
    """Normals (rows, columns) of the counters that `philox.noisy` documents, samples and positions (rows,).

    `read` is one number, or one for each row (rows, 1).
    """
    rows, position = len(samples), positions.astype(np.uint64)[:, None]
    groups = -(-columns // GROUP)
    block = np.arange(groups * LANES, dtype=np.uint64)[None]
    counter = np.zeros((rows, block.size, 4), dtype=np.uint32)
    counter[..., 0] = block + ((position >> np.uint64(12)) << np.uint64(16))
    counter[..., 1] = samples[:, None]
    counter[..., 2] = plane + ((position & np.uint64(4095)) << np.uint64(20))
    counter[..., 3] = read
    w = philox4x32(counter, key)
    words = np.stack([*normal_pair(w[..., 0], w[..., 1]), *normal_pair(w[..., 2], w[..., 3])], axis=1)
    return words.reshape(rows, 4, groups, LANES).transpose(0, 2, 1, 3).reshape(rows, -1)[:, :columns]


class Unpacked(NamedTuple):
    """Planes as this backend reads them.

    Attributes:
        mean, variance, linear: of each slice, float64 (rows, columns in whole groups), in units of g_max or its square.
            Variances are for squares of codes as the planes have them, which may be halved (see `read.square`); there
            are none where the planes have none.
    """

    planes: Planes
    mean: list[Array]
    variance: list[Array]
    linear: list[Array]

    @classmethod
    def of(cls, planes: Planes) -> Unpacked:
        def unpacked(panels: Array, units: Array) -> list[Array]:
            steps = [np.repeat(unit, np.diff(planes.edges))[:, None] for unit in units]
            values = [unpack(p).astype(np.float64) * step for p, step in zip(panels, steps, strict=False)]
            return [np.pad(v, [(0, 0), (0, -v.shape[1] % GROUP)]) for v in values]

        variance = unpacked(planes.variance, planes.variance_unit) if planes.variance.size else []
        linear = unpacked(planes.linear, planes.linear_unit) if planes.linear.size else []
        return cls(planes, unpacked(planes.mean, planes.mean_unit), variance, linear)


def take_digit(codes: Array, shift: int, base: int) -> Array:
    return np.sign(codes) * ((np.abs(codes).astype(np.int64) >> shift) % base)


class Driven(NamedTuple):
    """What word lines (rows, word lines) are driven with in one pulse, in units of its largest digit.

    Attributes:
        volts: what bit lines add up.
        firsts: by what the variance `linear` of the cells counts.
        weight: of the pulse, or of a conversion of several.
        share: of its variance in the conversion.
    """

    volts: Array
    firsts: Array
    weight: float
    share: float

    @classmethod
    def of(cls, codes: Array, circuit: Circuit, phase: int, q: int, floats: bool = False) -> Driven:
        """Of a pulse q of a phase."""
        base = 2**circuit.digit_bits
        digits = codes if circuit.pulses == 1 else take_digit(codes, circuit.digit_bits * q, base)
        largest = circuit.full_code if circuit.pulses == 1 else base - 1
        weight = largest * 2.0 ** (circuit.digit_bits * q) / circuit.full_code
        if circuit.phases == 2:
            digits = np.maximum(-digits if phase else digits, 0)
        if circuit.levels.size:
            digits = np.sign(digits) * circuit.levels[np.abs(digits).astype(np.int64)]
        made = 2.0 ** (circuit.digit_bits * q) if circuit.joined == 2 else 1.0
        firsts = digits if floats else np.abs(digits)
        return cls(digits / largest, firsts / largest, weight, weight**2 / made if circuit.joined else 1.0)

    def of_rows(self, part: slice) -> Driven:
        """Of some of the word lines."""
        return self._replace(volts=self.volts[:, part], firsts=self.firsts[:, part])


class Cells(NamedTuple):
    """The noise of the cells of a plane: `variance` and `linear` (word lines, columns), `floor` and `total` (columns,).

    `linear` and `total` are None where there are none.
    """

    variance: Array
    linear: Array | None
    floor: Array
    total: Array | None

    def makes(self, current: Array, driven: Driven) -> Array:
        """(rows, columns): the variance of a pulse of this mean current, apart from `floor`."""
        found = np.square(driven.volts) @ self.variance
        if self.linear is not None:
            firsts = driven.firsts @ self.linear
            found = found + (firsts if self.total is None else current * (current * self.total - 2 * firsts))
        return np.maximum(found, 0)


def read_matrix(
    x: Array,
    geometry: Geometry,
    planes: Planes | Unpacked,
    circuit: Circuit,
    normals: Array,
    supply: Array | None = None,
) -> tuple[Array, int]:
    """What `read.read_matrix` gives, with its normals (planes and pulses, rows, columns) passed in.

    `supply` (pulses, rows): those of the read voltage, where it is noisy.
    """

    def noise(index: int, mean: Array, pulses: list[Driven], cells: Cells, variance: Array) -> Array:
        return mean + np.sqrt(variance + cells.floor + circuit.gain_variance * mean**2) * normals[index]

    unpacked = planes if isinstance(planes, Unpacked) else Unpacked.of(planes)
    return _read(x, geometry, unpacked, circuit, noise, supply)


def per_cell_read(
    x: Array, geometry: Geometry, planes: Planes, circuit: Circuit, rng: np.random.Generator
) -> tuple[Array, int]:
    """A read in which every cell of every row draws its own noise: distribution only, no common bits."""

    def noise(index: int, mean: Array, pulses: list[Driven], cells: Cells, variance: Array) -> Array:
        rows, columns = mean.shape
        current = mean + rng.standard_normal((rows, columns)) * np.sqrt(cells.floor)
        for driven in pulses:
            drawn = rng.standard_normal((rows, *cells.variance.shape)) * np.sqrt(driven.share * cells.variance)
            current = current + np.einsum("mi,mij->mj", driven.volts, drawn)
        return current + mean * np.sqrt(circuit.gain_variance) * rng.standard_normal((rows, columns))

    return _read(x, geometry, Unpacked.of(planes), circuit, noise)


def _read(
    x: Array, geometry: Geometry, unpacked: Unpacked, circuit: Circuit, noise: Any, supply: Array | None = None
) -> tuple[Array, int]:
    planes = unpacked.planes
    codes = _with_constant(gather(x.astype(np.float64), geometry), planes, circuit)
    outputs, floats = planes.bias.size, planes.total.size > 0
    out = np.tile(planes.bias.astype(np.float64), (len(codes), 1))
    slices, tiles = planes.mean.shape[0], len(planes.edges) - 1
    clipped = 0
    for c, conversion in enumerate(_conversions(circuit)):
        pulses = [Driven.of(codes, circuit, *pulse, floats) for pulse in conversion]
        sign = -1 if conversion[0][0] else 1
        for s, t in np.ndindex(slices, tiles):
            part = slice(planes.edges[t], planes.edges[t + 1])
            driven = [pulse.of_rows(part) for pulse in pulses]
            cells = _cells(unpacked, circuit, s, t)
            current, variance, volts = _added_up(driven, unpacked.mean[s][part], cells, joined=circuit.joined > 0)
            if circuit.noisy:
                if supply is not None:
                    current = current * (1 + circuit.supply * supply[c][:, None])
                current = noise((c * slices + s) * tiles + t, current, driven, cells, variance)
            current, outside = digitised(current, planes, circuit, (s, t))
            clipped += outside
            value = current[:, :outputs] - circuit.pedestal * volts
            if planes.reference.size:
                value = value - current[:, planes.reference]
            out += sign * (1 if circuit.joined else driven[0].weight) * planes.scale[s, t, :outputs] * value
    return out, clipped


def _conversions(circuit: Circuit) -> list[list[tuple[int, int]]]:
    """The pulses (phase, number) of each conversion."""
    phases = [[(phase, q) for q in range(circuit.pulses)] for phase in range(circuit.phases)]
    return phases if circuit.joined else [[pulse] for pulses in phases for pulse in pulses]


def _added_up(driven: list[Driven], g: Array, cells: Cells, *, joined: bool) -> tuple[Array, Array, Array]:
    """Currents, variances and sums of voltages (rows, 1) of the pulses of a conversion, for conductances g."""
    current: Any = 0.0
    variance: Any = 0.0
    volts: Any = 0.0
    for pulse in driven:
        own, weight = pulse.volts @ g, pulse.weight if joined else 1.0
        current = current + weight * own
        variance = variance + pulse.share * cells.makes(own, pulse)
        volts = volts + weight * pulse.volts.sum(axis=1, keepdims=True)
    return np.asarray(current), np.asarray(variance), np.asarray(volts)


def _cells(unpacked: Unpacked, circuit: Circuit, s: int, t: int) -> Cells:
    planes = unpacked.planes
    part = slice(planes.edges[t], planes.edges[t + 1])
    shape = unpacked.mean[s][part].shape
    variance = unpacked.variance[s][part] / (2 if circuit.halve else 1) if unpacked.variance else np.zeros(shape)
    if planes.uniform.size:
        variance = variance + planes.uniform[s, t]
    linear = unpacked.linear[s][part] if unpacked.linear else None
    return Cells(variance, linear, planes.floor[s, t], planes.total[s, t] if planes.total.size else None)


def digitised(current: Array, planes: Planes, circuit: Circuit, place: tuple[int, int]) -> tuple[Array, int]:
    """What ADCs make of currents (rows, columns) at place = (slice, row tile), and how many were clipped."""
    shown = planes.bias.size if planes.reference.size == 0 else int(planes.reference.max()) + 1
    if planes.adc_inverse.size:
        level = current * planes.adc_inverse[place] + planes.adc_shift[place]
        transitions, columns = planes.adc_transitions, zip(planes.adc_which[place], level.T, strict=True)
        code = np.stack([np.searchsorted(transitions[w], x, side="right") for w, x in columns], axis=1)
        nearest = np.rint(level)
        outside = (nearest < 0) | (nearest > transitions.shape[1])
        return code * planes.adc_step[place] + planes.adc_zero[place], int(outside[:, :shown].sum())
    if not circuit.step.size:
        return current, 0
    step = circuit.step[place[0]]
    code = np.rint(current / step - circuit.centre)
    inside = np.clip(code, circuit.low, circuit.high)
    return (inside + circuit.centre) * step, int((code != inside)[:, :shown].sum())


def padded(columns: int) -> int:
    """Columns in whole groups."""
    return -(-columns // GROUP) * GROUP


class Plain(PlainWires, Backend):
    """The twins as a backend: what it reads is what kernels read, up to rounding, and far slower."""

    def normals(self, shape: tuple[int, int], place: tuple[int, int], key: Key) -> Array:
        (rows, columns), (first_row, plane) = shape, place
        samples = first_row + np.arange(rows, dtype=np.uint64)
        return draw_normals(samples, np.zeros(rows), columns, plane, 0, key).astype(np.float32)

    def add_cells(self, g: Array, std: Array, units: tuple[np.float32, np.float32, np.float32], sums: Sums) -> None:
        unit, white, bins = units
        sums.signed[:] += g / unit
        sums.spread[:] += np.square(std / unit) + white * g
        sums.columns[:] += g.sum(axis=0, dtype=np.float64)
        top = len(sums.histogram) - 1
        sums.histogram[:] += np.bincount(np.minimum(g * bins, top).astype(int).reshape(-1), minlength=top + 1)

    def peak_and_total(self, values: Array) -> tuple[float, float]:
        magnitude = np.abs(values)
        return float(magnitude.max()), float(magnitude.sum(axis=0).max())

    def pack_rows(self, values: Array, factor: np.float32, first: int, panels: Array) -> None:
        rows, columns = values.shape
        wide = np.zeros((rows, len(panels) * PANEL), np.float32)
        wide[:, :columns] = values * factor
        for r, row in enumerate(wide.reshape(rows, len(panels), PANEL), first):
            if panels.dtype == np.int16:
                panels[:, r >> 1, (r & 1) :: 2] = np.rint(row)
            else:
                panels[:, r] = row

    def fluctuate(self, std: Array, amplitudes: Array, place: tuple[int, int, int], key: Key, out: Array) -> None:
        (first_row, read, plane), (rows, columns) = place, out.shape
        row = first_row + np.arange(rows, dtype=np.uint64)
        for m, amplitude in enumerate(amplitudes[1:], 1):
            last = m == len(amplitudes) - 1
            offset = (row * FRACTION) >> np.uint64(64 - m)  # renewals are evenly spread over the word lines
            renewed = np.zeros_like(row) if last else (np.uint64(read) + offset) >> np.uint64(m)
            normals = draw_normals(row, np.zeros(rows), columns, plane * NEVER + m, renewed[:, None], key)
            out += (std * amplitude * normals).astype(np.float32)

    def codes(self, x: Array, scale: tuple[np.float32, np.float32, np.float32, bool], out: Array, threads: int) -> Any:
        factor, low, high, rounds = scale
        value = x * factor
        code = np.rint(value) if rounds else value
        inside = np.clip(code, low, high)
        finite = np.isfinite(value)
        out[:] = np.where(finite, inside, 0)
        return int((code != inside).sum()), int((~finite).sum())

    def prepared(self, planes: Planes) -> Unpacked:
        return Unpacked.of(planes)

    def currents(self, job: Job, start: int, rows: int) -> tuple[Array, Array]:
        codes, geometry, unpacked, circuit = job
        planes = unpacked.planes
        patches = _with_constant(gather(codes.astype(np.float64), geometry), planes, circuit)[start : start + rows]
        columns = planes.bias.size if planes.reference.size == 0 else int(planes.reference.max()) + 1
        out = np.empty((circuit.conversions, len(planes.mean), len(planes.edges) - 1, rows, columns), np.float32)
        nothing = Cells(np.zeros_like(unpacked.mean[0]), None, np.zeros(1), None)
        for c, conversion in enumerate(_conversions(circuit)):
            pulses = [Driven.of(patches, circuit, *pulse) for pulse in conversion]
            for s, t in np.ndindex(*out.shape[1:3]):
                part = slice(*planes.edges[t : t + 2])
                driven = [pulse.of_rows(part) for pulse in pulses]
                g, cells = unpacked.mean[s][part], nothing._replace(variance=nothing.variance[part])
                out[c, s, t] = _added_up(driven, g, cells, joined=circuit.joined > 0)[0][:, :columns]
        return out, patches

    def read(self, job: Job, key: Key, whose: Rows, read: int, threads: int, out: Array) -> int:
        codes, geometry, unpacked, circuit = job
        (reads, rows, _), planes, clipped = out.shape, unpacked.planes, 0
        row = np.arange(rows)
        samples = int(whose.first_sample) + row // len(whose.positions)
        positions = whose.positions[row % len(whose.positions)]
        count, columns = circuit.conversions * len(planes.mean) * (len(planes.edges) - 1), planes.floor.shape[2]
        shared = codes.shape[0] * int(np.prod(geometry.out)) == rows
        each = [codes] * reads if shared else np.split(codes, reads)
        for v, x in enumerate(each):

            def drawn(plane: int, columns: int, v: int = v) -> Array:
                return draw_normals(samples, positions, columns, plane, read + v, key)

            normals = np.stack([drawn(plane, columns) for plane in range(count)]) if circuit.noisy else np.empty(0)
            pulses = range(circuit.conversions) if circuit.noisy and circuit.supply > 0 else ()
            supply = np.stack([drawn(int(SUPPLY_PLANE) + q, 1)[:, 0] for q in pulses]) if pulses else None
            out[v], found = read_matrix(x, geometry, unpacked, circuit, normals, supply)
            clipped += found
        return clipped

    def add_output_noise(
        self, out: Array, sigmas: tuple[float, float], whose: Rows, read: int, key: Key, threads: int
    ) -> None:
        row, (add, mult) = np.arange(len(out)), sigmas
        samples = int(whose.first_sample) + row // len(whose.positions)
        positions = whose.positions[row % len(whose.positions)]
        normals = draw_normals(samples, positions, out.shape[1], 0, read, key)
        out += (np.sqrt(add**2 + np.square(mult * out.astype(np.float64))) * normals).astype(np.float32)


def _with_constant(codes: Array, planes: Planes, circuit: Circuit) -> Array:
    """Codes with those of the word lines behind the patches: that of a bias on the array, and one that makes pairs."""
    extra = int(planes.edges[-1]) - codes.shape[1]
    if not extra:
        return codes
    constant, nothing = np.full((len(codes), 1), circuit.constant), np.zeros((len(codes), extra - 1))
    return np.concatenate([codes, constant, nothing], axis=1)
