"""Votes that stop once the lead is safe: a sequential test for the mode."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod
from numbers import Real
from typing import Any, Literal

import torch

from ..architecture.cost import layer_costs
from ..chip import Chip
from ..outputs import Where
from .answers import Answers, together
from .asked import Election, Given, Progress, prepare
from .ballots import each
from .elsewhere import Elsewhere
from .votes import order

CAUTION = 0.25  # votes that each of two classes is credited with before a bet; any value above 0 keeps the guarantee
AHEAD = 4  # rounds that are simulated at once: what a sample reads after its decision is not counted


@dataclass(frozen=True, eq=False)
class AdaptiveResult(Answers):
    """What noisy inferences of n samples decided, each sample read until its lead was safe, or k times.

    A sample has one answer, or one for each token or pixel; it is read until all its answers are decided, and each
    answer counts the inferences up to its own decision.

    Attributes:
        classes: (n, ...) int64, the winners; for answers that were not safe, those of the k votes of `mho.vote`.
        counts: (n, ..., classes) int64, inferences for each class.
        softmax: (n, ..., classes) float32, mean softmax over the inferences.
        reads: (n,) int64, inferences that each sample took.
        safe: (n, ...) bool, whether the test stopped them: then the winner differs from the class that infinitely many
            inferences would choose with a probability of at most `error`.
        k: most inferences of a sample.
        error: that probability, for each answer.
        rule: hard or soft.
        copies: number of chips that the inferences were distributed over.
        labels: (n, ...) those that came with the inputs; None without labels.
        mask: (n, ...) bool, which answers are to tokens that are not padding; None: all are. The others decide
            nothing.
    """

    classes: torch.Tensor
    counts: torch.Tensor
    softmax: torch.Tensor
    reads: torch.Tensor
    safe: torch.Tensor
    k: int
    error: float
    rule: Literal["hard", "soft"]
    copies: int
    labels: torch.Tensor | None = None
    mask: torch.Tensor | None = None

    def __str__(self) -> str:
        most = f" at most ({self.mean_reads:.3g} on average)"
        return self._told(self.classes, f"{self.rule} votes", "accuracy", most)

    @property
    def mean_reads(self) -> float:
        """Inferences of a decision on average: the estimate of their expected number for inputs like these.

        Example:
            >>> 1 <= mho.adaptive_vote(chip, x, k=20).mean_reads <= 20
            True
        """
        return float(self.reads.double().mean())

    @property
    def rounds(self) -> torch.Tensor:
        """(n,) int64, rounds that each sample took: in a round each copy makes an inference, all at the same time."""
        return -(-self.reads // self.copies)

    @property
    def answers(self) -> int:
        """How many answers there are, padding left out."""
        return self.classes.numel() if self.mask is None else int(self.mask.sum())

    @property
    def capped(self) -> int:
        """Answers that k inferences did not make safe.

        Example:
            >>> 0 <= mho.adaptive_vote(chip, x, k=20).capped < 100
            True
        """
        return int((~self.safe if self.mask is None else ~self.safe & self.mask).sum())

    def energy_j(self, chip: Chip) -> float:
        """Energy of a decision of `chip` on average: mean reads times the energy of an inference (`layer_costs`).

        Example:
            >>> mho.adaptive_vote(chip, x, k=20).energy_j(chip) > 0
            True
        """
        return self.mean_reads * float(layer_costs(chip)["energy_j"].sum())


def adaptive_vote(
    chip: Chip | Elsewhere,
    images: Any,
    k: int = 20,
    *,
    error: float = 0.01,
    batch_size: int | None = 250,
    copies: int = 1,
    rule: Literal["hard", "soft"] = "hard",
    first_sample: int = 0,
    progress: Progress | None = None,
    output: Where = None,
) -> AdaptiveResult:
    """Classify samples by noisy inferences that stop when the lead is safe, k at most.

    The inferences of a sample are the first of those that `mho.vote` makes, bit for bit. Only undecided samples are
    read again. A sample stops

    - safe, when a sequential test has rejected every class but the leader as the one that infinitely many inferences
      would choose. A true choice is rejected with a probability of at most `error`, however often the test looks;
    - or when no inference up to k could change the winner of k votes any more.

    The test is a bet on the leader against each other class m (Waudby-Smith and Ramdas 2024): the wealth W_m starts at
    1 and is multiplied by 1 + b (v_leader - v_m) in each inference, v being 1 for its class and 0 for the others (hard
    votes) or its softmax (soft), and b in [0, 1] depending on earlier inferences only. While m is the true choice the
    mean factor is at most 1, so that W_m ever reaches 1 / error with a probability of at most `error` (Ville 1939);
    then m is rejected. With several copies, bets are placed and decided once a round, an inference of each copy.

    The guarantee takes the inferences of one chip as independent, which its fresh noise is. Errors of programming are
    part of the true choice: it is this chip's, or these copies'. Noise that lasts from one read to the next (1/f,
    telegraph) makes neighbouring inferences agree, and the error larger than `error` says.

    Args:
        chip, images, k, batch_size, copies, rule, first_sample, progress, output: as in `mho.vote`.
        error: accepted probability, for a sample (or for each of its tokens or pixels), of stopping safe with another
            class than the true choice.

    Raises:
        ValueError: as `mho.vote`, or an error outside 0 to 1.

    Example:
        >>> adaptive = mho.adaptive_vote(chip, x, k=20, error=0.01)
        >>> adaptive.mean_reads < 20  # easy samples stop early
        True
    """
    if not isinstance(error, Real) or not 0 < error < 1:
        raise ValueError(f"error must be a probability above 0 and below 1, got {error!r}")
    asked = prepare(chip, images, k, batch_size, copies, rule, first_sample, progress, output, rules=("hard", "soft"))
    parts = each(asked, partial(_decide, error=error, rule=rule))
    (counts, softmax, safe, classes), labels, mask = together(
        [(given, found[1:]) for given, found in parts], (1, 1, 0, 0), (0, 0.0, False, -1)
    )
    reads = torch.cat([found[0] for _, found in parts])
    return AdaptiveResult(
        classes, counts, softmax, reads, safe, asked.k, float(error), rule, asked.copies, labels, mask
    )


def _decide(asked: Election, given: Given, error: float, rule: str) -> tuple[torch.Tensor, ...]:
    """Reads of the samples of one batch; counts, mean softmax, safe and winners of their answers."""
    k, copies, n = asked.k, len(asked.chips), given.samples
    tally = Tally(0, k, error, rule, copies)
    shape: tuple[int, ...] = ()
    waiting = torch.ones(n, dtype=torch.bool)
    for first in range(0, k, AHEAD * copies):
        stop = min(k, first + AHEAD * copies)
        if not waiting.any():
            break
        runs = [list(asked.scores(given.part(a, b), range(first, stop))) for a, b in _runs(waiting)]
        samples = waiting.nonzero()[:, 0]
        if not first:
            shape = tuple(runs[0][0].shape[1:-1])
            tally = Tally(n * prod(shape), k, error, rule, copies)
            counted = given.counted(shape)
            if counted is not None:
                tally.open &= counted.reshape(-1).cpu()
        rows = (samples[:, None] * prod(shape) + torch.arange(prod(shape))).reshape(-1)
        for read, logits in enumerate(zip(*runs, strict=True), start=first):
            tally.add(rows, read, torch.cat(logits).flatten(0, -2))
        waiting = tally.open.reshape(n, -1).any(dim=1)
    answers = (tally.counts, tally.mean, tally.safe, tally.leaders)
    reads = tally.reads.reshape(n, -1).amax(dim=1)
    return reads, *(x.reshape(n, *shape, *x.shape[1:]) for x in answers)


def _runs(mask: torch.Tensor) -> list[tuple[int, int]]:
    """The stretches of True in a mask: their first index and the one behind their last."""
    edges = torch.diff(mask.int(), prepend=torch.zeros(1, dtype=torch.int), append=torch.zeros(1, dtype=torch.int))
    return list(zip((edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist(), strict=True))


class Tally:
    """Votes and wealth of a batch of samples, which close one by one."""

    def __init__(self, samples: int, k: int, error: float, rule: str, copies: int) -> None:
        self.k, self.error, self.rule, self.copies = k, error, rule, copies
        self.open = torch.ones(samples, dtype=torch.bool)
        self.safe = torch.zeros(samples, dtype=torch.bool)
        self.reads = torch.zeros(samples, dtype=torch.int64)
        self.leaders = torch.zeros(samples, dtype=torch.int64)
        self.counts: torch.Tensor = torch.zeros(0)

    def _begin(self, classes: int) -> None:
        shape = len(self.open), classes
        self.counts = torch.zeros(shape, dtype=torch.int64)
        self.total = torch.zeros(shape, dtype=torch.float64)
        self.squares = torch.zeros(shape, dtype=torch.float64)
        self.bets = torch.zeros(shape, dtype=torch.float64)
        self.wealth = torch.ones(shape, dtype=torch.float64)
        self.rejected = torch.zeros(shape, dtype=torch.bool)

    @property
    def mean(self) -> torch.Tensor:
        """(samples, classes) float32: mean softmax."""
        return (self.total / self.reads[:, None].clamp(min=1)).float()

    def add(self, rows: torch.Tensor, read: int, logits: torch.Tensor) -> None:
        """Count inference number `read` of those of the samples `rows` that are open, and close what it decides."""
        if not len(self.counts):
            self._begin(logits.shape[1])
        mine = self.open[rows]
        rows, logits = rows[mine], logits[mine]
        softmax = logits.double().softmax(dim=1)
        votes = torch.nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1])
        counted = votes.double() if self.rule == "hard" else softmax
        leading = self.leaders[rows, None]
        self.wealth[rows] *= 1 + self.bets[rows] * (counted.gather(1, leading) - counted)
        self.counts[rows] += votes
        self.total[rows] += softmax
        self.squares[rows] += counted.square()
        self.reads[rows] = read + 1
        if (read + 1) % self.copies and read + 1 < self.k:
            return  # in the middle of a round
        counts, total = self.counts[rows], self.total[rows]
        ranks = order(counts, (total / (read + 1)).float(), self.rule)[:, :2]
        scores = counts.double() if self.rule == "hard" else total
        best, second = scores.gather(1, ranks).unbind(dim=1)
        if (read + 1) % self.copies == 0:
            self.rejected[rows] |= self.wealth[rows] >= 1 / self.error
        self.safe[rows] = self.rejected[rows].scatter(1, ranks[:, :1], True).all(dim=1)
        self.open[rows] = ~self.safe[rows] & (best - second <= self.k - 1 - read) & (read + 1 < self.k)
        self.leaders[rows] = ranks[:, 0]
        squares = self.squares[rows]
        spread = squares.gather(1, ranks[:, :1]) + squares + 2 * CAUTION
        self.bets[rows] = ((best[:, None] - scores) / spread).clamp(0, 1)  # near the best for bets of small gain
