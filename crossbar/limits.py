"""What hardware has to be for its numbers to mean something: bounds of fields against each other.

Each field has bounds of its own; values within them can still be impossible together: noise so far above all
conductances, or a conductance range so narrow, that no arithmetic holds both, or converters whose levels no current
reaches. The bounds are wide, and `docs/devices.md` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..devices.cell import Cell
from ..devices.memory import Correlated
from ..devices.parts import Conditions
from ..devices.sensing import Sensing
from ..devices.settling import Settling
from ..devices.sources import SensingNoise, Shape, white_fit
from ..devices.units import brief
from .converters import Adc
from .lines import Wires
from .slow_noise import DOUBLINGS, block_shares
from .tile import Tile

Array = np.ndarray[Any, Any]
CELL = 1e4  # errors and noise of a cell, and what it drifts to, in units of g_max
CURRENT = 1e6  # white noise of a reading, in units of v_read g_max
CONTRAST = 1e-3  # least (g_max - g_min) / g_max
KEPT = 1e-6  # least part of the conductance range that programming and drift leave
DIGITS = 2**53  # most values of a sliced weight
SIGNIFICANCE = 1e6  # most that a slice counts, in units of another
SIGMAS = 6.0
MANY = 8  # random numbers of a cell
CLOSE = 1e-6  # of correlations, which are sums of special functions
WIRE = 100.0  # largest resistance of a piece of wire, in units of 1 / g_max
FINEST = 1e-6  # least full scale of an ADC, in units of v_read g_max


def check_numbers(cell: Cell, sensing: Sensing, tile: Tile, adc: Adc, wires: Wires, conditions: Conditions) -> None:
    """Check the parts of a hardware against each other.

    Raises:
        ValueError: numbers out of reach, in one line that names the field, its value and the bound.
    """
    if cell.g_max - cell.g_min < CONTRAST * cell.g_max:
        raise ValueError(
            f"cell.g_min must be below g_max by at least {CONTRAST:g} of it, got {cell.g_min:g} and {cell.g_max:g} S"
        )
    if tile.slicing == "digits" and (cell.levels or 1) ** tile.slices > DIGITS:
        raise ValueError(
            f"tile.slices must keep cell.levels to the power of them below 2^53, got {cell.levels} ^ {tile.slices}"
        )
    if tile.counts[-1] > SIGNIFICANCE:
        raise ValueError(
            f"tile.significance must keep what the last slice counts at most {SIGNIFICANCE:g} times the first, got "
            f"{tile.counts[-1]:g} times for {tile.slices} slices"
        )
    with np.errstate(all="ignore"):
        _check_cell(cell, sensing, conditions)
        _check_sensing(sensing, cell.g_max, conditions.time_s)
    _check_converters(adc, sensing.v_read, sensing.v_read * cell.g_max, tile.rows * tile.devices)
    _check_wires(wires, cell.g_max)


def _check_cell(cell: Cell, sensing: Sensing, conditions: Conditions) -> None:
    time_s = conditions.time_s
    bound = CELL * cell.g_max
    ends = f"S at most ({CELL:g} g_max)"
    targets = np.linspace(cell.g_min, cell.g_max, 9, dtype=np.float32)
    with _names("cell.programming"):
        reached = [_settled(cell.programming, targets, n, conditions) for n in (0.0, -SIGMAS, SIGMAS)]
        error = cell.programming.std(targets, conditions, np)
        _within("its standard deviation must be", error, bound, ends)
        _check_not_negative(error, targets)
        left = float(np.ptp(np.maximum(reached[0], 0))) / cell.g_max
        if left < KEPT:
            raise ValueError(
                f"at least {KEPT:g} of g_max must be left between the lowest and the highest conductance that cells "
                f"end up at without chance, got {left:g}"
            )
        held = np.maximum(np.concatenate([targets, *reached]), 0)
        _within("its conductances must be", held, (1 + SIGMAS) * bound, ends)
    if cell.drift.active(conditions):

        def later(g: Array, n: float) -> Array:
            with _names("cell.drift"):
                return _settled(cell.drift, g, n, conditions)

        aged = np.concatenate([later(held, n) for n in (-SIGMAS, 0.0, SIGMAS)])
        _within(f"cell.drift: conductances after time_s = {time_s:g} s must be", aged, bound, ends)
        kept = float(np.ptp(later(targets, 0.0))) / cell.g_max
        if kept < KEPT:
            raise ValueError(
                f"cell.drift: at least {KEPT:g} of g_max must be left between the lowest and the highest mean "
                f"conductance after time_s = {time_s:g} s, got {kept:g}"
            )
        held = np.maximum(np.concatenate([held, aged]), 0)
    for part in cell.read_noise.parts:
        with _names("cell.read_noise"):
            noise = _alike("std", part.std, held, conditions, np)
        _within(f"cell.read_noise ({part.kind}): its standard deviation must be", noise, bound, ends)
        with _names(f"cell.read_noise ({part.kind})"):
            _check_not_negative(noise, held)
            _check_memory(part, sensing.read_interval, conditions)


def _check_not_negative(std: Array, g: Array) -> None:
    """Raises ValueError where the standard deviation of a model goes below 0: what to expect of it is not defined."""
    lowest = int(np.argmin(std))
    if std[lowest] < 0:
        raise ValueError(
            f"its standard deviation must be at least 0, got {std[lowest]:.3g} S at {g[lowest]:.3g} S; a fit may need "
            "xp.clip(std, 0, None)"
        )


def _check_memory(part: Correlated, interval: float | None, conditions: Conditions) -> None:
    """The correlation that reads `interval` seconds apart have, or reads far apart where it is None."""
    lags = np.concatenate([[0.0], 2.0 ** np.arange(DOUBLINGS + 1)]) * (interval or conditions.t_read)
    found = part.correlation(lags, conditions)
    if np.shape(found) != lags.shape:
        raise ValueError(f"its correlation must have the shape {lags.shape} of the lags, got {np.shape(found)}")
    falls = found[0] >= 1 - CLOSE and (np.diff(found) <= CLOSE).all() and found[-1] >= -CLOSE
    if not (falls and found[0] <= 1 + CLOSE):
        raise ValueError(
            f"its correlation must be 1 at lag 0, never rise and never be negative, got {found[0]:.7g} at lag 0, "
            f"then {found[1:].min():.7g} to {found[1:].max():.7g}"
        )
    if interval is not None:
        block_shares(lambda distance: part.correlation(distance * interval, conditions))


def _settled(part: Settling, g: Array, n: float, conditions: Conditions) -> Array:
    """What a programming error or a drift makes of cells whose random numbers are all n, or as in `_numbers`."""
    draws = part.draws
    if type(draws) is not int or draws < 0:
        raise ValueError(f"its draws must be a whole number of at least 0, got {draws!r}")
    normals = [np.full_like(g, number) for number in _numbers(draws, n)]
    try:
        return _alike("apply", part.apply, g, normals, conditions, np)
    except IndexError as error:
        raise ValueError(f"`apply` gets {draws} normal numbers a cell, its draws ({error})") from error


def _numbers(draws: int, n: float) -> list[float]:
    """All n; of the many independent ones of a process never all are that far out: n of the first, then any."""
    if draws <= MANY:
        return [n] * draws
    return [n, *np.random.Generator(np.random.Philox(key=0)).standard_normal(draws - 1).tolist()]


def _alike(name: str, method: Callable[..., Any], g: Array, *others: Any) -> Array:
    """What a method of a part gives for conductances, if it has their shape and dtype and leaves them as they are."""
    given = g.copy()
    found = method(given, *others)
    if not np.array_equal(given, g, equal_nan=True):
        raise ValueError(f"`{name}` must leave the conductances that it is given as they are (no g *= 2)")
    if not isinstance(found, np.ndarray) or (found.shape, found.dtype) != (g.shape, g.dtype):
        what = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
        raise ValueError(f"`{name}` must give {g.dtype} {g.shape} for conductances of that kind, got {what}")
    return found


def _check_sensing(sensing: Sensing, g_max: float, time_s: float) -> None:
    unit = sensing.v_read * g_max
    for source in sensing.noise:
        _check_source(f"sensing.noise ({source.kind})", source, sensing.conditions(time_s))
    cells = sensing.white_cell_variance(g_max, np.array([0.0, sensing.v_read]))
    for name, variance in (("amplifier_noise and capacitance", sensing.column_variance), ("thermal and shot", cells)):
        noise = np.sqrt(variance) / unit
        what = f"sensing: noise of {name} in t_read = {sensing.t_read:g} s, in units of v_read g_max, must be"
        _within(what, noise, CURRENT, "at most 1e+06")


def _check_source(where: str, source: SensingNoise, conditions: Conditions) -> None:
    """One that a user added: of a shape it may have, finite and not negative."""
    if source.shape is Shape.CONDUCTANCE:
        raise ValueError(f"{where}: noise of conductances is read noise: list it in cell.read_noise")
    found: tuple[Any, ...]
    if source.shape is Shape.CELL:
        v = np.linspace(0, conditions.v_read, 3)
        if np.shape(source.per_siemens(v, conditions)) != v.shape:
            raise ValueError(f"{where}: `per_siemens` must have the shape of the voltages")
        found = white_fit([source], conditions)
    else:
        found = (source.amount(conditions),)
    if not all(isinstance(f, int | float | np.number) for f in found):
        raise ValueError(f"{where}: `amount` must be a number, got {brief(found[0])}")
    if not (np.isfinite(found).all() and min(found) >= 0):
        what = "c0 and c2 of its fit" if source.shape is Shape.CELL else "its amount"
        raise ValueError(f"{where}: {what} must be finite and at least 0, got {', '.join(f'{f:g}' for f in found)}")


def _check_converters(adc: Adc, v_read: float, one: float, rows: int) -> None:
    """Check the ADC for reads at `v_read`, where a cell at g_max gives a current of `one`, and for tiles of `rows`."""
    if adc.bits is None:
        return
    top = 2.0 ** (adc.bits - 1)  # steps of a full scale, about
    if adc.calibrated_at is not None and not FINEST <= adc.calibrated_at / v_read <= 2 * top:
        raise ValueError(
            f"adc.calibrated_at must be {FINEST:g} to {2 * top:g} times sensing.v_read = {v_read:g} V, or no "
            f"current is more than half a step of {adc.bits} bits, got {adc.calibrated_at:g} V"
        )
    if isinstance(adc.full_scale, float):
        low, high = FINEST * one, 2 * top * one * rows
        if not low <= adc.full_scale <= high:
            raise ValueError(
                f"adc.full_scale must be {low:.3g} to {high:.3g} A (a millionth of v_read g_max; all cells of a bit "
                f"line at g_max and v_read make half a step of {adc.bits} bits), got {adc.full_scale:g} A"
            )


def _check_wires(wires: Wires, g_max: float) -> None:
    most = WIRE / g_max
    for name in ("r_word_line", "r_bit_line", "r_driver", "r_sense"):
        resistance = getattr(wires, name)
        if resistance > most:
            raise ValueError(f"wires.{name} must be at most {WIRE:g} / cell.g_max = {most:.3g} ohm, got {resistance:g}")


def _within(what: str, values: Any, bound: float, ends: str) -> None:
    worst = float(np.max(np.abs(values)))
    if not worst <= bound:
        most = f"{bound:.3g} {ends}" if not ends.startswith("at") else ends
        raise ValueError(f"{what} {most}, got {worst:.3g}")


@contextmanager
def _names(field: str) -> Iterator[None]:
    """Arithmetic that fails is an error that names the field; those of the models name what they are about."""
    try:
        yield
    except (OverflowError, ZeroDivisionError) as error:
        raise ValueError(f"{field}: its numbers are out of range ({error})") from error
    except ValueError as error:
        raise ValueError(str(error) if "time_s" in str(error) else f"{field}: {error}") from error
