"""Saved chips: a folder with `chip.yaml` (what it is) and `chip.safetensors` (conductances, weights), no pickle.

The programmed conductances themselves are kept, not the seed alone, so a loaded chip is the same chip on any machine.
The text is JSON (which is YAML too, and has no tags, aliases or other surprises). Its first line is a comment with the
SHA-256 of the rest, which holds those of the other file's header and of each tensor: nothing in either file can change
unnoticed, nor can the two be of different chips.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..devices.config import faults
from .description import FORMAT, SavedChip, describe_layer, layer_arrays
from .errors import CheckpointError, MappingError
from .folders import as_path, whole_folder
from .graph import NotPlain, describe
from .mapped import MappedNetwork

TEXT, TENSORS = "chip.yaml", "chip.safetensors"
MOST = 100_000_000  # bytes of the text, and of the header of the other file, as safetensors has it
FIRST_LINE = re.compile(rb"# mho chip, format (\d{1,9}), sha256 ([0-9a-f]{64})")
OLD = re.compile(rb"format: ([12])\s")


def check_target(path: str | Path) -> Path:
    """The folder a chip may be saved in: new, empty, or a saved chip and nothing else.

    Raises:
        MappingError: it is something else.
    """
    path = as_path(path, "chip folder", MappingError).resolve()
    if path.exists() and not (path.is_dir() and {file.name for file in path.iterdir()} in (set(), {TEXT, TENSORS})):
        raise MappingError(f"chip folder {path}: exists and is no saved chip; choose another path")
    return path


def save(chip: MappedNetwork, path: str | Path) -> None:
    """Write a chip to the folder `path`; a chip that is already there is replaced once the new one is complete.

    Raises:
        MappingError: `path` is something else than a chip.
    """
    path = check_target(path)
    structure: Any
    try:
        structure, constants = describe(chip.model)
    except NotPlain as reason:
        structure, constants = str(reason), {}
    trace = chip.trace if all(call.digital or call.positions for call in chip.trace) else []  # of an empty batch
    hardware = chip.hardware.model_dump(mode="json")
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
        "layers": {name: describe_layer(layer) for name, layer in chip.layers.items()},
        "hardware": hardware,
        "structure": structure,
    }
    if odd := next(
        (key for key, value in chip.model.state_dict().items() if not isinstance(value, torch.Tensor)), None
    ):
        raise MappingError(f"chip cannot be saved: {odd!r} of its digital part is no tensor")
    tensors = {f"digital.{key}": _own(value) for key, value in chip.model.state_dict().items()}
    tensors |= {f"constant.{key}": _own(value) for key, value in constants.items()}
    for name, layer in chip.layers.items():
        for key, array in layer_arrays(layer).items():
            tensors[f"layer.{name}.{key}"] = torch.from_numpy(np.ascontiguousarray(array))
    try:
        SavedChip.model_validate(text | {"digests": {"header": "", "tensors": {}}})
    except ValidationError as error:
        raise MappingError(f"chip cannot be saved: {one_line(faults(error))}") from error
    with whole_folder(path) as folder:
        write(folder, text, tensors)


def write(folder: Path, text: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Write both files of a chip, with their digests.

    Raises:
        MappingError: more text than is read again.
    """
    with ThreadPoolExecutor() as pool:  # hashing while the tensors are written
        digests = pool.map(_digest, tensors.values())
        save_file(tensors, folder / TENSORS)
    header = sha256(_header(folder / TENSORS)).hexdigest()
    text = text | {"digests": {"header": header, "tensors": dict(zip(tensors, digests, strict=True))}}
    body = json.dumps(text, indent=1).encode()
    if len(body) > MOST:
        raise MappingError(
            f"chip cannot be saved: its {TEXT} would have {len(body)} bytes, and at most {MOST} are read"
        )
    first = f"# mho chip, format {FORMAT}, sha256 {sha256(body).hexdigest()}\n"
    (folder / TEXT).write_bytes(first.encode() + body)


def _digest(value: torch.Tensor) -> str:
    """Of the values of a tensor; name, type and shape stand in the header."""
    return sha256(value.reshape(-1).view(torch.uint8).numpy().data if value.numel() else b"").hexdigest()


def origin(hardware: dict[str, Any], cells: Iterable[bytes]) -> str:
    """Tells whether hardware and cells belong together."""
    return sha256(json.dumps(hardware, sort_keys=True).encode() + b"".join(cells)).hexdigest()


def _header(path: Path) -> bytes:
    """The first bytes of a safetensors file: their number, then names, types, shapes and places of its tensors."""
    with path.open("rb") as file:
        size = file.read(8)
        return size + file.read(min(MOST, int.from_bytes(size, "little")))


def _own(value: torch.Tensor) -> torch.Tensor:
    """A copy that shares no memory: tensors of a shared module have several names, and the file takes each apart."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def one_line(text: str, most: int = 300) -> str:
    """In one line of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 3] + "..."


def read(path: Path) -> tuple[SavedChip, dict[str, torch.Tensor]]:
    """Text and tensors, both as they were written.

    The tensors are copies: a file can be changed or cut while it is in use.
    """
    with (path / TEXT).open("rb") as file:
        first, body = file.readline(200).rstrip(b"\n"), file.read(MOST + 1)
    found, old = FIRST_LINE.fullmatch(first), OLD.match(first + b"\n")
    if old is not None:
        raise CheckpointError(
            f"expected format {FORMAT}, got {old[1].decode()}, which has no digests that tell whether it is as it was "
            "written; map the model anew"
        )
    if found is None:
        raise CheckpointError(f"damaged ({TEXT} does not begin with its digest)")
    if int(found[1]) != FORMAT:
        raise CheckpointError(f"expected format {FORMAT}, got {int(found[1])}")
    if len(body) > MOST or sha256(body).hexdigest() != found[2].decode():
        raise CheckpointError(f"damaged ({TEXT} is not as it was written)")
    try:
        text = SavedChip.model_validate(json.loads(body, object_pairs_hook=_named_once))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"damaged ({TEXT}: {one_line(str(error))})") from error
    if sha256(_header(path / TENSORS)).hexdigest() != text.digests.header:
        raise CheckpointError(f"damaged ({TENSORS}: its header is not as it was written, or is of another chip)")
    try:
        mapped = load_file(path / TENSORS)
    except SafetensorError as error:
        raise CheckpointError(f"damaged ({TENSORS}: {one_line(str(error))})") from error
    if mapped.keys() != text.digests.tensors.keys():
        raise CheckpointError(f"damaged ({TENSORS} has other tensors than {TEXT} has digests of)")
    tensors = {name: mapped.pop(name).clone() for name in list(mapped)}
    with ThreadPoolExecutor() as pool:
        for name, digest in zip(tensors, pool.map(_digest, tensors.values()), strict=True):
            if digest != text.digests.tensors[name]:
                raise CheckpointError(f"damaged ({TENSORS}: {name} is not as it was written, or is of another chip)")
    return text, tensors


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise CheckpointError(f"damaged ({TEXT} has a field twice)")
    return found
