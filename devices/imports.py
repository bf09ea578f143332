"""Modules of others that files and commands name: found as Python finds modules, beside a file, or where one works."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType

from .units import brief


def importable(folder: str | Path) -> None:
    """Let modules be imported from a folder, before others."""
    path = Path(folder).resolve()
    if path.is_dir() and path not in {Path(entry).resolve() for entry in sys.path}:
        sys.path.insert(0, str(path))


def import_module_of(name: str, *folders: str | Path) -> ModuleType:
    """The module of this name, found by Python, in the working directory, or in these folders.

    Raises:
        ValueError: there is none, or it fails while it is imported, in one line.
    """
    if not (isinstance(name, str) and all(part.isidentifier() for part in name.split("."))):
        raise ValueError(f"imports: a module must be named as package.module, got {brief(name)}")
    places = [Path(folder).resolve() for folder in (Path.cwd(), *folders)]
    for place in places:
        importable(place)
    try:
        return import_module(name)
    except Exception as error:  # a module may fail in any way
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            where = " or ".join(dict.fromkeys(map(str, places)))
            raise ValueError(
                f"imports: there is no module {name!r} on PYTHONPATH or in {where} ({error.name!r} is missing)"
            ) from error
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"imports: module {name!r} does not load ({why})") from error


def import_modules(names: Iterable[str], *folders: str | Path) -> None:
    """Import modules: see `import_module_of`."""
    for name in names:
        import_module_of(name, *folders)


def place_of(module: str) -> str | None:
    """The folder from which a loaded module can be imported; None where it has none."""
    top = sys.modules.get(module.partition(".")[0])
    inside = next(iter(getattr(top, "__path__", ())), None) or getattr(top, "__file__", None)
    return None if inside is None else str(Path(inside).parent)
