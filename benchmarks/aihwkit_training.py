"""Training for noisy hardware by IBM's aihwkit and by Mho: the same network, the same noise, as many steps.

    python benchmarks/aihwkit_training.py [--scales 8] [--samples 20000] [--images 1000] [--chips 5] [--steps 15]
        [--seed 0] [--out runs/aihwkit_training]

The MNIST CNN from `sigma-0.0`, one epoch with Adam, on a configuration of aihwkit (8-bit converters, noise of weights
and outputs in each read, PCM's programming error times a scale) and on what `mho.importing.aihwkit` makes of it:

* aihwkit changes the weights of each mini-batch by its modifier: `Poly`, PCM's programming error with the same scale,
  or `AddNormal`, a Gaussian of 5 % of the largest weight. Its weights are scaled to 1 on the tiles, so that a step of
  Adam is a smaller share of them: a second rate is four times as large;
* Mho programs a new chip in each step (`mho.trainable`).

Each network is measured on chips of both simulators that no training has seen, one inference for each image. Times are
of one step in the same process (CPU time at one thread), beside the plain step. aihwkit is no part of Mho's
environment: see `benchmarks/peers.py`. The same command resumes where it was stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
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
PEER = [("Poly", 5e-4), ("Poly", 2e-3), ("AddNormal", 5e-4)]  # modifiers, and rates of Adam
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


def trainer(model: nn.Module, analog: bool, rate: float = RATE) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """A step of Adam."""
    if analog:
        from aihwkit.optim import AnalogAdam

        optimizer = AnalogAdam(model.parameters(), rate)
        optimizer.regroup_param_groups(model)
    else:
        optimizer = torch.optim.Adam(model.parameters(), rate)

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


class Study:
    """What is known so far, and what of it is asked for."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.data = options, Data(options.samples, options.images)
        self.file = options.out / "aihwkit_training.json"
        self.found: dict[str, Any] = {"step_cpu_s": {}, "rows": []}
        if self.file.exists():
            self.found = json.loads(self.file.read_text(encoding="utf-8"))

    @property
    def start(self) -> nn.Module:
        return NETWORKS["mnist-cnn"].build("sigma-0.0").eval()

    def keep(self) -> None:
        """Write what is known."""
        self.options.out.mkdir(parents=True, exist_ok=True)
        made = record(("mho", "torch", "numba", "aihwkit"), " ".join(["benchmarks/aihwkit_training.py", *sys.argv[1:]]))
        write_json({**made, **{name: self.found[name] for name in ("step_cpu_s", "rows")}}, self.file)

    def analog(self, scale: float, modifier: str, rate: float) -> tuple[nn.Module, Any]:
        """The network on aihwkit's tiles, and a step of its training."""
        made = analog_of(self.start, config_of(scale, modifier), self.data.calibrate).train()
        return made, trainer(made, analog=True, rate=rate)

    def through(self, hardware: mho.Hardware) -> tuple[nn.Module, Any]:
        """The network, and a step of its training through Mho's chips."""
        net = copy.deepcopy(self.start)
        return net, trainer(mho.trainable(net, hardware, calibrate=self.data.calibrate).train(), analog=False)

    def run(self, scale: float) -> None:
        """All ways at one scale of PCM's programming error."""
        hardware = imported(config_of(scale, "None")).hardware
        self.row("plain", scale, hardware, lambda: self.start)
        for modifier, rate in PEER:
            self.row(
                f"aihwkit, {modifier}, rate {rate:g}", scale, hardware, partial(self._by_peer, scale, modifier, rate)
            )
        self.row("mho", scale, hardware, lambda: self._by_mho(hardware))
        if not self.found["step_cpu_s"]:
            steps = {f"aihwkit, {modifier}": self.analog(scale, modifier, rate)[1] for modifier, rate in PEER}
            steps |= {"mho": self.through(hardware)[1], "plain": trainer(self.start.train(), analog=False)}
            self.found["step_cpu_s"] = cost(steps, self.data, self.options.steps)
            self.keep()

    def _by_peer(self, scale: float, modifier: str, rate: float) -> nn.Module:
        made, step = self.analog(scale, modifier, rate)
        self.data.epoch(step, self.options.seed)
        return digital_of(made)

    def _by_mho(self, hardware: mho.Hardware) -> nn.Module:
        net, step = self.through(hardware)
        self.data.epoch(step, self.options.seed)
        return net

    def row(self, way: str, scale: float, hardware: mho.Hardware, build: Callable[[], nn.Module]) -> None:
        """What a network has on chips of both, where it is not known."""
        place = {"way": way, "scale": scale}
        if any(place.items() <= row.items() for row in self.found["rows"]):
            return
        net, data, chips = build().eval(), self.data, self.options.chips
        with torch.inference_mode():
            digital = float((net(data.test).argmax(1) == data.wanted).double().mean())
        config = config_of(scale, "None")
        on = {"mho": on_mho(net, hardware, data, chips), "aihwkit": on_aihwkit(net, config, data, chips)}
        self.found["rows"].append({**place, "digital": digital, **on})
        print(self.found["rows"][-1], flush=True)
        self.keep()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scales", nargs="+", type=float, default=[8.0])
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--chips", type=int, default=5)
    parser.add_argument("--steps", type=int, default=15, help="that are timed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/aihwkit_training"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    study = Study(options)
    for scale in options.scales:
        study.run(scale)
    print(study.found["step_cpu_s"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
