"""What is read once for several inferences: the outputs of layers that come before those that are read again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from difflib import get_close_matches

import torch

from .errors import MappingError
from .trace import Call, downstream

__all__ = ["Held", "checked_layers"]


def checked_layers(known: Collection[str], layers: str | Sequence[str]) -> tuple[str, ...]:
    """Names of layers on tiles, each once; `known` are those that a chip has.

    Raises:
        ValueError: none, or a name that no layer on tiles has, or no names at all.
    """
    if not isinstance(layers, Iterable):
        raise ValueError(f"layers must be names of layers on tiles, as {list(known)[-1:]}, got {layers!r}")
    names = tuple(dict.fromkeys([layers] if isinstance(layers, str) else layers))
    if not names:
        raise ValueError("layers must name at least one layer on tiles, got none; leave it out to read all of them")
    for name in names:
        if name not in known:
            near = get_close_matches(str(name), list(known), 3, 0.4) or list(known)[-3:]
            raise ValueError(f"layers: {name!r} is no layer on tiles of this chip; some are {', '.join(near)}")
    return names


class Held:
    """The first inference of a batch, whose outputs stand for later ones but where `layers` are read again.

    What comes after these layers is read again as well, as its inputs are others. The graph of the model says which
    calls that are, not the values, so that a result does not depend on the other samples of its batch.
    """

    def __init__(self, layers: Sequence[str]) -> None:
        self.layers = layers
        self.again: set[tuple[str, int]] | None = None  # calls by layer and number; known after the first inference
        self._kept: dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def first_is_over(self, calls: Sequence[Call]) -> None:
        """Keep of the first inference, which made these calls, what is not read again.

        Raises:
            MappingError: one of the layers took no part in it.
        """
        numbers: dict[str, int] = {}
        self.again = set()
        for call, again in zip(calls, downstream(calls, self.layers), strict=True):
            if call.digital:
                continue
            number = numbers.get(call.layer, 0)
            numbers[call.layer] = number + 1
            if again:
                self.again.add((call.layer, number))
        for name in self.layers:
            if name not in numbers:
                raise MappingError(f"layers: {name!r} took no part in the inference")
        for key in self.again:
            self._kept.pop(key, None)

    def output_of(self, layer: str, call: int, x: torch.Tensor, read: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What a call of a layer gives for x: that of the first inference, or what `read` gives.

        Raises:
            MappingError: x is not that of the first inference, though no layer that is read again comes before it.
        """
        key = layer, call
        if self.again is None:
            output = read()
            self._kept[key] = x.detach().clone(), output.detach().clone()  # the model may write to the one that it gets
            return output
        if key not in self._kept:
            return read()
        given, output = self._kept[key]
        if not _same(given, x):
            raise MappingError(
                f"layer {layer!r}: its input differs from one inference to the next, and none of the layers "
                f"{', '.join(self.layers)} comes before it (the model draws random numbers, or keeps a state); leave "
                "layers out"
            )
        return output.clone()


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether all bits are alike, those of NaN too."""
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(_bytes(a), _bytes(b))


def _bytes(x: torch.Tensor) -> torch.Tensor:
    return x.detach().contiguous().reshape(-1).view(torch.uint8)
