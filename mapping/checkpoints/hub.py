"""Hugging Face: networks of transformers from a configuration, and folders of `config.json` and weights.

Nothing is downloaded, and no code of a folder runs (`trust_remote_code` is off). The package is the extra `hub`.
"""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError
from .files import file_within, one_line, read_content, read_json, some

CONFIG = "config.json"
EXTRAS = {"timm": "timm", "transformers": "hub", "onnx": "onnx"}


def optional(package: str, where: str) -> Any:
    """A package that an extra brings.

    Raises:
        CheckpointError: it is not installed, or lacks something; the error says what to install.
    """
    try:
        return importlib.import_module(package)
    except Exception as error:  # a package without what it needs may fail in any way
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent == package:
            raise CheckpointError(
                f"{where}: needs the package {package}; install it with pip install 'mho[{EXTRAS[package]}]'"
            ) from error
        needs = "torchvision" if absent == "torchvision" or "torchvision" in str(error) else absent
        said = f"needs {needs}; pip install {needs}" if needs else "does not load"
        raise CheckpointError(f"{where}: the package {package} {said} ({one_line(error)})") from error


@contextmanager
def offline() -> Iterator[None]:
    """Hugging Face's packages ask no server meanwhile, and say nothing but errors."""
    try:
        constants: Any = importlib.import_module("huggingface_hub.constants")
    except ImportError:  # then nothing can be asked for either
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        constants.HF_HUB_OFFLINE = before


def build(name: str, arguments: dict[str, Any]) -> Any:
    """A model of transformers with random weights: see `factories.build_model`.

    Raises:
        CheckpointError: no such class or type of model, or the configuration has no such field.
    """
    where = f"model 'transformers:{name}'"
    transformers = optional("transformers", where)
    base = _configuration(arguments.pop("config", None), where)
    try:
        with offline():
            return _built(transformers, name, base, arguments, where)
    except CheckpointError:
        raise
    except Exception as error:  # configurations and constructors are of many kinds
        raise CheckpointError(f"{where}: {one_line(error)}") from error


def _configuration(given: Any, where: str) -> dict[str, Any]:
    """The fields of a `config.json`, or of the one in a folder."""
    if given is None:
        return {}
    if not isinstance(given, str):
        raise CheckpointError(f"{where}: config must be a path, got {type(given).__name__}")
    path = Path(given)
    path = file_within(path, CONFIG) if path.is_dir() else path
    if not path.is_file():
        raise CheckpointError(f"{where}: config {given!r}: no such file")
    return _plain_fields(read_json(path), f"{where}: config {given!r}")


def _plain_fields(fields: dict[str, Any], where: str) -> dict[str, Any]:
    """Fields of a configuration that needs no code of its own and no numbers that are codes.

    Raises:
        CheckpointError: it does.
    """
    if "auto_map" in fields:
        raise CheckpointError(f"{where}: needs code of its own (auto_map), which Mho does not run; build the model")
    if fields.get("quantization_config"):
        raise CheckpointError(f"{where}: its weights are quantised codes (quantization_config); save them as floats")
    return fields


def _built(transformers: Any, name: str, base: dict[str, Any], arguments: dict[str, Any], where: str) -> Any:
    kind: Any = getattr(transformers, name, None) if name[:1].isupper() else None
    automatic = isinstance(kind, type) and name.startswith("AutoModel")
    if automatic or not name[:1].isupper():
        model_type = name if not automatic else arguments.pop("model_type", base.get("model_type"))
        kind = kind or transformers.AutoModel
        known = transformers.CONFIG_MAPPING
        if model_type is None:
            raise CheckpointError(f"{where}: which type of model? Give --arg model_type=gpt2, or config=config.json")
        if model_type not in known:
            near = difflib.get_close_matches(str(model_type), list(known), n=5, cutoff=0.5)
            raise CheckpointError(
                f"{where}: transformers has no type of model {model_type!r}{f'; near: {some(near)}' if near else ''}"
            )
        config = _configured(known[model_type], base, arguments, where)
        return kind.from_config(config, trust_remote_code=False)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        near = difflib.get_close_matches(name, [n for n in dir(transformers) if "For" in n or n.endswith("Model")], n=5)
        raise CheckpointError(
            f"{where}: transformers has no such class of models{f'; near: {some(near)}' if near else ''}"
        )
    made: Any = kind
    if made.config_class is None:
        raise CheckpointError(f"{where}: is no class of models with a configuration of its own")
    return made(_configured(made.config_class, base, arguments, where))


def _configured(kind: Any, base: dict[str, Any], arguments: dict[str, Any], where: str) -> Any:
    """A configuration with these fields, all of which it has by default too."""
    default = kind()
    odd = [name for name in arguments if not hasattr(default, name)]
    if odd:
        near = difflib.get_close_matches(odd[0], list(default.to_dict()), n=5, cutoff=0.5)
        raise CheckpointError(
            f"{where}: {kind.__name__} has no field {odd[0]!r}{f'; near: {some(near)}' if near else ''}"
        )
    return _from_fields(kind, {**base, **arguments})


def _from_fields(kind: Any, fields: dict[str, Any]) -> Any:
    """A configuration of which no part asks for weights from elsewhere."""
    odd = [name for name, value in fields.items() if name.endswith("implementation") and "/" in str(value)]
    if odd:
        raise CheckpointError(f"{odd[0]} = {fields[odd[0]]!r:.100} names code of a server, which Mho does not run")
    config = kind.from_dict(fields)
    parts = [config, *(value for value in vars(config).values() if hasattr(value, "to_dict"))]
    for part in parts:
        if getattr(part, "use_pretrained_backbone", False):
            part.use_pretrained_backbone = False
    return config


def fields_of(model: Any) -> dict[str, Any]:
    """The fields of a model's configuration, as `build` takes them."""
    default = type(model.config)()
    return {
        name: value
        for name, value in model.config.to_diff_dict().items()
        if hasattr(default, name) and name not in ("architectures", "dtype", "model_type", "transformers_version")
    }


def load_folder(folder: Path) -> nn.Module:
    """The model of a folder that `save_pretrained` wrote, with its weights, as floats of 32 bits.

    The class is the first of `architectures` in `config.json`. transformers reads the weights, and every tensor of the
    model must be among them.

    Raises:
        CheckpointError: files are missing or damaged, weights do not fit, or it needs code of its own.
    """
    where = f"checkpoint {folder}"
    fields = _plain_fields(read_json(file_within(folder, CONFIG)), where)
    if "model_type" not in fields:
        raise CheckpointError(f"{where}: its {CONFIG} is not one of transformers (no model_type); name a model")
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(f"{where}: holds an adapter; merge it into the model first")
    transformers = optional("transformers", where)
    names = fields.get("architectures") or [None]
    if not isinstance(names, list) or len(names) != 1:
        raise CheckpointError(f"{where}: architectures must name one class, got {names!r:.200}")
    state = read_content(folder)
    odd = [name for name, v in state.items() if not isinstance(v, torch.Tensor)] if isinstance(state, dict) else [""]
    if odd:
        raise CheckpointError(f"{where}: its weights are no state dict of tensors alone ({odd[0]!r:.100})")
    try:
        with offline(), _quiet(transformers):
            kind, config = _class_of(transformers, names[0], fields, where)
            model, told = kind.from_pretrained(
                None,
                config=config,
                state_dict=dict(state),
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told and refused below, all at once
            )
    except CheckpointError:
        raise
    except Exception as error:  # configurations and constructors are of many kinds
        raise CheckpointError(f"{where}: {one_line(error)}") from error
    _check_loaded(model, state, told, where)
    return model


def _class_of(transformers: Any, name: Any, fields: dict[str, Any], where: str) -> tuple[Any, Any]:
    """The class of a folder's model, and its configuration."""
    if fields["model_type"] not in transformers.CONFIG_MAPPING:
        raise CheckpointError(f"{where}: transformers has no type of model {fields['model_type']!r:.100}")
    config = _from_fields(transformers.CONFIG_MAPPING[fields["model_type"]], fields)
    if name is None:
        return transformers.MODEL_MAPPING[type(config)], config
    kind = getattr(transformers, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise CheckpointError(f"{where}: transformers has no class of models {name!r:.100} (architectures)")
    return kind, config


def _check_loaded(model: nn.Module, state: dict[str, torch.Tensor], told: dict[str, Any], where: str) -> None:
    """Raises CheckpointError unless each tensor of the model came from the state dict, and all of that was used."""
    shapes = [
        f"{name} is {tuple(got)}, the model has {tuple(own)}" for name, got, own in sorted(told["mismatched_keys"])
    ]
    faults = {
        "missing": sorted(told["missing_keys"]),
        "surplus": sorted(told["unexpected_keys"]),
        "wrong shape": shapes,
        "other": [" ".join(str(message).split()) for message in told["error_msgs"]],
    }
    own = model.state_dict()
    faults["wrong type"] = [
        name
        for name, value in state.items()
        if name in own and own[name].is_floating_point() and not value.is_floating_point()
    ]
    said = "; ".join(f"{what}: {some(names)}" for what, names in faults.items() if names)
    if said:
        raise CheckpointError(f"{where} does not fit {type(model).__name__}: {said}")


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No bars and reports of transformers, whose findings are errors here."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
