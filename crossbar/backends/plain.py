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
    """Normals (rows, columns) of the counters that `philox.add_noise` documents, samples and positions (rows,).

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
        mean, variance: of each slice, float64 (rows, columns in whole groups), in units of g_max and of its square.
            Variances are for squares of codes as the planes have them, which may be halved (see `read.square`); there
            are none where the planes have none.
    """

    planes: Planes
    mean: list[Array]
    variance: list[Array]

    @classmethod
    def of(cls, planes: Planes) -> Unpacked:
        def unpacked(panels: Array, units: Array) -> list[Array]:
            steps = [np.repeat(unit, np.diff(planes.edges))[:, None] for unit in units]
            values = [unpack(p).astype(np.float64) * step for p, step in zip(panels, steps, strict=False)]
            return [np.pad(v, [(0, 0), (0, -v.shape[1] % GROUP)]) for v in values]

        variance = unpacked(planes.variance, planes.variance_unit) if planes.variance.size else []
        return cls(planes, unpacked(planes.mean, planes.mean_unit), variance)


def take_digit(codes: Array, shift: int, base: int) -> Array:
    return np.sign(codes) * ((np.abs(codes).astype(np.int64) >> shift) % base)


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
    return _read(
        x,
        geometry,
        planes if isinstance(planes, Unpacked) else Unpacked.of(planes),
        circuit,
        lambda index, mean, codes, variance, floor: _aggregated(
            mean, codes, variance, floor, circuit.gain_variance, normals[index]
        ),
        supply,
    )


def per_cell_read(
    x: Array, geometry: Geometry, planes: Planes, circuit: Circuit, rng: np.random.Generator
) -> tuple[Array, int]:
    """A read in which every cell of every row draws its own noise: distribution only, no common bits."""

    def noise(index: int, mean: Array, codes: Array, variance: Array, floor: Array) -> Array:
        rows, columns = mean.shape
        cells = rng.standard_normal((rows, *variance.shape)) * np.sqrt(variance)
        current = mean + np.einsum("mi,mij->mj", codes, cells) + rng.standard_normal((rows, columns)) * np.sqrt(floor)
        return current + mean * np.sqrt(circuit.gain_variance) * rng.standard_normal((rows, columns))

    return _read(x, geometry, Unpacked.of(planes), circuit, noise)


def _aggregated(mean: Array, codes: Array, variance: Array, floor: Array, gain: float, normals: Array) -> Array:
    return mean + np.sqrt(np.square(codes) @ variance + floor + gain * mean**2) * normals


def _read(
    x: Array, geometry: Geometry, unpacked: Unpacked, circuit: Circuit, noise: Any, supply: Array | None = None
) -> tuple[Array, int]:
    planes = unpacked.planes
    codes = _with_constant(gather(x.astype(np.float64), geometry), planes, circuit)
    outputs = planes.bias.size
    shown = outputs if planes.reference.size == 0 else int(planes.reference.max()) + 1
    out = np.tile(planes.bias.astype(np.float64), (len(codes), 1))
    slices, tiles = planes.mean.shape[0], len(planes.edges) - 1
    base, clipped = 2**circuit.digit_bits, 0
    full_digit = circuit.full_code if circuit.pulses == 1 else base - 1
    for q in range(circuit.pulses):
        digits = codes if circuit.pulses == 1 else take_digit(codes, circuit.digit_bits * q, base)
        volts = digits / full_digit
        weight = full_digit * 2.0 ** (circuit.digit_bits * q) / circuit.full_code
        for s in range(slices):
            g = unpacked.mean[s]
            variance = unpacked.variance[s] / (2 if circuit.halve else 1) if unpacked.variance else np.zeros_like(g)
            if planes.uniform.size:
                variance = variance + np.repeat(planes.uniform[s], np.diff(planes.edges))[:, None]
            for t in range(tiles):
                part = slice(planes.edges[t], planes.edges[t + 1])
                current = volts[:, part] @ g[part]
                if circuit.noisy:
                    if supply is not None:
                        current = current * (1 + circuit.supply * supply[q][:, None])
                    index = (q * slices + s) * tiles + t
                    current = noise(index, current, volts[:, part], variance[part], planes.floor[s, t])
                if circuit.step.size:
                    code = np.rint(current / circuit.step[s] - circuit.centre)
                    inside = np.clip(code, circuit.low, circuit.high)
                    clipped += int((code != inside)[:, :shown].sum())
                    current = (inside + circuit.centre) * circuit.step[s]
                value = current[:, :outputs] - circuit.pedestal * volts[:, part].sum(axis=1, keepdims=True)
                if planes.reference.size:
                    value = value - current[:, planes.reference]
                out += weight * planes.scale[s, t, :outputs] * value
    return out, clipped


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
        base = 2**circuit.digit_bits
        columns = planes.bias.size if planes.reference.size == 0 else int(planes.reference.max()) + 1
        out = np.empty((circuit.pulses, len(planes.mean), len(planes.edges) - 1, rows, columns), np.float32)
        for q, s, t in np.ndindex(*out.shape[:3]):
            digits = patches if circuit.pulses == 1 else take_digit(patches, circuit.digit_bits * q, base)
            volts = digits / (circuit.full_code if circuit.pulses == 1 else base - 1)
            part = slice(*planes.edges[t : t + 2])
            out[q, s, t] = (volts[:, part] @ unpacked.mean[s][part])[:, :columns]
        return out, patches

    def read(self, job: Job, key: Key, whose: Rows, read: int, threads: int, out: Array) -> int:
        codes, geometry, unpacked, circuit = job
        (reads, rows, _), planes, clipped = out.shape, unpacked.planes, 0
        row = np.arange(rows)
        samples = int(whose.first_sample) + row // len(whose.positions)
        positions = whose.positions[row % len(whose.positions)]
        count, columns = circuit.pulses * len(planes.mean) * (len(planes.edges) - 1), planes.floor.shape[2]
        shared = codes.shape[0] * int(np.prod(geometry.out)) == rows
        each = [codes] * reads if shared else np.split(codes, reads)
        for v, x in enumerate(each):

            def drawn(plane: int, columns: int, v: int = v) -> Array:
                return draw_normals(samples, positions, columns, plane, read + v, key)

            normals = np.stack([drawn(plane, columns) for plane in range(count)]) if circuit.noisy else np.empty(0)
            pulses = range(circuit.pulses) if circuit.noisy and circuit.supply > 0 else ()
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
