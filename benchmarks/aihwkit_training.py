"""Training for noisy hardware by IBM's aihwkit and by Mho: the same network, the same noise, as many steps.

    python benchmarks/aihwkit_training.py [--scales 4 8] [--samples 20000] [--images 1000] [--chips 3] [--steps 15]
        [--seed 0] [--out runs/aihwkit_training]

The MNIST CNN from `sigma-0.0`, one epoch with Adam, on a configuration of aihwkit (8-bit converters, noise of weights
and outputs in each read, PCM's programming error times a scale) and on what `mho.importing.aihwkit` makes of it:

* aihwkit changes the weights of each mini-batch by its modifier: `Poly`, PCM's programming error with the same scale,
  or `AddNormal`, a Gaussian of 5 % of the largest weight;
* Mho programs a new chip in each step (`mho.trainable`).

Each network is measured on chips of both simulators that no training has seen, one inference for each image. Times are
of one step in the same process (CPU time at one thread), beside the plain step. aihwkit is no part of Mho's
environment: see `benchmarks/peers.py`.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from hardware_aware import CALIBRATION, spread
from torch import nn

import mho
from mho.importing import aihwkit as imported
from mho.models.networks import NETWORKS
from mho.records import record, write_json

BATCH, RATE, FIRST_CHIP = 64, 5e-4, 1000
MODIFIERS = ("Poly", "AddNormal")
ADDED = 0.05  # standard deviation of `AddNormal`, over the largest weight


def config_of(scale: float, modifier: str) -> Any:
    """aihwkit's configuration."""
    from aihwkit.inference import PCMLikeNoiseModel
    from aihwkit.simulator.configs import (
        BoundManagementType,
        InferenceRPUConfig,
        NoiseManagementType,
        WeightModifierType,
        WeightNoiseType,
    )

    config = InferenceRPUConfig()
    config.mapping.max_input_size = config.mapping.max_output_size = 512
    config.mapping.weight_scaling_omega, config.mapping.digital_bias = 1.0, True
    config.mapping.weight_scaling_columnwise = True  # so that a folded batch norm changes no conductance
    config.forward.inp_res, config.forward.out_res = 1 / 254, 1 / 254
    config.forward.out_bound, config.forward.out_noise = 10.0, 0.02
    config.forward.w_noise, config.forward.w_noise_type = 0.02, WeightNoiseType.ADDITIVE_CONSTANT
    config.forward.noise_management = NoiseManagementType.NONE
    config.forward.bound_management = BoundManagementType.NONE
    config.pre_post.input_range.enable = True
    config.noise_model = PCMLikeNoiseModel(g_max=25.0, prog_noise_scale=scale, read_noise_scale=0.0, drift_scale=0.0)
    config.drift_compensation = None
    config.modifier.type = WeightModifierType(modifier)
    config.modifier.std_dev = ADDED if modifier == "AddNormal" else scale  # of `Poly` a factor of PCM's polynomial
    return config


def analog_of(net: nn.Module, config: Any, calibrate: torch.Tensor) -> nn.Module:
    """The network on aihwkit's tiles, with the ranges of its inputs."""
    from aihwkit.inference.calibration import InputRangeCalibrationType, calibrate_input_ranges
    from aihwkit.nn.conversion import convert_to_analog

    made: nn.Module = convert_to_analog(copy.deepcopy(net), config)
    calibrate_input_ranges(made, InputRangeCalibrationType.MAX, iter([((calibrate,), {})]))
    return made


def digital_of(analog: nn.Module) -> nn.Module:
    """The network that aihwkit has trained, without tiles."""
    from aihwkit.nn.conversion import convert_to_digital

    made: nn.Module = convert_to_digital(copy.deepcopy(analog))
    return made.eval()


def trainer(model: nn.Module, analog: bool) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """A step of Adam."""
    if analog:
        from aihwkit.optim import AnalogAdam

        optimizer = AnalogAdam(model.parameters(), RATE)
        optimizer.regroup_param_groups(model)
    else:
        optimizer = torch.optim.Adam(model.parameters(), RATE)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


class Data:
    """Images to train with, to set ranges and to measure."""

    def __init__(self, samples: int, images: int) -> None:
        entry = NETWORKS["mnist-cnn"]
        self.images, self.labels = spread(entry.load("train")[:2], samples)
        self.test, self.wanted = spread(entry.load("test")[:2], images)

    @property
    def calibrate(self) -> torch.Tensor:
        return self.images[:CALIBRATION]

    def epoch(self, step: Callable[[torch.Tensor, torch.Tensor], None], seed: int) -> None:
        """One pass over the images, in an order of the seed."""
        torch.manual_seed(seed)
        for chosen in torch.randperm(len(self.images)).split(BATCH):
            step(self.images[chosen], self.labels[chosen])


def on_mho(net: nn.Module, hardware: mho.Hardware, data: Data, chips: int) -> list[float]:
    """Accuracy of one inference on chips of Mho."""
    made = [mho.map(net, hardware, calibrate=data.calibrate, seed=FIRST_CHIP + chip) for chip in range(chips)]
    return [float(mho.vote(chip, data.test, 1).accuracy(data.wanted)) for chip in made]


def on_aihwkit(net: nn.Module, config: Any, data: Data, chips: int) -> list[float]:
    """Accuracy of one inference on tiles of aihwkit that are programmed anew."""
    found = []
    for chip in range(chips):
        torch.manual_seed(FIRST_CHIP + chip)
        made: Any = analog_of(net, config, data.calibrate).eval()
        made.program_analog_weights()
        with torch.inference_mode():
            right = [made(x).argmax(1) == y for x, y in zip(data.test.split(100), data.wanted.split(100), strict=True)]
        found.append(float(torch.cat(right).double().mean()))
    return found


def cost(steps: dict[str, Callable[[torch.Tensor, torch.Tensor], None]], data: Data, count: int) -> dict[str, float]:
    """Median CPU seconds of a step, by turns."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(count + 2):
        here = slice(turn * BATCH, (turn + 1) * BATCH)
        for name, step in steps.items():
            began = time.process_time()
            step(data.images[here], data.labels[here])
            if turn > 1:
                taken[name].append(time.process_time() - began)
    return {name: statistics.median(found) for name, found in taken.items()}


def row(way: str, scale: float, net: nn.Module, hardware: mho.Hardware, data: Data, chips: int) -> dict[str, Any]:
    """What a network has on both."""
    net = net.eval()
    with torch.inference_mode():
        digital = float((net(data.test).argmax(1) == data.wanted).double().mean())
    config = config_of(scale, "None")
    found = {"mho": on_mho(net, hardware, data, chips), "aihwkit": on_aihwkit(net, config, data, chips)}
    print(way, scale, round(digital, 4), found, flush=True)
    return {"way": way, "scale": scale, "digital": digital, **found}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scales", nargs="+", type=float, default=[4.0, 8.0])
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--chips", type=int, default=3)
    parser.add_argument("--steps", type=int, default=15, help="that are timed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/aihwkit_training"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    data, start = Data(options.samples, options.images), NETWORKS["mnist-cnn"].build("sigma-0.0").eval()
    rows: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}
    for scale in options.scales:
        hardware = imported(config_of(scale, "None")).hardware
        rows.append(row("plain", scale, start, hardware, data, options.chips))
        steps: dict[str, Callable[[torch.Tensor, torch.Tensor], None]] = {}
        for modifier in MODIFIERS:
            analog = analog_of(start, config_of(scale, modifier), data.calibrate).train()
            steps[f"aihwkit, {modifier}"] = trainer(analog, analog=True)
            data.epoch(steps[f"aihwkit, {modifier}"], options.seed)
            rows.append(row(f"aihwkit, {modifier}", scale, digital_of(analog), hardware, data, options.chips))
        net = copy.deepcopy(start)
        steps["mho"] = trainer(mho.trainable(net, hardware, calibrate=data.calibrate).train(), analog=False)
        data.epoch(steps["mho"], options.seed)
        rows.append(row("mho", scale, net, hardware, data, options.chips))
        steps["plain"] = trainer(copy.deepcopy(start).train(), analog=False)
        seconds = seconds or cost(steps, data, options.steps)
        options.out.mkdir(parents=True, exist_ok=True)
        made = record(("mho", "torch", "numba", "aihwkit"), " ".join(["benchmarks/aihwkit_training.py", *sys.argv[1:]]))
        write_json({**made, "step_cpu_s": seconds, "rows": rows}, options.out / "aihwkit_training.json")
    print(seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
