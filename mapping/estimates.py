"""Squared errors of a few reads, fitted over the size of the outputs, with standard errors.

An error that all reads share is found from products of different reads, whose mean is its square and of which read
noise has no share. Such a mean is never exactly zero, so that each figure comes with its standard error, and is none
where it is no larger than chance makes it.

Samples are independent of each other, positions of one sample need not be: standard errors are those of clustered data
(Liang and Zeger 1986, Biometrika 73:13). Each sample's part in an estimate is its *influence*, and the sum of the
squared influences is the variance. |y| is taken as given: what other inputs would give that have the same outputs.
A variance of few samples is itself unsure: standard errors are widened by the quantile of Student's t over that of a
normal number, so that the figure plus or minus 1.96 of them is the 95 % interval however few samples there are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import nnls
from scipy.special import fdtri, ndtr, ndtri, stdtrit

__all__ = ["ERRORS", "FIGURES", "LEAST", "fit", "gain_with_error", "is_shared", "mean_with_error", "of_pairs"]

Array = np.ndarray[Any, Any]
BINS = 30  # of outputs by size, of equal numbers
PER_BIN = 8  # outputs at least, whose spread tells how sure their mean is; there are two bins or more
ERRORS = 3  # standard errors below which a figure is none
CHANCE = float(ndtr(-ERRORS))  # of noise that looks like a finding
INTERVAL = 0.975  # quantile that ends a 95 % interval
LEAST = 0.05  # of the mean squared error: what lies below counts as this much
NOTHING = 1e-6  # errors below this part of the outputs are rounding
HOLDS = 0.25  # largest `misfit` of a model that is taken to hold
MISFITS = ("misfit", "misfit_outputs")
FIGURES = ("sigma_add", "sigma_mult", "misfit", "misfit_outputs", "rms")


def of_pairs(errors: Array) -> Array:
    """What reads (reads, rows, outputs) have in common, squared: the mean product of two different reads of each
    output.
    """
    reads = len(errors)
    return (np.square(errors.sum(axis=0)) - np.square(errors).sum(axis=0)) / (reads * (reads - 1))


def is_shared(errors: Array, scale: Array) -> bool:
    """Whether reads (reads, rows, outputs) have more in common than chance would give, by random changes of sign.

    If they share nothing, the errors of a whole row may as well have the other sign in any of its reads: that gives the
    spread of the sum of all products of different reads, whatever the outputs of a row have in common. Errors are taken
    relative to `scale`, a standard deviation for each output.
    """
    total, variance = 0.0, 0.0
    for start in range(0, errors.shape[1], 256):
        part = slice(start, start + 256)
        e = (errors[:, part] / scale[part]).transpose(1, 0, 2)
        products = e @ e.transpose(0, 2, 1)
        products[:, np.arange(len(errors)), np.arange(len(errors))] = 0
        total += float(products.sum())
        variance += 2 * float(np.square(products).sum())
    return total > ERRORS * np.sqrt(variance)


def gain_with_error(product: Array, mean: Array, samples: Array) -> tuple[float, float]:
    """The factor that brings exact products (rows, outputs) closest to what comes out, and its standard error.

    1 where the products are all zero, and where the factor is within `ERRORS` of that. `samples` (rows,) counts from 0.
    """
    power = float(np.square(product).sum())
    if not power:
        return 1.0, 0.0
    gain = float((product * mean).sum()) / power
    moved = (product * (mean - gain * product)).sum(axis=1) / power
    error = float(np.linalg.norm(_corrected(np.bincount(samples, moved))))
    return (1.0 if abs(gain - 1) <= _times(samples) * error else gain), _widened(samples) * error


def mean_with_error(values: Array, samples: Array) -> tuple[float, float]:
    """Mean of values (rows, outputs) and its standard error, of which samples they happen to be."""
    moved = _influence(values, np.zeros(values.size, np.int64), samples)
    return float(values.mean()), _widened(samples) * float(np.linalg.norm(moved))


def fit(
    y: Array, squared: Array, noise: Array, samples: Array | None = None, *, found: bool = True
) -> dict[str, float | bool]:
    """sigma_add and sigma_mult of E[squared | y] = sigma_add^2 + sigma_mult^2 y^2, by weighted least squares.

    Over up to `BINS` bins of equally many outputs by |y|, whose means are weighted as if their errors went with the
    squared error of a read: what is fitted and the noise together.

    Args:
        y: (rows, outputs), as are the next two.
        squared: unbiased squared errors, so that some are below 0.
        noise: squared error of what `squared` is measured with.
        samples: (rows,) the sample of each row, from 0; None for numbers that nothing was drawn for, which are taken as
            they are, without standard errors.
        found: False for errors that are none; those below `NOTHING` of the outputs are too.

    Returns:
        `sigma_add`, `sigma_mult`, `misfit`, `misfit_outputs`, `holds` and `rms`, and of all but `holds` the standard
        error `..._se`.
    """
    rounding = NOTHING**2 * float(np.square(y).mean())
    average = float(squared.mean())
    found = found and average > rounding
    if not found and float(noise.mean()) <= rounding:
        return _exact(average)
    bins = _bins(y)
    size = np.bincount(bins)
    power, mean, floor = (np.bincount(bins, v.reshape(-1)) / size for v in (np.square(y), squared, noise))
    design = np.stack([np.ones_like(power), power], axis=1)
    least, floor = LEAST * max(average, 0.0), floor + LEAST * floor.mean()
    solution, level = _solution(mean, design, least, floor)
    solve = np.linalg.pinv(design / level[:, None]) / level
    moved = errors = np.zeros(2)
    total, wider = 0.0, 1.0
    if samples is not None:
        wider = _widened(samples)
        moved = _influence(squared - solution[1] * np.square(y), bins, samples)
        errors = wider * np.linalg.norm(moved @ solve.T, axis=0)
        total = wider * float(np.linalg.norm(moved @ size)) / y.size
    if not found:
        solution, average = np.zeros(2), 0.0
    result: dict[str, float | bool] = {}
    figures = zip(("sigma_add", "sigma_mult", "rms"), (*solution, average), (*errors, total), strict=True)
    for name, square, error in figures:
        result[name], result[f"{name}_se"] = _root(float(square), float(error))
    if not found:
        return {**result, **{n: 0.0 for name in MISFITS for n in (name, f"{name}_se")}, "holds": True}
    of_outputs = np.stack([np.ones(y.shape[1]), np.square(y).mean(axis=0)], axis=1)
    means = mean, squared.mean(axis=0)
    influences: list[Array | None] = [None, None]
    if samples is not None:
        kept, solve = solution > 0, np.zeros_like(solve)
        solve[kept] = np.linalg.pinv(design[:, kept] / level[:, None]) / level
        columns = np.broadcast_to(np.arange(y.shape[1]), y.shape).reshape(-1)
        outputs = _influence(squared - solution[1] * np.square(y), columns, samples)
        influences = [u - moved @ solve.T @ x.T for u, x in ((moved, design), (outputs, of_outputs))]
    for name, x, seen, influence in zip(MISFITS, (design, of_outputs), means, influences, strict=True):
        fitted = x @ solution
        result[name], result[f"{name}_se"] = _misfit(seen - fitted, np.maximum(fitted, least), influence, wider)
    return {**result, "holds": bool(max(result[name] for name in MISFITS) <= HOLDS)}


def _exact(average: float) -> dict[str, float | bool]:
    """What `fit` gives where nothing was noisy."""
    found: dict[str, float | bool] = {f"{name}{part}": 0.0 for name in FIGURES for part in ("", "_se")}
    return {**found, "rms": float(np.sqrt(max(average, 0.0))), "holds": True}


def _bins(y: Array) -> Array:
    """(outputs,) the bin of each: up to `BINS` of equally many outputs by |y|."""
    bins = np.empty(y.size, np.int64)
    order = np.argsort(np.abs(y), axis=None)
    for b, part in enumerate(np.array_split(order, min(BINS, max(2, y.size // PER_BIN), y.size))):
        bins[part] = b
    return bins


def _solution(mean: Array, design: Array, least: float, floor: Array) -> tuple[Array, Array]:
    """The fit of means, at least 0, and the level of each that it is relative to, which is found with it."""
    level = np.maximum(mean, least) + floor
    for _ in range(5):
        solution, _ = nnls(design / level[:, None], mean / level)
        level = np.maximum(design @ solution, least) + floor
    return solution, level


def _influence(values: Array, groups: Array, samples: Array) -> Array:
    """(samples, groups) influence of each sample on the means of the values of each group."""
    values, count = values.reshape(-1), int(groups.max()) + 1
    size = np.bincount(groups)
    off = (values - (np.bincount(groups, values) / size)[groups]) / size[groups]
    rows = np.repeat(samples, len(values) // len(samples))
    moved = np.bincount(rows * count + groups, off, minlength=(int(samples.max()) + 1) * count)
    return _corrected(moved.reshape(-1, count))


def _corrected(influence: Array) -> Array:
    """For the mean that was taken off, which is nearer to a sample than the true one is."""
    return influence * np.sqrt(len(influence) / (len(influence) - 1))


def _times(samples: Array) -> float:
    """Standard errors that chance makes as rarely as `ERRORS` of a normal number, which of few samples are more."""
    return -float(stdtrit(int(samples.max()), CHANCE))


def _widened(samples: Array) -> float:
    """What standard errors of so few samples are multiplied by, to give 95 % intervals as those of many do."""
    return float(stdtrit(int(samples.max()), INTERVAL) / ndtri(INTERVAL))


def _root(square: float, error: float) -> tuple[float, float]:
    """The root of a square, and its standard error: the way down, or up where the square may be 0."""
    root = np.sqrt(max(square, 0.0))
    return float(root), float(root - np.sqrt(square - error) if square > ERRORS * error else np.sqrt(error))


def _misfit(off: Array, level: Array, influence: Array | None, wider: float) -> tuple[float, float]:
    """Root mean square of deviations (n,) relative to a level (n,), less what sampling gives, and its standard error.

    `influence` (samples, n) on the deviations. Sampling alone gives a sum of squares of normal numbers with the
    variances of these; where the deviation is no more than that makes with a probability of `CHANCE`, it is none. The
    distribution is that of F with the same mean and variance (Satterthwaite 1946, Biometrics Bulletin 2:110). The
    standard error is `wider` times what the influence gives.
    """
    off = off / level
    square = float(np.square(off).mean())
    if influence is None:
        return float(np.sqrt(square)), 0.0
    moved = influence / level
    small = moved @ moved.T if len(moved) < len(off) else moved.T @ moved
    first, second = float(np.trace(small)), float(np.square(small).sum())
    if first == 0:
        return float(np.sqrt(square)), 0.0
    chance = first / len(off)
    none = square <= chance * float(fdtri(first**2 / second, len(moved) - 1, 1 - CHANCE))
    excess = 0.0 if none else max(square - chance, 0.0)
    spread = 2 * second if none else max(4 * float(np.square(moved @ off).sum()) - 2 * second, 2 * second)
    return _root(excess, wider * float(np.sqrt(spread)) / len(off))
