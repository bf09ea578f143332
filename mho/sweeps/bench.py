"""What the tasks of a sweep that share a chip work on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..mapping.chip import Chip
from ..mapping.voting.adaptive import adaptive_vote
from ..mapping.voting.votes import vote
from .file import Settings

Counts = np.ndarray[Any, np.dtype[np.int64]]


@dataclass
class Bench:
    """One chip and all the labelled pictures there are; what one task has read, the next need not read again.

    Attributes:
        chip: as mapped for the settings of the tasks.
        images: (n, ...); a task uses the first of them.
        labels: (n,).
    """

    chip: Chip
    images: torch.Tensor
    labels: torch.Tensor
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    def right(self, start: int, stop: int, settings: Settings) -> Counts:
        """(votes,) right answers to pictures start to stop after 1, 2, ... votes."""
        key = start, stop, settings.copies, settings.rule
        found: Counts | None = self._kept.get(key)
        if found is None or len(found) < settings.votes:
            found = self._kept[key] = self._vote(start, stop, settings, settings.votes)
        return found[: settings.votes]

    def decided(self, start: int, stop: int, settings: Settings) -> Counts:
        """Right answers to pictures start to stop, inferences that they took, squares of these, rounds of them."""
        votes, copies, error, n = settings.votes, settings.copies, settings.vote_error, stop - start
        if error is None:
            right = self.right(start, stop, settings)[-1]
            return np.array([right, n * votes, n * votes**2, n * -(-votes // copies)])
        images, labels = self.images[start:stop], self.labels[start:stop]
        size, rule = settings.batch_size, settings.rule
        found = adaptive_vote(
            self.chip, images, votes, error=error, batch_size=size, copies=copies, rule=rule, first_sample=start
        )
        taken = (found.reads, found.reads**2, found.rounds)
        return np.array([int((found.classes == labels).sum()), *(int(each.sum()) for each in taken)])

    def clipped(self, start: int, stop: int, settings: Settings) -> Counts:
        """Inputs, inputs clipped, readings, readings clipped in the first inference of pictures start to stop."""
        if ("clipped", start, stop) not in self._kept:
            before = self._conversions()
            right = self._vote(start, stop, settings, 1)
            self._kept["clipped", start, stop] = self._conversions() - before
            self._kept.setdefault((start, stop, 1, settings.rule), right)
        found: Counts = self._kept["clipped", start, stop]
        return found

    def _vote(self, start: int, stop: int, settings: Settings, votes: int) -> Counts:
        result = vote(
            self.chip,
            self.images[start:stop],
            votes,
            batch_size=settings.batch_size,
            copies=min(settings.copies, votes),
            rule=settings.rule,
            first_sample=start,
        )
        found: Counts = (result.winners == self.labels[start:stop, None]).sum(dim=0).numpy()
        return found

    def _conversions(self) -> Counts:
        total = np.zeros(4, np.int64)
        for layer in self.chip.layers.values():
            counts, rounds = layer.counts, layer.hardware.dac.bits is not None
            inputs = (counts.inputs, counts.inputs_clipped) if rounds else (0, 0)
            total += (*inputs, counts.readings, counts.readings_clipped)
        return total
