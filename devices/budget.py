"""The noise budget of a column: what each source adds to a read, at any read voltage.

`budget(...)` gives the variance by source, the signal-to-noise ratio, sigma_add and sigma_mult, and the energy of the
array, each against the read voltage; `Budget.coefficients` is the closed form SNR(V) = S V^2 / (A + B V + C V^2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from html import escape
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from .arrays import Array
from .cell import Cell
from .config import Config
from .data import Fitted, Setting, outside, warn
from .parts import Conditions
from .sensing import Sensing
from .sources import CellNoise, NoiseSource, Powers, Shape, in_order
from .units import Ampere, Volt, Whole


class Converter(Config):
    """An ADC: 2^bits - 1 levels on [-full_scale, full_scale], or 2^bits on [0, full_scale] where not `signed`.

    Attributes:
        tracks: read voltage that `full_scale` is for, where the range moves with the voltage; None: it stays.
    """

    bits: Annotated[Whole, Field(ge=2, le=24)]
    full_scale: Annotated[Ampere, Field(gt=0)]
    tracks: Annotated[Volt, Field(gt=0)] | None = None
    signed: bool = True

    @property
    def step(self) -> float:
        """One level in amperes, at the voltage `tracks` if there is one."""
        return self.full_scale / (2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1)


@dataclass(frozen=True)
class Column:
    """Bit lines of one kind, and what drives them.

    Attributes:
        g: (rows, columns) siemens. All variances are means over the columns, and over the samples.
        x: (samples, rows) voltages in units of v_read.
    """

    g: Array
    x: Array
    cell: Cell
    sensing: Sensing
    time_s: float

    @property
    def signal(self) -> float:
        """Mean square of the current over V^2, in S^2."""
        return float(np.mean((self.x @ self.g) ** 2))

    def variance(self, source: NoiseSource, v: float) -> float:
        """Variance of the current by one source in A^2, at a read voltage `v`: the mean over samples and columns."""
        conditions = self._at(v)
        if source.shape is Shape.CELL:
            return float(source.per_siemens(v * self.x, conditions).mean(axis=0) @ self.g.mean(axis=1))
        if isinstance(source, CellNoise):
            std = source.part.std(self.g, conditions, np)
            return float(v**2 * (self.x**2).mean(axis=0) @ (std**2).mean(axis=1))
        if source.shape in (Shape.SUPPLY, Shape.GAIN):
            return source.amount(conditions) * self.signal * v**2
        return source.amount(conditions)

    def powers(self, source: NoiseSource) -> Powers:
        """The same as coefficients of (1, V, V^2), in A^2, A^2/V and A^2/V^2, at voltages well above 2 k T / q.

        Raises:
            ValueError: read noise that is not proportional to the current, which has none.
        """
        if source.shape is Shape.CELL:
            g, x, idle = self.g.mean(axis=1), np.abs(self.x), self.x == 0
            a, b, c = source.powers(self._at(1.0))
            resting = float(source.per_siemens(np.zeros(1), self._at(1.0))[0])
            a = a * ((~idle).mean(axis=0) @ g) + resting * (idle.mean(axis=0) @ g)
            return float(a), float(b * (x.mean(axis=0) @ g)), float(c * ((x**2).mean(axis=0) @ g))
        if not source.multiplicative:
            return self.variance(source, 1.0), 0.0, 0.0
        low, high = self.variance(source, 1e-3) * 1e6, self.variance(source, 1.0)
        if abs(low - high) > 1e-9 * high:
            kind = f"cell.read_noise of kind {source.part.kind!r}" if isinstance(source, CellNoise) else source.name
            raise ValueError(f"{kind} is not proportional to V: no closed form")
        return 0.0, 0.0, high

    def _at(self, v: float) -> Conditions:
        return replace(self.sensing.conditions(self.time_s), v_read=v)


@dataclass(frozen=True)
class Quantisation(NoiseSource):
    """LSB^2 / 12 (Bennett 1948, Bell Syst. Tech. J. 27:446), for currents that spread over many levels."""

    converter: Converter | None
    shape = Shape.READING

    @property
    def name(self) -> str:
        """In budgets."""
        return "quantisation"

    @property
    def multiplicative(self) -> bool:
        """Whether the range moves with the voltage."""
        return self.converter is not None and self.converter.tracks is not None

    def amount(self, conditions: Conditions) -> float:
        """Variance in A^2."""
        if self.converter is None:
            return 0.0
        variance, tracks = self.converter.step**2 / 12, self.converter.tracks
        return variance if tracks is None else variance / tracks**2 * conditions.v_read**2


@dataclass(frozen=True)
class Coefficients:
    """SNR(V) = signal V^2 / (a + b V + c V^2), at voltages well above 2 k T / q = 52 mV (at 300 K)."""

    signal: float
    a: float
    b: float
    c: float

    def snr(self, v: ArrayLike) -> Array:
        """The ratio of powers at voltages `v`, in their shape."""
        v = np.asarray(v, dtype=float)
        return self.signal * v**2 / (self.a + self.b * v + self.c * v**2)


@dataclass(frozen=True)
class Budget:
    """A column's noise at read voltages `v` (n,); all arrays have that shape.

    Attributes:
        variances: A^2, by name of the source.
        multiplicative: names of the sources that grow as V^2.
        signal: mean square of the current in A^2.
        energy: dissipated in all columns by a read, in joules: the mean over samples of sum_ij g_ij v_i^2 t_read.
    """

    v: Array
    variances: dict[str, Array]
    multiplicative: frozenset[str]
    signal: Array
    energy: Array
    sources: tuple[NoiseSource, ...]
    column: Column

    @property
    def variance(self) -> Array:
        """Of all sources, in A^2."""
        return np.sum(list(self.variances.values()), axis=0)

    @property
    def snr(self) -> Array:
        """Mean square of the current over the variance of its noise; infinite without noise."""
        with np.errstate(divide="ignore"):
            return self.signal / self.variance

    @property
    def sigma_add(self) -> Array:
        """Noise of the sources that do not grow as V^2, in weight units: a weight of 1 at an input of 1 is V g_max."""
        return np.sqrt(self._sum(False)) / (self.v * self.column.cell.g_max)

    @property
    def sigma_mult(self) -> Array:
        """Noise of the sources that grow as V^2, relative to the root mean square of the current."""
        return np.sqrt(self._sum(True) / self.signal)

    @property
    def allowed(self) -> Array:
        """Where the voltage is within the limit of the cell, `v_max`."""
        v_max = self.column.cell.v_max
        return self.v <= (np.inf if v_max is None else v_max)

    @property
    def coefficients(self) -> Coefficients:
        """The closed form.

        Raises:
            ValueError: read noise that is not proportional to the current, which has none.
        """
        a, b, c = np.sum([self.column.powers(source) for source in self.sources], axis=0)
        return Coefficients(self.column.signal, float(a), float(b), float(c))

    def columns(self) -> dict[str, Array]:
        """Everything as columns of a table, a row a voltage: ``pandas.DataFrame(budget.columns())``."""
        parts = {f"variance: {name} (A^2)": variance for name, variance in self.variances.items()}
        return {
            "v_read (V)": self.v,
            **parts,
            "variance (A^2)": self.variance,
            "signal (A^2)": self.signal,
            "snr": self.snr,
            "sigma_add": self.sigma_add,
            "sigma_mult": self.sigma_mult,
            "energy (J)": self.energy,
            "allowed": self.allowed,
        }

    def _repr_html_(self) -> str:
        columns = self.columns()
        heads = "".join(f"<th>{escape(name)}</th>" for name in columns)
        rows = zip(*columns.values(), strict=True)
        cells = ("".join(f"<td>{value:.4g}</td>" for value in row[:-1]) + f"<td>{row[-1]}</td>" for row in rows)
        return f"<table><tr>{heads}</tr>{''.join(f'<tr>{line}</tr>' for line in cells)}</table>"

    def __str__(self) -> str:
        columns = {name: [f"{value:.4g}" for value in values] for name, values in self.columns().items()}
        width, cell = max(map(len, columns)), max(len(text) for texts in columns.values() for text in texts)
        lines = (f"{name:<{width}}  " + "  ".join(f"{text:>{cell}}" for text in row) for name, row in columns.items())
        return "\n".join(lines)

    def _sum(self, multiplicative: bool) -> Array:
        chosen = [v for name, v in self.variances.items() if (name in self.multiplicative) == multiplicative]
        return np.sum([np.zeros_like(self.v), *chosen], axis=0)


def budget(
    g: ArrayLike,
    x: ArrayLike,
    cell: Cell,
    sensing: Sensing,
    v_read: ArrayLike,
    *,
    converter: Converter | None = None,
    time_s: float = 0.0,
) -> Budget:
    """The noise of columns of cells at read voltages `v_read`, a number or (n,), in volts.

    Args:
        g: (rows,) or (rows, columns), conductances in siemens, as they are `time_s` seconds after programming.
        x: (rows,) or (samples, rows), inputs in units of the read voltage, usually in [-1, 1].
        sensing: how columns are read; its own v_read is not used.
        converter: None: no quantisation.

    Warns:
        ExtrapolationWarning: conductances, voltages, a time or a temperature outside the data of the read noise. Cells
            programmed within the data may have ended up to six standard deviations outside.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, no current, a voltage that is not above 0.

    Example:
        >>> from mho.devices.budget import budget
        >>> noise = budget([20e-6] * 64, [0.5] * 64, hardware.cell, hardware.sensing, [0.1, 0.2])  # volts
        >>> noise.snr.shape
        (2,)
    """
    g, x = _finite("g", g), np.atleast_2d(_finite("x", x))
    if g.ndim == 1:
        g = g[:, None]
    if g.ndim != 2 or x.ndim != 2 or x.shape[1] != g.shape[0]:
        raise ValueError(f"g must be (rows, columns) and x (samples, rows), got {g.shape} and {x.shape}")
    if (g < 0).any():
        raise ValueError(f"g must be at least 0 S, got {g.min():g} S")
    v = np.atleast_1d(_finite("v_read", v_read))
    if v.ndim != 1 or not (v > 0).all():
        raise ValueError(f"v_read must be a voltage above 0 or a list of them, got {v.min():g} V in shape {v.shape}")
    column = Column(g, x, cell, sensing, time_s)
    warn(_extrapolations(column, v))
    if column.signal == 0:
        raise ValueError("g and x must carry a current, got none")
    sources = in_order([*sensing.sources(cell.read_noise), Quantisation(converter)])
    variances: dict[str, Array] = {}
    for source in sources:
        variance = np.array([column.variance(source, float(voltage)) for voltage in v])
        variances[source.name] = variances.get(source.name, 0.0) + variance
    power = (x**2).mean(axis=0) @ g.sum(axis=1)
    return Budget(
        v=v,
        variances=variances,
        multiplicative=frozenset(source.name for source in sources if source.multiplicative),
        signal=column.signal * v**2,
        energy=power * v**2 * sensing.t_read,
        sources=tuple(sources),
        column=column,
    )


def _extrapolations(column: Column, v: Array) -> list[str]:
    """Where the cells' read noise is evaluated outside its data."""
    cell, sensing, g = column.cell, column.sensing, column.g
    ends = {
        "conductance": [Setting("g", float(g.min())), Setting("g", float(g.max()))],
        "current": [Setting("g v_read", float(g.max() * v.max()))],
        "voltage": [Setting("v_read", float(v.min())), Setting("v_read", float(v.max()))],
        "time": [Setting("time_s", column.time_s)],
        "temperature": [Setting("sensing.temperature", sensing.temperature)],
    }
    found: list[str] = []
    for part in cell.read_noise.parts:
        if isinstance(part, Fitted):
            data = part.measured
            if data.conductance is not None:
                spread = 6 * cell.programming.std(np.array(data.conductance), sensing.conditions(), np)
                reached = (max(data.conductance[0] - spread[0], 0.0), data.conductance[1] + spread[1])
                data = data.model_copy(update={"conductance": reached})
            found += outside(f"cell.read_noise ({part.kind})", data, ends)
    return list(dict.fromkeys(found))


def _finite(name: str, values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=float)
    good = np.isfinite(array).sum()
    if good < max(array.size, 1):
        raise ValueError(f"{name} must be finite numbers, at least one, got {good} of {array.size} that are")
    return array
