"""Accuracies of variants of a chip, all on the same samples with the same reads."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from ...crossbar.programmed import Programmed
from ...crossbar.reader import Counts
from ...devices.data import ExtrapolationWarning
from ..arrays import as_numpy
from ..chip import Chip
from ..inference import Survey
from ..inputs.batches import Batch, batches_in
from ..layers import TileLayer
from ..outputs import Where
from ..voting.asked import whole_number
from ..voting.intervals import tensor_of
from ..voting.votes import vote
from .differences import Scores
from .partly import Variant, View
from .sources import Without, without

Array = np.ndarray[Any, Any]
Tell = Callable[[int, int, str], None]
BATCH = 250  # samples that are processed together
CALIBRATED = 256  # samples that ranges are found from


class Exhausted(Exception):
    """No further accuracy may be measured."""


class Bench:
    """Measures accuracies, so many at most.

    Attributes:
        chip: a copy of the chip that is asked about, whose layers may be given other tiles for a while.
        samples: how many are classified.
        votes: inferences of each.
        done: accuracies measured so far.
    """

    def __init__(
        self, chip: Chip, images: Any, labels: Any, *, samples: int, votes: int, output: Where, most: int, tell: Tell
    ) -> None:
        self.chip = chip.remade(chip.hardware, lambda layer: layer.tiles)
        self.votes, self.output, self.most, self.tell = whole_number("votes", votes), output, most, tell
        self.batches, self.labels = _first(images, labels, chip, whole_number("samples", samples))
        self.samples = sum(batch.samples for batch in self.batches)
        self.rule = "mean" if _numbers(self.labels) else "hard"
        self.names = tuple(chip.layers)
        self.done, self.planned, self.began = 0, 2, time.monotonic()

    def left(self) -> int:
        """How many accuracies may still be measured."""
        return self.most - self.done

    def of(self, chip: Chip | None = None, variant: Variant = Variant(), votes: int | None = None) -> Scores:  # noqa: B008
        """What the answers of a chip (None: the own one) in a variant are worth.

        Raises:
            Exhausted: it may not be measured any more.
            ValueError: labels or outputs that do not fit each other.
        """
        if self.done >= self.most:
            raise Exhausted
        view = cast(Chip, View(chip or self.chip, variant))
        with quiet():
            result = vote(  # type: ignore[call-overload]
                view, self.batches, votes or self.votes, batch_size=BATCH, rule=self.rule, output=self.output
            )
        self.done += 1
        return Scores.of(result, self.labels)

    def say(self, text: str) -> None:
        """Tell what was measured."""
        self.tell(self.done, max(self.planned, self.done), text)

    @property
    def clipped(self) -> dict[str, Counts]:
        """Conversions of each layer so far."""
        return {name: layer.counts for name, layer in self.chip.layers.items()}

    def digital(self) -> Scores:
        """Of the network, computed digitally."""
        return self.of(variant=Variant(digital=frozenset(self.names)), votes=1)

    def off(self, sources: Mapping[str, Iterable[str]]) -> Scores:
        """Of the chip without these sources of error in these layers.

        Raises:
            ValueError: hardware that cannot be so.
        """
        with quiet():
            made = {name: without(self.chip.layers[name], off, self.inputs) for name, off in sources.items()}
        variant = Variant(
            quiet=frozenset(name for name, one in made.items() if one.quiet),
            inputs={name: one.spared for name, one in made.items() if one.spared},
        )
        with self._with(made):
            return self.of(variant=variant)

    @contextmanager
    def _with(self, made: Mapping[str, Without]) -> Iterator[None]:
        """Give layers other tiles for a while."""
        before: dict[str, Programmed] = {name: self.chip.layers[name].tiles for name in made}
        try:
            for name, one in made.items():
                self.chip.layers[name].programmed = one.tiles
            yield
        finally:
            for name, tiles in before.items():
                self.chip.layers[name].programmed = tiles

    def inputs(self, layer: TileLayer) -> tuple[Array, ...]:
        """What a layer is read with in the exact network, of the first samples, as `Reader.read` takes it."""
        found = Survey({layer.name: []})
        batch = self.batches[0].part(0, min(CALIBRATED, self.batches[0].samples)).apart()
        self.chip.trial().run(batch.args, found, batch.kwargs)
        pairs = zip(found.inputs[layer.name], found.orders[layer.name], strict=True)
        return tuple(as_numpy(layer.scaled(torch.from_numpy(x), order).values) for x, order in pairs)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of settings outside the data behind their models, which the chip has had."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)
        yield


def _numbers(labels: torch.Tensor) -> bool:
    """Whether labels are numbers to be met, not classes."""
    return labels.is_floating_point() and bool((labels != labels.round()).any())


def _first(images: Any, labels: Any, chip: Chip, samples: int) -> tuple[list[Batch], torch.Tensor]:
    """The first samples as batches, each to be read again, and their labels.

    Raises:
        ValueError: no labels, or others than the samples have.
    """
    if isinstance(images, list) and images and all(isinstance(x, (bool, int, float)) for x in tree_leaves(images)):
        images = tensor_of("images", images)
    batches: list[Batch] = []
    found: list[torch.Tensor] = []
    left, total = samples, 0
    for batch, own in batches_in(images, chip.model, "images"):
        many, total = min(left, batch.samples), total + batch.samples
        batches.append(batch.part(0, many).apart())
        if own is not None:
            found.append(tensor_of("labels", own)[:many])
        left -= many
        if not left:
            break
    if labels is not None:
        known = tensor_of("labels", labels)
        whole = left > 0 or isinstance(images, (torch.Tensor, np.ndarray, tuple, Mapping, Batch))
        if not known.ndim or len(known) < total or (whole and len(known) > total):
            raise ValueError(f"labels must be those of {total} samples, got shape {tuple(known.shape)}")
        return batches, known[: samples - left]
    if len(found) < len(batches):
        raise ValueError("labels are missing: give them, or batches that bring them along")
    if len({tuple(part.shape[1:]) for part in found}) > 1:
        raise ValueError("labels of batches must have one shape, or be given as one tensor")
    return batches, torch.cat(found)
