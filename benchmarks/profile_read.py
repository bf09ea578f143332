"""Where the time of a noisy read goes, kernel by kernel, and what integer arithmetic costs in accuracy.

    python benchmarks/profile_read.py [--out runs/profile_read]

One thread, ReRAM preset: layers of the MNIST CNN at batch 64 and a linear layer. Each kernel is called as often as the
read calls it, on data of the same shape that are in the cache already; `other` is what the whole read takes besides.
Prints tables and writes them as CSV.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from unittest import mock

import numba
import numpy as np
import pandas as pd
import profile_groups
import torch
from rich.console import Console

import mho
from mho.crossbar import packed
from mho.crossbar.backends import compiled
from mho.crossbar.calibration import calibrate
from mho.crossbar.cells import Drawn
from mho.crossbar.kernels import digits, group_products, panel, philox, read
from mho.crossbar.matrix import Matrix
from mho.crossbar.programmed import Programmed
from mho.crossbar.reader import Seeds
from mho.records import record

RUNS = 15
Shape = tuple[int, int, int, int, int]


def milliseconds(function: Callable[[], object], runs: int = RUNS) -> float:
    """Median CPU time of a call."""
    function()
    times = []
    for _ in range(runs):
        start = time.thread_time()
        function()
        times.append(time.thread_time() - start)
    return 1e3 * statistics.median(times)


@numba.njit
def repeat_gather(times, codes, geometry, work):  # type: ignore[no-untyped-def]
    for _ in range(times):
        read.gather(codes, geometry, 0, work.codes.shape[0], 0.0, work.codes)


@numba.njit
def repeat_corners(times, codes, geometry, work):  # type: ignore[no-untyped-def]
    for _ in range(times):
        read.corners_of(codes, geometry, 0, work.starts)
        work.starts[:] //= 2


@numba.njit
def repeat_direct(times, values, packed, edges, work, out):  # type: ignore[no-untyped-def]
    for _ in range(times):
        for t in range(edges.shape[0] - 1):
            steps = edges[t] // 2, edges[t + 1] // 2
            group_products.multiply_alike(values, work.starts, work.offsets, packed[0], 0, steps, -1, 0, out)


@numba.njit
def repeat_square(times, circuit, work):  # type: ignore[no-untyped-def]
    for _ in range(times):
        digits.square(work.codes, circuit.integers, circuit.halve, work.squares)


@numba.njit
def repeat_products(times, values, packed, edges, out):  # type: ignore[no-untyped-def]
    for _ in range(times):
        for t in range(edges.shape[0] - 1):
            a, b = edges[t], edges[t + 1]
            panel.multiply_panels(values[:, a:b], packed[0, :, a // 2 : b // 2], out)


@numba.njit
def repeat_noise(times, planes, work, rows, key):  # type: ignore[no-untyped-def]
    factors, where = (np.float32(1e-5), np.float32(1e-9), np.float32(0)), (np.uint32(0), np.uint32(0))
    for _ in range(times):
        for t in range(planes.edges.shape[0] - 1):
            floor = planes.floor[0, t]
            philox.add_noise(work.current, work.variance, floor, factors, work.extra, rows, 0, where, key)


@numba.njit
def repeat_convert(times, planes, circuit, work, rows, key, out):  # type: ignore[no-untyped-def]
    place = read.Place(rows, np.uint32(0), 0, 0, 0, 1, work.current.shape[0])
    factors = np.float32(1e-5), np.float32(1e-9), np.float32(0)
    for _ in range(times):
        for t in range(planes.edges.shape[0] - 1):
            plane = read.Plane(0, 0, t)
            read.convert_plane(
                planes, circuit, key, place, plane, factors, np.float32(1), work.current.shape[0], work, out
            )


def parts(tiles: Programmed, x: np.ndarray, runs: int = RUNS) -> dict[str, float]:
    """Milliseconds of each kernel in one read of x (samples, depth, height, width, channels), at one thread.

    `normals` are part of `noise, ADC, sum`. Where products take inputs where they are, `gather` is what finds their
    places. Of groups: see `profile_groups.parts`.
    """
    if len(tiles.packed) > 1:
        return profile_groups.parts(tiles, x, milliseconds, runs)
    reader, size = tiles.reader, tiles.design.matrix.patches.positions(x.shape[1:4])
    (codes, _), geometry, circuit = reader.input_codes(x), reader.geometry(x.shape, 0), reader.circuit()
    planes, key = tiles.packed[0].planes, reader._key("read", 0, 0, 0)
    count, rows, edges = len(x) * prod(size), reader.rows(0, size), planes.edges
    held, direct = reader.prepared[0].held(geometry, circuit, direct=count >= read.CHUNK)
    chunk = min(count, compiled._chunk(count, 1, 0 if direct else int(edges[-1]), planes.bias.size))
    work, out = read.make_scratch(codes, held, chunk), np.zeros((1, chunk, planes.bias.size), np.float32)
    times = -(-count // chunk)
    kernels: dict[str, Callable[[], object]] = {"codes": lambda: reader.input_codes(x)}
    if direct:
        squares = compiled.squares_of(codes, reader.prepared[0], circuit, 1).reshape(-1)
        kernels |= {
            "gather": lambda: repeat_corners(times, codes, geometry, work),
            "squares": lambda: compiled.squares_of(codes, reader.prepared[0], circuit, 1),
            "currents": lambda: repeat_direct(times, codes.reshape(-1), planes.mean, edges, work, work.current),
            "variances": lambda: repeat_direct(times, squares, planes.variance, edges, work, work.variance),
        }
    else:
        kernels |= {
            "gather": lambda: repeat_gather(times, codes, geometry, work),
            "squares": lambda: repeat_square(times, circuit, work),
            "currents": lambda: repeat_products(times, work.codes, planes.mean, edges, work.current),
            "variances": lambda: repeat_products(times, work.squares, planes.variance, edges, work.variance),
        }
    kernels |= {
        "normals": lambda: repeat_noise(times, planes, work, rows, key),
        "noise, ADC, sum": lambda: repeat_convert(times, planes, circuit, work, rows, key, out),
    }
    measured = {name: milliseconds(kernel, runs) for name, kernel in kernels.items()}
    whole = milliseconds(lambda: reader.read(x), runs)
    return {**measured, "other": whole - sum(measured.values()) + measured["normals"], "whole": whole}


def moved_readings(hardware: mho.Hardware) -> pd.DataFrame:
    """How many outputs of a random layer of one tile move when its planes are integers, in steps of its ADC."""
    rows = []
    for lines in (64, 256, 1024):
        net = torch.nn.Linear(lines, 256, bias=False)
        x = torch.rand(400, lines).numpy().reshape(400, 1, 1, 1, lines)
        one_tile = hardware.replace({"tile.rows": lines, "tile.columns": 512})
        matrix = Matrix("layer", net.weight.detach().numpy().T[None].copy(), None, one_tile)
        tiles, readings = [], []
        for largest in (0, packed.LARGEST_CODE):  # 0: no layer has codes as small, so planes are float32
            with mock.patch.object(packed, "LARGEST_CODE", largest):
                tiles.append(calibrate(matrix, (x,), Drawn(one_tile, 0), Seeds(0), compiled.Compiled()))
                readings.append(tiles[-1].with_ranges(tiles[0].ranges).reader.read(x)[0])  # the same steps for both
        step = tiles[0].reader.circuit().step[0] * tiles[0].packed[0].planes.scale[0, 0, :256]
        steps = np.rint(np.abs(np.subtract(*readings)) / step)
        rows.append({"word lines": lines, "moved (%)": 100 * (steps > 0).mean(), "most (steps)": int(steps.max())})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/profile_read"))
    out = parser.parse_args().out
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hardware = mho.Hardware.preset("reram")
    images, _ = mho.models.data.mnist("test")
    cnn = mho.map(mho.models.mnist_cnn(weights="sigma-0.5"), hardware, calibrate=images[:256])
    large = mho.map(torch.nn.Linear(1024, 1024), hardware, calibrate=torch.rand(256, 1024))
    cases: dict[str, tuple[Programmed, Shape]] = {
        "CNN conv1, batch 64": (cnn.layers["conv1"].tiles, (64, 1, 28, 28, 1)),
        "CNN conv2, batch 64": (cnn.layers["conv2"].tiles, (64, 1, 26, 26, 32)),
        "CNN conv4, batch 64": (cnn.layers["conv4"].tiles, (64, 1, 10, 10, 64)),
        "Linear 1024 x 1024, batch 64": (large.layers[""].tiles, (64, 1, 1, 1, 1024)),
    }
    times = pd.DataFrame(
        [
            {"layer": name, **parts(tiles, torch.rand(shape).numpy() * tiles.design.drive.limit)}
            for name, (tiles, shape) in cases.items()
        ]
    )
    moved = moved_readings(hardware)
    out.mkdir(parents=True, exist_ok=True)
    console = Console(width=140)
    for table, name, style in ((times, "times", "{:.2f}"), (moved, "moved", "{:.3f}")):
        table.to_csv(out / f"{name}.csv", index=False)
        console.print(table.to_string(index=False, float_format=style.format))
    console.print(f"milliseconds at 1 thread, {record([], '')['cpu']}; written to {out}")


if __name__ == "__main__":
    main()
