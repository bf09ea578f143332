"""Plain numpy twins of the kernels: the same arithmetic in float64, for tests and for reading.

`per_cell_read` is what the kernels must equal in distribution: it draws one random number for every cell.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .lanes import LANES
from .panel import unpack
from .philox import GROUP
from .read import Circuit, Geometry, Planes

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


def draw_normals(samples: Array, positions: Array, columns: int, plane: int, read: int, key: Array) -> Array:
    """Normals (rows, columns) of the counters that `philox.add_noise` documents, samples and positions (rows,)."""
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


def gather(x: Array, geometry: Geometry) -> Array:
    """All patches (samples * positions, kernel volume * channels) of x (samples, depth, height, width, channels)."""
    (kd, kh, kw), (sd, sh, sw), (dd, dh, dw), (od, oh, ow) = geometry[:4]
    x = x[..., geometry.first_channel : geometry.first_channel + geometry.channels]
    taps = [
        x[:, a * dd : a * dd + od * sd : sd, b * dh : b * dh + oh * sh : sh, c * dw : c * dw + ow * sw : sw]
        for a in range(kd)
        for b in range(kh)
        for c in range(kw)
    ]
    return np.concatenate([t[:, :od, :oh, :ow] for t in taps], axis=-1).reshape(-1, kd * kh * kw * geometry.channels)


def conductances(packed: Array, units: Array, edges: Array) -> Array:
    """A packed plane as float64 (rows, columns in whole groups); `units` are its row tiles' steps."""
    values = unpack(packed).astype(np.float64) * np.repeat(units, np.diff(edges))[:, None]
    return np.pad(values, [(0, 0), (0, -values.shape[1] % GROUP)])


def take_digit(codes: Array, shift: int, base: int) -> Array:
    return np.sign(codes) * ((np.abs(codes).astype(np.int64) >> shift) % base)


def read_matrix(x: Array, geometry: Geometry, planes: Planes, circuit: Circuit, normals: Array) -> tuple[Array, int]:
    """What `read.read_matrix` gives, with its normals (planes and pulses, rows, columns) passed in."""
    return _read(
        x,
        geometry,
        planes,
        circuit,
        lambda index, mean, codes, variance, floor: _aggregated(
            mean, codes, variance, floor, circuit.gain_variance, normals[index]
        ),
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

    return _read(x, geometry, planes, circuit, noise)


def _aggregated(mean: Array, codes: Array, variance: Array, floor: Array, gain: float, normals: Array) -> Array:
    return mean + np.sqrt(np.square(codes) @ variance + floor + gain * mean**2) * normals


def _read(x: Array, geometry: Geometry, planes: Planes, circuit: Circuit, noise: Any) -> tuple[Array, int]:
    codes = gather(x.astype(np.float64), geometry)
    extra = planes.edges[-1] - codes.shape[1]
    if extra:
        codes = np.concatenate(
            [codes, np.full((len(codes), 1), circuit.constant), np.zeros((len(codes), extra - 1))], axis=1
        )
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
            g = conductances(planes.mean[s], planes.mean_unit[s], planes.edges)
            variance = np.zeros_like(g)
            if planes.variance.size:  # squares of codes may be halved: see `read.square`
                half = 2 if circuit.halve else 1
                variance = conductances(planes.variance[s], planes.variance_unit[s] / half, planes.edges)
            if planes.uniform.size:
                variance = variance + np.repeat(planes.uniform[s], np.diff(planes.edges))[:, None]
            for t in range(tiles):
                part = slice(planes.edges[t], planes.edges[t + 1])
                current = volts[:, part] @ g[part]
                if circuit.noisy:
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
