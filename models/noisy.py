"""`mho.noisy`: the noise of the paper behind every matrix layer of any network, by hooks that can be taken away."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from ..mapping.errors import MappingError
from ..mapping.fold import UNTRACED, foldable
from ..mapping.hooks import hooks_of
from ..mapping.kinds.expander import EXPANDERS
from ..mapping.kinds.known import expander_of, handled_types, leaf_of, load_handlers
from ..mapping.modules import copied, names_of
from ..mapping.selection import matches
from .noise import with_normals
from .stepwise import HIDDEN, forward_of, parts_of

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
FUSED = {
    nn.TransformerEncoderLayer: ("activation_relu_or_gelu", 0),
    nn.TransformerEncoder: ("use_nested_tensor", False),
}


class NoisyLayers:
    """The noise behind the layers of a model, until it is removed. As a context manager it is removed at the end.

    Attributes:
        sigma_mult, sigma_add: standard deviations; they may be changed between calls.
        layers: by the name of each layer with noise, the name of the module behind which it falls: its own, or that of
            the batch norm that is part of the layer on a chip.
        without: other modules that hold parameters of two dimensions or more: of kinds that are no matrix layers as far
            as is known (embeddings, tables of positions), excluded, or not chosen.
    """

    def __init__(self, sigma_mult: float, sigma_add: float, seed: int | None) -> None:
        self.sigma_mult, self.sigma_add = sigma_mult, sigma_add
        self.layers: dict[str, str] = {}
        self.without: tuple[str, ...] = ()
        self._seed, self._generators = seed, dict[str, torch.Generator]()
        self._handles: list[Any] = []
        self._changed: list[tuple[nn.Module, str, Any]] = []  # attributes, with what they were; None: not there
        self._called: set[str] = set()
        self._watched = True

    def remove(self) -> None:
        """Take the noise away: the model is as it was.

        Example:
            >>> exact, noise = net(x), mho.noisy(net, sigma_add=0.1)
            >>> noise.remove()
            >>> torch.equal(net(x), exact)
            True
        """
        for handle in self._handles:
            handle.remove()
        for module, name, before in reversed(self._changed):
            if before is None:
                vars(module).pop(name, None)
            else:
                setattr(module, name, before)
        self._handles, self._changed = [], []

    def __enter__(self) -> NoisyLayers:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __deepcopy__(self, memo: Any) -> NoisyLayers:
        return self  # copies of a noisy model have its noise

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_generators": {}}

    def __repr__(self) -> str:
        return f"<noise behind {len(self.layers)} layers: sigma_mult={self.sigma_mult}, sigma_add={self.sigma_add}>"

    def on(self, x: Any, name: str) -> torch.Tensor:
        """An output of the layer of this name, with noise.

        Raises:
            ValueError: it is not a dense tensor of floating-point numbers, or a sigma is not valid.
        """
        if not isinstance(x, torch.Tensor) or not x.is_floating_point() or x.layout != torch.strided or x.is_nested:
            kind = f"{x.dtype}, {x.layout}" if isinstance(x, torch.Tensor) else type(x).__name__
            raise ValueError(f"mho.noisy: layer {name!r} gives no dense floating-point tensor, but {kind}; exclude it")
        self._called.add(name)
        _check_sigmas(self.sigma_mult, self.sigma_add)
        generator = self._generator(x.device)
        return with_normals(with_normals(x, "mult", self.sigma_mult, generator), "add", self.sigma_add, generator)

    def _generator(self, device: torch.device) -> torch.Generator | None:
        if self._seed is None:
            return None
        if str(device) not in self._generators:
            self._generators[str(device)] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[str(device)]

    def _hook(self, module: nn.Module, name: str, layer: nn.Module) -> None:
        self._handles.append(module.register_forward_hook(_Behind(self, name, layer)))

    def _step(self, module: nn.Module, name: str) -> None:
        self._change(module, "forward", forward_of(module, _Within(self, name)))

    def _change(self, module: nn.Module, name: str, value: Any) -> None:
        self._changed.append((module, name, vars(module).get(name)))
        vars(module)[name] = value

    def _watch(self, model: nn.Module) -> None:
        self._handles.append(model.register_forward_hook(self._after))

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        """Tell, after the first call of the model, of layers that no noise has reached."""
        silent = [name for name in self.layers if name not in self._called]
        if self._watched and silent:
            more = f" and {len(silent) - 3} more" if len(silent) > 3 else ""
            warnings.warn(
                f"mho.noisy: {', '.join(map(repr, silent[:3]))}{more} got no noise in this call: the model does not "
                "call them, or uses their weights itself",
                stacklevel=4,
            )
        self._watched = False


class _Behind:
    """The hook of a module: noise on what it gives, which is the output of the layer of this name."""

    def __init__(self, noise: NoisyLayers, name: str, layer: nn.Module) -> None:
        self.noise, self.name, self.layer = noise, name, layer

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        return self.noise.on(output, self.name)


class _Within:
    """Noise on the matrices within a module."""

    def __init__(self, noise: NoisyLayers, name: str) -> None:
        self.noise, self.name = noise, name

    def __call__(self, output: torch.Tensor, part: str) -> torch.Tensor:
        name = f"{self.name}.{part}" if self.name else part
        return self.noise.on(output, name) if name in self.noise.layers else output


def noisy(
    model: nn.Module,
    *,
    sigma_mult: float = 0.0,
    sigma_add: float = 0.0,
    layers: str | Iterable[str] = "*",
    exclude: str | Iterable[str] = (),
    seed: int | None = None,
) -> NoisyLayers:
    """Put Gaussian noise behind the matrix layers of a model: y becomes y z + n, z ~ N(1, sigma_mult^2), n ~ N(0,
    sigma_add^2), new for every element and call. These are Eqs. (3) and (2) of Qin and Vucinic.

    The model is changed in place. It computes as before except for the noise, also in training, where gradients pass
    it; its parameters and its state dict stay. `remove()` of the result, or the end of a `with` block, removes the
    noise. Noise falls where a chip has it (`mho.map`): behind the bias, and behind a batch norm that would be
    folded into the layer. A recurrent layer is computed step by step, with noise on the gates of each step; attention
    has noise on its projections.

    Args:
        model: any torch model.
        sigma_mult: relative to each output.
        sigma_add: in the units of the outputs.
        layers: names, or patterns of shell wildcards, of the layers that get noise; those of recurrent layers are
            named as on a chip (`rnn.l0.gates`), those of attention `in_proj` and `out_proj`; the name of the whole
            module stands for all of them.
        exclude: of layers without noise, and of batch norms that are not part of a layer.
        seed: of the noise; None: torch's default generator draws it, as in the package's own networks.

    Raises:
        ValueError: a sigma that is negative or not finite.
        MappingError: a pattern that matches no layer, no matrix layer, a layer whose weights the model uses itself, or
            one that has noise by steps already.

    Example:
        >>> exact = net(x)
        >>> with mho.noisy(net, sigma_mult=0.5, seed=1):
        ...     print(torch.equal(net(x), exact))
        False
        >>> torch.equal(net(x), exact)
        True
    """
    if not isinstance(model, nn.Module):
        raise MappingError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    _check_sigmas(sigma_mult, sigma_add)
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise ValueError(f"seed must be a whole number or None, got {seed!r}")
    load_handlers()
    wanted, left_out = ([p] if isinstance(p, str) else list(p) for p in (layers, exclude))
    sites = _Sites(model, left_out)
    sites.check(wanted, left_out)
    noise, done = NoisyLayers(sigma_mult, sigma_add, seed), set[str]()
    already = [hook.layer for m in model.modules() for hook in hooks_of(m) if isinstance(hook, _Behind)]
    for name, parts in sites.found.items():
        chosen = [part for part in parts if matches(wanted, parts[part]) and not matches(left_out, parts[part])]
        if not chosen:
            continue
        if name in sites.taken:
            raise MappingError(f"layer {name!r}: the model uses its weights itself, past the layer; exclude it")
        places = {part: sites.behind.get(part, part) for part in chosen}
        if isinstance(sites.modules[name], HIDDEN):
            if "forward" in vars(sites.modules[name]):
                raise MappingError(f"layer {name!r}: its forward is overridden, by noise or otherwise")
        elif any(sites.modules[name] is layer for layer in already):
            raise MappingError(f"layer {name!r}: it has noise already; remove that first")
        done.add(name)
        noise.layers |= places
    if not noise.layers:
        raise MappingError(f"no layer is left to get noise; layers are {', '.join(sites.found)}")
    for name in done:
        if isinstance(sites.modules[name], HIDDEN):
            noise._step(sites.modules[name], name)
        else:
            noise._hook(sites.modules[noise.layers[name]], name, sites.modules[name])
    if sites.apart:
        more = f" and {len(sites.apart) - 3} more" if len(sites.apart) > 3 else ""
        warnings.warn(
            f"mho.noisy: noise falls in front of batch norm {', '.join(map(repr, sites.apart[:3]))}{more}, as torch.fx "
            "cannot trace the model; name them in exclude if that is right",
            stacklevel=2,
        )
    noise.without = tuple(name for name in sites.holding if name not in done)
    for module in model.modules():  # kernels that would pass the layers by
        for kind, (attribute, value) in FUSED.items():
            if isinstance(module, kind):
                noise._change(module, attribute, value)
    noise._watch(model)
    return noise


class _Sites:
    """The matrix layers of a model.

    Attributes:
        modules: by name.
        found: by the name of the module, the names of its layers with all names that patterns may call them.
        behind: batch norms that are part of layers, by these.
        apart: batch norms that may be part of layers, which nothing shows.
        taken: modules whose weights the model uses past their forward.
        holding: modules with parameters of two dimensions or more, parts of those in `found` apart.
    """

    def __init__(self, model: nn.Module, exclude: list[str]) -> None:
        self.modules, names = dict(model.named_modules()), names_of(model)
        self.names = names
        of_others = getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", nn.Linear)
        kinds = (*(kind for kind in handled_types() if kind not in HIDDEN), *TRANSPOSED, of_others)
        self.found: dict[str, dict[str, list[str]]] = {}
        self.holding: list[str] = []
        whole: list[str] = []
        for name, module in self.modules.items():
            if name.startswith(tuple(f"{outer}." if outer else "" for outer in whole)):
                continue
            held = () if isinstance(module, ParametrizationList) else module._parameters.values()
            if any(p is not None and p.ndim > 1 for p in held):
                self.holding.append(name)
            if isinstance(module, HIDDEN):
                whole.append(name)
                inside = {f"{name}.{part}" if name else part: part for part in parts_of(module)}
                called = {full: [f"{n}.{part}" if n else part for n in names[name]] for full, part in inside.items()}
                self.found[name] = {full: [*own, *names[name]] for full, own in called.items()}
            elif expander_of(module) is not None:
                kind = next(kind for kind, known in EXPANDERS.loaded().items() if known is expander_of(module))
                raise MappingError(f"layer {name!r}: what the expander {kind!r} makes of it is beyond hooks; map it")
            elif isinstance(module, kinds):
                self.found[name] = {name: names[name]}
        if not self.found:
            raise MappingError("model has no linear, convolution, recurrent or attention layer")
        folds = foldable(copied(model, model.parameters()))
        self.taken = {name for name in folds.taken if leaf_of(self.modules[name]) is not None}  # others take their own
        self.behind = {layer: norm for layer, norm in folds.behind.items() if not matches(exclude, names[norm])}
        self.apart = [n for n, why in folds.reasons.items() if why == UNTRACED and not matches(exclude, names[n])]

    def check(self, wanted: list[str], left_out: list[str]) -> None:
        """Raises MappingError for a pattern that matches no layer."""
        layers = [called for parts in self.found.values() for called in parts.values()]
        others = [*layers, *(called for name, called in self.names.items() if name)]
        for said, patterns, known in (("layers", wanted, layers), ("exclude", left_out, others)):
            for pattern in patterns:
                if not any(matches([pattern], called) for called in known):
                    everything = ", ".join(name for parts in self.found.values() for name in parts)
                    raise MappingError(f"{said}: pattern {pattern!r} matches no layer; layers are {everything}")


def _check_sigmas(sigma_mult: float, sigma_add: float) -> None:
    for name, value in (("sigma_mult", sigma_mult), ("sigma_add", sigma_add)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be a number of at least 0 and finite, got {value!r}")
