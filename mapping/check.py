"""Whether a mapped network, computed digitally, is the caller's network: layer by layer and at the output.

Two passes on the same few samples, with the same random numbers: one of a copy of the caller's network, one of the
mapped network with torch's arithmetic in the place of tiles. Both record what goes into each layer and comes out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from .errors import MappingError
from .guard import unmarked
from .inference import Inference
from .modules import copied

if TYPE_CHECKING:
    from .batches import Batch
    from .chip import Chip

SAMPLES = 3
SEED = 0
ROUNDING = 16  # rounding errors of float32, as a multiple of its epsilon, that a sum of products may show


@dataclasses.dataclass(frozen=True)
class Seen:
    """One call of a layer: its first input and its output as tensors, without gradients."""

    name: str
    input: torch.Tensor | None
    outputs: tuple[torch.Tensor, ...]


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
        return [call for call in self.seen if call.name == name]


@dataclasses.dataclass(frozen=True)
class Check:
    """What the two passes showed.

    Attributes:
        samples: of the caller's inputs.
        error: relative error of the output, RMS over RMS.
        tolerance: half the digits of the coarsest floating-point type of model and outputs, and of float32, in which
            tiles are programmed: sqrt(eps), 3.5e-4 for float32.
        unreached: layers that the inputs never reach.
        macs: multiply-accumulates of the pass, as torch's FlopCounterMode counts products of matrices.
        macs_on_tiles: those of layers on tiles.
    """

    samples: int
    error: float
    tolerance: float
    unreached: tuple[str, ...]
    macs: int
    macs_on_tiles: int


class _Watch(TorchFunctionMode):
    """Notes which modules' tensors a model uses while the module that holds them is not running."""

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        super().__init__()
        held = [(tensor, name) for name in names for tensor in _tensors(model.get_submodule(name))]
        self.names = {id(tensor): name for tensor, name in held}
        self.held = held  # so that no other tensor gets one of these identities
        self.holders = [m for m in model.modules() if any(id(t) in self.names for t in _tensors(m, recurse=False))]
        self.running: list[set[int]] = []
        self.taken: set[str] = set()

    def enter(self, module: nn.Module, *_: Any) -> None:
        self.running.append({id(t) for t in _tensors(module)})

    def leave(self, *_: Any) -> None:
        self.running.pop()

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if any(isinstance(x, torch.Tensor) for x in tree_leaves(result)):  # a shape or a type is no use of the values
            for x in tree_leaves((args, kwargs)):
                if id(x) in self.names and not any(id(x) in ids for ids in self.running):
                    self.taken.add(self.names[id(x)])
        return result


def _tensors(module: nn.Module, *, recurse: bool = True) -> list[torch.Tensor]:
    own = [
        x for m in (module.modules() if recurse else [module]) for x in vars(m).values() if isinstance(x, torch.Tensor)
    ]
    return [*module.parameters(recurse), *module.buffers(recurse), *own]


def reference(model: nn.Module, names: list[str], batch: Batch) -> Pass:
    """The pass of a copy of the caller's network in evaluation."""
    twin = copied(model, model.parameters())
    watch = _Watch(twin, names)
    handles = []
    for module in watch.holders:
        handles.append(module.register_forward_pre_hook(watch.enter, prepend=True))
        handles.append(module.register_forward_hook(watch.leave, always_call=True))
    with watch:
        done = _watched(twin, names, lambda: twin(*batch.args, **batch.kwargs))
    return dataclasses.replace(done, taken=frozenset(watch.taken))


def compare(chip: Chip, before: Pass, names: list[str], batch: Batch) -> tuple[Check, Pass]:
    """The second pass, which records all layers on tiles too, and the comparison of both.

    Args:
        chip: the mapped network, not yet programmed.
        before: the pass of the caller's network.
        names: of the layers that must give the same in both.
        batch: the samples.

    Raises:
        MappingError: they differ; the error names the first layer.
    """
    trial = chip.remade(chip.hardware, lambda layer: layer.matrix)  # so that the pass leaves no trace in the chip
    macs: list[int] = []

    def count(layer: Any, _: Any, output: torch.Tensor) -> None:
        macs.append(output.numel() * layer.matrix.weights.shape[1])

    for layer in trial.layers.values():
        layer.register_forward_hook(count, prepend=True)
    run, watched = Inference(surveying=True), [*dict.fromkeys([*names, *chip.layers])]
    try:
        with FlopCounterMode(display=False) as counter:
            after = _watched(trial.model, watched, lambda: trial.run(batch.args, run, batch.kwargs))
    except MappingError:
        raise
    except Exception as error:  # a model may do anything with its layers
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        at = next((f"layer {n!r}" for n in reversed(list(run.calls)) if n in names), "the first layer")
        raise MappingError(
            f"the model fails with its layers on tiles, after {at} ({reason}); exclude the layer that it asks for this"
        ) from error
    tolerance = _tolerance(chip.model, before)
    compared = dict.fromkeys(call.name for call in before.seen if call.name in names)  # in the order of the pass
    for name in compared:
        _same_layer(name, before, after, trial, tolerance)
    wanted, got = (tree_leaves(_plain(done.output)) for done in (before, after))
    off = _error(wanted, got, 0.0)
    if not off <= tolerance and _error(wanted, got, _size(before) * ROUNDING):
        raise MappingError(
            f"the mapped network is not the caller's: all {len(compared)} layers give the same, and its output differs "
            f"by {off:.2g} (relative RMS; tolerance {tolerance:.2g}); check=False maps it all the same"
        )
    unreached = tuple(name for name in chip.layers if name not in run.calls)
    total = counter.get_total_flops() // 2
    return Check(batch.samples, off, tolerance, unreached, total, sum(macs)), after


def _same_layer(name: str, before: Pass, after: Pass, chip: Chip, tolerance: float) -> None:
    wanted, got = before.of(name), after.of(name)
    if len(wanted) != len(got):
        raise MappingError(
            f"layer {name!r}: the caller's network calls it {len(wanted)} times, the mapped one {len(got)} times; "
            "exclude it, or map with check=False"
        )
    layer = chip.layers.get(name)
    for one, other in zip(wanted, got, strict=True):
        floor = 0.0
        if layer is not None and one.input is not None:  # where products cancel, their rounding is left
            floor = ROUNDING * _rms([one.input]) * float((layer.matrix.weights.astype(float) ** 2).sum(1).mean()) ** 0.5
        error = _error(list(one.outputs), list(other.outputs), floor)
        if not error <= tolerance:
            fed = _error(_some(one.input), _some(other.input), 0.0)
            why = "its inputs differ already" if not fed <= tolerance else "its inputs are the same"
            raise MappingError(
                f"layer {name!r}: its output differs by {error:.2g} from the caller's network (relative RMS; tolerance "
                f"{tolerance:.2g}; {why}); exclude it, or map with check=False"
            )


def _watched(model: nn.Module, names: list[str], call: Callable[[], Any]) -> Pass:
    """A pass that records the layers called `names`."""
    seen: list[Seen] = []

    def kept(x: torch.Tensor) -> torch.Tensor:
        return unmarked(x).detach().clone()

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
            outputs = tuple(kept(x) for x in tree_leaves(output) if isinstance(x, torch.Tensor))
            seen.append(Seen(name, kept(given[0]) if given else None, outputs))

        return hook

    handles = [model.get_submodule(name).register_forward_hook(record(name), with_kwargs=True) for name in names]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            state = torch.get_rng_state()
            output = tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, call())
            drew = not torch.equal(torch.get_rng_state(), state)
    finally:
        for handle in handles:
            handle.remove()
    return Pass(tuple(seen), output, drew=drew)


def _plain(output: Any) -> Any:
    """Nested outputs with dataclasses and objects as dicts, for torch's pytree."""
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return {field.name: _plain(getattr(output, field.name)) for field in dataclasses.fields(output)}
    if isinstance(output, dict):
        return {str(key): _plain(value) for key, value in output.items()}
    if isinstance(output, (list, tuple)):
        return [_plain(value) for value in output]
    return torch.tensor(output, dtype=torch.float64) if isinstance(output, float) else output


def _tolerance(model: nn.Module, before: Pass) -> float:
    tensors = [*model.parameters(), *model.buffers(), *(x for call in before.seen for x in call.outputs)]
    tensors += [x for x in tree_leaves(_plain(before.output)) if isinstance(x, torch.Tensor)]
    kinds = {x.dtype for x in tensors if x.is_floating_point()} | {torch.float32}
    return float(max(torch.finfo(kind).eps for kind in kinds) ** 0.5)


def _some(x: torch.Tensor | None) -> list[torch.Tensor]:
    return [] if x is None else [x]


def _size(done: Pass) -> float:
    """The largest RMS of what layers gave: rounding errors of the output cannot be small against those of it."""
    return max((_rms([x]) for call in done.seen for x in call.outputs), default=0.0)


def _rms(tensors: list[torch.Tensor]) -> float:
    values = [x.detach().to(torch.float64).flatten() for x in tensors if x.is_floating_point() and x.numel()]
    finite = [x[x.isfinite()] for x in values]
    count = sum(x.numel() for x in finite)
    return float((sum(float((x**2).sum()) for x in finite) / count) ** 0.5) if count else 0.0


def _error(wanted: list[Any], got: list[Any], floor: float) -> float:
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
    a, b = (torch.view_as_real(x) if x.is_complex() else x for x in (wanted, got))
    a, b = a.to("cpu", torch.float64), b.to("cpu", torch.float64)
    odd = ~(a.isfinite() & b.isfinite())
    if bool((odd & ~((a == b) | (a.isnan() & b.isnan()))).any()):
        return float("inf")
    difference, size = _rms([(a - b)[~odd]]), _rms([a[~odd]])
    if difference <= floor * torch.finfo(torch.float32).eps:
        return 0.0
    return difference / size if size else float("inf")
