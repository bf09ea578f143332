"""The noise budget of a column: what each source adds to a read, at any read voltage.

`budget(...)` gives the variance by source, the signal-to-noise ratio, sigma_add and sigma_mult, and the energy of the
array, each against the read voltage; `Budget.coefficients` is the closed form SNR(V) = S V^2 / (A + B V + C V^2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field
from scipy.constants import elementary_charge
from scipy.constants import k as boltzmann

from .cell import Cell
from .config import Config
from .data import Fitted, Setting, outside, warn
from .read_noise import SourceReadNoise
from .sensing import Sensing
from .units import Ampere, Volt, Whole

Array = np.ndarray[Any, Any]
Powers = tuple[float, float, float]


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
    converter: Converter | None
    time_s: float

    @property
    def signal(self) -> float:
        """Mean square of the current over V^2, in S^2."""
        return float(np.mean((self.x @ self.g) ** 2))


class Source:
    """One source of noise: its variance in A^2, and the same as coefficients of (1, V, V^2).

    `multiplicative` sources grow as V^2, with the signal. The others are additive.
    """

    name: str
    multiplicative = False

    def variance(self, column: Column, v: float) -> float:
        """Variance of a column's current in A^2 at a read voltage `v`, the mean over samples and columns."""
        a, b, c = self.powers(column)
        return a + b * v + c * v**2

    def powers(self, column: Column) -> Powers:
        """Coefficients in A^2, A^2/V and A^2/V^2."""
        raise NotImplementedError


class Thermal(Source):
    """4 k T sum(g) B (Nyquist 1928, Phys. Rev. 32:110): all cells of the column, driven or not."""

    name = "thermal"

    def powers(self, column: Column) -> Powers:
        s = column.sensing
        return 4 * boltzmann * s.temperature * s.bandwidth * column.g.sum(axis=0).mean() * s.thermal, 0.0, 0.0


class Shot(Source):
    """4 k T g F (u coth u - 1) B, u = q |v| / 2 k T: what a current adds to thermal noise (Blanter and Buettiker 2000).

    At qV >> 2kT it is 2 q I F B, less the F parts of thermal noise that the cells carrying a current have lost; the
    coefficients say that.
    """

    name = "shot"

    def variance(self, column: Column, v: float) -> float:
        s = column.sensing.model_copy(update={"thermal": False})
        return float(s.white_cell_variance(1.0, v * column.x).mean(axis=0) @ column.g.mean(axis=1))

    def powers(self, column: Column) -> Powers:
        s, g = column.sensing, column.g.mean(axis=1)
        scale = s.shot * s.fano * s.bandwidth
        driven = (column.x != 0).mean(axis=0) @ g
        a = -4 * boltzmann * s.temperature * driven * scale
        return a, 2 * elementary_charge * (np.abs(column.x).mean(axis=0) @ g) * scale, 0.0


@dataclass(frozen=True)
class CellNoise(Source):
    """sum_i V_i^2 s(g_i)^2: conductance noise of independent cells, one `part` of the cell's read noise."""

    part: SourceReadNoise
    multiplicative = True

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"cell, {self.part.kind}"

    def variance(self, column: Column, v: float) -> float:
        s = column.sensing
        std = self.part.std(column.g, v_read=v, t_read=s.t_read, time_s=column.time_s, temperature=s.temperature)
        return float(v**2 * (column.x**2).mean(axis=0) @ (std**2).mean(axis=1))

    def powers(self, column: Column) -> Powers:
        low, high = self.variance(column, 1e-3) * 1e6, self.variance(column, 1.0)
        if abs(low - high) > 1e-9 * high:
            raise ValueError(f"cell.read_noise of kind {self.part.kind!r} is not proportional to V: no closed form")
        return 0.0, 0.0, high


class Amplifier(Source):
    """i_n^2 B: white current noise at the input of the sense amplifier."""

    name = "amplifier"

    def powers(self, column: Column) -> Powers:
        return column.sensing.amplifier_variance, 0.0, 0.0


class Reset(Source):
    """k T C / t_read^2: the charge that the reset of an integrator leaves, over the time it integrates."""

    name = "kTC"

    def powers(self, column: Column) -> Powers:
        return column.sensing.reset_variance, 0.0, 0.0


@dataclass(frozen=True)
class Quantisation(Source):
    """LSB^2 / 12 (Bennett 1948, Bell Syst. Tech. J. 27:446), for currents that spread over many levels."""

    multiplicative: bool
    name = "quantisation"

    def powers(self, column: Column) -> Powers:
        if column.converter is None:
            return 0.0, 0.0, 0.0
        variance, tracks = column.converter.step**2 / 12, column.converter.tracks
        return (variance, 0.0, 0.0) if tracks is None else (0.0, 0.0, variance / tracks**2)


class Supply(Source):
    """(supply_noise I)^2: the read voltage itself, common to all columns of a read."""

    name = "supply"
    multiplicative = True

    def powers(self, column: Column) -> Powers:
        return 0.0, 0.0, column.sensing.supply_noise**2 * column.signal


class Gain(Source):
    """(gain_noise I)^2: the gain of a column's sense amplifier."""

    name = "gain"
    multiplicative = True

    def powers(self, column: Column) -> Powers:
        return 0.0, 0.0, column.sensing.gain_noise**2 * column.signal


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
    sources: tuple[Source, ...]
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
        a, b, c = np.sum([source.powers(self.column) for source in self.sources], axis=0)
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
    column = Column(g, x, cell, sensing, converter, time_s)
    warn(_extrapolations(column, v))
    if column.signal == 0:
        raise ValueError("g and x must carry a current, got none")
    tracking = converter is not None and converter.tracks is not None
    parts = [CellNoise(part) for part in cell.read_noise.parts if part.kind != "none"]
    sources = (Thermal(), Shot(), *parts, Amplifier(), Reset(), Quantisation(tracking), Supply(), Gain())
    variances: dict[str, Array] = {}
    for source in sources:
        variance = np.array([source.variance(column, float(voltage)) for voltage in v])
        variances[source.name] = variances.get(source.name, 0.0) + variance
    power = (x**2).mean(axis=0) @ g.sum(axis=1)
    return Budget(
        v=v,
        variances=variances,
        multiplicative=frozenset(source.name for source in sources if source.multiplicative),
        signal=column.signal * v**2,
        energy=power * v**2 * sensing.t_read,
        sources=sources,
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
    found = []
    for part in cell.read_noise.parts:
        if isinstance(part, Fitted):
            data = part.measured
            if data.conductance is not None:
                spread = 6 * cell.programming.std(np.array(data.conductance), temperature=sensing.temperature)
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
