"""How torch saves, loads, moves and casts a layer that is trained: its ranges are no part of what is saved."""

from __future__ import annotations

from typing import Any

from torch import nn

from .learned import LEARNED


class Kept(nn.Module):
    """A module whose buffers are ranges: they move with it and stay float32, and its state dict has none of them."""

    def _apply(self, fn: Any, *more: Any, **named: Any) -> Any:
        before = {own: value for own, value in self._buffers.items() if value is not None}
        super()._apply(fn, *more, **named)
        for own, value in before.items():
            moved = self._buffers[own]
            assert moved is not None
            self._buffers[own] = value.to(moved.device)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for learned in LEARNED:  # as in the plain network, which has no ranges
            destination.pop(f"{prefix}{learned}", None)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *more: Any) -> None:
        held = {learned: self._parameters.pop(learned) for learned in LEARNED}
        super()._load_from_state_dict(state_dict, prefix, *more)
        self._parameters.update(held)
