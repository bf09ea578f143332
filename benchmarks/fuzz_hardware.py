"""Hardware files at random: each is a one-line error of ours, or a chip that works.

    python benchmarks/fuzz_hardware.py [--files 10000] [--seed 0] [--out docs/results]

File number i is the preset i mod 4 with all its fields, of which some are changed: values replaced by odd or extreme
ones, fields removed, renamed, doubled, moved or added, the text damaged, structures that explode. What is taken for
hardware maps a network of two layers, with converters calibrated, and must then be finite, the same at the same read
number, not constant, its `dump` equal to itself when read back, and, where nothing errs, equal to the network.

Files are read in processes of their own, which are watched: one that dies, or takes longer than `--limit` seconds for a
file, is counted, and the rest goes on. Exit code 1 if a file was neither.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import random
import sys
import time
import traceback
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel
from torch import nn

import mho
from mho.crossbar.hardware import PRESETS, Hardware
from mho.devices.data import ExtrapolationWarning
from mho.records import record, write_json

WHERE = "fuzz.yaml"
NUMBERS = [0, -1, 1, 2, 3, 17, 2**31, 2**63, 10**30, 10**400]
SIZES = [5e-324, 1e-45, 1e-30, *(10.0**k for k in range(-22, 17)), 1e30, 4e35, 1e308]
WORDS = [
    "",
    "yes",
    "none",
    "0x10",
    "010",
    "1_000",
    "1:30",
    "50 uS",
    "5 uV",
    "1e5 S",
    "1e400",
    "nan",
    "é",
    "a\nb",
    "\u2028",
]
ODD: list[Any] = [
    *NUMBERS, *WORDS, "calibrated", "x" * 5000, True, False, None, [], {}, [1], [None], {"kind": "none"}, {1: 2},
    float("inf"), float("-inf"), float("nan"), [[[[[]]]]],
]  # fmt: skip
ADDED: dict[str, list[Any]] = {
    "time_s": [0, 1, 3600.0, 86400.0, 1e5, 1e9],
    "cell.levels": [2, 3, 16, 256, 65536],
    "reads": [1, 1000, 10**9, 10**15],
    "cycles": [1, 10**6, 10**12],
    "program_temperature": [1.0, 280.0, 350.0],
    "storage_temperature": [1.0, 280.0, 350.0],
    "cell.stuck": [{"word_lines": 0.1}, {"bit_lines": 0.1}, {"map": {"0": [[0, 1], [2, 0]]}}, {"map": "none.npz"}],
    "cell.drift": [
        {"kind": "none"},
        {"kind": "power_law", "t_0": 1, "g_ref": 1e-5, "mean": None, "spread": None},
        {"kind": "read_disturb", "tau": 1e-3, "v_ref": 0.2, "v_0": 0.03, "toward": 1e-5},
        {"kind": "wear", "loss": 0.1, "exponent": 0.5, "n_ref": 1e6, "toward": 1e-6},
        {"kind": "failure", "life": 1e7, "shape": 1.5, "low": 1e-6, "high": 1e-5},
        {"kind": "temperature_coefficient", "g_ref": 1e-5, "per_kelvin": [0.003]},
        {"kind": "thermally_activated", "g_ref": 1e-5, "energies": [0.1]},
        {"kind": "sequence", "changes": [{"kind": "none"}]},
    ],
    "cell.programming": [
        {"kind": "none"},
        {"kind": "saturating", "s_max": 1e-6, "g_0": 1e-6},
        {"kind": "incremental", "v_step": 0.1, "string": {"g_ref": 1e-6, "v_overdrive": 0.5}},
        {"kind": "skewed", "g_ref": 1e-5, "bias": [1e-7], "coefficients": [1e-6], "skewness": 2},
        {
            "kind": "quantiles",
            "g_ref": 1e-5,
            "conductances": [0, 1],
            "probabilities": [0.1, 0.9],
            "errors": [[-1, 1]] * 2,
        },
        {
            "kind": "device_to_device",
            "range_spread": 0.1,
            "error": {"kind": "polynomial", "coefficients": [0], "g_ref": 1},
        },
        {"kind": "verify", "tolerance": 1e-6, "step": 1e-6, "gain": 0.5, "step_spread": 0.5, "read_std": 1e-7},
    ],
    "cell.read_noise": [
        {"kind": "none"},
        {"kind": "constant", "std_g": 1e-7},
        {"kind": "flicker", "k_f": 1e-3, "t_0": 1.0},
        {"kind": "telegraph", "amplitude": 0.1, "capture": 1e-6, "emission": 1e-5},
        {"kind": "string", "sigma_vt": 1e-3, "string": {"g_ref": 1e-6, "v_overdrive": -0.1}},
        {"kind": "sum", "parts": [{"kind": "relative", "fraction": 0.01}, {"kind": "constant", "std_g": 1e-8}]},
    ],
    "cell.read_noise.memory": [{"kind": "one_over_f", "t_0": 1.0}, {"kind": "telegraph", "tau": 1e-3}],
    "sensing.read_interval": [1e-6, 1e-3, 1.0],
    "sensing.capacitance": [1e-15, 1e-12],
    "adc.transfer": ["mid_rise"],
    "adc.calibrated_at": [0.001, 0.2, 10.0],
    "adc.full_scale": [1e-9, 1e-6, 1e-3],
    "dac.range": [1e-3, 1.0, 1e3],
    "tile": [
        {"rows": 4, "columns": 4},
        {"rows": 3, "columns": 7, "encoding": "offset"},
        {"encoding": "differential_two_sided", "scale": "tile", "bias": "array"},
        {"encoding": "differential", "amplifiers": "pair"},
        {"encoding": "single"},
    ],
    "wires": [{"r_word_line": 1.0, "r_bit_line": 1.0}, {"r_bit_line": 1e3, "pairs": "shared", "sense": "both"}],
    "layers": [{"*": {"adc.bits": 6}}, {"0": {"cell.g_max": 1e-5}}, {"2": {"tile": {"rows": 2}}}, {"0": {}}],
    "seeds": [{"program": 3}, {"read": -1}],
    "output_noise": [{"sigma_mult": 0.5}, {"frozen_add": 0.1}],
}
BOMBS = [
    lambda rng: "[" * rng.choice((60, 500, 50000)),
    lambda rng: "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10) if i else 'x'}]\n" for i in range(12)),
    lambda rng: "a: &a {b: *a}\n",
    lambda rng: "cell: " + "9" * rng.choice((30, 5000, 200000)),
    lambda rng: "\n".join(f"{'  ' * i}a:" for i in range(rng.choice((60, 400)))),
    lambda rng: "layers: {" + ", ".join(f"l{i}: {{adc.bits: 6}}" for i in range(rng.choice((10, 3000)))) + "}\n",
    lambda rng: "description: " + "x" * rng.choice((9_000, 20_000, 2_000_000)),
    lambda rng: "sources: {? [1, 2] : x}\n",
    lambda rng: "name: !!python/object/apply:os.getcwd []\n",
]


TREES = [Hardware.preset(name).model_dump(mode="json") for name in PRESETS]
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def leaves(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a tree."""
    pairs = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    return [(tree, key) for key, _ in pairs] + [found for _, value in pairs for found in leaves(value)]


def odd_value(value: Any, rng: random.Random) -> Any:
    """Something in place of a value: near it, far from it, or of another kind."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and rng.random() < 0.6:
        if rng.random() < 0.4:
            return rng.choice(SIZES)
        return type(value)(value * 10 ** rng.uniform(-4, 4))
    return copy.deepcopy(rng.choice(ODD + SIZES))


def change(tree: dict[str, Any], rng: random.Random) -> None:
    """One change of a hardware file, in place."""
    if rng.random() < 0.3:
        path = rng.choice(list(ADDED))
        *parents, last = path.split(".")
        node: Any = tree
        for part in parents:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node[last] = yaml.safe_load(yaml.safe_dump(rng.choice(ADDED[path])))
            return
    found = [(node, key) for node, key in leaves(tree) if key != "sources"]
    node, key = rng.choice(found)
    kind = rng.random()
    if kind < 0.75 or isinstance(node, list):
        node[key] = odd_value(node[key], rng)
    elif kind < 0.85:
        del node[key]
    elif kind < 0.92:
        node[rng.choice([f"{key}x", key.upper() if isinstance(key, str) else key, "kind", "\n", 3])] = node.pop(key)
    else:
        other, _ = rng.choice([(n, k) for n, k in found if isinstance(n, dict)])
        other[key] = copy.deepcopy(node[key])


def damage(text: str, rng: random.Random) -> str:
    """Text with some of its characters changed, removed or doubled, or cut off."""
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.randrange(max(len(text), 1))
        kind = rng.randrange(4)
        many = rng.choice((1, 1, 5, 100))
        if kind == 0:
            text = text[:at] + rng.choice("0123456789-.eE:{}[]&*!#|>'\"%@`,?\t\n \0\x85\ud800") + text[at + 1 :]
        elif kind == 1:
            text = text[:at] + text[at + many :]
        elif kind == 2:
            text = text[:at] + text[at : at + many] + text[at:]
        else:
            text = text[:at] + str(rng.choice(ODD)) + text[at:]
    return text


def make(number: int, seed: int) -> str:
    """The text of file `number`."""
    rng = random.Random(f"{seed} {number}")
    tree = copy.deepcopy(TREES[number % len(TREES)])
    if rng.random() < 0.5:
        del tree["cost"]
    del tree["sources"]
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        change(tree, rng)
    text = yaml.dump(tree, Dumper=DUMPER, sort_keys=False, allow_unicode=True)
    kind = rng.random()
    if kind < 0.1:
        return damage(text, rng)
    if kind < 0.13:
        line = rng.choice(text.splitlines())
        return f"{text}{line}\n"
    return text + rng.choice(BOMBS)(rng) if kind < 0.16 else text


def fields() -> set[str]:
    """The names of all fields of hardware."""
    found, kinds = set(), [Hardware]
    for model in kinds:
        found |= set(model.model_fields)
        for field in model.model_fields.values():
            kinds += [kind for kind in models(field.annotation) if kind not in kinds]
    return found


def models(annotation: Any) -> list[Any]:
    """The models that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation, *(kind for below in annotation.__subclasses__() for kind in models(below))]
    return [kind for part in getattr(annotation, "__args__", ()) for kind in models(part)]


class Judge:
    """Reads hardware files and tries the chips."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval().requires_grad_(False)
        self.x = torch.rand(24, 6)
        self.exact = self.net(self.x)
        self.fields = fields()

    def __call__(self, text: str) -> str:
        """`refused`, `refused by map`, or `works`; anything else is what went wrong."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", ExtrapolationWarning)
            try:
                return self._judge(text)
            except (Exception, RecursionError) as error:
                return "".join(traceback.format_exception_only(error)).strip() + traceback.format_exc(limit=-2)

    def _judge(self, text: str) -> str:
        try:
            hardware = Hardware.parse(text, WHERE)
        except ValueError as error:
            said = str(error)
            if type(error) is not ValueError or not said.isprintable() or not said.startswith(f"{WHERE}: "):
                return f"an error of another kind: {error!r}"
            known = any(f"{name}" in said for name in self.fields) or "YAML" in said or "expected a mapping" in said
            return "refused" if known and len(said) < 3000 else f"an error that names no field: {said}"
        if Hardware.parse(hardware.dump(), "dump") != hardware:
            return "dump is not what was read"
        try:
            chip = mho.map(self.net, hardware, calibrate=self.x)
        except ValueError as error:
            said = str(error)
            named = said.startswith("layer '") or any(f".{name}" in said for name in self.fields)
            return "refused by map" if said.isprintable() and named else f"an error of another kind: {error!r}"
        first, again, calm = (chip.read(self.x, read=0, noisy=noisy) for noisy in (True, True, False))
        if not torch.equal(first, again):
            return "two reads of one number differ"
        if not (torch.isfinite(first).all() and torch.isfinite(calm).all()):
            return "outputs are not finite"
        if float(calm.std(dim=0).max()) == 0 and not self._may_be_constant(chip):
            return "outputs are constant"
        wrong = float((calm - self.exact).abs().max() / self.exact.abs().max())
        if self._exact(chip) and wrong > 1e-4:
            return f"nothing errs, and outputs are off by {wrong:.2g}"
        return "works"

    def _may_be_constant(self, chip: mho.Chip) -> bool:
        """Where hardware says so: stuck cells, few levels, clipping that is counted, lines that lose everything."""
        for layer in chip.layers.values():
            hardware = layer.hardware
            rates = hardware.cell.stuck
            stuck = max(rates.at_g_min + rates.at_g_max, 5 * (1 - rates.alive), hardware.cycles > 0)
            few = [bits for bits in (hardware.dac.bits, hardware.adc.bits, hardware.cell.levels) if bits is not None]
            counts = layer.counts
            clipped = counts.inputs_clipped > 0.1 * counts.inputs or counts.readings_clipped > 0.1 * counts.readings
            given = hardware.adc.calibrated_at is not None or hardware.adc.full_scale not in (None, "calibrated")
            if stuck > 0.7 or min(few, default=99) <= 3 or clipped or given or not hardware.wires.ideal:
                return True
        return False

    def _exact(self, chip: mho.Chip) -> bool:
        for layer in chip.layers.values():
            hardware, cell = layer.hardware, layer.hardware.cell
            noise = hardware.output_noise.frozen_add + hardware.output_noise.frozen_mult
            faults = cell.stuck.any or cell.stuck.alive < 1 or cell.stuck.map
            errs = cell.programming.kind != "none" or cell.levels or faults
            aged = cell.drift.kind != "none" and cell.drift.active(hardware.conditions)
            converts = hardware.adc.bits or hardware.dac.bits or hardware.dac.range not in (None, "calibrated")
            if noise or errs or aged or converts or not hardware.wires.ideal or hardware.sensing.read_interval:
                return False
            if hardware.tile.encoding != "differential" and cell.g_max - cell.g_min < 0.1 * cell.g_max:
                return False
        return True


def worker(numbers: list[int], seed: int, pipe: Any) -> None:
    """Judges files, and tells each result."""
    torch.set_num_threads(1)
    judge = Judge()
    pipe.send(None)
    for number in numbers:
        pipe.send((number, judge(make(number, seed))))


def run(left: list[int], seed: int, limit: float) -> tuple[Counter[str], dict[int, str]]:
    """Counts by outcome, and what went wrong by number of file, of the files of these numbers."""
    counts: Counter[str] = Counter()
    wrong: dict[int, str] = {}
    count = len(left)
    context = multiprocessing.get_context("spawn")
    while left:
        here, there = context.Pipe()
        process = context.Process(target=worker, args=(left, seed, there))
        process.start()
        there.close()
        outcome = None
        try:
            here.recv() if here.poll(120) else None
            while left:
                if not here.poll(limit):
                    outcome = f"took more than {limit:g} s"
                    break
                number, said = here.recv()
                left.remove(number)
                counts[said if said in ("refused", "refused by map", "works") else "wrong"] += 1
                if said not in ("refused", "refused by map", "works"):
                    wrong[number] = said
                    print(number, said, flush=True)
                elif len(left) % 1000 == 0:
                    print(f"{count - len(left)} files: {dict(counts)}", flush=True)
        except EOFError:
            outcome = "the process died"
        process.kill()
        process.join()
        if outcome is not None and left:
            number = left.pop(0)
            counts["wrong"] += 1
            wrong[number] = outcome
            print(number, outcome, flush=True)
    return counts, wrong


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for one file")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    asked = parser.parse_args(arguments)
    start = time.monotonic()
    parts = [list(range(first, asked.files, asked.jobs)) for first in range(asked.jobs)]
    with ThreadPoolExecutor(asked.jobs) as pool:
        found = list(pool.map(lambda part: run(part, asked.seed, asked.limit), parts))
    counts = sum((of_part for of_part, _ in found), Counter())
    wrong = {number: said for _, of_part in found for number, said in sorted(of_part.items())}
    print(f"{asked.files} files: {dict(counts)}")
    result = {"seconds": round(time.monotonic() - start), "files": asked.files, **dict(sorted(counts.items()))}
    command = f"benchmarks/fuzz_hardware.py --files {asked.files} --seed {asked.seed}"
    kept = record(("mho", "torch", "numba", "numpy", "pydantic", "pyyaml"), command) | result | {"failures": wrong}
    write_json(kept, asked.out / "fuzz_hardware.json")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
