"""Recurrent layers as steps of linear layers, which then go onto tiles like any other.

The expander `recurrent` puts a `Recurrent` in the place of an nn.LSTM, nn.GRU or nn.RNN, and a step in the place of an
nn.LSTMCell, nn.GRUCell or nn.RNNCell. Both are called like what they replace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from .expander import EXPANDERS, Expander
from .torch_names import NAME, weights_of

WHOLE = (nn.LSTM, nn.GRU, nn.RNN)
CELLS = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)

Parts = dict[str, tuple[torch.Tensor, Any]]  # weight and bias of layers by name
State = tuple[torch.Tensor, ...]  # h, and c of an LSTM, each (samples, size)


class Step(nn.Module):
    """One layer in one direction; called, it is torch's cell.

    `joint` is the matrix [W_ih W_hh], whose word lines take the input and the hidden state in one read. The input comes
    to them times `gain`, which the columns of W_ih have been divided by (see `equalize`).
    """

    states = 1
    joint_name = "gates"
    gate_count = 1
    gain: torch.Tensor

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, **other: Any) -> None:
        super().__init__()
        self.config = {"input_size": input_size, "hidden_size": hidden_size, "bias": bias, **other}
        vars(self).update(self.config)
        self.input_size = input_size
        self.sizes: tuple[int, ...] = (hidden_size,)
        self.register_buffer("gain", torch.ones(()))

    def __getattr__(self, name: str) -> Any:
        found = NAME.fullmatch(name) if "config" in vars(self) else None
        if found and not found[2] and name != "weight_hr":
            return weights_of(self).get(name)  # torch's cells have None in the place of biases
        return super().__getattr__(name)

    @property
    def joint(self) -> nn.Module:
        return self.get_submodule(self.joint_name)

    def _joint(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.joint(torch.cat([x * self.gain, h], dim=1))
        return y

    def advance(self, x: torch.Tensor, state: State) -> State:
        """The state after a step with the input x (samples, input_size)."""
        raise NotImplementedError

    def parts(self, w_ih: torch.Tensor, w_hh: torch.Tensor, b_ih: Any, b_hh: Any, w_hr: Any = None) -> Parts:
        """Weight and bias of each of its layers, by name, of the weights of torch's layer."""
        return {self.joint_name: (torch.cat([w_ih, w_hh], dim=1), None if b_ih is None else b_ih + b_hh)}

    def take(self, w_ih: torch.Tensor, w_hh: torch.Tensor, b_ih: Any, b_hh: Any, w_hr: Any = None) -> Step:
        """Take over the weights of torch's layer; returns itself."""
        for name, (weight, bias) in self.parts(w_ih, w_hh, b_ih, b_hh, w_hr).items():
            _set(self.get_submodule(name), weight, bias)
        return self

    def forward(self, input: torch.Tensor, hx: Any = None) -> Any:  # as torch names them
        _check_features(self, input, dims=(1, 2))
        single = input.ndim == 1
        x = input[None] if single else input
        given = () if hx is None else (hx,) if self.states == 1 else tuple(hx)
        state = tuple(h[None] if single else h for h in given) or self.zeros(x)
        new = tuple(h[0] if single else h for h in self.advance(x, state))
        return new[0] if self.states == 1 else new

    def zeros(self, x: torch.Tensor) -> State:
        return tuple(x.new_zeros(len(x), size) for size in self.sizes)

    def unroll(self, x: torch.Tensor, state: State, lengths: torch.Tensor | None) -> tuple[torch.Tensor, State]:
        """Outputs (samples, steps, size) and the last state, for x (samples, steps, input_size).

        A sample whose length is over keeps its state and gives zeros.
        """
        outputs = []
        for t in range(x.shape[1]):
            new = self.advance(x[:, t], state)
            if lengths is None:
                state, y = new, new[0]
            else:
                live = (t < lengths)[:, None]
                state = tuple(torch.where(live, after, before) for after, before in zip(new, state, strict=True))
                y = torch.where(live, new[0], torch.zeros_like(new[0]))
            outputs.append(y)
        return torch.stack(outputs, dim=1), state


class LSTMStep(Step):
    """i, f, g, o = gates [x, h]; c' = f c + i g; h' = o tanh(c'), projected where there is a projection."""

    states, gate_count = 2, 4

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, proj_size: int = 0) -> None:
        super().__init__(input_size, hidden_size, bias, proj_size=proj_size)
        self.sizes = (proj_size or hidden_size, hidden_size)
        self.gates: nn.Module = _linear(input_size + self.sizes[0], 4 * hidden_size, bias)
        self.projection: nn.Module = _linear(hidden_size, proj_size, False) if proj_size else nn.Identity()

    def parts(self, w_ih: torch.Tensor, w_hh: torch.Tensor, b_ih: Any, b_hh: Any, w_hr: Any = None) -> Parts:
        more: Parts = {} if w_hr is None else {"projection": (w_hr, None)}
        return more | super().parts(w_ih, w_hh, b_ih, b_hh)

    def advance(self, x: torch.Tensor, state: State) -> State:
        h, c = state
        i, f, g, o = self._joint(x, h).chunk(4, dim=1)
        c = _sigmoid(f) * c + _sigmoid(i) * g.tanh()
        return self.projection(_sigmoid(o) * c.tanh()), c


class GRUStep(Step):
    """r, z = gates [x, h]; n = tanh(W_in x + b_in + r (W_hn h + b_hn)); h' = (1 - z) n + z h.

    The reset gate stands between the two products of the candidate n, so they are matrices of their own.
    """

    gate_count = 3

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size, bias)
        self.gates: nn.Module = _linear(input_size + hidden_size, 2 * hidden_size, bias)
        self.candidate_input: nn.Module = _linear(input_size, hidden_size, bias)
        self.candidate_hidden: nn.Module = _linear(hidden_size, hidden_size, bias)

    def parts(self, w_ih: torch.Tensor, w_hh: torch.Tensor, b_ih: Any, b_hh: Any, w_hr: Any = None) -> Parts:
        gates = 2 * w_hh.shape[1]
        biases = [(None, None) if b is None else (b[:gates], b[gates:]) for b in (b_ih, b_hh)]
        candidates: Parts = {
            "candidate_input": (w_ih[gates:], biases[0][1]),
            "candidate_hidden": (w_hh[gates:], biases[1][1]),
        }
        return candidates | super().parts(w_ih[:gates], w_hh[:gates], biases[0][0], biases[1][0])

    def advance(self, x: torch.Tensor, state: State) -> State:
        (h,) = state
        r, z = _sigmoid(self._joint(x, h)).chunk(2, dim=1)
        n = (self.candidate_input(x) + r * self.candidate_hidden(h)).tanh()
        return (n + z * (h - n),)


class RNNStep(Step):
    """h' = tanh(state [x, h]), or the ReLU."""

    joint_name = "state"

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh") -> None:
        super().__init__(input_size, hidden_size, bias, nonlinearity=nonlinearity)
        self.state: nn.Module = _linear(input_size + hidden_size, hidden_size, bias)
        self.activation = {"tanh": torch.tanh, "relu": torch.relu}[nonlinearity]

    def advance(self, x: torch.Tensor, state: State) -> State:
        return (self.activation(self._joint(x, state[0])),)


PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")  # as torch names them
STEPS: dict[str, type[Step]] = {"LSTM": LSTMStep, "GRU": GRUStep, "RNN": RNNStep}


class Recurrent(nn.Module):
    """Layers of steps, in one direction or both, called like nn.LSTM, nn.GRU and nn.RNN (dropout is off).

    Its steps are named as torch names weights: `l0`, `l0_reverse`, `l1` ... Samples are the first dimension of all that
    the steps read, whatever `batch_first` is. Step number t of a matrix is its call t in an inference, which keys its
    noise; the reverse direction counts from the end of each sample.
    """

    def __init__(
        self,
        kind: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        batch_first: bool = False,
        bidirectional: bool = False,
        **other: Any,
    ) -> None:
        super().__init__()
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
        self.config = {"kind": kind, **sizes, "batch_first": batch_first, "bidirectional": bidirectional, **other}
        vars(self).update({"bias": True, "proj_size": 0, "dropout": 0.0, **self.config})
        self.mode = kind if kind != "RNN" else f"RNN_{str(other.get('nonlinearity', 'tanh')).upper()}"
        self.input_size, self.batch_first = input_size, batch_first
        self.between = 0.0  # dropout behind each layer but the last, in training
        self.suffixes = [
            [f"l{layer}{end}" for end in ("", "_reverse")[: 1 + bidirectional]] for layer in range(num_layers)
        ]
        size = input_size
        for names in self.suffixes:
            for name in names:
                self.add_module(name, STEPS[kind](size, hidden_size, **other))
            size = len(names) * self.step(names[0]).sizes[0]

    def flatten_parameters(self) -> None:
        """Nothing, as in nn.LSTM on a CPU; models call it."""

    @property
    def all_weights(self) -> list[list[torch.Tensor]]:
        """As torch has them."""
        ends = [end for ends in self.suffixes for end in ends]
        return [list(weights_of(self.step(end), f"_{end}").values()) for end in ends]

    @property
    def _flat_weights(self) -> list[torch.Tensor]:
        return [weight for weights in self.all_weights for weight in weights]

    @property
    def _flat_weights_names(self) -> list[str]:
        ends = [end for ends in self.suffixes for end in ends]
        return [name for end in ends for name in weights_of(self.step(end), f"_{end}")]

    def __getattr__(self, name: str) -> Any:
        found = NAME.fullmatch(name)
        if found and found[2] in vars(self).get("_modules", ()):
            weight = weights_of(self.step(found[2]), f"_{found[2]}").get(name)
            if weight is not None:
                return weight
        return super().__getattr__(name)

    def step(self, name: str) -> Step:
        step = self.get_submodule(name)
        assert isinstance(step, Step)
        return step

    def forward(self, input: torch.Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:  # as torch names them
        lengths = None
        if isinstance(input, PackedSequence):
            x, lengths = pad_packed_sequence(input, batch_first=True)
            lengths = lengths.to(x.device)
            single = False
        else:
            _check_features(self, input, dims=(2, 3))
            single = input.ndim == 2
            x = input[None] if single else input if self.batch_first else input.transpose(0, 1)
        if not x.shape[1]:
            raise ValueError("a recurrent layer takes at least one step, got none")
        states = self._states(hx, x, single)
        last: list[State] = []
        for names in self.suffixes:
            outputs = []
            for direction, name in enumerate(names):
                turned = _reverse(x, lengths) if direction else x
                y, state = self.step(name).unroll(turned, states[len(last)], lengths)
                outputs.append(_reverse(y, lengths) if direction else y)
                last.append(state)
            x = torch.cat(outputs, dim=2)
            if self.training and self.between and names != self.suffixes[-1]:
                x = nn.functional.dropout(x, self.between)
        final = [torch.stack(parts) for parts in zip(*last, strict=True)]
        if single:
            final = [part[:, 0] for part in final]
        output: Any
        if isinstance(input, PackedSequence):
            output = _packed(x, input)
        else:
            output = x[0] if single else x if self.batch_first else x.transpose(0, 1)
        return output, final[0] if len(final) == 1 else tuple(final)

    def _states(self, hx: Any, x: torch.Tensor, single: bool) -> list[State]:
        """The state each step starts with."""
        steps = [self.step(name) for names in self.suffixes for name in names]
        if hx is None:
            return [step.zeros(x) for step in steps]
        parts = [hx] if steps[0].states == 1 else list(hx)
        parts = [part[:, None] if single else part for part in parts]
        for part, size in zip(parts, steps[0].sizes, strict=True):
            if part.shape != (len(steps), len(x), size):
                raise ValueError(f"initial state must have shape {(len(steps), len(x), size)}, got {tuple(part.shape)}")
        return [tuple(part[k] for part in parts) for k in range(len(steps))]


def _sigmoid(x: torch.Tensor) -> torch.Tensor:
    """torch.sigmoid rounds the last elements of a tensor otherwise than the first, so that batches would differ."""
    return 1 / x.neg().exp_().add(1)


def _check_features(module: Step | Recurrent, x: torch.Tensor, dims: tuple[int, int]) -> None:
    if x.ndim not in dims or x.shape[-1] != module.input_size:
        raise ValueError(
            f"a recurrent layer takes {dims[0]} or {dims[1]} dimensions, the last of {module.input_size} features, "
            f"got an input of shape {tuple(x.shape)}"
        )


def _reverse(x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """x (samples, steps, features) with the steps of each sample reversed; padding becomes its first step."""
    if lengths is None:
        return x.flip(1)
    index = (lengths[:, None] - 1 - torch.arange(x.shape[1], device=x.device)).clamp(min=0)
    return x.gather(1, index[:, :, None].expand_as(x))


def _packed(x: torch.Tensor, like: PackedSequence) -> PackedSequence:
    """x (samples, steps, features) packed in the order of another packed sequence."""
    rows = x if like.sorted_indices is None else x[like.sorted_indices]
    data = torch.cat([rows[:size, t] for t, size in enumerate(like.batch_sizes.tolist())])
    return PackedSequence(data, like.batch_sizes, like.sorted_indices, like.unsorted_indices)


def _linear(inputs: int, outputs: int, bias: bool) -> nn.Module:
    """A linear layer whose weights are set later: no random numbers are drawn."""
    return nn.utils.skip_init(nn.Linear, inputs, outputs, bias, device=torch.get_default_device())


def _set(linear: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)


@EXPANDERS.register("recurrent")
class RecurrentLayers(Expander):
    """torch's recurrent layers and cells, with the weights that their forward uses and their attributes."""

    modules = (*WHOLE, *CELLS)
    makes = (Recurrent, *STEPS.values())
    reason = "its matrices are on tiles; activations and elementwise products of the gates stay digital"

    @classmethod
    def tensors(cls, module: Any) -> dict[str, Any]:
        if isinstance(module, CELLS):
            return {name: getattr(module, name) for name in PARTS[:4]}
        module._update_flat_weights()  # as its forward takes them
        return dict(zip(module._flat_weights_names, module._flat_weights, strict=True))

    @classmethod
    def expand(cls, module: Any, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
        kind = next(t.__name__ for t in cls.modules if isinstance(module, t)).removesuffix("Cell")
        other: dict[str, Any] = {"bias": module.bias}
        if kind == "RNN":
            other["nonlinearity"] = module.nonlinearity
        steps: Recurrent | Step
        if isinstance(module, CELLS):
            steps = STEPS[kind](module.input_size, module.hidden_size, **other)
            weights: list[Any] = [tensors.get(part) for part in PARTS]
            steps.take(*weights)
        else:
            if kind == "LSTM":
                other["proj_size"] = module.proj_size
            sizes = module.input_size, module.hidden_size, module.num_layers
            steps = Recurrent(kind, *sizes, module.batch_first, module.bidirectional, **other)
            for suffix in (suffix for names in steps.suffixes for suffix in names):
                weights = [tensors.get(f"{part}_{suffix}") for part in PARTS]
                steps.step(suffix).take(*weights)
        for name, value in vars(module).items():  # dropout ... which models read
            if (name == "dropout" or not hasattr(steps, name)) and isinstance(value, (bool, int, float, str)):
                setattr(steps, name, value)
        return steps.eval()
