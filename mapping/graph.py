"""The structure of a model as plain data, so that a chip can be saved without pickle and loaded without the model's
code.

A model that torch.fx can trace is a list of nodes: inputs, calls of functions and methods of torch, calls of modules.
Modules are tiles or come from torch.nn and are rebuilt from their constructor's arguments. Only functions that torch
lists as overridable, operators, public attributes and the methods of a tensor are written or read; a file cannot name
anything else. torch.fx makes program text of the nodes, so every name is checked before it gets there. Modules are
built without memory of their own and take the tensors of the file, whose shapes they must have.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import fx, nn
from torch.fx.graph import inplace_methods, magic_methods
from torch.overrides import get_overridable_functions, resolve_name

from .arguments import NotPlain, plain, restore
from .errors import CheckpointError
from .guard import Marks, Unmarks
from .hooks import hooks_of, overridden
from .kinds.expander import EXPANDERS
from .kinds.linear import Linear
from .kinds.transformer import COMPOSITES, attributes_of, composite
from .layers import TileLayer
from .modules import copied, replaced
from .operands.operand import Operand
from .operands.plans import Plan, install, plans_of

Tree = dict[str, Any]
MOST_LAYERS = 1024  # that one module of torch.nn may be told to build
LAYER_COUNTS = ("num_layers", "num_encoder_layers", "num_decoder_layers")
# what torch lists and a file must not name: it takes memory as it is, or calls what it is given
UNSAFE_FUNCTIONS = (
    "autocast",
    "fbgemm_",
    "miopen_",
    "quantized_",
    "slice_inverse",
    "triplet_margin_with_distance_loss",
)
_UNSAFE = """
    apply_ const_data_ptr data_ptr map2_ map_ module_load new record_stream register_hook
    register_post_accumulate_grad_hook reinforce resize resize_ resize_as resize_as_ resize_as_sparse_ set_
    share_memory_ slice_inverse sparse_resize_ sparse_resize_and_clear_ storage untyped_storage
"""
UNSAFE_METHODS = frozenset(_UNSAFE.split())
NEED_ORDER = """
    view view_as as_strided as_strided_ as_strided_copy as_strided_scatter stride is_contiguous data_ptr set_ storage
    untyped_storage view_as_complex bernoulli bernoulli_ cauchy_ exponential_ geometric_ log_normal_ normal normal_
    poisson random_ uniform_ rand_like randint_like randn_like
"""
IN_MEMORY_ORDER = frozenset(NEED_ORDER.split())  # random numbers, too, are drawn in that order


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (TileLayer, *_made().values())) or super().is_leaf_module(m, module_qualified_name)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if isinstance(attr_val, Operand):
            name = next(name for name, value in self.root.named_buffers(remove_duplicate=False) if value is attr_val)
            return self.create_proxy("get_attr", name, (), {})
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def _traced(model: nn.Module) -> tuple[fx.Graph, nn.Module]:
    """The graph of a model, and the copy that holds its constants.

    The model is left as it is: tracing leaves constants, and stand-ins for tensors in what a model keeps.
    """
    if "forward" in vars(model):  # torch.fx would take that of the class
        raise NotPlain("its forward is overridden on the instance")
    tiles = [module for module in model.modules() if isinstance(module, TileLayer)]
    twin = copied(model, [*tiles, *model.parameters()])
    with torch.random.fork_rng(devices=[]):
        return _Tracer().trace(twin), twin


def _made() -> dict[str, type[nn.Module]]:
    """The types of the modules that expanders make, by name."""
    return {kind.__name__: kind for expander in EXPANDERS.loaded().values() for kind in expander.makes}


@cache
def _functions() -> dict[str, Callable[..., Any]]:
    found = {}
    for group in get_overridable_functions().values():
        for function in group:
            name = resolve_name(function)
            if name and not name.startswith("torch.Tensor.") and not name.split(".")[-1].startswith(UNSAFE_FUNCTIONS):
                found[name] = function
    for name in (*magic_methods, *inplace_methods, "abs"):
        if hasattr(operator, name):
            found[f"operator.{name}"] = getattr(operator, name)
    found["getattr"] = getattr
    return found


@cache
def _methods() -> frozenset[str]:
    return frozenset(name for name in dir(torch.Tensor) if not name.startswith("_")) - UNSAFE_METHODS


def asks_for_no_view(model: nn.Module) -> bool:
    """Whether a model surely never needs the elements of a tensor in torch's default order: it can be traced and calls
    neither `view`, nor what shows the order, nor what draws random numbers. A single layer on tiles is such a model.
    """
    if isinstance(model, TileLayer):
        return True
    try:
        graph, _ = _traced(model)
    except Exception:  # tracing runs the model's own code, which may fail in any way
        return False
    return not any(_needs_order(node) for node in graph.nodes)


def _needs_order(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.op == "call_function" and name.removesuffix("_").endswith(
        ("dropout", "dropout1d", "dropout2d", "dropout3d")
    ):
        return node.kwargs.get("training", True) is not False
    return node.op in ("call_function", "call_method") and name in IN_MEMORY_ORDER


def describe(model: nn.Module) -> tuple[Tree, dict[str, torch.Tensor]]:
    """Nodes and digital modules of a model whose matrix layers are `TileLayer`, and the tensors they use by name that
    its state dict has not.

    Raises:
        NotPlain: it cannot be traced, or holds something that is neither a tile nor torch's own.
    """
    hooked = [n for n, m in model.named_modules() if any(not isinstance(h, (Marks, Unmarks)) for h in hooks_of(m))]
    if hooked:
        raise NotPlain(f"module {hooked[0]!r} has hooks")
    for name, module in model.named_modules():
        if own := overridden(module):
            raise NotPlain(f"{f'module {name!r}' if name else 'the model'} has a {own[0]} overridden on the instance")
    if isinstance(model, TileLayer):
        return {"layer": model.name}, {}
    if type(model) in (*_made().values(), *COMPOSITES.values()):
        return {"module": _describe_module(model)}, {}
    try:
        graph, twin = _traced(model)
    except Exception as error:  # tracing runs the model's own code, which may fail in any way
        raise NotPlain(f"torch.fx cannot trace it ({' '.join(str(error).split())[:200]})") from error
    names = {id(function): name for name, function in _functions().items()}
    nodes, modules, constants = [], {}, {}
    state, operands = model.state_dict(), {place for plan in plans_of(model).values() for place in plan.places}
    for node in graph.nodes:
        target = node.target
        if node.op == "call_function":
            if id(target) not in names:
                raise NotPlain(
                    f"it calls {getattr(target, '__name__', target)}, which is no overridable function of torch"
                )
            target = names[id(target)]
        elif node.op == "call_module":
            module = model.get_submodule(target)
            if not isinstance(module, TileLayer):
                modules[target] = _describe_module(module)
        elif node.op == "get_attr" and target not in state and target not in operands:
            constants[target] = operator.attrgetter(target)(twin)
        text = {
            "name": node.name,
            "op": node.op,
            "target": target,
            "args": plain(node.args),
            "kwargs": {key: plain(value) for key, value in node.kwargs.items()},
        }
        if fault := _fault(text):
            raise NotPlain(fault)
        nodes.append(text)
    return {"nodes": nodes, "modules": modules}, constants


def rebuild(
    tree: Tree, layers: dict[str, nn.Module], tensors: dict[str, torch.Tensor], plans: Sequence[Plan] = ()
) -> nn.Module:
    """The model of a description, with these tile layers by name (aliases included) and these digital tensors.

    `plans` are of the parameters that are layers.

    Raises:
        CheckpointError: the description names something unknown, or a tensor is missing.
    """
    if "layer" in tree:
        return layers[tree["layer"]]
    root = nn.Module()
    if "module" in tree:
        return _loaded(_with_tiles(_build_module(tree["module"]), "", layers), tensors)
    for name, text in tree["modules"].items():
        _place(root, name, _with_tiles(_build_module(text), name, layers))
    operands = {place for plan in plans for place in plan.places}
    for plan in plans:
        for place in plan.places:
            _parent(root, place.rpartition(".")[0])
        install(root, plan, lambda name, chosen: layers.get(name) or chosen.module("meta"))
    graph = fx.Graph()
    by_name: dict[str, fx.Node] = {}
    for node in tree["nodes"]:
        if fault := _fault(node):
            raise CheckpointError(f"the structure of its model is damaged or foreign: {fault}")
        target: Any = node["target"]
        if node["op"] == "call_function":
            target = _functions()[target]
        elif node["op"] == "call_module" and target not in tree["modules"]:
            if target not in layers:
                raise CheckpointError(f"its model uses a layer {target!r} that it does not hold")
            _place(root, target, layers[target])
        elif node["op"] == "get_attr":
            if target not in tensors and target not in operands:
                raise CheckpointError(f"its model uses a tensor {target!r} that it does not hold")
            parent, _, leaf = target.rpartition(".")
            if target not in operands and not hasattr(_parent(root, parent), leaf):
                _parent(root, parent).register_buffer(leaf, tensors[target])
        args = restore(node["args"], by_name)
        kwargs = {key: restore(value, by_name) for key, value in node["kwargs"].items()}
        by_name[node["name"]] = graph.create_node(node["op"], target, args, kwargs, node["name"])
    made = fx.GraphModule(root, graph)
    for plan in plans:
        install(made, plan, lambda name, _: root.get_submodule(name))
    return _loaded(made, tensors)


def _loaded(model: nn.Module, tensors: dict[str, torch.Tensor]) -> nn.Module:
    """The model with these tensors in the places of its own, which are as large and hold nothing yet."""
    own = model.state_dict()
    missing = [name for name in own if name not in tensors]
    if missing:
        raise CheckpointError(f"tensors of its digital part are missing: {', '.join(missing)}")
    for name, value in own.items():
        if value.shape != tensors[name].shape:
            shapes = f"{tuple(tensors[name].shape)}, its module wants {tuple(value.shape)}"
            raise CheckpointError(f"the tensor {name} of its digital part has shape {shapes}")
    model.load_state_dict({name: tensors[name] for name in own}, assign=True)
    return model


def _with_tiles(module: nn.Module, name: str, layers: dict[str, nn.Module]) -> nn.Module:
    """The module called `name` with those of its own modules that are tiles replaced by them."""
    for child in [child for child, _ in module.named_modules() if child]:
        if (full := f"{name}.{child}".lstrip(".")) in layers:
            tile, own = layers[full], module.get_submodule(child)
            assert isinstance(tile, TileLayer)
            if (
                not isinstance(own, nn.Linear)
                or Linear.of(own).model_copy(update={"dtype": tile.spec.dtype}) != tile.spec
            ):
                raise CheckpointError(f"its layer {full!r} is {tile.spec!r}, its model wants {own}")
            replaced(module, child, tile)
    return module


def _fault(node: Tree) -> str | None:
    """What a node names that it may not; None if all is well."""
    op, target, args = node["op"], node["target"], node["args"]
    if not isinstance(target, str):
        return f"it names {target!r}"
    if op == "call_function":
        if target not in _functions():
            return f"it calls {target}, which is no function of torch"
        # the name must stand in the file as such: one that is computed could be anything
        name = args["tuple"][1] if target == "getattr" else "public"
        if not isinstance(name, str) or name.startswith("_") or name in UNSAFE_METHODS:
            return f"it takes the attribute {name!r}"
    elif op == "call_method":
        if target not in _methods():
            return f"it calls the method {target!r}, which is no safe one of a tensor"
    elif op in ("call_module", "get_attr", "placeholder", "output"):
        if not target.isprintable() or set(target) & set("'\"\\"):
            return f"it names {target!r}"
        if op == "placeholder" and not target.lstrip("*").isidentifier():
            return f"it has an input {target!r}"
    else:
        return f"it has a node of kind {op!r}"
    if not all(isinstance(key, str) and key.isidentifier() for key in node["kwargs"]):
        return f"it passes arguments by the names {', '.join(map(str, node['kwargs']))}"
    return None


def _describe_module(module: nn.Module) -> Tree:
    kind = type(module)
    if type(module) in _made().values():
        config: Tree = module.config  # type: ignore[assignment]
        return {"class": kind.__name__, "args": {key: plain(value) for key, value in config.items()}}
    if isinstance(module, TileLayer) and type(module.spec) is Linear:  # in a composite: `_with_tiles` puts it there
        sizes = {"in_features": module.spec.in_features, "out_features": module.spec.out_features}
        return {"class": "Linear", "args": {**sizes, "bias": module.matrix.bias is not None}}
    if kind in COMPOSITES.values():
        return _describe_composite(module)
    if getattr(nn, kind.__name__, None) is not kind:
        raise NotPlain(f"it holds a module of {kind.__module__}.{kind.__qualname__}")
    args: Tree = {}
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        if name in ("self", "device", "dtype") or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if hasattr(module, name):
            value = getattr(module, name)
            args[name] = value is not None if name == "bias" else plain(value)
    text = {"class": kind.__name__, "args": args}
    try:
        again = _build_module(text)
        same = repr(again) == repr(module) and _shapes(again) == _shapes(module)
    except Exception:  # a constructor may fail in any way when its arguments are not among the attributes
        same = False
    if not same:
        raise NotPlain(f"{kind.__name__} cannot be rebuilt from its attributes")
    return text


def _describe_composite(module: nn.Module) -> Tree:
    try:
        attributes = attributes_of(module)
    except ValueError as error:
        raise NotPlain(str(error)) from error
    parts = {name: _describe_module(part) for name, part in module._modules.items() if part is not None}
    return {"class": type(module).__name__, "attributes": attributes, "parts": parts}


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


def _build_module(text: Tree) -> nn.Module:
    if text["class"] in COMPOSITES and "parts" in text:
        parts = {str(name): _build_module(part) for name, part in text["parts"].items()}
        return composite(text["class"], text["attributes"], parts)
    kind = _made().get(text["class"]) or getattr(nn, text["class"], None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise CheckpointError(f"its model holds a module {text['class']!r}, which torch.nn has not")
    args = {key: restore(value, {}) for key, value in text["args"].items()}
    for key in LAYER_COUNTS:
        if not (type(args.get(key, 1)) is int and 0 < args.get(key, 1) <= MOST_LAYERS):
            raise CheckpointError(f"its model holds {text['class']} with {key} = {str(args[key])[:40]}")
    with torch.device("meta"):
        return kind(**args).eval()


def _parent(root: nn.Module, name: str) -> nn.Module:
    for part in filter(None, name.split(".")):
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    return root


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    _parent(root, parent).add_module(leaf, module)
