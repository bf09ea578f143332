"""What inferences and decisions cost, as the columns of experiments have it."""

from __future__ import annotations

import math

import numpy as np

from ..mapping.architecture.cost import layer_costs
from ..mapping.architecture.decision import decision
from ..mapping.architecture.loading import Loading
from ..mapping.chip import Chip
from .file import Settings

COSTS = ("decision_energy_j", "total_energy_j", "latency_s", "area_m2")
ENERGY = ("array_energy_j", "inference_energy_j")


def error_of_mean(total: int, squares: int, n: int) -> float:
    """Standard error of the mean of n whole numbers with this sum and sum of squares; NaN for one, which has no spread.

    Whole numbers are exact: those that are all the same have 0.
    """
    return math.sqrt((n * squares - total**2) / (n - 1)) / n if n > 1 else np.nan


def energy_of(chip: Chip) -> dict[str, float]:
    """Of one inference of one image: of the arrays, and all of it."""
    layers = chip.layers.values()
    priced = all(None not in (layer.hardware.dac.bits, layer.hardware.adc.bits) for layer in layers)
    return {
        "array_energy_j": sum((layer.array_energy_j or 0.0) * (layer.positions or 0) for layer in layers),
        "inference_energy_j": float(layer_costs(chip)["energy_j"].sum()) if priced else np.nan,
    }


def costs_of(chip: Chip, settings: Settings, energy: float, mean_reads: float, mean_rounds: float) -> dict[str, float]:
    """What a decision costs (`mho.mapping.architecture.decision`), NaN where a converter has no bits, and so no cost.

    `decision_energy_j` of all its inferences, and `total_energy_j` with the leakage of its share of the time of a full
    pipeline; `latency_s` from the input to the decision in an empty pipeline; `area_m2` of all copies. Adaptive votes
    start a round when the one before is decided, which takes longer than rounds that follow one another through the
    pipeline; meanwhile other inputs fill it. A network that does not fit its chip is written for each decision, with
    adaptive votes for each round.
    """
    if np.isnan(energy):
        return dict.fromkeys(COSTS, np.nan)
    copies = settings.copies
    if settings.layers is not None:
        whole = decision(chip, settings.votes, copies=copies, layers=settings.layers)
        spent = sum(whole.energy.values()) + whole.write_j
        return {
            "decision_energy_j": spent,
            "total_energy_j": spent + whole.leakage_w * whole.interval_s,
            "latency_s": whole.latency_s,
            "area_m2": whole.area_m2,
        }
    a_round = decision(chip, copies, copies=copies)
    latency = mean_rounds * a_round.latency_s
    written = mean_rounds if settings.vote_error is not None else 1.0
    spared = (mean_rounds - written) * a_round.leakage_w * Loading.of(chip).time_s
    if settings.vote_error is None:
        latency = decision(chip, settings.votes, copies=copies).latency_s
    return {
        "decision_energy_j": mean_reads * energy + written * a_round.write_j,
        "total_energy_j": mean_reads * energy
        + written * a_round.write_j
        + mean_rounds * a_round.leakage_w * a_round.interval_s
        - spared,
        "latency_s": latency,
        "area_m2": a_round.area_m2,
    }
