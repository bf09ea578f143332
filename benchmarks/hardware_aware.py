"""Networks on bad chips: trained plainly, with a guessed sigma of noise, and through the chip.

    python benchmarks/hardware_aware.py [--networks mnist-cnn] [--settings reram-low ...] [--seeds 0] [--chips 5]
        [--samples 60000] [--epochs 1] [--images 1000] [--votes 20] [--out runs/hardware_aware] [--markdown]

Three ways, on test samples, single reads and votes, with chips that no training has seen:

* plain: the weights of the package that were trained without noise (`sigma-0.0`);
* sigma: of its weights that were trained with noise, those with the best accuracy of single reads on validation samples
  (the last of the training set), on a chip of their own;
* through: from the weights of `sigma` on, some epochs through the chip (`mho.trainable`), a new training for each seed.

`at-0` settings have ranges of time 0 and are read a year later; their networks are trained as after a year. There a
fourth way has no calibration on the chip at all: its ranges are those that the training ended with (`with_ranges`). All
that is measured goes to OUT/hardware_aware.json as it is made; the same command resumes where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from scipy.stats import t
from torch import nn

import mho
from mho.mapping.trainable.ranges import with_ranges
from mho.models.networks import NETWORKS
from mho.models.train import evaluate, train
from mho.models.weights import kind_of, names
from mho.records import record, write_json

YEAR = 365.25 * 86400
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "reram-low": ("reram", {"sensing.v_read": 1.4e-3}),
    "pcm-low": ("pcm", {"sensing.v_read": 0.8e-3}),
    "nand-low": ("nand", {"sensing.v_read": 1.6e-3}),
    "adc-4": ("reram", {"adc.bits": 4}),
    "stuck-3": ("reram", {"cell.stuck.at_g_min": 0.015, "cell.stuck.at_g_max": 0.015}),
    "pcm-year": ("pcm", {"time_s": YEAR}),
    "pcm-year-at-0": ("pcm", {"time_s": YEAR}),
}
RATES = {"mnist-cnn": 5e-4, "stroke-lstm": 1e-2, "resnet32": 0.02}  # of training through the chip, the highest
RATES_OF = {("stroke-lstm", "adc-4"): 3e-3}  # where that of the network is too high
AT_0 = "-at-0"
THROUGH = "through", "through, ranges of training"  # ways
CALIBRATION, VALIDATION = 256, 500
FIRST_CHIP, VALIDATION_CHIP = 1000, 999  # seeds
BATCH = 64


def hardware_of(setting: str) -> mho.Hardware:
    """What a setting is."""
    preset, fields = SETTINGS[setting]
    return mho.Hardware.preset(preset).replace({"name": setting, **fields})


def rate_of(network: str, setting: str) -> float:
    """The highest learning rate of training through the chip."""
    return RATES_OF.get((network, setting), RATES[network])


def chip_of(
    net: nn.Module, setting: str, calibrate: torch.Tensor, seed: int, hardware: mho.Hardware | None = None
) -> Any:
    """A chip of a network, as it is read; of `hardware` if not of the setting's."""
    hardware = hardware or hardware_of(setting)
    if not setting.endswith(AT_0):
        return mho.map(net, hardware, calibrate=calibrate, seed=seed)
    return mho.map(net, hardware.replace({"time_s": 0.0}), calibrate=calibrate, seed=seed).at(hardware.time_s)


def spread(samples: tuple[torch.Tensor, torch.Tensor], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """So many of them, evenly over all: the first ones of MNIST are easier than the others."""
    chosen = torch.linspace(0, len(samples[0]) - 1, min(count, len(samples[0]))).long()
    return samples[0][chosen], samples[1][chosen]


class Study:
    """What is known so far, and what of it is asked for."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.file = options, options.out / "hardware_aware.json"
        self.rows: list[dict[str, Any]] = []
        if self.file.exists():
            self.rows = json.loads(self.file.read_text(encoding="utf-8"))["rows"]

    def found(self, **wanted: Any) -> dict[str, Any] | None:
        """The row of these values."""
        return next((row for row in self.rows if wanted.items() <= row.items()), None)

    def keep(self, row: dict[str, Any]) -> None:
        """Another row."""
        print(row, flush=True)
        self.rows.append(row)
        write_json({**record(("mho", "torch", "numba"), " ".join(sys.argv)), "rows": self.rows}, self.file)

    def run(self, network: str, setting: str) -> None:
        """All ways on a setting."""
        entry, options = NETWORKS[network], self.options
        inputs, labels, _ = entry.load("train")
        guess = self._guess(network, setting, inputs, labels)
        made: dict[tuple[str, int], Callable[[], tuple[nn.Module, mho.Hardware | None]]] = {
            ("plain", 0): lambda: (entry.build("sigma-0.0"), None),
            ("sigma", 0): lambda: (entry.build(guess), None),
        }
        for way in THROUGH[: 2 if setting.endswith(AT_0) else 1]:
            for seed in options.seeds:
                made[way, seed] = partial(self._trained, network, setting, guess, (seed, way), (inputs, labels))
        test, wanted = spread(entry.load("test")[:2], options.images)
        for (way, seed), build in made.items():
            place = {"network": network, "setting": setting, "way": way, "seed": seed}
            if way in THROUGH:
                place |= {"samples": options.samples, "epochs": options.epochs, "rate": rate_of(network, setting)}
            missing = [c for c in range(options.chips) if self.found(**place, chip=c, images=options.images) is None]
            if not missing:
                continue
            net, hardware = build()
            digital = evaluate(net, test, wanted)
            for c in missing:
                chip = chip_of(net, setting, inputs[:CALIBRATION], FIRST_CHIP + c, hardware)
                row = {**place, "chip": c, "images": options.images, "weights": guess if way == "sigma" else way}
                for name, k in (("single", 1), ("voted", options.votes)):
                    votes = mho.vote(chip, test, k)
                    row[name] = float(votes.accuracy(wanted))
                self.keep({**row, "votes": options.votes, "digital": digital})

    def _guess(self, network: str, setting: str, inputs: torch.Tensor, labels: torch.Tensor) -> str:
        """The weights with noise that do best on validation samples."""
        entry, best = NETWORKS[network], ("", -1.0)
        some = [name for name in names(entry.build.__name__) if name.startswith("sigma-") and kind_of(name) == "mult"]
        for name in some:
            place = {"network": network, "setting": setting, "way": "validation", "weights": name}
            row = self.found(**place)
            if row is None:
                chip = chip_of(entry.build(name).eval(), setting, inputs[:CALIBRATION], VALIDATION_CHIP)
                single = mho.vote(chip, inputs[-VALIDATION:], 1).accuracy(labels[-VALIDATION:])
                row = {**place, "images": VALIDATION, "single": float(single)}
                self.keep(row)
            best = max(best, (name, row["single"]), key=lambda found: found[1])
        return best[0]

    def _trained(
        self, network: str, setting: str, start: str, which: tuple[int, str], samples: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[nn.Module, mho.Hardware | None]:
        """The network trained through the chip; which = (seed, way). Hardware with its ranges, where they are fixed."""
        entry, options, (inputs, labels), (seed, way) = NETWORKS[network], self.options, samples, which
        count = min(options.samples, len(inputs) - VALIDATION)
        data = inputs[:count], labels[:count]
        recipe = replace(
            entry.ours,
            epochs=options.epochs,
            batch_size=BATCH,
            sizes="",
            learning_rate=rate_of(network, setting),
            average_decay=0.99,
            label_smoothing=0.0,
            seed=seed,
            start=start,
            hardware=setting.removesuffix(AT_0),
            data=f"the first {count}",
        )
        hardware, trained = hardware_of(setting), []

        def through(net: nn.Module) -> nn.Module:
            trained.append(mho.trainable(net, hardware, calibrate=inputs[:CALIBRATION]))
            return trained[-1]

        out = options.out / f"{network}-{setting.removesuffix(AT_0)}-{seed}-{count}x{options.epochs}"
        held = inputs[-VALIDATION:], labels[-VALIDATION:]
        net = train(lambda: entry.build(start), data, held, recipe, out, through=through).eval()
        return net, with_ranges(hardware, trained[-1]) if way == THROUGH[1] else None


def mean_of(rows: Sequence[dict[str, Any]], name: str) -> tuple[float, float]:
    """The mean in per cent and half its 95 % interval over trainings and chips.

    The two are crossed. Student's intervals of the means of trainings and of those of chips are added in quadrature;
    one of either gives no interval.
    """
    values = pd.DataFrame(rows)
    half = 0.0
    for axis in ("seed", "chip"):
        means = 100 * values.groupby(axis)[name].mean()
        if len(means) > 1:
            half = math.hypot(half, t.ppf(0.975, len(means) - 1) * means.sem())
    return 100 * values[name].mean(), half


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Single reads and votes by setting, and what training through the chip recovers of the loss of the plain one."""
    lines = ["| network | setting | reads | digital | plain | best sigma | through the chip | trained | of the loss |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for place in dict.fromkeys(place_of(row) for row in rows if row["way"] in THROUGH):
        plain, sigma, through = (
            [row for row in rows if row["way"] == way and place_of(row)[: len(wanted)] == wanted]
            for way, wanted in (("plain", place[:2]), ("sigma", place[:2]), (place[4], place))
        )
        if not plain or not sigma:
            continue
        digital = 100 * plain[0]["digital"]
        trained = f"{len({row['seed'] for row in through})} x {place[2]} epoch{'s' if place[2] > 1 else ''}"
        trained += f", rate {place[3]:g}" if place[3] else ""
        for name, reads in (("single", 1), ("voted", plain[0]["votes"])):
            means = [mean_of(way, name) for way in (plain, sigma, through)]
            cells = [f"{mean:.1f} ± {half:.1f}" for mean, half in means]
            cells[1] += f" (`{sigma[0]['weights']}`)"
            loss = digital - means[0][0]
            share = f"{100 * (means[2][0] - means[0][0]) / loss:.0f} %" if loss > 0.5 else ""
            setting = place[1] + place[4].removeprefix(THROUGH[0])
            parts = [place[0], setting, str(reads), f"{digital:.1f}", *cells, trained, share]
            lines.append(f"| {' | '.join(parts)} |")
    return "\n".join(lines)


def place_of(row: dict[str, Any]) -> tuple[str, str, int | None, float | None, str]:
    """Network and setting; epochs, rate and way of a training through the chip."""
    return row["network"], row["setting"], row.get("epochs"), row.get("rate"), row["way"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["mnist-cnn"], choices=list(RATES))
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--chips", type=int, default=5)
    parser.add_argument("--samples", type=int, default=60000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--votes", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/hardware_aware"))
    parser.add_argument("--markdown", action="store_true", help="print the table of what is there")
    options = parser.parse_args(arguments)
    study = Study(options)
    if options.markdown:
        print(table(study.rows))
        return 0
    for network in options.networks:
        for setting in options.settings:
            study.run(network, setting)
    print(table(study.rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
