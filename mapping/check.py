"""Whether a mapped network, computed digitally, is the caller's network: layer by layer and at the output.

Two passes on the same few samples, with the same random numbers: one of a copy of the caller's network, one of the
mapped network with torch's arithmetic in the place of tiles. Both record what goes into each layer and comes out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from .errors import MappingError
from .inference import Inference, Survey
from .inputs.batches import Batch
from .inputs.leaves import tensors_in
from .inputs.samples import Sizes, Unfound, narrowed, settle
from .layers import TileLayer
from .lent import spare_compiler
from .mapped import MappedNetwork
from .modules import copied, intercept_all
from .passes import ROUNDING, Pass, Seen, alike, as_tree, relative_error, rms, watch_pass

SAMPLES = 3
PACKAGE = __name__.partition(".")[0] + "."


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
        macs_within: those of each module that has some, by its name.
    """

    samples: int
    error: float
    tolerance: float
    unreached: tuple[str, ...]
    macs: int
    macs_on_tiles: int
    macs_within: dict[str, int]


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    (*batch, steps, size), (*_, keys, width) = query, value
    return 2 * prod(batch) * steps * keys * (size + width)


def _lstm(x: Any, w_ih: Any, w_hh: Any, *_: Any, **__: Any) -> int:
    return 2 * x[0] * x[1] * (prod(w_ih) + prod(w_hh))


def _bilinear(one: Any, weight: Any, *_: Any, **__: Any) -> int:
    return 2 * prod(one[:-1]) * prod(weight)


_aten = torch.ops.aten
NOT_COUNTED = {  # products that FlopCounterMode of torch 2.13 does not know, on a CPU
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten.mkldnn_rnn_layer: _lstm,
    _aten._trilinear: _bilinear,
}


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

    def around(self, module: nn.Module) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """A forward that is called past the hooks of its module runs, too."""

        def wrapped(forward: Callable[..., Any]) -> Callable[..., Any]:
            def instead(*args: Any, **kwargs: Any) -> Any:
                self.enter(module)
                try:
                    return forward(*args, **kwargs)
                finally:
                    self.leave()

            return instead

        return wrapped

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if tensors_in(result):  # a shape or a type is no use of the values
            for x in tensors_in((args, kwargs)):
                if id(x) in self.names and not any(id(x) in ids for ids in self.running):
                    self.taken.add(self.names[id(x)])
        return result


def _tensors(module: nn.Module, *, recurse: bool = True) -> list[torch.Tensor]:
    own = [
        x for m in (module.modules() if recurse else [module]) for x in vars(m).values() if isinstance(x, torch.Tensor)
    ]
    return [*module.parameters(recurse), *module.buffers(recurse), *own]


def reference(model: nn.Module, names: list[str], batch: Batch, more: Iterable[str] = ()) -> Pass:
    """The pass of a copy of the caller's network in evaluation. `names` are layers, `more` modules of other kinds."""
    twin, batch = copied(model, model.parameters()), batch.apart()
    watch = _Watch(twin, names)
    intercept_all(twin, ((module, watch.around(module)) for module in watch.holders))
    for module in watch.holders:
        module.register_forward_pre_hook(watch.enter, prepend=True)
        module.register_forward_hook(watch.leave, always_call=True)
    with watch:
        done = watch_pass(twin, [*dict.fromkeys([*names, *more])], lambda: twin(*batch.args, **batch.kwargs))
    return dataclasses.replace(done, taken=frozenset(watch.taken))


def compare(chip: MappedNetwork, before: Pass, names: list[str], batch: Batch) -> Check:
    """The second pass, and the comparison of both.

    Where it can, the second pass has one sample less than the first: that shows where the samples lie in each layer
    too. Where it differs so, the comparison is made with all of them, in one pass more, so that the reason is told.

    Args:
        chip: the mapped network, not yet programmed; its layers are told where their samples lie.
        before: the pass of the caller's network.
        names: of the layers that must give the same in both.
        batch: the samples.

    Raises:
        MappingError: they differ; the error names the first layer.
    """
    whole, wanted = before, set(names)
    before = dataclasses.replace(before, seen=tuple(call for call in before.seen if call.name in wanted))
    sizes = Sizes(batch.samples, batch.samples - 1)
    if batch.splits and sizes.fewer and not before.drew:
        try:
            after, trial = _digital_pass(chip, names, batch.first(sizes.fewer))
            found, same = _verdict(narrowed(before, after, sizes), after, trial, sizes.fewer), alike(before)
            own = {name for name, layer in chip.layers.items() if not layer.rows_are_samples and not whole.of(name)}
            if own & {call.name for call in after.seen}:  # layers that the caller's network has not
                whole, _ = _digital_pass(chip, names, batch)
            settle(chip, whole, after, sizes, same)
            return found
        except (Unfound, MappingError):
            pass
    after, trial = _digital_pass(chip, names, batch)
    return _verdict(before, after, trial, batch.samples)


@dataclasses.dataclass
class _Trial:
    """A copy of a chip on which a pass is made, and the multiply-accumulates of that."""

    chip: MappedNetwork
    run: Inference
    counter: FlopCounterMode
    macs: int = 0
    macs_on_tiles: int = 0
    macs_within: dict[str, int] = dataclasses.field(default_factory=dict)

    def counted(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The forward of a layer, whose multiply-accumulates are counted."""

        def instead(*args: Any, **kwargs: Any) -> Any:
            before = self.counter.get_total_flops()
            output = forward(*args, **kwargs)
            self.macs_on_tiles += (self.counter.get_total_flops() - before) // 2
            return output

        return instead


def _digital_pass(chip: MappedNetwork, names: list[str], batch: Batch) -> tuple[Pass, _Trial]:
    """A pass of a copy of the chip, so that it leaves no trace there."""
    batch = batch.apart()
    counter = FlopCounterMode(display=False, custom_mapping=NOT_COUNTED)
    trial = _Trial(chip.trial(), Survey(), counter)
    intercept_all(trial.chip.model, ((layer, trial.counted) for layer in trial.chip.layers.values()))
    seen = [*dict.fromkeys([*names, *chip.layers])]
    try:
        counter.mod_tracker = _Forward()
        with counter:
            spare_compiler(counter.mode)
            call = lambda: trial.chip.run(batch.args, trial.run, batch.kwargs)  # noqa: E731
            after = watch_pass(trial.chip.model, seen, call)
    except MappingError:
        raise
    except Exception as error:  # a model may do anything with its layers
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        at = next((f"layer {n!r}" for n in reversed(list(trial.run.calls)) if n in names), "the first layer")
        raise MappingError(
            f"the model fails with its layers on tiles, after {at} ({reason}); exclude the layer that it asks for this"
        ) from error
    trial.macs = counter.get_total_flops() // 2
    for path, counts in counter.get_flop_counts().items():  # the name of the model's type comes first
        trial.macs_within[path.partition(".")[2]] = sum(counts.values()) // 2
    return after, trial


class _Forward(ModuleTracker):
    """Tells which modules run, without the hooks on gradients, which fail where an input is a parameter's view."""

    def _fw_pre_hook(self, mod: nn.Module, input: Any) -> None:
        self._get_append_fn(self._get_mod_name(mod), False)()

    def _fw_post_hook(self, mod: nn.Module, input: Any, output: Any) -> None:
        self._get_pop_fn(self._get_mod_name(mod), False)()


def _verdict(before: Pass, after: Pass, trial: _Trial, samples: int) -> Check:
    tolerance = _tolerance(trial.chip.model, before)
    compared = dict.fromkeys(call.name for call in before.seen)  # in the order of the pass
    for name in compared:
        _same_layer(name, before, after, trial.chip, tolerance)
    for name, layer in trial.chip.layers.items():
        if not type(layer.spec).__module__.startswith(PACKAGE):  # tests compare Mho's own
            _same_on_tiles(layer, after.of(name), tolerance)
    wanted, got = (tree_leaves(as_tree(done.output)) for done in (before, after))
    off = relative_error(wanted, got, 0.0)
    if not off <= tolerance and relative_error(wanted, got, before.largest_rms * ROUNDING):
        raise MappingError(
            f"the mapped network is not the caller's: all {len(compared)} layers give the same, and its output differs "
            f"by {off:.2g} (relative RMS; tolerance {tolerance:.2g}); check=False maps it all the same"
        )
    unreached = tuple(name for name in trial.chip.layers if name not in trial.run.calls)
    return Check(samples, off, tolerance, unreached, trial.macs, trial.macs_on_tiles, trial.macs_within)


def _same_layer(name: str, before: Pass, after: Pass, chip: MappedNetwork, tolerance: float) -> None:
    wanted, got = before.of(name), after.of(name)
    if len(wanted) != len(got):
        raise MappingError(
            f"layer {name!r}: the caller's network calls it {len(wanted)} times, the mapped one {len(got)} times; "
            "exclude it, or map with check=False"
        )
    layer = chip.layers.get(name)
    for one, other in zip(wanted, got, strict=True):
        error = relative_error(list(one.outputs), list(other.outputs), 0.0)
        if not error <= tolerance and layer is not None and one.input is not None:
            floor = _rounding(layer, one.input)  # where products cancel, their rounding is left
            error = relative_error(list(one.outputs), list(other.outputs), floor)
        if not error <= tolerance:
            fed = relative_error(_some(one.input), _some(other.input), 0.0)
            why = "its inputs differ already" if not fed <= tolerance else "its inputs are the same"
            raise MappingError(
                f"layer {name!r}: its output differs by {error:.2g} from the caller's network (relative RMS; tolerance "
                f"{tolerance:.2g}; {why}); exclude it, or map with check=False"
            )


def _rounding(layer: TileLayer, x: torch.Tensor) -> float:
    """A difference of the outputs for x that counts as none, in epsilons."""
    weights = torch.from_numpy(layer.unequalised(layer.matrix.weights))
    return ROUNDING * rms(x) * rms(weights) * weights.shape[1] ** 0.5


def _same_on_tiles(layer: TileLayer, calls: list[Seen], tolerance: float) -> None:
    """A kind of others may compute its digital form in another way than by `arrange` and `assemble`, as tiles do."""
    for x in (call.input for call in calls if call.input is not None):
        try:
            found = [layer.digital(x)], [layer.digital(x, as_tiles=True)]
            error = relative_error(*found, _rounding(layer, x))
        except Exception as fault:  # anybody's code
            reason = f"{type(fault).__name__}: {' '.join(str(fault).split())[:200]}"
            raise MappingError(f"layer {layer.name!r}: `arrange` and `assemble` of its kind fail ({reason})") from fault
        if not error <= tolerance:
            raise MappingError(
                f"layer {layer.name!r}: by way of `arrange` and `assemble`, as tiles read it, its output differs by "
                f"{error:.2g} from `digital` (relative RMS; tolerance {tolerance:.2g})"
            )


def _tolerance(model: nn.Module, before: Pass) -> float:
    tensors = [*model.parameters(), *model.buffers(), *(x for call in before.seen for x in call.outputs)]
    tensors += tensors_in(as_tree(before.output))
    kinds = {x.dtype for x in tensors if x.is_floating_point()} | {torch.float32}
    return float(max(torch.finfo(kind).eps for kind in kinds) ** 0.5)


def _some(x: torch.Tensor | None) -> list[torch.Tensor]:
    return [] if x is None else [x]
