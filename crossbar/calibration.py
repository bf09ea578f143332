"""Ranges of the converters, and what is known of the inputs, from a batch of them."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from .backend import Backend, Job
from .cells import Cells
from .converters import Adc
from .design import Design, Tell
from .drive import Drive, digits, input_codes
from .kernels.read import CHUNK
from .magnitudes import Magnitudes
from .matrix import Matrix
from .patches import gather
from .programmed import Programmed
from .ranges import Ranges
from .reader import Seeds
from .reader import input_codes as packed_codes
from .wire_compensation import WireCompensation
from .wiring import Moments

Array = np.ndarray[Any, Any]
CALIBRATION_ROWS = 16384
CALIBRATION_VALUES = 4_000_000
SURVEYED_ROWS = 4096  # that the moments of the inputs are taken over
LEVELS = 4097  # voltages that a law of cells is inverted at
CLIPPED = 1e-5  # least range of a converter, in units of the largest value of the calibration


def calibrate(
    matrix: Matrix,
    inputs: tuple[Array, ...],
    cells: Cells,
    seeds: Seeds,
    backend: Backend,
    wire_compensation: WireCompensation | None = None,
    tell: Tell | None = None,
    sizes: Magnitudes | None = None,
) -> Programmed:
    """A matrix with the ranges that inputs (as in `Reader.read`) ask for: of the DACs, then of the cells' currents.

    `inputs` are those of all calls of one inference; the ranges cover them all. Where reads have scales, they are those
    that were divided by them. Where inputs are some of many, `sizes` are those of all, by which the DACs are set.

    Raises:
        ValueError: inputs that are not finite, or all zero where a range is to be set; a range that makes the same of
            all of them.
    """
    drive = _drive(matrix, inputs, sizes)
    moments = None
    if wire_compensation is not None or not matrix.hardware.wires.ideal:
        moments = _moments(matrix, drive, inputs)
    design = Design.of(matrix, drive, moments, wire_compensation, tell, backend)
    return recalibrated(Programmed.of(design, cells, seeds, backend, tell=tell), inputs)


def recalibrated(programmed: Programmed, inputs: tuple[Array, ...]) -> Programmed:
    """A matrix with the ranges of the ADCs that the currents of its cells ask for, as they are now, for these inputs.

    The drive of its word lines stays. `inputs` and errors as in `calibrate`.
    """
    design, backend = programmed.design, programmed.backend
    matrix = design.matrix
    adc, sensing, positions = matrix.hardware.adc, matrix.hardware.sensing, matrix.patches.positions
    batches = [packed_codes(design, x, backend)[0] for x in _joined(inputs)]
    surveys = [_survey(programmed, codes, keep=adc.full_scale is not None) for codes in batches]
    rows = [codes.shape[0] * prod(positions(codes.shape[1:4])) for codes in batches]
    energy = float(np.average([energy for energy, _ in surveys], weights=rows))
    ranges = replace(programmed.ranges, array_energy_j=energy)
    if adc.full_scale == "calibrated":
        places = [list(zip(*slices, strict=True)) for slices in zip(*(found for _, found in surveys), strict=True)]
        ranges = _fitted(adc, places, ranges, (adc.calibrated_at or sensing.v_read) / sensing.v_read)
    elif adc.full_scale is not None:
        largest = max(float(np.abs(c).max()) for _, found in surveys for tiles in found for c in tiles)
        _check_full_scale(design, float(ranges.full_scale[0]), largest)
    return programmed.with_ranges(ranges)


def _fitted(adc: Adc, places: list[list[tuple[Array, ...]]], ranges: Ranges, factor: float) -> Ranges:
    """Ranges that cover the currents of each slice and row tile (slices, row tiles), as `adc.per` and `span` ask."""
    if adc.per == "tile":
        wanted = [list(tiles) for tiles in places]
    else:
        of_slices = [tuple(c for currents in tiles for c in currents) for tiles in places]
        whole = tuple(c for currents in of_slices for c in currents)
        wanted = [[whole if adc.per == "layer" else currents] for currents in of_slices]
    if adc.span == "symmetric":
        scale = np.array([[percentile_of(adc.percentile, *currents) for currents in tiles] for tiles in wanted])
        middle = np.empty(0)
    else:
        ends = np.array([[_ends(adc.percentile, *currents) for currents in tiles] for tiles in wanted])
        scale, middle = (ends[..., 1] - ends[..., 0]) / 2, ends.mean(axis=-1)
    shape = scale.shape if adc.per == "tile" else (len(scale),)
    full_scale = np.where(scale == 0, 1.0, scale) * factor
    middle = factor * middle.reshape(shape) if middle.size else middle
    return replace(ranges, full_scale=full_scale.reshape(shape), middle=middle)


def _ends(percentile: float, *values: Array) -> tuple[float, float]:
    """What that many percent of values lie between, as many below as above."""
    flat = np.concatenate([v.reshape(-1) for v in values])
    if percentile == 100 and flat.size:
        return float(flat.min()), float(flat.max())
    low, high = np.percentile(flat.astype(np.float64), [(100 - percentile) / 2, (100 + percentile) / 2])
    return float(low), float(high)


def _drive(matrix: Matrix, inputs: tuple[Array, ...], sizes: Magnitudes | None = None) -> Drive:
    """The drive whose range covers the inputs, or is the hardware's own.

    Raises:
        ValueError: see `calibrate`.
    """
    dac, name = matrix.hardware.dac, matrix.name
    if not all(np.isfinite(x).all() for x in inputs) or (sizes is not None and not sizes.finite):
        raise ValueError(f"layer {name!r}: calibration inputs must be finite, got NaN or infinity")
    limit = dac.range
    if limit == "calibrated":
        limit = percentile_of(dac.percentile, *inputs) if sizes is None else sizes.percentile(dac.percentile)
    if dac.scaling != "layer":  # which inputs were divided by
        limit = float(any(x.any() for x in inputs))
    largest = max((float(np.abs(x).max()) for x in inputs if x.size), default=0.0)
    negative = any(bool((x < 0).any()) for x in inputs)
    if sizes is not None and dac.scaling == "layer":
        largest, negative = sizes.largest, sizes.negative
    if limit == 0:
        why = f"are 0 up to dac.percentile = {dac.percentile:g}" if largest else "are all zero"
        raise ValueError(f"layer {name!r}: calibration inputs {why}; no DAC range can be set from them")
    drive = Drive.of(dac, limit, signed=negative)
    if drive.full_code / drive.limit > np.finfo(np.float32).max:
        raise ValueError(f"layer {name!r}: a DAC range of {drive.limit:g} is too small for 32 bits")
    if dac.range not in (None, "calibrated") and drive.limit < CLIPPED * largest:
        raise ValueError(
            f"layer {name!r}: dac.range must be at least {CLIPPED:g} of the largest calibration input, "
            f"{largest:g}, got {drive.limit:g}"
        )
    if drive.rounds and 0 < largest / drive.limit * drive.full_code < 0.5:
        raise ValueError(
            f"layer {name!r}: dac.range = {drive.limit:g} makes code 0 of all calibration inputs, the largest "
            f"of which is {largest:g}"
        )
    return drive


def _check_full_scale(design: Design, full: float, largest: float) -> None:
    """Raises ValueError where a full scale of the ADC's own makes the same of all currents, up to the `largest`."""
    adc, sensing, cell = design.hardware.adc, design.hardware.sensing, design.hardware.cell
    low, high = CLIPPED * largest, 2 * largest / adc.codes(design.signed_codes).relative_step
    if largest and not low <= full < high:
        unit = sensing.v_read * cell.g_max
        raise ValueError(
            f"layer {design.matrix.name!r}: adc.full_scale must be {low * unit:.3g} to {high * unit:.3g} A, as the "
            f"largest current of the calibration is {largest * unit:.3g} A and shall make at least half a step, got "
            f"{full * unit:.3g} A"
        )


def _moments(matrix: Matrix, drive: Drive, inputs: tuple[Array, ...]) -> Array:
    """(2, groups, rows) mean and mean square of the word lines' voltages over some rows of the inputs."""
    found = []
    for g in range(matrix.placement.groups):
        patches = []
        for x in inputs:
            samples = max(1, SURVEYED_ROWS // prod(matrix.patches.positions(x.shape[1:4])))
            some = x[:: max(1, len(x) // samples)][:samples]
            geometry = matrix.patches.geometry(x.shape, g, matrix.placement.groups)
            patches.append(gather(some.astype(np.float64), geometry)[:SURVEYED_ROWS])
        codes = input_codes(np.concatenate(patches), drive)
        if matrix.bias_on_array:
            codes = np.append(codes, np.full((len(codes), 1), drive.full_code), axis=1)
        found.append(Moments.of(digits(codes, drive) if drive.rounds else codes / drive.full_code))
    return np.stack(found, axis=1)


def _survey(programmed: Programmed, codes: Any, *, keep: bool) -> tuple[float, list[list[Array]]]:
    """Mean array energy of a read, and noiseless currents of each slice and row tile, over rows spread evenly."""
    design, reader = programmed.design, programmed.reader
    circuit, placement, drive = reader.circuit(noisy=False), design.placement, design.drive
    slices = placement.tile.converted
    rows = codes.shape[0] * prod(design.matrix.patches.positions(codes.shape[1:4]))
    columns = placement.outputs + (placement.column_tiles if placement.tile.reference_columns else 0)
    per_row = circuit.conversions * design.readings * placement.row_tiles * columns * placement.groups
    limit = max(CHUNK, min(rows, CALIBRATION_ROWS, CALIBRATION_VALUES // per_row))
    chunks = limit // CHUNK if limit < rows else max(1, -(-rows // CHUNK))  # all rows, where there are no more
    starts = np.linspace(0, rows - min(CHUNK, rows), chunks).astype(int)
    currents: list[list[list[Array]]] = [[[] for _ in range(placement.row_tiles)] for _ in range(slices)]
    power = 0.0
    size = min(CHUNK, rows)
    for g, packed in enumerate(programmed.packed):
        job = Job(codes, reader.geometry(codes.shape, g), reader.prepared[g], circuit)
        for start in starts:
            out, chunk = map(programmed.backend.to_numpy, programmed.backend.currents(job, int(start), size))
            chunk = chunk[:, : placement.rows]
            volts = digits(chunk, drive) if drive.rounds else chunk[None]
            power += float((dissipated(design, volts).mean(axis=1).sum(axis=0) * packed.row_conductance).sum())
            if keep:
                each = len(out[0]) // slices
                for s, t in np.ndindex(slices, placement.row_tiles):
                    currents[s][t].append(out[:, each * s : each * (s + 1), t].reshape(-1))
    sensing = programmed.hardware.sensing
    energy = power / len(starts) * sensing.v_read**2 * sensing.t_read
    return energy, [[np.concatenate(c) for c in tiles] for tiles in currents] if keep else []


def dissipated(design: Design, volts: Array) -> Array:
    """Energy of a cell in the pulses (pulses, ...) of these voltages or on-times, in units of g v_read^2 t_read.

    The voltage of a bit line that floats is left out: it takes no more than this.
    """
    drive = design.drive
    if drive.timed:
        return np.abs(volts)
    if design.hardware.cell.nonlinearity.kind == "linear":
        found = np.square(volts)
    elif design.curved:
        found = np.abs(volts * design.bent(volts))
    else:  # currents are even, and voltages those that make them
        grid = np.linspace(0, max(1.0, float(np.abs(volts).max())), LEVELS)
        found = np.abs(volts) * np.interp(np.abs(volts), design.law(grid), grid)
    return found * np.array(drive.repeats).reshape(-1, *[1] * (volts.ndim - 1)) if drive.joined else found


def percentile_of(percentile: float, *values: Array) -> float:
    """The percentile of |value| over all values, in float64: in float32 it depends on numpy's version."""
    flat = values[0] if len(values) == 1 else np.concatenate([v.reshape(-1) for v in values])
    if percentile == 100 and flat.size:
        return float(np.abs(flat).max())
    return float(np.percentile(np.abs(flat).astype(np.float64), percentile))


def _joined(inputs: tuple[Array, ...]) -> list[Array]:
    """Inputs of the same shape one after the other, so that there is one array for each shape."""
    by_shape: dict[tuple[int, ...], list[Array]] = {}
    for x in inputs:
        by_shape.setdefault(x.shape[1:], []).append(x)
    return [np.concatenate(same) if len(same) > 1 else same[0] for same in by_shape.values()]
