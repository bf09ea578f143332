"""`mho.matrix`: a matrix on tiles, without a network, as NumPy and SciPy take one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from scipy.sparse.linalg import LinearOperator
from torch import nn

from ..crossbar.backend import Backend
from ..crossbar.backends import DEFAULT
from ..crossbar.drive import Drive
from ..crossbar.hardware import Hardware
from ..crossbar.reader import Counts
from ..crossbar.wire_compensation import WireCompensation
from .architecture.decision import Decision, decision
from .chip import Chip
from .conductances import Conductances
from .convert import map as map_model
from .errors import MappingError
from .layers import TileLayer
from .report import Report
from .turned import Turned

Array = np.ndarray[Any, Any]
NAME = "matrix"  # of its layer


class _Cells:
    """The cells of a matrix on one chip, and what reads them both ways.

    Attributes:
        chip: of one linear layer; it counts the reads.
        transposed: (samples, outputs) that the other way is calibrated with, or None.
        source: what the ranges of the other way come from; None: they are calibrated.
        start: the cells as they were programmed, where drift is compensated.
        given: whether the cells were given, and have the digital gains of the source.
    """

    def __init__(
        self,
        chip: Chip,
        transposed: Array | None,
        source: _Cells | None = None,
        *,
        start: Chip | None = None,
        given: bool = False,
    ) -> None:
        self.chip, self.transposed, self.source, self.start, self.given = chip, transposed, source, start, given

    @property
    def layer(self) -> TileLayer:
        return self.chip.layers[NAME]

    @cached_property
    def turned(self) -> Turned:
        if self.source is None:
            return Turned.of(self.layer, self.transposed)
        known = self.source.turned
        if self.given:
            return known.measured(self.layer)
        return known.on(self.layer, None if self.start is None else known.on(self.start.layers[NAME]))

    def forward(self, x: Array, read: int, noisy: bool) -> Array:
        """(samples, outputs) float32 for x (samples, rows)."""
        found: Array = self.chip.read(torch.from_numpy(x), read=read, noisy=noisy).numpy()
        return found

    def on(self, chip: Chip, start: Chip | None = None) -> _Cells:
        """Those of another copy or age; from `start` on their drift is compensated."""
        same = self.chip.copy_index == chip.copy_index
        older = self.source is not None and (not same or self.source.chip.copy_index == chip.copy_index)
        return _Cells(chip, self.transposed, self.source if older else self, start=start)

    def measured(self, chip: Chip) -> _Cells:
        """Those that were given to a chip."""
        return _Cells(chip, self.transposed, self, given=True)


class AnalogMatrix(LinearOperator):  # type: ignore[misc]
    """A matrix in the cells of one chip; made by `mho.matrix`.

    ``A @ x`` is one noisy read of its tiles, for a vector, the columns of a matrix, or stacks of these, of NumPy or
    torch; the result has the same kind. Shapes and types are NumPy's, but integers count as float64, and results
    have the precision of 32 bits. ``A.T @ y`` and ``y @ A`` read the same cells the other way. SciPy takes it as a
    `LinearOperator`. Products are counted: each has its own noise, and another matrix of the same seed repeats them.
    ``np.asarray(A)`` is the matrix that its cells represent.

    Attributes:
        chip: the chip; reports, schedules and files are made of it.
        exact: the matrix as it was given, as an array.
    """

    __array_ufunc__ = None  # so that x @ A is ours

    def __init__(self, cells: _Cells, exact: Array, turned: bool = False, conjugated: bool = False) -> None:
        start: Any = super().__init__
        start(exact.dtype, exact.shape)
        self.exact, self._cells, self._turned, self._conjugated = exact, cells, turned, conjugated

    @property
    def chip(self) -> Chip:
        return self._cells.chip

    @property
    def calls(self) -> int:
        """Products so far, both ways."""
        return self.chip.calls

    @property
    def counts(self) -> Counts:
        """Conversions so far, both ways, and how many were clipped."""
        both = self._cells.layer.counts
        return both.plus(self._cells.turned.counter.counts) if "turned" in vars(self._cells) else both

    def __matmul__(self, x: Any) -> Any:
        """The next read, of x (n,), (n, k) or (..., n, k)."""
        return super().__matmul__(x) if isinstance(x, LinearOperator) else self._product(x, None, noisy=True)

    def __rmatmul__(self, y: Any) -> Any:
        """y @ A, for y (m,), (k, m) or (..., k, m): the next read, the other way."""
        if isinstance(y, LinearOperator):
            return super().__rmatmul__(y)
        y = _as_array(y)
        return self.T @ y if y.ndim < 2 else (self.T @ y.swapaxes(-1, -2)).swapaxes(-1, -2)

    def dot(self, x: Any) -> Any:
        """A @ x; for a number the matrix times it, as SciPy has it."""
        return super().dot(x) if isinstance(x, LinearOperator) or np.isscalar(x) else self @ x

    def read(self, x: Any, *, read: int, noisy: bool = True) -> Any:
        """A @ x in the read of a given number; the same number gives the same noise.

        Args:
            noisy: False leaves out the noise of the read; converters and errors of programming stay.
        """
        if isinstance(read, bool) or not isinstance(read, int):
            raise ValueError(f"read must be a whole number, got {read!r}")
        return self._product(x, read, noisy=noisy)

    def _product(self, x: Any, read: int | None, *, noisy: bool) -> Any:
        given = _as_array(x)
        if given.ndim == 0 or given.shape[-1 if given.ndim == 1 else -2] != self.shape[1]:
            raise ValueError(
                f"A @ x: A has shape {self.shape}, so x must have shape ({self.shape[1]},) or (..., {self.shape[1]}, "
                f"k), got {tuple(given.shape)}"
            )
        values = _numbers(given)
        if values.dtype.kind not in "biufc":
            raise ValueError(f"A @ x: x must hold numbers, got {values.dtype}")
        columns = values[:, None] if values.ndim == 1 else values
        rows = columns.swapaxes(-1, -2)
        made = self._rows(rows.reshape(-1, self.shape[1]), read, noisy)
        out = made.reshape(*rows.shape[:-1], self.shape[0]).swapaxes(-1, -2)
        out = out[..., 0] if values.ndim == 1 else out
        if isinstance(given, np.ndarray):
            return np.ascontiguousarray(out, np.result_type(self.dtype, values.dtype))
        kind = torch.promote_types(_torch_dtype(self.dtype), given.dtype)
        return torch.from_numpy(np.ascontiguousarray(out)).to(given.device, kind)

    def _rows(self, x: Array, read: int | None, noisy: bool) -> Array:
        """(k, m) for x (k, n), of which each row is a vector."""
        if not len(x):
            return np.zeros((0, self.shape[0]), np.result_type(self.dtype, x.dtype))
        number = self.chip.session.next_read() if read is None else read
        if np.iscomplexobj(self.exact):
            x = x.conj() if self._conjugated else x
            both = self._on_tiles(np.concatenate([x.real, x.imag], axis=1), number, noisy)
            out = both[:, : self.shape[0]] + 1j * both[:, self.shape[0] :]
            return out.conj() if self._conjugated else out
        if not np.iscomplexobj(x):
            return self._on_tiles(x, number, noisy)
        both = self._on_tiles(np.concatenate([x.real, x.imag]), number, noisy)
        return both[: len(x)] + 1j * both[len(x) :]

    def _on_tiles(self, x: Array, read: int, noisy: bool) -> Array:
        with np.errstate(over="ignore"):  # infinity, which is refused
            x = np.ascontiguousarray(x, np.float32)
        if not np.isfinite(x).all():
            raise ValueError("A @ x: x must be finite, and within 32-bit numbers")
        drives = [tiles.design.drive for tiles in self._cells.turned.tiles] if self._turned else [self._drive]
        if (x < 0).any() and not all(drive.signed for drive in drives):
            raise ValueError(
                "A @ x: x has negative numbers, and its converters have one sign, as all calibration inputs have; "
                "calibrate with inputs of both signs"
            )
        if self._turned:
            return self._cells.turned.read(x, read, noisy=noisy)
        return self._cells.forward(x, read, noisy)

    @property
    def _drive(self) -> Drive:
        return self._cells.layer.tiles.design.drive

    def _view(self, turned: bool, conjugated: bool, exact: Array) -> AnalogMatrix:
        return AnalogMatrix(self._cells, exact, turned, conjugated and np.iscomplexobj(exact))

    def _adjoint(self) -> AnalogMatrix:
        return self._view(not self._turned, self._conjugated, self.exact.conj().T)

    def _transpose(self) -> AnalogMatrix:
        return self._view(not self._turned, not self._conjugated, self.exact.T)

    def conj(self) -> AnalogMatrix:
        """The complex conjugate, of the same cells."""
        return self._view(self._turned, not self._conjugated, self.exact.conj())

    def _matvec(self, x: Array) -> Array:
        found: Array = self @ x
        return found

    def _matmat(self, x: Array) -> Array:
        found: Array = self @ x
        return found

    def _rmatvec(self, x: Array) -> Array:
        found: Array = self.H @ x
        return found

    def _rmatmat(self, x: Array) -> Array:
        found: Array = self.H @ x
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """What the cells stand for: the matrix with its errors of programming."""
        if copy is False:
            raise ValueError("what the cells stand for is worked out anew, so that it is always a copy")
        layer = self._cells.layer
        found = layer.stored("weight").numpy().astype(np.float64)
        if np.iscomplexobj(self.exact):  # each part is there twice; a product takes one of them for each half
            m, n = found.shape[0] // 2, found.shape[1] // 2
            found = (found[:m, :n] + found[m:, n:]) / 2 + 0.5j * (found[m:, :n] - found[:m, n:])
        found = found.T if self._turned else found
        found = found.conj() if self._turned != self._conjugated else found
        return found.astype(self.dtype if dtype is None else dtype)

    def __len__(self) -> int:
        return int(self.shape[0])

    def conductances(self) -> Conductances:
        """Of all its cells: see `Chip.conductances`."""
        return self.chip.conductances()

    def with_conductances(self, conductances: Any) -> AnalogMatrix:
        """The matrix with cells as they were measured: see `Chip.with_conductances`."""
        return self._of(self._cells.measured(self.chip.with_conductances(conductances)))

    def copy(self, index: int) -> AnalogMatrix:
        """The matrix on another chip of the same design and calibration: see `Chip.copy`."""
        return self._of(self._cells.on(self.chip.copy(index)))

    def at(self, time_s: float, *, reads: int | None = None, drift_compensation: bool = False) -> AnalogMatrix:
        """The matrix `time_s` seconds after it was programmed: see `Chip.at`."""
        aged = self.chip.at(time_s, reads=reads, drift_compensation=drift_compensation)
        start = self.chip.at(0.0, reads=0) if drift_compensation else None
        return self._of(self._cells.on(aged, start))

    def _of(self, cells: _Cells) -> AnalogMatrix:
        return AnalogMatrix(cells, self.exact, self._turned, self._conjugated)

    def report(self) -> Report:
        """What its tiles are: see `Chip.report`."""
        return self.chip.report()

    def cost(self) -> Decision:
        """Time, energy and area of the product with one vector, in a forward read: see `mho.schedule`."""
        return decision(self.chip, 1)


def matrix(
    w: Any,
    hardware: Hardware,
    *,
    calibrate: Any = None,
    calibrate_transposed: Any = None,
    seed: int = 0,
    wire_compensation: WireCompensation | None = None,
    strict: bool = False,
    progress: Callable[[int, int], None] | None = None,
    backend: str | Backend = DEFAULT,
) -> AnalogMatrix:
    """Put a matrix onto the tiles of one chip, for products with vectors.

    A complex matrix R + iI is the real one [[R, -I], [I, R]] on tiles, four times the cells.

    Args:
        w: (m, n) of numbers: NumPy, torch, a SciPy sparse matrix, or lists.
        hardware: what the chip is made of.
        calibrate: x as they will come, (n,) or (n, k), some hundred: ranges of the converters are set from them where
            the hardware leaves them to calibration. With `dac.scaling: sample` each vector has a range of its own.
        calibrate_transposed: y for products with the transposed matrix, (m,) or (m, k); by default the exact products
            with `calibrate`.
        seed, wire_compensation, strict, progress, backend: see `mho.map`.

    Raises:
        ValueError: no matrix of finite numbers within 32 bits that are not all zero; inputs of another shape.
        MappingError: missing or unfit calibration inputs.
    """
    exact = _matrix_of(w)
    if not isinstance(hardware, Hardware):
        raise MappingError(f"hardware must be a mho.Hardware (see Hardware.preset), got {type(hardware).__name__}")
    if hardware.tile.encoding == "single" and np.iscomplexobj(exact):
        raise ValueError("matrix: tile.encoding 'single' takes no negative weights, which a complex matrix needs")
    inputs = _columns("calibrate", calibrate, exact.shape[1], exact)
    others = _columns("calibrate_transposed", calibrate_transposed, exact.shape[0], exact)
    whole = np.block([[exact.real, -exact.imag], [exact.imag, exact.real]]) if np.iscomplexobj(exact) else exact
    if others is None and inputs is not None:
        others = (inputs.astype(np.float64) @ whole.T).astype(np.float32)
    linear = nn.utils.skip_init(nn.Linear, whole.shape[1], whole.shape[0], bias=False, dtype=torch.float32)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(whole.astype(np.float32)))
    chip = map_model(
        nn.Sequential(OrderedDict([(NAME, linear)])).eval(),
        hardware,
        calibrate=None if inputs is None else torch.from_numpy(inputs),
        seed=seed,
        wire_compensation=wire_compensation,
        strict=strict,
        progress=progress,
        backend=backend,
    )
    chip.layers[NAME].counter.counts = Counts()  # of products alone
    return AnalogMatrix(_Cells(chip, others), exact)


def _matrix_of(w: Any) -> Array:
    """A matrix as an array of floating-point or complex numbers.

    Raises:
        ValueError: see `matrix`.
    """
    try:
        exact = np.array(_numbers(_as_array(w)))
    except ValueError as error:  # lists of different lengths
        raise ValueError("matrix: must be an array of numbers, all rows of one length") from error
    if exact.dtype.kind not in "biufc" or exact.ndim != 2 or not exact.size:
        raise ValueError(f"matrix: must be (m, n) numbers, at least one, got shape {exact.shape} of {exact.dtype}")
    if exact.dtype.kind in "biu":
        exact = exact.astype(np.float64)
    with np.errstate(over="ignore"):
        small = exact.astype(np.complex64 if exact.dtype.kind == "c" else np.float32)
    if not np.isfinite(small).all():
        raise ValueError("matrix: its entries must be finite, and within 32-bit numbers")
    if not small.any():
        raise ValueError("matrix: its entries are all zero (as 32-bit numbers), nothing to program")
    return exact


def _columns(name: str, given: Any, size: int, exact: Array) -> Array | None:
    """Calibration inputs as rows (k, size), real and imaginary parts side by side for a complex matrix; float32.

    Raises:
        ValueError: they are none.
    """
    if given is None:
        return None
    x = _numbers(_as_array(given))
    if x.dtype.kind not in "biufc" or x.ndim not in (1, 2) or len(x) != size or not x.size:
        raise ValueError(f"{name} must be numbers of shape ({size},) or ({size}, k), got shape {x.shape} of {x.dtype}")
    rows = x.reshape(size, -1).T
    if np.iscomplexobj(exact):
        rows = np.concatenate([rows.real, rows.imag], axis=1)
    elif np.iscomplexobj(rows):
        rows = np.concatenate([rows.real, rows.imag])
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(rows, np.float32)
    if not np.isfinite(found).all():
        raise ValueError(f"{name} must be finite, and within 32-bit numbers")
    if not found.any():
        raise ValueError(f"{name} must not be all zero: ranges are set from it")
    return found


def _as_array(x: Any) -> Any:
    """A tensor as it is, all else as an array."""
    if isinstance(x, torch.Tensor):
        return x
    dense: Any = x.toarray if issparse(x) else None
    return np.asarray(x if dense is None else dense())


def _numbers(x: Any) -> Array:
    """A tensor or an array as an array."""
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu().resolve_conj().resolve_neg()
        x = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    found: Array = x
    return found


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype
