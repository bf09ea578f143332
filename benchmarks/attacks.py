"""Noisy inference as a defence: Tables 10 and 11 of Qin and Vucinic, and what they leave out.

    python benchmarks/attacks.py [--data mnist] [--images 1000] [--runs 20] [--parts table_11 ...] [--out runs/attacks]

Adversarial pictures are made on one adversarially trained network and tried on another, whose inference is noisy:
single inferences and votes of them; beside that an attacker who has the network itself, without and with its noise, and
physical chips, with frozen errors and noise apart. The paper's table has --images 10000. Pictures that were made
before, with the same settings, are used again. Writes tables (CSV) and the figures drawn from them.

For CIFAR-10 the pictures are made on DenseNet-40, as in the paper, and tried on ResNet-32 in the place of DenseNet-100.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import attack_figures as figures
import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from scipy import stats
from torch import nn

import mho
from mho.mapping.saved.folders import whole
from mho.mapping.straight_through import StraightThrough
from mho.mapping.voting.intervals import of_mean
from mho.mapping.voting.votes import VoteResult, vote
from mho.models.attacks import TABLE_10, Adversarial, pgd
from mho.models.noise import set_inference_noise
from mho.records import record, write_json

WEIGHTS = "adv-sigma-0.0"
SIGMAS = (0.0, 0.1, 0.2, 0.3, 0.4)
PAPER = {  # Table 11, per cent
    "mnist": (97.40, 97.79, 97.90, 97.71, 97.00),
    "cifar10": (66.52, 67.65, 67.43, 66.57, 63.39),
}
CHUNK = 250  # pictures of a file
WHITE_BOX = 500  # pictures that are attacked by who has the network
SAMPLES = 10  # noisy inferences of a step, against noise
CHIPS, CHIP_IMAGES = 5, 500
CHIP_ATTACKED = 100  # pictures that are made on a chip
CALIBRATE = 256
EXAMPLES = 10
EXACT = {"cell.programming": {"kind": "polynomial", "coefficients": ["0 uS"], "g_ref": "1 uS"}}
Tell = Callable[[str, int, int], None]
Share = np.ndarray[Any, Any]  # of right inferences, for each picture


class Pair(NamedTuple):
    """The networks of an experiment: pictures are made on the one and tried on the other (section 4, item 3)."""

    attacked: Callable[[], nn.Module]
    defended: Callable[[], nn.Module]


PAIRS = {
    "mnist": Pair(partial(mho.models.mnist_cnn4, WEIGHTS), partial(mho.models.mnist_cnn, WEIGHTS)),
    "cifar10": Pair(partial(mho.models.densenet40, WEIGHTS), partial(mho.models.resnet32, WEIGHTS)),
}
LOAD = {"mnist": mho.models.data.mnist, "cifar10": mho.models.data.cifar10}


@dataclass(frozen=True)
class Settings:
    """What is measured: the data, how many test pictures, noisy inferences of each, seed, where pictures are kept."""

    data: str = "mnist"
    images: int = 1000
    runs: int = 20
    seed: int = 0
    out: Path = Path("runs/attacks")

    @property
    def pair(self) -> Pair:
        return PAIRS[self.data]

    def load(self) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = LOAD[self.data]("test")
        return images[: self.images], labels[: self.images]


def silent(what: str, done: int, total: int) -> None:
    """Tells nobody."""


def table_10() -> pd.DataFrame:
    """Table 10: the settings of the attacks."""
    return pd.DataFrame([{"data": name, **asdict(attack)} for name, attack in TABLE_10.items()])


def transferred(settings: Settings, tell: Tell = silent) -> Adversarial:
    """The pictures made on the attacked network, by the attack of Table 10; those in files are read."""
    images, labels = settings.load()
    net, attack = settings.pair.attacked(), TABLE_10[settings.data]
    known = json.dumps([asdict(attack), settings.seed]).encode()
    weights = b"".join(value.numpy().tobytes() for value in net.state_dict().values())
    folder = settings.out / "pictures" / blake2b(known + weights, digest_size=6).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, len(images), CHUNK):
        x, y = (part[start : start + CHUNK] for part in (images, labels))
        path = folder / f"{start}-{start + len(x)}.npz"
        if not path.is_file():
            found = pgd(net, x, y, attack, seed=settings.seed, first_sample=start)
            with whole(path) as part, part.open("wb") as file:
                np.savez(file, **{name: value.numpy() for name, value in vars(found).items()})
        with np.load(path) as arrays:
            parts.append([torch.from_numpy(arrays[name]) for name in ("images", "fooled", "loss")])
        tell("pictures", start + len(x), len(images))
    return Adversarial(*(torch.cat(part) for part in zip(*parts, strict=True)))


def noisy(net: nn.Module, sigma: float, images: torch.Tensor, settings: Settings) -> VoteResult:
    """Votes of the network with multiplicative noise, Eq. (3) of the paper; one inference where there is none."""
    chip = mho.map(net, mho.Hardware.paper(sigma_mult=sigma), seed=settings.seed)
    return vote(chip, images, settings.runs if sigma else 1)


def shares(found: VoteResult, labels: torch.Tensor) -> Share:
    """(n,): the share of inferences that are right."""
    return found.counts.gather(1, labels[:, None])[:, 0].numpy() / found.k


def compared(name: str, values: Share, base: Share) -> dict[str, float]:
    """An accuracy and its gain over another on the same pictures, with 95 % intervals and the paired t test's p."""
    accuracy, low, high = of_mean(values)
    gain, gain_low, gain_high = of_mean(values - base)
    p = float(stats.ttest_rel(values, base).pvalue) if np.any(values - base != (values - base)[0]) else 1.0
    found = {"": accuracy, "_low": max(0.0, low), "_high": min(1.0, high)}
    found |= {"_gain": gain, "_gain_low": gain_low, "_gain_high": gain_high, "_p": p}
    return {name + key: value for key, value in found.items()}


def table_11(settings: Settings, tell: Tell = silent) -> pd.DataFrame:
    """Table 11: accuracy on transferred pictures over the noise of the inference, single and voted.

    A row for each sigma. Columns `single` (mean of the noisy inferences) and `voted` (their mode), each with `_low`,
    `_high` (95 % interval over the pictures), `_gain` over no noise with its interval and the `_p` of a paired t test;
    `natural` and `natural_voted`, the same on the originals; `paper` what the paper has for `single`; `n` pictures,
    `runs` inferences of each.
    """
    originals, labels = settings.load()
    net = settings.pair.defended()
    adversarial = transferred(settings, tell).images
    rows: list[dict[str, Any]] = []
    base: dict[str, Share] = {}
    for sigma, paper in zip(SIGMAS, PAPER[settings.data], strict=True):
        row = {"sigma": sigma, "n": len(labels), "runs": settings.runs if sigma else 1, "paper": paper / 100}
        for images, single, voted in ((adversarial, "single", "voted"), (originals, "natural", "natural_voted")):
            found = noisy(net, sigma, images, settings)
            values = {single: shares(found, labels), voted: (found.classes == labels).numpy().astype(float)}
            for name, share in values.items():
                row |= compared(name, share, base.setdefault(name, share))
        rows.append(row)
        tell("noise", len(rows), len(SIGMAS))
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of Table 11 that are printed."""
    return table[["sigma", "paper", "single", "single_gain", "single_p", "voted", "natural"]].round(4)


def white_box(settings: Settings, tell: Tell = silent) -> pd.DataFrame:
    """Accuracy against who has the defended network: a row for each sigma and attacker.

    `noise` of the attacker: `ignored` drives up the loss without noise, `averaged` the mean loss over noisy inferences
    of the sigma in question (expectation over transformation, Athalye et al. 2018). One start each, else Table 10.
    """
    images, labels = (part[:WHITE_BOX] for part in settings.load())
    net = settings.pair.defended()
    attack = replace(TABLE_10[settings.data], restarts=1)
    rows: list[dict[str, Any]] = []
    ignoring = pgd(net, images, labels, attack, seed=settings.seed).images
    base: Share | None = None
    for sigma in SIGMAS:
        for noise in ("ignored", "averaged") if sigma else ("ignored",):
            pictures = ignoring
            if noise == "averaged":
                set_inference_noise(net, sigma)
                averaging = replace(attack, samples=SAMPLES)
                pictures = pgd(net, images, labels, averaging, seed=settings.seed).images
                set_inference_noise(net, 0.0)
            found = noisy(net, sigma, pictures, settings)
            share = shares(found, labels)
            base = share if base is None else base
            voted = (found.classes == labels).numpy().astype(float)
            row = {"sigma": sigma, "noise": noise, "n": len(labels), "runs": found.k}
            rows.append(row | compared("single", share, base) | compared("voted", voted, base))
        tell("attackers", len(rows), 2 * len(SIGMAS) - 1)
    return pd.DataFrame(rows)


def hardware() -> dict[str, mho.Hardware]:
    """The physical chips: the presets, and each at a voltage where the noise is a fifth of the first layer's output."""
    found = {}
    for preset, low in (("reram", 0.010), ("pcm", 0.005), ("nand", 0.012)):
        found[preset] = mho.Hardware.preset(preset)
        found[f"{preset}, {1e3 * low:g} mV"] = found[preset].replace({"sensing.v_read": low})
    return found


def chips(settings: Settings, tell: Tell = silent) -> pd.DataFrame:
    """Accuracy of physical chips on transferred pictures: a row for each hardware and kind of error.

    `errors`: `frozen` (programming, converters) without the noise of reads, `fresh`, that noise on chips programmed
    exactly, or `both`. Means over chips, with intervals over them (Student's t); `gain` over the digital network, chip
    by chip on the same pictures; `voted` is one vote a picture on one chip. `on_chip` and `on_network` are the
    accuracies of the first chip on pictures made on itself, by its own noisy reads and the gradient of its network, and
    on pictures made on its network, whose noise the attacker ignores; one start each.
    """
    images, labels = (part[:CHIP_IMAGES] for part in settings.load())
    adversarial = transferred(settings).images[:CHIP_IMAGES]
    net = settings.pair.defended()
    digital = float(shares(noisy(net, 0.0, adversarial, settings), labels).mean())
    rows: list[dict[str, Any]] = []
    kinds = hardware()
    for name, kind in kinds.items():
        for errors in ("frozen", "fresh", "both"):
            chosen = kind.replace(EXACT) if errors == "fresh" else kind
            single, voted = [], []
            for seed in range(settings.seed, settings.seed + CHIPS):
                chip = mho.map(net, chosen, calibrate=images[:CALIBRATE], seed=seed)
                if errors == "frozen":
                    classes = torch.cat([chip.read(x, read=0, noisy=False).argmax(1) for x in adversarial.split(250)])
                    single.append(float((classes == labels).double().mean()))
                    voted.append(single[-1])
                else:
                    found = vote(chip, adversarial, settings.runs)
                    single.append(float(shares(found, labels).mean()))
                    voted.append(float(found.accuracy(labels)))
            row: dict[str, Any] = {"hardware": name, "errors": errors, "n": len(labels), "chips": CHIPS}
            for what, values in (("single", single), ("voted", voted)):
                row |= compared(what, np.array(values), np.full(CHIPS, digital))
            if errors == "both":
                row |= white_box_chip(net, chosen, images[:CHIP_ATTACKED], labels[:CHIP_ATTACKED], settings)
            rows.append(row)
            tell("chips", len(rows), 3 * len(kinds))
    return pd.DataFrame(rows)


def white_box_chip(
    net: nn.Module, kind: mho.Hardware, images: torch.Tensor, labels: torch.Tensor, settings: Settings
) -> dict[str, float]:
    """Accuracies of a chip on pictures made on it and on its network, in reads that the attacker has not seen."""
    chip = mho.map(net, kind, calibrate=images[:CALIBRATE], seed=settings.seed)
    attack = replace(TABLE_10[settings.data], restarts=1)
    later = kind.replace({"seeds.program": settings.seed, "seeds.read": settings.seed + 10_000})
    tried = mho.map(net, later, calibrate=images[:CALIBRATE], seed=settings.seed)
    found = {}
    for name, model, samples in (("on_chip", StraightThrough(chip, net), SAMPLES), ("on_network", net, 1)):
        made = pgd(model, images, labels, replace(attack, samples=samples), seed=settings.seed).images
        found[name] = float(shares(vote(tried, made, settings.runs), labels).mean())
    return found


PARTS = {"table_11": table_11, "white_box": white_box, "chips": chips}


def write(
    settings: Settings, folder: Path, tell: Tell = silent, parts: Sequence[str] = tuple(PARTS)
) -> dict[str, pd.DataFrame]:
    """Tables of these parts, and figures of those that were made, to a folder."""
    made = {"table_10": table_10()} | {name: PARTS[name](settings, tell) for name in parts}
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in made.items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    if not {"table_11", "white_box"} <= set(made):
        return made
    figures.accuracy(made["table_11"], made["white_box"]).savefig(folder / "accuracy_under_attack.png", dpi=130)
    originals, labels = settings.load()
    adversarial = transferred(settings).images
    shown = {}
    for name, images in (("original", originals[:EXAMPLES]), ("attacked", adversarial[:EXAMPLES])):
        exact, votes = (noisy(settings.pair.defended(), sigma, images, settings) for sigma in (0.0, 0.2))
        shown[name] = images, exact.classes, shares(votes, labels[:EXAMPLES])
    figures.examples(shown, labels[:EXAMPLES]).savefig(folder / "adversarial_examples.png", dpi=110)
    return made


@contextmanager
def progress(console: Console) -> Iterator[Tell]:
    """A bar for each part of the work."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            task = tasks.setdefault(what, None) or bar.add_task(what, total=total)
            tasks[what] = task
            bar.update(task, completed=done)

        yield tell


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=list(PAIRS), default="mnist")
    parser.add_argument("--images", type=int, default=1000, help="test pictures; the paper has 10000")
    parser.add_argument("--runs", type=int, default=20, help="noisy inferences of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("runs/attacks"))
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    settings = Settings(options.data, options.images, options.runs, options.seed, options.out)
    console, began = Console(), time.perf_counter()
    try:
        with progress(console) as tell:
            made = write(settings, settings.out, tell, options.parts)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    command = f"benchmarks/attacks.py --data {options.data} --images {options.images} --runs {options.runs}"
    command += f" --seed {options.seed} --parts {' '.join(options.parts)}"
    found = record(("mho", "torch", "numba", "numpy"), command)
    found |= {"threads": torch.get_num_threads(), "seconds": round(time.perf_counter() - began)}
    write_json(found, settings.out / "run.json")
    for table in made.values():
        console.print((summary(table) if "paper" in table else table).to_string(index=False))
    console.print(f"{found['seconds']} s; tables and figures in {settings.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
