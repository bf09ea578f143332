"""The list of all cases of `digests.py`, by name."""

from __future__ import annotations

from functools import partial
from typing import Any

import digest_cases as case
from digest_cases import KEPT, TELEGRAPH, WIRES, Case, dense, network, pictures
from digest_parts import (
    PRESETS,
    Attention,
    Cell,
    Positions,
    Shared,
    Steps,
    cnn,
    conv,
    filled,
    inputs,
    mlp,
    noisy,
    on_chip,
    preset,
)
from torch import nn

ENCODINGS = ("differential", "differential_two_sided", "offset", "single")
NO_DAC: dict[str, Any] = {"dac.bits": None, "dac.range": None}
NO_ADC: dict[str, Any] = {"adc.bits": None, "adc.full_scale": None}
SHARED_LINES = {**WIRES, "wires.pairs": "shared"}
BOTH_ENDS = {**WIRES, "wires.r_driver": 50.0, "wires.r_sense": 20.0, "wires.drivers": "both", "wires.sense": "both"}
STRING = {"g_ref": "40 uS", "v_overdrive": "0.5 V", "r_pass": "5 kOhm"}
PAIRED = {"tile.slices": 2, "cell.levels": 16}
INTERVAL = {"sensing.read_interval": "200 ns"}

# noise of cells that lasts, and how it is measured
SLOW: dict[str, dict[str, Any]] = {
    "pcm": {"kind": "pcm", "g_ref": "40 uS", "coefficient": 0.01, "exponent": 0.5, "maximum": 0.2, "t_0": "20 s"},
    "flicker since programming": {"kind": "flicker", "k_f": 1e-4, "t_0": "1 s"},
    "flicker": {"kind": "flicker", "k_f": 1e-4, "f_low": 1.0},
    "telegraph": TELEGRAPH,
    "memory one_over_f": {"kind": "relative", "fraction": 0.05, "memory": {"kind": "one_over_f", "t_0": "1 s"}},
    "memory telegraph": {"kind": "constant", "std_g": "0.5 uS", "memory": {"kind": "telegraph", "tau": "1 us"}},
    "string": {"kind": "string", "sigma_vt": "1 mV", "string": STRING, "memory": {"kind": "one_over_f", "t_0": "1 s"}},
}
SLOW["sum"] = {"kind": "sum", "parts": [TELEGRAPH, SLOW["flicker"], {"kind": "relative", "fraction": 0.02}]}
RELAXATION = {
    "kind": "relaxation",
    "t_0": "1 s",
    "g_ref": "40 uS",
    "times": ["3600 s", "100000 s"],
    "conductances": [0, 0.5, 1],
    "std": [[0.01, 0.03, 0.02], [0.02, 0.05, 0.04]],
    "shift": [[0, -0.01, -0.02], [0, -0.02, -0.04]],
}


def cases() -> dict[str, Case]:
    """All cases by name, in the order in which they run."""
    found: dict[str, Case] = {}
    for name in PRESETS:
        found[f"preset {name}, linear"] = partial(case.of_preset, name, mlp, (6, 20))
        found[f"preset {name}, convolutions"] = partial(case.of_preset, name, cnn, (3, 3, 8, 8))
    return found | tiles() | converters() | noise() | wires() | networks() | chips() | figures()


def tiles() -> dict[str, Case]:
    """Encodings, slices, places of the bias, scales, amplifiers."""
    found: dict[str, Case] = {}
    for encoding in ENCODINGS:
        kind, positive = {"tile.encoding": encoding}, encoding == "single"
        found[f"tile {encoding}"] = partial(dense, kind, positive=positive)
        found[f"tile {encoding}, inputs not negative"] = partial(dense, kind, positive=positive, signed=False)
        found[f"tile {encoding}, bias on array"] = partial(dense, {**kind, "tile.bias": "array"}, positive=positive)
        for slices, levels in ((2, 16), (4, 4)):
            sliced = {**kind, "tile.slices": slices, "cell.levels": levels}
            found[f"tile {encoding}, {slices} slices"] = partial(dense, sliced, positive=positive)
    found["tile scale"] = partial(dense, {"tile.scale": "tile"})
    found["tile amplifiers of pairs"] = partial(dense, {"tile.amplifiers": "pair"})
    found["tile levels"] = partial(dense, {"cell.levels": 8})
    found["tile of one row"] = partial(dense, {"tile.rows": 1})
    found["convolutions, offset, bias on array"] = partial(pictures, {"tile.encoding": "offset", "tile.bias": "array"})
    found["convolutions, slices and pulses"] = partial(pictures, {**PAIRED, "dac.bits_per_pulse": 3})
    return found


def converters() -> dict[str, Case]:
    """Bit-serial inputs, planes of floating-point numbers, ranges."""
    fields: dict[str, dict[str, Any]] = {
        "dac 1 bit a pulse": {"dac.bits_per_pulse": 1},
        "dac 3 bits a pulse": {"dac.bits_per_pulse": 3},
        "dac 3 bits a pulse, offset slices": {"dac.bits_per_pulse": 3, "tile.encoding": "offset", **PAIRED},
        "dac 12 bits, 5 bits a pulse": {"dac.bits": 12, "dac.bits_per_pulse": 5},
        "dac 10 bits": {"dac.bits": 10},
        "dac none": NO_DAC,
        "dac range without codes": {"dac.bits": None},
        "dac range": {"dac.range": 0.75},
        "dac percentile": {"dac.percentile": 80.0},
        "adc none": NO_ADC,
        "adc 12 bits": {"adc.bits": 12},
        "adc mid-rise": {"adc.transfer": "mid_rise"},
        "adc mid-rise, not signed": {"adc.transfer": "mid_rise", "tile.encoding": "offset"},
        "adc full scale": {"adc.full_scale": "10 uA"},
        "adc percentile": {"adc.percentile": 90.0},
        "adc calibrated at another voltage": {"adc.calibrated_at": "0.1 V"},
        "no converters": {**NO_DAC, **NO_ADC},
        "no converters, offset slices": {**NO_DAC, **NO_ADC, "tile.encoding": "offset", **PAIRED},
    }
    found: dict[str, Case] = {name: partial(dense, changes) for name, changes in fields.items()}
    found["adc mid-rise, not signed"] = partial(dense, fields["adc mid-rise, not signed"], signed=False)
    found["convolutions, dac 10 bits"] = partial(pictures, {"dac.bits": 10})
    found["convolutions, no converters"] = partial(pictures, {**NO_DAC, **NO_ADC})
    return found


def noise() -> dict[str, Case]:
    """Programming, stuck cells, drift, noise of cells, sensing and outputs, seeds."""
    fields: dict[str, dict[str, Any]] = {
        "programming none": {"cell.programming": {"kind": "none"}},
        "programming saturating": {"cell.programming": {"kind": "saturating", "s_max": "1 uS", "g_0": "10 uS"}},
        "programming incremental": {
            "cell.programming": {"kind": "incremental", "v_step": "20 mV", "c_pp": 1e-17, "string": STRING}
        },
        "stuck cells": {"cell.stuck.at_g_min": 0.05, "cell.stuck.at_g_max": 0.03},
        "stuck cells, offset slices": {"cell.stuck.at_g_max": 0.1, "tile.encoding": "offset", **PAIRED},
        "read noise none": {"cell.read_noise": {"kind": "none"}},
        "read noise constant": {"cell.read_noise": {"kind": "constant", "std_g": "0.5 uS"}},
        "read noise saturating": {"cell.read_noise": {"kind": "saturating", "i_max": "50 nA", "i_0": "2 uA"}},
        "shot noise alone": {"sensing.thermal": False, "sensing.fano": 1.0, "cell.read_noise": {"kind": "none"}},
        "thermal noise alone": {"sensing.shot": False, "cell.read_noise": {"kind": "none"}},
        "noise of an integrator": {"sensing.capacitance": "100 fF"},
        "gain noise": {"sensing.gain_noise": 0.02},
        "supply noise": {"sensing.supply_noise": 0.02},
        "gain and supply noise, slices and pulses": {
            "sensing.gain_noise": 0.02, "sensing.supply_noise": 0.02, "dac.bits_per_pulse": 3, **PAIRED
        },
        "output noise added": {"output_noise.sigma_add": 0.1},
        "output noise multiplied": {"output_noise.sigma_mult": 0.1},
        "output noise frozen": {"output_noise.frozen_add": 0.1, "output_noise.frozen_mult": 0.1},
        "output noise of all kinds": {
            f"output_noise.{kind}": 0.1 for kind in ("sigma_add", "sigma_mult", "frozen_add", "frozen_mult")
        },
        "seeds": {"seeds.program": 11, "seeds.read": -12},
        "overrides of a layer": {"layers": {"2": {"adc.bits": 6, "tile.encoding": "offset", "dac.bits": 10}}},
    }  # fmt: skip
    found: dict[str, Case] = {name: partial(dense, changes) for name, changes in fields.items()}
    for name, kind in SLOW.items():
        found[f"slow noise {name}"] = partial(dense, {"cell.read_noise": kind, **INTERVAL})
    slices = {"cell.read_noise": TELEGRAPH, **INTERVAL, "tile.encoding": "offset", **PAIRED}
    found["slow noise, offset slices, 10 bits"] = partial(dense, {**slices, "dac.bits": 10})
    found["slow noise, convolutions"] = partial(pictures, {"cell.read_noise": TELEGRAPH, **INTERVAL})
    found["drift pcm"] = lambda: case.drift(preset("pcm", case.SMALL))
    found["drift reram"] = lambda: case.drift(preset("reram", case.SMALL))
    found["drift relaxation with a shift"] = lambda: case.drift(
        noisy({"cell.drift": RELAXATION, "tile.encoding": "offset"})
    )
    found["output noise, convolutions"] = partial(
        pictures, {"output_noise.sigma_add": 0.1, "output_noise.frozen_mult": 0.1}
    )
    return found


def wires() -> dict[str, Case]:
    fields: dict[str, dict[str, Any]] = {
        "adjacent": WIRES,
        "apart": {**WIRES, "wires.pairs": "apart"},
        "shared bit lines": SHARED_LINES,
        "both ends": BOTH_ENDS,
        "word lines alone": {"wires.r_word_line": 15.0},
        "bit lines alone": {"wires.r_bit_line": 15.0, "wires.r_sense": 100.0},
        "offset slices": {**WIRES, "tile.encoding": "offset", **PAIRED},
        "10 bits and pulses": {**WIRES, "dac.bits": 10, "dac.bits_per_pulse": 5},
        "slow noise": {**WIRES, "cell.read_noise": TELEGRAPH, **INTERVAL},
    }
    found: dict[str, Case] = {f"wires {name}": partial(dense, changes) for name, changes in fields.items()}
    for name in ("adjacent", "shared bit lines", "offset slices"):
        for how in ("gain", "program"):
            changes = {**fields[name], "wires.order": "conductance"}
            found[f"wires {name}, ordered, compensated by {how}"] = partial(dense, changes, wire_compensation=how)
    found["wires compensated by gain"] = partial(dense, WIRES, wire_compensation="gain")
    found["wires compensated by program"] = partial(dense, WIRES, wire_compensation="program")
    found["wires ordered"] = partial(dense, {**WIRES, "wires.order": "conductance"})
    found["wires, convolutions"] = partial(pictures, {**WIRES, "wires.order": "conductance"})
    return found


def networks() -> dict[str, Case]:
    """Convolutions, recurrent layers, places of the samples, layers that are shared."""
    found: dict[str, Case] = {
        "network of convolutions": partial(pictures, {}),
        "convolution 1d": partial(network, partial(conv, 1, stride=2), 3, 4, 9),
        "convolution 2d": partial(network, partial(conv, 2), 2, 4, 6, 5),
        "convolution 3d": partial(network, partial(conv, 3), 2, 4, 4, 3, 3),
        "convolution grouped": partial(network, partial(conv, 2, groups=2), 2, 4, 6, 5),
        "convolution depthwise": partial(network, partial(conv, 2, groups=4), 2, 4, 6, 5),
        "convolution dilated": partial(network, partial(conv, 2, dilation=2, padding=2), 2, 4, 6, 5),
        "convolution 1d dilated, same": partial(network, partial(conv, 1, dilation=2, padding="same"), 3, 4, 9),
        "convolution pointwise": partial(network, lambda: nn.Conv2d(4, 6, 1, bias=False), 2, 4, 5, 3),
        "transposed positions": partial(network, Positions, 3, 4, 9),
        "shared layer": partial(network, Shared, 6, 12),
        "sequence first": partial(case.second, Attention, 4, 3, 8),
        "attention": partial(case.second, partial(Attention, softmax=True), 4, 3, 8),
        "batch norm of features": partial(
            network, lambda: nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)), 6, 12
        ),
        "batch norm first": partial(
            network, lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten()), 2, 4, 6, 5
        ),
        "packed sequence": case.packed,
    }  # fmt: skip
    for mode in ("reflect", "replicate", "circular"):
        found[f"convolution 2d, padding {mode}"] = partial(network, partial(conv, 2, mode, padding=2), 2, 4, 6, 5)
    relu: dict[str, Any] = {"nonlinearity": "relu"}
    layers: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
        "RNN relu": (nn.RNN, relu),
        "RNN relu, two layers, both ways": (nn.RNN, {**relu, "num_layers": 2, "bidirectional": True}),
        "RNN tanh": (nn.RNN, {}),
        "GRU": (nn.GRU, {}),
        "GRU both ways": (nn.GRU, {"bidirectional": True}),
        "LSTM": (nn.LSTM, {}),
        "LSTM two layers, both ways": (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    }
    for name, (kind, options) in layers.items():
        found[f"recurrent {name}"] = partial(network, partial(Steps, kind, **options), 4, 3, 6)
    found["recurrent RNN relu, 3 pulses"] = partial(
        network, partial(Steps, nn.RNN, **relu), 4, 3, 6, fields={"dac.bits_per_pulse": 3, "tile.bias": "array"}
    )
    for cell, options in ((nn.RNNCell, relu), (nn.GRUCell, {}), (nn.LSTMCell, {})):
        found[f"recurrent {cell.__name__}"] = partial(network, partial(Cell, cell, **options), 4, 3, 6)
    return found


def chips() -> dict[str, Case]:
    """Copies, calls, votes, saved chips."""
    found: dict[str, Case] = {
        "copies": case.copies,
        "calls": case.calls,
        "vote hard": partial(case.votes, rule="hard"),
        "vote soft": partial(case.votes, rule="soft"),
        "vote of copies": partial(case.votes, rule="hard", copies=2, first_sample=5),
        "vote adaptive": partial(case.adaptive, rule="hard"),
        "vote adaptive, soft, copies": partial(case.adaptive, rule="soft", copies=2),
        "saved of version 0.1": case.old_chip,
        "saved convolutions": lambda: case.saved(
            on_chip(cnn(), noisy(), inputs(3, 3, 8, 8)), inputs(3, 3, 8, 8, seed=2)
        ),
        "saved recurrent": lambda: case.saved(
            on_chip(filled(Steps(nn.RNN, nonlinearity="relu")), noisy(), inputs(4, 3, 6)), inputs(4, 3, 6, seed=2)
        ),
    }
    for name in KEPT:
        found[f"saved now, {name}"] = lambda name=name: case.saved(case.kept_chip(name), inputs(6, 20))  # type: ignore[misc]
        found[f"saved of version 0.2, {name}"] = partial(case.kept, name)
    return found


def figures() -> dict[str, Case]:
    """Costs, times, errors expected and measured, sweeps."""
    found: dict[str, Case] = {
        "costs of convolutions": case.costs,
        "costs of steps": case.steps_costs,
        "costs at the peak": case.peaks,
        "reduction": partial(case.reduction, {}),
        "reduction, slow noise": partial(case.reduction, {"cell.read_noise": TELEGRAPH, **INTERVAL}),
        "expected errors": partial(case.expectations, {}),
        "expected errors, slow noise, offset slices": partial(
            case.expectations, {"cell.read_noise": SLOW["sum"], **INTERVAL, "tile.encoding": "offset", **PAIRED}
        ),
        "expected errors, wires": partial(case.expectations, SHARED_LINES, wire_compensation="gain"),
        "expected errors, 12 bits in 3 pulses": partial(
            case.expectations, {"dac.bits": 12, "dac.bits_per_pulse": 4, "sensing.supply_noise": 0.01}
        ),
    }
    for experiment in ("accuracy", "voting", "reduction"):
        found[f"sweep of {experiment}"] = partial(case.sweep, experiment)
    return found
