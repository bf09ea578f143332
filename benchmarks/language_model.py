"""A small language model, from text to a chip: trained on docstrings of the standard library, its perplexity on tiles.

    python benchmarks/language_model.py --train [--minutes 45] [--threads 1]     weights, anew or from where it stopped
    python benchmarks/language_model.py [--windows 64] [--chips 3]               docs/results/language_model

A byte is a token. Perplexity is that of a byte, over windows of text of modules that training has not seen; the
interval of its ratio to the exact network's is over windows and chips. The text differs between versions of Python:
the record names the one that was used.
"""

from __future__ import annotations

import argparse
import ast
import math
import sys
import sysconfig
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from scipy import stats
from torch import nn
from torch.nn import functional

import mho
from mho.records import record, write_json

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE / "language_model.safetensors"
RESULTS = HERE.parent / "docs/results/language_model"
LEFT_OUT = {"site-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip"}
BYTES, WIDTH, HEADS, BLOCKS, WINDOW = 256, 192, 6, 4, 256
CALIBRATION = 8  # windows
BATCH, STEPS, RATE = 8, 3000, 3e-3


class Block(nn.Module):
    """Attention and a perceptron, each behind a layer norm and beside a way around it."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, steps, _ = x.shape
        q, k, v = self.qkv(self.before(x)).view(n, steps, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(n, steps, WIDTH))
        return x + self.down(functional.gelu(self.up(self.after(x))))


class ByteModel(nn.Module):
    """Logits (windows, steps, BYTES) of the byte that follows each of the bytes (windows, steps) int64."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.places = nn.Embedding(BYTES, WIDTH), nn.Embedding(WINDOW, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, BYTES)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                scale = 0.02 / math.sqrt(2 * BLOCKS) if name.endswith(("out.weight", "down.weight")) else 0.02
                nn.init.normal_(parameter, std=scale)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        x = self.bytes(text) + self.places.weight[: text.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.head(self.norm(x))
        return logits


def docstrings(path: Path) -> Iterator[str]:
    """Of a module and all in it."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield ast.get_docstring(node) or ""


@cache
def text(part: str) -> torch.Tensor:
    """(bytes,) int64: docstrings of nine modules in ten for `train`, of the tenth for `test`."""
    root, found = Path(sysconfig.get_paths()["stdlib"]), []
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        if not LEFT_OUT & set(place.parts) and (crc32(str(place).encode()) % 10 == 0) == (part == "test"):
            found += [said for said in docstrings(path) if said]
    return torch.from_numpy(np.frombuffer("\n\n".join(found).encode(), dtype=np.uint8).astype(np.int64))


def windows(part: str, many: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(many, WINDOW) bytes of a part of the text, spread evenly, and those that follow each."""
    known = text(part)
    starts = np.linspace(0, len(known) - WINDOW - 1, many).astype(int)
    return torch.stack([known[a : a + WINDOW] for a in starts]), torch.stack(
        [known[a + 1 : a + 1 + WINDOW] for a in starts]
    )


def train(minutes: float) -> None:
    """Train for so long, and keep the weights and all that is needed to go on."""
    torch.manual_seed(0)
    model, known, state = ByteModel(), text("train"), Path("runs/language_model.pt")
    vectors = [p for p in model.parameters() if p.ndim < 2]
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], RATE, (0.9, 0.95)
    )
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=0.05)
    done = 0
    if state.exists():
        kept = torch.load(state, weights_only=True)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        rate.load_state_dict(kept["rate"])
        done = kept["done"]
    began = saved = time.monotonic()
    while done < STEPS and time.monotonic() - began < 60 * minutes:
        starts = torch.randint(len(known) - WINDOW, (BATCH,), generator=torch.Generator().manual_seed(done))
        batch = torch.stack([known[a : a + WINDOW + 1] for a in starts.tolist()])
        loss = functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        done += 1
        if done % 20 == 0:
            print(f"step {done} of {STEPS}: {loss.item() / math.log(2):.3f} bits a byte", flush=True)
        if done == STEPS or time.monotonic() - saved > 120:
            saved = time.monotonic()
            state.parent.mkdir(exist_ok=True)
            kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rate": rate.state_dict()}
            torch.save({**kept, "done": done}, state.with_suffix(".new"))
            state.with_suffix(".new").replace(state)
    save_file({name: value.half() for name, value in model.state_dict().items()}, WEIGHTS)
    print(f"{done} of {STEPS} steps; perplexity of a byte {math.exp(losses(model.eval(), 64).mean()):.3f}")


@torch.no_grad()
def losses(model: Any, many: int) -> torch.Tensor:
    """(many,) cross entropy of a byte, in nats, of each test window."""
    given, wanted = windows("test", many)
    return entropy(torch.cat([model(part) for part in given.split(16)]).log_softmax(-1), wanted)


def entropy(logs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """(windows,): the mean over the bytes of a window, from logarithms of probabilities."""
    return functional.nll_loss(logs.transpose(1, 2), wanted, reduction="none").mean(1)


@torch.no_grad()
def on_chips(hardware: mho.Hardware, model: nn.Module, many: int, chips: int, votes: int) -> np.ndarray:
    """(votes, chips, many): entropy of the mean probability of the first 1, 2, ... reads of each chip."""
    given, wanted = windows("test", many)
    found = np.empty((votes, chips, many))
    for seed in range(chips):
        chip = mho.map(model, hardware, calibrate=windows("train", CALIBRATION)[0], seed=seed, check=seed == 0)
        total = torch.zeros(())
        for vote in range(votes):
            logits = [chip.read(given[a : a + 16], read=vote, first_sample=a) for a in range(0, many, 16)]
            total = total + torch.cat(logits).softmax(-1)
            found[vote, seed] = entropy((total / (vote + 1)).log(), wanted)
    return found


def rows(name: str, value: Any, found: np.ndarray, exact: np.ndarray) -> Iterator[dict[str, Any]]:
    """A row for each number of votes that is shown: perplexity, and its ratio to that of the exact network.

    The interval of the ratio is over the same windows (the differences of their entropies) and over chips.
    """
    for vote in (1, 5, 20):
        if vote <= len(found):
            more = found[vote - 1] - exact
            over = stats.sem(more.mean(0)) ** 2 + (stats.sem(more.mean(1)) ** 2 if len(more) > 1 else 0.0)
            middle, half = more.mean(), 1.96 * over**0.5
            row = {"setting": name, "value": value, "votes": vote, "perplexity": math.exp(found[vote - 1].mean())}
            sides = {"ratio": 0.0, "ratio_low": -half, "ratio_high": half}
            yield row | {key: math.exp(middle + side) for key, side in sides.items()}


def settings() -> dict[tuple[str, Any], tuple[mho.Hardware, int]]:
    """What is measured: hardware, and how many reads."""
    reram = mho.Hardware.preset("reram")
    found = {("preset", name): (mho.Hardware.preset(name), 1) for name in ("ideal", "reram", "pcm", "nand")}
    found |= {("ADC bits", bits): (reram.replace({"adc.bits": bits}), 1) for bits in (4, 5, 6, 7, 8, 10)}
    for bits in (4, 6, 8):
        for scaling in ("layer", "token"):
            changes = {"dac.bits": bits, "dac.scaling": scaling}
            found[f"DAC bits, a scale for each {scaling}", bits] = reram.replace(changes), 1
    found["DAC bits, channels equalised", 8] = reram.replace({"dac.equalise": 0.5}), 1
    for share in (1.0, 0.3, 0.1, 0.03, 0.01):
        low = reram.replace({"sensing.v_read": share * reram.sensing.v_read})
        found["read voltage (mV)", round(1e3 * low.sensing.v_read, 3)] = low, 20 if share < 0.3 else 1
    return found


def measure(many: int, chips: int) -> None:
    """Measure all settings, and write what was found after each."""
    model = ByteModel()
    model.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    model.eval().requires_grad_(False)
    exact = losses(model, many).numpy()
    table = list(rows("digital", "", exact[None, None], exact))
    RESULTS.mkdir(parents=True, exist_ok=True)
    for (name, value), (hardware, votes) in settings().items():
        began = time.monotonic()
        table += rows(name, value, on_chips(hardware, model, many, chips, votes), exact)
        print(*(f"{key} {cell}" for key, cell in table[-1].items()), f"({time.monotonic() - began:.0f} s)", flush=True)
        pd.DataFrame(table).to_csv(RESULTS / "perplexity.csv", index=False, float_format="%.5g")
    command = f"benchmarks/language_model.py --windows {many} --chips {chips}"
    made = record(["mho", "torch", "numpy"], command) | {
        "python": sys.version.split()[0],
        "text_bytes": len(text("test")),
    }
    write_json(made, RESULTS / "run.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true", help="train, or go on with it")
    parser.add_argument("--minutes", type=float, default=45.0, help="of the training")
    parser.add_argument("--windows", type=int, default=32, help="of test text")
    parser.add_argument("--chips", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.train:
        train(options.minutes)
    else:
        measure(options.windows, options.chips)


if __name__ == "__main__":
    main()
