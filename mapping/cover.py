"""How much of a model is on tiles: parameters and multiply-accumulates; and whether the mapping was checked."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch

from .check import Check
from .layers import TileLayer
from .mapped import MappedNetwork
from .parameters import TileParameter
from .quantized import packed_parameters

UNCHECKED = "no inputs were given (calibrate= or check=)"
OFF = "check=False"


@dataclass(frozen=True)
class Cover:
    """What of a model is on tiles.

    Attributes:
        parameters: of the caller's model, each shared one counted once.
        on_tiles: those whose values tiles hold, batch norms that were folded in included.
        digital: parameters that no tile holds, by the name of the part in `Chip.digital` that they are listed under.
        check: what the comparison with the caller's network showed, or why there was none.
    """

    parameters: int
    on_tiles: int
    digital: dict[str, int]
    check: Check | str

    @classmethod
    def of(cls, chip: MappedNetwork, parameters: int | None, held: set[int], check: Check | str) -> Cover:
        """Of a chip, given the number of the caller's parameters and the identities of those on tiles.

        Without the number (a chip that was loaded) those on tiles are the values that the tiles hold.
        """
        tiles = [f"{name}." for name, module in chip.model.named_modules() if isinstance(module, TileLayer)]
        names = {d.name for d in chip.digital}
        counts: dict[str, int] = {}
        if parameters is None:
            held = held | _tied(chip)
        for name, value in chip.model.named_parameters():
            if id(value) not in held and not name.startswith(tuple(tiles)):
                parts = name.split(".")
                ends = (".".join(parts[:k]) for k in range(len(parts), -1, -1))
                owner = next((end for end in ends if end in names), "")
                counts[owner] = counts.get(owner, 0) + value.numel()
        for name, module in chip.model.named_modules():
            if packed := packed_parameters(module):
                counts[name] = counts.get(name, 0) + packed
        digital = sum(counts.values())
        if parameters is None:
            there = [(layer.spec, layer.matrix.bias is not None) for layer in chip.layers.values()]
            parameters = digital + sum(prod(s.weight_shape) + biased * s.out_features for s, biased in there)
        return cls(parameters, parameters - digital, counts, check)


def _tied(chip: MappedNetwork) -> set[int]:
    """Identities of digital parameters that are the weight of a layer on tiles, as an embedding's is of a tied head."""
    weights: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for layer in chip.layers.values():
        weight = layer.spec.weight_of(torch.from_numpy(layer.unequalised(layer.matrix.weights)))
        weights.setdefault(layer.spec.weight_shape, []).append(weight)
    return {
        id(value)
        for value in chip.model.parameters()
        if not isinstance(value, TileParameter)
        and any(torch.equal(value.float(), weight) for weight in weights.get(tuple(value.shape), ()))
    }
