"""The rows of `network_speed.py`: networks and layers of the sizes that are published, with random weights.

What a ratio must be and should become stands beside each, for processors with AVX2 and for those with AVX-512.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import kernels
import torch
from network_list import operators_of_torchvision, settled
from torch import nn

import mho

KINDS = "AVX2", "AVX-512"
PICTURE, TOKENS, SHORT = 224, 128, 16  # pixels along each side of a picture; tokens of a text, and of a short one
SIZE, BATCH = 28, 4  # pixels along each side of what single convolutions take, and how many of them
CALIBRATION = 256  # samples of single layers
DECODER = {  # 1.1 billion weights
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
}
GPT2: dict[str, Any] = {}  # as published: 124 million weights
GB = 1e9


class Aim(NamedTuple):
    """What a value must be at most, and what it should become, by the kind of processor."""

    must: Mapping[str, float]
    goal: Mapping[str, float]


def aim(must: float | tuple[float, float], goal: float | tuple[float, float]) -> Aim:
    """One number for all kinds, or one for each of `KINDS`."""
    both = [dict(zip(KINDS, x if isinstance(x, tuple) else (x, x), strict=True)) for x in (must, goal)]
    return Aim(*both)


class Subject(NamedTuple):
    """A network and its inputs: a tensor, or tensors by name."""

    network: nn.Module
    inputs: Any

    def called(self, call: Callable[..., Any]) -> Any:
        return call(**self.inputs) if isinstance(self.inputs, dict) else call(self.inputs)


class Row(NamedTuple):
    """What is measured: `what` is a ratio of a read, seconds of mapping, gigabytes of a peak, or threads.

    Attributes:
        subject: how the network is built.
        threads: with which the aim is meant.
        size: bytes that a peak is divided by, where it is a share of the weights.
        read: makes the functions that are compared, where they are not one read and one pass.
        hardware: changes of the preset.
    """

    name: str
    what: str
    aim: Aim
    subject: Callable[[], Subject]
    threads: int = 2
    share: bool = False
    read: Callable[[], kernels.Pair] | None = None
    hardware: Mapping[str, Any] = {}
    large: bool = False


def declare_operators() -> None:
    """Those that torchvision asks for at its import, where nothing has declared them yet."""
    if not hasattr(torch.ops.torchvision, "nms"):
        operators_of_torchvision()


def torchvision_network(name: str) -> Subject:
    declare_operators()
    import torchvision

    return prepared(getattr(torchvision.models, name)(weights=None), torch.rand(2, 3, PICTURE, PICTURE))


def of_transformers(config: str, model: str, tokens: int, **changes: Any) -> Subject:
    declare_operators()
    import transformers

    made = getattr(transformers, config)(**changes)
    ids = torch.randint(5, made.vocab_size, (1, tokens))
    return prepared(getattr(transformers, model)(made), {"input_ids": ids})


def prepared(network: nn.Module, inputs: Any) -> Subject:
    """In evaluation, with the statistics of the batch norms that a training would have left."""
    network.eval().requires_grad_(False)
    settled(network, inputs)
    return Subject(network, inputs)


def convolution(inputs: int, outputs: int, kernel: int, groups: int = 1) -> Subject:
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)
    return prepared(layer, torch.rand(BATCH, inputs, SIZE, SIZE))


def linear(size: int, batch: int) -> Subject:
    return prepared(nn.Linear(size, size), torch.rand(batch, size))


KEPT: dict[str, Subject] = {}  # the last one that was built, by the name of its row


def built(row: Row) -> Subject:
    """The network of a row: the same weights and inputs each time.

    Raises:
        ValueError: a package that it is from is missing.
    """
    if row.name not in KEPT:
        KEPT.clear()
        torch.manual_seed(0)
        try:
            KEPT[row.name] = row.subject()
        except ImportError as error:
            what = f"{row.name}: {error.name} is not installed"
            raise ValueError(f"{what}; install it, or choose other rows with --only") from error
    return KEPT[row.name]


def mapped(row: Row) -> mho.Chip:
    """Its chip."""
    network, inputs = built(row)
    named = isinstance(inputs, dict)
    hardware = mho.Hardware.preset("reram").replace(dict(row.hardware))
    calibrate = inputs if named or len(inputs) > 1 else torch.cat([inputs] * 2)
    if isinstance(network, nn.Linear):
        calibrate = torch.rand(CALIBRATION, network.in_features)
    return mho.map(network, hardware, calibrate=calibrate, seed=0, check=False)


def rows() -> list[Row]:
    """All rows, in the order of the table."""
    resnet, bert = partial(torchvision_network, "resnet50"), partial(of_transformers, "BertConfig", "BertModel")
    gpt = partial(of_transformers, "GPT2Config", "GPT2LMHeadModel", TOKENS, **GPT2)
    decoder = partial(of_transformers, "LlamaConfig", "LlamaForCausalLM", SHORT, **DECODER)
    text, big = f"{TOKENS} tokens", {"tile.rows": 512, "tile.columns": 512}
    diagonal = {"tile.groups": "diagonal"}
    place = f"{SIZE} x {SIZE}, batch {BATCH}"
    grouped, depth = aim(3, 1.5), aim(6, 3)
    small, large = partial(convolution, 64, 64, 3, 64), partial(convolution, 384, 384, 7, 384)
    cnn = f"MNIST CNN, batch {kernels.CNN_BATCH}"
    return [
        Row("ResNet-50, batch 2", "read", aim((2.0, 1.4), 1.2), resnet),
        Row("ViT-B/16, batch 2", "read", aim((1.5, 1.0), 1.0), partial(torchvision_network, "vit_b_16")),
        Row(f"BERT-base, {text}", "read", aim((1.5, 0.9), 0.9), partial(bert, TOKENS)),
        Row(f"GPT-2 124 M, {text}", "read", aim((1.4, 1.2), 1.0), gpt),
        Row(f"3x3, 64 channels, {place}", "read", aim((2.5, 2.0), 1.3), partial(convolution, 64, 64, 3)),
        Row(f"1x1, 64 to 256 channels, {place}", "read", aim((2.5, 2.0), 1.3), partial(convolution, 64, 256, 1)),
        Row(f"3x3, 128 channels in 4 groups, {place}", "read", grouped, partial(convolution, 128, 128, 3, 4)),
        Row(f"3x3, 128 channels in 32 groups, {place}", "read", grouped, partial(convolution, 128, 128, 3, 32)),
        Row(f"depthwise 3x3, 64 channels, {place}", "read", depth, small),
        Row(f"depthwise 7x7, 384 channels, {place}", "read", depth, large),
        Row("the same 3x3, diagonal placement", "read", depth, small, hardware=diagonal),
        Row("the same 7x7, diagonal placement", "read", depth, large, hardware=diagonal),
        Row("ConvNeXt-tiny, batch 2", "read", aim(3, 2), partial(torchvision_network, "convnext_tiny")),
        Row("MobileNetV3-small, batch 2", "read", aim(8, 4), partial(torchvision_network, "mobilenet_v3_small")),
        Row("linear 512, batch 256", "read", aim((1.5, 0.9), (1.3, 0.8)), partial(linear, 512, 256), 1, hardware=big),
        Row("linear 1024, batch 64", "read", aim((1.5, 0.9), (1.3, 0.8)), partial(linear, 1024, 64), 1, hardware=big),
        Row(cnn, "read", aim(1.35, 1.15), nothing, 1, read=kernels.cnn_read),
        Row(f"{cnn}, {kernels.VOTES} votes", "read", aim(1.3, 1.0), nothing, 1, read=kernels.cnn_votes),
        Row("map ResNet-50", "map", aim(10, 2), resnet),
        Row("map GPT-2 124 M", "map", aim(10, 4), gpt),
        Row("peak of a mapped GPT-2 124 M", "peak", aim(2.5, 2.5), gpt, share=True),
        Row("ResNet-50 on 2 threads and on 1", "threads", aim(0.7, 0.55), resnet),
        Row("map a decoder of 1.1 billion", "map", aim(180, 60), decoder, large=True),
        Row(f"a decoder of 1.1 billion, {SHORT} tokens", "read", aim(3, 1.5), decoder, large=True),
        Row("peak of a mapped decoder of 1.1 billion", "peak", aim(18, 18), decoder, large=True),
    ]


def nothing() -> Subject:
    """Of rows that build their own networks."""
    raise NotImplementedError
