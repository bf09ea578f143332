"""Damage saved chips in every way, and see that none gives other numbers, an error of many lines, a crash or a hang.

    python benchmarks/fuzz_chips.py [--cases 2000] [--seed 0] [--out docs/results]

Half of the cases are damage: bytes of `chip.yaml` or `chip.safetensors` are changed, cut out, put in or swapped, fields
and tensors are altered, files are taken from another chip, and the digests stay what they were. Such a chip must be
refused by a `CheckpointError` of one line.

The other half are forgeries: fields and tensors are altered and the digests made anew, as only somebody who means it
does. Such a chip must be refused in one line, when it is read from at the latest, or work: the same bits for the same
read, and a report. An error of torch counts apart: digital functions of the model's own structure, called with what
they cannot take, fail as they do in any model.

Damage to a chip of format 2, which has no digests, may work like a forgery.

Each case is loaded and read in a process of its own kind, which a crash ends and a hang is ended in, and both are
counted. With NUMBA_BOUNDSCHECK=1 in the environment the compiled code checks each access (slow, and in a cache of its
own: set NUMBA_CACHE_DIR too).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from chip_damage import change_bytes, change_tensors, change_text
from saved_chips import format_of, make_older, measured, opened, write
from torch import nn

import mho
import mho.crossbar
from mho.mapping.errors import CheckpointError
from mho.mapping.saved import store
from mho.records import record

LIMIT_S = 120.0  # for one case; they take milliseconds, or seconds where a machine is busy
LIMIT_BYTES = 1e9  # of memory that the cases of a process may take beyond what it starts with
GOOD = {
    "damage": {"refused"},
    "forgery": {"refused", "refused when read", "works", "works, not finite", "error of torch when read"},
}
NOISY = Path(__file__).with_name("noisy.yaml")
SMALL = {"tile.rows": 16, "tile.columns": 16}
TELEGRAPH = {"kind": "telegraph", "amplitude": 0.2, "capture": "1 us", "emission": "1 us"}


class LSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 6, batch_first=True)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.fc(self.lstm(x)[0][:, -1])


def _linear() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 12), nn.LayerNorm(12), nn.ReLU(), nn.Linear(12, 3))


def _conv() -> nn.Module:
    conv = nn.Conv2d(4, 4, 3, groups=2, padding="same", padding_mode="reflect", dilation=2)
    first = nn.Conv2d(2, 4, 3, padding=1, stride=2)
    return nn.Sequential(first, nn.ReLU(), conv, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))


def _positive() -> nn.Module:
    net = nn.Sequential(nn.Linear(20, 6), nn.Sigmoid(), nn.Linear(6, 3))
    for parameter in net.parameters():
        parameter.data.abs_()
    return net


LINEAR, PICTURE, SEQUENCE = (3, 20), (3, 2, 12, 12), (3, 4, 5)
CHIPS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, Any], Any]] = {
    "linear": (_linear, LINEAR, {}, None),
    "conv": (_conv, PICTURE, {}, None),
    "slices": (_linear, LINEAR, {"tile.slices": 2, "cell.levels": 4, "tile.encoding": "offset"}, None),
    "single": (_positive, LINEAR, {"tile.encoding": "single", "dac.bits": 10, "tile.bias": "array"}, None),
    "pulses": (_conv, PICTURE, {"dac.bits_per_pulse": 3, "tile.rows": 9, "sensing.gain_noise": 0.01}, None),
    "lstm": (LSTM, SEQUENCE, {}, None),
    "slow": (_linear, LINEAR, {"cell.read_noise": TELEGRAPH, "sensing.read_interval": "0.2 us"}, None),
    "wires": (_linear, LINEAR, {"wires.r_word_line": "2 ohm", "wires.r_bit_line": "2 ohm"}, "gain"),
    "given": (_conv, PICTURE, {}, None),
    "compact": (_conv, PICTURE, {}, None),
    "compact wires": (_linear, LINEAR, {"wires.r_word_line": "2 ohm", "wires.r_bit_line": "2 ohm"}, "gain"),
}
NEW = ("given", "compact", "compact wires")  # since format 4
OLD = tuple(f"{name}, format {number}" for name in CHIPS if name not in NEW for number in (2, 3))  # as 0.1 and 0.2 had
ALL = (*CHIPS, *OLD)


def inputs(name: str) -> torch.Tensor:
    return torch.rand(CHIPS[name.split(",")[0]][1], generator=torch.Generator().manual_seed(1))


def make_chips(folder: Path, names: tuple[str, ...] = ALL) -> None:
    """Save each chip, and another of the same network, in the folder."""
    for name in names:
        torch.manual_seed(0)
        kind, _, number = name.partition(", format ")
        make, _, fields, wire_compensation = CHIPS[kind]
        hardware = mho.Hardware.load(NOISY).replace({**SMALL, **fields})
        chip = mho.map(make().eval(), hardware, calibrate=inputs(name), wire_compensation=wire_compensation)
        for one, path in ((chip, folder / name), (chip.copy(1), folder / f"{name} again")):
            (measured(one) if kind == "given" else one).save(path, compact=kind.startswith("compact"))
            if number:
                make_older(path, int(number))


def damage(folder: Path, name: str, target: Path, chance: random.Random) -> str:
    """Write a damaged chip to `target`; returns what was done to it."""
    shutil.copytree(folder / name, target)
    kind = chance.choice(("bytes",) * 4 + ("text", "tensors", "files"))
    before = _content(target)
    while _content(target) == before:  # now and then zeros are overwritten by zeros
        if kind == "bytes":
            file = target / chance.choice((store.TEXT, store.TENSORS))
            file.write_bytes(change_bytes(file.read_bytes(), chance))
        elif kind == "text":
            text, _ = opened(folder / name)
            change_text(text, chance)
            first = before[0].partition(b"\n")[0] + b"\n"
            old = yaml.safe_dump(text, sort_keys=False) if format_of(folder / name) == 2 else ""
            (target / store.TEXT).write_bytes(old.encode() or first + json.dumps(text, indent=1).encode())
        elif kind == "tensors":
            _, tensors = opened(folder / name)
            change_tensors(tensors, chance)
            store.save_file(tensors, target / store.TENSORS)
        else:
            own = name.partition(", ")[0]  # in another format it is the same chip, and its digests say so
            names = [path.name for path in folder.iterdir() if path.name.partition(", ")[0] != own]
            other = f"{name} again" if chance.random() < 0.5 else chance.choice(names)
            file = chance.choice((store.TEXT, store.TENSORS))
            shutil.copy(folder / other / file, target / file)
    return kind


def _content(folder: Path) -> tuple[bytes, bytes]:
    return (folder / store.TEXT).read_bytes(), (folder / store.TENSORS).read_bytes()


def forge(folder: Path, name: str, target: Path, chance: random.Random) -> str:
    """Write a chip that was altered by one who makes the digests anew; returns what was altered."""
    text, tensors = opened(folder / name)
    kind = chance.choice(("text", "text", "tensors", "both"))
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if kind != "tensors":
            change_text(text, chance)
        if kind != "text":
            change_tensors(tensors, chance)
    target.mkdir()
    write(target, text, tensors, format_of(folder / name))
    return kind


def judge(path: Path, x: torch.Tensor, exact: torch.Tensor) -> str:
    """What becomes of a chip that is loaded from `path` and read from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, on numbers that overflow
        return _judge(path, x, exact)


def _judge(path: Path, x: torch.Tensor, exact: torch.Tensor) -> str:
    def one_line(error: ValueError) -> bool:
        return "\n" not in str(error) and len(str(error)) < 2000

    try:
        chip = mho.load(path)
    except CheckpointError as error:
        return "refused" if one_line(error) and str(error).startswith(f"chip {path}: ") else f"error: {error!r}"[:300]
    except Exception as error:
        return f"traceback of load: {type(error).__name__}: {error}"[:300]
    try:
        first, again = chip.read(x, read=0), chip.read(x, read=0)
        str(chip.report())
    except ValueError as error:
        return "refused when read" if one_line(error) else f"error: {error!r}"[:300]
    except (RuntimeError, TypeError, IndexError, AttributeError, NotImplementedError, KeyError) as error:
        return _where(error)
    if not isinstance(first, torch.Tensor):
        return "works"
    if not torch.equal(first.nan_to_num(), again.nan_to_num()):
        return "other bits at the same read"
    if first.shape == exact.shape and torch.equal(first, exact):
        return "same bits"
    return "works" if bool(torch.isfinite(first).all()) else "works, not finite"


def _where(error: Exception) -> str:
    """Whose error it is: ours if it went through the tiles, else torch's, which the model's own functions meet."""
    trace, tiles = error.__traceback__, str(Path(mho.crossbar.__file__).parent)
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.startswith(tiles):
            return f"traceback: {type(error).__name__}: {error}"[:300]
        trace = trace.tb_next
    return "error of torch when read"


def _worker(pipe: Any, folder: Path, names: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    exact = {name: mho.load(folder / name).read(inputs(name), read=0) for name in names}
    pipe.send("ready")
    started = _most_memory()
    while True:
        name, path = pipe.recv()
        outcome = judge(path, inputs(name), exact[name])
        pipe.send(outcome if _most_memory() < started + LIMIT_BYTES else "memory")


def _most_memory() -> float:
    """Bytes that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Judge:
    """Judges chips in another process, which is started anew when it dies or hangs."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.folder, self.names = folder, names
        self.process: Any = None

    def __call__(self, name: str, path: Path) -> str:
        if self.process is None:
            self.pipe, theirs = multiprocessing.Pipe()
            context = multiprocessing.get_context("spawn")
            self.process = context.Process(target=_worker, args=(theirs, self.folder, self.names), daemon=True)
            self.process.start()
            theirs.close()
            self.pipe.recv()
        self.pipe.send((name, path))
        try:
            if self.pipe.poll(LIMIT_S):
                return str(self.pipe.recv())
            outcome = "hang"
        except EOFError:
            outcome = "crash"
        self.end()
        return outcome

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def fuzz(
    cases: int, seed: int, folder: Path, judged: Callable[[str, Path], str], names: tuple[str, ...] = ALL
) -> tuple[dict[str, dict[str, dict[str, int]]], list[dict[str, Any]]]:
    """Outcomes by mode and by what was done, counted; and the cases that went wrong. Even cases are damage."""
    counts: dict[str, dict[str, Counter[str]]] = {mode: {} for mode in GOOD}
    wrong = []
    for number in range(cases):
        chance = random.Random(f"{seed} {number}")
        mode, name, target = list(GOOD)[number % 2], names[number // 2 % len(names)], folder.parent / "case"
        kind = (damage if mode == "damage" else forge)(folder, name, target, chance)
        outcome = judged(name, target)
        sealed = mode == "damage" and not (target / store.TEXT).read_bytes().startswith(b"format: 2\n")
        kind += "" if sealed or mode == "forgery" else ", format 2"
        if not sealed and outcome == "same bits":
            outcome = "works"
        counts[mode].setdefault(kind, Counter())[outcome] += 1
        if outcome not in GOOD["damage" if sealed else "forgery"]:
            wrong.append({"case": number, "chip": name, "mode": mode, "kind": kind, "outcome": outcome})
            print(wrong[-1], flush=True)
        shutil.rmtree(target)
    return {mode: {kind: dict(found) for kind, found in sorted(kinds.items())} for mode, kinds in counts.items()}, wrong


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz_chips"))
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "chips")
        make_chips(folder)
        judged = Judge(folder, ALL)
        try:
            counts, wrong = fuzz(options.cases, options.seed, folder, judged)
        finally:
            judged.end()
    checked = {"bounds_checked": True} if os.environ.get("NUMBA_BOUNDSCHECK") == "1" else {}
    found = {
        **record(
            ("mho", "torch", "numba", "numpy", "safetensors", "pydantic"),
            f"benchmarks/fuzz_chips.py --cases {options.cases} --seed {options.seed}",
        ),
        **checked,
        "cases": options.cases,
        "seconds": round(time.perf_counter() - began),
        "wrong": wrong,
        "counts": counts,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "fuzz_chips.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(counts, indent=1))
    print(f"{options.cases} chips, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
