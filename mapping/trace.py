"""What one inference of a model does, call by call, and which results each call needs: the graph of the pipeline.

The graph is recorded while the model runs, so any model has one: branches, residual and dense connections, loops over
a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from .inputs.leaves import tensors_in
from .inputs.rows import Rows
from .kinds.leaf import Leaf
from .operands.operand import Operand, call

__all__ = ["Call", "Recorder", "downstream"]

INPUT = -1
# functions that only say where values lie, by their names in torch
_WIRING = """
    __get__ __getitem__ __len__ __set__ __setitem__ as_subclass broadcast_to cat chunk clone concat concatenate
    contiguous cpu detach dim dropout expand expand_as flatten float is_contiguous len movedim moveaxis narrow
    new_empty new_full new_ones new_zeros numel ones_like pad permute repeat reshape select size split squeeze stack
    stride swapaxes t to transpose type type_as unbind unflatten unsqueeze view view_as zeros_like empty_like full_like
"""
WIRING = frozenset(_WIRING.split())
# functions whose output row needs no rows of an image but those next to it
_ROW_BY_ROW = """
    add add_ sub sub_ mul mul_ div div_ true_divide __add__ __radd__ __iadd__ __sub__ __rsub__ __mul__ __rmul__
    __truediv__ relu relu_ relu6 leaky_relu elu gelu silu hardswish hardtanh sigmoid tanh clamp clamp_ abs neg sqrt
    exp batch_norm max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d boolean_dispatch fn
"""
ROW_BY_ROW = frozenset(_ROW_BY_ROW.split())
# functions that multiply by the weights of a layer
_PRODUCTS = """
    linear conv1d conv2d conv3d bilinear matmul __matmul__ __rmatmul__ mm bmm addmm baddbmm einsum tensordot inner
    lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
"""
PRODUCTS = frozenset(_PRODUCTS.split())


@dataclass
class Call:
    """One call of a layer on tiles, or one stretch of digital work between such calls.

    Attributes:
        layer: name of the layer; for digital work that of the layer after which it comes, empty at the input.
        digital: names of the functions of digital work, in order; empty for a call of a layer on tiles.
        after: the calls whose results it needs, by number.
        positions: matrix reads per sample, 0 for digital work.
        work: digital operations per sample: of each function the larger number of values it takes or gives.
        values: values per sample that a layer on tiles takes.
        needs: for each row of the output's image, the last row of the input's image that it needs, counted in
            `rows_in` rows. One row that needs all where there is no image.
    """

    layer: str
    digital: tuple[str, ...] = ()
    after: tuple[int, ...] = ()
    positions: int = 0
    work: int = 0
    values: int = 0
    rows_in: int = 1
    needs: tuple[int, ...] = (0,)

    def plain(self) -> dict[str, Any]:
        """Its fields without tuples, for a file."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Call:
        """The call of `plain` fields."""
        known: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
        return cls(**known)


def downstream(calls: Sequence[Call], layers: Collection[str]) -> list[bool]:
    """Of each call, whether it is one of these layers on tiles, or needs their results, over other calls too."""
    found: list[bool] = []
    for made in calls:  # each comes after those that it needs
        found.append((not made.digital and made.layer in layers) or any(found[before] for before in made.after))
    return found


class Recorder(TorchFunctionMode):
    """A context that records the calls of a model: `with Recorder((x,), samples) as recorder: model(x)`.

    inputs: what depends on them is recorded. samples: size of the batch, by which work is divided. replaced: weights of
    the layers that tiles stand for, with the names of these. The layers on tiles are read by `read`.
    """

    def __init__(self, inputs: Any, samples: int, replaced: Mapping[torch.Tensor, str] | None = None) -> None:
        super().__init__()
        self.replaced = replaced or {}
        self.past: list[str] = []  # layers whose weights were used past their tiles
        self.calls: list[Call] = []
        self.samples = samples
        self.makers: Any = WeakTensorKeyDictionary()  # the calls that a tensor comes from
        for tensor in tensors_in(inputs):
            self.makers[tensor] = frozenset({INPUT})
        self.rows = Rows(lambda x: bool(self.makers.get(x)), samples)
        self.inside = False

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.inside:
            return function(*args, **(kwargs or {}))
        given = tensors_in((args, kwargs))
        if any(isinstance(x, Operand) for x in given):  # the products that it becomes are recorded
            with self:
                return call(function, args, kwargs or {})
        result = function(*args, **(kwargs or {}))
        name, results = getattr(function, "__name__", str(function)), tensors_in(result)
        if name in PRODUCTS:
            self.past += [self.replaced[x] for x in given if x in self.replaced]
        makers = self._makers(given)
        if makers and results:
            if name not in WIRING:
                makers = frozenset({self._digital(name, makers, given, results)})
            for tensor in results:
                self.makers[tensor] = makers
        elif makers and name == "__setitem__":
            self.makers[given[0]] = makers
        if makers:
            self.rows.follow(name, args, kwargs or {}, given, result)
        return result

    def _makers(self, tensors: list[torch.Tensor]) -> frozenset[int]:
        return frozenset().union(*(self.makers.get(tensor, frozenset()) for tensor in tensors))

    def _digital(
        self, name: str, makers: frozenset[int], given: list[torch.Tensor], results: list[torch.Tensor]
    ) -> int:
        """The number of the call that this function becomes, or becomes part of."""
        work = max(sum(t.numel() for t in results), *(t.numel() for t in given if self.makers.get(t)))
        work = -(-work // self.samples)
        rows, rows_in = _rows(results[0]), max(_rows(t) for t in given)
        if name not in ROW_BY_ROW or rows > rows_in:
            rows, rows_in = 1, 1
        last, others = max(makers), tuple(sorted(makers - {max(makers), INPUT}))
        if last != INPUT and self.calls[last].digital:  # the same unit goes on with its own result
            call = self.calls[last]
            call.digital += (name,)
            call.after = tuple(sorted({*call.after, *others}))
            call.work += work
            step = _spread(rows, len(call.needs))
            call.needs = tuple(call.needs[need] for need in step)
            return last
        layer = "" if last == INPUT else self.calls[last].layer
        after = others if last == INPUT else (*others, last)
        self.calls.append(Call(layer, (name,), after, work=work, rows_in=rows_in, needs=_spread(rows, rows_in)))
        return len(self.calls) - 1

    def read(self, name: str, spec: Leaf, x: torch.Tensor, call: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What `call` gives, the read of a layer on tiles for x: one call."""
        self.inside = True
        output = call()
        self.inside = False
        self.rows.read(x, output)
        makers = self._makers([x])
        rows, rows_in = _rows(output), _rows(x)
        needs = spec.rows_needed(rows, rows_in) if rows > 1 else None
        if needs is None:
            needs, rows_in = (0,), 1
        samples = self.samples if x.ndim > spec.dims + 1 else 1  # a layer may also take one sample without a batch
        space = tuple(output.shape[output.ndim - spec.dims :])
        outputs = output.numel() // (spec.out_features * prod(space) or 1)
        positions = -(-outputs * spec.reads(space) // samples) if output.numel() else 0
        after = tuple(sorted(makers - {INPUT}))
        values = -(-x.numel() // self.samples)
        self.calls.append(Call(name, (), after, positions, 0, values, rows_in, needs))
        self.makers[output] = frozenset({len(self.calls) - 1})
        return output


def _rows(tensor: torch.Tensor) -> int:
    """Rows of the images (samples, channels, rows, columns); 1 if they are none."""
    return int(tensor.shape[2]) if tensor.ndim == 4 else 1


def _spread(rows: int, rows_in: int) -> tuple[int, ...]:
    """The last of `rows_in` rows that each of `rows` rows needs, which are spread over them evenly."""
    return tuple(-(-(row + 1) * rows_in // rows) - 1 for row in range(rows))
