"""Chains of a read at random: each is a one-line error of ours, or a chip whose numbers are right.

    python benchmarks/fuzz_chain.py [--chains 2000] [--seed 0] [--out docs/results]

Each chain takes some parts at random (how inputs are coded, what is sensed, what is converted together, by what ADCs)
and a small layer to go with them. What is taken for hardware must, without noise and ADCs, give what its conductances
say; with both be the numpy twin up to rounding; vary as `expected_errors` has it; and as a chip be the same whatever
the batch and the threads, after `pickle`, and saved and loaded. Exit code 1 if one is not.
"""

from __future__ import annotations

import argparse
import pickle
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

import mho
from mho.crossbar.backends.compiled import Compiled
from mho.crossbar.backends.plain import Plain
from mho.crossbar.calibration import calibrate
from mho.crossbar.cells import Drawn
from mho.crossbar.drive import input_codes, pulses_of
from mho.crossbar.encoding import mirror_ratios
from mho.crossbar.expected import expected_errors
from mho.crossbar.hardware import Hardware
from mho.crossbar.matrix import Matrix
from mho.crossbar.programmed import Programmed
from mho.crossbar.reader import Seeds
from mho.devices.data import ExtrapolationWarning
from mho.records import record, write_json

Array = np.ndarray[Any, Any]
NOISY: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("noisy.yaml").read_text("utf-8"))
KINDS = [
    {"kind": "ramp", "bow": 2.0},
    {"kind": "sar", "mismatch": 0.1},
    {"kind": "cyclic", "mismatch": 0.02},
    {"kind": "flash", "offset": 0.7},
    {"kind": "table", "inl": [0.0, 1.5, -0.5]},
]
LAW = {"offset": 0.03, "slope": -0.01, "low": 0.01, "high": 0.1}
PARTS: list[tuple[float, list[dict[str, Any]]]] = [  # how often, and what of
    (0.9, [{"tile.encoding": name} for name in ("differential", "differential_two_sided", "offset", "single")]),
    (0.3, [{"dac.coding": "time"}]),
    (0.4, [{"dac.phases": 2}]),
    (0.5, [
        *({"dac.bits": b, "dac.bits_per_pulse": d} for b, d in ((2, 1), (4, 1), (7, 3), (8, 2), (16, 5), (9, 1))),
        {"dac.bits": None}, {"dac.bits": None, "dac.range": None}, {"dac.bits": 16}, {"dac.bits": 2}, {"dac.bits": 9},
        {"dac.bits": 8, "dac.range": 0.7}, {"dac.percentile": 90.0},
    ]),
    (0.4, [{"dac.accumulate": "scaled"}, {"dac.accumulate": "repeated"}]),
    (0.5, [{"adc.polarity": "apart"}]),
    (0.3, [{"adc.per": per} for per in ("layer", "tile")]),
    (0.2, [{"adc.span": "fitted"}]),
    (0.3, [{"adc.transfer": "mid_rise"}]),
    (0.4, [{"adc.kind": kind} for kind in KINDS]),
    (0.2, [{"adc.offset": 1.5}, {"adc.gain": 0.03}, {"adc.offset": 0.5, "adc.gain": 0.01}]),
    (0.1, [{"adc.calibrated": True}]),
    (0.4, [{"adc.bits": bits} for bits in (2, 5, 6, 12)] + [{"adc.bits": None, "adc.full_scale": None}]),
    (0.3, [
        {"sensing.mode": "voltage"}, {"sensing.mode": "voltage", "sensing.amplifier_voltage_noise": 1e-7},
        {"sensing.mode": "voltage", "wires.pairs": "shared"}, {"sensing.mode": "voltage", "adc.polarity": "apart"},
    ]),
    (0.2, [{"cell.nonlinearity": law} for law in ({"kind": "sinh", "v_0": 0.15}, {"kind": "cubic", "c_3": 20.0})]),
    (0.1, [{"dac.levels": "current"}]),
    (0.3, [{"tile.devices": n} for n in (2, 3, 4)]),
    (0.3, [{"tile.slices": 2, "cell.levels": 4}, {"tile.slices": 3, "cell.levels": 2}, {"cell.levels": 5}]),
    (0.3, [{"tile.bias": "array"}]),
    (0.3, [{"tile.scale": "tile"}]),
    (0.4, [{"tile.rows": rows, "tile.columns": 24} for rows in (1, 3, 8, 16)]),
    (0.25, [
        {"wires.r_word_line": 20.0, "wires.r_bit_line": 30.0}, {"wires.r_bit_line": 50.0, "wires.pairs": "apart"},
        {"wires.r_bit_line": 40.0, "wires.pairs": "shared"}, {"wires.r_word_line": 40.0, "wires.sense": "both"},
    ]),
    (0.2, [{"cell.stuck": {"at_g_min": 0.2, "at_g_max": 0.1}}]),
    (0.2, [{"cell.g_min": 0.0}]),
    (0.3, [{"cell.programming": {"kind": "none"}}, {"cell.read_noise": {"kind": "none"}}]),
    (0.2, [{"cell.drift": {"kind": "power_law", "t_0": 1, "g_ref": 1e-5, "mean": LAW, "spread": LAW | {"low": 0.0}},
            "time_s": 1e4}]),
    (0.15, [{"cell.read_noise": {"kind": "relative", "fraction": 0.02, "memory": {"kind": "one_over_f", "t_0": 1.0}},
             "sensing.read_interval": 1e-6}]),
    (0.2, [{"sensing.supply_noise": 0.01}, {"sensing.gain_noise": 0.01}, {"sensing.capacitance": 1e-13}]),
    (0.2, [{"sensing.shot": False}, {"sensing.amplifier_noise": 0.0}, {"sensing.fano": 1.0}]),
    (0.3, [{"cost.adcs_per_tile": n} for n in (2, 5, 64)]),
    (0.2, [{"tile.amplifiers": "pair"}]),
    (0.3, [{"tile.slices": 2, "tile.slicing": "residual", "tile.significance": 6.0},
           {"tile.slices": 3, "tile.slicing": "shares", "tile.significance": 2.0, "cell.levels": 9}]),
    (0.3, [{"tile.join": "mirror"}]),
]  # fmt: skip
READS = 300


def chain(number: int, seed: int) -> dict[str, Any]:
    """The fields of chain `number`, by dotted path."""
    rng = random.Random(f"{seed} {number}")
    fields: dict[str, Any] = {}
    for share, some in PARTS:
        if rng.random() < share * rng.choice((0.4, 1)):
            fields |= rng.choice(some)
    return fields


def layer(number: int, seed: int, single: bool) -> tuple[Array, Array | None, Array]:
    """Weights (groups, rows, outputs), bias and inputs of layer `number`."""
    rng = np.random.default_rng([seed, number])
    rows, outputs = int(rng.integers(1, 30)), int(rng.integers(1, 9))
    weights = rng.normal(size=(1, rows, outputs))
    kind = rng.integers(6)
    if kind == 0:
        weights[..., rng.integers(outputs)] = 0
    elif kind == 1:
        weights[:, : rows // 2] = 0
    elif kind == 2:
        weights[:] = np.abs(weights)
    bias = rng.normal(size=(1, outputs)) if rng.random() < 0.5 else None
    if single:
        weights, bias = np.abs(weights), None if bias is None else np.abs(bias)
    x = rng.uniform(-1 if rng.random() < 0.6 else 0, 1, (9, 1, 1, 1, rows))
    x[0] = 0
    return weights.astype(np.float32), None if bias is None else bias.astype(np.float32), x.astype(np.float32)


def as_conductances_say(tiled: Programmed, x: Array) -> Array:
    """Outputs (n, outputs) without noise and ADCs, by Kirchhoff's laws for the cells of a chip without wires."""
    design, hw = tiled.design, tiled.hardware
    drive, law, v_read = design.drive, hw.cell.nonlinearity, hw.sensing.v_read
    rows = x.reshape(len(x), -1).astype(np.float64)
    if design.matrix.bias_on_array:
        rows = np.concatenate([rows, np.full((len(rows), 1), drive.limit)], axis=1)
    codes = input_codes(rows, drive)
    out = np.zeros((len(x), design.placement.outputs)) + design.bias_of(0)
    encoding, edges = design.encodings[0], design.placement.edges
    outputs = design.placement.outputs
    for phase, sign in zip(pulses_of(codes, drive), (1, -1), strict=False):
        for v, weight in zip(phase, drive.weights, strict=True):
            if hw.dac.levels == "voltage" and not drive.timed:
                v = law.current(v * v_read, hw.conditions, np) / v_read
            for t in range(design.placement.row_tiles):
                part = slice(edges[t], edges[t + 1])
                g = tiled.cells.conductances(design, 0, t, tiled.backend).astype(np.float64)
                g = g.reshape(len(g), encoding.polarities, -1, *g.shape[2:]).sum(axis=2)
                targets = encoding.targets(design.rows_of(0)[part], t).astype(np.float64) * design.devices
                lines = np.einsum("nr,sprj->spnj", v[:, part], g)
                if design.floats:
                    whole, meant = g.sum(axis=2, keepdims=True), targets.sum(axis=2, keepdims=True)
                    if not design.apart:
                        lines = lines[:, :1] - lines[:, 1:]
                        whole, meant = whole.sum(axis=1, keepdims=True), meant.sum(axis=1, keepdims=True)
                    lines = meant * np.divide(lines, whole, out=np.zeros_like(lines), where=whole > 0)
                found = lines[:, 0] - (lines[:, 1] if lines.shape[1] == 2 else 0)
                if design.placement.references.size:
                    found = found[..., :outputs] - found[..., design.placement.references]
                if hw.tile.encoding == "single":
                    found = found - design.devices * hw.cell.g_min * v[:, part].sum(axis=1)[None, :, None]
                if hw.tile.joined:
                    found = np.tensordot(mirror_ratios(hw.tile, hw.cell.levels), found, axes=1)[None]
                out += sign * weight * drive.limit * np.einsum("snj,sj->nj", found, encoding.scale[:, t, :outputs])
    return out


def drop(hardware: Hardware, **fields: Any) -> Hardware:
    return hardware.replace({name.replace("__", "."): value for name, value in fields.items()})


class Judge:
    """Makes chains and tries them."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.fields = {name for model in (mho.Hardware,) for name in model.model_fields}
        self.apart: list[float] = []

    def __call__(self, number: int) -> str:
        """`refused`, `refused by map`, or `works`; anything else is what went wrong."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", ExtrapolationWarning)
            try:
                return self.judge(number, chain(number, self.seed))
            except (Exception, RecursionError) as error:
                return "".join(traceback.format_exception_only(error)).strip() + traceback.format_exc(limit=-3)

    def judge(self, number: int, fields: dict[str, Any]) -> str:
        try:
            hw = Hardware.model_validate(NOISY).replace(fields)
        except ValueError as error:
            return self.refusal(error, "refused")
        if Hardware.parse(hw.dump(), "dump") != hw:
            return "dump is not what was read"
        weights, bias, x = layer(number, self.seed, hw.tile.encoding == "single")

        def made(hw: Hardware, backend: Any = None) -> Programmed:
            matrix = Matrix("layer", weights, bias, hw)
            return calibrate(matrix, (x,), Drawn(hw, 5), Seeds(5), backend or Compiled())

        try:
            tiled = made(hw)
        except ValueError as error:
            return self.refusal(error, "refused by map")
        if hw.cell.nonlinearity.kind != "linear" and not hw.wires.ideal:
            return self.chip(number, hw, weights, bias, x) or "a chip of curved cells in wires"
        for check in (self.exact, self.twin, self.spread):
            said = check(made, tiled, hw, x)
            if said:
                return said
        return self.chip(number, hw, weights, bias, x) or "works"

    def refusal(self, error: ValueError, kind: str) -> str:
        said = str(error)
        if not said.isprintable() or not any(f"{name}{end}" in said for end in (".", " ", ":") for name in self.fields):
            return f"an error that names no field: {said!r}"
        return kind

    def exact(self, made: Any, tiled: Programmed, hw: Hardware, x: Array) -> str:
        quiet = drop(hw, adc__bits=None, adc__full_scale=None, adc__per="slice", adc__span="symmetric", adc__kind=None,
                     adc__offset=0.0, adc__gain=0.0, adc__calibrated=False, adc__calibrated_at=None)  # fmt: skip
        tiled = made(quiet)
        if not hw.wires.ideal:
            plain = drop(quiet, dac__coding="amplitude", dac__phases=1, dac__accumulate="digital",
                         adc__polarity="together")  # fmt: skip
            want = made(plain).reader.read(x, noisy=False)[0]
        else:
            want = as_conductances_say(tiled, x)
        got = tiled.reader.read(x, noisy=False)[0]
        wrong = np.abs(got - want).max() / max(np.abs(want).max(), 1e-9)
        return f"outputs are off by {wrong:.2g}" if wrong > 2e-3 else ""

    def twin(self, made: Any, tiled: Programmed, hw: Hardware, x: Array) -> str:
        other = made(hw, Plain())
        for noisy in (True, False):
            (got, counts), (want, expected) = (
                t.reader.read(x, read=3, first_sample=2, noisy=noisy) for t in (tiled, other)
            )
            steps = np.abs(got - want) > 2e-3 * max(np.abs(want).max(), 1e-9)
            if steps.mean() > (0.15 if hw.adc.bits else 0):
                return f"the twin differs: {np.abs(got - want).max():.3g} of {np.abs(want).max():.3g} ({noisy=})"
            if counts.readings != expected.readings:
                return f"readings {counts.readings}, of the twin {expected.readings}"
        return ""

    def spread(self, made: Any, tiled: Programmed, hw: Hardware, x: Array) -> str:
        reads = tiled.reader.read(x, reads=READS, shared=True)[0].reshape(READS, len(x), -1)
        if not np.isfinite(reads).all():
            return "reads are not finite"
        if hw.sensing.read_interval is not None or tiled.reader.read(x)[1].readings_clipped:
            return ""
        want = expected_errors(tiled, x, reads=2).total("fresh")
        got = reads.var(axis=0)
        some = want > 1e-4 * want.max()
        if hw.adc.bits or not some.any():
            return "" if want.any() or got.max() < 1e-9 or hw.adc.bits else f"varies by {got.max():.3g}, want 0"
        ratio = got[some].sum() / want[some].sum()
        self.apart.append(ratio)
        errs = hw.cell.programming.kind != "none" or max(hw.cell.stuck.at_g_min, hw.cell.stuck.at_g_max) > 0
        low, high = (0.4, 2.5) if errs else (0.8, 1.25)
        return "" if low < ratio < high else f"varies {ratio:.3g} times what is expected"

    def chip(self, number: int, hw: Hardware, weights: Array, bias: Array | None, x: Array) -> str:
        net = nn.Sequential(nn.Linear(weights.shape[1], weights.shape[2], bias=bias is not None), nn.ReLU())
        net[0].weight.data = torch.from_numpy(weights[0].T.copy())
        if bias is not None:
            net[0].bias.data = torch.from_numpy(bias[0])
        inputs = torch.from_numpy(x.reshape(len(x), -1))
        if not weights.any():
            return ""  # no layer to map
        try:
            chip = mho.map(net.eval(), hw, calibrate=inputs)
        except ValueError as error:
            return self.refusal(error, "refused by map")
        first = chip.read(inputs, read=2)
        if not torch.isfinite(first).all():
            return "outputs are not finite"
        parts = torch.cat([chip.read(inputs[:4], read=2), chip.read(inputs[4:], read=2, first_sample=4)])
        if not torch.equal(first, parts):
            return "a batch in parts differs"
        if not torch.equal(first, pickle.loads(pickle.dumps(chip)).read(inputs, read=2)):
            return "a pickled chip differs"
        with tempfile.TemporaryDirectory() as folder:
            chip.save(Path(folder) / "chip")
            for mmap in (False, True):
                if not torch.equal(first, mho.load(Path(folder) / "chip", mmap=mmap).read(inputs, read=2)):
                    return f"a loaded chip differs ({mmap=})"
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        again = chip.read(inputs, read=2)
        torch.set_num_threads(threads)
        if not torch.equal(first, again):
            return "two threads differ"
        alike = hw.adc.calibrated or getattr(hw.adc.kind, "kind", "") in ("ramp", "table")
        if hw.adc.differ and not alike:
            own, other = (c.read(inputs, read=0, noisy=False) for c in (chip, chip.copy(3)))
            self.copies += bool(torch.equal(own, other) and first.abs().max() > 0)
        if hw.time_s:
            for compensated in (False, True):
                late = chip.at(1e6, drift_compensation=compensated)
                if not torch.isfinite(late.read(inputs, read=0)).all():
                    return "outputs are not finite after drift"
        text = str(chip.report())
        if "nan" in text.lower():
            return "the report has NaN"
        return ""

    copies = 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--chains", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    asked = parser.parse_args(arguments)
    start, judge = time.monotonic(), Judge(asked.seed)
    counts: Counter[str] = Counter()
    wrong: dict[int, str] = {}
    for number in range(asked.first, asked.first + asked.chains):
        said = judge(number)
        counts[said if said in ("refused", "refused by map", "works") else "wrong"] += 1
        if said not in ("refused", "refused by map", "works"):
            wrong[number] = said
            print(number, chain(number, asked.seed), said, flush=True)
    print(f"{asked.chains} chains: {dict(counts)}")
    result = {"seconds": round(time.monotonic() - start), "chains": asked.chains, **dict(sorted(counts.items()))}
    command = f"benchmarks/fuzz_chain.py --chains {asked.chains} --seed {asked.seed}"
    kept = record(("mho", "torch", "numba", "numpy", "pydantic", "pyyaml"), command) | result | {"failures": wrong}
    write_json(kept, asked.out / "fuzz_chain.json")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
