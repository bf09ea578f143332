"""Map random networks on ideal hardware and compare each with torch.

    python benchmarks/fuzz_networks.py [--models 2000] [--seed 0] [--out docs/results]

Each network (see `random_networks.py`) is mapped twice: without a check, so that what decides about each layer is
tried alone, and with the self-check. Each time it must equal torch to 1e-5 (RMS over RMS), or be refused by one line
that names the layer. An output may be made of rounding alone, as that of a batch norm with the batch's own statistics
after a layer of zeros: there no two orders of sums agree. So what is not within 1e-5 of torch must be as near to the
same network in float64 as torch's own float32 is, up to a factor of 10; such networks are counted apart.

What stays digital is listed in the report, with all its parameters. Nothing of the caller's may have changed: model and
random numbers. Failures are printed with their seed; `--only SEED` runs one of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from random_networks import Maker
from torch.utils._pytree import tree_leaves

import mho
from mho.mapping.errors import MappingError
from mho.records import record, write_json

TOLERANCE = 1e-5
ROUNDING = 10  # times what torch's own float32 is off: sums in another order, whose errors are of the same size


def error_of(got: Any, want: Any) -> float:
    """The largest relative error among the tensors of two outputs."""
    pairs = list(zip(tree_leaves(got), tree_leaves(want), strict=True))
    found = []
    for a, b in pairs:
        if a.shape != b.shape or a.dtype != b.dtype:
            return float("inf")
        difference, size = (a.double() - b.double()).norm(), b.double().norm()
        found.append(float(difference / size) if size else float(difference))
    return max(found)


def in_float64(seed: int) -> Any:
    """What the network of a seed gives in double precision."""
    net, inputs, _ = Maker(seed).network()
    net.double()
    for module in net.modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():  # no parameter and no buffer
                setattr(module, name, value.double())
    with torch.no_grad():
        torch.manual_seed(1)
        return net(*(x.double() if x.is_floating_point() else x for x in inputs))


def is_rounding(got: Any, want: Any, exact: Any) -> bool:
    """Whether float32 outputs are no further from those of double precision than torch's own, which are `want`."""
    for a, b, c in zip(tree_leaves(got), tree_leaves(want), tree_leaves(exact), strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        off, own = ((x.double() - c).norm() for x in (a, b))
        if not off <= TOLERANCE * c.norm() + ROUNDING * own:
            return False
    return True


def tried(seed: int, check: bool) -> tuple[str, str]:
    """What became of the network of a seed, and a description: equal, refused or a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net, inputs, text = Maker(seed).network()
        with torch.no_grad():
            torch.manual_seed(1)
            want = net(*inputs)
        net, inputs, _ = Maker(seed).network()  # anew, so that weights which hooks compute are stale
        try:
            fault = _mapped(net, inputs, want, check, seed)
        except MappingError as refusal:
            line = str(refusal)
            named = "layer" in line and "\n" not in line
            return ("refused" if named else "refused without a name"), f"{text}: {line}"
        except Exception as error:  # whatever it is, it is counted
            return f"failed: {type(error).__name__}", f"{text}: {' '.join(str(error).split())[:300]}"
    return fault, text


def _mapped(net: torch.nn.Module, inputs: Any, want: Any, check: bool, seed: int) -> str:
    state = {key: value.clone() for key, value in net.state_dict().items()}
    random = torch.get_rng_state()
    chip = mho.map(net, mho.Hardware.preset("ideal"), check=inputs if check else False)
    if not torch.equal(torch.get_rng_state(), random):
        return "failed: random numbers of the caller"
    if not all(torch.equal(value, state[key]) for key, value in net.state_dict().items()):
        return "failed: the caller's model changed"
    torch.manual_seed(1)
    got = chip(*inputs)
    error = error_of(got, want)
    rounding = not error <= TOLERANCE
    if rounding and not is_rounding(got, want, in_float64(seed)):
        return f"failed: differs by {error:.1g}"
    report = chip.report()
    if report.cover.on_tiles + report.digital["parameters"].sum() != sum(p.numel() for p in net.parameters()):
        return "failed: parameters of the report"
    if rounding:
        return "equal, as near to float64 as torch is"
    odd = [
        d
        for d in chip.digital
        if any(word in d.reason for word in ("overridden", "itself", "anew", "its ", "subclass"))
    ]
    return "equal, layers digital for a reason" if odd else "equal, all layers on tiles"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the first network; the next has the next")
    parser.add_argument("--only", type=int, help="the network of one seed")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    seeds = [options.only] if options.only is not None else range(options.seed, options.seed + options.models)
    counts: dict[str, Counter[str]] = {"check=False": Counter(), "check=inputs": Counter()}
    habits: Counter[str] = Counter()
    for seed in seeds:
        for name, check in (("check=False", False), ("check=inputs", True)):
            outcome, text = tried(seed, check)
            counts[name][outcome] += 1
            if options.only is not None or not outcome.startswith(("equal", "refused")) or "without" in outcome:
                print(f"seed {seed}, {name}: {outcome}\n    {text}", flush=True)
        habits.update(set(text.rpartition("[")[2].rstrip("]").split(", ")) - {""})
    if options.only is None:
        found = {name: dict(sorted(count.items())) for name, count in counts.items()}
        print(json.dumps(found, indent=2))
        kept = {"tolerance": TOLERANCE, "models": len(seeds), "seed": options.seed, "outcomes": found}
        kept |= {"seconds": round(time.monotonic() - begun)}
        command = f"benchmarks/fuzz_networks.py --models {options.models} --seed {options.seed}"
        write_json(record(("mho", "torch", "numba", "numpy"), command) | kept, options.out / "fuzz_networks.json")
    return int(any(not key.startswith(("equal", "refused")) for count in counts.values() for key in count))


if __name__ == "__main__":
    sys.exit(main())
