"""Small models with inputs and outputs as people have them: texts, masks, several results, pictures, numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Output:
    """As Hugging Face's outputs are: scores, and perhaps a loss and states."""

    logits: torch.Tensor
    loss: torch.Tensor | None = None
    hidden: tuple[torch.Tensor, ...] = ()
    cache: tuple[torch.Tensor, torch.Tensor] | None = None


class LanguageModel(nn.Module):
    """A causal transformer layer without positions, so that padding in front changes nothing but its noise."""

    def __init__(self, words: int = 11, size: int = 8, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.words, self.qkv, self.out = nn.Embedding(words, size), nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.head = nn.Linear(size, words)

    def forward(self, input_ids, attention_mask=None, labels=None, cache=None):
        x = self.words(input_ids)
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        if cache is not None:
            key, value = torch.cat([cache[0], key], 1), torch.cat([cache[1], value], 1)
        steps, seen = x.shape[1], key.shape[1]
        allowed = torch.ones(steps, seen).tril(seen - steps).bool()
        if attention_mask is not None:
            allowed = allowed & attention_mask[:, None].bool()
            allowed = allowed | torch.ones(steps, seen).tril(seen - steps).triu(seen - steps).bool()  # padding: itself
        x = x + self.out(nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed))
        logits = self.head(x)
        loss = None if labels is None else nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Output(logits, loss, (x,), (key, value))

    @torch.no_grad()
    def generate(self, input_ids, attention_mask=None, tokens=5, use_cache=True, sample=False):
        ids, mask, cache = input_ids, attention_mask, None
        for _ in range(tokens):
            found = self(ids[:, -1:] if cache else ids, attention_mask=mask, cache=cache)
            odds = found.logits[:, -1].softmax(-1)
            ids = torch.cat([ids, torch.multinomial(odds, 1) if sample else odds.argmax(-1, keepdim=True)], 1)
            mask = None if mask is None else torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            cache = found.cache if use_cache else None
        return ids


def texts(count: int = 6, tokens: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, 11, (count, tokens), generator=torch.Generator().manual_seed(seed))


def padded(texts: torch.Tensor, pads: list[int], *, front: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts without their first tokens, so many of each, and padding in their place, in front or behind; the mask."""
    ids, mask = torch.zeros_like(texts), torch.zeros_like(texts)
    for row, (text, pad) in enumerate(zip(texts, pads, strict=True)):
        places = slice(pad, None) if front else slice(0, len(text) - pad)
        ids[row, places], mask[row, places] = text[pad:], 1
    return ids, mask


class Segmenter(nn.Module):
    """Pictures (n, 3, rows, columns) to a class of three for each pixel, in a dict."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))

    def forward(self, x):
        return {"out": self.net(x), "aux": x}


class Regression(nn.Module):
    """Two inputs, by name, to two numbers, the second thing that it returns."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right, self.head = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, a, b):
        x = torch.relu(self.left(a) + self.right(b))
        return x, self.head(x)
