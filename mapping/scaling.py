"""Scales of inputs at run time: one a sample or a token, found digitally, by which inputs are divided before the DAC.

Readings are multiplied by them again behind the ADC, so that each sample or token has the whole range of both.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch

from ..crossbar.converters import Dac
from .inputs.order import Order

Array = np.ndarray[Any, Any]
LEAST, LARGEST = 1e-30, 1e30  # factor of an equalisation


class Scaled(NamedTuple):
    """Inputs divided by their scales.

    Attributes:
        values: (samples, depth, height, width, channels), as given.
        scales: (rows of the matrix,) float32: 0 where all inputs are. None where a layer has one range, as calibrated.
    """

    values: torch.Tensor
    scales: torch.Tensor | None = None


def scaled(values: torch.Tensor, dac: Dac, order: Order, size: tuple[int, int, int]) -> Scaled:
    """Arranged inputs (samples, depth, height, width, channels), by sample, divided by the scales that a DAC asks for.

    A token is the vector of the channels in one place. All that is done is done in float32, row by row, so that it does
    not depend on the batch, and gradients pass it.

    Args:
        order: of the rows, by which those of a sample are known.
        size: positions of the patches of each.
    """
    if dac.scaling == "layer":
        return Scaled(values)
    if not values.numel():
        return Scaled(values, values.new_zeros(0))
    token = dac.scaling == "token"
    together = 1 if token else prod(order.others)  # of the arranged samples, in a sample of the model
    vectors = values.reshape(-1, values.shape[-1]) if token else values.reshape(len(values) // together, -1)
    scales = range_of(vectors, dac.percentile)
    divided = (vectors / torch.where(scales > 0, scales, 1)[:, None]).reshape(values.shape)
    return Scaled(divided, scales if token else scales.repeat_interleave(together * prod(size)))


def range_of(vectors: torch.Tensor, percentile: float) -> torch.Tensor:
    """(rows,): the percentile of the magnitudes of each row (rows, values), by linear interpolation.

    It is the largest where the percentile is 0.
    """
    sizes = vectors.abs()
    found = sizes.amax(1)
    if percentile < 100:
        ordered, place = sizes.sort(dim=1).values, (vectors.shape[1] - 1) * percentile / 100
        low, high = ordered[:, int(place)], ordered[:, min(int(place) + 1, vectors.shape[1] - 1)]
        between = low + (high - low) * (place - int(place))
        found = torch.where(between > 0, between, found)
    return found


def by_row(channels: Array, shape: tuple[int, ...]) -> Array:
    """What each channel of the inputs has, (groups, rows, 1), for weights of the shape (groups, rows, outputs)."""
    groups, rows, _ = shape
    each = channels.reshape(groups, 1, -1)
    return np.repeat(each, rows // each.shape[2], axis=1).reshape(groups, rows, 1)


def operations(dac: Dac, values: int, outputs: int, *, equalised: bool) -> int:
    """Digital operations for so many inputs and outputs of a layer.

    A comparison and a multiplication for each input, and a multiplication for each output, where there are scales; one
    multiplication for each input that is equalised. What a percentile takes more than a maximum is left out.
    """
    return (2 * values + outputs if dac.scaling != "layer" else 0) + (values if equalised else 0)
