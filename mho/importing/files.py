"""Reading the files of other simulators."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from ..devices.config import one_line
from ..mapping.saved.folders import as_path

LARGEST = 64 << 20  # bytes of a file


def text_of(path: str | PathLike[str], what: str) -> str:
    """The text of a file, without a byte order mark, with line ends of one kind.

    Raises:
        ValueError: no text, or far too much of it.
        OSError: it cannot be read.
    """
    source = as_path(path, what)
    if source.is_dir():
        raise ValueError(f"{what} {one_line(str(source))}: is a folder")
    if source.stat().st_size > LARGEST:
        raise ValueError(f"{what} {one_line(str(source))}: has more than {LARGEST >> 20} MB")
    try:
        text = Path(source).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} {one_line(str(source))}: is no UTF-8 text") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def json_of(path: str | PathLike[str], what: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: no JSON, no object, or a field that is there twice.
        OSError: it cannot be read.
    """
    where = f"{what} {one_line(str(path))}"
    try:
        found = json.loads(text_of(path, what), object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError(f"{where}: nested too deep") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: is no JSON: {error}") from error
    except _Twice as error:
        raise ValueError(f"{where}: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{where}: expected fields by name, got {type(found).__name__}")
    return found


class _Twice(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(f"field {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found
