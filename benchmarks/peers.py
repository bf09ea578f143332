"""Mho's reads beside those of other simulators, where they are installed: IBM's aihwkit and Sandia's CrossSim.

    python benchmarks/peers.py [--out runs/peers] [--threads 1,2] [--markdown]

All are compared with noiseless torch in the same process: CPU time at 1 thread, wall time at more
(mho/timing.py). Prints a table, what in it is comparable and what is not, and which simulator is missing; writes
peers.json. They are no part of Mho's environment; in one of their own:

    python -m venv ~/.venvs/peers && ~/.venvs/peers/bin/pip install -c constraints.txt . aihwkit

aihwkit may have to be compiled, which takes a C++ compiler and OpenBLAS. CrossSim comes from its repository.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numba
import pandas as pd
import torch
from kernels import CALIBRATION, CNN_BATCH, LAYERS, NOISY, Layer, folded, reram
from torch import nn

import mho
from mho import timing
from mho.records import record, write_measured
from mho.tables import Column, Columns, print_notes, print_table

FILE = "peers.json"
PACKAGES = ("mho", "torch", "numba", "numpy", "aihwkit", "CrossSim")
OPENMP = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
TILE_ROWS = 512
NO_LIMIT = 1 << 20


class Work(NamedTuple):
    """A network for torch, ready to map; inputs that set its ranges; the inputs that are timed."""

    name: str
    net: nn.Module
    calibrate: torch.Tensor
    x: torch.Tensor


class Peer(NamedTuple):
    """A simulator: how to set up a network on it, and what its times are comparable with.

    Attributes:
        module, name: what it must be possible to import, and from where.
        batch: samples that are timed; None for the batch of the work.
        runs: how many are aimed at.
    """

    title: str
    module: str
    name: str
    build: Callable[[Work], nn.Module]
    comparable: str
    batch: int | None = None
    runs: int = 15


def works() -> Iterator[Work]:
    """The two linear layers and the MNIST CNN, its batch norms folded; inputs are never negative."""
    for layer in LAYERS[:2]:
        yield linear_work(layer)
    images, _ = mho.models.data.mnist("test")
    net = folded(mho.models.mnist_cnn(weights="sigma-0.5").eval())
    yield Work(f"MNIST CNN, batch {CNN_BATCH}", net, images[:CALIBRATION], images[:CNN_BATCH])


def linear_work(layer: Layer) -> Work:
    """A linear layer with random weights."""
    torch.manual_seed(0)
    net = nn.Linear(layer.inputs, layer.outputs).requires_grad_(False)
    name = f"Linear {layer.inputs} x {layer.outputs}, batch {layer.batch}"
    return Work(name, net, torch.rand(CALIBRATION, layer.inputs), torch.rand(layer.batch, layer.inputs))


def aihwkit(work: Work, *, torch_tile: bool) -> nn.Module:
    """The network on aihwkit's tiles: 8-bit converters, static input ranges, ReRAM programming errors, output noise."""
    from aihwkit.inference.calibration import InputRangeCalibrationType, calibrate_input_ranges
    from aihwkit.inference.noise.reram import ReRamWan2022NoiseModel
    from aihwkit.inference.utils import program_analog_weights
    from aihwkit.nn.conversion import convert_to_analog
    from aihwkit.simulator.configs import InferenceRPUConfig, TorchInferenceRPUConfig
    from aihwkit.simulator.parameters.enums import BoundManagementType, NoiseManagementType, WeightNoiseType

    config = TorchInferenceRPUConfig() if torch_tile else InferenceRPUConfig()
    config.mapping.max_input_size, config.mapping.max_output_size = TILE_ROWS, 0
    config.mapping.weight_scaling_omega, config.mapping.weight_scaling_columnwise = 1.0, True
    config.pre_post.input_range.enable = True
    forward = config.forward
    forward.inp_res, forward.out_res = 1 / 254, 1 / 254  # 255 levels, signed
    forward.noise_management, forward.bound_management = NoiseManagementType.NONE, BoundManagementType.NONE
    forward.out_bound, forward.out_noise = 30.0, 0.04  # in units of the largest weight times the largest input
    if not torch_tile:
        forward.w_noise, forward.w_noise_type = 0.01, WeightNoiseType.ADDITIVE_CONSTANT
    config.noise_model, config.drift_compensation = ReRamWan2022NoiseModel(g_max=40.0), None
    analog = convert_to_analog(work.net, config).eval()
    calibrate_input_ranges(analog, InputRangeCalibrationType.MAX, iter([((work.calibrate,), {})]))
    program_analog_weights(analog, None)
    return analog.requires_grad_(False)


def crosssim(work: Work) -> nn.Module:
    """The network on CrossSim's cores: 8-bit converters, ReRAM programming errors, 1 % read noise of each cell."""
    from simulator import CrossSimParameters
    from simulator.algorithms.dnn.torch.convert import convertible_modules, from_torch

    settings = {
        "core.style": "BALANCED",
        "core.balanced.style": "ONE_SIDED",
        "core.rows_max": TILE_ROWS,
        "core.cols_max": NO_LIMIT,
        "xbar.device.Rmin": 1 / 39e-6,  # its model of the cell ends at 39.26 uS
        "xbar.device.Rmax": 1 / 1e-6,
        "xbar.device.infinite_on_off_ratio": False,
        "xbar.device.programming_error.enable": True,
        "xbar.device.programming_error.model": "RRAMWan",
        "xbar.device.read_noise.enable": True,
        "xbar.device.read_noise.model": "NormalProportionalDevice",
        "xbar.device.read_noise.magnitude": 0.01,
        "xbar.dac.mvm.model": "QuantizerDAC",
        "xbar.dac.mvm.signed": False,
        "xbar.dac.mvm.bits": 8,
        "xbar.adc.mvm.model": "SignMagnitudeADC",
        "xbar.adc.mvm.signed": True,
        "xbar.adc.mvm.bits": 8,
        "xbar.adc.mvm.adc_range_option": "MAX",  # where the range lies does not change the time
        "simulation.disable_fast_matmul": True,  # one read, and so one noise, for each input vector
    }
    parameters = []
    for largest in largest_inputs(work.net, convertible_modules(work.net), work.calibrate):
        layer = CrossSimParameters()
        layer.update({**settings, "core.mapping.inputs.mvm.min": 0.0, "core.mapping.inputs.mvm.max": largest})
        layer.validate()
        parameters.append(layer)
    single = isinstance(work.net, nn.Linear)
    return from_torch(work.net, parameters[0] if single else parameters).eval().requires_grad_(False)


@torch.no_grad()
def largest_inputs(net: nn.Module, layers: Sequence[nn.Module], x: torch.Tensor) -> list[float]:
    """The largest input of each layer of a network for inputs x."""
    largest = [0.0] * len(layers)

    def note(index: int, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        largest[index] = float(inputs[0].max())

    hooks = [layer.register_forward_pre_hook(partial(note, index)) for index, layer in enumerate(layers)]
    net(x)
    for hook in hooks:
        hook.remove()
    return largest


def mapped(work: Work) -> nn.Module:
    """The network on Mho's tiles."""
    return mho.map(work.net, reram(TILE_ROWS, NOISY), calibrate=work.calibrate, seed=0)


MHO = Peer(
    "Mho",
    "mho",
    "map",
    mapped,
    "8-bit converters on every row tile; read noise of every cell in proportion to its conductance, and white noise, "
    "as the exact sum over the cells, one normal number for each reading; amplifier noise; frozen programming errors.",
)
PEERS = (
    MHO,
    Peer(
        "aihwkit, C++ tile",
        "aihwkit.nn.conversion",
        "convert_to_analog",
        partial(aihwkit, torch_tile=False),
        "Comparable: 8-bit converters on every row tile, frozen programming errors, normal numbers for each reading. "
        "Not comparable: its noise is referred to the output, of one size for all cells whatever their conductance and "
        "of one size for all outputs, so it needs no second product.",
    ),
    Peer(
        "aihwkit, torch tile",
        "aihwkit.nn.conversion",
        "convert_to_analog",
        partial(aihwkit, torch_tile=True),
        "Comparable: 8-bit converters on every row tile, frozen programming errors. Not comparable: noise of one size "
        "for all outputs only; this tile has no read noise of the weights.",
    ),
    Peer(
        "CrossSim",
        "simulator",
        "CrossSimParameters",
        crosssim,
        "Comparable: 8-bit converters on every row tile, frozen programming errors, read noise of every cell in "
        "proportion to its conductance. Not comparable: no amplifier and no white noise; it draws a number for every "
        "cell and input vector, thousands of times the work, and so is timed, with torch and Mho beside it, on 8 "
        "samples.",
        batch=8,
        runs=3,
    ),
)


def unusable(peer: Peer) -> str | None:
    """Why a simulator can't be used here, or None."""
    try:
        getattr(importlib.import_module(peer.module), peer.name)
    except (ImportError, AttributeError) as error:
        return str(error)
    return None


def measure(threads: int) -> dict[str, Any]:
    """Times of all simulators that are here, and why others are not; for a process started with `threads` threads."""
    missing = {peer.title: reason for peer in PEERS if (reason := unusable(peer)) is not None}
    here = [peer for peer in PEERS if peer.title not in missing]
    rows = []
    for work in works():
        for batch in dict.fromkeys(peer.batch for peer in here):
            others = [peer for peer in here if peer.batch == batch and peer is not MHO]
            rows += compare(work, [MHO, *others], batch, threads)
    return {"rows": rows, "missing": missing}


def compare(work: Work, group: Sequence[Peer], batch: int | None, threads: int) -> list[dict[str, Any]]:
    """Times of simulators with one batch (None: the work's), run in turn with torch."""
    x = work.x[:batch]
    networks = {"torch": work.net, **{peer.title: peer.build(work) for peer in group}}
    functions = {name: partial(network, x) for name, network in networks.items()}
    times = timing.compare(functions, threads, runs=min(peer.runs for peer in group))
    name = work.name.replace(f"batch {len(work.x)}", f"batch {len(x)}")
    return [
        {
            "work": name,
            "simulator": peer.title,
            "threads": threads,
            "ms": 1e3 * times.seconds[peer.title],
            "torch_ms": 1e3 * times.seconds["torch"],
            "ratio": times.seconds[peer.title] / times.seconds["torch"],
            "runs": times.runs,
            "discarded": times.discarded,
            "quiet": times.quiet,
            "comparable": peer.comparable,
        }
        for peer in group
    ]


COLUMNS: Columns = {
    "work": Column("work", "s"),
    "simulator": Column("simulator", "s"),
    "threads": Column("threads", "d"),
    "ms": Column("time (ms)", ".3f"),
    "torch_ms": Column("torch (ms)", ".3f"),
    "ratio": Column("ratio", ".2f"),
}


def fresh_measure(threads: int) -> dict[str, Any]:
    """`measure` in a process of its own: OpenBLAS and OpenMP fix their threads when they start."""
    code = f"import json, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import peers; "
    code += f"print(json.dumps(peers.measure({threads})))"
    output = timing.fresh_process(code, **dict.fromkeys(OPENMP, str(threads))).output
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def run(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Measure and print; the record of it."""
    results = [fresh_measure(threads) for threads in options.threads]
    rows = pd.DataFrame([row for result in results for row in result["rows"]])
    rows = pd.concat(group for _, group in rows.groupby("work", sort=False)).reset_index(drop=True)
    missing = results[0]["missing"]
    print_table("Reads over noiseless torch float32", rows, COLUMNS, markdown=options.markdown)
    notes = [f"{peer.title}: {peer.comparable}" for peer in PEERS if peer.title not in missing]
    notes += [f"{title} is not installed here, or not usable ({reason})" for title, reason in missing.items()]
    notes += [
        f"{r['work']}, {r['threads']} thr.: the machine was busy" for r in rows[~rows["quiet"]].to_dict("records")
    ]
    print_notes(list(dict.fromkeys(notes)))
    return {**record(PACKAGES, command), "rows": rows.to_dict("records"), "missing": missing}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    default = "1,2" if numba.config.NUMBA_NUM_THREADS > 1 else "1"
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/peers"), help="folder for peers.json")
    parser.add_argument("--threads", type=timing.thread_counts, default=default, help="numbers of threads, e.g. 1,2")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, and write the record when all is done. Returns the exit code."""
    options = parse(arguments)
    command = shlex.join(["benchmarks/peers.py", *(sys.argv[1:] if arguments is None else arguments)])
    return write_measured(options.out / FILE, lambda: run(options, command))


if __name__ == "__main__":
    sys.exit(main())
