"""The cases of `digests.py`: small chips of each kind, and what they give.

A case is a function that returns its parts by name: arrays, counts, figures, and lists, dicts and tables of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from digest_parts import (
    Steps,
    aged,
    cnn,
    copy_of,
    expected,
    filled,
    inputs,
    mlp,
    noisy,
    on_chip,
    preset,
    read,
    table,
)
from torch import nn

import mho
from mho.mapping.architecture.cost import layer_costs, peak
from mho.mapping.architecture.decision import decision
from mho.mapping.architecture.replication import replicate, ways

Parts = dict[str, Any]
Case = Callable[[], Parts]
SAVED = Path(__file__).parents[1] / "tests" / "golden"
SMALL = {"tile.rows": 16, "tile.columns": 24}
HOUR = 3600.0


def reads(chip: Any, x: torch.Tensor) -> Parts:
    """Three reads, one of them apart and of later samples, one without noise; the report's numbers after them."""
    return {
        "reads": read(chip, x, read=3, reads=2),
        "later samples": read(chip, x[1:], read=7, first_sample=4),
        "noiseless": read(chip, x, read=0, noisy=False),
        "report": table(chip),
    }


def dense(fields: dict[str, Any], *, positive: bool = False, signed: bool = True, **options: Any) -> Parts:
    """Two linear layers on the noisy hardware with some fields changed."""
    x = inputs(6, 20, signed=signed)
    return reads(on_chip(mlp(positive), noisy(fields), x, **options), x)


def pictures(fields: dict[str, Any]) -> Parts:
    x = inputs(3, 3, 8, 8, signed=False)
    return reads(on_chip(cnn(), noisy(fields), x), x)


def of_preset(name: str, build: Callable[[], nn.Module], shape: tuple[int, ...]) -> Parts:
    x = inputs(*shape)
    return reads(on_chip(build(), preset(name, SMALL), x), x)


def network(build: Callable[[], nn.Module], *shape: int, fields: dict[str, Any] | None = None) -> Parts:
    """A network on the noisy hardware."""
    x = inputs(*shape)
    return reads(on_chip(filled(build()), noisy(fields), x, check=True), x)


def second(build: Callable[[], nn.Module], *shape: int) -> Parts:
    """A network whose samples come second."""
    x = inputs(*shape)
    chip = on_chip(filled(build()), noisy(), x, check=True)
    return {"reads": torch.stack([read(chip, x, read=k) for k in range(2)]), "report": table(chip)}


def drift(hardware: mho.Hardware) -> Parts:
    x = inputs(6, 20)
    chip = on_chip(mlp(), hardware, x)
    return {
        f"after {seconds:g} s{', compensated' * compensate}": reads(aged(chip, seconds, compensate=compensate), x)
        for seconds in (HOUR, 86400.0)
        for compensate in (False, True)
    }


def copies() -> Parts:
    x = inputs(6, 20)
    chip = on_chip(mlp(), noisy(), x)
    later = aged(copy_of(chip, 2), HOUR)
    return {"copy 1": reads(copy_of(chip, 1), x), "copy 2, later": reads(later, x), "first": reads(copy_of(chip, 0), x)}


def calls() -> Parts:
    """A chip numbers its calls by itself."""
    x = inputs(6, 20)
    chip = on_chip(mlp(), noisy(), x)
    return {"calls": torch.stack([chip(x) for _ in range(3)]), "alone": chip.model[0](x), "after": chip(x)}


def votes(**options: Any) -> Parts:
    x = inputs(30, 20)
    chip = on_chip(mlp(), noisy({"output_noise.sigma_add": 0.3}), x)
    result = mho.vote(chip, x, 7, batch_size=11, **options)
    return {"counts": result.counts, "winners": result.winners, "softmax": rounded(result.softmax)}


def adaptive(**options: Any) -> Parts:
    x = inputs(30, 20)
    chip = on_chip(mlp(), noisy({"output_noise.sigma_add": 0.3}), x)
    result = mho.adaptive_vote(chip, x, 15, error=0.1, batch_size=11, **options)
    return {"classes": result.classes, "counts": result.counts, "reads": result.reads, "safe": result.safe}


def rounded(values: torch.Tensor) -> list[float]:
    """To 5 digits: torch's exponential function differs between machines in the last ones."""
    return [float(f"{value:.4e}") for value in values.flatten().tolist()]


def packed() -> Parts:
    x = nn.utils.rnn.pack_padded_sequence(inputs(4, 5, 6), torch.tensor([5, 3, 3, 1]), batch_first=True)
    chip = on_chip(filled(nn.RNN(6, 6, nonlinearity="relu", batch_first=True)), noisy(), inputs(4, 3, 6))
    output, state = read(chip, x, read=3)
    return {"output": output.data, "state": state}


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def saved(chip: Any, x: torch.Tensor) -> Parts:
    """A chip that was saved and loaded, and another copy of it."""
    with folder() as path:
        chip.save(path / "chip")
        loaded = mho.load(path / "chip")
    return {"loaded": reads(loaded, x), "copy": reads(copy_of(loaded, 1), x)}


# chips that are kept as this version saves them: name, hardware, and options of the mapping
WIRES = {"wires.r_word_line": 15.0, "wires.r_bit_line": 15.0}
TELEGRAPH = {"kind": "telegraph", "amplitude": 0.2, "capture": "1 us", "emission": "1 us"}
KEPT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"tile.bias": "array", "tile.encoding": "offset", "cell.levels": 16, "tile.slices": 2}, {}),
    "wires": (WIRES, {"wire_compensation": "gain"}),
    "slow": ({"cell.read_noise": TELEGRAPH, "sensing.read_interval": "200 ns"}, {}),
}


def kept_chip(name: str) -> Any:
    """The chip that `digests.py --write-chips` saves under that name."""
    fields, options = KEPT[name]
    return on_chip(mlp(), noisy({**fields, "tile.columns": 48}), inputs(6, 20), check=True, **options)


def kept(name: str) -> Parts:
    """The chip saved with version 0.2 that stands in tests/golden; it must read as it did."""
    x = inputs(6, 20)
    loaded = mho.load(SAVED / "saved_0.2" / name)
    return {"loaded": reads(loaded, x), "copy": reads(copy_of(loaded, 1), x), "later": reads(aged(loaded, HOUR), x)}


def costs() -> Parts:
    x = inputs(3, 3, 8, 8, signed=False)
    chip = on_chip(cnn(), noisy({"cell.programming": {"kind": "none"}}), x)
    one = decision(chip, 5)
    figures = {name: getattr(one, name) for name in ("latency_s", "interval_s", "energy", "leakage_w", "area_m2")}
    run = mho.schedule(chip, votes=3, inputs=2, voter=1e-8, buffers=1, line_buffers=True)
    tiles = 3 * int(sum(table(chip)["tiles"]))
    best = {goal: replicate(chip, tiles=tiles, votes=3, goal=goal) for goal in ("throughput", "latency")}  # type: ignore[arg-type]
    return {
        "layers": layer_costs(chip),
        "decision": {**figures, "operations": one.operations},
        "schedule": {"makespan": run.makespan_s, "interval": run.decision_interval_s, "use": run.utilisation},
        "events": run.events,
        "balance": {goal: [b.replicas, b.tiles, b.area_m2, b.slowest_s, b.stages_s] for goal, b in best.items()},
        "ways": ways(chip, 4),
    }


def peaks() -> Parts:
    hardware = noisy({"cost.array_power": "1 mW", "tile.amplifiers": "pair", "tile.encoding": "offset"})
    found = peak(hardware, 2)
    return {"peak": found, **found.attrs}


def steps_costs() -> Parts:
    x = inputs(3, 4, 6)
    chip = on_chip(filled(Steps(nn.RNN, nonlinearity="relu")), noisy({"dac.bits_per_pulse": 2}), x)
    return {"layers": layer_costs(chip), "events": mho.schedule(chip, votes=2, inputs=2).events}


def reduction(fields: dict[str, Any]) -> Parts:
    x = inputs(12, 20)
    found = mho.reduce(on_chip(mlp(), noisy(fields), x), x, reads=3)
    return {"table": found.table, "sources": found.sources, "model": read(found.model(), x, read=2)}


def expectations(fields: dict[str, Any], **options: Any) -> Parts:
    x = inputs(6, 20)
    return expected(on_chip(mlp(), noisy(fields), x, **options), "0", x.numpy(), 4)


def sweep(experiment: str) -> Parts:
    """Rows of a sweep, without what names the version and the task."""
    x = inputs(24, 20)
    labels = mlp()(x).argmax(dim=1)
    with folder() as path:
        np.savez(path / "data.npz", images=x.numpy(), labels=labels.numpy())
        noisy({"output_noise.sigma_add": 0.3}).save(path / "chip.yaml")
        grid = {"sensing.v_read": ["0.05 V", "0.1 V"], "seed": [0, 1], "votes": [2, 5]}
        fields = {"experiment": experiment, "model": "digest_parts:sweep_net", "data": str(path / "data.npz")}
        more = {"images": 24, "calibrate": 12, "hardware": str(path / "chip.yaml"), "grid": grid}
        rows = mho.sweep({**fields, **more}, out=path / "run")
    left_out = {"task_id", "mho_version", "data", "hardware", "model"}
    return {"rows": rows[[name for name in rows if name not in left_out and not name.endswith("_meta")]]}


def old_chip() -> Parts:
    """The chip of version 0.1 in tests/golden."""
    x = inputs(6, 20)
    return {"loaded": read(mho.load(SAVED / "saved_0.1" / "chip"), x, read=0, noisy=False)}
