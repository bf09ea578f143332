"""The structure of a model as plain data, so that a chip can be saved without pickle and loaded without the model's
code.

A model that torch.fx can trace is a list of nodes: inputs, calls of functions and methods of torch, calls of modules.
Modules are tiles or come from torch.nn and are rebuilt from their constructor's arguments. Only functions that torch
lists as overridable, and those of `operator`, are written or read; a file cannot name anything else.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import get_overridable_functions, resolve_name

from .errors import CheckpointError
from .layers import TileLayer

Tree = dict[str, Any]


class NotPlain(ValueError):
    """Something in a model has no plain description."""


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, TileLayer) or super().is_leaf_module(m, module_qualified_name)


@cache
def _functions() -> dict[str, Callable[..., Any]]:
    found = {}
    for group in get_overridable_functions().values():
        for function in group:
            name = resolve_name(function)
            if name and not name.startswith("torch.Tensor."):
                found[name] = function
    for name in dir(operator):
        if not name.startswith("_") and callable(getattr(operator, name)):
            found[f"operator.{name}"] = getattr(operator, name)
    found["getattr"] = getattr
    return found


def describe(model: nn.Module) -> Tree:
    """Nodes and digital modules of a model whose matrix layers are `TileLayer`.

    Raises:
        NotPlain: it cannot be traced, or holds something that is neither a tile nor torch's own.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # tracing runs the model's own code, which may fail in any way
        raise NotPlain(f"torch.fx cannot trace it ({' '.join(str(error).split())[:200]})") from error
    names = {id(function): name for name, function in _functions().items()}
    nodes, modules = [], {}
    for node in graph.nodes:
        target = node.target
        if node.op == "call_function":
            if id(target) not in names:
                raise NotPlain(f"it calls {target}")
            target = names[id(target)]
        elif node.op == "call_module":
            module = model.get_submodule(target)
            if not isinstance(module, TileLayer):
                modules[target] = _describe_module(module)
        nodes.append(
            {
                "name": node.name,
                "op": node.op,
                "target": target,
                "args": _plain(node.args),
                "kwargs": _plain(node.kwargs),
            }
        )
    return {"nodes": nodes, "modules": modules}


def rebuild(tree: Tree, layers: dict[str, nn.Module], tensors: dict[str, torch.Tensor]) -> nn.Module:
    """The model of a description, with these tile layers by name (aliases included) and these digital tensors.

    Raises:
        CheckpointError: the description names something unknown.
    """
    root = nn.Module()
    for name, text in tree["modules"].items():
        _place(root, name, _build_module(text))
    graph = fx.Graph()
    by_name: dict[str, fx.Node] = {}
    functions = _functions()
    for node in tree["nodes"]:
        target: Any = node["target"]
        if node["op"] == "call_function":
            if target not in functions:
                raise CheckpointError(f"chip file calls {target!r}, which is no function of torch")
            target = functions[target]
        elif node["op"] == "call_module" and target not in tree["modules"]:
            if target not in layers:
                raise CheckpointError(f"chip file uses a layer {target!r} that it does not hold")
            _place(root, target, layers[target])
        elif node["op"] == "get_attr" and target in tensors:
            parent, _, leaf = target.rpartition(".")
            _parent(root, parent).register_buffer(leaf, tensors[target])
        args, kwargs = (_restore(node[part], by_name) for part in ("args", "kwargs"))
        by_name[node["name"]] = graph.create_node(node["op"], target, args, kwargs, node["name"])
    model = fx.GraphModule(root, graph)
    model.load_state_dict(tensors, strict=False)
    return model


def _describe_module(module: nn.Module) -> Tree:
    kind = type(module)
    if not kind.__module__.startswith("torch.nn."):
        raise NotPlain(f"it holds a module of {kind.__module__}.{kind.__qualname__}")
    args: Tree = {}
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        if name in ("self", "device", "dtype") or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if hasattr(module, name):
            value = getattr(module, name)
            args[name] = value is not None if name == "bias" else _plain(value)
    text = {"class": kind.__qualname__, "args": args}
    if repr(_build_module(text)) != repr(module):
        raise NotPlain(f"{kind.__qualname__} cannot be rebuilt from its attributes")
    return text


def _build_module(text: Tree) -> nn.Module:
    kind = getattr(nn, text["class"], None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise CheckpointError(f"chip file holds a module {text['class']!r}, which torch.nn has not")
    return kind(**_restore(text["args"], {})).eval()


def _parent(root: nn.Module, name: str) -> nn.Module:
    for part in filter(None, name.split(".")):
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    return root


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    _parent(root, parent).add_module(leaf, module)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, tuple):
        return {"tuple": [_plain(v) for v in value]}
    if isinstance(value, dict):
        return {"dict": {key: _plain(v) for key, v in value.items()}}
    if isinstance(value, slice):
        return {"slice": [_plain(v) for v in (value.start, value.stop, value.step)]}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if value is Ellipsis:
        return {"ellipsis": True}
    raise NotPlain(f"it uses a constant of type {type(value).__name__}")


def _restore(value: Any, nodes: dict[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_restore(v, nodes) for v in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((kind, inner),) = value.items()
        if kind == "node":
            return nodes[inner]
        if kind == "tuple":
            return tuple(_restore(v, nodes) for v in inner)
        if kind == "dict":
            return {key: _restore(v, nodes) for key, v in inner.items()}
        if kind == "slice":
            return slice(*(_restore(v, nodes) for v in inner))
        if kind == "dtype":
            return getattr(torch, inner)
        if kind == "ellipsis":
            return Ellipsis
    return {key: _restore(v, nodes) for key, v in value.items()}
