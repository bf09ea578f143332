"""Votes over repeated noisy inferences."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from ..chip import Chip
from .intervals import Accuracy, Array, tensor_of

TOGETHER = 24e6  # bytes of the largest layer output of the reads made at once: more would not stay in memory kept

Progress = Callable[[int, int], None]


class Result:
    """A result is equal to another of its kind with the same contents."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))  # type: ignore[arg-type]
        return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class VoteResult(Result):
    """What K noisy inferences of n samples decided.

    Attributes:
        classes: (n,) int64, the winners. Hard votes: the class with most inferences for it (the mode); a tie goes to
            the tied class with the larger mean softmax, and then to the lower class number. Soft votes: the class with
            the largest mean softmax.
        counts: (n, classes) int64, inferences for each class.
        softmax: (n, classes) float32, mean softmax over the inferences.
        winners: (n, k) int64, the winners after 1, 2, ... k inferences; the last column is `classes`.
        k: number of inferences.
        rule: hard or soft.
        copies: number of chips that the inferences were spread over. Votes on one chip average only its fresh noise;
            its frozen errors are the same in all of them.
    """

    classes: torch.Tensor
    counts: torch.Tensor
    softmax: torch.Tensor
    winners: torch.Tensor
    k: int
    rule: Literal["hard", "soft"]
    copies: int

    @property
    def margin(self) -> torch.Tensor:
        """(n,) float32: lead of the winner over the next class, as a share of the votes (or of the mean softmax)."""
        best = torch.topk(self._scores, 2, dim=1).values
        return best[:, 0] - best[:, 1]

    def topk(self, k: int) -> torch.Tensor:
        """(n, k) int64: the k best classes, best first, by the same rule as `classes`.

        Raises:
            ValueError: k below 1 or above the number of classes.
        """
        classes = self.counts.shape[1]
        if not 1 <= k <= classes:
            raise ValueError(f"k must be 1 to {classes}, the number of classes, got {k}")
        return order(self.counts, self.softmax, self.rule)[:, :k]

    def accuracy_over_votes(self, labels: Array, confidence: float = 0.95) -> list[Accuracy]:
        """The accuracy after 1, 2, ... k inferences."""
        return [Accuracy.of(winners, labels, confidence) for winners in self.winners.unbind(dim=1)]

    def accuracy(self, labels: Array, confidence: float = 0.95) -> Accuracy:
        """Share of samples whose winner is their label (n,), a float with the Wilson interval `.low`, `.high`.

        Raises:
            ValueError: labels of another length.
        """
        return Accuracy.of(self.classes, labels, confidence)

    @property
    def _scores(self) -> torch.Tensor:
        return self.counts / self.k if self.rule == "hard" else self.softmax


def vote(
    chip: Chip,
    images: torch.Tensor | np.ndarray[Any, Any],
    k: int = 20,
    *,
    batch_size: int | None = 250,
    copies: int = 1,
    rule: Literal["hard", "soft"] = "hard",
    first_sample: int = 0,
    progress: Progress = lambda done, total: None,
) -> VoteResult:
    """Classify samples by k noisy inferences each.

    The inferences are reads 0 to k - 1 of the chip and samples are numbered by their place in `images`, so batches do
    not change the result, and calls of the chip before or after do not either.

    Args:
        chip: the mapped network; its output is (samples, classes).
        images: (n, ...) samples, as a tensor or a NumPy array.
        k: inferences a sample.
        batch_size: samples processed together, at most; None takes all at once.
        copies: chips that the inferences are dealt out to in turn: this one and others of its design (`Chip.copy`).
        rule: hard counts one vote an inference, soft averages the softmax.
        first_sample: place of the first of these samples in the whole data set, when they are a part of it.
        progress: told after each batch how many samples are done, and how many there are.

    Raises:
        ValueError: no samples, k or copies that are no whole numbers of at least 1, more copies than inferences, an
            unknown rule, or a model whose output is not one tensor (samples, classes) with at least two classes.
    """
    asked = prepare(chip, images, k, batch_size, copies, rule, first_sample, progress)
    parts = [_tally(reads_of(asked.chips, batch, start, range(asked.k)), rule) for start, batch in asked.batches]
    counts, softmax, winners = (torch.cat(part) for part in zip(*parts, strict=True))
    return VoteResult(winners[:, -1], counts, softmax, winners, asked.k, rule, asked.copies)


class Election(NamedTuple):
    """The arguments of `vote`, checked: the chips that vote, the samples of a batch (`size`), and the others."""

    chips: list[Chip]
    images: torch.Tensor
    k: int
    size: int
    copies: int
    first_sample: int
    progress: Progress

    @property
    def batches(self) -> Iterator[tuple[int, torch.Tensor]]:
        """The batches, and the place of their first sample in the whole data set."""
        for start in range(0, len(self.images), self.size):
            batch = self.images[start : start + self.size]
            yield self.first_sample + start, batch
            self.progress(start + len(batch), len(self.images))


def prepare(
    chip: Chip,
    images: Any,
    k: int,
    batch_size: int | None,
    copies: int,
    rule: str,
    first_sample: int = 0,
    progress: Progress = lambda done, total: None,
) -> Election:
    """What `vote` and `adaptive_vote` are asked for.

    Raises:
        ValueError: as `vote`.
    """
    images = tensor_of("images", images)
    if not images.ndim or not len(images):
        raise ValueError("images must hold at least one sample, got none")
    k, copies = whole_number("k", k), whole_number("copies", copies)
    size = len(images) if batch_size is None else whole_number("batch_size", batch_size)
    first_sample = whole_number("first_sample", first_sample, least=0)
    if copies > k:
        raise ValueError(f"copies must be at most k = {k}, got {copies}")
    if rule not in ("hard", "soft"):
        raise ValueError(f"rule must be 'hard' or 'soft', got {rule!r}")
    others = [index for index in range(copies) if index != chip.copy_index][: copies - 1]
    chips = [chip, *(chip.copy(index) for index in others)]
    batches = -(-len(images) // size)
    size = -(-len(images) // batches)  # the same for all but the last
    return Election(chips, images, k, size, copies, first_sample, progress)


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """A count as int.

    Raises:
        ValueError: no whole number, or one that is too small.
    """
    try:
        number = operator.index(value)
    except TypeError as error:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from error
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def reads_of(chips: list[Chip], batch: torch.Tensor, start: int, reads: range) -> Iterator[torch.Tensor]:
    """These inferences of a batch in turn, made in groups where one chip makes them all."""
    together = max(1, int(TOGETHER / (chips[0].largest_output * len(batch)))) if len(chips) == 1 else 1
    for first in reads[::together]:
        group = min(together, reads.stop - first)
        logits = chips[first % len(chips)].read(batch, read=first, reads=group, first_sample=start)
        if not isinstance(logits, torch.Tensor) or logits.is_complex():
            raise ValueError(
                "vote needs a model that returns one tensor of shape (samples, classes), this one returns "
                f"{_returned(logits)}; wrap it in a module that returns the scores of the classes alone"
            )
        if logits.ndim != 2 or len(logits) != group * len(batch) or logits.shape[1] < 2:
            raise ValueError(
                f"vote needs an output of shape (samples, classes), two classes or more, the model gives "
                f"{tuple(logits.shape)} for {group * len(batch)} samples"
            )
        if torch.isnan(logits).any():
            raise ValueError("vote needs an output of numbers, the model gives NaN for some samples")
        yield from logits.chunk(group)


def _returned(output: Any) -> str:
    """What a model returned, in words."""
    if isinstance(output, torch.Tensor):
        return f"a tensor of {str(output.dtype).removeprefix('torch.')}"
    name = type(output).__name__
    if isinstance(output, Mapping):
        return f"a {name} with {', '.join(map(repr, output))}" if output else f"an empty {name}"
    return f"a {name} of {len(output)}" if isinstance(output, tuple | list) else f"a {name}"


def _tally(reads: Iterator[torch.Tensor], rule: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Counts, mean softmax and winners so far of the reads of one batch."""
    counts, total, mean = torch.zeros(0), torch.zeros(0), torch.zeros(0)
    winners: list[torch.Tensor] = []
    for logits in reads:
        if not winners:
            counts = torch.zeros(logits.shape, dtype=torch.int64)
            total = torch.zeros(logits.shape, dtype=torch.float64)
        chosen = logits.argmax(dim=1, keepdim=True)
        counts.scatter_add_(1, chosen, torch.ones_like(chosen))
        total += logits.double().softmax(dim=1)
        mean = (total / (len(winners) + 1)).float()
        winners.append(order(counts, mean, rule)[:, 0])
    return counts, mean, torch.stack(winners, dim=1)


def order(counts: torch.Tensor, softmax: torch.Tensor, rule: str) -> torch.Tensor:
    """(n, classes): class numbers from best to worst."""
    order = torch.argsort(softmax, dim=1, descending=True, stable=True)
    if rule == "soft":
        return order
    by_count = torch.argsort(counts.gather(1, order), dim=1, descending=True, stable=True)
    return order.gather(1, by_count)
