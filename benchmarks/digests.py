"""Digests of what small chips of every kind give: whether a change of the code has changed a number.

    python benchmarks/digests.py [--only PATTERN]                     # against tests/golden/digests.json
    python benchmarks/digests.py --against CHECKOUT [--only PATTERN]  # against another checkout, in one run
    python benchmarks/digests.py --write                              # record them
    python benchmarks/digests.py --write-chips                        # save the chips of tests/golden/saved_0.3 anew

A case (`digest_list.py`) is a chip, and its parts are arrays, counts and figures. The digest of a part is BLAKE2b of
the exact bytes of arrays and of figures to 12 digits. Cases whose bits depend on the processor (functions such as exp
of NumPy and torch) are compared with the file only on a machine of the kind that recorded them; `--against` compares
them on any. Cases that differ are printed, and the exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable
from fnmatch import fnmatchcase
from hashlib import blake2b
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
FILE = HERE.parents[1] / "tests" / "golden" / "digests.json"
DIGITS = 12
# cases whose bits depend on the processor: see tests/golden/README.md
MACHINE = (
    "preset nand*",
    "preset pcm*",
    "programming saturating",
    "programming incremental",
    "read noise saturating",
    "slow noise pcm",
    "slow noise string",
    "drift pcm",
    "*wires*",
    "recurrent RNN tanh",
    "recurrent GRU*",
    "recurrent LSTM*",
    "attention",
    "*reduction*",
)

Digests = dict[str, dict[str, str]]


def digest(value: Any) -> str:
    """Of arrays, numbers, texts, and lists, dicts and tables of them."""
    found = blake2b(digest_size=8)
    for piece in _pieces(value):
        found.update(piece + b";")
    return found.hexdigest()


def _pieces(value: Any) -> Iterable[bytes]:
    import numpy as np
    import pandas as pd
    import torch

    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if isinstance(value, pd.DataFrame):
        value = value.to_dict("list")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        yield f"{value.dtype.str}{value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key).encode()
            yield from _pieces(item)
    elif isinstance(value, (list, tuple)):
        yield str(len(value)).encode()
        for item in value:
            yield from _pieces(item)
    elif isinstance(value, float):
        yield f"{value:.{DIGITS - 1}e}".encode()
    else:
        yield repr(value).encode()


def record(only: str = "*", *, everywhere: bool = False, told: bool = False) -> Digests:
    """The digests of all cases whose names match, part by part; `everywhere`: only those that no machine changes."""
    from digest_list import cases

    told = told and sys.stderr.isatty()
    found: Digests = {}
    for name, case in cases().items():
        if fnmatchcase(name, only) and not (everywhere and is_machines(name)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # settings outside the data of a preset
                found[name] = {part: digest(value) for part, value in case().items()}
            if told:
                print(f"\r{len(found)} cases", end="", file=sys.stderr, flush=True)
    if told:
        print(file=sys.stderr)
    return found


def is_machines(name: str) -> bool:
    """Whether the bits of a case depend on the processor."""
    return any(fnmatchcase(name, pattern) for pattern in MACHINE)


def machine() -> str:
    """What the bits of those cases depend on."""
    import numpy as np
    import torch

    features = np.show_config(mode="dicts")["SIMD Extensions"]
    kind = "AVX-512" if "AVX512_SKX" in features.get("found", ()) or "AVX512_SKX" in features["baseline"] else "other"
    vendor = [line for line in _cpu_info() if line.startswith("vendor_id")]
    return ", ".join(
        [
            platform.machine(),
            vendor[0].split(":")[1].strip() if vendor else platform.system(),
            f"numpy {np.__version__} {kind}",
            f"torch {torch.__version__.split('+')[0]} {torch.backends.cpu.get_cpu_capability()}",
        ]
    )


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def differing(found: Digests, wanted: Digests) -> list[str]:
    """A line for each case that is not as wanted, with the parts that differ."""
    lines = []
    for name in wanted | found:
        if name not in found or name not in wanted:
            lines.append(f"{name}: {'missing' if name not in found else 'new'}")
        elif parts := [p for p in wanted[name] | found[name] if wanted[name].get(p) != found[name].get(p)]:
            lines.append(f"{name}: {', '.join(parts)}")
    return lines


def wanted(only: str = "*") -> Digests:
    """The recorded digests that hold on this machine, of cases whose names match."""
    kept = json.loads(FILE.read_text())
    known = kept["everywhere"] | (kept["here"] if kept["machine"] == machine() else {})
    return {name: parts for name, parts in known.items() if fnmatchcase(name, only)}


def write() -> None:
    found = record(told=True)
    parts = {
        "machine": machine(),
        "everywhere": {name: parts for name, parts in found.items() if not is_machines(name)},
        "here": {name: parts for name, parts in found.items() if is_machines(name)},
    }
    FILE.write_text(json.dumps(parts, indent=1) + "\n")
    print(f"{len(found)} cases recorded, {len(parts['here'])} of them for this kind of machine")


def laid_out(checkout: Path, folder: Path) -> dict[str, str]:
    """The environment in which Python imports the package of a checkout, laid out with links in a folder."""
    text = ast.parse((checkout / "setup.py").read_text())
    folders = next(
        ast.literal_eval(node.value)
        for node in text.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "FOLDERS"
    )
    (folder / "mho").mkdir()
    for child in (checkout / folders["mho"]).iterdir():
        (folder / "mho" / child.name).symlink_to(child)
    for package, place in sorted(folders.items()):
        link = folder.joinpath(*package.split("."))
        if not link.exists():
            link.symlink_to(checkout / place)
    return {**os.environ, "PYTHONPATH": str(folder)}


def check_package(folder: str | None) -> None:
    """Raises RuntimeError where a part of the package was imported from elsewhere."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if folder and file and name.split(".")[0] == "mho" and not Path(file).is_relative_to(folder):
            raise RuntimeError(f"{name} comes from {file}, not from {folder}")


def of_checkout(checkout: Path, only: str) -> Digests:
    """Digests of another checkout, by its own cases where it has some."""
    script = checkout / "benchmarks" / HERE.name
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(script if script.exists() else HERE), "--show", "--only", only]
        environment = laid_out(checkout.resolve(), Path(folder))
        done = subprocess.run(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"the cases did not run with the package of {checkout}")
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="*", help="names of cases, as a pattern of shell wildcards")
    parser.add_argument("--write", action="store_true", help="record the digests")
    parser.add_argument("--write-chips", action="store_true", help="save the chips that are kept anew")
    parser.add_argument("--against", type=Path, help="another checkout to compare with")
    parser.add_argument("--show", action="store_true", help="print the digests as JSON")
    options = parser.parse_args()
    if options.write_chips:
        from digest_cases import KEPT, SAVED, kept_chip

        for name in KEPT:
            kept_chip(name).save(SAVED / "saved_0.3" / name)
    elif options.write:
        write()
    elif options.show:
        print(json.dumps(record(options.only, told=True)))
        check_package(os.environ.get("PYTHONPATH"))
    else:
        if options.against:
            ours, theirs = (of_checkout(path, options.only) for path in (HERE.parents[1], options.against))
        else:
            theirs = wanted(options.only)
            ours = record(options.only, everywhere=not any(map(is_machines, theirs)), told=True)
        lines = differing(ours, theirs)
        print("\n".join([*lines, f"{len(lines)} of {len(ours | theirs)} cases differ"]))
        sys.exit(bool(lines))


if __name__ == "__main__":
    main()
