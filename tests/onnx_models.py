"""Small ONNX files for tests. Import it only where the package onnx is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

helper = onnx.helper
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
RANDOM = np.random.default_rng(0)


def values(*shape: int) -> Any:
    return RANDOM.normal(size=shape).astype(np.float32)


def node(kind: str, *inputs: str, outputs: int = 1, name: str = "", **attributes: Any) -> Any:
    given = [f"y{n}" if n else "y" for n in range(outputs)]
    return helper.make_node(kind, list(inputs), given, name=name or f"a {kind}", **attributes)


def save(path: Path, nodes: list[Any], x: tuple[Any, ...], opset: int = 18, **constants: Any) -> Path:
    outputs = [helper.make_empty_tensor_value_info(name) for name in nodes[-1].output]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", FLOAT, list(x))],
        outputs,
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.save(model, path)
    return path


# by the number of dimensions; the first is left open
SHAPES = {4: ("n", 4, 6, 8), 3: ("n", 4, 6), 2: ("n", 6)}
