"""Which layers of a model go onto tiles, and the reason of each that does not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import nn

from ..crossbar.hardware import Hardware
from .chip import Chip
from .errors import MappingError
from .expand import expanded
from .faithful import tensors_of, unfaithful
from .fold import BATCH_NORMS, Folds, foldable, folded
from .guard import Fold
from .kinds.inherited import above, overrides
from .kinds.known import expander_of, handled_types, handler_of, kind_of, leaf_of
from .kinds.leaf import Leaf, Matrices
from .layers import TileLayer
from .mapped import Digital
from .modules import keep_attributes, names_of, replaced_all
from .operands.plans import LAYERS, Chosen, Plan, Weights, filled, install
from .operands.uses import Uses
from .quantized import QUANTIZED, packed_parameters

EXCLUDED = "excluded by name"
TAKEN = "the model uses its weights itself, past the layer"
ZERO = "its weights are all zero"
OWN = "parameters of its own: "
LOOKUPS = (nn.Embedding, nn.EmbeddingBag)
LOOKED_UP = "rows of it are looked up digitally; what is multiplied by it is on tiles"


class Selection:
    """Which layers of a model are on tiles; it is changed in place.

    Attributes:
        model: the caller's; `expand` puts layers in the place of recurrent ones, and `place` puts layers onto tiles.
        mapped: the layers on tiles by name.
        expanded: the modules that layers took the place of, as the report lists them, by name.
        parameters: of the caller's model, each shared one counted once.
    """

    def __init__(self, model: nn.Module, hardware: Hardware, exclude: Iterable[str], strict: bool, seed: int) -> None:
        self.hardware, self.strict, self.seed = hardware, strict, seed
        self.exclude = [exclude] if isinstance(exclude, str) else list(exclude)
        self.parameters = sum(p.numel() for p in model.parameters())
        self.parameters += sum(packed_parameters(module) or 0 for module in model.modules())
        self.mapped: dict[str, TileLayer] = {}
        self.originals: dict[str, dict[str, nn.Module]] = {}  # of each layer on tiles: what stood where, by first names
        self.listed: list[Digital] = []
        self.expanded: dict[str, Digital] = {}
        self.folds, self.taken = Folds(), set[str]()
        self.uses = Uses()
        self.whole: dict[str, str] = {}  # modules that are not expanded, and why
        self.model = model

    def fold(self, taken: Iterable[str] = ()) -> None:
        """Find the batch norms to fold. `taken` are layers whose weights the model uses past their forward."""
        self.folds = foldable(self.model)
        self.taken = {*taken, *self.folds.taken}

    def expand(self, uses: Uses | None = None) -> None:
        """Put layers in the place of modules that are made of several, recurrent ones say, and of the parameters that
        the model multiplies by itself.
        """
        names = names_of(self.model)
        for name, module in self.model.named_modules():
            inside = name.startswith(tuple(f"{outer}." if outer else "" for outer in (*self.expanded, *self.whole)))
            if (expander := expander_of(module)) is None or inside:
                continue
            kind = kind_of(module).__name__
            if why := self._digital_by(name, module, names[name]):
                self.whole[name] = why
                self.listed.append(Digital(name, kind, why))
            else:
                self.expanded[name] = Digital(name, kind, expander.reason)
        self.model = expanded(self.model, self.whole)
        self._install(uses or Uses())
        places = {name: list(plan.places) for name, plan in (uses or Uses()).plans.items()}
        self.names = names_of(self.model) | places | {name: names[name] for name in self.whole if name in names}

    def _install(self, uses: Uses) -> None:
        """Put layers in the place of parameters."""
        excluded = [name for name, plan in uses.plans.items() if matches(self.exclude, plan.places)]
        self.uses = uses.without(excluded)
        for name in excluded:
            self.whole[name] = EXCLUDED
            self.listed.append(Digital(name, "Parameter", EXCLUDED))
        tensors = {name: self.model.get_parameter(name) for name in self.uses.plans}
        for plan in self.uses.plans.values():
            install(self.model, plan, partial(self._filled, plan, tensors), tensors[plan.places[0]])

    @staticmethod
    def _filled(plan: Plan, tensors: dict[str, nn.Parameter], name: str, chosen: Chosen) -> nn.Module:
        return filled(chosen, plan.places[0], tensors)

    def place(self) -> None:
        """Put layers onto tiles."""
        modules = dict(self.model.named_modules())
        inside = tuple(f"{name}." for name, module in modules.items() if handler_of(module) is not None)
        self.taken |= {f"{n}.out_proj" for n, m in modules.items() if isinstance(m, nn.MultiheadAttention)}
        layers = {name: m for name, m in modules.items() if leaf_of(m) is not None and not name.startswith(inside)}
        self._check_patterns(layers, self.whole)
        placed: list[tuple[str, nn.Module]] = []
        for name, module in layers.items():
            self._place(name, module, placed)
        self.model = replaced_all(self.model, placed)
        if not self.mapped:
            raise MappingError(f"model has no layer to map: {self._why_none()}")

    def _digital_by(self, name: str, module: nn.Module, names: list[str]) -> str | None:
        """Why a layer stays digital, whatever its weights are."""
        if matches(self.exclude, names):
            return EXCLUDED
        return unfaithful(module) or (TAKEN if name in self.taken else None)

    def _check_patterns(self, layers: Iterable[str], kept: Iterable[str]) -> None:
        folds = [*self.folds.behind.values(), *self.folds.before.values()]
        for pattern, said in [(p, "exclude") for p in self.exclude] + [
            (p, "hardware.layers") for p in self.hardware.layers
        ]:
            known = [self.names[name] for name in (*layers, *((*kept, *folds) if said == "exclude" else ()))]
            if not any(matches([pattern], found) for found in known):
                raise MappingError(
                    f"{said}: pattern {pattern!r} matches no layer; layers are {', '.join(layers) or 'none'}"
                )

    def _place(self, name: str, module: nn.Module, placed: list[tuple[str, nn.Module]]) -> None:
        """Put a layer onto tiles, or list it; what takes which place in the model is added to `placed`."""
        names, hardware = self.names[name], self.hardware.for_layer(*self.names[name])
        why = self._digital_by(name, module, names)
        ends = [self._norm(side.get(name)) for side in (self.folds.behind, self.folds.before)]
        if why is None:
            spec, matrices = self._matrices(name, module, ends)
            if not matrices.weights.any():
                why = ZERO
                if self.strict:
                    raise MappingError(f"layer {name!r}: weights are all zero, nothing to program (strict=True)")
        if why is not None:
            self.listed.append(Digital(name, kind_of(module).__name__, why))
            return
        if hardware.cell.nonlinearity.kind != "linear" and not hardware.wires.ideal:
            raise MappingError(
                f"layer {name!r}: cell.nonlinearity is '{hardware.cell.nonlinearity.kind}', and wires with resistance "
                "are solved for linear cells; mho.crossbar.wires.read takes others, an input at a time"
            )
        try:
            layer = TileLayer(name, spec, matrices, hardware, self.seed)
        except ValueError as error:
            raise MappingError(f"layer {name!r}: {error}") from error
        layer.aliases = names
        keep_attributes(module, layer)
        self.mapped[name], self.originals[name] = layer, {name: module}
        placed += [(alias, layer) for alias in names]
        for norm, behind in zip(ends, (True, False), strict=True):
            if norm is not None:
                empty = self._empty(layer, norm, behind)
                placed += [(alias, empty) for alias in self.names[norm]]

    def _matrices(self, name: str, module: nn.Module, ends: list[str | None]) -> tuple[Leaf, Matrices]:
        """The geometry of a layer, and its matrices with the batch norms of these names folded in.

        Raises:
            MappingError: NaN or infinite, or a kind of layer that is not in order.
        """
        kind, tensors = leaf_of(module), tensors_of(module)
        assert kind is not None
        _check_finite(name, tensors["weight"], tensors.get("bias"))
        norms = [None if norm is None else self.model.get_submodule(norm) for norm in ends]
        try:
            spec = kind.of(module)
            matrices = folded(spec, tensors, *norms)
        except ValueError as error:
            raise MappingError(f"layer {name!r}: {error}") from error
        bias = None if matrices.bias is None else torch.from_numpy(matrices.bias)
        _check_finite(name, torch.from_numpy(matrices.weights), bias)
        return spec, matrices

    def _norm(self, norm: str | None) -> str | None:
        """The batch norm, unless it is excluded."""
        if norm is None or not matches(self.exclude, self.names[norm]):
            return norm
        self.folds.reasons[norm] = EXCLUDED
        return None

    def _empty(self, layer: TileLayer, norm: str, behind: bool) -> nn.Module:
        """What stands in the place of a folded batch norm: nothing, and what the model does there is watched."""
        module, empty = self.model.get_submodule(norm), nn.Identity()
        self.originals[layer.name][norm] = module
        self.listed.append(Digital(norm, type(module).__name__, f"folded into {layer.name}"))
        keep_attributes(module, empty)
        ends = (layer, empty) if behind else (empty, layer)
        Fold(layer.name, norm, layer.spec.dims).between(*ends)
        return empty

    def restore(self, chip: Chip, idle: dict[str, str]) -> None:
        """Take layers off the tiles again, for the reasons given, with all that was folded into them.

        Raises:
            MappingError: with `strict`, or if no other layer is on tiles.
        """
        for name, why in idle.items():
            if self.strict:
                raise MappingError(f"calibrate: layer {name!r}: {why}; exclude it (strict=True)")
            places = self.originals.pop(name)
            self.listed = [d for d in self.listed if d.name not in places]
            back = [(alias, module) for place, module in places.items() for alias in self.names[place]]
            chip.model = replaced_all(chip.model, back)
            self.listed.append(Digital(name, kind_of(places[name]).__name__, why))
            self.folds.reasons |= dict.fromkeys(set(places) - {name}, f"batch norm of {name}, which is digital")
            del self.mapped[name]
        if not self.mapped:
            raise MappingError(f"model has no layer to map: {self._why_none()}")

    def _why_none(self) -> str:
        found = [d for d in self.listed if not d.reason.startswith("folded")]
        if not found:
            odd = [name for name, module in self.model.named_modules() if isinstance(module, handled_types())]
            subclasses = f" (but subclasses, which may compute something else: {', '.join(odd[:3])})" if odd else ""
            own = [f"{name!r} ({why})" for name, why in self.uses.reasons.items()][:3]
            said = f", and no parameter of its own that can be one: {', '.join(own)}" if own else ""
            return f"no linear, convolution or recurrent layer{subclasses}{said}"
        if all(d.reason == EXCLUDED for d in found):
            return "all are excluded"
        named = [f"{d.name!r} ({d.reason})" for d in found[:3]]
        return f"layer {', '.join(named)}" + (f" and {len(found) - 3} more" if len(found) > 3 else "")

    def watched(self) -> list[str]:
        """Names at which the mapped model gives what the caller's gives: not between a layer and its batch norm."""
        ends = {name: dict(places) for name, places in self.originals.items()}
        outer = (*self.expanded, *self.whole)
        modules = dict(self.model.named_modules())
        names = [name for name in outer if name in modules and not isinstance(modules[name], nn.Identity)]
        outer += tuple(f"{name}{LAYERS}" for name in self.uses.plans)
        inside = tuple(f"{other}." for other in outer)
        names += [name for name in self.holders if not name.startswith(inside)]
        for name in self.mapped:
            if name.startswith(inside) or name in outer:
                continue
            behind = self.folds.behind.get(name)
            names.append(behind if behind in ends[name] and behind is not None else name)
        return names

    @property
    def holders(self) -> list[str]:
        """The modules whose parameters became layers."""
        return [*dict.fromkeys(name.rpartition(".")[0] for name in self.uses.plans)]

    def replaced(self, caller: nn.Module) -> dict[torch.Tensor, str]:
        """Tensors of the torch layers that tiles stand for, with their names, in this model and in the caller's.

        Tensors that other modules use as well are left out.
        """
        mapped = {alias: name for name in self.mapped for alias in self.names[name]}
        steps = {alias: name for name in self.expanded for alias in self.names[name]}
        found: dict[torch.Tensor, str] = {}
        others: set[int] = set()
        for path, value in caller.named_parameters(remove_duplicate=False):
            owner = path.rpartition(".")[0]
            name = mapped.get(owner, steps.get(owner, path if path in self.uses.plans else None))
            if name is None:
                others.add(id(value))
            else:
                found[value] = name
        kept = {id(p) for p in self.model.parameters()}
        for name, places in self.originals.items():
            found |= {p: name for p in places[name].parameters() if id(p) not in kept}
        return {value: name for value, name in found.items() if id(value) not in others}

    def copies(self) -> Iterator[tuple[nn.Parameter, torch.Tensor]]:
        """The weights of torch layers that are on tiles, and those that the matrices of the tiles are made of."""
        for name, layer in self.mapped.items():
            copy = layer.spec.weight_of(torch.from_numpy(layer.matrix.weights))
            for module in self.originals[name].values():
                if isinstance(weight := getattr(module, "weight", None), nn.Parameter):
                    yield weight, copy

    def held(self) -> set[int]:
        """Identities of the parameters of the caller's model whose values are on tiles."""
        modules = [module for places in self.originals.values() for module in places.values()]
        tables = {id(m.table) for m in self.model.modules() if isinstance(m, Weights)}
        return {id(p) for module in modules for p in module.parameters()} | tables

    def digital(self, model: nn.Module) -> tuple[Digital, ...]:
        """All parts of the model that are not on tiles: what was decided here, and modules of other kinds."""
        whole = [d.name for d in self.listed]
        found, inside = [], [f"{name}." for name in whole]
        for name, module in model.named_modules():
            if isinstance(module, TileLayer):
                inside.append(f"{name}.")
            elif name in whole or name.startswith(tuple(inside)):
                continue
            elif name in self.expanded:
                inside.append(f"{name}.")
                found.append(self.expanded[name])
            elif packed_parameters(module) is not None:
                inside.append(f"{name}.")
                found.append(Digital(name, module._get_name(), QUANTIZED))
            elif isinstance(module, Weights):
                if module.table is not None:
                    found.append(Digital(module.plan.places[0], "Parameter", LOOKED_UP))
            elif own := self._own(name, module):
                found.append(Digital(name, kind_of(module).__name__, OWN + own))
            elif any(True for _ in module.children()) and not isinstance(module, BATCH_NORMS):
                continue
            elif type(module) is not nn.Identity:
                found.append(Digital(name, type(module).__name__, self._reason(name, module)))
        return (*self.listed, *found)

    def _own(self, name: str, module: nn.Module) -> str:
        """Parameters of a module that has parts, or that are looked at one by one, with the reasons."""
        parts = any(True for _ in module.children())
        if isinstance(module, (*LOOKUPS, *BATCH_NORMS)) or (isinstance(module, handled_types()) and not parts):
            return ""
        keys = {key: f"{name}.{key}".lstrip(".") for key, value in module._parameters.items() if value is not None}
        why = {key: self.uses.reasons.get(path) for key, path in keys.items() if path not in self.whole}
        if not any(why.values()) and not parts:
            return ""
        return ", ".join(f"{key} ({said})" if said else key for key, said in why.items())

    def _reason(self, name: str, module: nn.Module) -> str:
        if isinstance(module, BATCH_NORMS):
            return self.folds.reasons.get(name, "batch norm that folds into no matrix layer")
        if base := above(type(module), handled_types()):
            odd = ", ".join(overrides(type(module), base))
            return f"a subclass of {base.__name__} with its own {odd}, which may compute something else"
        if isinstance(module, LOOKUPS):
            return "a table: rows are looked up, and nothing is multiplied"
        return "no handler maps this type" if any(True for _ in module.parameters()) else "no weights"


def matches(patterns: Iterable[str], names: Iterable[str]) -> bool:
    """Whether a pattern of shell wildcards matches one of the names."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns for name in names)


def _check_finite(name: str, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    for what, values in (("weights", weight), ("bias", bias)):
        if values is None or torch.isfinite(values.detach().sum()):  # a sum of what is not finite is not
            continue
        if count := int((~torch.isfinite(values)).sum()):
            raise MappingError(
                f"layer {name!r}: {what} must be finite, got {count} NaN or infinite of {values.numel()}"
            )
