"""How circuits change from one technology node to another: area, energy, capacitance."""

from __future__ import annotations

from bisect import bisect_left
from math import exp, log

NODE = 32e-9
"""Of the constants in `costs.yaml`, in metres."""
SUPPLY = 0.9
"""Their supply in volts: nominal at 32 nm (ITRS 2011, as in the predictive technology models of Arizona State)."""

# Stillmaker and Baas 2017 (Integration 58:74): node in nm; area of digital circuits, that of 32 nm being 1; and a, b, c
# of the energy a V^2 + b V + c of a gate at the supply V
_DIGITAL = {
    7: (0.13, (0.1776, -0.09097, 0.02447)),
    10: (0.22, (0.2068, -0.09311, 0.02375)),
    14: (0.38, (0.2363, -0.09675, 0.02239)),
    16: (0.41, (0.2958, -0.1241, 0.03024)),
    20: (0.46, (0.373, -0.1582, 0.04104)),
    32: (1.0, (0.9559, -0.7823, 0.471)),
    45: (2.2, (1.103, -0.362, 0.2767)),
    65: (3.3, (3.755, -4.398, 1.975)),
    90: (6.1, (4.762, -4.781, 2.092)),
    130: (14.0, (7.171, -6.709, 2.904)),
}
_NODES = sorted(_DIGITAL)


def _between(node: float, values: dict[int, float]) -> float:
    """Interpolated along straight lines of the logarithms."""
    nm = node * 1e9
    if not _NODES[0] * (1 - 1e-9) <= nm <= _NODES[-1] * (1 + 1e-9):
        raise ValueError(f"node: must be {_NODES[0]} nm to {_NODES[-1]} nm, got {nm:g} nm")
    upper = min(max(bisect_left(_NODES, nm * (1 - 1e-9)), 1), len(_NODES) - 1)
    low, high = _NODES[upper - 1], _NODES[upper]
    part = log(nm / low) / log(high / low)
    return exp((1 - part) * log(values[low]) + part * log(values[high]))


def digital_area(node: float) -> float:
    """Area of a digital circuit at `node` (metres), that at 32 nm being 1 (Stillmaker and Baas 2017).

    Raises:
        ValueError: a node outside 7 to 130 nm.
    """
    return 1.0 if node == NODE else _between(node, {nm: area for nm, (area, _) in _DIGITAL.items()})


def digital_energy(node: float, supply: float) -> float:
    """Energy of a digital operation at `node` (metres) and `supply` (volts), that at 32 nm and 0.9 V being 1.

    Stillmaker and Baas 2017; their curves hold near the nominal supply of each node.

    Raises:
        ValueError: a node outside 7 to 130 nm, or a supply that is not positive.
    """
    if not supply > 0:
        raise ValueError(f"supply: must be positive, got {supply:g} V")
    if (node, supply) == (NODE, SUPPLY):
        return 1.0
    here = {nm: a * supply**2 + b * supply + c for nm, (_, (a, b, c)) in _DIGITAL.items()}
    a, b, c = _DIGITAL[round(NODE * 1e9)][1]
    return _between(node, here) / (a * SUPPLY**2 + b * SUPPLY + c)


def analog_area(node: float) -> float:
    """Area of an analog circuit, or one of thick oxide, at `node` (metres), that at 32 nm being 1.

    It goes with node^0.993, as the area of converters does (Andrulis et al. 2024, arXiv 2404.06553): capacitors and
    matched transistors shrink less than logic. For thick oxide that is an assumption.
    """
    return (node / NODE) ** AREA_EXPONENT


AREA_EXPONENT = 0.99328


def analog_energy(supply: float) -> float:
    """Energy of an analog circuit at `supply` (volts), that at 0.9 V being 1.

    Its capacitors are as large as noise demands at every node, so that the energy goes with the square of the supply.
    """
    return (supply / SUPPLY) ** 2
