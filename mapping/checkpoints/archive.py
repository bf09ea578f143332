"""The archive of a `.pt2` file: its graph as JSON, and its tensors.

torch.export.load unpickles parts of such a file, and evaluates text that stands in it. Here it is read without: tensors
are the bytes that they are stored as, and what would have to be unpickled is refused.
"""

from __future__ import annotations

import json
import zipfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import CheckpointError
from .files import MOST_JSON, check_archive, one_line

SCHEMA = 8  # the major version that is read


class Codes(NamedTuple):
    """What the numbers of a file stand for."""

    dtypes: dict[int, torch.dtype]
    layouts: dict[int, torch.layout]
    memory_formats: dict[int, torch.memory_format]


@cache
def codes() -> Codes:
    """The codes of torch's schema, which takes a second to import."""
    from torch._export.serde import serialize

    return Codes(
        serialize._SERIALIZE_TO_TORCH_DTYPE,
        serialize._SERIALIZE_TO_TORCH_LAYOUT,
        serialize._SERIALIZE_TO_TORCH_MEMORY_FORMAT,
    )


class Archive:
    """What a `.pt2` file holds.

    Attributes:
        program: the exported program, as its schema has it.
        tensors: parameters, buffers and constants, by name.

    Raises:
        CheckpointError: damaged, of another version, or with parts that would have to be unpickled.
    """

    def __init__(self, path: Path) -> None:
        check_archive(path)
        self._files: dict[str, zipfile.ZipInfo] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    self._files[entry.filename.partition("/")[2]] = entry
                self._check_kind()
                self.program = self._json(archive, "models/model.json")
                major = self.program["schema_version"]["major"]
                if major != SCHEMA:
                    raise CheckpointError(f"exported with schema {major}, and {SCHEMA} is read; export it anew")
                self.tensors = {
                    **self._tensors(archive, "data/weights/", "model_weights_config.json"),
                    **self._tensors(archive, "data/constants/", "model_constants_config.json"),
                }
        except CheckpointError as error:
            raise CheckpointError(f"checkpoint {path}: {error}") from error
        except Exception as error:  # what a damaged file makes of its readers is anybody's guess
            raise CheckpointError(f"checkpoint {path}: damaged or not of torch.export ({one_line(error)})") from error

    def _check_kind(self) -> None:
        names = self._files
        if any(name.startswith("data/aotinductor/") for name in names):
            raise CheckpointError("holds compiled code (AOTInductor), which Mho does not run; torch.export.save it")
        if not names.keys() >= {"models/model.json", "data/weights/model_weights_config.json"}:
            raise CheckpointError("holds no program of torch.export as torch 2.8 and later save it; export it anew")

    def _json(self, archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
        if self._files[name].file_size > MOST_JSON:
            raise CheckpointError(f"{name} is larger than {MOST_JSON} bytes")
        found = json.loads(archive.read(self._files[name]))
        if not isinstance(found, dict):
            raise CheckpointError(f"{name} is no object")
        return found

    def _tensors(self, archive: zipfile.ZipFile, folder: str, index: str) -> dict[str, torch.Tensor]:
        """The tensors of a folder; those that share memory do so in the file too."""
        flat: dict[tuple[str, torch.dtype], torch.Tensor] = {}
        found = {}
        for name, payload in self._json(archive, f"{folder}{index}")["config"].items():
            place, meta = f"{folder}{payload['path_name']}", payload["tensor_meta"]
            if payload["use_pickle"] or meta is None:
                raise CheckpointError(f"its tensor {name!r:.100} is pickled, which may run any code when read")
            if place not in self._files:
                raise CheckpointError(f"its tensor {name!r:.100} is missing")
            if codes().layouts[meta["layout"]] is not torch.strided:
                raise CheckpointError(f"its tensor {name!r:.100} is not dense")
            dtype = codes().dtypes[meta["dtype"]]
            if (place, dtype) not in flat:
                content = bytearray(archive.read(self._files[place]))
                flat[place, dtype] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
            sizes, strides = _ints(meta["sizes"]), _ints(meta["strides"])
            (offset,) = _ints([meta["storage_offset"]])
            last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
            values = flat[place, dtype]
            if min([offset, *sizes, *strides]) < 0 or (0 not in sizes and last >= len(values)):
                raise CheckpointError(f"its tensor {name!r:.100} has {len(values)} values, and {sizes} are said")
            found[name] = values.as_strided(sizes, strides, offset) if 0 not in sizes else values.new_empty(sizes)
        return found


def _ints(values: list[dict[str, Any]]) -> list[int]:
    found = [value["as_int"] for value in values]
    if any(type(value) is not int for value in found):
        raise CheckpointError("a tensor of it has sizes that are no numbers")
    return found
