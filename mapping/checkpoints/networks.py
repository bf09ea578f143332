"""`mho.load_model`: a network with its weights, from what a checkpoint is and a factory says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ..errors import CheckpointError
from ..saved.folders import as_path
from . import hub
from .exported import load_exported
from .factories import Factory, remember
from .loading import Weights, build_model, find_weights
from .onnx_file import load_onnx

WHOLE: dict[str, Callable[[Path], nn.Module]] = {
    ".onnx": load_onnx,
    ".pt2": load_exported,
}  # files that hold the network, not its weights alone


class Loaded(NamedTuple):
    """A network, and which weights of a checkpoint it took; None where the file is the network itself."""

    model: nn.Module
    weights: Weights | None


def load_model(
    path: str | Path,
    model: str | nn.Module | None = None,
    *,
    arguments: Mapping[str, Any] | None = None,
    key: str | None = None,
    strip_prefix: str | None = None,
    mmap: bool = False,
) -> nn.Module:
    """A network with the weights of a checkpoint, in evaluation mode. No pickled program is run: docs/checkpoints.md.

    Args:
        path: a state dict (`.pt`, `.pth`, `.ckpt`, `.bin`, `.safetensors`, an `.index.json` of shards); a folder of
            Hugging Face; or a file that holds a network: `.pt2` of torch.export, `.onnx`.
        model: the network that a state dict belongs to: a module, which is filled, or how it is built, as `build_model`
            takes it (`timm:resnet18`, `transformers:bert`, `package.module:factory`). None where the file or folder
            says it.
        arguments: of the factory, by keyword.
        key: which state dict of the file, where several fit.
        strip_prefix: prefix removed from the names of its tensors; those without it are left out.
        mmap: leave the weights of safetensors in the file, which is mapped into memory: the system reads what is used,
            and may drop it again. What is written to them stays in memory. Until the network is no longer used nobody
            may write to the file. Networks of a folder of Hugging Face are left there in any case.

    Raises:
        CheckpointError: no usable file, an unknown factory, or weights that do not fit.

    Example:
        >>> torch.save(net.state_dict(), "weights.pt")
        >>> torch.equal(mho.load_model("weights.pt", net)(x), net(x))
        True
    """
    return find_model(path, model, arguments=arguments, key=key, strip_prefix=strip_prefix, mmap=mmap).model


def find_model(
    path: str | Path,
    model: str | nn.Module | None = None,
    *,
    arguments: Mapping[str, Any] | None = None,
    key: str | None = None,
    strip_prefix: str | None = None,
    mmap: bool = False,
) -> Loaded:
    """As `load_model`, with the weights that were found."""
    path = as_path(path, "checkpoint", CheckpointError)
    whole = WHOLE.get(path.suffix)
    if whole is None and path.is_dir() and model is None and (path / hub.CONFIG).exists():
        whole = hub.load_folder
    if mmap and not (
        path.name.endswith((".safetensors", ".safetensors.index.json")) or any(path.glob("*.safetensors"))
    ):
        raise CheckpointError(f"checkpoint {path}: mmap is for files of safetensors")
    given = {"model": model, "arguments": arguments, "key": key, "strip_prefix": strip_prefix}
    if whole is not None:
        if odd := [name for name, value in given.items() if value]:
            raise CheckpointError(f"checkpoint {path}: holds its own network, so that {odd[0]} has no meaning")
        if whole is not hub.load_folder and not path.is_file():
            raise CheckpointError(f"checkpoint {path}: no such file")
        network = whole(path).eval()
        if whole is hub.load_folder:
            remember(network, Factory(f"transformers:{type(network).__name__}", hub.fields_of(network)))
        return Loaded(network, None)
    if model is None:
        raise CheckpointError(
            f"checkpoint {path}: which network do its weights belong to? Say it by model= (--model): timm:NAME, "
            "transformers:NAME or package.module:factory"
        )
    if isinstance(model, nn.Module) and arguments:
        raise CheckpointError("arguments: a model that is built already takes none")
    network = model if isinstance(model, nn.Module) else build_model(model, arguments)
    weights = find_weights(network, path, key, strip_prefix=strip_prefix)
    taken = _left_in_file(network, weights.state) if mmap else set()
    network.load_state_dict({name: v for name, v in weights.state.items() if name not in taken}, strict=False)
    return Loaded(network.eval(), weights)


def _left_in_file(network: nn.Module, state: Mapping[str, Any]) -> set[str]:
    """Make tensors of a state dict, which lie in a file, the parameters of a network; the names of those that are.

    Parameters of several names stay one, and those of another type than the file's are left.
    """
    names: dict[int, list[str]] = {}
    for name, value in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(value), []).append(name)
    taken: set[str] = set()
    for value in network.parameters():
        given = next((state[name] for name in names[id(value)] if name in state), None)
        if given is not None and (given.dtype, given.shape) == (value.dtype, value.shape):
            value.data = given
            taken.update(names[id(value)])
    return taken
