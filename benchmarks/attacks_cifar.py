"""Section 4 for CIFAR-10 at a small size: Table 11 for two shallow DenseNets, for who has no accelerator.

    python benchmarks/attacks_cifar.py [--train 5000] [--epochs 10] [--images 500] [--out runs/attacks_cifar]

The paper's DenseNet-40 and DenseNet-100 are trained by `mho train densenet40 --adversarial --device cuda`; here
DenseNets of depth 10 and 16 with growth 8 learn a part of the training set, against the same attack. What comes out
says that the code works, and nothing about the paper's networks.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import attacks
from rich.console import Console
from torch import nn

from mho.models.densenet import densenet
from mho.models.networks import NETWORKS
from mho.models.train import train

DEPTHS = {"attacked": 10, "defended": 16}


def trained(role: str, pictures: int, epochs: int, out: Path, console: Console) -> nn.Module:
    """One of the two networks, trained adversarially; a training that was interrupted resumes."""
    known = NETWORKS["densenet40"]
    assert known.adversarial is not None
    inputs, labels, source = known.load("train")
    test_inputs, test_labels, _ = known.load("test")
    settings = {"epochs": epochs, "batch_size": 64, "learning_rate": 0.1, "sizes": ""}
    recipe = replace(known.adversarial, **settings, data=f"{source}, {pictures}")
    build = partial(densenet, depth=DEPTHS[role], growth=8)
    few = (inputs[:pictures], labels[:pictures]), (test_inputs[:500], test_labels[:500])

    def tell(now: object) -> None:
        accuracy = getattr(now, "accuracy", None)
        if accuracy is not None:
            console.print(f"{role}, epoch {getattr(now, 'epoch', 0) + 1}: test accuracy {accuracy:.1%}")

    return train(build, *few, recipe, out / role, tell)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--train", type=int, default=5000, help="training pictures")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=500, help="test pictures that are attacked")
    parser.add_argument("--runs", type=int, default=20, help="noisy inferences of each")
    parser.add_argument("--out", type=Path, default=Path("runs/attacks_cifar"))
    options = parser.parse_args(arguments)
    console = Console()
    options.out.mkdir(parents=True, exist_ok=True)
    nets = {role: trained(role, options.train, options.epochs, options.out, console) for role in DEPTHS}
    attacks.PAIRS["cifar10"] = attacks.Pair(*(partial(nets.get, role) for role in DEPTHS))
    table = attacks.table_11(attacks.Settings("cifar10", options.images, options.runs, out=options.out))
    table.to_csv(options.out / "table_11.csv", index=False, float_format="%.6g")
    console.print(table[["sigma", "single", "single_gain", "single_p", "voted", "natural"]].to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
