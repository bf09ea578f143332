"""What recurrent layers ask of a chip: which layers they read step by step, and the gains of their inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from ..crossbar.calibration import percentile_of
from .kinds.recurrent import Step
from .layers import TileLayer


def stepped(model: nn.Module) -> set[str]:
    """Names of the tile layers that recurrent layers read, step by step."""
    return {
        layer.name
        for step in model.modules()
        if isinstance(step, Step)
        for layer in step.children()
        if isinstance(layer, TileLayer)
    }


def joints(model: nn.Module) -> dict[str, Step]:
    """The steps by the names of the tile layers that take input and state side by side."""
    steps = (step for step in model.modules() if isinstance(step, Step))
    return {step.joint.name: step for step in steps if isinstance(step.joint, TileLayer)}


def equalize(model: nn.Module, inputs: Mapping[str, list[np.ndarray[Any, Any]]]) -> None:
    """Set the gain of each step's input from the inputs of its joint matrix, which are scaled with it.

    Input and hidden state share a DAC range, and W_ih and W_hh the conductance range. With r for the ranges of the
    inputs and w for the largest weights, a gain of r_h / r_x gives both inputs the whole DAC, w_x / w_h gives both
    matrices all of the conductances (and so the least programming error and read noise), and in between the currents,
    and so what the ADC and its amplifier lose, are the same. The geometric mean of the two shares the loss, as
    SmoothQuant does between activations and weights (Xiao et al., ICML 2023, Eq. 4 with alpha = 1/2).
    """
    for step in model.modules():
        if not isinstance(step, Step) or not isinstance(step.joint, TileLayer):
            continue
        layer, n = step.joint, step.input_size
        dac, weights, seen = layer.hardware.dac, layer.matrix.weights, inputs.get(layer.name)
        if dac.range != "calibrated" or not seen:
            continue
        r_x = percentile_of(dac.percentile, *(x[..., :n] for x in seen))
        r_h = percentile_of(dac.percentile, *(x[..., n:] for x in seen))
        w_x, w_h = np.abs(weights[:, :n]).max(), np.abs(weights[:, n:]).max()
        if not (r_x * r_h * w_x * w_h > 0 and np.isfinite(r_x * r_h)):
            continue
        gain = float(np.float32(np.sqrt(w_x * r_h / (w_h * r_x))))
        step.gain.mul_(gain)
        scaled = np.concatenate([weights[:, :n] / gain, weights[:, n:]], axis=1)
        layer.matrix = replace(layer.matrix, weights=scaled)
        for x in seen:
            x[..., :n] *= gain
