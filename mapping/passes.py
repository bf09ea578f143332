"""Passes of a model whose layers are watched, and how much what they give differs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from .guard import unmarked
from .inputs.leaves import tensors_in
from .modules import intercept_all

SEED = 0
EPS = torch.finfo(torch.float32).eps
AT_ONCE = 1 << 16  # values that are added up together: as many as stay in the cache in 64 bits
ROUNDING = 16  # rounding errors of float32, as a multiple of its epsilon, that a sum of products may show


@dataclasses.dataclass(frozen=True)
class Seen:
    """One call of a layer: its first input and its output as tensors, without gradients.

    `size`: the largest RMS of outputs that were not kept.
    """

    name: str
    input: torch.Tensor | None
    outputs: tuple[torch.Tensor, ...]
    size: float = 0.0


@dataclasses.dataclass(frozen=True)
class Pass:
    """The calls of the layers in one pass of a model, in the order in which they ended, and what the model returned.

    `taken` are the modules whose tensors were used past their forward, and `drew` is whether random numbers were drawn.
    """

    seen: tuple[Seen, ...]
    output: Any
    taken: frozenset[str] = frozenset()
    drew: bool = False

    def of(self, name: str) -> list[Seen]:
        return self._by_name.get(name, [])

    @cached_property
    def _by_name(self) -> dict[str, list[Seen]]:
        found: dict[str, list[Seen]] = {}
        for call in self.seen:
            found.setdefault(call.name, []).append(call)
        return found

    @cached_property
    def largest_rms(self) -> float:
        """Of what layers gave: rounding errors of the output cannot be small against those of it."""
        return max((max(call.size, *map(rms, call.outputs), 0.0) for call in self.seen), default=0.0)


Sift = Callable[[str, torch.Tensor], torch.Tensor | None]


def watch_pass(model: nn.Module, names: list[str], call: Callable[[], Any], sift: Sift | None = None) -> Pass:
    """A pass that records the layers called `names`, of a model that serves for this pass alone.

    Inputs and outputs are kept; with `sift`, what it gives for the name of a layer and its input, and no outputs.
    """
    seen: list[Seen] = []
    hooked: list[str] = []  # layers whose hooks are running, innermost last

    def kept(x: torch.Tensor) -> torch.Tensor:
        return unmarked(x).detach().clone()

    def keep(name: str, given: Any, output: Any) -> None:
        tensors, outputs = tensors_in(given)[:1], [unmarked(x) for x in tensors_in(output)]
        if sift is None:
            seen.append(Seen(name, kept(tensors[0]) if tensors else None, tuple(map(kept, outputs))))
        else:
            found = sift(name, unmarked(tensors[0]).detach()) if tensors else None
            seen.append(Seen(name, found, (), max(map(rms, outputs), default=0.0)))

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            hooked.pop()
            keep(name, (args, kwargs), output)

        return hook

    def directly(name: str) -> Callable[..., Any]:
        def around(forward: Callable[..., Any]) -> Callable[..., Any]:
            def instead(*args: Any, **kwargs: Any) -> Any:
                output = forward(*args, **kwargs)
                if name not in hooked:  # called past its hooks
                    keep(name, (args, kwargs), output)
                return output

            return instead

        return around

    handles: list[Any] = []
    intercept_all(model, ((model.get_submodule(name), directly(name)) for name in names))
    for name in names:
        module = model.get_submodule(name)
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: hooked.append(name), prepend=True))
        handles.append(module.register_forward_hook(record(name), with_kwargs=True))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            state = torch.get_rng_state()
            output = tree_map(lambda x: x.detach() if isinstance(x, torch.Tensor) else x, call())
            drew = not torch.equal(torch.get_rng_state(), state)
    finally:
        for handle in handles:
            handle.remove()
    calls = tuple(seen)
    seen.clear()  # the model may live on for a while, and what went through it shall not
    return Pass(calls, output, drew=drew)


def as_tree(output: Any) -> Any:
    """Nested outputs with dataclasses and objects as dicts, for torch's pytree."""
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return {field.name: as_tree(getattr(output, field.name)) for field in dataclasses.fields(output)}
    if isinstance(output, dict):
        return {str(key): as_tree(value) for key, value in output.items()}
    if isinstance(output, (list, tuple)):
        return [as_tree(value) for value in output]
    return torch.tensor(output, dtype=torch.float64) if isinstance(output, float) else output


def rms(x: torch.Tensor) -> float:
    """Of the values that are finite; 0 for those of no floating-point type."""
    if not (x.is_floating_point() and x.numel()):
        return 0.0
    if (square := _squares(x)) is not None:
        return float((square / x.numel()) ** 0.5)
    finite = x.detach().to(torch.float64).flatten()
    finite = finite[finite.isfinite()]
    return float((finite**2).mean() ** 0.5) if finite.numel() else 0.0


def _parts(x: torch.Tensor) -> Iterable[torch.Tensor]:
    """Its values in 64 bits, some at a time."""
    return (part.to(torch.float64) for part in x.detach().reshape(-1).split(AT_ONCE))


def _squares(x: torch.Tensor) -> float | None:
    """The sum of the squares of its values; None where one of them is not finite, or the sum is beyond 64 bits."""
    total = sum(float(part @ part) for part in _parts(x))
    return total if math.isfinite(total) else None


def _squares_of_difference(a: torch.Tensor, b: torch.Tensor) -> float | None:
    """As `_squares`, of a - b."""
    total = 0.0
    for one, other in zip(_parts(a), _parts(b), strict=True):
        off = one - other
        total += float(off @ off)
    return total if math.isfinite(total) else None


def relative_error(wanted: list[Any], got: list[Any], floor: float) -> float:
    """The largest relative error among pairs of values: RMS of the difference over RMS of the value.

    `floor`, times the epsilon of float32, is a difference that counts as none. Infinity where the structures differ.
    """
    if len(wanted) != len(got):
        return float("inf")
    return max((_difference(a, b, floor) for a, b in zip(wanted, got, strict=True)), default=0.0)


def _difference(wanted: Any, got: Any, floor: float) -> float:
    if not isinstance(wanted, torch.Tensor) or not isinstance(got, torch.Tensor):
        same_type = isinstance(wanted, torch.Tensor) == isinstance(got, torch.Tensor)
        plain = isinstance(wanted, (bool, int, str)) and type(got) is type(wanted)
        return 0.0 if same_type and (not plain or wanted == got) else float("inf")
    if wanted.shape != got.shape:
        return float("inf")
    if wanted.is_nested or wanted.is_sparse or wanted.is_quantized or not wanted.numel():
        return 0.0
    if not (wanted.is_floating_point() or wanted.is_complex()):  # ties may fall otherwise
        return 0.0 if float((wanted != got).double().mean()) <= 0.1 else float("inf")
    a, b = (torch.view_as_real(x.cpu()) if x.is_complex() else x.cpu() for x in (wanted, got))
    off, whole = _squares_of_difference(a, b), _squares(a)
    if off is not None and whole is not None:
        difference, size = ((square / a.numel()) ** 0.5 for square in (off, whole))
        return 0.0 if difference <= floor * EPS else difference / size if size else float("inf")
    a, b = a.to(torch.float64), b.to(torch.float64)
    odd = ~(a.isfinite() & b.isfinite())
    if bool(odd.any()):
        if bool((odd & ~((a == b) | (a.isnan() & b.isnan()))).any()):
            return float("inf")
        a, b = a[~odd], b[~odd]
    difference, size = rms(a - b), rms(a)
    return 0.0 if difference <= floor * EPS else difference / size if size else float("inf")


def alike(done: Pass) -> Callable[[torch.Tensor, torch.Tensor], bool]:
    """Whether two tensors are the same but for rounding, in a pass of numbers of this size."""
    floor = ROUNDING * done.largest_rms

    def same(a: torch.Tensor, b: torch.Tensor) -> bool:
        eps = torch.finfo(a.dtype).eps if a.is_floating_point() else 0.0
        return relative_error([a], [b], floor) <= max(eps, EPS) ** 0.5

    return same
