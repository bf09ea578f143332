"""Networks of `.pt2` files, as torch.export.save writes them: their matrix layers become modules of torch.nn again.

The graph is read as data. It may call functions of ATen and arithmetic of numbers, and nothing else; those that take
memory as it is, or open files, are refused.
"""

from __future__ import annotations

import json
import keyword
import math
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from ..errors import CheckpointError
from ..graph import UNSAFE_METHODS
from .archive import Archive, codes
from .aten import Aten
from .builder import Builder
from .files import one_line

NUMBERS = {
    **{f"_operator.{name}": getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "truediv", "mod")},
    **{f"_operator.{name}": getattr(operator, name) for name in ("neg", "pow", "eq", "ne", "lt", "le", "gt", "ge")},
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc")},
    **{f"torch.{name}": getattr(torch, name) for name in ("sym_max", "sym_min", "sym_int", "sym_float", "sym_not")},
}
ASSERTS = ("_assert", "sym_constrain_range", "_functional_assert")  # of the export, on its own numbers
PRIVATE = {
    "_adaptive_avg_pool2d",
    "_log_softmax",
    "_native_batch_norm_legit_no_training",
    "_softmax",
    "_to_copy",
    "_unsafe_view",
}
UNSAFE = UNSAFE_METHODS | {"empty", "empty_like", "empty_strided", "from_file", "as_strided", "as_strided_"}


def load_exported(path: Path) -> nn.Module:
    """The network of a `.pt2` file, in evaluation mode. Sizes that were fixed in the export are checked when it runs.

    Raises:
        CheckpointError: a damaged file, parts that are pickled or compiled, or an operator that Mho does not call.
    """
    archive = Archive(path)
    try:
        return _Reader(archive).network()
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from error
    except Exception as error:  # what a damaged file makes of its readers is anybody's guess
        raise CheckpointError(f"checkpoint {path}: damaged or not of torch.export ({one_line(error)})") from error


class _Reader:
    """Makes the nodes of an exported graph nodes of torch.fx."""

    def __init__(self, archive: Archive) -> None:
        module = archive.program["graph_module"]
        self.tensors = archive.tensors
        self.graph, self.signature = module["graph"], module["signature"]
        calls = [call["signature"] for call in module["module_call_graph"] if call["fqn"] == ""]
        self.specs = {key: _tree(calls[0][key]) for key in ("in_spec", "out_spec")}
        self.builder = Builder()
        self.aten = Aten(self.builder)
        self.values: dict[str, Any] = {}

    def network(self) -> nn.Module:
        self._inputs()
        for node in self.graph["nodes"]:
            self._node(node)
        outputs = []
        for spec in self.signature["output_specs"]:
            if "user_output" not in spec:
                raise CheckpointError(f"it changes its {next(iter(spec)).replace('_', ' ')}; export it in eval mode")
            outputs.append(self._value(spec["user_output"]["arg"]))
        leaves = iter(outputs)
        output = _restored(self.specs["out_spec"], leaves)
        if next(leaves, None) is not None:
            raise CheckpointError("it has more outputs than its out_spec")
        return self.builder.finish(self.aten.nodes(output))

    def _inputs(self) -> None:
        """Placeholders for the user's inputs, with their sizes checked; tensors for all others."""
        users = []
        for spec in self.signature["input_specs"]:
            ((kind, text),) = spec.items()
            if kind == "user_input":
                users.append(text["arg"])
            elif kind in ("parameter", "buffer", "tensor_constant"):
                name = text[f"{kind}_name"]
                if name not in self.tensors:
                    raise CheckpointError(f"its tensor {name!r:.100} is missing")
                self.values[text["arg"]["name"]] = self.aten.constant(name, self.tensors[name])
            else:
                raise CheckpointError(f"it takes a {kind}, which no network of tensors does")
        positional, named = self.specs["in_spec"]["children_spec"]
        if any(
            child["children_spec"] or child["type"] for part in (positional, named) for child in part["children_spec"]
        ):
            raise CheckpointError("it takes tuples, lists or dicts of tensors; export it with tensors as inputs")
        names = json.loads(named["context"])
        if len(positional["children_spec"]) + len(names) != len(users):
            raise CheckpointError("it has other inputs than its in_spec")
        for number, argument in enumerate(users):
            if "as_tensor" not in argument:
                raise CheckpointError(f"its input {number} is {next(iter(argument))[3:]} and no tensor")
            own = argument["as_tensor"]["name"]
            place = number - len(positional["children_spec"])
            name = own if place < 0 else names[place]
            if not (isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name) and name != "self"):
                raise CheckpointError(f"its input {number} has the name {name!r:.100}")
            self.values[own] = self.builder.graph.placeholder(name)
        for argument in users:
            own = argument["as_tensor"]["name"]
            sizes = [size.get("as_int") for size in self.graph["tensor_values"][own]["sizes"]]
            self._name(own, self.builder.check_sizes(self.values[own], sizes))

    def _node(self, node: dict[str, Any]) -> None:
        target = node["target"]
        given = node["inputs"]
        args = [self._value(one["arg"]) for one in given if one.get("kind", 1) == 1]
        kwargs = {one["name"]: self._value(one["arg"]) for one in given if one.get("kind", 1) != 1}
        if not all(isinstance(key, str) and key.isidentifier() for key in kwargs):
            raise CheckpointError(f"its node {target!r:.100} has arguments by odd names")
        if isinstance(target, str) and target in NUMBERS:
            args = self.aten.nodes(args + list(kwargs.values()))
            found: Any = self.builder.graph.call_function(NUMBERS[target], tuple(args))
        else:
            operation = _operation(target)
            if operation is None:
                return
            found = self.aten.call(operation, args, kwargs)
        self._keep(node["outputs"], found)

    def _keep(self, outputs: list[dict[str, Any]], found: Any) -> None:
        """Remember the value of a node, and of its parts, by their names."""
        several = len(outputs) > 1
        for number, output in enumerate(outputs):
            ((kind, text),) = output.items()
            value = self.aten.part(found, number) if several else found
            if kind in ("as_tensors", "as_optional_tensors"):
                for place, one in enumerate(text):
                    self._name(one.get("as_tensor", one)["name"], self.aten.part(value, place))
            elif kind == "as_tensor":
                self._name(text["name"], value)
            elif "as_name" in text:
                self.values[text["as_name"]] = value
            elif kind != "as_none":
                raise CheckpointError(f"it has an output of kind {kind}")

    def _name(self, name: str, value: Any) -> None:
        self.values[name] = value
        if isinstance(value, fx.Node):
            self.aten.ranks[value] = len(self.graph["tensor_values"][name]["sizes"])

    def _value(self, argument: dict[str, Any]) -> Any:
        """The value of an argument: one computed before, or a plain one."""
        ((kind, text),) = argument.items()
        if kind == "as_none":
            return None
        if kind == "as_tensor":
            return self.values[text["name"]]
        if kind == "as_optional_tensor":
            return self._value(text)
        if kind in ("as_tensors", "as_nested_tensors"):
            return [self.values[one["name"]] for one in text]
        if kind in ("as_optional_tensors", "as_sym_ints", "as_sym_bools", "as_sym_floats"):
            return [self._value(one) for one in text]
        if kind in ("as_sym_int", "as_sym_bool", "as_sym_float"):
            return self._value(text)
        if kind == "as_name":
            return self.values[text]
        if kind in ("as_int", "as_bool", "as_string", "as_float"):
            return float(text) if kind == "as_float" else _plain(text)
        if kind in ("as_ints", "as_floats", "as_bools", "as_strings"):
            return [float(one) if kind == "as_floats" else _plain(one) for one in text]
        if kind == "as_scalar_type":
            return codes().dtypes[text]
        if kind == "as_memory_format":
            return codes().memory_formats[text]
        if kind == "as_layout":
            return codes().layouts[text]
        if kind == "as_device":
            return torch.device("cpu")
        raise CheckpointError(f"it has an argument of kind {kind!r:.100}")


def _plain(value: Any) -> Any:
    if not isinstance(value, (bool, int, str)):
        raise CheckpointError(f"it has an argument {str(value)[:100]!r}")
    return value


def _operation(target: Any) -> Any:
    """The operator of ATen of this name; None for an assertion.

    Raises:
        CheckpointError: there is none, or it is not called.
    """
    parts = target.split(".") if isinstance(target, str) else []
    if parts[:3] != ["torch", "ops", "aten"] or len(parts) != 5 or not all(part.isidentifier() for part in parts):
        raise CheckpointError(f"it calls {target!r:.100}, which is no operator of ATen")
    name, overload = parts[3:]
    if name.startswith(ASSERTS):
        return None
    packet = getattr(torch.ops.aten, name, None)
    operation = getattr(packet, overload, None) if packet is not None and not overload.startswith("_") else None
    if not isinstance(operation, torch._ops.OpOverload):
        raise CheckpointError(f"it calls {target!r:.100}, which this torch has not")
    if (name.startswith("_") and name not in PRIVATE) or name in UNSAFE or name.startswith(("resize", "set_")):
        raise CheckpointError(f"it calls {target!r:.100}, which Mho does not run")
    return operation


def _tree(text: str) -> Any:
    version, tree = json.loads(text)
    if version != 1:
        raise CheckpointError(f"its inputs and outputs are described in version {version!r:.20}, and 1 is read")
    return tree


def _restored(tree: dict[str, Any], leaves: Iterator[Any]) -> Any:
    """Outputs in the tuples, lists and dicts that they were in; an output class of Hugging Face is a dict."""
    kind, children = tree["type"], tree["children_spec"]
    if kind is None:
        return next(leaves)
    found = [_restored(child, leaves) for child in children]
    if kind == "builtins.tuple":
        return tuple(found)
    if kind == "builtins.list":
        return found
    names = json.loads(tree["context"])
    if isinstance(names, list) and len(names) == len(found) and all(isinstance(name, str) for name in names):
        return dict(zip(names, found, strict=True))
    raise CheckpointError(f"it gives {kind!r:.100}, which is no tuple, list or dict of tensors")
