"""The networks of `networks.py`: how each is built, with random weights, and what it is called with.

Those of timm are of their published sizes; those of transformers are too, but where a line says otherwise. None is
downloaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional

Built = tuple[nn.Module, Any]  # a network in evaluation, and its inputs: a tensor or a dict

TIMM = {  # by the name in timm: the size of the pictures
    "resnet18": 224,
    "resnet50": 224,
    "resnext50_32x4d": 224,
    "densenet121": 224,
    "inception_v3": 299,
    "mobilenetv2_100": 224,
    "mobilenetv3_small_100": 224,
    "efficientnet_b0": 224,
    "regnety_002": 224,
    "ghostnet_100": 224,
    "repvgg_a0": 224,
    "hrnet_w18_small": 224,
    "convnext_tiny": 224,
    "vit_small_patch16_224": 224,
    "vit_base_patch16_224": 224,
    "deit_tiny_patch16_224": 224,
    "swin_tiny_patch4_window7_224": 224,
    "pvt_v2_b0": 224,
    "poolformer_s12": 224,
    "mobilevit_xxs": 256,
    "levit_128s": 224,
    "cait_xxs24_224": 224,
    "mixer_s32_224": 224,
    "resmlp_12_224": 224,
    "gmlp_s16_224": 224,
}
RESIDUAL = 0.25  # gain of the last batch norm of a residual branch; at 1, errors grow a hundredfold on the way
TOKENS = 64  # of a text; pictures and texts come in twos


def timm_network(name: str, size: int) -> Built:
    operators_of_torchvision()
    import timm

    return timm.create_model(name).eval(), torch.randn(2, 3, size, size)


@cache
def operators_of_torchvision() -> Any:
    """Declared, so that torchvision can be imported without them: no build for this torch has them on a CPU.

    timm takes transforms of pictures from it, none of which run here. They are there as long as what is returned.
    """
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


class UNet(nn.Module):
    """A network of segmentation: four levels down by pooling and up by transposed convolutions, joined across."""

    def __init__(self, classes: int = 21, width: int = 32) -> None:
        super().__init__()
        sizes = [3, *(width * 2**level for level in range(5))]
        self.down = nn.ModuleList(self.pair(a, b) for a, b in pairwise(sizes))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * b, b, 2, stride=2) for b in sizes[4:0:-1])
        self.join = nn.ModuleList(self.pair(2 * b, b) for b in sizes[4:0:-1])
        self.head = nn.Conv2d(width, classes, 1)

    @staticmethod
    def pair(inputs: int, outputs: int) -> nn.Module:
        both = [(inputs, outputs), (outputs, outputs)]
        return nn.Sequential(
            *(m for a, b in both for m in (nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = []
        for level, down in enumerate(self.down):
            x = down(x if not level else functional.max_pool2d(x, 2))
            seen.append(x)
        for up, join, across in zip(self.up, self.join, seen[3::-1], strict=True):
            x = join(torch.cat([across, up(x)], 1))
        logits: torch.Tensor = self.head(x)
        return logits


def hugging(config: str, model: str, inputs: Callable[[Any], dict[str, Any]], **changes: Any) -> Built:
    """A network of transformers, of a configuration with some fields changed."""
    import transformers

    made = getattr(transformers, config)(**changes)
    return getattr(transformers, model)(made).eval(), inputs(made)


def words(config: Any) -> dict[str, Any]:
    return {"input_ids": torch.randint(5, config.vocab_size, (2, TOKENS))}


def both_sides(config: Any) -> dict[str, Any]:
    return {**words(config), "decoder_input_ids": torch.randint(5, config.vocab_size, (2, 16))}


def sound(config: Any) -> dict[str, Any]:
    return {"input_values": torch.randn(2, 8000)}


def spectrum(config: Any) -> dict[str, Any]:
    steps = 2 * config.max_source_positions
    tokens = torch.randint(5, config.vocab_size, (2, 16))
    return {"input_features": torch.randn(2, config.num_mel_bins, steps), "decoder_input_ids": tokens}


def picture_and_words(config: Any) -> dict[str, Any]:
    size = config.vision_config.image_size
    return {
        "input_ids": torch.randint(5, config.text_config.vocab_size, (2, 16)),
        "pixel_values": torch.randn(2, 3, size, size),
    }


SMALL = {"vocab_size": 8000, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 4}
SMALL |= {"num_attention_heads": 8, "num_key_value_heads": 4}
NETWORKS: dict[str, Callable[[], Built]] = {
    **{f"timm {name}": partial(timm_network, name, size) for name, size in TIMM.items()},
    "U-Net, 4 levels": lambda: (UNet().eval(), torch.randn(2, 3, 128, 128)),
    "torch.nn.Transformer": lambda: (
        nn.Transformer(256, 8, 3, 3, 1024, batch_first=True).eval(),
        {"src": torch.randn(2, TOKENS, 256), "tgt": torch.randn(2, 16, 256)},
    ),
    "BERT base": partial(hugging, "BertConfig", "BertModel", words),
    "DistilBERT base": partial(hugging, "DistilBertConfig", "DistilBertModel", words),
    "GPT-2 124 M": partial(hugging, "GPT2Config", "GPT2LMHeadModel", words),
    "Llama, 4 layers of 512": partial(hugging, "LlamaConfig", "LlamaForCausalLM", words, **SMALL),
    "Mixtral, 4 layers of 512, 8 experts": partial(
        hugging, "MixtralConfig", "MixtralForCausalLM", words, **SMALL, num_local_experts=8
    ),
    "T5 small": partial(hugging, "T5Config", "T5ForConditionalGeneration", both_sides),
    "Whisper tiny": partial(
        hugging,
        "WhisperConfig",
        "WhisperForConditionalGeneration",
        spectrum,
        d_model=384,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=1536,
        decoder_ffn_dim=1536,
        max_source_positions=500,  # 10 s of sound, where the published one takes 30
    ),
    "wav2vec2, 4 of 12 layers": partial(hugging, "Wav2Vec2Config", "Wav2Vec2ForCTC", sound, num_hidden_layers=4),
    "CLIP ViT-B/32": partial(hugging, "CLIPConfig", "CLIPModel", picture_and_words),
    "Mamba, 8 of 24 layers of 768": partial(
        hugging, "MambaConfig", "MambaForCausalLM", words, num_hidden_layers=8, vocab_size=8000
    ),
}


def built(name: str) -> Built:
    """The network of a name: the same weights and inputs each time."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages
        network, inputs = NETWORKS[name]()
        settled(network, inputs)
    return network, inputs


@torch.no_grad()
def settled(network: nn.Module, inputs: Any) -> None:
    """Give what a training would: no matrix and no gain of zeros, as some begin, and statistics of the batch norms."""
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        if norm.affine and not norm.weight.any():  # as residual branches begin
            nn.init.constant_(norm.weight, RESIDUAL)
        norm.momentum = 1.0
        norm.train()
    if norms:
        network(**inputs) if isinstance(inputs, dict) else network(inputs)
    network.eval()
