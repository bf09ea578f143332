"""Saved chips: a folder with `chip.yaml` (what it is) and `chip.safetensors` (conductances, weights), no pickle.

The programmed conductances themselves are kept, not the seed alone, so a loaded chip is the same chip on any machine;
a compact chip keeps their digests instead.
The text is JSON (which is YAML too, and has no tags, aliases or other surprises). Its first line is a comment with the
SHA-256 of the rest, which holds those of the other file's header and of each tensor: nothing in either file can change
unnoticed, nor can the two be of different chips. Files of older formats are read by way of `mapping.saved.migration`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from ...crossbar.backend import Backend
from ...crossbar.backends import BACKENDS
from ...devices.config import faults
from ..arguments import NotPlain
from ..errors import CheckpointError, MappingError
from ..graph import describe
from ..mapped import MappedNetwork
from ..operands.plans import plans_of
from .description import FORMAT, SavedChip, describe_layer, layer_arrays
from .folders import as_path, whole_folder
from .migration import OLDEST, migrated, parse_format_2
from .tensor_file import MOST, bytes_of, header_of, read_tensors

__all__ = ["TENSORS", "TEXT", "Contents", "check_target", "load_file", "one_line", "origin", "read", "save", "write"]

TEXT, TENSORS = "chip.yaml", "chip.safetensors"
PROGRAMS = ("mho", "numpy", "numba", "scipy")  # packages that have a part in what cells come out
FIRST_LINE = re.compile(rb"# mho chip, format (\d{1,9}), sha256 ([0-9a-f]{64})")
OLD = re.compile(rb"format: ([0-9]{1,9})\s")  # of formats 1 and 2, whose text is YAML


class Contents(NamedTuple):
    """What the files of a chip hold, in the newest format, and which format they are in."""

    text: SavedChip
    tensors: dict[str, torch.Tensor]
    format: int


def check_target(path: str | Path) -> Path:
    """The folder a chip may be saved in: new, empty, or a saved chip and nothing else.

    Raises:
        MappingError: it is something else.
    """
    path = as_path(path, "chip folder", MappingError).resolve()
    if path.exists() and not (path.is_dir() and {file.name for file in path.iterdir()} in (set(), {TEXT, TENSORS})):
        raise MappingError(f"chip folder {path}: exists and is no saved chip; choose another path")
    return path


def save(chip: MappedNetwork, path: str | Path, *, compact: bool = False) -> None:
    """Write a chip to the folder `path`; a chip that is already there is replaced once the new one is complete.

    Args:
        compact: leave out the cells, 4 bytes a weight in place of 8: the weights, the seed, all ranges and a digest of
            the cells of each layer stay. `mho.load` programs the chip again, and refuses it where other cells come out,
            as another version of Mho or of numpy may draw them.

    Raises:
        MappingError: `path` is something else than a chip, or `compact` and cells that were given one by one.
    """
    if not isinstance(compact, bool):
        raise MappingError(f"compact must be True or False, got {compact!r}")
    path = check_target(path)
    structure: Any
    try:
        structure, constants = describe(chip.model)
    except NotPlain as reason:
        structure, constants = str(reason), {}
    trace = chip.trace if all(call.digital or call.positions for call in chip.trace) else []  # of an empty batch
    hardware, plans = chip.hardware.model_dump(mode="json"), plans_of(chip.model)
    text = {
        "format": FORMAT,
        "seed": chip.seed,
        "copy": chip.copy_index,
        "located": chip.session.located,
        "origin": origin(hardware, [layer.tiles.digest() for layer in chip.layers.values()]),
        "batch": chip.session.batch[0] if chip.session.batch else None,
        "strict": chip.strict,
        "digital": [list(d) for d in chip.digital],
        "trace": [call.plain() for call in trace],
        "layers": {name: describe_layer(layer, compact=compact) for name, layer in chip.layers.items()},
        **({"programming": programming(chip.backend)} if compact else {}),
        **({"operands": {name: plan.plain() for name, plan in plans.items()}} if plans else {}),
        "hardware": hardware,
        "structure": structure,
    }
    factory = chip.session.factory
    if isinstance(structure, str) and factory is not None:
        text["factory"] = {"reference": factory.reference, "arguments": factory.arguments}
    state = chip.model.state_dict()
    if odd := next((key for key, value in state.items() if not isinstance(value, torch.Tensor)), None):
        raise MappingError(f"chip cannot be saved: {odd!r} of its digital part is no tensor")
    named = {f"digital.{key}": value for key, value in state.items()}
    tensors = _apart(named | {f"constant.{key}": value for key, value in constants.items()})
    for name, layer in chip.layers.items():
        for key, array in layer_arrays(layer, compact=compact).items():
            tensors[f"layer.{name}.{key}"] = torch.from_numpy(np.ascontiguousarray(array))
    try:
        SavedChip.model_validate(text)
    except ValidationError as error:
        raise MappingError(f"chip cannot be saved: {one_line(faults(error))}") from error
    with whole_folder(path) as folder:
        write(folder, text, tensors)


def programming(backend: Backend) -> dict[str, Any]:
    """The fields of `SavedProgramming`: what a backend draws and programs cells with here."""
    name = next((name for name, kind in BACKENDS.loaded().items() if kind is type(backend)), type(backend).__name__)
    return {"backend": name, "versions": {package: metadata.version(package) for package in PROGRAMS}}


def write(folder: Path, text: dict[str, Any], tensors: dict[str, torch.Tensor], number: int = FORMAT) -> None:
    """Write both files of a chip in the format of this number, with their digests.

    Raises:
        MappingError: more text than is read again.
    """
    with ThreadPoolExecutor() as pool:  # hashing while the tensors are written
        digests = pool.map(_digest, tensors.values())
        save_file(tensors, folder / TENSORS)
    header = sha256(header_of(folder / TENSORS)).hexdigest()
    text = text | {"digests": {"header": header, "tensors": dict(zip(tensors, digests, strict=True))}}
    body = json.dumps(text, indent=1).encode()
    if len(body) > MOST:
        raise MappingError(
            f"chip cannot be saved: its {TEXT} would have {len(body)} bytes, and at most {MOST} are read"
        )
    first = f"# mho chip, format {number}, sha256 {sha256(body).hexdigest()}\n"
    (folder / TEXT).write_bytes(first.encode() + body)
    (folder / TENSORS).chmod((folder / TEXT).stat().st_mode & 0o777)  # safetensors lets nobody else read it


def _digest(value: torch.Tensor) -> str:
    """Of the values of a tensor; name, type and shape stand in the header."""
    return sha256(bytes_of(value).data).hexdigest()


def origin(hardware: dict[str, Any], cells: Iterable[bytes]) -> str:
    """Tells whether hardware and cells belong together."""
    return sha256(json.dumps(hardware, sort_keys=True).encode() + b"".join(cells)).hexdigest()


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors on the CPU of which no two share memory, copied where they did.

    Those of a shared module have several names, and the file takes each apart.
    """
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        if value.untyped_storage().data_ptr() in seen:
            value = value.clone(memory_format=torch.contiguous_format)
        seen.add(value.untyped_storage().data_ptr())
        found[name] = value
    return found


def one_line(text: str, most: int = 300) -> str:
    """In one line of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 3] + "..."


def read(path: Path, *, mapped: bool = False) -> Contents:
    """Text and tensors, both as they were written where the format has digests, made ones of the newest format.

    The tensors are copies: a file can be changed or cut while it is in use. With `mapped` they are left in the
    file: see `read_tensors`.

    Raises:
        CheckpointError: damaged, or a format that is not read.
    """
    number, text = _read_text(path / TEXT)
    known = None
    if number > OLDEST:  # the oldest has no digests
        header, known = _digests_of(text)
        if sha256(header_of(path / TENSORS)).hexdigest() != header:
            raise CheckpointError(f"damaged ({TENSORS}: its header is not as it was written, or is of another chip)")
    tensors = read_tensors(path / TENSORS, mapped=mapped)
    if known is not None:
        _check_tensors(tensors, known)
    text, tensors = migrated(number, text, tensors)
    return Contents(SavedChip.model_validate(text), tensors, number)


def _read_text(path: Path) -> tuple[int, dict[str, Any]]:
    """The number of the format, and what the text says, as it was written."""
    with path.open("rb") as file:
        first, body = file.readline(200), file.read(MOST + 1)
    found, old = FIRST_LINE.fullmatch(first.rstrip(b"\n")), OLD.match(first)
    if found is None and old is None:
        raise CheckpointError(f"damaged ({path.name} does not begin with its digest)")
    number = int(found[1] if found is not None else old[1])  # type: ignore[index]
    if number > FORMAT:
        raise CheckpointError(f"format {number}, of a newer version of Mho; this one reads {OLDEST} to {FORMAT}")
    if number < OLDEST:
        raise CheckpointError(f"format {number}, which no release had; this version reads {OLDEST} to {FORMAT}")
    if found is None:
        if number != OLDEST:
            raise CheckpointError(f"damaged ({path.name} does not begin with its digest)")
        return number, parse_format_2(first + body)
    if len(body) > MOST or sha256(body).hexdigest() != found[2].decode():
        raise CheckpointError(f"damaged ({path.name} is not as it was written)")
    try:
        text = json.loads(body, object_pairs_hook=_named_once)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"damaged ({path.name}: {one_line(str(error))})") from error
    if not isinstance(text, dict) or text.get("format") != number:
        said = text.get("format") if isinstance(text, dict) else type(text).__name__
        wrong = f"format = {said!r:.99}, and its first line says {number}"
        raise CheckpointError(f"damaged ({path.name}: {wrong})")
    return number, text


def _digests_of(text: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The digests of the header and of each tensor, which are taken out of the text."""
    digests = text.pop("digests", None)
    if not isinstance(digests, dict) or digests.keys() != {"header", "tensors"}:
        raise CheckpointError(f"damaged ({TEXT}: digests must have header and tensors)")
    if not isinstance(digests["tensors"], dict):
        raise CheckpointError(f"damaged ({TEXT}: digests.tensors must have one of each tensor)")
    return digests["header"], digests["tensors"]


def _check_tensors(tensors: Mapping[str, torch.Tensor], digests: Mapping[str, Any]) -> None:
    """Raises CheckpointError unless these are the tensors that were written."""
    if tensors.keys() != digests.keys():
        raise CheckpointError(f"damaged ({TENSORS} has other tensors than {TEXT} has digests of)")
    with ThreadPoolExecutor() as pool:
        for name, digest in zip(tensors, pool.map(_digest, tensors.values()), strict=True):
            if digest != digests[name]:
                raise CheckpointError(f"damaged ({TENSORS}: {name} is not as it was written, or is of another chip)")


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise CheckpointError(f"damaged ({TEXT} has a field twice)")
    return found
