"""Products with operands as calls of layers: which matrix it is, what it reads, and where its outputs go."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from inspect import signature
from itertools import product as combinations
from typing import Any

import torch

from ..errors import MappingError
from .view import Layout, NoLayout, View

Labels = list[Hashable]


@dataclass(frozen=True)
class Convolving:
    """How a kernel is used: the arguments of torch's convolution."""

    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int


@dataclass(frozen=True)
class Part:
    """A part of a parameter that a layer multiplies by: of the weight of a linear layer, or of a convolution."""

    layout: Layout
    convolving: Convolving | None = None


class _Other(Exception):
    """It is no product that a layer computes."""


def product(name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """What a function gives that multiplies by an operand; None where it does not, or in a way that no layer does."""
    form = FORMS.get(name)
    if form is None or kwargs.get("out") is not None:
        return None
    try:
        given = signature(form).bind(*args, **{key: value for key, value in kwargs.items() if key != "out"})
    except TypeError:  # arguments that no form knows
        return None
    try:
        return form(*given.args, **given.kwargs)
    except (_Other, NoLayout):
        return None


def _is(x: Any) -> bool:
    return hasattr(x, "source")


def _contract(x: Any, x_labels: Labels, w: Any, w_labels: Labels, out: Labels, bias: Any = None) -> torch.Tensor:
    """The sum over all labels that `out` has not of the products of x and an operand.

    A label of all three is a batch of matrices, each a layer of its own. The bias is along the last dimension.
    """
    if not isinstance(x, torch.Tensor) or _is(x) or not _is(w):
        raise _Other
    view: View = w.piece
    for label in [label for label in w_labels if label in x_labels]:
        at, of = w_labels.index(label), x.shape[x_labels.index(label)]
        many = len(w.pick) if w.pick is not None and at == 0 else view.shape[at]
        if w.pick is None and label in out and view.is_repeated(at):
            view, w_labels = view.moved(torch.select, (at, 0)), [other for other in w_labels if other != label]
        elif of != many:
            if of != 1:
                raise MappingError(
                    f"parameter {w.source.name!r}: {tuple(w.shape)} of it is multiplied by a tensor of shape "
                    f"{tuple(x.shape)}, which must have {many} where it has {of}"
                )
            if label not in out:
                raise _Other
            x = x.expand([many if other == label else -1 for other in x_labels])
    batch = [label for label in w_labels if label in x_labels and label in out]
    summed = [label for label in w_labels if label in x_labels and label not in out]
    outputs = [label for label in w_labels if label not in x_labels]
    before = [label for label in x_labels if label not in w_labels]
    given = [*batch, *before, *outputs]
    if not summed or set(given) != set(out) or len({*x_labels}) < len(x_labels) or len({*w_labels}) < len(w_labels):
        raise _Other
    if w.pick is not None and (batch != w_labels[:1]):
        raise _Other
    sizes = dict(zip(w_labels, view.shape, strict=True))
    view = view.moved(torch.permute, ([w_labels.index(label) for label in (*batch, *outputs, *summed)],))
    x = x.permute([x_labels.index(label) for label in (*batch, *before, *summed)]).flatten(len(batch) + len(before))

    def read(part: View, rows: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = w.source.call(Part(part.layout(len(outputs), len(summed))), rows, bias)
        return found

    if not batch:
        y = read(view, x)
    elif w.pick is not None:
        y = _picked(view, x, w.pick, read)
    else:
        matrices = [sizes[label] for label in batch]
        places = combinations(*(range(size) for size in matrices))
        y = torch.stack([read(view.moved(torch.Tensor.__getitem__, (at,)), x[at]) for at in places])
        y = y.unflatten(0, matrices)
    y = y.unflatten(-1, [sizes[label] for label in outputs]) if outputs else y.squeeze(-1)
    return y.permute([given.index(label) for label in out])


def _picked(
    view: View, x: torch.Tensor, pick: torch.Tensor, read: Callable[[View, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Of rows (picked, ...) that have a matrix each, by its number."""
    y: torch.Tensor | None = None
    pick = pick % view.shape[0]
    for number in pick.unique().tolist() or [0]:
        rows = (pick == number).nonzero()[:, 0]
        part = read(view.moved(torch.select, (0, number)), x[rows])
        y = part.new_zeros(len(x), *part.shape[1:]) if y is None else y
        y[rows] = part
    assert y is not None
    return y


def _linear(input: Any, weight: Any, bias: Any = None) -> Any:
    if weight.ndim != 2 or not isinstance(input, torch.Tensor):
        raise _Other
    before: Labels = list(range(input.ndim - 1))
    return _contract(input, [*before, "k"], weight, ["n", "k"], [*before, "n"], bias)


def _matmul(input: Any, other: Any) -> Any:
    if not (isinstance(input, torch.Tensor) and isinstance(other, torch.Tensor) and input.ndim and other.ndim):
        raise _Other
    one: Labels = [*range(input.ndim - 2, 0, -1), *["m", "k"][-min(2, input.ndim) :]]
    two: Labels = ["k"] if other.ndim == 1 else [*range(other.ndim - 2, 0, -1), "k", "n"]
    out: Labels = [*range(max(input.ndim, other.ndim) - 2, 0, -1), *one[-2:-1], *two[-1:][: other.ndim - 1]]
    if _is(other):
        return _contract(input, one, other, two, out)
    return _contract(other, two, input, one, out)


def _added(input: Any, one: Any, two: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta input + alpha one @ two."""
    if _is(input) and _is(two) and two.ndim == 2 and input.ndim == 1 and beta == alpha == 1:  # a bias of the outputs
        return _contract(one, ["m", "k"], two, ["k", "n"], ["m", "n"], input)
    y = _matmul(one, two)
    y = y if alpha == 1 else alpha * y
    return y if beta == 0 else y + (input if beta == 1 else beta * input)


def _einsum(equation: Any, *given: Any) -> Any:
    factors = given[0] if len(given) == 1 and isinstance(given[0], (list, tuple)) else given
    if not isinstance(equation, str) or len(factors) != 2 or sum(map(_is, factors)) != 1:
        raise _Other
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    counts = [f.ndim - len(term.replace("...", "")) for term, f in zip(terms, factors, strict=True)]
    most = max([n for term, n in zip(terms, counts, strict=True) if "..." in term], default=0)
    if not arrow:
        letters = left.replace(",", "").replace("...", "")
        right = "..." + "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))

    def labels(term: str, many: int) -> Labels:
        start, dots, end = term.partition("...")
        return [*start, *(range(most - many, most) if dots else ()), *end]

    one, two = (labels(term, n) for term, n in zip(terms, counts, strict=True))
    out = labels(right, most)
    x, w = factors
    return _contract(x, one, w, two, out) if _is(w) else _contract(w, two, x, one, out)


def _tensordot(a: Any, b: Any, dims: Any = 2) -> Any:
    if isinstance(dims, int):
        dims = list(range(a.ndim - dims, a.ndim)), list(range(dims))
    if isinstance(dims, torch.Tensor):
        raise _Other
    pairs = [(i % a.ndim, j % b.ndim) for i, j in zip(*dims, strict=True)]
    one: Labels = [("a", i) for i in range(a.ndim)]
    two: Labels = [("b", j) for j in range(b.ndim)]
    for i, j in pairs:
        two[j] = one[i]
    out = [label for label in (*one, *two) if not (label in one and label in two)]
    return _contract(a, one, b, two, out) if _is(b) else _contract(b, two, a, one, out)


def _inner(input: Any, other: Any) -> Any:
    if not (input.ndim and other.ndim):
        raise _Other
    one: Labels = [*(("a", i) for i in range(input.ndim - 1)), "k"]
    two: Labels = [*(("b", j) for j in range(other.ndim - 1)), "k"]
    out = [*one[:-1], *two[:-1]]
    return _contract(input, one, other, two, out) if _is(other) else _contract(other, two, input, one, out)


def _convolution(dims: int) -> Callable[..., Any]:
    def convolution(
        input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
    ) -> Any:
        if _is(input) or not _is(weight) or weight.pick is not None or weight.ndim != dims + 2:
            raise _Other
        sizes = [(n,) * dims if isinstance(n, int) else tuple(n) for n in (stride, dilation)]
        pads = (
            padding if isinstance(padding, str) else (padding,) * dims if isinstance(padding, int) else tuple(padding)
        )
        stride, dilation, pads = (s * dims if len(s) == 1 and not isinstance(s, str) else s for s in (*sizes, pads))
        part = Part(weight.piece.layout(*(1,) * weight.ndim), Convolving(stride, pads, dilation, groups))
        return weight.source.call(part, input, bias)

    return convolution


def _grouped(mat_a: Any, mat_b: Any, offs: Any = None, bias: Any = None, out_dtype: Any = None) -> Any:
    """Rows of `mat_a` that follow one another have a matrix each; `offs` says where they end."""
    if _is(mat_a) or not _is(mat_b) or mat_b.ndim != 3 or mat_a.ndim != 2 or offs is None or bias is not None:
        raise _Other
    start, made = 0, list[torch.Tensor]()
    for number, end in enumerate(offs.tolist()):
        rows = mat_a[start:end]
        if len(rows):
            made.append(_matmul(rows, mat_b[number]))
        start = end
    rest = mat_a.new_zeros(len(mat_a) - sum(map(len, made)), mat_b.shape[2])
    y = torch.cat([*made, rest])
    return y if out_dtype is None else y.to(out_dtype)


FORMS: dict[str, Callable[..., Any]] = {
    "linear": _linear,
    **dict.fromkeys(("matmul", "__matmul__", "mm", "mv", "bmm", "dot"), _matmul),
    "__rmatmul__": lambda input, other: _matmul(other, input),
    **dict.fromkeys(("addmm", "addmv", "baddbmm"), _added),
    "einsum": _einsum,
    "tensordot": _tensordot,
    "inner": _inner,
    **{f"conv{dims}d": _convolution(dims) for dims in (1, 2, 3)},
    **dict.fromkeys(("grouped_mm", "_grouped_mm", "grouped_mm_fallback"), _grouped),
}
