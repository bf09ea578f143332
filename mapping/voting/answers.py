"""What results of votes have in common: equality, accuracies, and how those of batches become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from .asked import Given
from .clusters import IGNORED, Estimate, compared, share
from .intervals import Accuracy, Array

Tensors = tuple[torch.Tensor, ...]


class Result:
    """A result is equal to another of its kind with the same contents."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))  # type: ignore[arg-type]
        return all(
            isinstance(b, torch.Tensor) and _same(a, b) if isinstance(a, torch.Tensor) else a is b or a == b
            for a, b in pairs
        )

    __hash__ = None  # type: ignore[assignment]

    k: int
    copies: int
    labels: torch.Tensor | None

    def _told(self, answers: torch.Tensor, way: str, measure: str, most: str = "") -> str:
        """What was asked, and which method says how good the answers are."""
        chips = f" on {self.copies} chips" if self.copies > 1 else ""
        given = "" if self.labels is not None else "labels"
        asked = f"{len(answers):,} samples, {self.k} inference{'s' * (self.k > 1)} of each{most}{chips}"
        return f"{asked}, {way}: see {measure}({given})"


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan())


class Answers(Result):
    """Classes that were chosen, for each sample one or several: see `VoteResult`."""

    classes: torch.Tensor
    softmax: torch.Tensor
    mask: torch.Tensor | None
    rule: str

    def accuracy(
        self,
        labels: Array | None = None,
        confidence: float = 0.95,
        *,
        mask: Array | None = None,
        next_token: bool = False,
        ignore_index: int | None = IGNORED,
    ) -> Accuracy:
        """Share of answers whose winner is their label, a float with the Wilson interval `.low`, `.high`.

        Where a sample has several answers (tokens, pixels) the interval is over samples, as if these were drawn anew:
        answers to one sample are not independent. `.n` is the number of samples, `.answers` that of answers.

        Args:
            labels: (n, ...), as `classes`; None: those that came with the inputs.
            confidence: of the interval.
            mask: (n, ...), which answers count; padding, as an `attention_mask` among the inputs says, never does.
            next_token: labels are the tokens of the texts, and the answer at each token is about the next one.
            ignore_index: label of answers that do not count; None: all do.

        Raises:
            ValueError: no labels, labels or a mask of another shape, a label that is no class, or none that counts.

        Example:
            >>> accuracy = mho.vote(chip, x, k=5).accuracy(labels)
            >>> accuracy.n
            100
            >>> accuracy.low < accuracy <= accuracy.high
            True
        """
        how: dict[str, Any] = {"mask": mask, "next_token": next_token, "ignore_index": ignore_index}
        return self.accuracy_of(self.classes, labels, confidence, **how)

    def accuracy_of(
        self, classes: torch.Tensor, labels: Array | None, confidence: float, *, mask: Array | None, **how: Any
    ) -> Accuracy:
        """That of other classes (n, ...)."""
        found, truth, counted = compared(
            classes, self._labels(labels), self.mask, mask, classes=self.softmax.shape[-1], **how
        )
        if truth.shape != found.shape:
            raise ValueError(f"labels must have shape {tuple(classes.shape)}, got {tuple(truth.shape)}")
        if truth.is_floating_point() and bool((counted & (truth != truth.round())).any()):
            raise ValueError("labels must be numbers of classes, got fractions; rule='mean' takes means of numbers")
        return share(found == truth, counted, confidence)

    def cross_entropy(
        self,
        labels: Array | None = None,
        confidence: float = 0.95,
        *,
        mask: Array | None = None,
        next_token: bool = False,
        ignore_index: int | None = IGNORED,
    ) -> Estimate:
        """Mean of -log of the mean softmax of the label, in nats: a float with the 95 % interval `.low`, `.high`.

        The interval is Student's over samples. Arguments and errors as of `accuracy`.

        Example:
            >>> 0 < mho.vote(chip, x, k=5).cross_entropy(labels) < 2
            True
        """
        classes = self.softmax.shape[-1]
        how: dict[str, Any] = {"classes": classes, "next_token": next_token, "ignore_index": ignore_index}
        softmax, truth, counted = compared(self.softmax, self._labels(labels), self.mask, mask, **how)
        truth = truth.long()
        if truth.shape != softmax.shape[:-1]:
            raise ValueError(f"labels must have shape {tuple(self.classes.shape)}, got {tuple(truth.shape)}")
        chances = softmax.gather(-1, truth.clamp(0, classes - 1)[..., None])[..., 0].double()
        return Estimate.of(-chances.log(), counted, confidence)

    def perplexity(
        self,
        labels: Array | None = None,
        confidence: float = 0.95,
        *,
        mask: Array | None = None,
        next_token: bool = False,
        ignore_index: int | None = IGNORED,
    ) -> Estimate:
        """exp of the `cross_entropy`, and of the ends of its interval.

        Example:
            >>> mho.vote(chip, x, k=5).perplexity(labels) > 1
            True
        """
        how: dict[str, Any] = {"mask": mask, "next_token": next_token, "ignore_index": ignore_index}
        return self.cross_entropy(labels, confidence, **how).map(np.exp)

    def __str__(self) -> str:
        return self._told(self.classes, f"{self.rule} votes", "accuracy")

    def _labels(self, labels: Array | None) -> Array | None:
        return self.labels if labels is None else labels


def together(
    parts: Sequence[tuple[Given, Tensors]], behind: tuple[int, ...], fill: tuple[float, ...]
) -> tuple[Tensors, torch.Tensor | None, torch.Tensor | None]:
    """The results of batches as those of all samples, their labels, and which answers there are.

    Where the batches have answers of other shapes (longer texts, larger images) those of the others are filled up.

    Args:
        parts: each batch with its tensors (samples, ..., further dimensions).
        behind: how many further dimensions each tensor has behind the answers.
        fill: what stands where a batch has no answer.

    Raises:
        ValueError: the batches have answers of different numbers of dimensions.
    """
    shapes = [_answers(found[0], behind[0]) for _, found in parts]
    if len({len(shape) for shape in shapes}) > 1:
        raise ValueError(
            f"the batches have answers of different dimensions: {', '.join(map(str, sorted(set(shapes))))}"
        )
    largest = tuple(map(max, zip(*shapes, strict=True)))
    tensors = tuple(
        torch.cat([_filled(found[i], largest, behind[i], fill[i]) for _, found in parts]) for i in range(len(fill))
    )
    masks = []
    for (given, _), shape in zip(parts, shapes, strict=True):
        known = given.counted(shape)
        there = torch.ones(given.samples, *shape, dtype=torch.bool) if known is None else known.cpu()
        masks.append(_filled(there, largest, 0, False))
    mask = torch.cat(masks)
    return tensors, _labels(parts, shapes, largest), None if bool(mask.all()) else mask


def _answers(found: torch.Tensor, behind: int) -> tuple[int, ...]:
    return tuple(found.shape[1 : found.ndim - behind])


def _labels(
    parts: Sequence[tuple[Given, Tensors]], shapes: list[tuple[int, ...]], largest: tuple[int, ...]
) -> torch.Tensor | None:
    """The labels of all batches, where all have some; those of answers that are not there are ignored."""
    found = [given.labels for given, _ in parts]
    given = [x for x in found if x is not None]
    if len(given) < len(found):
        return None
    if all(tuple(x.shape[1:]) == shape for x, shape in zip(given, shapes, strict=True)):
        return torch.cat([_filled(x.cpu(), largest, 0, IGNORED) for x in given])
    return torch.cat([x.cpu() for x in given]) if len({x.shape[1:] for x in given}) == 1 else None


def _filled(x: torch.Tensor, largest: tuple[int, ...], behind: int, fill: float) -> torch.Tensor:
    """x (samples, ..., further) with as many answers as the largest batch has, at their ends."""
    missing = [most - size for most, size in zip(largest, x.shape[1:], strict=False)]
    if not any(missing):
        return x
    pads = [0, 0] * behind + [pad for size in reversed(missing) for pad in (0, size)]
    return torch.nn.functional.pad(x, pads, value=fill)
