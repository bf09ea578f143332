"""Where the samples of a batch lie in what goes into the layers of a model, and in what comes out.

Most models keep samples along the first dimension throughout; attention with the sequence first and windows that come
before samples do not. Two passes of different numbers of samples show it: what belongs to the samples of the smaller
one lies somewhere in the larger one.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_map

from ..guard import Unmarks
from ..inference import Survey
from ..mapped import MappedNetwork
from ..passes import Pass, Seen, alike, as_tree, watch_pass
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


def settle(chip: MappedNetwork, before: Pass, after: Pass, sizes: Sizes, same: Same | None = None) -> None:
    """Tell the layers on tiles where their samples lie, from two passes.

    A layer that one pass alone has seen has them first, and so have the steps of a recurrent layer.
    """
    lost, same = [], same or alike(before)
    for name, layer in chip.layers.items():
        if layer.rows_are_samples or name in chip.session.chosen:  # each read tells of the latter
            continue
        pairs = zip(before.of(name), after.of(name), strict=False)
        counts = {len(done.of(name)) for done in (before, after)}
        folded = any(isinstance(hook, Unmarks) for hook in layer._forward_pre_hooks.values())  # its input is another
        places = {_place(a.input, b.input, sizes, _any if folded else same, 1 + layer.spec.dims) for a, b in pairs}
        if len(places) > 1 or NOWHERE in places or len(counts - {0}) > 1:  # called sample by sample, say
            layer.samples_along = None
            lost.append(name)
        elif places:
            layer.samples_along = places.pop()
    chip.session.located = True
    if lost:
        warnings.warn(
            f"layer {lost[0]!r}{f' and {len(lost) - 1} more' if len(lost) > 1 else ''}: its rows belong to no single "
            "sample, as where a model mixes the samples of a batch: its noise depends on the batch",
            stacklevel=2,
        )


def _place(a: Any, b: Any, sizes: Sizes, same: Same, behind: int) -> SampleAxis | None:
    """Where the samples of a layer's input lie, which must be before its last dimensions, so many; or `NOWHERE`."""
    try:
        where, _ = found(a, b, sizes, same)
    except Unfound:
        return NOWHERE
    return where if where is None or where.axis < a.ndim - behind else NOWHERE


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

    one, two = taken(1), taken(2)
    seen = []
    for some in (two.apart(), one.apart()):
        trial = chip.trial()  # a model may keep what it has seen
        call = partial(trial.run, some.args, Survey(), some.kwargs)
        try:
            seen.append(watch_pass(trial.model, list(chip.layers), call))
        except Exception:  # a model may fail in any way with another number of samples
            return
    if chip.session.batch and not known:  # which the passes have shown
        return locate(chip, inputs, named)
    drew = any(done.drew for done in seen)  # then the shapes are all there is to go by
    sizes, same = Sizes(2, 1), _any if drew else alike(seen[0])
    settle(chip, seen[0], seen[1], sizes, same)
    outputs = [tensors_in(as_tree(done.output)) for done in seen]
    chip.session.one_by_one |= not all(_tells(a, b, sizes, same) for a, b in zip(*outputs, strict=False))


def _tells(a: torch.Tensor, b: torch.Tensor, sizes: Sizes, same: Same) -> bool:
    """Whether an output has a row for each sample."""
    try:
        return found(a, b, sizes, same) is not None
    except Unfound:
        return False
