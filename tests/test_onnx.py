"""ONNX: the importer against onnxruntime, operator by operator, on constants, sizes and layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mho
from mho.mapping.checkpoints.networks import load_model
from mho.mapping.errors import CheckpointError

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
from onnx_models import INT64, SHAPES, helper, node, save, values  # noqa: E402


def agrees(path: Path, x: Any) -> torch.nn.Module:
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL  # it would quantise once more
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    exact = session.run(None, {"x": x})
    model = load_model(path)
    got = model(torch.from_numpy(x))
    for one, other in zip(got if isinstance(got, tuple) else (got,), exact, strict=True):
        assert tuple(one.shape) == other.shape
        assert one.numpy(force=True).dtype == other.dtype
        np.testing.assert_allclose(one.numpy(force=True), other, rtol=1e-5, atol=1e-5)
    return model


UNARY = "Abs Atan Ceil Cos Erf Exp Floor HardSwish Mish Neg Relu Round Sigmoid Sign Sin Softplus Softsign Tanh"
CASES: dict[str, tuple[list[Any], int, dict[str, Any]]] = {
    **{kind: ([node(kind, "x")], 3, {}) for kind in UNARY.split()},
    "LeakyRelu": ([node("LeakyRelu", "x", alpha=0.2)], 3, {}),
    "Elu": ([node("Elu", "x", alpha=0.7)], 3, {}),
    "Selu": ([node("Selu", "x")], 3, {}),
    "Celu": ([node("Celu", "x", alpha=0.7)], 3, {}),
    "HardSigmoid": ([node("HardSigmoid", "x", alpha=0.17)], 3, {}),
    "ThresholdedRelu": ([node("ThresholdedRelu", "x", alpha=0.4)], 3, {}),
    "PRelu": ([node("PRelu", "x", "s")], 4, {"s": values(4, 1, 1)}),
    "Clip": ([node("Clip", "x", "l", "h")], 3, {"l": np.float32(-0.5), "h": np.float32(0.5)}),
    "Clip low": ([node("Clip", "x", "l")], 3, {"l": np.float32(-0.5)}),
    "Softmax": ([node("Softmax", "x", axis=1)], 3, {}),
    "LogSoftmax": ([node("LogSoftmax", "x")], 3, {}),
    "Pow": ([node("Pow", "x", "c")], 3, {"c": np.float32(2)}),
    "Max": ([node("Max", "x", "c", "d")], 3, {"c": np.float32(0), "d": values(4, 6)}),
    "Where": (
        [helper.make_node("Less", ["x", "c"], ["l"]), node("Where", "l", "x", "c")],
        3,
        {"c": np.float32(0.1)},
    ),
    "Mod": ([node("Mod", "x", "c", fmod=1)], 3, {"c": np.float32(0.3)}),
    "Conv": (
        [node("Conv", "x", "w", "b", pads=[1, 0, 2, 1], strides=[2, 1])],
        4,
        {"w": values(5, 4, 3, 2), "b": values(5)},
    ),
    "Conv groups": ([node("Conv", "x", "w", group=2, dilations=[2, 1])], 4, {"w": values(6, 2, 2, 3)}),
    "Conv same": ([node("Conv", "x", "w", auto_pad="SAME_LOWER")], 4, {"w": values(5, 4, 2, 4)}),
    "Conv 1d": ([node("Conv", "x", "w", pads=[2, 2])], 3, {"w": values(5, 4, 3)}),
    "ConvTranspose": (
        [node("ConvTranspose", "x", "w", "b", strides=[2, 3], pads=[1, 0, 1, 0], output_padding=[1, 2])],
        4,
        {"w": values(4, 5, 3, 3), "b": values(5)},
    ),
    "ConvTranspose ends": (
        [node("ConvTranspose", "x", "w", strides=[2, 2], pads=[0, 1, 1, 0])],
        4,
        {"w": values(4, 3, 3, 3)},
    ),
    "ConvTranspose groups": ([node("ConvTranspose", "x", "w", group=2)], 4, {"w": values(4, 3, 2, 2)}),
    "Gemm": ([node("Gemm", "x", "w", "b", alpha=0.5, beta=2.0)], 2, {"w": values(6, 3), "b": values(3)}),
    "Gemm turned": ([node("Gemm", "x", "w", "b", transB=1)], 2, {"w": values(3, 6), "b": values(1, 3)}),
    "Gemm one": ([node("Gemm", "x", "w", "b", transB=1)], 2, {"w": values(3, 6), "b": values(1)}),
    "MatMul bias": (
        [helper.make_node("MatMul", ["x", "w"], ["m"]), node("Add", "b", "m")],
        3,
        {"w": values(6, 3), "b": values(3)},
    ),
    "MatMul left": ([node("MatMul", "w", "x")], 3, {"w": values(3, 4)}),
    "BatchNormalization": (
        [node("BatchNormalization", "x", "s", "b", "m", "v", epsilon=1e-3)],
        4,
        {"s": values(4), "b": values(4), "m": values(4), "v": np.abs(values(4))},
    ),
    "InstanceNormalization": ([node("InstanceNormalization", "x", "s", "b")], 4, {"s": values(4), "b": values(4)}),
    "LayerNormalization": ([node("LayerNormalization", "x", "s", "b")], 3, {"s": values(6), "b": values(6)}),
    "LRN": ([node("LRN", "x", size=3, alpha=0.1)], 4, {}),
    "MaxPool": ([node("MaxPool", "x", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 0, 1])], 4, {}),
    "MaxPool ceil": ([node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], 4, {}),
    "AveragePool": ([node("AveragePool", "x", kernel_shape=[3, 2], pads=[1, 1, 1, 1])], 4, {}),
    "AveragePool counted": (
        [node("AveragePool", "x", kernel_shape=[3, 2], pads=[1, 0, 0, 0], count_include_pad=1)],
        4,
        {},
    ),
    "GlobalAveragePool": ([node("GlobalAveragePool", "x")], 4, {}),
    "GlobalMaxPool": ([node("GlobalMaxPool", "x")], 4, {}),
    "ReduceMean": ([node("ReduceMean", "x", "a", keepdims=0)], 4, {"a": np.array([-1, 1])}),
    "ReduceSum all": ([node("ReduceSum", "x")], 3, {}),
    "ReduceProd": ([node("ReduceProd", "x", "a", keepdims=0)], 3, {"a": np.array([0, 2])}),
    "ReduceL2": ([node("ReduceL2", "x", "a")], 3, {"a": np.array([1])}),
    "ReduceLogSumExp": ([node("ReduceLogSumExp", "x", "a")], 3, {"a": np.array([1])}),
    "ArgMax": ([node("ArgMax", "x", axis=1, keepdims=0)], 3, {}),
    "TopK": ([node("TopK", "x", "k", outputs=2)], 3, {"k": np.array([2])}),
    "Reshape": ([node("Reshape", "x", "s")], 4, {"s": np.array([0, -1, 8])}),
    "Flatten": ([node("Flatten", "x", axis=2)], 4, {}),
    "Transpose": ([node("Transpose", "x", perm=[0, 2, 1])], 3, {}),
    "Unsqueeze": ([node("Unsqueeze", "x", "a")], 3, {"a": np.array([-1, 1])}),
    "Concat": ([node("Concat", "x", "x", axis=-1)], 3, {}),
    "Split": ([node("Split", "x", "s", outputs=2, axis=1)], 3, {"s": np.array([1, 3])}),
    "Split even": ([node("Split", "x", outputs=3, axis=2, num_outputs=3)], 3, {}),
    "Slice": (
        [node("Slice", "x", "s", "e", "a", "t")],
        3,
        {"s": np.array([1, -5]), "e": np.array([2**62, -1]), "a": np.array([1, 2]), "t": np.array([2, 1])},
    ),
    "Slice back": (
        [node("Slice", "x", "s", "e", "a", "t")],
        3,
        {"s": np.array([-1]), "e": np.array([-(2**62)]), "a": np.array([2]), "t": np.array([-1])},
    ),
    "Gather": ([node("Gather", "x", "i", axis=2)], 3, {"i": np.array([[0, -1], [2, 1]])}),
    "Gather one": ([node("Gather", "x", "i", axis=1)], 3, {"i": np.array(-1)}),
    "Expand": (
        [helper.make_node("Unsqueeze", ["x", "a"], ["u"]), node("Expand", "u", "s")],
        2,
        {"a": np.array([1]), "s": np.array([3, 1])},
    ),
    "Tile": ([node("Tile", "x", "r")], 3, {"r": np.array([1, 2, 3])}),
    "Pad": ([node("Pad", "x", "p", "v")], 3, {"p": np.array([0, 1, 2, 0, 0, 3]), "v": np.float32(0.5)}),
    "Pad reflect": ([node("Pad", "x", "p", mode="reflect")], 4, {"p": np.array([0, 0, 1, 2, 0, 0, 2, 1])}),
    "Pad edge": ([node("Pad", "x", "p", mode="edge")], 3, {"p": np.array([0, 0, 1, 0, 0, 2])}),
    "DepthToSpace": ([node("DepthToSpace", "x", blocksize=2)], 4, {}),
    "DepthToSpace CRD": ([node("DepthToSpace", "x", blocksize=2, mode="CRD")], 4, {}),
    "SpaceToDepth": ([node("SpaceToDepth", "x", blocksize=2)], 4, {}),
    "Einsum": ([node("Einsum", "x", "w", equation="nij,jk->nik")], 3, {"w": values(6, 2)}),
    "Trilu": ([node("Trilu", "x", upper=0)], 3, {}),
    "CumSum": ([node("CumSum", "x", "a")], 3, {"a": np.array(1)}),
    "Cast": ([node("Cast", "x", to=INT64)], 3, {}),
    "Resize nearest": (
        [
            node(
                "Resize",
                "x",
                "",
                "s",
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        ],
        4,
        {"s": np.array([1, 1, 1.5, 2], np.float32)},
    ),
    "Resize half pixel": ([node("Resize", "x", "", "s", mode="nearest")], 4, {"s": np.array([1, 1, 3, 2], np.float32)}),
    "Resize linear": ([node("Resize", "x", "", "s", mode="linear")], 4, {"s": np.array([1, 1, 2, 0.5], np.float32)}),
    "Resize corners": (
        [node("Resize", "x", "", "", "z", mode="linear", coordinate_transformation_mode="align_corners")],
        4,
        {"z": np.array([3, 4, 9, 5])},
    ),
    "Resize cubic": ([node("Resize", "x", "", "s", mode="cubic")], 4, {"s": np.array([1, 1, 2, 2], np.float32)}),
    "LSTM": (
        [node("LSTM", "x", "w", "r", "b", outputs=3, hidden_size=5, direction="bidirectional")],
        3,
        {"w": values(2, 20, 6), "r": values(2, 20, 5), "b": values(2, 40)},
    ),
    "LSTM reverse": (
        [node("LSTM", "x", "w", "r", outputs=3, hidden_size=5, direction="reverse")],
        3,
        {"w": values(1, 20, 6), "r": values(1, 20, 5)},
    ),
    "GRU": (
        [node("GRU", "x", "w", "r", "b", "", "h", outputs=2, hidden_size=5, linear_before_reset=1)],
        3,
        {"w": values(1, 15, 6), "r": values(1, 15, 5), "b": values(1, 30), "h": values(1, 4, 5)},
    ),
    "RNN": ([node("RNN", "x", "w", "r", outputs=2, hidden_size=5)], 3, {"w": values(1, 5, 6), "r": values(1, 5, 5)}),
    "dequantised": (
        [helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=1), node("MatMul", "x", "w")],
        2,
        {
            "q": (100 * np.tanh(values(6, 3))).astype(np.int8),
            "s": np.abs(values(3)),
            "z": np.array([1, -2, 3], np.int8),
        },
    ),
    "sizes": (
        [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
            helper.make_node("Unsqueeze", ["n", "zeros"], ["m"]),
            helper.make_node("Mul", ["m", "two"], ["half"]),
            helper.make_node("Concat", ["half", "rest"], ["to"], axis=0),
            node("Reshape", "x", "to"),
        ],
        3,
        {"zero": np.array(0), "zeros": np.array([0]), "two": np.array([2]), "rest": np.array([2, 6])},
    ),
    "zeros": (
        [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("ConstantOfShape", ["s"], ["c"]),
            node("Add", "x", "c"),
        ],
        3,
        {},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_operators_agree_with_onnxruntime(case, tmp_path):
    nodes, dims, constants = CASES[case]
    path = save(tmp_path / "a.onnx", nodes, SHAPES[dims], **constants)
    agrees(path, values(3, *SHAPES[dims][1:]))


def test_old_versions_of_operators(tmp_path):
    x = values(3, 4, 6)
    for kind in ("Softmax", "LogSoftmax"):
        agrees(save(tmp_path / "a.onnx", [node(kind, "x", axis=1)], SHAPES[3], opset=11), x)
    agrees(save(tmp_path / "a.onnx", [node("Unsqueeze", "x", axes=[1])], SHAPES[3], opset=11), x)
    agrees(save(tmp_path / "a.onnx", [node("Clip", "x", min=-0.5, max=0.5)], SHAPES[3], opset=10), x)
    agrees(save(tmp_path / "a.onnx", [node("Slice", "x", starts=[1], ends=[3], axes=[2])], SHAPES[3], opset=9), x)


def network(path: Path) -> Path:
    nodes = [
        helper.make_node("Conv", ["x", "features.0.weight", "c"], ["c1"], name="/features/Conv"),
        helper.make_node("BatchNormalization", ["c1", "s", "b", "m", "v"], ["c2"], name="/norm/BatchNormalization"),
        helper.make_node("Relu", ["c2"], ["c3"]),
        helper.make_node("Flatten", ["c3"], ["c4"]),
        helper.make_node("MatMul", ["c4", "onnx::MatMul_9"], ["c5"], name="/head/MatMul"),
        node("Add", "c5", "a"),
    ]
    constants = {
        "features.0.weight": values(3, 1, 3, 3),
        "c": values(3),
        "onnx::MatMul_9": values(108, 5),
        "a": values(5),
    }
    constants |= {"s": values(3), "b": values(3), "m": values(3), "v": np.abs(values(3))}
    return save(path, nodes, ("n", 1, 8, 8), **constants)


def test_a_network_is_mapped_saved_and_loaded(tmp_path):
    x = values(20, 1, 8, 8)
    model = agrees(network(tmp_path / "a.onnx"), x)
    chip = mho.map(model, mho.Hardware.preset("reram"), calibrate=x)
    assert set(chip.layers) == {"features.0", "head"}
    chip.save(tmp_path / "chip")
    assert torch.equal(
        mho.load(tmp_path / "chip").read(torch.from_numpy(x), read=0), chip.read(torch.from_numpy(x), read=0)
    )


def test_weights_that_are_shared_are_one_layer(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        node("MatMul", "r", "w"),
    ]
    model = agrees(save(tmp_path / "a.onnx", nodes, SHAPES[2], w=values(6, 6)), values(3, 6))
    assert sum(isinstance(module, torch.nn.Linear) for module in model.modules()) == 1


@pytest.mark.parametrize(
    ("nodes", "constants", "said"),
    [
        ([node("Det", "x")], {}, "operator Det of node 'a Det' is not imported"),
        (
            [helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft", name="g")],
            {},
            "com.microsoft.Gelu of node 'g'",
        ),
        ([node("DynamicQuantizeLinear", "x", outputs=3)], {}, "computes with quantised codes"),
        ([node("QuantizeLinear", "x", "s")], {"s": np.float32(0.1)}, "computes with quantised codes"),
        (
            [node("GRU", "x", "w", "r", hidden_size=5)],
            {"w": values(1, 15, 6), "r": values(1, 15, 5)},
            "linear_before_reset = 0",
        ),
        ([node("Reshape", "x", "nowhere")], {}, "the tensor 'nowhere' is used before it is there"),
        ([node("ConstantOfShape", "s")], {"s": np.array([2**40])}, "makes a constant of 1099511627776 values"),
        ([node("RandomNormalLike", "x")], {}, "operator RandomNormalLike of node"),
        ([node("LSTM", "x", "w", "r")], {"w": values(1, 9, 6), "r": values(1, 20, 5)}, "are not those of a LSTM"),
    ],
)
def test_what_is_not_imported_is_refused_with_its_node(nodes, constants, said, tmp_path):
    path = save(tmp_path / "a.onnx", nodes, SHAPES[3], **constants)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"checkpoint {path}: ")


def test_an_if_that_depends_on_the_input_is_refused_and_a_constant_one_followed(tmp_path):
    branch = [
        helper.make_graph([helper.make_node(kind, ["x"], ["o"])], kind, [], [helper.make_empty_tensor_value_info("o")])
        for kind in ("Relu", "Neg")
    ]
    choice = helper.make_node("If", ["c"], ["y"], name="choice", then_branch=branch[0], else_branch=branch[1])
    x = values(3, 4, 6)
    for taken in (True, False):
        model = load_model(save(tmp_path / "a.onnx", [choice], SHAPES[3], c=np.array(taken)))
        assert torch.equal(model(torch.from_numpy(x)), torch.from_numpy(np.maximum(x, 0) if taken else -x))
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Less", ["m", "z"], ["c"]),
        choice,
    ]
    with pytest.raises(CheckpointError, match="operator If of node 'choice': its condition depends on the inputs"):
        load_model(save(tmp_path / "a.onnx", nodes, SHAPES[3], z=np.float32(0)))
