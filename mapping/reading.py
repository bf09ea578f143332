"""How a chip runs its model in a pass: what the inputs are, whether it is recorded, and several reads at once."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only

from .arrays import EXCHANGES
from .errors import MappingError
from .inference import Inference, OneByOne, Read, Unrecorded
from .inputs.batches import Batch, batch_at, batch_by_output, samples_in
from .inputs.padding import padding_of
from .inputs.samples import locate
from .mapped import MappedNetwork
from .outputs import joined, tensors_of
from .passes import as_tree
from .trace import Recorder


def run_pass(
    chip: MappedNetwork, inputs: tuple[Any, ...], run: Inference, named: dict[str, Any], part: nn.Module | None = None
) -> Any:
    """What the model of a chip returns for these inputs, by place and by name, in a pass; or a `part` of the model.

    Raises:
        TypeError: inputs without a tensor.
    """
    given: Any = (inputs, named)
    plain = not named and all(type(x) is torch.Tensor for x in inputs)  # the others take a walk, which takes time
    leaves = inputs if plain else tree_leaves(given)
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if not tensors or any(x.is_nested for x in tensors):
        kinds = ", ".join(type(leaf).__name__ for leaf in tree_leaves(given)) or "nothing"
        raise TypeError(f"a chip takes torch tensors, got {kinds}{' that is nested' if tensors else ''}")
    if chip.model.training:
        warnings.warn(
            "chip.model was put into training mode; a chip is an inference device: eval() again", stacklevel=3
        )
        chip.model.eval()
    if isinstance(run, Read) and not chip.session.located and part is None:
        with chip.session.lock:
            locate(chip, inputs, named)
    known = chip.session.batch[0] if chip.session.batch and len(tensors) > 1 and part is None else None
    batch = None if known is None else batch_at(chip.model, given, known)
    run.samples = max(1, samples_in(tensors) if batch is None else len(batch))
    run.channels_last = chip.channels_last
    if isinstance(run, Read) and len(tensors) > 1:
        run.padding = padding_of(part or chip.model, given, run.samples)
    if isinstance(run, Read) and run.reads > 1:
        return _several(chip, Batch(inputs, named), run, tensors)
    return _recorded(chip, given, run, tensors, part)


def _several(chip: MappedNetwork, batch: Batch, run: Read, tensors: list[torch.Tensor]) -> Any:
    """Several reads: at once, with the samples repeated, or one after another where the model does not allow it."""
    kind = len(batch.args), *batch.kwargs
    if not chip.session.one_by_one and kind not in chip.session.numbers:
        try:
            result = _recorded(chip, _repeated(batch.apart() if batch.opaque else batch, run), run, tensors)
            if all(x.ndim for x in tensors_of(result)):
                return result
            chip.session.numbers.add(kind)  # it is of all reads together
        except OneByOne:
            chip.session.one_by_one = True
        except Exception:  # a model may fail in any way where some of its inputs are repeated and others not
            run.calls.clear()
    found = []
    for v in range(run.reads):
        own = batch.apart()
        each = run.again(number=run.number + v, reads=1, repeated=None)
        found.append(run_pass(chip, own.args, each, own.kwargs))
    return joined(found)


def _recorded(
    chip: MappedNetwork, given: Any, run: Inference, tensors: list[torch.Tensor], part: nn.Module | None = None
) -> Any:
    """What the model returns for inputs (positional, by name) in a pass, recorded where it is of a new kind.

    `tensors` are those of one read.
    """
    session, model = chip.session, part or chip.model
    shapes: Any = tuple((len(x) == run.samples, x.shape[1:]) if x.ndim else () for x in tensors)
    if isinstance(run, Read) and run.kind is not None:
        shapes = run.kind
    kept = isinstance(run, Read) and EXCHANGES[chip.backend.kind].keeps_graph
    with torch.set_grad_enabled(kept and torch.is_grad_enabled()):
        if session.trace and session.shapes == shapes:
            with contextlib.suppress(Unrecorded):
                return session.within(run, lambda: model(*given[0], **given[1]))
            run.calls.clear()
        reads = run.reads if isinstance(run, Read) else 1
        recorder = Recorder(given, run.samples * reads, session.replaced)
        with session.lock, recorder as run.recorder:
            result = session.within(run, lambda: model(*given[0], **given[1]))
        none_read = _check_recorded(recorder, run)
        session.trace, session.shapes = recorder.calls, shapes
        if len(tensors) > 1 and not session.batch and reads == 1 and part is None:
            where = batch_by_output(chip.model, given, as_tree(result))
            session.batch.extend([] if where is None else [where])
            batch = None if where is None else batch_at(chip.model, given, where)
            if batch is not None and len(batch) != run.samples:  # once more, with the samples that it has
                session.shapes = None
                if isinstance(run, Read):
                    return run_pass(chip, given[0], run.again(), given[1])
        if none_read:
            warnings.warn(none_read, stacklevel=5)
        return result


def _check_recorded(recorder: Recorder, run: Inference) -> str | None:
    """What there is to warn of after a pass was recorded.

    Raises:
        MappingError: the model computed with weights of layers past their tiles.
    """
    none = isinstance(run, Read) and all(call.digital for call in recorder.calls)
    past = "".join(f"layer {x!r}: the model computes with its weights past its tiles" for x in recorder.past[:1])
    if past and not none:
        raise MappingError(f"{past}, as where a function or an object keeps the torch layer; exclude the layer")
    said = "this inference read no layer on tiles: all that the model called is digital"
    return (f"{said}; {past}" if past else said) if none else None


def _repeated(batch: Batch, run: Read) -> Any:
    """Inputs with their samples repeated for each read; the first of them is `run.repeated`."""

    def repeated(x: torch.Tensor) -> torch.Tensor:
        if not x.ndim or len(x) != run.samples:
            return x
        x = x.repeat(run.reads, *(1,) * (x.ndim - 1))
        run.repeated = x if run.repeated is None else run.repeated
        return x

    with torch.inference_mode(False):  # so that writing to them is noticed
        return tree_map_only(torch.Tensor, repeated, (batch.args, batch.kwargs))
