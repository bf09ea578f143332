"""Where texts that are padded in front begin, so that their tokens are numbered as those of one alone."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any, NamedTuple

import torch
from torch import nn

MASK = "attention_mask"  # of an input (samples, tokens): 1 for a token, 0 for padding


class Padding(NamedTuple):
    """How many of so many `steps` each sample has before its first token."""

    steps: int
    ahead: tuple[int, ...]


def padding_of(model: nn.Module, given: Any, samples: int) -> Padding | None:
    """The padding in front of so many samples, as the mask among inputs (args, kwargs) says; None where there is none.

    Padding behind the tokens changes the number of none, and is not looked at.
    """
    mask = mask_in(model, given)
    if mask is None or mask.ndim != 2 or len(mask) != samples or mask.shape[1] < 2:
        return None
    there = mask.detach().to("cpu") != 0
    if bool(there[:, 0].all()):
        return None
    first = there.int().argmax(dim=1)  # 0 where there is no token
    return Padding(mask.shape[1], tuple(first.tolist())) if bool(first.any()) else None


def mask_in(model: Any, given: Any) -> torch.Tensor | None:
    """The input of a model that says which tokens are padding, by its name, if it has one and it holds 0 and 1."""
    args, kwargs = given
    found = kwargs.get(MASK)
    if found is None and args:
        with contextlib.suppress(
            AttributeError, TypeError, ValueError
        ):  # a forward without a signature, or with another one
            found = inspect.signature(model.forward).bind(*args, **kwargs).arguments.get(MASK)
    if not isinstance(found, torch.Tensor) or found.is_complex() or found.layout != torch.strided:
        return None
    return found if bool(((found == 0) | (found == 1)).all()) else None  # what is added to scores is another mask
