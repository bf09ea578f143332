"""The backend `torch`: cells are programmed by compiled kernels, reads are torch operations where the inputs are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch

from ...crossbar.backend import GroupJob, Job
from ...crossbar.backends.compiled import Compiled
from ...crossbar.kernels.philox import Rows
from ...crossbar.kernels.read import Circuit, Planes
from ...crossbar.keys import Key
from ...crossbar.packed import Packed
from ..arrays import TensorArrays
from .cells import Cells, Converters
from .drive import conversions, plainly
from .exact import exact
from .philox import Counted
from .reading import currents, readings
from .rows import chunks, gather, positions, with_constant
from .slow import Slow
from .straight import through

Tensor = torch.Tensor
Array = np.ndarray[Any, Any]
CHUNK = 2**16  # readings that are made together on a CPU, whose caches hold what they pass through
DEVICE_CHUNK = 2**24  # the same on other devices, which want to be kept busy; about 1 GiB while they are made


def most_readings(device: torch.device) -> int:
    """Readings to be made together on a device."""
    return CHUNK if device.type == "cpu" else DEVICE_CHUNK


class Prepared:
    """Planes, and the tensors that reads of them need, on each device that they were read on, where these stay."""

    def __init__(self, planes: Planes) -> None:
        self.planes = planes
        self._cells: dict[torch.device, Cells] = {}
        self._converters: dict[tuple[torch.device, int], tuple[Circuit, Converters]] = {}
        self._positions: dict[tuple[torch.device, int], tuple[Array, Tensor]] = {}
        self._slow: dict[torch.device, Slow] = {}

    def cells(self, device: torch.device) -> Cells:
        """On a device."""
        if device not in self._cells:
            with torch.inference_mode(False):  # what is kept is for reads with gradients too
                self._cells[device] = Cells.of(self.planes, device)
        return self._cells[device]

    def converters(self, circuit: Circuit, device: torch.device) -> Converters:
        """On a device. A reader has few circuits: each is kept."""
        place = device, id(circuit)
        if place not in self._converters:
            columns = self.cells(device).floor.shape[3]
            with torch.inference_mode(False):
                self._converters[place] = circuit, Converters.of(self.planes, circuit, columns, device)
        return self._converters[place][1]

    def slow(self, packed: Packed, largest: int | None, device: torch.device) -> Slow:
        """What reads share of the noise of these cells, on a device."""
        if device not in self._slow:
            with torch.inference_mode(False):
                self._slow[device] = Slow.of(packed, largest, device)
        return self._slow[device]

    def rows(self, whose: Rows, device: torch.device) -> tuple[int, Tensor]:
        """The first sample of rows, and the positions (int64) of each, on a device. A reader has few of them."""
        place = device, id(whose.positions)
        if place not in self._positions:
            with torch.inference_mode(False):
                self._positions[place] = whose.positions, on_device(whose, device)[1]
        return int(whose.first_sample), self._positions[place][1]


class PreparedAt(Prepared):
    """The same for the read of a number, whose cells have a noise that other reads share."""

    def __init__(self, base: Prepared, packed: Packed, place: tuple[int, int | None, Key]) -> None:
        super().__init__(base.planes)
        self._base, self._packed, self._place = base, packed, place

    def cells(self, device: torch.device) -> Cells:
        if device not in self._cells:
            read, largest, key = self._place
            with torch.inference_mode(False), torch.no_grad():
                slow = self._base.slow(self._packed, largest, device)
                cells = self._base.cells(device)
                self._cells[device] = slow.at(cells, read, key.tolist(), most_readings(device))
        return self._cells[device]

    def converters(self, circuit: Circuit, device: torch.device) -> Converters:
        return self._base.converters(circuit, device)

    def rows(self, whose: Rows, device: torch.device) -> tuple[int, Tensor]:
        return self._base.rows(whose, device)


def on_device(whose: Rows, device: torch.device) -> tuple[int, Tensor]:
    """The first sample of rows, and the positions (int64) of each, on a device."""
    return int(whose.first_sample), torch.tensor(whose.positions.astype(np.int64), device=device)


class Torch(TensorArrays, Compiled):
    """Reads in torch operations, on the device of the inputs and in their graph; see docs/torch-backend.md.

    Bits depend on the shapes of products, as torch's do; the random numbers do not.
    """

    def codes(self, x: Any, scale: tuple[np.float32, np.float32, np.float32, bool], out: Any, threads: int) -> Any:
        factor, low, high, rounds = scale
        value = x * float(factor)
        with torch.no_grad():
            code = value.round() if rounds else value
            inside = code.clamp(float(low), float(high))
            kept = code == inside
            broken = (value - value).count_nonzero()  # NaN or infinite: the reader refuses them
        out.copy_(through(value, inside, kept))
        return kept.numel() - kept.count_nonzero(), broken

    def prepared(self, planes: Planes) -> Any:
        return Prepared(planes)

    def prepared_groups(self, planes: Sequence[Planes]) -> Any:
        return [self.prepared(each) for each in planes]

    def prepared_groups_at(
        self,
        prepared: Sequence[Any],
        packed: Sequence[Any],
        at: tuple[int, int | None, Sequence[Key]],
        adcs: Sequence[Mapping[str, Array]],
    ) -> Any:
        read, largest, keys = at
        groups = zip(prepared, packed, keys, strict=True)
        return [PreparedAt(one, cells, (read, largest, key)) for one, cells, key in groups]

    def currents(self, job: Job, start: int, rows: int) -> tuple[Any, Any]:
        codes, geometry, prepared, circuit = job
        cells, converters = prepared.cells(codes.device), prepared.converters(circuit, codes.device)
        given = with_constant(gather(codes, geometry, start, start + rows), cells.rows, circuit.constant)
        with exact(codes.device):
            found = [currents(pulses, cells, circuit) for _, pulses in conversions(given, circuit, converters)]
        return torch.stack(found).permute(0, 3, 1, 2, 4), given

    def read(self, job: Job, key: Key, whose: Rows, read: int, threads: int, out: Any) -> Any:
        codes, geometry, prepared, circuit = job
        device, (reads, rows, _) = codes.device, out.shape
        cells, converters = prepared.cells(device), prepared.converters(circuit, device)
        own = len(codes) * prod(positions(geometry)) > rows  # each read has inputs of its own
        codes, circuit = plainly(codes, circuit)
        given, many = (codes.split(len(codes) // reads), 1) if own else ((codes,), reads)
        most = most_readings(device) // (cells.floor.numel() * many)
        words, (sample, places) = key.tolist(), prepared.rows(whose, device)
        clipped: Any = 0
        found: list[list[Tensor]] = [[] for _ in given]
        with exact(device):
            for v, x in enumerate(given):
                for start, stop in chunks(rows, most, geometry):
                    part = with_constant(gather(x, geometry, start, stop), cells.rows, circuit.constant)
                    draws = Counted.of(words, sample, places, (start, stop), read + v) if circuit.noisy else None
                    y, outside = readings(part, cells, converters, circuit, draws, many)
                    clipped = clipped if outside is None else clipped + outside
                    if y.requires_grad:
                        found[v].append(y)
                    else:
                        out[v : v + many, start:stop] = y
        if found[0]:  # once, as each part of a tensor that is written to costs a copy of all of it in the backward pass
            out.copy_(torch.cat([torch.cat(parts, dim=1) for parts in found]))
        return clipped

    def read_groups(self, job: GroupJob, keys: Array, whose: Rows, read: int, threads: int, out: Any) -> Any:
        groups = zip(job.geometries, job.planes, keys, strict=True)
        jobs = [(Job(job.codes, geometry, planes, job.circuit), key) for geometry, planes, key in groups]
        shape, clipped = (*out.shape[:2], out.shape[2] // len(jobs)), 0
        found = [self.empty(shape, job.codes) for _ in jobs]
        for (mine, key), one in zip(jobs, found, strict=True):
            clipped = clipped + self.read(mine, key, whose, read, threads, one)
        out.copy_(torch.cat(found, dim=-1))
        return clipped

    def add_output_noise(
        self, out: Any, sigmas: tuple[float, float], whose: Rows, read: int, key: Key, threads: int
    ) -> None:
        (add, mult), (rows, outputs), words = sigmas, out.shape, key.tolist()
        sample, places = on_device(whose, out.device)
        with torch.no_grad():
            mean, noise = out.detach(), torch.empty_like(out)
            each = max(1, most_readings(out.device) // max(1, outputs))
            for start in range(0, rows, each):
                part = slice(start, min(rows, start + each))
                spread = mean[part].mul(mult).square_().add_(add**2).sqrt_()
                drawn = Counted.of(words, sample, places, (part.start, part.stop), read).outputs(outputs)
                torch.mul(spread, drawn, out=noise[part])
        out.add_(noise)
