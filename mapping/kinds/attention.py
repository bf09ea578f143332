"""Multi-head attention as four linear layers, which then go onto tiles like any other, and products between them.

The expander `attention` puts an `Attention` in the place of an nn.MultiheadAttention. It is called like that, and never
takes torch's fused kernels, which would read weights past the layers that hold them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..layers import TileLayer
from ..parameters import TileParameter
from ..session import Session
from .expander import EXPANDERS, Expander

PROJECTIONS = ("q_proj", "k_proj", "v_proj")
Mask = torch.Tensor | None


class Attention(nn.Module):
    """softmax(q k^T / sqrt(size of a head) + masks) v, called like nn.MultiheadAttention (dropout is off).

    `q_proj`, `k_proj`, `v_proj` and `out_proj` are linear layers. They read (samples, steps, features) whatever
    `batch_first` is.
    """

    bias_k: nn.Parameter | None
    bias_v: nn.Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kdim: int,
        vdim: int,
        biases: list[bool],
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        batch_first: bool = False,
    ) -> None:
        """`biases` says which of the four layers have one."""
        super().__init__()
        sizes = {"embed_dim": embed_dim, "num_heads": num_heads, "kdim": kdim, "vdim": vdim}
        flags = {"add_bias_kv": add_bias_kv, "add_zero_attn": add_zero_attn, "batch_first": batch_first}
        self.config = {**sizes, "biases": list(biases), **flags}
        vars(self).update(sizes, add_zero_attn=add_zero_attn, batch_first=batch_first)
        self.embed_dim, self.num_heads, self.batch_first = embed_dim, num_heads, batch_first
        self.head_dim = embed_dim // num_heads
        self.between = 0.0  # dropout of the attention weights, in training
        self._qkv_same_embed_dim = kdim == vdim == embed_dim
        for name, size, bias in zip(
            (*PROJECTIONS, "out_proj"), (embed_dim, kdim, vdim, embed_dim), biases, strict=True
        ):
            self.add_module(name, nn.utils.skip_init(nn.Linear, size, embed_dim, bias, device=_device()))
        for name in ("bias_k", "bias_v"):
            made = nn.Parameter(torch.empty(1, 1, embed_dim, device=_device()), False) if add_bias_kv else None
            self.register_parameter(name, made)

    def __getattr__(self, name: str) -> Any:
        if name in ("in_proj_weight", "in_proj_bias") and "config" in vars(self):
            return self._joint(name.removeprefix("in_proj_"))
        if name.endswith("_proj_weight") and name.removesuffix("_weight") in PROJECTIONS:  # of layers of other sizes
            return None if self._qkv_same_embed_dim else self.get_submodule(name.removesuffix("_weight")).weight
        return super().__getattr__(name)

    def _joint(self, kind: str) -> Any:
        """The weights or biases of the three projections, as nn.MultiheadAttention keeps them."""
        parts: list[Any] = [getattr(self.get_submodule(name), kind) for name in PROJECTIONS]
        if parts[0] is None or (kind == "weight" and not self._qkv_same_embed_dim):
            return None
        tiles = [layer for layer in self.children() if isinstance(layer, TileLayer)]
        if not any(isinstance(part, TileParameter) for part in parts):
            return torch.cat(parts)
        shape = (3 * self.embed_dim, *parts[0].shape[1:])
        return TileParameter(_Joint(self, tiles[0]), kind, shape, parts[0].dtype)

    def forward(  # as torch names them
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: Mask = None,
        need_weights: bool = True,
        attn_mask: Mask = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        batched = self._check(query, key, value)
        if is_causal and attn_mask is None:
            raise RuntimeError("attention: is_causal is a hint and needs attn_mask")
        if not batched:
            query, key, value = (x[None] for x in (query, key, value))
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        parts = zip(PROJECTIONS, (query, key, value), strict=True)
        q, k, v = (self._heads(self.get_submodule(name)(x)) for name, x in parts)
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (
                torch.cat([x, self._heads(b[0].expand(1, -1, -1)).expand(len(x), -1, -1, -1)], dim=2)
                for x, b in ((k, self.bias_k), (v, self.bias_v))
            )
        if self.add_zero_attn:
            k, v = (torch.cat([x, torch.zeros_like(x[:, :, :1])], dim=2) for x in (k, v))
        hinted = is_causal and key_padding_mask is None and not need_weights  # then torch does not look at the mask
        mask = None if hinted else self._mask(q, k, attn_mask, key_padding_mask, batched)
        weights = None
        dropout = self.between if self.training else 0.0
        if need_weights:
            scores = (q * math.sqrt(1 / q.shape[-1])) @ k.transpose(2, 3)
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            mixed = (functional.dropout(weights, dropout) if dropout else weights) @ v
            weights = weights.mean(dim=1) if average_attn_weights else weights
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=hinted)
        y = self.get_submodule("out_proj")(mixed.transpose(1, 2).flatten(2))
        if not batched:
            return y[0], None if weights is None else weights[0]
        return y if self.batch_first else y.transpose(0, 1), weights

    def _check(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
        """Whether the inputs have samples.

        Raises:
            ValueError: they do not go together.
        """
        shapes = [tuple(x.shape) for x in (query, key, value)]
        if len({len(shape) for shape in shapes}) > 1 or query.ndim not in (2, 3) or shapes[1][:-1] != shapes[2][:-1]:
            raise ValueError(
                "attention takes query, key and value of 2 or 3 dimensions each, key and value with as many steps; "
                f"got {', '.join(map(str, shapes))}"
            )
        return query.ndim == 3

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """(samples, heads, steps, size of a head) of the (samples, steps, features) that a projection gave."""
        return x.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _mask(self, q: torch.Tensor, k: torch.Tensor, attn_mask: Mask, padding: Mask, batched: bool) -> Mask:
        """What is added to scores (samples, heads, steps, keys), in a shape that broadcasts to theirs.

        Raises:
            ValueError: a mask of another shape.
        """
        more = int(self.bias_k is not None) + int(self.add_zero_attn)  # keys that no mask knows of
        samples, heads, steps, keys = *q.shape[:3], k.shape[2] - more
        found: Mask = None
        wanted: dict[tuple[int, ...], Any] = {(steps, keys): (1, 1), (samples * heads, steps, keys): (samples, heads)}
        padded: dict[tuple[int, ...], Any] = {(samples, keys) if batched else (keys,): (samples, 1, 1)}
        for name, mask, shapes in (
            ("attn_mask", attn_mask, wanted),
            ("key_padding_mask", padding, padded),
        ):
            if mask is None:
                continue
            leading, known = shapes.get(tuple(mask.shape)), mask.dtype == torch.bool or mask.is_floating_point()
            if leading is None or not known:
                raise ValueError(
                    f"attention: {name} must have the shape {' or '.join(map(str, shapes))} and be bool or "
                    f"floating-point, got {tuple(mask.shape)} and {mask.dtype}"
                )
            if mask.dtype == torch.bool:
                mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(mask, -math.inf)
            ends = (steps, keys) if name == "attn_mask" else (keys,)
            mask = functional.pad(mask.reshape(*leading, *ends), (0, more))
            found = mask if found is None else found + mask
        return found


class _Joint:
    """Three layers as the one that holds a `TileParameter`."""

    def __init__(self, attention: Attention, layer: TileLayer) -> None:
        self.attention, self.name = attention, layer.name.rpartition(".")[0]
        self.session: Session = layer.session

    def stored(self, kind: str) -> torch.Tensor:
        layers = [self.attention.get_submodule(name) for name in PROJECTIONS]
        return torch.cat([x.stored(kind) if isinstance(x, TileLayer) else getattr(x, kind) for x in layers])


def _device() -> torch.device:
    return torch.get_default_device()


@EXPANDERS.register("attention")
class MultiheadAttention(Expander):
    """nn.MultiheadAttention, with its projections in one matrix or in three."""

    modules = (nn.MultiheadAttention,)
    holds = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias", "out_proj")
    makes = (Attention,)
    reason = "its projections are on tiles; softmax and the products of queries, keys and values stay digital"

    @classmethod
    def tensors(cls, module: Any) -> dict[str, Any]:
        names = (*cls.holds[:5], "bias_k", "bias_v")
        out = {f"out_proj.{kind}": getattr(module.out_proj, kind) for kind in ("weight", "bias")}
        return {name: getattr(module, name) for name in names} | out

    @classmethod
    def parts(cls, tensors: Mapping[str, torch.Tensor]) -> list[tuple[torch.Tensor, Any]]:
        """Weight and bias of the four layers, of the tensors of torch's module."""
        joint, bias = tensors.get("in_proj_weight"), tensors.get("in_proj_bias")
        weights = [tensors[f"{name}_weight"] for name in PROJECTIONS] if joint is None else [*joint.chunk(3)]
        biases: list[Any] = [None] * 3 if bias is None else [*bias.chunk(3)]
        return [*zip(weights, biases, strict=True), (tensors["out_proj.weight"], tensors.get("out_proj.bias"))]

    @classmethod
    def expand(cls, module: Any, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
        kv, parts = "bias_k" in tensors, cls.parts(tensors)
        weights, biases = [weight for weight, _ in parts], [bias for _, bias in parts]
        sizes = module.embed_dim, module.num_heads, weights[1].shape[1], weights[2].shape[1]
        given = [b is not None for b in biases]
        made = Attention(*sizes, given, kv, module.add_zero_attn, module.batch_first)
        for name, weight, b in zip((*PROJECTIONS, "out_proj"), weights, biases, strict=True):
            layer: Any = made.get_submodule(name)
            layer.weight, layer.bias = _kept(weight), None if b is None else _kept(b)
        for name in ("bias_k", "bias_v") if kv else ():
            setattr(made, name, _kept(tensors[name]))
        made.dropout = module.dropout
        return made.eval()


def _kept(value: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone(), requires_grad=False)
