"""Whether a backend computes what backends must: it is run beside the plain numpy twin on a few small matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from ..arrays import Unpadded
from ..backend import Backend
from ..calibration import calibrate
from ..cells import Drawn
from ..hardware import Hardware
from ..keys import stream_key
from ..matrix import Matrix
from ..patches import Patches
from ..programmed import Programmed
from ..reader import Seeds
from .plain import Plain

Array = np.ndarray[Any, Any]
CLOSE = 1e-5  # of values, relative to the largest
STEPS = 0.002  # share of readings that may fall to the other side of an edge between two ADC codes
READS = 400  # of a comparison in distribution, whose bounds are at 6 sigma
SIGMAS = 6.0

Fields = dict[str, Any]
ONE_PULSE: Fields = {"dac.bits_per_pulse": None}
SLICES: Fields = {"tile.slices": 2, "cell.levels": 16, "tile.encoding": "offset"}
SCALED: Fields = {"dac.scaling": "sample"}
NO_CONVERTERS: Fields = {"dac.bits": None, "dac.range": None, "adc.bits": None, "adc.full_scale": None}
TELEGRAPH = {"kind": "telegraph", "amplitude": 0.2, "capture": "1 us", "emission": "1 us"}
WIRES: Fields = {"wires.r_word_line": 15.0, "wires.r_bit_line": 15.0, "wires.r_driver": 30.0, "wires.r_sense": 20.0}

MATRICES: dict[str, tuple[bool, list[Fields]]] = {  # whether reads are noisy, and what is special about the hardware
    "reads": (False, [{}, SLICES, NO_CONVERTERS, {"tile.bias": "array"}, {"adc.percentile": 90.0}, SCALED]),
    "pulses": (False, [{"dac.bits_per_pulse": 1}, {"dac.bits": 10, "dac.bits_per_pulse": 5, **SLICES}]),
    "read noise": (True, [{}, SLICES, {"cell.read_noise": {"kind": "constant", "std_g": "0.5 uS"}}]),
    "gain and supply noise": (True, [{"sensing.gain_noise": 0.02, "sensing.supply_noise": 0.02}]),
    "slow noise": (True, [{"cell.read_noise": TELEGRAPH, "sensing.read_interval": "200 ns"}]),
    "output noise": (
        True,
        [{f"output_noise.{kind}": 0.1 for kind in ("sigma_add", "sigma_mult", "frozen_add", "frozen_mult")}],
    ),
}
PARTS = ("normals", "codes", *MATRICES, "read noise in distribution", "wires")


def differences(backend: Backend, parts: Iterable[str] = PARTS) -> list[str]:
    """What a backend computes otherwise than the numpy twin, a line each; nothing where it conforms.

    Args:
        parts: what the backend claims to do: those of `PARTS`, in their order. Without the same random numbers as the
            twin (docs/random-numbers.md) a backend can claim `read noise in distribution` alone.

    Raises:
        ValueError: there is no such part.
    """
    asked = list(parts)
    for part in asked:
        if part not in PARTS:
            raise ValueError(f"parts of a backend are {', '.join(PARTS)}, got {part!r}")
    twin, direct = Plain(), {"normals": _normals, "codes": _codes, "wires": _wires}
    found = []
    for part in (part for part in PARTS if part in asked):
        check: Callable[[Backend, Backend], list[str]] = direct.get(part) or partial(_matrices, part)
        found += [f"{part}: {line}" for line in check(backend, twin)]
    return found


def compared(a: Programmed, b: Programmed, x: Array, *, noisy: bool = True) -> list[str]:
    """What is not the same up to rounding in two programmed matrices, and in reads of inputs x, a line each."""
    found = [
        *_unlike("full scale", a.ranges.full_scale, b.ranges.full_scale),
        *_unlike("array energy", a.ranges.array_energy_j or 0, b.ranges.array_energy_j or 0),
    ]
    for p, q in zip(a.packed, b.packed, strict=True):
        for name in ("mean", "variance"):
            m, n = getattr(p.planes, name), getattr(q.planes, name)
            if m.dtype != n.dtype:
                found.append(f"type of {name}: {m.dtype}, must be {n.dtype}")
            step = 1.5 / max(np.abs(m).max(initial=0), 1) if m.dtype == np.int16 else CLOSE
            found += _unlike(name, m, n, step)
        for name in ("mean_unit", "variance_unit", "uniform", "floor", "scale", "bias"):
            found += _unlike(name, getattr(p.planes, name), getattr(q.planes, name))
        found += _unlike("edges", p.planes.edges, q.planes.edges, 0)
        found += _unlike("reference", p.planes.reference, q.planes.reference, 0)
        if np.abs(p.histogram - q.histogram).sum() > 2:
            found.append("histogram of the cells: not the same")
        found += _unlike("row conductance", p.row_conductance, q.row_conductance)
        found += _unlike("slow noise of the cells", p.slow_std, q.slow_std)
    ways: list[dict[str, Any]] = [{"read": 3}, {"reads": 3, "shared": True}, {"read": 8, "first_sample": 5, "call": 2}]
    rows = len(x) * prod(a.design.matrix.patches.positions(x.shape[1:4]))
    scales = np.linspace(0, 50, rows, dtype=np.float32) if a.design.scaled else None
    for options in ways:
        (y, counts), (z, others) = (one.reader.read(x, noisy=noisy, scales=scales, **options) for one in (a, b))
        said = ", ".join(f"{name}={value}" for name, value in options.items())
        found += _unlike(f"readings ({said})", a.backend.to_numpy(y), b.backend.to_numpy(z), edges=STEPS)
        if counts != others:
            found.append(f"counts ({said}): {counts}, must be {others}")
    return found


def _unlike(what: str, got: Any, wanted: Any, close: float = CLOSE, edges: float = 0.0) -> list[str]:
    """A line where values differ by more than `close` of the largest, but for a share `edges` of them."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    if got.shape != wanted.shape:
        return [f"{what}: shape {got.shape}, must be {wanted.shape}"]
    off = np.abs(got - wanted) / max(np.abs(wanted).max(initial=0), 1e-30)
    wrong = ~(off <= close)
    if wrong.sum() <= edges * off.size:
        return []
    return [f"{what}: {wrong.sum()} of {off.size} differ, by up to {off.max():.2g} of the largest"]


def _normals(backend: Backend, twin: Backend) -> list[str]:
    key = stream_key(7, "program", "a layer")
    place = (5, 37), (3, 2), key
    return _unlike("cells (5, 37) from word line 3 on, plane 2", backend.normals(*place), twin.normals(*place))


def _codes(backend: Backend, twin: Backend) -> list[str]:
    found, f32 = [], np.float32
    x = np.array([0.0, -0.0, 0.2, -0.2, 0.4999, 1.0, 1.7, -1.7, 1e30, -1e30, 0.33], f32)
    broken = np.array([np.nan, np.inf, -np.inf, 0.5], f32)
    scales = {
        "8 bits, signed": (f32(127), f32(-127), f32(127), True),
        "10 bits, unsigned": (f32(1023), f32(0), f32(1023), True),
        "no DAC": (f32(1.5), f32(-np.inf), f32(np.inf), False),
    }
    for what, scale in scales.items():
        results = []
        for one in (backend, twin):
            given = one.array(x)
            out = one.empty(x.shape, given, integers=what.startswith("8"))
            clipped, _ = one.codes(given, scale, out, 1)
            bad = one.codes(one.array(broken), scale, one.empty(broken.shape, given), 1)[1]
            results.append((one.to_numpy(out), int(clipped), int(bad)))
        (codes, clipped, bad), (wanted, *others) = results
        found += _unlike(what, codes, wanted, 1e-6)
        if [clipped, bad] != others:
            found.append(f"{what}: {clipped} clipped and {bad} not finite, must be {others[0]} and {others[1]}")
    for what, order in (("first", (0, 2, 3, 4, 1)), ("last", (0, 1, 2, 3, 4))):
        values = np.arange(-60, 60, dtype=f32).reshape(2, 3, 2, 5, 2).transpose(order)
        inputs, both = Unpadded(values, ((0, 1), (2, 0), (1, 3))), []
        for one in (backend, twin):
            out = one.empty(inputs.shape, one.array(values), integers=True)
            clipped, _ = one.padded_codes(inputs, (f32(1), f32(-50), f32(50), True), out, 1)
            both.append((one.to_numpy(out), int(clipped)))
        found += _unlike(f"padded, channels {what}", both[0][0], both[1][0], 1e-6)
        if both[0][1] != both[1][1]:
            found.append(f"padded, channels {what}: {both[0][1]} clipped, must be {both[1][1]}")
    return found


def _programmed(backend: Backend, fields: Fields, *, convolution: bool = False) -> tuple[Programmed, Array]:
    """A matrix of 20 x 9, or a convolution of two groups, and inputs to read."""
    rng = np.random.default_rng(0)
    shape = (2, 8, 3) if convolution else (1, 20, 9)
    weights = rng.normal(size=shape).astype(np.float32)
    bias = rng.uniform(0.1, 0.5, (shape[0], shape[2])).astype(np.float32)
    size = (1, 3, 4, 4) if convolution else (1, 1, 1, 20)
    inputs, x = (rng.uniform(0, 1, (many, *size)).astype(np.float32) for many in (24, 6))
    inputs[0, ..., 0] = -0.5
    small = {"tile.rows": 12, "tile.columns": 12, **ONE_PULSE}
    hardware = Hardware.preset("reram").replace({**small, **fields})
    patches = Patches((1, 2, 2), (1, 1, 2), (1, 2, 1)) if convolution else Patches()
    matrix = Matrix("layer", weights, bias, hardware, patches)
    return calibrate(matrix, (inputs,), Drawn(hardware, 7), Seeds(7), backend), x


def _matrices(part: str, backend: Backend, twin: Backend) -> list[str]:
    if part == "read noise in distribution":
        return _distribution(backend, twin)
    noisy, cases = MATRICES[part]
    found = []
    for fields in cases:
        a, x = _programmed(backend, fields)
        said = ", ".join(f"{name}={value}" for name, value in fields.items()) or "preset reram"
        found += [f"{said}: {line}" for line in compared(a, _programmed(twin, fields)[0], x, noisy=noisy)]
    a, x = _programmed(backend, cases[0], convolution=True)
    b = _programmed(twin, cases[0], convolution=True)[0]
    return found + [f"convolution in groups: {line}" for line in compared(a, b, x, noisy=noisy)]


def _distribution(backend: Backend, twin: Backend) -> list[str]:
    """Mean of each reading, and variance of all together, of so many reads."""
    means, spreads = [], []
    for one in (backend, twin):
        programmed, x = _programmed(one, {})
        y = one.to_numpy(programmed.reader.read(x, reads=READS, shared=True)[0]).astype(np.float64)
        y = y.reshape(READS, -1)
        means.append(y.mean(axis=0))
        spreads.append(y.var(axis=0, ddof=1))
    off = np.abs(means[0] - means[1]) / np.sqrt((spreads[0] + spreads[1]) / READS)
    ratio, sigma = float(np.mean(spreads[0] / spreads[1])), 2 / np.sqrt(READS * off.size)
    found = [f"the mean of a reading is {off.max():.1f} sigma off"] if off.max() > SIGMAS else []
    return found + ([f"variances are {ratio:.3f} of what they must be"] if abs(ratio - 1) > SIGMAS * sigma else [])


def _wires(backend: Backend, twin: Backend) -> list[str]:
    found = []
    for fields in (WIRES, {**WIRES, "wires.drivers": "both", "wires.sense": "both"}):
        a, x = _programmed(backend, fields)
        found += compared(a, _programmed(twin, fields)[0], x, noisy=False)
    rng = np.random.default_rng(0)
    g, lines = rng.uniform(1e-6, 1e-4, (7, 5)), (np.full(6, 0.01), np.full(8, 0.02))
    into = rng.normal(0, 1e-6, (2, 7, 5))  # as cells that are not linear ask for
    got, wanted = (np.stack(one.changes(g, lines, (into[0], into[1]), 1e-9)) for one in (backend, twin))
    return found + _unlike("changes of voltages", got, wanted)
