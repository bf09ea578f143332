"""ONNX files, read as data: a graph and its constants, of which those beside the file stay within its folder."""

from __future__ import annotations

from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import CheckpointError
from .files import file_within, one_line
from .hub import optional
from .onnx_graph import Importer
from .onnx_operator import Unsupported

MOST_EXTERNAL = 2**40  # bytes of one tensor
DOMAINS = ("", "ai.onnx")


def load_onnx(path: Path) -> nn.Module:
    """The network of an ONNX file, in evaluation mode: a graph of torch.fx with matrix layers as modules of torch.nn.

    Inputs are called by their names in the file, with `_` for what no name of Python has; several outputs are a tuple.
    Sizes that are fixed in the file are checked when the network runs.

    Raises:
        CheckpointError: a damaged file, data outside its folder, or an operator that is not imported, with its node.
    """
    where = f"checkpoint {path}"
    onnx = optional("onnx", where)
    try:
        model = onnx.load(str(path), load_external_data=False)
        if not model.graph.node:
            raise CheckpointError(f"{where}: damaged or not an ONNX file (it has no operators)")
        _check(model, where)
        _read_external(onnx, model.graph, path, where)
        if model.functions:
            model = import_module("onnx.inliner").inline_local_functions(model)
        return Importer(onnx, model).network()
    except Unsupported as error:
        raise CheckpointError(f"{where}: {error}") from error
    except CheckpointError:
        raise
    except Exception as error:  # what a damaged file makes of its readers is anybody's guess
        raise CheckpointError(f"{where}: damaged or not an ONNX file ({one_line(error)})") from error


def _check(model: Any, where: str) -> None:
    """Raises CheckpointError for a file without a version of operators, or with tensors that are not dense."""
    if not any(one.domain in DOMAINS and one.version > 0 for one in model.opset_import):
        raise CheckpointError(f"{where}: says no version of the operators of ONNX")
    if model.graph.sparse_initializer:
        raise CheckpointError(f"{where}: its weights are sparse; save them dense")


def _read_external(onnx: Any, graph: Any, path: Path, where: str) -> None:
    """Put the data that lie beside the file into it, each the part of a file that its shape needs."""
    for tensor in _tensors(onnx, graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        said = {entry.key: entry.value for entry in tensor.external_data}
        name, offset = said.get("location", ""), int(said.get("offset", "0"))
        count = prod(tensor.dims)
        bits = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * 8
        size = int(said.get("length", str(count * bits // 8)))
        file = file_within(path.parent, name)
        if min(offset, size, *tensor.dims, 0) < 0 or offset + size > file.stat().st_size or size > MOST_EXTERNAL:
            raise CheckpointError(f"{where}: the data of {tensor.name!r:.100} go beyond the end of {name}")
        with file.open("rb") as data:
            data.seek(offset)
            tensor.raw_data = data.read(size)
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _tensors(onnx: Any, graph: Any) -> Any:
    """All tensors of a graph, and of the graphs that its nodes hold."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from [attribute.t] if attribute.type == onnx.AttributeProto.TENSOR else attribute.tensors
            for inner in [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs:
                yield from _tensors(onnx, inner)
