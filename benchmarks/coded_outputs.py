"""More outputs than classes in the last layer, and a digital decoder: what they do against noise, beside votes.

    python benchmarks/coded_outputs.py [--parts mnist-cnn stroke-lstm densenet40 trained chips] [--seeds 0 1]
        [--images 1000] [--out docs/results/coded_outputs] [--markdown]

Of the paper's networks under its multiplicative noise on every layer, one inference each, with `mho.coded`:

* as they are, with each output repeated, and with Walsh-Hadamard codes;
* `trained`: the MNIST CNN (`sigma-1.0`) trained on with noise of 1.0 everywhere and the code in its place, so that its
  words may become any;
* `chips`: the MNIST CNN on the ReRAM preset, with energy, latency and area, beside votes that read all or the last
  layer again.

Samples are spread evenly over the test set. All that is measured goes to OUT/PART.json as it is made; the same command
resumes where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hardware_aware import CALIBRATION, hardware_of, spread
from noise_by_layer import CHIP_WEIGHTS, FEW, FIRST_CHIP, Cell, Rows, chip_votes, noises, training
from torch import nn

import mho
from mho.mapping.architecture.decision import decision
from mho.models.networks import NETWORKS

Coding = tuple[str, int]  # a code, and the number of outputs; none: as the network has them
PLAIN: Coding = ("none", 0)
CODES: list[Coding] = [PLAIN, *(("repetition", n) for n in (20, 40, 200)), *(("hadamard", 2**k) for k in range(4, 9))]
LAST = {"mnist-cnn": ("fc2", "noise6"), "stroke-lstm": ("output", "output_noise"), "densenet40": ("fc", "noise3")}
CELLS: dict[str, list[tuple[str, float]]] = {  # weights and sigma_val
    "mnist-cnn": [("sigma-0.0", 0.4), ("sigma-0.5", 0.6), *(("sigma-1.0", sigma) for sigma in (0.4, 0.6, 0.8, 1.0))],
    "stroke-lstm": [("sigma-1.0", 0.6), ("sigma-1.0", 1.0)],
    "densenet40": [("sigma-1.0", 1.0)],
}
SETTING, CHIP_CODES = "reram-low", [PLAIN, ("hadamard", 16), ("hadamard", 32), ("hadamard", 64)]
TRAINED: list[Coding] = [PLAIN, ("hadamard", 16), ("hadamard", 32)]
TRAINED_AT = (0.6, 1.0)  # sigma_val
SAMPLES, BATCH, RATE = 20_000, 128, 5e-4  # of `trained`


def with_code(net: nn.Module, network: str, coding: Coding) -> nn.Module:
    """The network with a coded last layer; its decoder is behind the noise of that layer."""
    (layer, noise), (code, n) = LAST[network], coding
    if coding == PLAIN:
        return net
    made = mho.coded(net, {layer: n}, code=code)  # type: ignore[arg-type]
    pair = made.get_submodule(layer)
    setattr(made, noise, nn.Sequential(made.get_submodule(noise), pair.decoder))
    setattr(made, layer, pair.coded)
    return made


def train(net: nn.Module, seed: int) -> nn.Module:
    """One epoch with noise of 1.0 on every layer; of `SAMPLES` training images, in an order of the seed."""
    images, labels = training("mnist-cnn", SAMPLES)
    for of in noises_of(net):
        of.sigma_train = 1.0
    torch.manual_seed(seed)
    steps = len(images) // BATCH
    optimizer = torch.optim.Adam(net.train().parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for chosen in torch.randperm(len(images))[: steps * BATCH].split(BATCH):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images[chosen]), labels[chosen]).backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def noises_of(net: nn.Module) -> list[Any]:
    """All noise of the network."""
    return [module for module in net.modules() if hasattr(module, "sigma_train")]


class Study(Rows):
    """All parts."""

    script = Path(__file__).name

    def network(self, network: str) -> None:
        """The paper's noise in a network as it is trained."""
        entry, options = NETWORKS[network], self.options
        most, images = FEW.get(network, (len(options.seeds), options.images))
        data = spread(entry.load("test")[:2], min(images, options.images))
        for weights, sigma in CELLS[network]:
            for coding in CODES:
                net = with_code(entry.build(weights).eval(), network, coding)
                place = {"part": network, "weights": weights, "sigma": sigma}
                self.single(net, network, place, coding, data, options.seeds[:most])

    def single(
        self,
        net: nn.Module,
        network: str,
        place: dict[str, Any],
        coding: Coding,
        data: tuple[torch.Tensor, torch.Tensor],
        seeds: Sequence[int],
    ) -> None:
        """One inference with noise everywhere, for each seed of it."""
        place = {**place, "code": coding[0], "outputs": coding[1], "images": len(data[0])}
        of = {layer: list(found) for layer, found in _noises(net, network).items()}
        for seed in seeds:
            cell = Cell(net, of, place, *data)
            self.keep({**place, "seed": seed}, partial(cell.single, set(of), seed))

    def trained(self) -> None:
        """The MNIST CNN trained on with the code in its place."""
        entry, options = NETWORKS["mnist-cnn"], self.options
        data = spread(entry.load("test")[:2], options.images)
        for coding in TRAINED:
            done = [row for row in self.rows["trained"] if (row["code"], row["outputs"]) == coding]
            if len(done) == len(TRAINED_AT) * len(options.seeds):
                continue
            net = train(with_code(entry.build("sigma-1.0"), "mnist-cnn", coding), 0)
            for sigma in TRAINED_AT:
                place = {"part": "trained", "weights": "sigma-1.0", "sigma": sigma, "samples": SAMPLES}
                self.single(net, "mnist-cnn", place, coding, data, options.seeds)

    def chips(self) -> None:
        """The MNIST CNN on a chip at a low voltage."""
        entry, options = NETWORKS["mnist-cnn"], self.options
        data = spread(entry.load("test")[:2], options.images)
        few = training("mnist-cnn", CALIBRATION)[0]
        for code, n in CHIP_CODES:
            net = entry.build(CHIP_WEIGHTS).eval()
            made = net if n == 0 else mho.coded(net, {"fc2": n})
            for noise, hardware in {"chip": hardware_of(SETTING), "outputs": noisy_outputs()}.items():
                place = {"part": "chips", "noise": noise, "code": code, "outputs": n, "images": options.images}
                for seed in options.seeds:
                    chip = mho.map(made, hardware, calibrate=few, seed=FIRST_CHIP + seed)
                    last = list(chip.layers)[-1]
                    for again, layer in {"all": None, "last": last}.items():
                        row = {**place, "seed": seed, "again": again}
                        self.keep(row, partial(chip_votes, chip, layer, (1, 5, 20), *data))
                    self.keep({**place, "seed": seed, "again": "area"}, partial(area, chip))


def noisy_outputs() -> mho.Hardware:
    """The ReRAM preset at its own voltage, with the paper's noise of 0.6 on all readings."""
    return mho.Hardware.preset("reram").replace({"output_noise.sigma_mult": 0.6})


def area(chip: mho.Chip) -> dict[str, Any]:
    """Square metres of a chip."""
    return {"area_m2": decision(chip, 1).area_m2}


def _noises(net: nn.Module, network: str) -> dict[str, list[Any]]:
    """The noise of each layer; that of a coded last layer is within the module of its name."""
    noise = LAST[network][1]
    found = net.get_submodule(noise)
    if isinstance(found, nn.Sequential):
        plain = nn.Module()
        for name, module in net.named_modules():
            if name and not name.startswith(f"{noise}.") and "." not in name:
                plain.add_module(name, found[0] if name == noise else module)
        return dict(noises(plain, network))
    return dict(noises(net, network))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Accuracies of one inference, a column for each number of outputs."""
    codes = list(dict.fromkeys((row["code"], row["outputs"]) for row in rows))
    lines = [f"| weights | sigma | {' | '.join(f'{c} {n}' if n else 'as it is' for c, n in codes)} |"]
    lines.append("|---|---|" + "---|" * len(codes))
    for weights, sigma in dict.fromkeys((row["weights"], row["sigma"]) for row in rows):
        cells = []
        for code, n in codes:
            wanted = {"weights": weights, "sigma": sigma, "code": code, "outputs": n}
            found = [100 * row["single"] for row in rows if wanted.items() <= row.items()]
            cells.append(f"{sum(found) / len(found):.1f}" if found else "")
        lines.append(f"| `{weights}` | {sigma} | {' | '.join(cells)} |")
    return "\n".join(lines)


def chip_table(rows: Sequence[dict[str, Any]]) -> str:
    """Accuracy of votes with energy and latency, means of chips."""
    lines = [
        "| noise | outputs of `fc2` | read again | votes | accuracy | energy | latency |",
        "|---|---|---|---|---|---|---|",
    ]
    voted = [row for row in rows if "voted" in row]
    for noise, n, again in dict.fromkeys((row["noise"], row["outputs"], row["again"]) for row in voted):
        same = [row for row in voted if (row["noise"], row["outputs"], row["again"]) == (noise, n, again)]
        for k in same[0]["voted"]:
            if k == "1" and again == "last":
                continue
            accuracy = 100 * sum(row["voted"][k] for row in same) / len(same)
            energy, latency = 1e6 * same[0]["energy_j"][k], 1e6 * same[0]["latency_s"][k]
            lines.append(
                f"| {noise} | {n or 10} | {again} | {k} | {accuracy:.1f} | {energy:.2f} uJ | {latency:.0f} us |"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["mnist-cnn", "stroke-lstm", "densenet40", "trained", "chips"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--out", type=Path, default=Path("docs/results/coded_outputs"))
    parser.add_argument("--markdown", action="store_true", help="print tables of what is there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    study = Study(options)
    for part in () if options.markdown else options.parts:
        {"trained": study.trained, "chips": study.chips}.get(part, partial(study.network, part))()
    for part, rows in study.rows.items():
        if rows:
            print(f"{part}\n\n{chip_table(rows) if part == 'chips' else table(rows)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
