"""`mho.load`: the chip of a folder that `Chip.save` wrote."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from ...crossbar.backend import Backend
from ...crossbar.backends import BACKENDS, DEFAULT, backend_of
from ...crossbar.hardware import Hardware
from ...crossbar.kept import digest_of
from ...crossbar.reader import Seeds
from ...devices.config import faults
from ...devices.units import brief
from ..backends import backend_with_arrays
from ..checkpoints.factories import Factory, build_model
from ..chip import Chip
from ..errors import CheckpointError
from ..expand import expandable, expanded
from ..graph import rebuild
from ..layers import CELLS, TileLayer
from ..mapped import Digital
from ..modules import copied, keep_attributes, replaced
from ..operands.plans import LAYERS, Plan, install
from ..progress import Tell, told
from ..trace import Call
from .description import SavedChip, SavedProgramming, build_layer
from .folders import as_path
from .migration import TOLD
from .store import TENSORS, TEXT, Contents, one_line, origin, programming, read


def load(
    path: str | Path,
    *,
    model: nn.Module | str | None = None,
    backend: str | Backend = DEFAULT,
    mmap: bool = False,
    progress: Tell | None = None,
) -> Chip:
    """Read a chip that `Chip.save` wrote. It gives the same bits as the chip that was saved, its calls counted anew.

    Nothing is programmed and no wires are solved, unless it was saved `compact`: its cells are then drawn again, and
    must be those that it had. Chips of older versions are read too: see `mapping.saved.migration`.

    Args:
        path: the folder.
        model: the model it was mapped from, trained or not, or the factory that builds it, as `mho map --model` takes
            it; its arguments are in the chip. Needed only where the structure could not be saved (a model that
            torch.fx cannot trace, or with modules of its own that stay digital); the error says so. A model of timm or
            transformers that `mho.build_model` made is built again without: a file names no other code to run.
        backend: what computes the tiles, as in `mho.map`; a saved chip does not say.
        mmap: leave the tensors in the file, which is mapped into memory, for chips that memory hardly holds, or
            several processes that read the same one. They are checked once, now. Until
            the chip is no longer used nobody may write to the file: what is written to it may change the chip's numbers
            unnoticed, and where it is cut the process ends (SIGBUS). Saving another chip to the folder, or deleting
            it, does no harm on POSIX systems. False reads copies, which nothing changes.
        progress: called after each layer with how many are there, and how many the chip has. None: a line on the
            terminal, as in `mho.map`.

    Warns:
        UserWarning: a file of a format without digests.
        ExtrapolationWarning: of a compact chip, as `mho.map` warns.

    Raises:
        CheckpointError: no chip there, a damaged or foreign file, `model` is needed or does not fit, or a compact chip
            whose cells come out different here.
        ValueError: there is no such backend.

    Example:
        >>> chip.save("mine")
        >>> list(mho.load("mine").layers)
        ['0', '2']
    """
    computes = backend_with_arrays(backend)
    path = as_path(path, "chip", CheckpointError)
    if not (path / TEXT).is_file() or not (path / TENSORS).is_file():
        raise CheckpointError(f"chip {path}: no saved chip there (a folder with {TEXT} and {TENSORS})")
    try:
        with told("loading, layers", progress) as tell:
            contents = read(path, mapped=mmap)
            chip = _assemble(contents, model, computes, tell)
    except CheckpointError as error:
        raise CheckpointError(f"chip {path}: {one_line(str(error), 1000)}") from error
    except ValidationError as error:
        raise CheckpointError(f"chip {path}: {one_line(faults(error))}") from error
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise CheckpointError(f"chip {path}: cannot be read ({reason})") from error
    except Exception as error:  # what a damaged file makes of the constructors it feeds is anybody's guess
        raise CheckpointError(f"chip {path}: damaged ({type(error).__name__}: {one_line(str(error))})") from error
    for layer in chip.layers.values():
        layer.backend, layer.programmed = computes, layer.tiles.on(computes)
    if contents.format in TOLD:
        warnings.warn(f"chip {path}: {TOLD[contents.format]}", stacklevel=2)
    return chip


def _assemble(contents: Contents, model: nn.Module | str | None, backend: Backend, progress: Tell) -> Chip:
    text, tensors = contents.text, contents.tensors
    model = _built(text, model)
    structure, hardware = text.structure, Hardware.model_validate(text.hardware)
    state, constants = _taken("digital.", tensors), _taken("constant.", tensors)
    layers, digests = {}, {}
    draws, seeds = _drawing(text, backend), Seeds(text.seed, text.copy_index)
    for name, saved in sorted(text.layers.items(), key=lambda item: -len(item[0])):  # "a.b" before "a"
        arrays = {key: value.numpy() for key, value in _taken(f"layer.{name}.", tensors).items()}
        own = hardware.for_layer(*saved.aliases)
        layer = layers[name] = build_layer(name, saved, arrays, own, seeds, draws)
        digests[id(layer)] = layer.tiles.digest()
        _check_cells(text, layer, draws)
        progress(len(layers), len(text.layers))
    if tensors:
        raise CheckpointError(f"it has no place for its tensor {next(iter(tensors))}")
    layers = {name: layers[name] for name in text.layers}
    digital = tuple(Digital(*d) for d in text.digital)
    if text.origin not in (None, origin(text.hardware, [digests[id(layer)] for layer in layers.values()])):
        raise CheckpointError("its hardware is not that which its cells were programmed on")
    places: dict[str, nn.Module] = {alias: layer for layer in layers.values() for alias in layer.aliases}
    for alias, tile in places.items():  # the digests of the file have said it already
        state[f"{alias}.{CELLS}".lstrip(".")] = torch.frombuffer(bytearray(digests[id(tile)]), dtype=torch.uint8)
    plans = [Plan.build(plan) for plan in text.operands.values()]
    for plan in plans:
        _check_shapes(plan, layers)
    if model is not None:
        folded = {d.name: nn.Identity() for d in digital if d.reason.startswith("folded")}
        built = _fill(model, places | folded, state, plans)
    elif isinstance(structure, str):
        raise CheckpointError(f"its structure was not saved: {structure}; pass mho.load(path, model=...)")
    else:
        built = rebuild(structure, places, state | constants, plans)
    chip = Chip(built, hardware, layers, digital, text.seed, text.copy_index)
    chip.strict, chip.session.located = text.strict, text.located
    chip.session.factory = _factory(text)
    chip.session.batch.extend([] if text.batch is None else [text.batch])
    chip.trace = [Call(**call.model_dump()) for call in text.trace]
    return chip


def _drawing(text: SavedChip, backend: Backend) -> Backend:
    """The backend that draws the cells of a compact chip again: that which drew them, where its name is known."""
    name = "" if text.programming is None else text.programming.backend
    return backend_of(name) if name in BACKENDS else backend


def _check_cells(text: SavedChip, layer: TileLayer, drew: Backend) -> None:
    """Raises CheckpointError where the cells of a layer were drawn again, and are others than were saved."""
    wanted = text.layers[layer.name].cells.digest
    if wanted is None or wanted in (found := digest_of(layer.tiles), digest_of(layer.tiles, apart=True)):
        return
    here = SavedProgramming(**programming(drew))
    raise CheckpointError(
        f"layer {layer.name!r}: its cells, drawn again, are not those that were saved: their digest is {found}, was "
        f"{wanted}; they were programmed by {text.programming}, now by {here}; load it with those versions, or map the "
        "model again (a chip that is not saved compact keeps its cells)"
    )


def _built(text: SavedChip, model: nn.Module | str | None) -> nn.Module | None:
    """The model that a caller gave, or that a chip says how to build; None where it has its structure."""
    saved = _factory(text)
    if isinstance(model, str):
        return build_model(model, saved.arguments if saved is not None and saved.reference == model else None)
    if model is not None or saved is None or not isinstance(text.structure, str):
        return model
    if saved.known:
        return build_model(saved.reference, saved.arguments)
    name = brief(saved.reference)
    raise CheckpointError(
        f"its structure was not saved: {text.structure}; it was built by {name}: if you trust that code, pass "
        f"mho.load(path, model={name}) (--model)"
    )


def _factory(text: SavedChip) -> Factory | None:
    return None if text.factory is None else Factory(text.factory.reference, text.factory.arguments)


def _taken(start: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors whose names start so, by the rest of the name; they are taken out."""
    return {key.removeprefix(start): tensors.pop(key) for key in list(tensors) if key.startswith(start)}


def _check_shapes(plan: Plan, layers: Mapping[str, TileLayer]) -> None:
    """Raises CheckpointError where a layer on tiles is another than the parameter wants."""
    for key, chosen in plan.layers.items():
        tile = layers.get(f"{plan.places[0]}{LAYERS}.{key}")
        if tile is not None and tile.spec.weight_shape != chosen.part.layout.shape:
            raise CheckpointError(f"its layer {tile.name!r} is {tile.spec!r}, its parameter wants another")


def _install(model: nn.Module, plan: Plan) -> None:
    """Put layers without values in the place of a parameter.

    Raises:
        CheckpointError: the model has no such parameter.
    """
    for place in plan.places:
        holder, _, key = place.rpartition(".")
        try:
            there = model.get_submodule(holder)._parameters.get(key)
        except AttributeError:
            there = None
        if there is None or tuple(there.shape) != plan.shape:
            raise CheckpointError(f"model does not fit: it has no parameter {place} of shape {plan.shape}")
    install(model, plan, lambda _, chosen: chosen.module())


def _fill(
    model: nn.Module, places: dict[str, nn.Module], state: dict[str, torch.Tensor], plans: list[Plan]
) -> nn.Module:
    """A copy of the model with these modules in their places, these parameters as layers and this digital state.

    Raises:
        CheckpointError: it lacks one of the places, or has other digital tensors.
    """
    if not isinstance(model, nn.Module):
        raise CheckpointError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    built = copied(model)
    torchs = ("weight_ih", "weight_ih_l0", "in_proj_weight", "q_proj_weight")  # of modules that are as torch has them
    keep = [name for name in expandable(built) if any(f"{name}.{w}".lstrip(".") in state for w in torchs)]
    built = expanded(built, keep)
    for plan in plans:
        _install(built, plan)
    names = {name for name, _ in built.named_modules(remove_duplicate=False)}
    absent = [name for name in places if name not in names]
    if absent:
        raise CheckpointError(f"model does not fit: it has no {', '.join(absent)}")
    for name, module in places.items():
        keep_attributes(built.get_submodule(name), module)
        built = replaced(built, name, module)
    try:
        built.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"model does not fit: {' '.join(str(error).split())[:300]}") from error
    return built
