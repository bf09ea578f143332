"""Where the samples of a batch lie in what goes into the layers of a model, and in what comes out.

Most models keep samples along the first dimension throughout; attention with the sequence first and windows that come
before samples do not. Two passes of different numbers of samples show it: what belongs to the samples of the smaller
one lies somewhere in the larger one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_map

from ..guard import Unmarks
from ..inference import Survey
from ..layers import TileLayer
from ..lent import Written, spared
from ..mapped import MappedNetwork
from ..passes import Pass, Seen, Sift, alike, as_tree, watch_pass
from .batches import Batch, batch_at, first_batch
from .leaves import tensors_in
from .order import SampleAxis

Same = Callable[[torch.Tensor, torch.Tensor], bool]
NOWHERE = SampleAxis(-1)


def _any(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Takes the shapes for it."""
    return True


class Sizes(NamedTuple):
    """Numbers of samples of two passes, the first of which has more."""

    more: int
    fewer: int


PAIR = Sizes(2, 1)


def parts(
    larger: torch.Tensor, smaller: torch.Tensor, sizes: Sizes
) -> Iterator[tuple[SampleAxis | None, torch.Tensor]]:
    """The ways in which the smaller pass may lie in the larger one: where its samples lie, and the part that is theirs.

    None is for a tensor that belongs to no sample. Nothing comes where the shapes fit no way.
    """
    if larger.shape == smaller.shape:
        yield None, larger
        return
    if larger.ndim != smaller.ndim:
        return
    unlike = [k for k, (a, b) in enumerate(zip(larger.shape, smaller.shape, strict=True)) if a != b]
    axis, (more, fewer) = unlike[0], sizes
    others, rest = divmod(larger.shape[axis], more)
    if len(unlike) > 1 or rest or smaller.shape[axis] != others * fewer:
        return
    yield SampleAxis(axis), larger.narrow(axis, 0, others * fewer)
    if others > 1:
        apart = larger.unflatten(axis, (others, more)).narrow(axis + 1, 0, fewer)
        yield SampleAxis(axis, inner=True), apart.flatten(axis, axis + 1)


class Unfound(Exception):
    """The samples of a layer lie nowhere: it mixes them, or the two passes differ in more than their number."""


def found(larger: torch.Tensor, smaller: torch.Tensor, sizes: Sizes, same: Same) -> tuple[SampleAxis | None, Any]:
    """Where the samples lie, and the part of the larger tensor that is the smaller one.

    Raises:
        Unfound: nowhere.
    """
    for where, part in parts(larger, smaller, sizes):
        if same(part, smaller):
            return where, part
    raise Unfound


def narrowed(before: Pass, after: Pass, sizes: Sizes) -> Pass:
    """The larger pass as it would have been with the samples of the smaller one.

    Raises:
        Unfound: it cannot be told.
    """
    calls: list[Seen] = []
    same = alike(before)
    left = {name: iter(after.of(name)) for name in {call.name for call in after.seen}}
    for call in before.seen:
        other = next(left.get(call.name, iter(())), None)
        if other is None or len(other.outputs) != len(call.outputs):
            raise Unfound
        pairs = zip(call.outputs, other.outputs, strict=True)
        outputs = tuple(found(a, b, sizes, same)[1] for a, b in pairs)
        calls.append(Seen(call.name, other.input, outputs))

    def part(a: Any, b: Any) -> Any:
        return found(a, b, sizes, same)[1] if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a

    try:
        output = tree_map(part, before.output, after.output)
    except ValueError as error:  # other structures
        raise Unfound from error
    return dataclasses.replace(before, seen=tuple(calls), output=output)


def settle(chip: MappedNetwork, before: Pass, after: Pass, sizes: Sizes, same: Same) -> None:
    """Tell the layers on tiles where their samples lie, from two passes, the first of more samples."""
    pairs = {name: zip(before.of(name), after.of(name), strict=False) for name in _asked(chip)}
    found = {n: {_place(chip.layers[n], a.input, b.input, sizes, same) for a, b in some} for n, some in pairs.items()}
    _tell(chip, found, {name: {len(done.of(name)) for done in (before, after)} for name in found})


def _asked(chip: MappedNetwork) -> list[str]:
    """The layers on tiles whose samples lie somewhere: not those of steps, and not those where each read tells it."""
    return [n for n, layer in chip.layers.items() if not (layer.rows_are_samples or n in chip.session.chosen)]


def _tell(chip: MappedNetwork, places: dict[str, set[SampleAxis | None]], counts: dict[str, set[int]]) -> None:
    """Tell layers where their samples lie: of each its places, and how often it was called in two passes.

    A layer that one pass alone has seen has them first, and so have the steps of a recurrent layer.
    """
    lost = []
    for name in _asked(chip):
        layer, found = chip.layers[name], places[name]
        if len(found) > 1 or NOWHERE in found or len(counts[name] - {0}) > 1:  # called sample by sample, say
            layer.samples_along = None
            lost.append(name)
        elif found:
            layer.samples_along = next(iter(found))
    chip.session.located = True
    if lost:
        warnings.warn(
            f"layer {lost[0]!r}{f' and {len(lost) - 1} more' if len(lost) > 1 else ''}: its rows belong to no single "
            "sample, as where a model mixes the samples of a batch: its noise depends on the batch",
            stacklevel=2,
        )


def _place(layer: TileLayer, a: Any, b: Any, sizes: Sizes, same: Same) -> SampleAxis | None:
    """Where the samples of a layer's inputs lie, which must be before the dimensions of positions; or `NOWHERE`."""
    folded = any(isinstance(hook, Unmarks) for hook in layer._forward_pre_hooks.values())  # its input is another
    try:
        where, _ = found(a, b, sizes, _any if folded else same)
    except Unfound:
        return NOWHERE
    return where if where is None or where.axis < a.ndim - 1 - layer.spec.dims else NOWHERE


def locate(chip: MappedNetwork, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Find where the samples lie in the layers of a chip, by two digital passes of two samples and of one."""
    chip.session.located = True
    batch = Batch(inputs, named)
    at = first_batch(batch.tensors)
    first = batch_at(chip.model, (inputs, named), chip.session.batch[0]) if chip.session.batch else None
    first = batch.tensors[at] if first is None and at is not None else first
    if first is None or first.layout != torch.strided:
        return
    count, known = len(first), bool(chip.session.batch)

    def taken(many: int) -> Batch:
        """So many samples of what has as many as the first input, which may be twice the same."""

        def part(x: Any) -> Any:
            if not (isinstance(x, torch.Tensor) and x.ndim and len(x) == count and x.layout == torch.strided):
                return x
            return x[:many] if many <= count else torch.cat([x] * many)

        return Batch(*tree_map(part, (inputs, named)))

    try:
        one, two = _passes(chip, taken(1), taken(2))
    except Exception:  # a model may fail in any way with another number of samples
        return
    if chip.session.batch and not known:  # which the passes have shown
        return locate(chip, inputs, named)
    _tell(chip, two.places, two.counts)
    outputs = [tensors_in(as_tree(done.output)) for done in (two.done, one)]
    chip.session.one_by_one |= not all(_tells(a, b, PAIR, two.same) for a, b in zip(*outputs, strict=False))


class _Larger(NamedTuple):
    """A pass of two samples, held against one of the first: where the samples lie in the inputs of the layers."""

    done: Pass
    places: dict[str, set[SampleAxis | None]]
    counts: dict[str, set[int]]  # of the calls in both passes
    same: Same  # what the passes were compared by


def _passes(chip: MappedNetwork, one: Batch, two: Batch) -> tuple[Pass, _Larger]:
    """Digital passes of one sample and of two. Inputs of the second are compared as they come: it keeps none."""
    for share in (True, False):  # where copies write too, the weights are the caller's: that is for `mho.map`
        with contextlib.suppress(*[Written] * share), spared(chip.model, share=share):
            first = _pass(chip, one, lambda name, x: x.clone() if name in _asked(chip) else None)
            second = _held_against(chip, first, two, _any if first.drew else alike(first))
            if second.done.drew and not first.drew:  # then the shapes are all there is to go by
                second = _held_against(chip, first, two, _any)
            return first, second
    raise AssertionError("the second pass returns or raises")


def _held_against(chip: MappedNetwork, first: Pass, two: Batch, same: Same) -> _Larger:
    names = _asked(chip)
    left = {name: iter(first.of(name)) for name in names}
    places: dict[str, set[SampleAxis | None]] = {name: set() for name in names}

    def compared(name: str, x: torch.Tensor) -> None:
        if name in left and (other := next(left[name], None)) is not None:
            places[name].add(_place(chip.layers[name], x, other.input, PAIR, same))

    done = _pass(chip, two, compared)
    return _Larger(done, places, {name: {len(some.of(name)) for some in (done, first)} for name in names}, same)


def _pass(chip: MappedNetwork, batch: Batch, sift: Sift) -> Pass:
    """Of a copy: a model may keep what it has seen."""
    trial, mine = chip.trial(), batch.apart()
    call = partial(trial.run, mine.args, Survey(), mine.kwargs)
    return watch_pass(trial.model, list(chip.layers), call, sift)


def _tells(a: torch.Tensor, b: torch.Tensor, sizes: Sizes, same: Same) -> bool:
    """Whether an output has a row for each sample."""
    try:
        return found(a, b, sizes, same) is not None
    except Unfound:
        return False
