"""What takes a chip says in one line that it was given something else."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import mho
from mho.mapping.architecture.cost import layer_costs
from mho.mapping.architecture.decision import decision
from mho.mapping.architecture.replication import replicate, ways
from mho.mapping.errors import MappingError

X = torch.rand(5, 4)
TAKERS: dict[str, Callable[[Any], Any]] = {
    "vote": lambda chip: mho.vote(chip, X, 2),
    "adaptive_vote": lambda chip: mho.adaptive_vote(chip, X, 2),
    "reduce": lambda chip: mho.reduce(chip, X),
    "explain": lambda chip: mho.explain(chip, X, torch.zeros(5).long()),
    "schedule": lambda chip: mho.schedule(chip),
    "layer_costs": layer_costs,
    "decision": decision,
    "replicate": lambda chip: replicate(chip, tiles=5),
    "ways": lambda chip: ways(chip, 2),
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("given", [nn.Linear(4, 3), [1e-6], "chip"], ids=["network", "list", "name"])
def test_what_is_no_chip_is_said_to_be_none(taker: str, given: Any) -> None:
    said = rf"^chip must be a mapped network \(see mho\.map\), got {type(given).__name__}$"
    with pytest.raises(MappingError, match=said):
        TAKERS[taker](given)
