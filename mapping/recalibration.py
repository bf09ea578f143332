"""What is measured again on a chip whose cells have changed: ranges of ADCs, and statistics of batch norms.

Joshi et al. 2020 (Nat. Commun. 11:2473) compute the statistics of batch norms again on the chip after it has drifted.
So it is done here, layer after layer: each ADC range is taken from the currents of the cells as they are now, and a
batch norm that stayed digital gets the mean and variance that its inputs have on the chip. One that was folded into a
layer has no statistics left. What stands for them is a gain and an offset of each output channel of that layer
(`crossbar.ranges.Ranges.outputs`), after which its outputs have the mean and variance that the exact network's have for
the same inputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from ..crossbar.calibration import recalibrated
from ..crossbar.reader import Counts
from .arrays import as_numpy
from .errors import MappingError
from .fold import BATCH_NORMS
from .inference import Calibration, order_or_none
from .inputs.batches import Batch
from .layers import TileLayer
from .mapped import MappedNetwork

Array = np.ndarray[Any, Any]
FOLDED = "folded into "  # how the reason of such a batch norm begins


@dataclass
class Sums:
    """Of the values of each channel, over all calls."""

    count: int = 0
    first: Any = 0.0
    second: Any = 0.0

    def add(self, x: torch.Tensor, axis: int) -> None:
        """Values with the channels along an axis."""
        flat = x.detach().to("cpu", torch.float64).movedim(axis, -1).reshape(-1, x.shape[axis]).numpy()
        self.count += len(flat)
        self.first, self.second = self.first + flat.sum(axis=0), self.second + np.square(flat).sum(axis=0)

    @property
    def moments(self) -> tuple[Array, Array]:
        """Mean and variance."""
        mean = self.first / self.count
        return mean, np.maximum(self.second / self.count - np.square(mean), 0)


@dataclass
class Measurement(Calibration):
    """A pass without noise that measures, digitally or on tiles, and sets the statistics of batch norms on its way.

    Attributes:
        folded: names of the layers that took in a batch norm.
        exact: whether it computes digitally.
        correct: what the outputs of these layers are to have, by name; None: nothing is corrected, ranges neither.
        several: names of layers and batch norms that are called several times, which this leaves as they are.
        stats: of the outputs of these layers.
        seen: inputs of the layers, one array for each call.
        norms: of the inputs of batch norms, by name, and how often each was called.
    """

    folded: frozenset[str] = frozenset()
    exact: bool = False
    correct: dict[str, Sums] | None = None
    several: frozenset[str] = frozenset()
    stats: dict[str, Sums] = field(default_factory=dict)
    seen: dict[str, list[Array]] = field(default_factory=dict)
    norms: dict[str, Sums] = field(default_factory=dict)
    called: dict[str, int] = field(default_factory=dict)

    def _output(self, layer: Any, x: torch.Tensor, call: int) -> torch.Tensor:
        if self.exact:
            return self._told(layer, layer.digital(x))
        given = layer.arranged(x)
        driven = layer.scaled(given.values, order_or_none(layer, given, self.samples)).values
        if self.correct is None:
            self.seen.setdefault(layer.name, []).append(as_numpy(driven).copy())
            return self._told(layer, self._on_tiles(layer, given, x, call))
        if layer.name in self.several:
            return self._on_tiles(layer, given, x, call)
        layer.programmed = recalibrated(layer.tiles, (as_numpy(driven),))
        y = self._told(layer, self._on_tiles(layer, given, x, call))
        if layer.name not in self.folded:
            return y
        layer.programmed = corrected(layer, self.correct[layer.name], self.stats[layer.name])
        return self._on_tiles(layer, given, x, call)

    def _told(self, layer: Any, y: torch.Tensor) -> torch.Tensor:
        if layer.name in self.folded:
            self.stats.setdefault(layer.name, Sums()).add(y, y.ndim - 1 - layer.spec.dims)
        return y

    def normalises(self, name: str, norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Told of the input of a batch norm before it normalises."""
        self.called[name] = self.called.get(name, 0) + 1
        self.norms.setdefault(name, Sums()).add(inputs[0], 1)
        if (self.exact or self.correct is not None) and name not in self.several:
            set_statistics(norm, self.norms[name])


def corrected(layer: TileLayer, before: Sums, now: Sums) -> Any:
    """The tiles of a layer with the gain and the offset that give its outputs the means and variances from before.

    The gain is 1 where a channel does not vary.
    """
    (mean, variance), (found, spread) = before.moments, now.moments
    alive = (variance > 0) & (spread > 0)
    gain = np.where(alive, np.sqrt(np.where(alive, variance, 1) / np.where(alive, spread, 1)), 1.0)
    by_column = (layer.spec.columns(torch.from_numpy(v)).numpy() for v in (gain, mean - gain * found))
    return layer.tiles.corrected(*by_column)


def set_statistics(norm: Any, sums: Sums) -> None:
    """Give a batch norm the mean and the (unbiased) variance of its inputs, as training estimates them."""
    mean, variance = sums.moments
    norm.running_mean.copy_(torch.from_numpy(mean))
    norm.running_var.copy_(torch.from_numpy(variance * sums.count / max(sums.count - 1, 1)))


def recalibrate(chip: MappedNetwork, batches: list[Batch]) -> None:
    """Measure again what depends on the cells of a chip, on some inputs: see `Chip.recalibrate`.

    The ranges of layers that are called several times in an inference are measured over all their calls, before
    anything else is corrected.

    Warns:
        UserWarning: a digital batch norm that is called several times, which keeps its statistics: what training
            averaged them over is not what an inference shows.

    Raises:
        MappingError: inputs that do not fit the model, or that are several batches.
    """
    if len(batches) > 1:
        raise MappingError(
            f"inputs: must be one batch, or batches of one tensor each and of one shape, got {len(batches)} others"
        )
    batch = batches[0]
    folded = frozenset(d.reason.removeprefix(FOLDED) for d in chip.digital if d.reason.startswith(FOLDED))
    try:
        seen = _pass(chip, batch, Measurement(folded=folded))
        several = frozenset(name for calls in (seen.calls, seen.called) for name, count in calls.items() if count > 1)
        for name in sorted(several & seen.called.keys()):
            warnings.warn(f"batch norm {name!r} is called several times: its statistics stay as they are", stacklevel=3)
        exact = _pass(chip, batch, Measurement(folded=folded, exact=True, several=several))
        norms = dict(chip.model.named_modules())
        for name in several & chip.layers.keys():
            chip.layers[name].programmed = recalibrated(chip.layers[name].tiles, tuple(seen.seen[name]))
        last = _pass(chip, batch, Measurement(folded=folded, correct=exact.stats, several=several))
        for name in last.norms.keys() - several:
            set_statistics(norms[name], last.norms[name])
    except MappingError:
        raise
    except Exception as error:  # a model may fail in any way on inputs that are not its own
        reason = " ".join(str(error).split())[:300]
        raise MappingError(
            f"inputs: inputs of shape {batch.shape} do not go through the model ({type(error).__name__}: {reason})"
        ) from error
    for layer in chip.layers.values():
        layer.counter.counts = Counts()


def _pass(chip: MappedNetwork, batch: Batch, run: Measurement) -> Measurement:
    """A pass of a copy of the chip, of which only what was programmed is kept."""
    trial, batch = chip.trial(), batch.apart()
    with _told_of(trial.model, run):
        trial.run(batch.args, run, batch.kwargs)
    for name, layer in trial.layers.items():
        chip.layers[name].programmed = layer.programmed
    return run


@contextmanager
def _told_of(model: nn.Module, run: Measurement) -> Iterator[None]:
    """Batch norms with statistics of their own tell the pass of their inputs."""
    norms = {name: m for name, m in model.named_modules() if isinstance(m, BATCH_NORMS) and m.running_mean is not None}
    hooks = [norm.register_forward_pre_hook(partial(run.normalises, name)) for name, norm in norms.items()]
    yield
    for hook in hooks:
        hook.remove()
