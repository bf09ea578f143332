"""Modules whose matrix products torch makes out of sight, computed so that noise falls on each: see `mho.noisy`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from ..mapping.kinds.recurrent import CELLS, PARTS, WHOLE, Recurrent, RecurrentLayers, Step

Noisy = Callable[[torch.Tensor, str], torch.Tensor]  # an output, and the name of what made it within the module
HIDDEN = (*WHOLE, *CELLS, nn.MultiheadAttention)


def parts_of(module: nn.Module) -> list[str]:
    """Names, within the module, of the matrices that are computed out of sight.

    Raises:
        ValueError: it cannot be computed step by step.
    """
    if isinstance(module, nn.MultiheadAttention):
        return ["in_proj", "out_proj"]
    return [name for name, part in _steps(module).named_modules() if type(part) is nn.Linear]


def forward_of(module: nn.Module, noisy: Noisy) -> Callable[..., Any]:
    """What takes the place of the module's forward: the same, with `noisy` around the output of each matrix.

    Gradients reach the weights of the module, which are taken as they are at each call.
    """
    return _Attention(module, noisy) if isinstance(module, nn.MultiheadAttention) else _Recurrence(module, noisy)


class _Recurrence:
    """A recurrent layer or cell, step by step: the four gates of a step are one product, as in `mho.map`."""

    def __init__(self, module: Any, noisy: Noisy) -> None:
        self.module, self.noisy = module, noisy
        self.steps = _steps(module)
        for name, part in self.steps.named_modules():
            if type(part) is nn.Linear:
                part.register_forward_hook(_Around(noisy, name))

    def __call__(self, *args: Any, **named: Any) -> Any:
        module = self.module
        if module.training and getattr(module, "dropout", 0) and module.num_layers > 1:
            raise ValueError(
                f"mho.noisy: the dropout {module.dropout:g} between layers of a {type(module).__name__} in training "
                "is not computed step by step; set it to 0 or exclude the layer"
            )
        return functional_call(self.steps, _weights(module, self.steps), args, named)


class _Around:
    """A hook that puts noise on an output."""

    def __init__(self, noisy: Noisy, name: str) -> None:
        self.noisy, self.name = noisy, name

    def __call__(self, module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        return self.noisy(output, self.name)


def _steps(module: Any) -> Recurrent | Step:
    made = RecurrentLayers.expand(module, _tensors(module))
    assert isinstance(made, Recurrent | Step)
    return made.to(next(module.parameters()))


def _tensors(module: Any) -> dict[str, torch.Tensor]:
    found = RecurrentLayers.tensors(module)
    return {name: value for name, value in found.items() if value is not None}


def _weights(module: Any, steps: Recurrent | Step) -> dict[str, torch.Tensor]:
    """The weights of the linear layers in `steps`, made of those of the module, in their graph."""
    tensors = _tensors(module)
    if isinstance(steps, Step):
        return _of_step(steps, [tensors.get(part) for part in PARTS])
    found: dict[str, torch.Tensor] = {}
    for suffix in (suffix for names in steps.suffixes for suffix in names):
        own = _of_step(steps.step(suffix), [tensors.get(f"{part}_{suffix}") for part in PARTS])
        found |= {f"{suffix}.{name}": value for name, value in own.items()}
    return found


def _of_step(step: Step, weights: list[Any]) -> dict[str, torch.Tensor]:
    """As `Step.take` lays them out."""
    w_ih, w_hh, b_ih, b_hh, w_hr = weights
    found: dict[str, Any] = {}
    if step.gate_count == 3:  # of a GRU, whose candidate is two products
        gates = 2 * w_hh.shape[1]
        found = {"candidate_input.weight": w_ih[gates:], "candidate_hidden.weight": w_hh[gates:]}
        if b_ih is not None:
            found |= {"candidate_input.bias": b_ih[gates:], "candidate_hidden.bias": b_hh[gates:]}
            b_ih, b_hh = b_ih[:gates], b_hh[:gates]
        w_ih, w_hh = w_ih[:gates], w_hh[:gates]
    found[f"{step.joint_name}.weight"] = torch.cat([w_ih, w_hh], dim=1)
    if b_ih is not None:
        found[f"{step.joint_name}.bias"] = b_ih + b_hh
    if w_hr is not None:
        found["projection.weight"] = w_hr
    return found


class _Attention:
    """Attention with noise on its projections; products of queries, keys and values among themselves have none."""

    def __init__(self, module: Any, noisy: Noisy) -> None:
        self.module, self.noisy = module, noisy

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        module, turned = self.module, self.module.batch_first and query.dim() == 3
        projected = self._projected(query, key, value)
        queries, keys, values = (x.transpose(0, 1) if turned else x for x in projected)
        same = torch.eye(module.embed_dim, dtype=query.dtype, device=query.device)
        attended, weights = functional.multi_head_attention_forward(
            queries,
            keys,
            values,
            module.embed_dim,
            module.num_heads,
            None,  # in_proj_weight: all projections are done, and those here change nothing
            None,
            module.bias_k,
            module.bias_v,
            module.add_zero_attn,
            module.dropout,
            same,
            None,
            training=module.training,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            use_separate_proj_weight=True,
            q_proj_weight=same,
            k_proj_weight=same,
            v_proj_weight=same,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )
        attended = attended.transpose(0, 1) if turned else attended
        out = functional.linear(attended, module.out_proj.weight, module.out_proj.bias)
        return self.noisy(out, "out_proj"), weights

    def _projected(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        """Queries, keys and values. Where all come from one tensor by one matrix, they are one product."""
        module = self.module
        query, key, value = inputs
        if module._qkv_same_embed_dim and query is key and key is value:
            made = functional.linear(query, module.in_proj_weight, module.in_proj_bias)
            return list(self.noisy(made, "in_proj").chunk(3, dim=-1))
        if module._qkv_same_embed_dim:
            weights = module.in_proj_weight.chunk(3)
        else:
            weights = module.q_proj_weight, module.k_proj_weight, module.v_proj_weight
        biases = [None] * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
        pairs = zip(inputs, weights, biases, strict=True)
        return [self.noisy(functional.linear(x, w, b), "in_proj") for x, w, b in pairs]
