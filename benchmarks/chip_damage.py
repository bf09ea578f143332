"""What becomes of the parts of a saved chip in the hands of `fuzz_chips.py`: bytes, fields of its text, tensors."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

import torch

ODD: list[Any] = [
    *(-1, 0, 1, 2, 3, 7, 255, 10**6, 2**31 - 1, 2**31, 2**53, 2**63, 2**70, 10**30, -(2**63)),
    *(0.0, -0.0, 0.5, 1.5, -1.0, 1e-320, 1e-45, 1e-9, 1e30, 1e308, math.inf, -math.inf, math.nan),
    *(True, False, None, "", "0", "x", "a.b", "1 uS", "\x00", "\ud800", "x" * 5000),
    *([], [0], [1, 1, 1], [[]], {}, {"a": 1}, {"node": "x"}, {"tuple": [1, 2]}, {"dtype": "float64"}, [0] * 5000),
]


def change_bytes(content: bytes, chance: random.Random) -> bytes:
    """Some bytes flipped, overwritten, cut off, cut out, put in or swapped; now and then several times."""
    spoiled = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        where = chance.randrange(max(1, min(len(spoiled), chance.choice((len(spoiled), 300, 3000)))))
        many = chance.choice((1, 1, 2, 8, 100))
        noise = chance.randbytes(many)
        kind = chance.choice(("flip", "write", "write zeros", "cut off", "cut out", "put in", "append", "swap"))
        if kind == "flip" and spoiled:
            spoiled[where] ^= 1 << chance.randrange(8)
        elif kind in ("write", "write zeros"):
            spoiled[where : where + many] = noise if kind == "write" else bytes(many)
        elif kind == "cut off":
            del spoiled[where:]
        elif kind == "cut out":
            del spoiled[where : where + many]
        elif kind == "put in":
            spoiled[where:where] = noise
        elif kind == "append":
            spoiled += noise
        else:
            other = chance.randrange(max(1, len(spoiled)))
            one, two = bytes(spoiled[where : where + many]), bytes(spoiled[other : other + many])
            spoiled[where : where + len(two)], spoiled[other : other + len(one)] = two, one
    return bytes(spoiled)


def change_text(text: dict[str, Any], chance: random.Random) -> None:
    """One field, at any depth, becomes something odd, goes, comes twice or changes places."""
    parts = [text[key] for key in ("layers", "structure", "hardware", "trace") if key in text]
    node: Any = chance.choice([text, *(part for part in parts if isinstance(part, (dict, list)) and part)])
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = chance.choice(keys)
        inner = node[key]
        if not (isinstance(inner, (dict, list)) and inner) or chance.random() < 0.1:
            break
        node = inner
    kind = chance.choice(("odd", "odd", "odd", "near", "delete", "twice", "swap", "deep", "rename"))
    if kind == "near" and type(node[key]) in (int, float):
        node[key] = node[key] * chance.choice((-1, 2, 1.5, 1000)) + chance.choice((0, 1, -1))
    elif kind == "delete":
        del node[key]
    elif kind == "twice" and isinstance(node, list):
        node.insert(chance.randrange(len(node) + 1), copy.deepcopy(node[key]))
    elif kind == "swap":
        other = chance.choice(keys)
        node[key], node[other] = node[other], node[key]
    elif kind == "deep":
        for _ in range(chance.choice((10, 200))):
            node[key] = [node[key]]
    elif kind == "rename" and isinstance(node, dict):
        node[chance.choice(("x", "", "0", "__class__", f"{key}.x"))] = node.pop(key)
    else:
        node[key] = copy.deepcopy(chance.choice(ODD))


def change_tensors(tensors: dict[str, torch.Tensor], chance: random.Random) -> None:
    """One tensor gets other numbers, another shape, type or name, goes, or changes places."""
    name = chance.choice(list(tensors))
    value = tensors[name]
    kind = chance.choice(("numbers", "numbers", "numbers", "all", "shape", "type", "rename", "delete", "more", "swap"))
    if kind in ("numbers", "all") and value.numel():
        odd: list[Any] = [0, 1, -1, 2]
        if value.is_floating_point():
            odd += [-torch.finfo(value.dtype).max, torch.finfo(value.dtype).max, math.nan, math.inf, -math.inf, 1e-40]
        elif value.dtype in (torch.int16, torch.int64):
            odd += [torch.iinfo(value.dtype).min, torch.iinfo(value.dtype).max]
        flat = value.reshape(-1)
        flat[chance.randrange(len(flat)) if kind == "numbers" else slice(None)] = chance.choice(odd)
    elif kind == "shape":
        flat = value.reshape(-1)
        turned = value.movedim(0, -1) if value.ndim else flat
        shapes = [flat, value[None], flat[:0], flat[1:], torch.cat([flat, flat]), turned]
        tensors[name] = chance.choice(shapes).clone(memory_format=torch.contiguous_format)
    elif kind == "type":
        kinds = (torch.float64, torch.float16, torch.int64, torch.int8, torch.bool, torch.complex64, torch.int16)
        tensors[name] = value.to(chance.choice(kinds))
    elif kind == "rename":
        tensors[chance.choice(("x", f"{name}.x", f"layer.{name}", "layer.x.weights"))] = tensors.pop(name)
    elif kind == "delete":
        del tensors[name]
    elif kind == "more":
        tensors[chance.choice(("x", f"{name}.x", "digital.x", "layer.0.1.mean"))] = value.clone()
    else:
        other = chance.choice(list(tensors))
        tensors[name], tensors[other] = tensors[other], tensors[name]
