"""Equalisation of channels: factors that inputs are divided by and weights multiplied, as SmoothQuant has them.

A few channels of a transformer's activations are many times as large as the others, in all tokens, and take the whole
range of a DAC. What is too much for the inputs goes into the weights, where there is room (Xiao et al., ICML 2023).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import torch

from .errors import MappingError
from .inference import Inference, OnTiles
from .inputs.batches import Batch
from .mapped import MappedNetwork
from .prepare import goes_through
from .scaling import LARGEST, LEAST, by_row

Array = np.ndarray[Any, Any]


@dataclass
class ChannelMaxima(Inference):
    """Computes digitally, and keeps the largest |input| of each channel, over all calls of a layer, in `found`."""

    found: dict[str, torch.Tensor] = field(default_factory=dict)

    def _output(self, layer: OnTiles, x: torch.Tensor, call: int) -> torch.Tensor:
        values = layer.arranged(x).values.detach()
        if values.numel():
            most = values.abs().amax((0, 1, 2, 3))
            known = self.found.get(layer.name, most)
            self.found[layer.name] = torch.maximum(known, most)
        return layer.digital(x)


def equalise(chip: MappedNetwork, batches: Iterable[Batch]) -> None:
    """Equalise the channels of layers whose `dac.equalise` is an alpha, and that inputs reach.

    The factors are s_j = max|x_j|^alpha / max|w_j|^(1 - alpha).

    Raises:
        MappingError: without inputs, or with such as do not fit the model.
    """
    alphas = {name: layer.hardware.dac.equalise for name, layer in chip.layers.items()}
    wanted = {name: alpha for name, alpha in alphas.items() if alpha is not None}
    if not wanted:
        return
    run, batch = ChannelMaxima(), None
    for batch in batches:
        trial, mine = chip.trial(), batch.apart()
        run.calls.clear()
        with goes_through(batch):
            trial.run(mine.args, run, mine.kwargs)
    if batch is None:
        raise MappingError("dac.equalise: pass calibrate=, a batch of real inputs, from which the factors are found")
    for name, alpha in wanted.items():
        if name not in run.found:
            continue
        layer, most = chip.layers[name], run.found[name]
        weights, kernel = layer.matrix.weights, prod(layer.spec.patches.kernel)
        factors = factors_of(most.cpu().numpy(), channel_maxima(weights, kernel), alpha)
        layer.equaliser = torch.from_numpy(factors)
        layer.matrix = replace(layer.matrix, weights=weights * by_row(factors, weights.shape))


def channel_maxima(weights: Array, kernel: int) -> Array:
    """(channels,) largest |weight| of each channel of the inputs, of weights (groups, rows, outputs).

    `kernel` positions of each channel are word lines, the channel running fastest.
    """
    groups = len(weights)
    found: Array = np.abs(weights).max(axis=2).reshape(groups, kernel, -1).max(axis=1).reshape(-1)
    return found


def factors_of(inputs: Array, weights: Array, alpha: float) -> Array:
    """(channels,) float32, from the largest |input| and |weight| of each; 1 where one of them is 0 or not finite."""
    x, w = inputs.astype(np.float64), weights.astype(np.float64)
    there = np.isfinite(x) & np.isfinite(w) & (x > 0) & (w > 0)
    x, w = np.where(there, x, 1.0), np.where(there, w, 1.0)
    return np.clip(x**alpha / w ** (1 - alpha), LEAST, LARGEST).astype(np.float32)
