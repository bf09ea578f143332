"""What the tasks of a sweep that share a chip work on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from ..mapping.chip import Chip
from ..mapping.inputs.batches import Batch
from ..mapping.outputs import Where
from ..mapping.voting.adaptive import adaptive_vote
from ..mapping.voting.clusters import compared
from ..mapping.voting.votes import vote
from .file import Settings

Counts = np.ndarray[Any, np.dtype[np.int64]]


class Decided(NamedTuple):
    """Of each of n samples: right answers, answers, inferences that it took, rounds of them; (n,) each."""

    right: Counts
    answers: Counts
    reads: Counts
    rounds: Counts


@dataclass
class Bench:
    """One chip and all the labelled inputs there are; what one task has read, the next need not read again.

    Attributes:
        chip: as mapped for the settings of the tasks.
        images: (n, ...), or inputs by name; a task uses the first of them, `images[:n]`.
        labels: (n,), or (n, ...) where a sample has several answers.
        output: where the scores are in what the network returns, as `mho.vote` takes it.
    """

    chip: Chip
    images: torch.Tensor | Batch
    labels: torch.Tensor
    output: Where = None
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    def right(self, start: int, stop: int, settings: Settings) -> Counts:
        """(votes,) right answers to samples start to stop after 1, 2, ... votes."""
        found: Counts = self.answers(start, stop, settings)[0].sum(axis=0)
        return found

    def answers(self, start: int, stop: int, settings: Settings) -> tuple[Counts, Counts]:
        """(n, votes) right answers to samples start to stop after 1, 2, ... votes, and (n,) all that count."""
        key = start, stop, settings.copies, settings.rule, settings.layers
        found: tuple[Counts, Counts] | None = self._kept.get(key)
        if found is None or found[0].shape[1] < settings.votes:
            found = self._kept[key] = self._vote(start, stop, settings, settings.votes)
        return found[0][:, : settings.votes], found[1]

    def decided(self, start: int, stop: int, settings: Settings) -> Decided:
        """What the votes of the settings decide for samples start to stop."""
        votes, copies, error, n = settings.votes, settings.copies, settings.vote_error, stop - start
        if error is None:
            right, answers = self.answers(start, stop, settings)
            return Decided(right[:, -1], answers, np.full(n, votes), np.full(n, -(-votes // copies)))
        found = adaptive_vote(
            self.chip,
            self.images[start:stop],
            votes,
            error=error,
            batch_size=settings.batch_size,
            copies=copies,
            rule=settings.rule,
            first_sample=start,
            output=self.output,
        )
        right, answers = self.scored(found.classes[..., None], found.softmax.shape[-1], found.mask, start, settings)
        return Decided(right[:, 0], answers, found.reads.numpy(), found.rounds.numpy())

    def clipped(self, start: int, stop: int, settings: Settings) -> Counts:
        """Inputs, inputs clipped, readings, readings clipped in the first inference of samples start to stop."""
        if ("clipped", start, stop) not in self._kept:
            before = self._conversions()
            right = self._vote(start, stop, settings, 1)
            self._kept["clipped", start, stop] = self._conversions() - before
            self._kept.setdefault((start, stop, 1, settings.rule), right)
        found: Counts = self._kept["clipped", start, stop]
        return found

    def scored(
        self, found: torch.Tensor, classes: int, mask: torch.Tensor | None, start: int, settings: Settings
    ) -> tuple[Counts, Counts]:
        """(n, ways) right answers of samples from start on among those found (n, ..., ways), and (n,) all that count.

        Raises:
            ValueError: labels that are no classes, or of another shape.
        """
        labels = self.labels[start : start + len(found)]
        shape, got = tuple(found.shape[:-1]), tuple(labels.shape)
        if got != shape:
            raise ValueError(f"labels must have shape {shape}, as the network answers, got {got}")
        if labels.is_floating_point():
            raise ValueError("labels must be numbers of classes, got fractions; experiment regression takes numbers")
        found, truth, counted = compared(found, labels, mask, None, classes=classes, next_token=settings.next_token)
        right = ((found == truth[..., None]) & counted[..., None]).reshape(len(found), -1, found.shape[-1]).sum(dim=1)
        return right.numpy(), counted.reshape(len(counted), -1).sum(dim=1).numpy()

    def _vote(self, start: int, stop: int, settings: Settings, votes: int) -> tuple[Counts, Counts]:
        result = vote(
            self.chip,
            self.images[start:stop],
            votes,
            batch_size=settings.batch_size,
            copies=min(settings.copies, votes),
            rule=settings.rule,
            first_sample=start,
            output=self.output,
            layers=settings.layers,
        )
        return self.scored(result.winners, result.softmax.shape[-1], result.mask, start, settings)

    def _conversions(self) -> Counts:
        total = np.zeros(4, np.int64)
        for layer in self.chip.layers.values():
            counts, rounds = layer.counts, layer.hardware.dac.bits is not None
            inputs = (counts.inputs, counts.inputs_clipped) if rounds else (0, 0)
            total += (*inputs, counts.readings, counts.readings_clipped)
        return total
