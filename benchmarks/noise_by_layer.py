"""Which layer's noise costs the accuracy: noise everywhere, in one layer alone, and everywhere but there.

    python benchmarks/noise_by_layer.py [--parts mnist-cnn chips stroke-lstm densenet40] [--seeds 0 1]
        [--images 1000] [--votes 5 20] [--out docs/results/noise_by_layer]

Of the paper's networks under its multiplicative noise (`mho.models`), and of the MNIST CNN on chips at a low voltage,
where the noise of a layer's reads is left out. Also:

* votes of K whole reads and of K reads of the last layer only, whose inputs are held;
* the last layer's noise alone, as measured and as `last_layer.py` computes it from the logits;
* `shift`: a number added to all biases of the last layer, found on training samples, which changes no answer without
  noise.

Samples are spread evenly over the test set. All that is measured goes to OUT/PART.json as it is made; the same command
resumes where it was stopped. `noise_by_layer_figure.py` draws it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import last_layer
import torch
from hardware_aware import CALIBRATION, hardware_of, spread
from torch import nn

import mho
from mho.mapping.architecture.decision import decision
from mho.mapping.chip import Chip
from mho.mapping.explaining.bench import quiet
from mho.mapping.explaining.partly import Variant, View
from mho.mapping.voting.votes import order
from mho.models.networks import NETWORKS
from mho.models.noise import Noise
from mho.records import record, write_json

BATCH, SHIFTED = 100, 300  # samples at once, and training samples that find a shift
SIGMAS = (0.4, 0.6, 0.8, 1.0)
GROUPS: dict[str, dict[str, str]] = {  # layers, and patterns of the names of their noise
    "mnist-cnn": {**{f"conv{i}": f"noise{i}" for i in (1, 2, 3, 4)}, "fc1": "noise5", "fc2": "noise6"},
    "stroke-lstm": {"gates": "gates_noise", "output": "output_noise"},
    "densenet40": {
        "conv": "noise",
        **{f"block{i}": f"block{i}.*" for i in (1, 2, 3)},
        "transitions": "noise[12]",
        "fc": "noise3",
    },
}
CELLS: dict[str, list[tuple[str, float]]] = {  # weights and sigma_val
    "mnist-cnn": [(weights, sigma) for weights in ("sigma-0.0", "sigma-0.5", "sigma-1.0") for sigma in SIGMAS],
    "stroke-lstm": [(weights, sigma) for weights in ("sigma-1.0", "sigma-0.0") for sigma in SIGMAS],
    "densenet40": [("sigma-0.0", 0.6), ("sigma-1.0", 1.0)],
}
VOTED = (1.0,)  # sigma_val of the votes
FEW = {"stroke-lstm": (1, 500), "densenet40": (1, 200)}  # seeds and images at most, as they are slow
CHIPS = ("reram-low", "pcm-low", "nand-low")
CHIP_WEIGHTS, FIRST_CHIP = "sigma-0.5", 1000
EVERYWHERE, NOWHERE = "everywhere", "nowhere"


def noises(net: nn.Module, network: str) -> dict[str, list[Noise]]:
    """The noise of each layer, or group of layers, by its name.

    Raises:
        ValueError: noise that belongs to none, or to two.
    """
    found: dict[str, list[Noise]] = {layer: [] for layer in GROUPS[network]}
    for name, module in net.named_modules():
        if isinstance(module, Noise):
            own = [layer for layer, pattern in GROUPS[network].items() if fnmatch(name, pattern)]
            if len(own) != 1:
                raise ValueError(f"noise {name!r} must be of one layer, got {own}")
            found[own[0]].append(module)
    return found


def places(layers: Sequence[str]) -> dict[str, set[str]]:
    """Where noise is: a name, and the layers that have it."""
    alone = {f"only {layer}": {layer} for layer in layers}
    return {EVERYWHERE: set(layers), **alone, **{f"all but {layer}": set(layers) - {layer} for layer in layers}}


def set_noise(of: dict[str, list[Noise]], layers: set[str], sigma: float) -> None:
    """Noise of sigma in these layers, and none in the others."""
    for layer, modules in of.items():
        for module in modules:
            module.sigma_val = sigma if layer in layers else 0.0


def last_of(net: nn.Module) -> nn.Linear:
    """The last matrix layer, which gives the logits."""
    return [module for module in net.modules() if isinstance(module, nn.Linear)][-1]


@lru_cache
def training(network: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """So many training samples, evenly over all."""
    return spread(NETWORKS[network].load("train")[:2], count)


@torch.inference_mode()
def scores(net: nn.Module, inputs: torch.Tensor, seed: int) -> torch.Tensor:
    """(n, classes) of one inference of each sample; the noise is new for each seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.cat([net(batch) for batch in inputs.split(BATCH)])


def voted(reads: Iterator[torch.Tensor], labels: torch.Tensor, counts: Sequence[int]) -> dict[str, float]:
    """The accuracy of hard votes of so many reads."""
    votes, total, found = torch.zeros(0), torch.zeros(0), dict[str, float]()
    for k in range(1, max(counts) + 1):
        logits = next(reads)
        one = nn.functional.one_hot(logits.argmax(1), logits.shape[1])
        soft = logits.double().softmax(1)
        votes, total = (one, soft) if k == 1 else (votes + one, total + soft)
        if k in counts:
            found[str(k)] = float((order(votes, (total / k).float(), "hard")[:, 0] == labels).double().mean())
    return found


@torch.inference_mode()
def last_again(net: nn.Module, inputs: torch.Tensor, seed: int, sigma: float) -> Iterator[torch.Tensor]:
    """Reads of the last layer alone, on the inputs that it has from one noisy inference."""
    exact: list[torch.Tensor] = []
    handle = last_of(net).register_forward_hook(lambda module, args, output: exact.append(output))
    first = scores(net, inputs, seed)
    handle.remove()
    yield first
    logits, generator = torch.cat(exact), torch.Generator().manual_seed(seed + 1)
    while True:
        yield logits * (1 + sigma * torch.randn(logits.shape, generator=generator))


def file_of(out: Path, part: str) -> Path:
    """Where the rows of a part are."""
    return out / f"{part}.json"


def kept(out: Path, part: str) -> list[dict[str, Any]]:
    """The rows of a part that are measured already."""
    file = file_of(out, part)
    return list(json.loads(file.read_text(encoding="utf-8"))["rows"]) if file.exists() else []


@dataclass
class Cell:
    """Weights of a network under a noise, and the samples that it is measured on.

    Attributes:
        of: the noise of each layer.
        place: what its rows begin with.
    """

    net: nn.Module
    of: dict[str, list[Noise]]
    place: dict[str, Any]
    inputs: torch.Tensor
    labels: torch.Tensor

    @property
    def sigma(self) -> float:
        return float(self.place["sigma"])

    def exact(self, of: torch.Tensor | None = None) -> torch.Tensor:
        """Logits without noise."""
        set_noise(self.of, set(), 0.0)
        return scores(self.net, self.inputs if of is None else of, 0)

    def single(self, layers: set[str], seed: int) -> dict[str, Any]:
        """The accuracy of one inference with noise in these layers."""
        set_noise(self.of, layers, self.sigma)
        return {"single": _accuracy(scores(self.net, self.inputs, seed), self.labels)}

    def computed(self) -> dict[str, Any]:
        """That of the last layer's noise alone, computed from the logits without noise."""
        logits, labels = self.exact(), self.labels.numpy()
        single = float(last_layer.right(logits.numpy(), labels, self.sigma).mean())
        limited = last_layer.below_bound(logits.numpy(), labels)
        return {"single": single, "digital": _accuracy(logits, self.labels), "limited": limited}

    def votes(self, again: str, counts: Sequence[int], seed: int) -> dict[str, Any]:
        """Of votes of whole reads ("all"), or of reads of the last layer ("last")."""
        set_noise(self.of, set(self.of), self.sigma)
        reads = last_again(self.net, self.inputs, seed, self.sigma)
        if again == "all":
            reads = (scores(self.net, self.inputs, seed + k) for k in range(max(counts)))
        return {"voted": voted(reads, self.labels, counts)}

    def shifted(self, seed: int) -> dict[str, Any]:
        """With noise everywhere, and a number added to the biases of the last layer."""
        inputs, labels = training(self.place["part"], SHIFTED)
        shift = last_layer.best_shift(self.exact(inputs).numpy(), labels.numpy(), self.sigma)
        bias = last_of(self.net).bias.data
        before = bias.clone()
        bias += shift
        alone = float(last_layer.right(self.exact().numpy(), self.labels.numpy(), self.sigma).mean())
        found = {"shift": shift, **self.single(set(self.of), seed), "last_alone": alone}
        bias.copy_(before)
        return found


class Rows:
    """What is known so far of the parts that are asked for, in files that `script` writes."""

    script = Path(__file__).name

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.rows: dict[str, list[dict[str, Any]]] = {part: kept(options.out, part) for part in options.parts}

    def keep(self, place: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
        """The row of a place, measured where it is missing."""
        rows = self.rows[place["part"]]
        if any(place.items() <= row.items() for row in rows):
            return
        rows.append({**place, **measure()})
        print(rows[-1], flush=True)
        made = record(("mho", "torch", "numba", "scipy"), " ".join([f"benchmarks/{self.script}", *sys.argv[1:]]))
        write_json({**made, "rows": rows}, file_of(self.options.out, place["part"]))


class Study(Rows):
    """All parts."""

    def network(self, network: str) -> None:
        """The paper's noise in a network."""
        entry, options = NETWORKS[network], self.options
        most, images = FEW.get(network, (len(options.seeds), options.images))
        first, seeds, images = options.seeds[0], options.seeds[:most], min(images, options.images)
        inputs, labels = spread(entry.load("test")[:2], images)
        for weights, sigma in CELLS[network]:
            net = entry.build(weights).eval()
            place: dict[str, Any] = {"part": network, "weights": weights, "sigma": sigma, "images": images}
            cell = Cell(net, noises(net, network), place, inputs, labels)
            last = list(cell.of)[-1]
            for where, layers in places(list(cell.of)).items():
                for seed in seeds:
                    if seed == first or where in (EVERYWHERE, f"only {last}", f"all but {last}"):
                        self.keep({**place, "where": where, "seed": seed}, partial(cell.single, layers, seed))
            self.keep({**place, "where": f"only {last}", "computed": True}, cell.computed)
            place |= {"where": EVERYWHERE, "seed": first}
            if network == "mnist-cnn":  # training strokes take long to make
                self.keep({**place, "shifted": True}, partial(cell.shifted, first))
            if network != "densenet40" and sigma in VOTED:
                for again in ("all", "last"):
                    votes = partial(cell.votes, again, options.votes, 1000 * (first + 1))
                    self.keep({**place, "again": again, "votes": options.votes}, votes)

    def chips(self) -> None:
        """The noise of reads of the MNIST CNN on chips at a low voltage."""
        entry, options = NETWORKS["mnist-cnn"], self.options
        inputs, labels = spread(entry.load("test")[:2], options.images)
        few = training("mnist-cnn", CALIBRATION)[0]
        for setting in CHIPS:
            hardware, net = hardware_of(setting), entry.build(CHIP_WEIGHTS).eval()
            place = {"part": "chips", "setting": setting, "weights": CHIP_WEIGHTS, "images": options.images}
            for seed in options.seeds:
                chip = mho.map(net, hardware, calibrate=few, seed=FIRST_CHIP + seed)
                names = list(chip.layers)
                for where, layers in {**places(names), NOWHERE: set[str]()}.items():
                    view = View(chip, Variant(quiet=frozenset(names) - layers))
                    self.keep({**place, "where": where, "seed": seed}, partial(one_read, view, inputs, labels))
                for again, layer in {"all": None, "last": names[-1]}.items() if seed == options.seeds[-1] else ():
                    voted = {**place, "where": EVERYWHERE, "seed": seed, "again": again, "votes": options.votes}
                    self.keep(voted, partial(chip_votes, chip, layer, options.votes, inputs, labels))


def one_read(chip: View, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """The accuracy of one inference."""
    return {"single": float(_vote(chip, inputs, 1).accuracy(labels))}


def chip_votes(
    chip: Chip, layer: str | None, counts: Sequence[int], inputs: torch.Tensor, labels: torch.Tensor
) -> dict[str, Any]:
    """Votes that read a layer again (None: all), with energy and latency of a decision."""
    curve = _vote(chip, inputs, max(counts), layer).accuracy_over_votes(labels)
    cost = {str(k): decision(chip, k, layers=layer) for k in counts}
    return {
        "voted": {str(k): float(curve[k - 1]) for k in counts},
        "energy_j": {k: one.energy_j for k, one in cost.items()},
        "latency_s": {k: one.latency_s for k, one in cost.items()},
    }


def _vote(chip: Any, inputs: torch.Tensor, k: int, again: str | None = None) -> mho.VoteResult:
    with quiet():
        return mho.vote(cast(Chip, chip), inputs, k, batch_size=BATCH, layers=again)


def _accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["mnist-cnn", "chips", "stroke-lstm", "densenet40"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--votes", nargs="+", type=int, default=[5, 20])
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--out", type=Path, default=Path("docs/results/noise_by_layer"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    study = Study(options)
    for part in options.parts:
        study.chips() if part == "chips" else study.network(part)
    return 0


if __name__ == "__main__":
    sys.exit(main())
