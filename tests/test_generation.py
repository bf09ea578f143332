"""Calls as models have them: outputs of several parts, several reads at once, generated texts, and padded batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from lms import LanguageModel, Output, padded, texts
from torch import nn

import mho
from mho.mapping.errors import MappingError
from mho.mapping.outputs import found_in, joined

NOISY = mho.Hardware.paper(sigma_mult=0.6)
PADS = [0, 3, 1, 2]


@pytest.fixture(scope="module")
def net() -> LanguageModel:
    return LanguageModel().eval()


@pytest.fixture(scope="module")
def chip(net) -> mho.Chip:
    return mho.map(net, NOISY, check=texts())


def test_several_reads_give_the_output_of_one_in_all_its_parts(chip):
    ids = texts(3)
    chip.read(ids, read=0, reads=2)  # without labels there is no loss
    assert not chip.session.one_by_one
    each = [chip.read(read=r, named={"input_ids": ids, "labels": ids}) for r in (4, 5)]
    both = chip.read(read=4, reads=2, named={"input_ids": ids, "labels": ids})
    assert type(both) is Output
    assert torch.equal(both.logits, torch.cat([x.logits for x in each]))
    assert torch.equal(both.hidden[0], torch.cat([x.hidden[0] for x in each]))
    assert torch.equal(both.loss, torch.stack([x.loss for x in each]))  # not one of all reads together


def test_states_of_any_kind_are_those_of_each_read(chip):
    class Cache:
        """An object that the model writes to, as those of Hugging Face are."""

        def __init__(self, parts):
            self.parts = parts

        def __len__(self):
            return len(self.parts)

        def __getitem__(self, number):
            return self.parts[number]

    ids = texts(3)
    known = chip.read(ids, read=0)
    for cache in (known.cache, Cache(known.cache)):
        later = [chip.read(read=r, named={"input_ids": ids[:, -1:], "cache": cache}).logits for r in (1, 2)]
        at_once = chip.read(read=1, reads=2, named={"input_ids": ids[:, -1:], "cache": cache}).logits
        assert torch.equal(at_once, torch.cat(later))


def test_an_input_that_is_no_batch_does_not_keep_reads_from_being_made_at_once():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x, state):
            return self.layer(x) + state[0]

    torch.manual_seed(0)
    x, state = torch.rand(3, 4), torch.rand(2, 3, 4)
    chip = mho.map(Masked().eval(), NOISY, check=(x, state))
    each = [chip.read(x, state, read=r) for r in range(2)]
    assert torch.equal(chip.read(x, state, read=0, reads=2), torch.cat(each))


class Pair(NamedTuple):
    one: torch.Tensor
    two: torch.Tensor


@dataclass(frozen=True)
class Frozen:
    x: torch.Tensor


def test_outputs_of_any_nesting_are_joined():
    x, y = torch.zeros(2, 3), torch.ones(2, 3)
    made = joined([{"a": [v, (v, None)], "b": Pair(v, v), "c": Frozen(v), "d": "text"} for v in (x, y)])
    assert torch.equal(made["a"][1][0], torch.cat([x, y]))
    assert made["a"][1][1] is None
    assert torch.equal(made["b"].two, made["c"].x)
    assert made["d"] == "text"
    with pytest.raises(ValueError, match="differ in their parts"):
        joined([{"a": x}, {"b": y}])
    assert found_in(Pair(x, y), "two") is y
    assert found_in(Pair(x, y), 1) is y
    assert found_in({"logits": y}, None) is y
    assert found_in(Output(x, None, (), (x, y)), 2) == (x, y)  # parts that are there are numbered
    for where in ("three", 2, -3):
        with pytest.raises(ValueError, match="the model returns a Pair with 'one', 'two'"):
            found_in(Pair(x, y), where)


@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_reads_the_chip_once_a_token(net, use_cache):
    chip = mho.map(net, NOISY, check=texts())
    ids = texts(4)
    found = chip.generate(ids, use_cache=use_cache)
    assert found.shape == (4, 10)
    assert chip.calls == 5
    assert torch.equal(chip.generate(ids, use_cache=use_cache, read=0), found)
    assert chip.calls == 5
    assert not torch.equal(chip.generate(ids, use_cache=use_cache, read=5), found)  # the next reads
    tokens, cache = ids, None
    for read in range(5):
        given = {"input_ids": tokens[:, -1:] if cache else tokens, "cache": cache}
        output = chip.read(read=read, named=given)
        tokens = torch.cat([tokens, output.logits[:, -1].argmax(-1, keepdim=True)], 1)
        cache = output.cache if use_cache else None
    assert torch.equal(tokens, found)
    other = torch.cat([chip.generate(x[None], use_cache=use_cache, read=0, first_sample=n) for n, x in enumerate(ids)])
    assert torch.equal(other, found)


def test_an_ideal_chip_generates_what_the_network_does(net):
    ideal = mho.map(net, mho.Hardware.preset("ideal"))
    assert torch.equal(ideal.generate(texts()), net.generate(texts()))
    torch.manual_seed(3)
    wanted = net.generate(texts(), sample=True)
    torch.manual_seed(3)
    assert torch.equal(ideal.generate(texts(), sample=True), wanted)


def test_generation_leaves_the_chip_as_it_was(net):
    chip = mho.map(net, NOISY, check=texts())
    chip(texts(2))
    before, positions = dict(vars(chip.model)), chip.layers["qkv"].positions
    chip.generate(texts(2))
    assert vars(chip.model) == before
    assert chip.layers["qkv"].positions == positions == 5


def test_what_cannot_generate_says_so(net):
    chip = mho.map(nn.Sequential(nn.Linear(4, 2)).eval(), mho.Hardware.preset("ideal"))
    with pytest.raises(MappingError, match="the model, a Sequential, has no method generate"):
        chip.generate(torch.rand(2, 4))
    noisy = mho.map(net, NOISY)
    for name, value in (("read", -1), ("read", 1.0), ("first_sample", True)):
        with pytest.raises(ValueError, match=f"{name} must be a whole number from 0"):
            noisy.generate(texts(2), **{name: value})


@pytest.mark.parametrize("front", [True, False])
@pytest.mark.parametrize("reads", [1, 2])
def test_a_padded_text_has_the_noise_of_one_alone(chip, front, reads):
    whole = texts(4, 6)
    ids, mask = padded(whole, PADS, front=front)
    batch = chip.read(read=3, reads=reads, named={"input_ids": ids, "attention_mask": mask}).logits
    unlike = 0.0
    for n, (text, pad) in enumerate(zip(whole, PADS, strict=True)):
        alone = chip.read(text[None, pad:], read=3, reads=reads, first_sample=n).logits
        places = slice(pad, None) if front else slice(0, 6 - pad)
        found = batch.reshape(reads, 4, 6, -1)[:, n, places]
        assert torch.allclose(found, alone.reshape(reads, 6 - pad, -1), atol=1e-5)
        other = chip.read(ids[n : n + 1], read=3, first_sample=n).logits[0, places]
        unlike = max(unlike, float((other - alone[: len(other)][0]).abs().max()))
    assert (unlike > 0.1) is front  # the negative control: padding in front, and no mask that says so


def test_masks_that_are_added_are_no_padding(chip):
    from mho.mapping.inputs.padding import padding_of

    ids, mask = padded(texts(4, 6), PADS, front=True)
    assert padding_of(chip.model, ((ids, mask), {}), 4).ahead == tuple(PADS)
    for other in (mask.bool(), mask.float()):
        assert padding_of(chip.model, ((), {"input_ids": ids, "attention_mask": other}), 4).ahead == tuple(PADS)
    for none in (torch.ones_like(mask), (1.0 - mask) * -1e9, mask[:3], mask[:, None], mask.flip(1), None):
        assert padding_of(chip.model, ((), {"input_ids": ids, "attention_mask": none}), 4) is None


@pytest.mark.parametrize("options", [{}, {"use_cache": False}])
def test_a_padded_batch_generates_what_each_text_does(chip, options):
    whole = texts(4, 6)
    ids, mask = padded(whole, PADS, front=True)
    found = chip.generate(ids, attention_mask=mask, read=0, **options)
    for n, (text, pad) in enumerate(zip(whole, PADS, strict=True)):
        alone = chip.generate(text[None, pad:], read=0, first_sample=n, **options)
        assert torch.equal(found[n, pad:], alone[0])


def test_hugging_face_generates_on_a_chip():
    transformers = pytest.importorskip("transformers")
    config, model = transformers.LlamaConfig, transformers.LlamaForCausalLM
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    net = model(config(vocab_size=32, pad_token_id=0, eos_token_id=None, bos_token_id=1, **sizes)).eval()
    whole = texts(3, 6)
    ids, mask = padded(whole, [0, 2, 3], front=True)
    chip = mho.map(net, NOISY, check={"input_ids": whole})
    ideal = mho.map(net, mho.Hardware.preset("ideal"))
    ways = [{"do_sample": False}, {"do_sample": False, "num_beams": 2}, {"do_sample": True}]
    for way in ways:
        found = []
        for model, numbers in ((net, {}), (ideal, {}), (chip, {"read": 0}), (chip, {"read": 0}), (chip, {"read": 9})):
            torch.manual_seed(1)
            found.append(model.generate(ids, attention_mask=mask, max_new_tokens=4, **way, **numbers))
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[2], found[3])
        assert not torch.equal(found[2], found[4])
    alone = chip.generate(whole[1:2, 2:], max_new_tokens=4, do_sample=False, read=0, first_sample=1)
    batch = chip.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False, read=0)
    assert torch.equal(batch[1, 2:], alone[0])
    both = chip.read(read=0, reads=2, named={"input_ids": whole, "labels": whole})
    assert both.logits.shape == (6, 6, 32)
    assert both.loss.shape == (2,)
    assert mho.vote(chip, {"input_ids": ids, "attention_mask": mask}, 2).accuracy(ids, next_token=True).answers == 10
