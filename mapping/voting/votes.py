"""Votes over repeated noisy inferences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, overload

import torch

from ..chip import Chip
from ..outputs import Where
from .answers import Answers, Tensors, together
from .asked import Election, Given, Progress, prepare
from .ballots import each
from .clusters import IGNORED
from .elsewhere import Elsewhere
from .intervals import Accuracy, Array
from .means import MeanResult, averaged, mean_of


@dataclass(frozen=True, eq=False)
class VoteResult(Answers):
    """What K noisy inferences of n samples decided.

    A sample has one answer, or one for each token, (n, tokens), or pixel, (n, rows, columns). Tokens that are padding
    have class -1 and no inferences where a sample has fewer of them than others.

    Attributes:
        classes: (n, ...) int64, the winners. Hard votes: the class with most inferences for it (the mode); a tie goes
            to the tied class with the larger mean softmax, and then to the lower class number. Soft votes: the class
            with the largest mean softmax.
        counts: (n, ..., classes) int64, inferences for each class.
        softmax: (n, ..., classes) float32, mean softmax over the inferences.
        winners: (n, ..., k) int64, the winners after 1, 2, ... k inferences; the last column is `classes`.
        k: number of inferences.
        rule: hard or soft.
        copies: number of chips that the inferences were spread over. Votes on one chip average only its fresh noise;
            its frozen errors are the same in all of them.
        labels: (n, ...) those that came with the inputs; None without labels.
        mask: (n, ...) bool, which answers are to tokens that are not padding; None: all are.
    """

    classes: torch.Tensor
    counts: torch.Tensor
    softmax: torch.Tensor
    winners: torch.Tensor
    k: int
    rule: Literal["hard", "soft"]
    copies: int
    labels: torch.Tensor | None = None
    mask: torch.Tensor | None = None

    @property
    def margin(self) -> torch.Tensor:
        """(n, ...) float32: lead of the winner over the next class, a share of the votes or of the mean softmax.

        Example:
            >>> bool((mho.vote(chip, x, k=5).margin >= 0).all())
            True
        """
        best = torch.topk(self._scores, 2, dim=-1).values
        return best[..., 0] - best[..., 1]

    def topk(self, k: int) -> torch.Tensor:
        """(n, ..., k) int64: the k best classes, best first, by the same rule as `classes`.

        Raises:
            ValueError: k below 1 or above the number of classes.

        Example:
            >>> mho.vote(chip, x, k=5).topk(2).shape
            torch.Size([100, 2])
        """
        classes = self.counts.shape[-1]
        if not 1 <= k <= classes:
            raise ValueError(f"k must be 1 to {classes}, the number of classes, got {k}")
        return order(self.counts, self.softmax, self.rule)[..., :k]

    def accuracy_over_votes(
        self,
        labels: Array | None = None,
        confidence: float = 0.95,
        *,
        mask: Array | None = None,
        next_token: bool = False,
        ignore_index: int | None = IGNORED,
    ) -> list[Accuracy]:
        """The accuracy after 1, 2, ... k inferences: see `accuracy`.

        Example:
            >>> len(mho.vote(chip, x, k=5).accuracy_over_votes(labels))
            5
        """
        how: dict[str, Any] = {"mask": mask, "next_token": next_token, "ignore_index": ignore_index}
        return [self.accuracy_of(winners, labels, confidence, **how) for winners in self.winners.unbind(dim=-1)]

    @property
    def _scores(self) -> torch.Tensor:
        return self.counts / self.k if self.rule == "hard" else self.softmax


@overload
def vote(
    chip: Chip | Elsewhere,
    images: Any,
    k: int = 20,
    *,
    batch_size: int | None = 250,
    copies: int = 1,
    rule: Literal["hard", "soft"] = "hard",
    first_sample: int = 0,
    progress: Progress | None = None,
    output: Where = None,
    layers: str | Sequence[str] | None = None,
) -> VoteResult: ...
@overload
def vote(
    chip: Chip | Elsewhere,
    images: Any,
    k: int = 20,
    *,
    batch_size: int | None = 250,
    copies: int = 1,
    rule: Literal["mean"],
    first_sample: int = 0,
    progress: Progress | None = None,
    output: Where = None,
    layers: str | Sequence[str] | None = None,
) -> MeanResult: ...
def vote(
    chip: Chip | Elsewhere,
    images: Any,
    k: int = 20,
    *,
    batch_size: int | None = 250,
    copies: int = 1,
    rule: Literal["hard", "soft", "mean"] = "hard",
    first_sample: int = 0,
    progress: Progress | None = None,
    output: Where = None,
    layers: str | Sequence[str] | None = None,
) -> VoteResult | MeanResult:
    """Classify samples by k noisy inferences each, or average what a model of numbers gives (`rule="mean"`).

    The inferences are reads 0 to k - 1 of the chip and samples are numbered by their place in `images`, so batches do
    not change the result, and calls of the chip before or after do not either.

    Args:
        chip: the mapped network. Its output is (samples, classes), (samples, tokens, classes), or (samples, classes,
            rows, columns), with any number of dimensions behind the classes from two on. What `mho.on_workers` makes of
            it stands for it: its workers then read the batches.
        images: the samples, in the forms that `mho.map(calibrate=)` takes: a tensor or an array (n, ...), a tuple of
            positional inputs, a dict of keyword inputs, or an iterable of such batches (a DataLoader), read as it
            comes; labels that it brings along are kept in the result.
        k: inferences per sample.
        batch_size: samples processed together, at most; None takes all at once.
        copies: chips that the inferences are distributed over in turn: this one and others of its design (`Chip.copy`).
        rule: hard counts one vote per inference, soft averages the softmax, mean averages the output itself.
        first_sample: place of the first of these samples in the whole data set, when they are a part of it.
        progress: called after each batch with how many samples are done, and how many there are (or again how many are
            done, if that is unknown). None: a line on the terminal, if standard error is a terminal, after two seconds.
        output: where the scores are in what the model returns: a name, a number, or a function of it that gives a
            tensor, with the classes where `chip` says. None: it is the output itself, or its part `logits`.
        layers: names of layers on tiles (as in `chip.layers`) that are read again in each inference, with what comes
            after them; the outputs of the others are held from the first one. None: all layers are read again.

    Raises:
        ValueError: no samples, k or copies that are no whole numbers of at least 1, more copies than inferences, an
            unknown rule, or a model whose output has not at least two classes where they are looked for.

    Example:
        >>> result = mho.vote(chip, x, k=5)
        >>> result.classes.shape
        torch.Size([100])
        >>> result.accuracy(labels) > 0.8
        True
    """
    asked = prepare(chip, images, k, batch_size, copies, rule, first_sample, progress, output).rereading(layers)
    if rule == "mean":
        return mean_of(each(asked, _averaged), asked)
    parts = each(asked, partial(_counted, rule=rule))
    (counts, softmax, winners), labels, mask = together(parts, (1, 1, 1), (0, 0.0, -1))
    return VoteResult(winners[..., -1], counts, softmax, winners, asked.k, rule, asked.copies, labels, mask)


def _averaged(asked: Election, given: Given) -> Tensors:
    return averaged(asked.reads(given, range(asked.k)))


def _counted(asked: Election, given: Given, rule: str) -> Tensors:
    return _tally(asked.scores(given, range(asked.k)), rule)


def _tally(reads: Iterator[torch.Tensor], rule: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Counts, mean softmax and winners so far of the reads of one batch."""
    counts, total, mean = torch.zeros(0), torch.zeros(0), torch.zeros(0)
    winners: list[torch.Tensor] = []
    for logits in reads:
        if not winners:
            counts = torch.zeros(logits.shape, dtype=torch.int64)
            total = torch.zeros(logits.shape, dtype=torch.float64)
        chosen = logits.argmax(dim=-1, keepdim=True)
        counts.scatter_add_(-1, chosen, torch.ones_like(chosen))
        total += logits.double().softmax(dim=-1)
        mean = (total / (len(winners) + 1)).float()
        winners.append(order(counts, mean, rule)[..., 0])
    return counts, mean, torch.stack(winners, dim=-1)


def order(counts: torch.Tensor, softmax: torch.Tensor, rule: str) -> torch.Tensor:
    """(..., classes): class numbers from best to worst."""
    order = torch.argsort(softmax, dim=-1, descending=True, stable=True)
    if rule == "soft":
        return order
    by_count = torch.argsort(counts.gather(-1, order), dim=-1, descending=True, stable=True)
    return order.gather(-1, by_count)
