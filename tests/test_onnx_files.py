"""ONNX files that are damaged or forged, and what a file says of its inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mho
from mho.mapping.checkpoints.networks import load_model
from mho.mapping.errors import CheckpointError

onnx = pytest.importorskip("onnx")
from onnx_models import SHAPES, node, save, values  # noqa: E402


def test_sizes_that_are_fixed_are_checked(tmp_path):
    model = load_model(save(tmp_path / "a.onnx", [node("Reshape", "x", "s")], (2, 6), s=np.array([2, 2, 3])))
    assert model(torch.rand(2, 6)).shape == (2, 2, 3)
    with pytest.raises(RuntimeError, match="unflatten"):
        model(torch.rand(4, 3))


@pytest.mark.parametrize(
    ("location", "size", "said"),
    [
        ("data", 0, None),
        ("data", 10**6, "go beyond the end of data"),
        ("../data", 0, "is no name of a file in this folder"),
        ("/etc/passwd", 0, "is no name of a file in this folder"),
        ("link", 0, "is a link that leads out of the folder"),
        ("missing", 0, "is missing"),
    ],
)
def test_data_beside_the_file_stay_in_its_folder(location, size, said, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    path = save(folder / "a.onnx", [node("MatMul", "x", "w")], SHAPES[2], w=values(6, 3))
    model = onnx.load(path)
    (tensor,) = model.graph.initializer
    for place in (folder / "data", tmp_path / "data"):
        place.write_bytes(tensor.raw_data)
    (folder / "link").symlink_to(tmp_path / "data")
    exact = torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
    onnx.external_data_helper.set_external_data(tensor, location, 0, size or len(tensor.raw_data))
    tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    if said is None:
        x = torch.rand(3, 6)
        assert torch.allclose(load_model(path)(x), x @ exact, atol=1e-6)
        return
    with pytest.raises(CheckpointError, match=said):
        load_model(path)


@pytest.mark.parametrize("name", ["self", "class", "x.1", "1", "torch", "a'b", "forward", "input"])
def test_inputs_of_any_name(name, tmp_path):
    path = save(tmp_path / "a.onnx", [node("MatMul", "x", "w")], SHAPES[2], w=values(6, 3))
    model = onnx.load(path)
    model.graph.input[0].name = model.graph.node[0].input[0] = name
    model.graph.initializer[0].name = model.graph.node[0].input[1] = "training"
    onnx.save(model, path)
    x = torch.rand(3, 6)
    network = load_model(path)
    assert torch.allclose(
        network(x), x @ torch.from_numpy(onnx.numpy_helper.to_array(model.graph.initializer[0]).copy())
    )
    assert mho.map(network, mho.Hardware.preset("ideal"), calibrate=x)(x).shape == (3, 3)


def test_cut_and_foreign_files(tmp_path):
    content = save(tmp_path / "a.onnx", [node("MatMul", "x", "w")], SHAPES[2], w=values(6, 300)).read_bytes()
    path = tmp_path / "cut.onnx"
    for cut in (b"", b"hello" * 50, *(content[:end] for end in range(10, len(content) - 10, len(content) // 12))):
        path.write_bytes(cut)
        with pytest.raises(CheckpointError) as caught:
            load_model(path)
        assert "\n" not in str(caught.value)
