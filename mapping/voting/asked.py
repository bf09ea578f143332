"""What votes are asked for: the chips that vote, batch after batch of inputs, and where the scores of classes are."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from ..chip import Chip
from ..errors import check_chip
from ..held import Held, checked_layers
from ..inference import Read
from ..inputs.batches import Batch, Takes, batches_in
from ..inputs.padding import mask_in
from ..outputs import Where, found_in, returned
from .elsewhere import Elsewhere
from .intervals import tensor_of

TOGETHER = 24e6  # bytes of the largest layer output of the reads made at once: more would not stay in memory kept
RULES = ("hard", "soft", "mean")

Progress = Callable[[int, int], None]


class Given(NamedTuple):
    """A batch to read.

    Attributes:
        start: place of its first sample in the whole data set.
        batch: the inputs.
        samples: how many.
        labels: (samples, ...), if it brings any.
        tokens: (samples, tokens) bool: which are none of the padding, if the inputs say.
    """

    start: int
    batch: Batch
    samples: int
    labels: torch.Tensor | None = None
    tokens: torch.Tensor | None = None

    def counted(self, shape: tuple[int, ...]) -> torch.Tensor | None:
        """Which answers (samples, *shape) are to tokens that are none of the padding; None: all of them."""
        mine = self.tokens is not None and len(shape) == 1 and self.tokens.shape[1] == shape[0]
        return self.tokens if mine else None

    def part(self, start: int, stop: int) -> Given:
        """The samples from start up to stop."""
        return Given(
            self.start + start,
            self.batch.part(start, stop),
            stop - start,
            None if self.labels is None else self.labels[start:stop],
            None if self.tokens is None else self.tokens[start:stop],
        )


@dataclass(frozen=True)
class Election:
    """The arguments of `vote`, checked: the chips that vote, the samples of a batch at most (`size`), and the others.

    `total` is the number of samples, where it is known. `elsewhere` is where the chips are read, if it is not here.
    `layers` are those that are read again in each inference, None: all.
    """

    chips: list[Chip]
    inputs: Any
    total: int | None
    k: int
    size: int | None
    copies: int
    first_sample: int
    progress: Progress | None
    output: Where
    elsewhere: Elsewhere | None = None
    layers: tuple[str, ...] | None = None

    def rereading(self, layers: str | Sequence[str] | None) -> Election:
        """The same with the layers that are read again in each inference.

        Raises:
            ValueError: no layers, or a name that none of them has.
        """
        return self if layers is None else replace(self, layers=checked_layers(self.chips[0].layers, layers))

    @property
    def batches(self) -> Iterator[Given]:
        """The batches, in parts of the same size but for the last where they are larger than `size`."""
        model, done = getattr(self.chips[0], "model", None), 0
        for batch, labels in batches_in(self.inputs, model, "images"):
            count = batch.samples
            found = None if labels is None else tensor_of("labels", labels)
            if found is not None and (not found.ndim or len(found) != count):
                raise ValueError(
                    f"labels must be those of the {count} samples of their batch, got {tuple(found.shape)}"
                )
            mask = mask_in(model, (batch.args, batch.kwargs))
            tokens = mask != 0 if mask is not None and mask.ndim == 2 and len(mask) == count else None
            given = Given(self.first_sample + done, batch, count, found, tokens)
            size = -(-count // -(-count // (self.size or count)))
            for start in range(0, count, size):
                yield given.part(start, min(start + size, count))
            done += count

    def reads(self, given: Given, reads: range) -> Iterator[torch.Tensor]:
        """What these inferences of a batch give in turn, (samples, ...), made in groups where one chip makes them all.

        Raises:
            ValueError: the model gives something else than one tensor of numbers, samples first.
        """
        samples = given.samples
        for group, output in self._made(given, reads) if self.layers is None else self._made_in_part(given, reads):
            scores = found_in(output, self.output)
            if not isinstance(scores, torch.Tensor) or scores.is_complex():
                raise ValueError(
                    "vote needs a model that returns one tensor of shape (samples, classes), this one returns "
                    f"{returned(scores)}; say with output= where it is (a name, a number or a function)"
                )
            if not scores.ndim or len(scores) != group * samples:
                raise ValueError(
                    f"vote needs an output of shape (samples, ...), the model gives {tuple(scores.shape)} for "
                    f"{group * samples} samples"
                )
            yield from scores.chunk(group)

    def _made(self, given: Given, reads: range) -> Iterator[tuple[int, Any]]:
        """How many inferences were made at once, and what they gave."""
        chips, samples, batch = self.chips, given.samples, given.batch
        named: dict[str, Any] = {"named": batch.kwargs} if batch.kwargs else {}
        together = max(1, int(TOGETHER / (chips[0].largest_output * samples))) if len(chips) == 1 else 1
        for first in reads[::together]:
            group = min(together, reads.stop - first)
            chip = chips[first % len(chips)]
            yield group, chip.read(*batch.args, read=first, reads=group, first_sample=given.start, **named)

    def _made_in_part(self, given: Given, reads: range) -> Iterator[tuple[int, Any]]:
        """The same, one by one: all layers in the first inference of a chip, later the `layers` and what needs them."""
        held: dict[int, Held] = {}
        for number in reads:
            place = number % len(self.chips)
            kept = held.setdefault(place, Held(self.layers or ()))
            run = Read(number, first_sample=given.start, held=kept)
            yield 1, self.chips[place].run(given.batch.args, run, dict(given.batch.kwargs))
            if kept.again is None:
                kept.first_is_over(self.chips[place].trace)

    def scores(self, given: Given, reads: range) -> Iterator[torch.Tensor]:
        """As `reads`, the scores of classes (samples, ..., classes).

        Classes come last in (samples, tokens, classes), and else behind the samples: (samples, classes, rows, ...).

        Raises:
            ValueError: there are none, or NaN among them.
        """
        for scores in self.reads(given, reads):
            if scores.ndim < 2:
                raise ValueError(
                    "vote needs an output of shape (samples, classes), two classes or more, the model gives "
                    f"{tuple(scores.shape)} for {given.samples} samples"
                )
            moved = scores.movedim(-1 if scores.ndim == 3 else 1, -1)
            if moved.shape[-1] < 2:
                raise ValueError(
                    "vote needs an output of shape (samples, classes), two classes or more, the model gives "
                    f"{tuple(scores.shape)} for {given.samples} samples; rule='mean' takes means of numbers"
                )
            there = given.counted(moved.shape[1:-1])
            odd = torch.isnan(moved).any(dim=-1)
            if bool((odd if there is None else odd & there.to(odd.device)).any()):
                raise ValueError("vote needs an output of numbers, the model gives NaN for some samples")
            yield moved.masked_fill(odd[..., None], 0.0) if bool(odd.any()) else moved


def voting(chip: Chip, copies: int) -> list[Chip]:
    """The chips that inferences are dealt out to: this one and others of its design.

    Raises:
        ValueError: cells that are known of one chip alone.
    """
    others = [index for index in range(copies) if index != chip.copy_index][: copies - 1]
    return [chip, *(chip.copy(index) for index in others)]


def prepare(
    chip: Chip | Elsewhere,
    images: Any,
    k: int,
    batch_size: int | None,
    copies: int,
    rule: str,
    first_sample: int = 0,
    progress: Progress | None = None,
    output: Where = None,
    *,
    rules: tuple[str, ...] = RULES,
) -> Election:
    """What `vote` and `adaptive_vote` are asked for.

    Raises:
        ValueError: as `vote`.
        MappingError: what is no chip.
    """
    elsewhere = chip if isinstance(chip, Elsewhere) else None
    here = chip.chip if isinstance(chip, Elsewhere) else chip
    check_chip(here)
    k, copies = whole_number("k", k), whole_number("copies", copies)
    size = None if batch_size is None else whole_number("batch_size", batch_size)
    first_sample = whole_number("first_sample", first_sample, least=0)
    if copies > k:
        raise ValueError(f"copies must be at most k = {k}, got {copies}")
    if rule not in rules:
        raise ValueError(f"rule must be {', '.join(map(repr, rules[:-1]))} or {rules[-1]!r}, got {rule!r}")
    inputs, total = _inputs(here, images)
    chips = voting(here, copies) if elsewhere is None else [here]
    return Election(chips, inputs, total, k, size, copies, first_sample, progress, output, elsewhere)


def _inputs(chip: Any, images: Any) -> tuple[Any, int | None]:
    """Inputs as `batches_in` takes them, and how many samples they have, if that can be told.

    Raises:
        ValueError: no samples.
    """
    numbers = isinstance(images, list) and all(isinstance(x, (bool, int, float)) for x in tree_leaves(images))
    if numbers or isinstance(images, (torch.Tensor, np.ndarray)):
        images = tensor_of("images", images)
        if not images.ndim or not len(images):
            raise ValueError("images must hold at least one sample, got none")
        return images, len(images)
    if isinstance(images, (tuple, Mapping, Batch)):
        takes = Takes.of(getattr(chip, "model", None))
        given = takes.inputs_of(images)[0] if isinstance(images, Mapping) else images
        return [images] if isinstance(images, Mapping) else images, takes.batch(given, "images").samples
    return images, None


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
