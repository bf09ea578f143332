"""What `paper.py --train` trains: the networks that a table or figure needs and that are not there yet."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import yaml

import mho
from mho.models.weights import FOLDER

from .cells import DATA, rms_weight
from .physical import LOW_V, like
from .tables import PAPER

WANTED = {
    2: [round(0.1 * i, 1) for i in range(11)],
    3: [0.0, 0.4, 0.5, 0.6, 0.9, 1.0],
    5: [0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0],
    6: [0.0, 0.3, 0.4, 0.6, 0.7, 0.8, 1.0],
}
CURVES = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
CURVE_EPOCHS, CURVE_BATCHES = 14, 1875  # the first 25,000 minibatches of 32
LIKE_EPOCHS = 6
PROTOCOL, PROTOCOL_EPOCHS = [0.0, 0.5, 1.0], 30  # of the 100 of the paper


def train_missing(number: int, runs: Path, how: Sequence[str]) -> None:
    """Train the networks of Table 2, 3, 5 or 6 that are not there, and put them beside those that are.

    `how` are options of `mho train` that change how fast it goes.
    """
    network, noise = PAPER[number]["network"], PAPER[number]["noise"]
    for sigma in WANTED[number]:
        name = f"{'add-' if noise == 'add' else ''}sigma-{sigma}"
        if (FOLDER / network / f"{name}.safetensors").is_file():
            continue
        out = runs / network / name
        _train(DATA[network], out, how, "--noise", noise, "--sigma-train", str(sigma))
        _keep(out, network, name)


def train_by_protocol(runs: Path, how: Sequence[str]) -> None:
    """Train the CNN by the paper's protocol, begun as Keras does, where it is not there."""
    for sigma in PROTOCOL:
        name, made = f"glorot-sigma-{sigma}", f"sigma-{sigma}"
        if (FOLDER / "mnist_cnn" / f"{name}.safetensors").is_file():
            continue
        out = runs / "mnist_cnn" / name
        protocol = ("--protocol", "paper", "--init", "glorot", "--epochs", str(PROTOCOL_EPOCHS))
        _train("mnist-cnn", out, how, "--sigma-train", str(sigma), *protocol)
        _keep(out, "mnist_cnn", made, name)


def train_like(runs: Path, how: Sequence[str]) -> None:
    """Train the CNN for each preset at its low voltage, where it is not there."""
    for preset, v in LOW_V.items():
        if (FOLDER / "mnist_cnn" / f"{like(preset)}.safetensors").is_file():
            continue
        out, file = runs / "mnist_cnn" / like(preset), runs / f"{preset}-low.yaml"
        runs.mkdir(parents=True, exist_ok=True)
        mho.Hardware.preset(preset).replace({"name": f"{preset}-low", "sensing.v_read": v}).save(file)
        _train("mnist-cnn", out, how, "--like", str(file), "--start", "sigma-0.5", "--epochs", str(LIKE_EPOCHS))
        _keep(out, "mnist_cnn", like(preset))


def learning_curves(runs: Path, how: Sequence[str]) -> pd.DataFrame:
    """Figure 3: test accuracy and loss after each epoch of the paper's protocol, trained where they are not there.

    Columns: sigma_train, minibatch, accuracy, loss; rms_weight, of the network after the last epoch.
    """
    rows = []
    for sigma in CURVES:
        out = runs / "curves" / f"sigma-{sigma}"
        protocol = ("--protocol", "paper", "--epochs", str(CURVE_EPOCHS))
        _train("mnist-cnn", out, how, "--sigma-train", str(sigma), *protocol)
        rms = rms_weight("mnist_cnn", str(out / f"sigma-{sigma}.safetensors"))
        for epoch in yaml.safe_load((out / "log.yaml").read_text(encoding="utf-8")):
            batches = (epoch["epoch"] + 1) * CURVE_BATCHES
            rows.append((sigma, batches, epoch["test_accuracy"], epoch["test_loss"], rms))
    return pd.DataFrame(rows, columns=["sigma_train", "minibatch", "accuracy", "loss", "rms_weight"])


def _keep(out: Path, network: str, made: str, name: str = "") -> None:
    """Put trained weights beside those that are there, under another name where one is given."""
    (FOLDER / network).mkdir(exist_ok=True)
    for kind in ("safetensors", "yaml"):
        shutil.copy(out / f"{made}.{kind}", FOLDER / network / f"{name or made}.{kind}")


def _train(network: str, out: Path, how: Sequence[str], *options: str) -> None:
    command = ["train", network, "--out", str(out), *how, *options]
    print(f"mho {' '.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", "mho", *command], check=True)
