"""What an analog-to-digital conversion costs, by kind of converter, bits and rate: energy, time and area."""

from __future__ import annotations

from math import exp, log
from typing import Literal

from .nodes import AREA_EXPONENT, NODE

Kind = Literal["sar", "ramp", "cyclic", "flash", "cco"]
KINDS: tuple[Kind, ...] = ("sar", "ramp", "cyclic", "flash", "cco")

ADC_FLOOR = 0.5e-15
"""Joules of a quantisation step, at least. About the best measured: 0.44 fJ (Hsieh and Hsieh, VLSI Circuits 2016)."""
RING = 12
"""Gates that switch in one count of a ring oscillator: both edges through five stages, and a flip-flop of the counter,
which toggles twice a count on average. An assumption: no energy of such an oscillator is published apart."""


def _check(bits: int, rate: float) -> None:
    if bits < 1:
        raise ValueError(f"bits: a converter has at least 1 bit, got {bits}")
    if not rate > 0:
        raise ValueError(f"rate: conversions a second must be positive, got {rate}")


def adc_energy(bits: int, rate: float) -> float:
    """Joules of one analog-to-digital conversion, by a good converter of `bits` bits at `rate` conversions a second.

    Schreier figure of merit FoM_S = SNDR + 10 log10(B / P) with bandwidth B = rate / 2, so that
    P / rate = 10^(-(FoM_S - SNDR) / 10) / 2, with SNDR = 6.02 bits + 1.76 dB of an ideal quantiser and
    FoM_S = min(180.14, 302.74 - 6.461 ln rate) dB, a fit to Murmann's "ADC Performance Survey". The floor `ADC_FLOOR`
    times 2^bits holds where the fit would promise more than has been built (few bits, low rates).

    Raises:
        ValueError: fewer than one bit, or a rate that is not positive.
    """
    _check(bits, rate)
    figure_of_merit = min(180.14, 302.74 - 6.461 * log(rate))
    sndr = 6.02 * bits + 1.76
    return max(0.5 * 10 ** (-(figure_of_merit - sndr) / 10), ADC_FLOOR * 2**bits)


def adc_area(rate: float, energy: float, node: float = NODE) -> float:
    """Square metres of a small converter of `rate` conversions a second and `energy` joules each, at `node` (metres).

    exp(1.34619) (node / nm)^0.99328 (rate / Hz)^0.18072 (energy / pJ)^0.29912 um2: the smallest tenth of Murmann's
    survey (Andrulis et al. 2024, arXiv 2404.06553; coefficients of the Accelergy ADC plug-in, release of 2024); bits
    come in through the energy. The survey's converters are whole ones, with references and buffers. Kull's of 2013 (8
    bits, 1.2 GS/s, 2.6 pJ, 32 nm), which ISAAC takes, has 1500 um2 where this law has 7000.
    """
    law = exp(1.34619) * (node * 1e9) ** AREA_EXPONENT * rate**0.18072 * (energy * 1e12) ** 0.29912
    return law * 1e-12


def decisions(kind: Kind, bits: int) -> int:
    """Comparisons (ramp, cyclic, flash) or counts (cco) of one conversion; bits of a successive approximation.

    A ramp and an oscillator take one for each of the 2^bits levels, a flash has 2^bits - 1 comparators, a cyclic
    converter and one by successive approximation compare once a bit.
    """
    return {"sar": bits, "cyclic": bits, "flash": 2**bits - 1, "ramp": 2**bits, "cco": 2**bits}[kind]


def conversion_time(kind: Kind, bits: int, rate: float, clock: float) -> float:
    """Seconds of one conversion: 1 / `rate` of sar and flash, and a period of `clock` (hertz) for each decision of the
    kinds that step (ramp, cyclic) or count (cco).

    Raises:
        ValueError: fewer than one bit, or a rate that is not positive.
    """
    _check(bits, rate)
    return 1 / rate if kind in ("sar", "flash") else decisions(kind, bits) / clock


def conversion_energy(kind: Kind, bits: int, rate: float, *, comparison: float, gate: float) -> float:
    """Joules of one conversion.

    sar: the survey law, `adc_energy` at `rate`. Others: their decisions, each of `comparison` joules, or of a ring
    oscillator's `RING` gates of `gate` joules, and never less than the survey law.

    Raises:
        ValueError: fewer than one bit, or a rate that is not positive.
    """
    law = adc_energy(bits, rate)
    if kind == "sar":
        return law
    return max(law, decisions(kind, bits) * (RING * gate if kind == "cco" else comparison))


def conversion_area(
    kind: Kind, bits: int, rate: float, energy: float, node: float, *, comparator: float, latch: float
) -> float:
    """Square metres of one converter of `energy` joules a conversion.

    sar, cco: the survey law, `adc_area`. ramp, cyclic: one comparator of `comparator` square metres and `latch` for
    each bit; a ramp's generator is shared by all and left out. flash: a comparator for each of its decisions, and
    latches.

    Raises:
        ValueError: fewer than one bit, or a rate that is not positive.
    """
    _check(bits, rate)
    if kind in ("sar", "cco"):
        return adc_area(rate, energy, node)
    return (decisions(kind, bits) if kind == "flash" else 1) * comparator + bits * latch
