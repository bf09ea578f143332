"""Reads of a programmed matrix: from inputs to readings, and how many conversions were clipped."""

from __future__ import annotations

import threading
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np

from .arrays import Unpadded
from .backend import Backend, GroupJob, Job
from .design import Design
from .each_adc import each_adc
from .hardware import Hardware
from .kernels.philox import Rows
from .kernels.read import Circuit, Geometry
from .keys import Key, Purpose, stream_key
from .max_memory import in_file, released
from .packed import Packed, halves_squares, largest_factors, pedestal_of
from .positions import position_numbers
from .ranges import Ranges
from .threads import available

Array = np.ndarray[Any, Any]
LARGEST = 2**32  # samples and reads, counted from 0, are below; see docs/random-numbers.md


class Counts(NamedTuple):
    """Conversions, and how many of them were clipped."""

    inputs: int = 0
    inputs_clipped: int = 0
    readings: int = 0
    readings_clipped: int = 0

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(
            self.inputs + other.inputs,
            self.inputs_clipped + other.inputs_clipped,
            self.readings + other.readings,
            self.readings_clipped + other.readings_clipped,
        )

    def less(self, other: Counts) -> Counts:
        """Those that are beyond the other ones."""
        return Counts(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))


class Plan(NamedTuple):
    """What all reads of inputs of one shape have in common.

    Attributes:
        patches: of one of the inputs.
        positions: the numbers of those of a sample, see `position_numbers`.
        geometries: of each group.
    """

    patches: int
    positions: Array
    geometries: tuple[Geometry, ...]


class Coding(NamedTuple):
    """How inputs become codes: whether these are integers (see `Arrays.empty`), and the `scale` of `Backend.codes`."""

    integers: bool
    scale: tuple[np.float32, np.float32, np.float32, bool]

    @classmethod
    def of(cls, design: Design) -> Coding:
        drive = design.drive
        integers = largest_factors(design)[0] is not None
        high = float(drive.full_code) if drive.clips else np.inf
        low = -high if drive.signed else 0.0
        scale = np.float32(drive.full_code / drive.limit), np.float32(low), np.float32(high), drive.rounds
        return cls(integers, scale)


class Seeds(NamedTuple):
    """What the noise of a chip's reads is keyed with: the seed of the chip, and which copy it is."""

    seed: int
    copy: int = 0


class Reader:
    """Reads a matrix that is packed for the kernels.

    What successive reads would make anew each time is kept; what reads give is not. Reads in several threads at once
    give what they give one after another.

    Attributes:
        packed: of each group.
        prepared: the planes of each, as the backend reads them.
        ranges: of its ADCs.
    """

    def __init__(
        self,
        design: Design,
        hardware: Hardware,
        packed: tuple[Packed, ...],
        ranges: Ranges,
        seeds: Seeds,
        backend: Backend,
    ) -> None:
        self.design, self.hardware, self.packed = design, hardware, packed
        self.ranges, self.seeds, self.backend = ranges, seeds, backend
        self._adcs = [each_adc(design, ranges, g, seeds, backend) for g in range(len(packed))]
        self.prepared = backend.prepared_groups(
            [group.planes._replace(**adcs) for group, adcs in zip(packed, self._adcs, strict=True)]
        )
        self._in_files = [array for group in packed for array in group.large if in_file(array)]
        self._coding, self._largest = Coding.of(design), largest_factors(design)[0]
        self._conversions = design.placement.conversions * design.drive.conversions * (2 if design.apart else 1)
        self._bias = np.concatenate([ranges.bias(design, g) for g in range(len(packed))])
        noise = hardware.output_noise
        self._frozen, self._output = (noise.frozen_add, noise.frozen_mult), (noise.sigma_add, noise.sigma_mult)
        self._adds = any(self._frozen) or any(self._output)
        self._lock = threading.Lock()  # held while what several threads share is changed
        self._circuits: dict[bool, Circuit] = {}
        self._geometries: dict[tuple[Any, ...], Geometry] = {}
        self._keys: dict[tuple[Any, ...], Key] = {}
        self._positions: dict[tuple[int, ...], Array] = {}
        self._plans: dict[tuple[Any, ...], Plan] = {}
        self._group_keys: dict[int, Array] = {}
        self._slow: dict[int, Any] = {}  # by read

    def __getstate__(self) -> tuple[Any, ...]:
        return self.design, self.hardware, self.packed, self.ranges, self.seeds, self.backend

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def circuit(self, *, noisy: bool = True) -> Circuit:
        """What the read kernel needs to know of converters and noise."""
        if noisy not in self._circuits:
            self._circuits[noisy] = self._make_circuit(noisy)
        return self._circuits[noisy]

    def _make_circuit(self, noisy: bool) -> Circuit:
        design, hardware = self.design, self.hardware
        drive = design.drive
        step, low, high, centre = np.empty(0, np.float32), 0.0, 0.0, 0.0
        full_scale = self.ranges.full_scale
        if hardware.adc.bits is not None and full_scale.size:
            codes = hardware.adc.codes(design.signed_codes)
            step = (full_scale.reshape(len(full_scale), -1)[:, 0] * codes.relative_step).astype(np.float32)
            step = np.repeat(step, 2) if design.apart else step
            low, high, centre = float(codes.low), float(codes.high), codes.centre
        gain, supply = hardware.sensing.gain_variance, hardware.sensing.supply_variance**0.5
        integers = self.packed[0].planes.mean.dtype == np.int16
        return Circuit(
            pulses=drive.pulses,
            digit_bits=drive.digit_bits,
            full_code=float(drive.full_code),
            integers=integers,
            halve=integers and halves_squares(drive.largest_digit),
            constant=float(drive.full_code) if design.matrix.bias_on_array else 0.0,
            gain_variance=gain,
            supply=supply,
            noisy=noisy and (gain > 0 or supply > 0 or any(packed.noisy for packed in self.packed)),
            step=step,
            low=low,
            high=high,
            centre=centre,
            pedestal=pedestal_of(design),
            phases=drive.phases,
            levels=design.levels,
            joined=("digital", "scaled", "repeated").index(drive.accumulate),
        )

    def geometry(self, shape: tuple[int, ...], group: int) -> Geometry:
        """How the kernel takes the patches of one group from inputs of this shape."""
        place = shape[1:], group
        if place not in self._geometries:
            groups = self.design.placement.groups
            self._geometries[place] = self.design.matrix.patches.geometry(shape, group, groups)
        return self._geometries[place]

    def _key(self, purpose: Purpose, *place: int) -> Key:
        """Key of the noise of reads."""
        if (purpose, place) not in self._keys:
            own = self.hardware.seeds.read
            seed = self.seeds.seed if own is None else own
            self._keys[purpose, place] = stream_key(seed, purpose, self.design.matrix.name, *place)
        return self._keys[purpose, place]

    def input_codes(self, x: Any, threads: int = 1) -> tuple[Any, Counts]:
        """DAC codes of inputs (of any shape, or `Unpadded`), contiguous, in the type that the planes have.

        Raises:
            ValueError: inputs that are not finite.
        """
        return input_codes(self.design, x, self.backend, threads, self._coding)

    def rows(self, first_sample: int, shape: tuple[int, ...]) -> Rows:
        """The rows of samples from this one on that have positions of this shape each.

        Raises:
            ValueError: more positions than have numbers.
        """
        if shape not in self._positions:
            try:
                self._positions[shape] = position_numbers(shape)
            except ValueError as error:
                raise ValueError(f"layer {self.design.matrix.name!r}: {error}") from error
        return Rows(np.uint64(first_sample), self._positions[shape])

    def read(
        self,
        x: Any,
        *,
        read: int = 0,
        reads: int = 1,
        shared: bool = False,
        first_sample: int = 0,
        shape: tuple[int, ...] | None = None,
        call: int = 0,
        noisy: bool = True,
        threads: int = 1,
        scales: Any = None,
    ) -> tuple[Any, Counts]:
        """Read every patch of x: (reads * samples * positions, groups * outputs) float32, in weight units, with bias.

        Args:
            x: (samples, depth, height, width, channels) inputs in the layer's own units, padding included or
                `Unpadded`; for several reads, their inputs one after the other, or once if they are `shared`. A numpy
                array, or an array of the backend, as what is returned is: see `mho.crossbar.arrays`.
            read: number of the (first) read; other numbers give other noise.
            reads: how many, numbered consecutively.
            shared: whether all reads have the same inputs, given once.
            first_sample: place of the first sample in the whole data set, the same in all reads.
            shape: of the positions of one sample, the last index running fastest, where the samples of x are positions
                of a sample too; None for the positions of the patches.
            call: number of this call within one inference, for a layer that is used several times.
            noisy: False leaves out the noise of the read; converters and frozen errors stay.
            threads: threads to use at most; the result does not depend on it.
            scales: what x was divided by, for each row that is read, of one read where they are `shared`; (rows,)
                float32 of the kind of x. Readings are multiplied by it, then the bias is added. Given where
                `dac.scaling` asks for it, and only there.

        Raises:
            ValueError: scales that are missing or not asked for, inputs or outputs that are not finite, or reads,
                samples or positions beyond those that have random numbers.
        """
        plan, threads = self._plan(x.shape, shape), available(threads)
        count = x.shape[0] * plan.patches // (1 if shared else reads)
        self._check_numbers(read, reads, first_sample, count // max(1, len(plan.positions)))
        if scales is not None or self.design.scaled:
            self._check_scales(scales, count * (1 if shared else reads))
        rows = Rows(np.uint64(first_sample), plan.positions)
        codes, counts = self.input_codes(x, threads)
        circuit, clipped = self.circuit(noisy=noisy), 0
        out = self.backend.empty((reads, count, len(self.packed) * self.design.placement.outputs), codes)
        keys = self._keys_of_groups(call)
        for first, many, planes in self._planes(read, reads, noisy):
            one = len(codes) // reads
            part = codes if shared or many == reads else codes[one * first : one * (first + many)]
            where = rows, read + first, threads, out[first : first + many]
            if len(keys) == 1:
                job = Job(part, plan.geometries[0], planes[0], circuit)
                clipped += self.backend.read(job, keys[0], *where)
            else:
                groups = GroupJob(part, plan.geometries, planes, circuit)
                clipped += self.backend.read_groups(groups, keys, *where)
        if self._in_files:
            released(*self._in_files)
        if circuit.step.size:
            counts = Counts(counts.inputs, counts.inputs_clipped, reads * count * self._conversions, clipped)
        if scales is not None:
            out = self.backend.rescaled(
                out, self.backend.array(scales).reshape(1 if shared else reads, count), self._bias
            )
        for v in range(reads) if self._adds else ():
            self._add_output_noise(out[v], "frozen", self._frozen, rows, 0, call, threads)
            if noisy:
                self._add_output_noise(out[v], "output", self._output, rows, read + v, call, threads)
        if not self.backend.all_finite(out):
            raise ValueError(
                f"layer {self.design.matrix.name!r}: outputs beyond what 32 bits hold; its noise or inputs are too "
                "large"
            )
        return out.reshape(reads * count, out.shape[2]), counts

    def _plan(self, inputs: tuple[int, ...], positions: tuple[int, ...] | None) -> Plan:
        """For inputs of this shape, and positions of a sample of the shape given; None for those of the patches.

        Raises:
            ValueError: more positions than have numbers.
        """
        place = inputs[1:], positions
        found = self._plans.get(place)
        if found is None:
            size = self.design.matrix.patches.positions(inputs[1:4])
            if positions is None:
                positions = size[next((axis for axis, many in enumerate(size) if many > 1), 3) :]
            geometries = tuple(self.geometry(inputs, g) for g in range(len(self.packed)))
            found = self._plans[place] = Plan(prod(size), self.rows(0, positions).positions, geometries)
        return found

    def _check_numbers(self, read: int, reads: int, first_sample: int, samples: int) -> None:
        """Raises ValueError for reads or samples beyond those that have random numbers."""
        for what, first, many in (("read", read, reads), ("sample", first_sample, samples)):
            if not 0 <= first <= LARGEST - many:
                name = self.design.matrix.name
                raise ValueError(f"layer {name!r}: {what} must be 0 to {LARGEST - many}, got {first}")

    def _check_scales(self, scales: Any, rows: int) -> None:
        """Raises ValueError where scales are missing, or not asked for, or not those of so many rows."""
        found, wanted = None if scales is None else tuple(scales.shape), (rows,) if self.design.scaled else None
        if found != wanted:
            scaling = self.hardware.dac.scaling
            raise ValueError(
                f"layer {self.design.matrix.name!r}: dac.scaling is {scaling!r}: scales must have the shape {wanted}, "
                f"got {found}"
            )

    def _keys_of_groups(self, call: int) -> Array:
        """(groups, ...) the key of the noise of this call for each group."""
        if call not in self._group_keys:
            keys = [self._key("read", g, self.seeds.copy, call) for g in range(len(self.packed))]
            self._group_keys[call] = np.stack(keys)
        return self._group_keys[call]

    def _planes(self, read: int, reads: int, noisy: bool) -> list[tuple[int, int, Any]]:
        """Consecutive reads that have the same planes: the first, counted from `read`, how many, and those of groups.

        Where reads share some of the noise of the cells, each has planes of its own, which are kept until other reads
        are asked for.
        """
        if not (noisy and len(self.packed[0].slow_std)):
            return [(0, reads, self.prepared)]
        with self._lock:
            if any(not read <= other < read + reads for other in self._slow):
                self._slow.clear()
            for v in range(read, read + reads):
                if v not in self._slow:
                    keys = [self._key("slow", g, self.seeds.copy) for g in range(len(self.packed))]
                    at = v, self._largest, keys
                    self._slow[v] = self.backend.prepared_groups_at(self.prepared, self.packed, at, self._adcs)
            return [(v, 1, self._slow[read + v]) for v in range(reads)]

    def _add_output_noise(
        self,
        out: Any,
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
        key = self._key(purpose, self.seeds.copy, call)
        self.backend.add_output_noise(out, sigmas, rows, read, key, threads)


def input_codes(
    design: Design, x: Any, backend: Backend, threads: int = 1, coding: Coding | None = None
) -> tuple[Any, Counts]:
    """DAC codes of inputs as `Reader.input_codes` takes them, and how many were clipped.

    Raises:
        ValueError: inputs that are not finite.
    """
    coding = coding or Coding.of(design)
    given = x if isinstance(x, Unpadded) else backend.array(x)
    like = x.values if isinstance(x, Unpadded) else given
    codes, size = backend.empty(given.shape, like, integers=coding.integers), prod(given.shape)
    if isinstance(given, Unpadded):
        clipped, broken = backend.padded_codes(given, coding.scale, codes, threads)
    else:
        clipped, broken = backend.codes(given.reshape(-1), coding.scale, codes.reshape(-1), threads)
    if broken:
        raise ValueError(f"layer {design.matrix.name!r}: inputs must be finite, got {broken} NaN or infinite of {size}")
    if not design.drive.rounds and design.curved:
        codes = backend.array(design.bent(codes, backend.namespace))
    return codes, Counts(size, clipped)
