"""Large networks: what mapping one takes, in seconds and in memory, and a read of it over torch's.

    python benchmarks/large.py [--only NAME ...] [--share 1.0] [--max-memory "13 GB"] [--out docs/results]

Each network is mapped in a process of its own, with random weights, by all cores: `resnet50` (torchvision), `gpt2`
(transformers), `decoder` (of the shape of TinyLlama, 1.1 billion weights) and `decoder file`, the same from safetensors
that are mapped into memory. `--share` makes the decoder narrower, to so much of its weights. Seconds of mapping do not
count imports and the loading of compiled code, which a small network does before. `peak` is the most memory that the
process had; `over` what that is, without the reads, more than before mapping, after the network itself has run once, in
units of its weights as floats of 32 bits, and `over_read` the same with the reads, as the peak of
`benchmarks/network_speed.py` is. `pages` are those of files, which the system may drop, at the end.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn
from torch.nn import functional

import mho
from mho.records import record, write_measured
from mho.timing import fresh_process

HERE = Path(__file__).resolve().parent
PACKAGES = ("mho", "numpy", "numba", "torch", "torchvision", "transformers")
READS = 5
TOKENS = 16


class Shape(NamedTuple):
    """Of a decoder: TinyLlama's, 1.1 billion weights."""

    layers: int = 22
    hidden: int = 2048
    inner: int = 5632
    heads: int = 32
    key_heads: int = 4
    words: int = 32000

    def narrower(self, share: float) -> Shape:
        """With about so much of the weights, the same layers and heads."""
        each = max(2, round(self.hidden * share**0.5 / self.heads / 2) * 2)  # of a head, in pairs
        hidden = each * self.heads
        ratio = hidden / self.hidden
        return self._replace(hidden=hidden, inner=round(self.inner * ratio), words=round(self.words * ratio))


class Norm(nn.Module):
    """Division by the root of the mean square (Zhang and Sennrich 2019)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, x.shape[-1:], self.weight, 1e-5)


class Block(nn.Module):
    """Attention with fewer keys than queries, places turned into them, and a gated perceptron: as Llama has them."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.each = shape.heads, shape.hidden // shape.heads
        self.before, self.after = Norm(shape.hidden), Norm(shape.hidden)
        keys = shape.key_heads * self.each
        self.q, self.k, self.v, self.o = (
            nn.Linear(shape.hidden, size, bias=False) for size in (shape.hidden, keys, keys, shape.hidden)
        )
        self.gate, self.up = (nn.Linear(shape.hidden, shape.inner, bias=False) for _ in range(2))
        self.down = nn.Linear(shape.inner, shape.hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.before(x)
        q, k, v = (part(h).unflatten(-1, (-1, self.each)).transpose(1, 2) for part in (self.q, self.k, self.v))
        seen = functional.scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True, enable_gqa=True)
        x = x + self.o(seen.transpose(1, 2).flatten(2))
        h = self.after(x)
        return x + self.down(functional.silu(self.gate(h)) * self.up(h))


def turned(x: torch.Tensor) -> torch.Tensor:
    """Pairs of features (samples, heads, steps, features) turned by the place of their step (Su et al. 2021)."""
    steps, half = x.shape[2], x.shape[3] // 2
    angle = torch.arange(steps)[:, None] * 10000.0 ** (-torch.arange(half) / half)
    a, b = x.split(half, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)


class Decoder(nn.Module):
    """A language model of Llama's shape (n, tokens) to (n, tokens, words)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.words = nn.Embedding(shape.words, shape.hidden)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.last, self.head = Norm(shape.hidden), nn.Linear(shape.hidden, shape.words, bias=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.words(input_ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.last(x))


def decoder(share: float = 1.0) -> nn.Module:
    """With random weights."""
    torch.manual_seed(0)
    return Decoder(Shape().narrower(share)).eval()


def resnet50() -> nn.Module:
    """torchvision's, with random weights."""
    lib = torch.library.Library("torchvision", "FRAGMENT")  # where its compiled operators are not installed
    for name in ("qnms", "nms"):
        with suppress(RuntimeError):  # they are
            lib.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

    torch.manual_seed(0)
    return torchvision.models.resnet50().eval()


def gpt2() -> nn.Module:
    """That of transformers, of 124 million weights, with random ones; it returns the logits alone."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(use_cache=False, return_dict=False)).eval()


@contextmanager
def from_file(share: float) -> Iterator[nn.Module]:
    """The decoder whose weights stay in a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "decoder.safetensors")
        made = fresh_process(
            f"import sys; sys.path.insert(0, {str(HERE)!r}); import large, safetensors.torch as s\n"
            f"s.save_file(large.decoder({share}).state_dict(), {str(path)!r})"
        )
        assert not made.output
        with torch.device("meta"):
            empty = Decoder(Shape().narrower(share))
        yield mho.load_model(path, empty.to_empty(device="cpu"), mmap=True)


def inputs_of(name: str, network: nn.Module) -> torch.Tensor:
    """Two pictures, or the tokens of a text."""
    torch.manual_seed(1)
    if name == "resnet50":
        return torch.randn(2, 3, 224, 224)
    words = network.get_submodule("transformer.wte" if name == "gpt2" else "words").num_embeddings
    return torch.randint(int(words), (1, TOKENS))


def memory() -> dict[str, float]:
    """Of this process, in bytes: the most it had, and pages of files now."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":") for line in lines)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak": peak, "pages": int(fields["RssFile"].split()[0]) * 1024}


def measured(name: str, network: nn.Module, limit: str | None) -> dict[str, Any]:
    """The row of a network."""
    hardware, x = mho.Hardware.preset("reram"), inputs_of(name, network)
    small = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    mho.map(small, hardware, calibrate=torch.rand(4, 16)).read(torch.rand(4, 16), read=0)
    with torch.no_grad():
        exact = seconds(lambda: network(x))
    before = memory()["peak"]
    weights = 4 * sum(p.numel() for p in network.parameters())
    mho.limits(max_memory=limit)
    wall, cpu = time.perf_counter(), time.process_time()
    chip = mho.map(network, hardware, calibrate=x)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = memory()
    read = seconds(lambda: chip.read(x, read=0))
    return {
        "network": name,
        "weights": weights // 4,
        "map_s": wall,
        "map_cpu_s": cpu,
        "peak": memory()["peak"],
        "over": (after["peak"] - before) / weights,
        "over_read": (memory()["peak"] - before) / weights,
        "pages": memory()["pages"],
        "ratio": read / exact,
        "max_memory": limit,
    }


def seconds(call: Callable[[], object]) -> float:
    """Of the fastest of some calls, after a first one."""
    call()
    found = []
    for _ in range(READS):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


NETWORKS: dict[str, Callable[[float], Any]] = {
    "resnet50": lambda share: resnet50(),
    "gpt2": lambda share: gpt2(),
    "decoder": decoder,
    "decoder file": from_file,
}


def alone(name: str, share: float, limit: str | None) -> None:
    """Print the row of a network, in JSON, for the process that asked for it."""
    network = NETWORKS[name](share)
    if isinstance(network, nn.Module):
        print(json.dumps(measured(name, network, limit)))
        return
    with network as loaded:
        print(json.dumps(measured(name, loaded, limit)))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--share", type=float, default=1.0, help="of the decoder's weights")
    parser.add_argument("--max-memory", help="as mho.limits takes it")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs/results")
    asked = parser.parse_args(arguments)

    def measure() -> dict[str, Any]:
        rows = []
        for name in asked.only:
            call = f"large.alone({name!r}, {asked.share}, {asked.max_memory!r})"
            ran = fresh_process(f"import sys; sys.path.insert(0, {str(HERE)!r}); import large; {call}")
            rows.append(json.loads(ran.output.splitlines()[-1]))
            print(rows[-1], file=sys.stderr)
        print(pd.DataFrame(rows).to_string(index=False))
        return record(PACKAGES, " ".join(["python", "benchmarks/large.py", *sys.argv[1:]])) | {"rows": rows}

    return write_measured(asked.out / "large.json", measure)


if __name__ == "__main__":
    sys.exit(main())
