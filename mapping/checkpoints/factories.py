"""Networks that are built by a name: `timm:resnet18`, `transformers:bert`, `package.module:factory`, with arguments."""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from ...devices.imports import importable
from ..errors import CheckpointError
from . import hub
from .files import one_line, some

WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}


@dataclass(frozen=True)
class Factory:
    """How a network is built.

    Attributes:
        reference: `timm:NAME`, `transformers:NAME` or `package.module:factory`.
        arguments: by keyword, plain values.
    """

    reference: str
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Whether the code that it runs is timm's or transformers', which build networks and nothing else."""
        return self.reference.partition(":")[0] in ("timm", "transformers")

    def __str__(self) -> str:
        given = "".join(f" --arg {name}={json.dumps(value)}" for name, value in self.arguments.items())
        return f"{self.reference}{given}"


_MADE: WeakKeyDictionary[nn.Module, Factory] = WeakKeyDictionary()


def factory_of(model: nn.Module) -> Factory | None:
    """What `build_model` built this model by; None for another one."""
    return _MADE.get(model)


def remember(model: nn.Module, factory: Factory) -> nn.Module:
    """Take down how a model was built, so that a chip of it can be loaded without the model."""
    _MADE[model] = factory
    return model


def parse_arguments(texts: Iterable[str]) -> dict[str, Any]:
    """The arguments of `--arg name=value`: values are JSON (numbers, true, [1, 2], "text"), and else text as it stands.

    Raises:
        CheckpointError: no such form, or a name twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise CheckpointError(f"--arg must be given as name=value, got {text!r}")
        if name in found:
            raise CheckpointError(f"--arg {name} is given twice")
        try:
            found[name] = WORDS[value] if value in WORDS else json.loads(value)
        except (ValueError, RecursionError):
            found[name] = value
    return found


def build_model(reference: str, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """The model that a factory makes, its weights random or the factory's own.

    Args:
        reference: `timm:resnet18` (any name of `timm.create_model`), `transformers:bert` (a type of model, without a
            head), `transformers:BertForSequenceClassification` or `transformers:AutoModelForCausalLM` (a class), or
            `package.module:factory`, also of the working directory.
        arguments: of the factory, by keyword. For transformers they are fields of the configuration; `config` names
            a `config.json` that they change, and `model_type` the type where an Auto class is named.

    Raises:
        CheckpointError: there is no such factory, it does not take these arguments, or it gives something else.

    Example:
        >>> net = mho.build_model("mho.models:mnist_cnn", {"weights": "sigma-0.5"})
        >>> net.fc2.out_features
        10
    """
    given = {} if arguments is None else arguments
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise CheckpointError(f"arguments of a model must be a dict by name, got {given!r:.200}")
    home, colon, name = reference.partition(":") if isinstance(reference, str) else ("", "", "")
    if not colon or not home or not name:
        raise CheckpointError(
            f"model must be given as package.module:factory, got {reference!r:.200} (or timm:NAME, transformers:NAME)"
        )
    if home == "timm":
        model = _timm(name, dict(given))
    elif home == "transformers":
        model = hub.build(name, dict(given))
    else:
        model = _own(reference, home, name, dict(given))
    if not isinstance(model, nn.Module):
        raise CheckpointError(f"model {reference!r}: expected a torch.nn.Module, got {type(model).__name__}")
    return remember(model, Factory(reference, dict(given)))


def _timm(name: str, arguments: dict[str, Any]) -> Any:
    """A model of timm by its name there; a tag of weights (`resnet18.a1_in1k`) is allowed and says nothing more."""
    where = f"model 'timm:{name}'"
    timm = hub.optional("timm", where)
    if arguments.pop("pretrained", False):
        raise CheckpointError(
            f"{where}: pretrained must be false: Mho downloads nothing; save the weights of "
            f"timm.create_model({name!r}, pretrained=True) to a file, and give that as the checkpoint"
        )
    plain = name.partition(".")[0]
    if not timm.is_model(plain):
        near = difflib.get_close_matches(plain, timm.list_models(), n=5, cutoff=0.5)
        raise CheckpointError(f"{where}: timm has no such model{f'; near: {some(near)}' if near else ''}")
    for argument in ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "scriptable"):
        if argument in arguments:
            raise CheckpointError(f"{where}: {argument} is no argument here; the checkpoint brings the weights")
    try:
        with hub.offline():
            return timm.create_model(plain, pretrained=False, **arguments)
    except Exception as error:  # timm hands arguments on to constructors of many kinds
        raise CheckpointError(f"{where}: {one_line(error)}") from error


def _own(reference: str, module_name: str, name: str, arguments: dict[str, Any]) -> Any:
    importable(Path.cwd())
    try:
        factory: Any = importlib.import_module(module_name)
        for part in name.split("."):
            factory = getattr(factory, part)
    except (ImportError, AttributeError, TypeError) as error:
        raise CheckpointError(f"model {reference!r}: {one_line(error)}") from error
    if not callable(factory) or isinstance(factory, nn.Module):
        if arguments:
            raise CheckpointError(
                f"model {reference!r}: is {type(factory).__name__} and takes no arguments, got {some(list(arguments))}"
            )
        return factory
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # some built-in functions do not say
        return factory(**arguments)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        wanted = "with these arguments" if arguments else "without arguments"
        hint = "" if arguments else "; give them with --arg name=value"
        raise CheckpointError(
            f"model {reference!r}: the factory must be callable {wanted} ({one_line(error)}){hint}"
        ) from error
    return factory(**arguments)
