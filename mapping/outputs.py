"""What a model returns, in any nesting: outputs of several reads as one, and where the scores of classes are."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

LOGITS = "logits"  # what models that return several things call the scores of classes
Where = str | int | Callable[[Any], Any] | None


def tensors_of(output: Any) -> Iterator[torch.Tensor]:
    """The tensors of nested tuples, lists, mappings and dataclasses."""
    if isinstance(output, torch.Tensor):
        yield output
    else:
        for part in _parts(output).values():
            yield from tensors_of(part)


def joined(outputs: Sequence[Any]) -> Any:
    """Outputs of several reads as one, in the nesting that each has.

    Tensors follow one another along their first dimension, single numbers (a loss) become (reads,). What is no tensor
    is that of the first read.

    Raises:
        ValueError: the outputs have not the same parts.
    """
    first = outputs[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(tuple(outputs)) if first.ndim else torch.stack(tuple(outputs))
    parts = _parts(first)
    if not parts:
        return first
    others = [_parts(output) for output in outputs]
    if any(other.keys() != parts.keys() for other in others):
        raise ValueError(f"the outputs of several reads differ in their parts: {', '.join(map(str, parts))} and others")
    return _rebuilt(first, {key: joined([other[key] for other in others]) for key in parts})


def _parts(output: Any) -> dict[Any, Any]:
    """The parts of an output that has some, by key, name or number."""
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, (tuple, list)):
        return dict(enumerate(output))
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    return {}


def _rebuilt(like: Any, parts: dict[Any, Any]) -> Any:
    """An output of the kind of another with these parts."""
    if isinstance(like, tuple):
        values = parts.values()
        return type(like)(*values) if hasattr(like, "_fields") else type(like)(values)
    if isinstance(like, list):
        return list(parts.values())
    if type(like) is dict:
        return parts
    made = copy.copy(like)  # an object of a class of its own, as Hugging Face's outputs are, which are mappings too
    for key, value in parts.items():
        if isinstance(made, Mapping):
            made[key] = value  # type: ignore[index]
        else:
            object.__setattr__(made, key, value)  # which may be frozen
    return made


def found_in(output: Any, where: Where) -> Any:
    """The part of an output that is asked for.

    Args:
        output: what the model returned.
        where: a name, a number, or a function of the output; None for the output itself, or its part `logits`.

    Raises:
        ValueError: there is no such part.
    """
    if callable(where):
        return where(output)
    parts = _parts(output)
    if where is None:
        return parts.get(LOGITS, output)
    if isinstance(where, bool) or not isinstance(where, (str, int)):
        raise ValueError(f"output must be a name, a number or a function, got {type(where).__name__}")
    if isinstance(where, int):
        values = [value for value in parts.values() if value is not None]  # as Hugging Face's outputs are numbered
        if not isinstance(output, torch.Tensor) and -len(values) <= where < len(values):
            return values[where]
    elif where in parts:
        return parts[where]
    elif where in getattr(output, "_fields", ()) or not (parts or isinstance(output, torch.Tensor)):
        with contextlib.suppress(AttributeError):
            return getattr(output, where)
    raise ValueError(f"output={where!r}: the model returns {returned(output)}")


def returned(output: Any) -> str:
    """What a model returned, in words."""
    if isinstance(output, torch.Tensor):
        return f"a tensor of {str(output.dtype).removeprefix('torch.')}"
    name, parts = type(output).__name__, _parts(output)
    if isinstance(output, tuple | list) and not hasattr(output, "_fields"):
        return f"a {name} of {len(output)}"
    names = getattr(output, "_fields", parts)
    if not parts:
        return f"an empty {name}" if isinstance(output, Mapping) else f"a {name}"
    return f"a {name} with {', '.join(map(repr, names))}"
