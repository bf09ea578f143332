"""Recurrent operators of ONNX as `nn.LSTM`, `nn.GRU` and `nn.RNN` of one layer."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import fx

from .builder import recurrent
from .onnx_layers import is_weight, layer_name
from .onnx_operator import Operator, Value, imports

# where the blocks of torch's gates are among those of ONNX: torch has i f g o and r z n, ONNX i o f c and z r h
GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
USUAL = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


@imports("LSTM", "GRU", "RNN")
def _recurrent(op: Operator) -> Value:
    kind = op.kind
    directions = {"forward": 1, "reverse": 1, "bidirectional": 2}.get(op.attr("direction", "forward"), 0)
    options = _options(op, directions)
    if not (directions and all(is_weight(op.inputs[n], 3) for n in (1, 2)) and (not op.has(3) or op.is_constant(3))):
        raise op.fault("its weights must be constant, and its direction forward, reverse or bidirectional")
    weights, added = [op.constant(1), op.constant(2)], op.constant(3) if op.has(3) else None
    hidden = weights[1].shape[2]
    if any(len(value) != directions or value.shape[1] != len(GATES[kind]) * hidden for value in weights):
        raise op.fault(f"weights of shapes {[tuple(value.shape) for value in weights]} are not those of a {kind}")
    tensors: list[torch.Tensor] = []
    for d in range(directions):
        tensors += [_in_order(value[d], kind) for value in weights]
        if added is not None:
            tensors += [_in_order(half, kind) for half in added[d].chunk(2)]
    options |= {"input_size": weights[0].shape[2], "hidden_size": hidden, "bias": added is not None}
    options["bidirectional"] = directions == 2
    key = (kind, *(op.input_name(n) for n in (1, 2, 3) if op.has(n)), str(options))
    x, backwards = op.tensor(0), op.attr("direction", "forward") == "reverse"
    x = op.method("flip", x, (0,)) if backwards else x
    state = _state(op)
    inputs = (x,) if state is None else (x, state)
    called = op.builder.layer(layer_name(op), key, partial(recurrent, kind, tensors, **options), *inputs)
    outputs, last = op.importer.part(called, 0), op.importer.part(called, 1)
    outputs = op.method("unflatten", outputs, 2, (directions, hidden))
    outputs = op.method("permute", outputs, (0, 2, 1, 3))
    outputs = op.method("flip", outputs, (0,)) if backwards else outputs
    if kind == "LSTM":
        return [outputs, op.importer.part(last, 0), op.importer.part(last, 1)]
    return [outputs, last]


def _options(op: Operator, directions: int) -> dict[str, Any]:
    """What of the operator is an option of torch's layer; raises Unsupported for what torch's layer does not do."""
    op.refuse(layout=0, input_forget=0)
    if "clip" in op.attributes or any(op.attr(name) for name in ("activation_alpha", "activation_beta")):
        raise op.fault("clip and parameters of activations are not imported")
    if op.has(4) or (op.kind == "LSTM" and op.has(7)):
        raise op.fault("sequence_lens and peepholes are not imported")
    if op.kind == "GRU" and not op.attr("linear_before_reset", 0):
        raise op.fault("linear_before_reset = 0 is not what torch computes, and is not imported")
    names = [name.decode() for name in op.attributes.get("activations", [])] or USUAL[op.kind] * directions
    relu = op.kind == "RNN" and names == ["Relu"] * directions
    if not relu and names != USUAL[op.kind] * directions:
        raise op.fault(f"activations = {names} are not imported")
    return {"nonlinearity": "relu" if relu else "tanh"} if op.kind == "RNN" else {}


def _in_order(value: torch.Tensor, kind: str) -> torch.Tensor:
    blocks = value.chunk(len(GATES[kind]))
    return torch.cat([blocks[n] for n in GATES[kind]]).contiguous()


def _state(op: Operator) -> Any:
    """The state before the first step; None where it is zero."""
    places = (5, 6) if op.kind == "LSTM" else (5,)
    given = [op.inputs[n] if op.has(n) else None for n in places]
    if all(_is_zero(op, value) for value in given):
        return None
    if None in given:
        raise op.fault("a state in part is not imported")
    nodes = tuple(op.tensor(n) for n in places)
    return nodes if len(nodes) == 2 else nodes[0]


def _is_zero(op: Operator, value: Any) -> bool:
    if isinstance(value, fx.Node):
        return value in op.importer.zeros
    return value is None or (isinstance(value, torch.Tensor) and not value.any())
