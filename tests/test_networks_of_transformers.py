"""Networks of transformers and timm, small and random, go through `mho.map` as they are: see docs/mapping.md."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import hardware, ideal

import mho

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 31,
    "max_position_embeddings": 32,
}
MORE = {"num_key_value_heads": 2, "use_cache": False}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}

NETWORKS: dict[str, tuple[str, str, dict[str, Any], float]] = {
    "bert": ("BertModel", "BertConfig", SIZES, 0.77),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {
            "n_embd": 16,
            "n_layer": 2,
            "n_head": 2,
            "vocab_size": 31,
            "n_positions": 32,
            "use_cache": False,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
        0.91,
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", SIZES | MORE, 0.89),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 24,
            "num_layers": 2,
            "num_heads": 2,
            "vocab_size": 31,
            "decoder_start_token_id": 0,
            "use_cache": False,
        },
        0.96,
    ),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", SIZES | MORE | EXPERTS, 0.95),
    "gpt-oss": (
        "GptOssForCausalLM",
        "GptOssConfig",
        SIZES
        | MORE
        | EXPERTS
        | {
            "head_dim": 8,
            "layer_types": ["full_attention"] * 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        0.91,
    ),
}


def logits(output: Any) -> torch.Tensor:
    """The first tensor, or that called logits."""
    found = output["logits"] if "logits" in output else output[0]
    assert isinstance(found, torch.Tensor)
    return found


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:layer .* the model chooses its rows by their values")
def test_networks_of_transformers(tmp_path: Path, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
        kind, config, options, share = NETWORKS[name]
        torch.manual_seed(0)
        net = getattr(transformers, kind)(getattr(transformers, config)(**options)).eval()
    generator = torch.Generator().manual_seed(0)
    batch = {"input_ids": torch.randint(0, 31, (4, 7), generator=generator)}
    if name == "t5":
        batch["decoder_input_ids"] = torch.randint(0, 31, (4, 5), generator=generator)
    chip = mho.map(net, ideal(), check=batch)
    with torch.no_grad():
        want = logits(net(**batch))
    assert float((logits(chip(**batch)) - want).norm() / want.norm()) < 1e-5
    assert chip.cover.on_tiles / chip.cover.parameters > share
    if name == "mixtral":
        assert {f"model.layers.1.mlp.experts.down_proj_layers.{k}" for k in range(4)} < set(chip.layers)
    noisy = mho.map(net, hardware(), calibrate=batch)
    whole = logits(noisy.read(read=0, named=batch))
    noisy.save(tmp_path / "chip")
    again = mho.load(tmp_path / "chip", model=net)
    assert torch.equal(logits(again.read(read=0, named=batch)), whole)
    if name in ("bert", "gpt2", "llama"):
        parts = [{"input_ids": ids} for ids in batch["input_ids"].split(2)]
        reads = [logits(noisy.read(read=0, named=part, first_sample=2 * k)) for k, part in enumerate(parts)]
        assert torch.allclose(torch.cat(reads), whole, atol=1e-5)


PICTURES = {
    "vit_tiny_patch16_224": ({"img_size": 32, "depth": 2}, 32, 0.99),
    "swin_tiny_patch4_window7_224": (
        {"img_size": 56, "depths": (2, 2), "num_heads": (3, 6), "embed_dim": 24},
        56,
        0.94,
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_networks_of_timm(tmp_path: Path, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timm = pytest.importorskip("timm")
    options, size, share = PICTURES[name]
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=5, **options).eval()
    given = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    chip = mho.map(net, ideal(), check=given)
    with torch.no_grad():
        want = net(given)
    assert float((chip(given) - want).norm() / want.norm()) < 1e-5
    assert chip.cover.on_tiles / chip.cover.parameters > share
    noisy = mho.map(net, hardware(), calibrate=given)
    whole = noisy.read(given, read=0)
    parts = noisy.read(given[:2], read=0), noisy.read(given[2:], read=0, first_sample=2)
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)
    noisy.save(tmp_path / "chip")
    assert torch.equal(mho.load(tmp_path / "chip", model=net).read(given, read=0), whole)
