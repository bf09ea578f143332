"""Inputs in the forms that people have them in: tensors, arrays, positional and keyword inputs, data loaders."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_leaves, tree_map
from torch.utils.data import Dataset, IterableDataset

from ..errors import MappingError
from .leaves import tensors_in

ENOUGH = 1024  # samples, after which no further batch is taken from an iterable
LABELS = ("label", "labels")
FORMS = (
    "a tensor, a NumPy array, a tuple of positional inputs, a dict of keyword inputs, or an iterable of such batches"
)


def samples_in(tensors: Sequence[torch.Tensor]) -> int:
    """How many samples inputs hold: the length of the first that is a batch."""
    found = first_batch(tensors)
    return 1 if found is None else tensors[found].shape[0]


def first_batch(tensors: Sequence[torch.Tensor]) -> int | None:
    """Which of the inputs of a model is the first that has samples along its first dimension; None if all are numbers.

    It is the first that has dimensions, unless its shape shows that it serves all samples of another one: steps (T), a
    mask (T, T), or positions and masks (1, ..., T) beside (n, T, ...) with other n.
    """
    if len(tensors) == 1:
        return 0 if tensors[0].ndim else None
    some = [k for k, x in enumerate(tensors) if x.ndim]
    shapes = {k: tuple(tensors[k].shape) for k in some}
    if len({shape[0] for shape in shapes.values()}) > 1:
        square = [k for k in some if _is_mask(shapes[k]) and any(_serves(shapes[k], shapes[j]) for j in some)]
        rest = [k for k in some if k not in square]
        some = [k for k in rest if not any(_serves(shapes[k], shapes[j]) for j in rest)] or rest or some
    return some[0] if some else None


def batch_by_output(model: nn.Module, given: Any, output: Any) -> str | None:
    """Where in the inputs (args, kwargs) of a model the batch is, as its output shows; None where all are as long.

    Of inputs of several lengths it is `first_batch`, or else the first that is as long as the output where that is not.
    """
    found = _named_tensors(model, given)
    tensors = [x for _, x in found]
    if len({len(x) for x in tensors if x.ndim}) < 2:
        return None
    many = {len(x) for x in tree_leaves(output) if isinstance(x, torch.Tensor) and x.ndim}
    first = first_batch(tensors)
    assert first is not None
    others = [k for k, x in enumerate(tensors) if x.ndim and len(x) in many]
    return found[first if not others or len(tensors[first]) in many else others[0]][0]


def batch_at(model: nn.Module, given: Any, where: str) -> torch.Tensor | None:
    """The input that `batch_by_output` has found, if it is there."""
    return next((x for path, x in _named_tensors(model, given) if path == where and x.ndim), None)


def _named_tensors(model: nn.Module, given: Any) -> list[tuple[str, torch.Tensor]]:
    """The tensors of inputs by the names that the model's forward has for them, if it has."""
    args, kwargs = given
    with contextlib.suppress(TypeError, ValueError):  # a forward without a signature, or with another one
        given = dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)
    return [(keystr(path), x) for path, x in tree_flatten_with_path(given)[0] if isinstance(x, torch.Tensor)]


def _is_mask(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[0] == shape[1]


def _serves(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether an input of one shape has no samples, and the axes of another one behind that one's samples."""
    if one[0] == other[0] or len(other) < 2:
        return False
    if _is_mask(one):
        return one[0] == other[1] and not _is_mask(other)
    if len(one) == 1:
        return one[0] == other[1]
    return one[0] == 1 and one[-1] > 1 and {n for n in one[1:] if n > 1} <= set(other[1:])


@dataclass(frozen=True)
class Batch:
    """Inputs of one call of a model."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def tensors(self) -> list[torch.Tensor]:
        return tensors_in((self.args, self.kwargs))

    @property
    def samples(self) -> int:
        """Along the first dimension of the first tensor that has any and is a batch: see `first_batch`."""
        return samples_in(self.tensors)

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, place: slice) -> Batch:
        """The samples of a slice, step 1: see `part`."""
        start, stop, _ = place.indices(self.samples)
        return self.part(start, stop)

    @property
    def shape(self) -> str:
        return ", ".join(str(tuple(x.shape)) for x in self.tensors)

    @property
    def splits(self) -> bool:
        """Whether all tensors, but for single numbers, have the samples along their first dimension."""
        tensors = [x for x in self.tensors if x.ndim]
        count = self.samples
        return bool(tensors) and all(x.layout == torch.strided and x.shape[0] == count for x in tensors)

    def first(self, samples: int) -> Batch:
        """The first samples, where the tensors tell which these are; else the whole batch."""
        if not self.splits or samples >= self.samples:
            return self
        cut = lambda x: x[:samples] if isinstance(x, torch.Tensor) and x.ndim else x  # noqa: E731
        args, kwargs = tree_map(cut, (self.args, self.kwargs))
        return Batch(args, kwargs)

    def part(self, start: int, stop: int) -> Batch:
        """The samples from start up to stop: of all that has as many samples as the first batch among the tensors."""
        count = self.samples
        if (start, stop) == (0, count):
            return self
        cut = lambda x: x[start:stop] if isinstance(x, torch.Tensor) and x.ndim and len(x) == count else x  # noqa: E731
        args, kwargs = tree_map(cut, (self.args, self.kwargs))
        return Batch(args, kwargs)

    @property
    def opaque(self) -> bool:
        """Whether it holds objects of other kinds than tensors and plain values, such as a cache of keys and values."""
        plain = (torch.Tensor, str, bytes, int, float, complex, type(None), torch.dtype, torch.device)
        return not all(isinstance(x, plain) for x in tree_leaves((self.args, self.kwargs)))

    def apart(self) -> Batch:
        """The same inputs in memory of their own, for a model that writes to what it is given."""
        own = lambda x: x.clone() if isinstance(x, torch.Tensor) else copy.deepcopy(x)  # noqa: E731
        args, kwargs = tree_map(own, (self.args, self.kwargs))
        return Batch(args, kwargs)


def batches_of(inputs: Any, model: nn.Module, said: str) -> list[Batch]:
    """The batches that `inputs` stand for; `said` names them in errors.

    Of an iterable the first are taken until there are 1,024 samples; batches of one tensor each are joined where their
    shapes allow. Else see `mho.mapping.inputs.batches.batches_in`.
    """
    found: list[Batch] = []
    for batch, _ in batches_in(inputs, model, said):
        found.append(batch)
        if sum(batch.samples for batch in found) >= ENOUGH:
            break
    return joined(found) if len(found) > 1 else found


def batches_in(inputs: Any, model: Any, said: str) -> Iterator[tuple[Batch, Any]]:
    """The batches that `inputs` stand for, one by one, each with its labels (None: it brings none).

    A tensor or an array is a model's only input, a tuple its positional inputs, a dict its keyword inputs. Any other
    iterable, such as a list or a DataLoader, holds batches of these forms. As data sets give pairs of inputs and
    labels, its tuples and lists are cut after the inputs that `forward` must have, and its dicts lose keys `label` and
    `labels` that `forward` does not take. Labels are the one thing that was cut off, or what stands under these keys.

    Raises:
        MappingError: anything else, no samples, or more inputs than the model takes.
    """
    takes = Takes.of(model)
    if isinstance(inputs, (torch.Tensor, np.ndarray, tuple, Mapping, Batch)):
        yield takes.batch(inputs, said), None
        return
    if isinstance(inputs, (str, bytes, nn.Module)) or not isinstance(inputs, (Iterable, Dataset)):
        raise MappingError(f"{said}: expected {FORMS}, got {type(inputs).__name__}")
    if isinstance(inputs, Dataset) and not isinstance(inputs, IterableDataset):
        raise MappingError(f"{said}: a data set holds single samples; wrap it in a torch.utils.data.DataLoader")
    number = -1
    for number, item in enumerate(inputs):
        given, labels = takes.inputs_of(item)
        yield takes.batch(given, f"{said}: batch {number}"), labels
    if number < 0:
        raise MappingError(f"{said}: the {type(inputs).__name__} holds no batch")


@dataclass(frozen=True)
class Takes:
    """What a model's forward takes.

    Attributes:
        required, most: how many positional inputs it needs and takes; None: any.
        keys: its keywords; None: any.
        dtype: of its weights, which floating-point arrays become.
    """

    required: int | None = None
    most: int | None = None
    keys: frozenset[str] | None = None
    dtype: torch.dtype = torch.float32

    @classmethod
    def of(cls, model: Any) -> Takes:
        weights = model.parameters() if isinstance(model, nn.Module) else ()
        dtype = next((p.dtype for p in weights if p.is_floating_point()), torch.get_default_dtype())
        try:
            parameters = inspect.signature(model.forward).parameters.values()
        except (AttributeError, TypeError, ValueError):  # a callable without a signature
            return cls(dtype=dtype)
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        some = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        named = frozenset(p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD))
        required = max(1, sum(p.default is p.empty for p in positional))
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
        most = None if some else len(positional)
        return cls(None if some else required, most, None if open_ended else named, dtype)

    def inputs_of(self, item: Any) -> tuple[Any, Any]:
        """What an iterable gives, as inputs and labels."""
        if isinstance(item, (tuple, list)):
            given = tuple(item[: self.required or len(item)])
            return given, item[len(given)] if len(item) == len(given) + 1 else None
        if not isinstance(item, Mapping):
            return item, None
        labels = next((item[key] for key in LABELS if key in item), None)
        if self.keys is not None:
            item = {key: value for key, value in item.items() if key in self.keys or key not in LABELS}
        return item, labels

    def batch(self, given: Any, said: str) -> Batch:
        """The batch of inputs in one of the forms of `batches_in`.

        Raises:
            MappingError: they are in none, have no samples, or are not what the model takes.
        """
        if isinstance(given, Batch):
            self._check_names(given.kwargs, said)
            return given
        if isinstance(given, (torch.Tensor, np.ndarray)):
            given = (given,)
        if not isinstance(given, (tuple, Mapping)):
            raise MappingError(f"{said}: expected {FORMS}, got {type(given).__name__}")
        if isinstance(given, tuple) and self.most is not None and len(given) > self.most:
            raise MappingError(f"{said}: a tuple of {len(given)} inputs, and the model takes {self.most}")
        if isinstance(given, Mapping):
            self._check_names(given, said)
            given = dict(given)
        try:
            made = tree_map(lambda x: self._tensor(x) if isinstance(x, np.ndarray) else x, given)
        except (TypeError, ValueError) as error:
            raise MappingError(f"{said}: an array that is no tensor ({' '.join(str(error).split())[:100]})") from error
        batch = Batch((), made) if isinstance(made, dict) else Batch(made)
        if not batch.tensors:
            raise MappingError(f"{said}: holds no tensor")
        if not batch.samples:
            raise MappingError(f"{said}: holds no samples, its shape is {batch.shape}")
        return batch

    def _check_names(self, given: Iterable[Any], said: str) -> None:
        """Raises MappingError for inputs by names that the model does not have."""
        keys = self.keys
        odd = [str(key) for key in given if not isinstance(key, str) or (keys is not None and key not in keys)]
        if odd:
            known = ", ".join(sorted(keys or ()))
            raise MappingError(f"{said}: the model takes no input called {', '.join(odd)}; it takes {known}")

    def _tensor(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        made = torch.tensor(array)
        return made.to(self.dtype) if made.is_floating_point() else made


def joined(batches: list[Batch]) -> list[Batch]:
    """One batch, if each holds one tensor and all have the same shape but for the number of samples."""
    tensors = [b.args[0] for b in batches if len(b.args) == 1 and not b.kwargs and isinstance(b.args[0], torch.Tensor)]
    kinds = {(x.shape[1:], x.dtype, x.device) for x in tensors if x.ndim}
    if len(tensors) < len(batches) or len(kinds) > 1 or not all(x.ndim for x in tensors):
        return batches
    return [Batch((torch.cat(tensors),))]
