"""Wires with resistance: time and error of exact solutions beside other solvers, accuracy of a network that has them.

    python benchmarks/wires.py [--out runs/wires] [--only speed,errors,accuracy] [--images N] [--markdown]

`speed`: Mho against badcrossbar, where it is installed, and against a sparse LU factorisation by scipy: CPU time of one
thread, medians of runs in turn (mho/timing.py). `goal` is the ratio to badcrossbar that the project has set
itself. `errors`: the largest relative error of a current over resistances, against sparse LU. `accuracy`: a CNN on
MNIST test pictures, over resistance and tile size, with and without what can be done about the loss; the ReRAM preset,
means of three chips of one design. Prints tables; writes them to wires.json, with machine and versions, and draws
wires.png from it.

badcrossbar needs Cairo and its headers. It is no part of Mho's environment; in one of its own:

    python -m venv ~/.venvs/wires && ~/.venvs/wires/bin/pip install -c constraints.txt . badcrossbar
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # libraries read them when they are imported

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from scipy.sparse import coo_matrix, csc_matrix  # noqa: E402
from scipy.sparse.linalg import splu  # noqa: E402

import mho  # noqa: E402
from mho import timing  # noqa: E402
from mho.crossbar.lines import Lines  # noqa: E402
from mho.crossbar.wires import effective_conductance, read  # noqa: E402
from mho.records import record, write_measured  # noqa: E402
from mho.tables import Column, Columns, print_table  # noqa: E402

FILE, FIGURE = "wires.json", "wires.png"
PACKAGES = ("mho", "numpy", "scipy", "numba", "torch", "badcrossbar")
PARTS = ("speed", "errors", "accuracy")
SIZES = (64, 128, 256, 512)
LARGEST_PEER = 256  # lines, for badcrossbar
READS = {64: 1000, 128: 1000, 256: 256, 512: 256}
GOALS = {  # ratios to badcrossbar
    "one read": {64: 400, 128: 400, 256: 400},
    "G_eff": {64: 15, 128: 12, 256: 12},
    "many reads": {64: 150, 128: 300, 256: 80},
}
RESISTANCES = (0.01, 0.1, 1.0, 10.0, 100.0)
ERROR_SIZES = (128, 256, 512)
WEIGHTS = "sigma-0.0"
TILES = (64, 128, 256, 512)
FIGURE_TILES = (128, 256)
SWEEP = (0.3, 1.0, 3.0, 10.0, 30.0)
CHIPS = 3
CALIBRATION = 256
REMEDIES: dict[str, dict[str, Any]] = {
    "none": {},
    "order": {"order": "conductance"},
    "shared": {"pairs": "shared"},
    "gain": {"wire_compensation": "gain"},
    "program": {"wire_compensation": "program"},
}


def array(n: int, seed: int = 0, zero: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Conductances of 1 to 100 uS, a share of them 0, and voltages of up to 0.3 V."""
    rng = np.random.default_rng(seed)
    g = rng.uniform(1e-6, 1e-4, (n, n)) * (rng.random((n, n)) >= zero)
    return g, rng.uniform(0, 0.3, n)


class SparseLU:
    """The circuit by nodal analysis: scipy's SuperLU, ordered by minimum degree."""

    def __init__(self, g: np.ndarray, r: float) -> None:
        self.g, (m, n) = g, g.shape
        lines = Lines(r_word_line=r, r_bit_line=r)
        self.sw, sb = lines.word_line(n), lines.bit_line(m)
        word = np.arange(m * n).reshape(m, n)
        bit = word + m * n
        ends = [(word, bit, g), (word[:, :-1], word[:, 1:], self.sw[1:-1]), (bit[:-1], bit[1:], sb[1:-1, None])]
        flat = [[part.ravel() for part in np.broadcast_arrays(*end)] for end in ends]
        a, b, y = (np.concatenate(parts) for parts in zip(*flat, strict=True))
        diagonal = np.bincount(np.concatenate([a, b]), np.concatenate([y, y]), 2 * m * n)
        diagonal[word[:, 0]] += self.sw[0]
        diagonal[bit[-1]] += sb[-1]
        nodes = np.arange(2 * m * n)
        rows, columns = np.concatenate([a, b, nodes]), np.concatenate([b, a, nodes])
        matrix = csc_matrix(coo_matrix((np.concatenate([-y, -y, diagonal]), (rows, columns))))
        self.factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})

    def read(self, v: np.ndarray) -> np.ndarray:
        """Currents (n,) or (n, p) for voltages (m,) or (m, p)."""
        m, n = self.g.shape
        drive = np.zeros((2 * m * n, *v.shape[1:]))
        drive[np.arange(m) * n] = self.sw[0] * v
        found = self.factors.solve(drive).reshape(2, m, n, *v.shape[1:])
        return (self.g.reshape(m, n, *[1] * (v.ndim - 1)) * (found[0] - found[1])).sum(axis=0)


def peer() -> Callable[[np.ndarray, np.ndarray, float], np.ndarray] | None:
    """Currents (n, p) by badcrossbar for cells, voltages (m, p) and a resistance; None if it is not installed."""
    try:
        badcrossbar = importlib.import_module("badcrossbar")
    except ImportError:
        return None
    logging.disable(logging.CRITICAL)

    def currents(g: np.ndarray, v: np.ndarray, r: float) -> np.ndarray:
        found = badcrossbar.compute(v, 1 / g, r_i_word_line=r, r_i_bit_line=r, node_voltages=False)
        return np.asarray(found.currents.output).T

    return currents


def error(got: np.ndarray, exact: np.ndarray) -> float:
    """Largest relative error."""
    return float(np.abs(got / exact - 1).max())


def speed() -> list[dict[str, Any]]:
    """Times in milliseconds, and the error of Mho's currents against badcrossbar, or else sparse LU; 1 ohm."""
    other, rows = peer(), []
    lines = {"r_word_line": 1.0, "r_bit_line": 1.0}
    for n in SIZES:
        g, v = array(n)
        many = np.random.default_rng(1).uniform(0, 0.3, (n, READS[n]))
        works: dict[str, dict[str, Callable[[], Any]]] = {
            "one read": {
                "mho": lambda g=g, v=v: read(g, v, **lines),
                "splu": lambda g=g, v=v: SparseLU(g, 1.0).read(v),
            },
            "G_eff": {
                "mho": lambda g=g: effective_conductance(g, **lines),
                "splu": lambda g=g: SparseLU(g, 1.0).read(np.eye(len(g))),
            },
            "many reads": {
                "mho": lambda g=g, many=many: read(g, many, **lines),
                "splu": lambda g=g, many=many: SparseLU(g, 1.0).read(many),
            },
        }
        if other is not None and n <= LARGEST_PEER:
            works["one read"]["peer"] = lambda g=g, v=v: other(g, v[:, None], 1.0)
            works["many reads"]["peer"] = lambda g=g, many=many: other(g, many, 1.0)
        alone = None
        for work, functions in works.items():
            if n > LARGEST_PEER and work != "one read":
                del functions["splu"]  # takes minutes and gigabytes
            found = timing.compare(functions, 1, runs=7, budget=60.0)
            mho_ms, splu_ms, peer_ms = (1e3 * found.seconds.get(k, np.nan) for k in ("mho", "splu", "peer"))
            alone = peer_ms if work == "one read" else alone
            if work == "G_eff":
                peer_ms = alone if alone is not None else np.nan  # badcrossbar has no G_eff: one of its solutions
            exact = functions.get("peer", functions.get("splu", functions["mho"]))
            checked = work != "G_eff"
            rows.append(
                {"n": n, "work": work, "reads": READS[n] if work == "many reads" else 1}
                | {"mho_ms": mho_ms, "splu_ms": splu_ms, "badcrossbar_ms": peer_ms}
                | {"ratio": peer_ms / mho_ms, "ratio_splu": splu_ms / mho_ms, "goal": GOALS[work].get(n)}
                | {"error": error(functions["mho"](), exact().reshape(functions["mho"]().shape)) if checked else np.nan}
                | {"quiet": found.quiet}
            )
    return rows


def errors() -> list[dict[str, Any]]:
    """Largest relative errors of the currents of `read` and of G_eff, half of the cells missing."""
    rows = []
    for n in ERROR_SIZES:
        g, v = array(n, seed=2, zero=0.5)
        for r in RESISTANCES:
            exact = SparseLU(g, r).read(v)
            lines = {"r_word_line": r, "r_bit_line": r}
            one = error(read(g, v, **lines), exact)
            formed = effective_conductance(g, **lines).T @ v
            lost = 1 - exact.sum() / (v @ g).sum()
            rows.append({"n": n, "r_ohm": r, "lost": lost, "read_error": one, "geff_error": error(formed, exact)})
    return rows


def accuracy(images: int) -> list[dict[str, Any]]:
    """Accuracy of the CNN on MNIST test pictures, and what its layers lose."""
    torch.set_num_threads(1)
    pictures, labels = mho.models.data.mnist("test")
    net, rows = mho.models.mnist_cnn(weights=WEIGHTS), []
    shown, right = pictures[-images:], labels[-images:]

    def measure(tile: int, r: float, remedy: str) -> dict[str, Any]:
        wires = {"r_word_line": r, "r_bit_line": r} if r else {}
        given = dict(REMEDIES[remedy])
        wire_compensation = given.pop("wire_compensation", None)
        fields = {"tile.rows": tile, "tile.columns": tile, "wires": {**wires, **given}}
        hardware = mho.Hardware.preset("reram").replace(fields)
        design = mho.map(net, hardware, calibrate=pictures[:CALIBRATION], wire_compensation=wire_compensation)
        chips = [design, *(design.copy(copy) for copy in range(1, CHIPS))]
        found = [float((mho.vote(chip, shown, k=1).classes == right).float().mean()) for chip in chips]
        mean, spread = float(np.mean(found)), float(np.std(found))
        return {"tile": tile, "r_ohm": r, "remedy": remedy, "accuracy": mean, "std": spread}

    for tile in TILES:
        rows.append(measure(tile, 0.0, "none"))
        rows += [measure(tile, r, remedy) for r in SWEEP for remedy in REMEDIES]
    return rows


def draw(found: dict[str, Any], path: Path) -> None:
    """The figure: times over the size of the array, and accuracy over the resistance, for two sizes of tiles."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    table = pd.DataFrame(found.get("speed", []))
    if len(table):
        one = table[table["work"] == "one read"]
        formed = table[table["work"] == "G_eff"]
        for label, part, column in (
            ("one read, Mho", one, "mho_ms"),
            ("G_eff, Mho", formed, "mho_ms"),
            ("one read, sparse LU", one, "splu_ms"),
            ("one read, badcrossbar", one, "badcrossbar_ms"),
        ):
            axes[0].loglog(part["n"], part[column], "o-", label=label)
        axes[0].set(xlabel="lines of the array", ylabel="ms, one thread", title="Time to solve", xticks=SIZES)
        axes[0].set_xticks(SIZES, [str(n) for n in SIZES])
        axes[0].minorticks_off()
        axes[0].legend()
    table = pd.DataFrame(found.get("accuracy", []))
    for axis, tile in zip(axes[1:], FIGURE_TILES if len(table) else (), strict=False):
        mine = table[(table["tile"] == tile) & (table["r_ohm"] > 0)]
        for remedy, part in mine.groupby("remedy", sort=False):
            axis.semilogx(part["r_ohm"], 100 * part["accuracy"], "o-", label=str(remedy))
        without = table[(table["tile"] == tile) & (table["r_ohm"] == 0)]["accuracy"]
        axis.axhline(100 * float(without.iloc[0]), color="grey", lw=1, ls=":")
        axis.set(xlabel="ohm from cell to cell", ylabel="accuracy (%)", title=f"MNIST CNN, tiles of {tile} x {tile}")
        axis.legend(title="remedy")
    figure.savefig(path, dpi=120)
    plt.close(figure)


SHOWN: dict[str, Columns] = {
    "speed": {
        "n": Column("lines", "d"),
        "work": Column("work", "s"),
        "reads": Column("reads", "d"),
        "mho_ms": Column("Mho (ms)", ".3g"),
        "splu_ms": Column("sparse LU (ms)", ".3g"),
        "badcrossbar_ms": Column("badcrossbar (ms)", ".4g"),
        "ratio_splu": Column("LU / Mho", ".0f"),
        "ratio": Column("badcrossbar / Mho", ".0f"),
        "goal": Column("goal", ".0f"),
        "error": Column("error", ".1e"),
    },
    "errors": {
        "n": Column("lines", "d"),
        "r_ohm": Column("ohm", "g"),
        "lost": Column("lost", ".1%"),
        "read_error": Column("error of read", ".1e"),
        "geff_error": Column("error of G_eff", ".1e"),
    },
    "accuracy": {
        "tile": Column("tile", "d"),
        "r_ohm": Column("ohm", "g"),
        "remedy": Column("remedy", "s"),
        "accuracy": Column("accuracy", ".2%"),
        "std": Column("chip to chip", ".2%"),
    },
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 when something failed."""
    parser = argparse.ArgumentParser(description="Wires: time, error and accuracy.")
    parser.add_argument("--out", type=Path, default=Path("runs/wires"), help="folder for the record and the figure")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--images", type=int, default=2000, help="test pictures for the accuracy")
    parser.add_argument("--markdown", action="store_true", help="tables as Markdown")
    given = parser.parse_args(arguments)
    parts = given.only.split(",")
    if not set(parts) <= set(PARTS):
        parser.error(f"--only takes {', '.join(PARTS)}, got {given.only}")
    work = {"speed": speed, "errors": errors, "accuracy": lambda: accuracy(given.images)}
    command = "python benchmarks/wires.py " + shlex.join(sys.argv[1:] if arguments is None else arguments)

    def measure() -> dict[str, Any]:
        found = {**record(PACKAGES, command), "seed": 0, "images": given.images, "weights": WEIGHTS}
        for part in parts:
            found[part] = work[part]()
            table = pd.DataFrame(found[part])
            print_table(part, table, SHOWN[part], markdown=given.markdown)
            found[part] = json.loads(table.to_json(orient="records", double_precision=15))
        return found

    code = write_measured(given.out / FILE, measure)
    if code == 0:
        draw(json.loads((given.out / FILE).read_text(encoding="utf-8")), given.out / FIGURE)
    return code


if __name__ == "__main__":
    sys.exit(main())
