"""How a model uses the parameters that no layer holds: a pass shows it, and what can be layers is made a plan.

A parameter goes onto tiles if all that the pass did with it was to move its values and to multiply by them, and all of
it was multiplied by. Of a parameter with a part for each expert some may do: the others are used in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn import functional

from ..inputs.batches import Batch
from ..kinds.known import handler_of, kind_of
from ..modules import copied
from ..passes import SEED
from .operand import Operand
from .plans import LAYERS, LOOKUP, Bias, Chosen, Plan, put
from .product import Part
from .view import Layout, View

LISTS = (nn.ParameterList, nn.ParameterDict)
UNREACHED = "the pass that shows how it is used does not reach it"
UNSHOWN = "a pass would show how it is used: give calibrate= or check="


@dataclass
class Study:
    """What a pass did with a parameter: it is the `source` of its operand there.

    Attributes:
        places: all its names.
        parts: what it was multiplied by, with the biases that were added, None where that was no parameter.
        serves: the parts of others that it is the bias of, with where in it that lies.
        others: the functions that did something else with it.
        table: whether rows of it were looked up.
    """

    places: tuple[str, ...]
    parameter: torch.Tensor
    parts: dict[Part, set[Bias | None]] = field(default_factory=dict)
    serves: set[tuple[str, Part, Layout]] = field(default_factory=set)
    others: dict[str, None] = field(default_factory=dict)
    table: bool = False

    @property
    def name(self) -> str:
        return self.places[0]

    @property
    def flat(self) -> torch.Tensor:
        return self.parameter.detach().contiguous().reshape(-1)

    def call(self, part: Part, x: torch.Tensor, bias: Any) -> torch.Tensor:
        key: Bias | None = None
        if isinstance(bias, Operand):
            where, source = bias.piece.layout(1), bias.source
            assert isinstance(source, Study)
            source.serves.add((self.name, part, where))
            key, bias = (source.name, where), where.of(source.flat)
        if not x.is_floating_point() or x.layout != torch.strided or is_functorch_wrapped_tensor(x):
            self.others["products that no tiles take (vmap, complex or sparse numbers)"] = None
        self.parts.setdefault(part, set()).add(key)
        weight, how = part.layout.of(self.flat).to(x.dtype), part.convolving
        bias = None if bias is None else bias.to(x.dtype)
        if how is None:
            return functional.linear(x, weight, bias)
        convolve: Any = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[weight.ndim - 2]
        y: torch.Tensor = convolve(x, weight, bias, how.stride, how.padding, how.dilation, how.groups)
        return y

    def values(self, view: View, used: str) -> torch.Tensor:
        if used == LOOKUP and view.shape == self.parameter.shape:
            self.table = True
        else:
            self.others[used] = None
        return view.of(self.flat)


@dataclass(frozen=True)
class Uses:
    """What becomes of the parameters that no layer holds.

    Attributes:
        plans: of those that become layers, or biases of such.
        reasons: why the others stay digital, by name.
    """

    plans: dict[str, Plan] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, batch: Batch | None, exclude: Iterable[str] = ()) -> Uses:
        """Of a model, which is left as it is, on some samples."""
        found = candidates(model)
        if not found:
            return cls()
        if batch is None:
            return cls(reasons=dict.fromkeys(found, UNSHOWN))
        twin, batch = copied(model, model.parameters()), batch.apart()
        studies = {name: Study(tuple(places), model.get_parameter(name)) for name, places in found.items()}
        for name, study in studies.items():
            operand = Operand(study, View.whole(study.parameter.shape), study.parameter.dtype)
            put(twin, found[name], operand)
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(SEED)
                twin(*batch.args, **batch.kwargs)
        except Exception as error:  # a model may do anything with its parameters
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
            return cls(reasons=dict.fromkeys(found, f"the model fails where it is watched ({reason})"))
        return _decided(studies)

    def without(self, names: Iterable[str]) -> Uses:
        """The same with parameters, and the biases of their layers, that stay digital."""
        left = set(names)
        plans = {}
        for name, plan in self.plans.items():
            if name in left:
                continue
            layers = {
                key: Chosen(c.part, None if c.bias is not None and c.bias[0] in left else c.bias)
                for key, c in plan.layers.items()
            }
            plans[name] = replace(plan, layers=layers)
        served = {c.bias[0] for plan in plans.values() for c in plan.layers.values() if c.bias is not None}
        return Uses({n: p for n, p in plans.items() if p.layers or n in served}, self.reasons)


def candidates(model: nn.Module) -> dict[str, list[str]]:
    """All names, by the first one, of the parameters that a model may multiply by: those of modules of its own."""
    found: dict[int, list[str]] = {}
    held: set[int] = set()  # by modules that have uses of their own for them
    inside: list[str] = []
    for name, module in model.named_modules(remove_duplicate=False):
        kind = kind_of(module)
        own = not kind.__module__.startswith("torch.nn.") or kind in LISTS
        own |= kind is nn.Embedding and module.max_norm is None
        known = handler_of(module) is not None or not own
        if handler_of(module) is not None:
            inside.append(f"{name}." if name else "")
        within = name.startswith(tuple(inside))
        for key, value in module._parameters.items():
            if value is None:
                continue
            odd = type(value) is not nn.Parameter or not _plain(value) or hasattr(module, f"{key}{LAYERS}")
            odd |= hasattr(type(module), key)  # a property of this name may make anything of it
            if known or within or odd:
                held.add(id(value))
            else:
                found.setdefault(id(value), []).append(f"{name}.{key}".lstrip("."))
    return {places[0]: places for key, places in found.items() if key not in held}


def _plain(value: torch.Tensor) -> bool:
    return value.is_floating_point() and value.layout is torch.strided and value.ndim > 0 and value.numel() > 0


def _decided(studies: dict[str, Study]) -> Uses:
    tables = {name for name, study in studies.items() if study.table and not study.parts and not study.others}
    studies = {name: study for name, study in studies.items() if name not in tables}  # as they are
    for study in studies.values():
        _add_experts(study, studies)
    reasons = {name: why for name, study in studies.items() if (why := _digital(study))}
    plans: dict[str, Plan] = {}
    biases = {name for name, study in studies.items() if name not in reasons and not study.parts}
    for name in sorted(biases):
        if any(
            owner in reasons or studies[owner].parts[part] != {(name, where)}
            for owner, part, where in studies[name].serves
        ):
            reasons[name] = "it is added to layers that others add something else to, or that stay digital"
            biases.discard(name)
    for name, study in studies.items():
        if name in reasons:
            continue
        chosen = []
        for part, keys in study.parts.items():
            (key,) = keys if len(keys) == 1 else (None,)
            chosen.append(Chosen(part, key if key is not None and key[0] in biases else None))
        dtype = str(study.parameter.dtype).removeprefix("torch.")
        layers = dict(zip(_names(study), chosen, strict=True))
        layers = {key: layers[key] for key in sorted(layers, key=int)}
        plans[name] = Plan(study.places, tuple(study.parameter.shape), dtype, layers, study.table)
    return Uses(plans, reasons)


def _digital(study: Study) -> str | None:
    """Why a parameter stays digital, whatever others do."""
    if study.others:
        return f"the model computes {', '.join(study.others)} with it"
    layouts = [part.layout for part in study.parts]
    if not layouts and not study.serves:
        return UNREACHED
    if layouts and study.serves:
        return "the model both adds it and multiplies by it"
    if not all(layout.fits(study.parameter.numel()) for layout in layouts):
        return "the model multiplies by several of the same values"
    every = torch.arange(study.parameter.numel())
    seen = torch.zeros(study.parameter.numel(), dtype=torch.bool)
    for layout in (*layouts, *(where for _, _, where in study.serves)):
        seen[layout.of(every)] = True
    if not seen.all():
        return f"a pass uses {int(seen.sum())} of its {len(seen)} values"
    return None


def _slices(study: Study) -> list[int] | None:
    """The numbers of the parts, if each is one along the first dimension."""
    shape = study.parameter.shape
    if len(shape) < 3 or not study.parts:
        return None
    size = study.parameter[0].numel()
    starts = [part.layout.offset for part in study.parts]
    whole = all(torch.Size(part.layout.shape).numel() == size for part in study.parts)
    kinds = {(part.layout.axes, part.convolving) for part in study.parts}
    return (
        [start // size for start in starts] if whole and len(kinds) == 1 and not any(s % size for s in starts) else None
    )


def _add_experts(study: Study, studies: dict[str, Study]) -> None:
    """The parts along the first dimension that the pass did not reach, used as the others are."""
    numbers = _slices(study)
    if numbers is None or len(numbers) == len(study.parameter):
        return
    size = study.parameter[0].numel()
    first = next(iter(study.parts))
    for number in range(len(study.parameter)):
        if number in numbers:
            continue
        part = Part(Layout(number * size, first.layout.axes), first.convolving)
        study.parts[part] = set()
        for key in study.parts[first]:
            if key is None:
                study.parts[part].add(None)
                continue
            other = studies[key[0]]
            step = other.flat.numel() // len(study.parameter) if len(other.parameter) == len(study.parameter) else 0
            where = Layout(key[1].offset + (number - numbers[0]) * step, key[1].axes)
            study.parts[part].add((other.name, where))
            other.serves.add((study.name, part, where))


def _names(study: Study) -> list[str]:
    """Of the layers: of experts their numbers."""
    return [str(number) for number in _slices(study) or range(len(study.parts))]
