"""The code of others that results rest on: the files of their modules, and of those modules that these import."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGE = __name__.partition(".")[0]  # whose code is known by its version
INSTALLED = {"site-packages", "dist-packages"}  # what lies there is followed from its own package alone

_seen: dict[str, tuple[Any, bytes]] = {}  # of modules that are loaded: their spec, which each load makes anew


def is_own(module: str) -> bool:
    """Whether a module is one of Mho."""
    return _top(module) == PACKAGE


def note(thing: Any) -> None:
    """Remember the code of a class, function or object that is being defined."""
    if not is_own(_module_of(thing)):
        remember(_module_of(thing))


def remember(module: str) -> bytes | None:
    """What the file of a module holds; None where it has none that is there.

    Of a loaded module it is what the file held when this was asked first since then, so asking when it is loaded tells
    what was loaded, whatever is written to the file later.
    """
    loaded = sys.modules.get(module)
    spec = getattr(loaded, "__spec__", None) or _spec_of(module)
    known = _seen.get(module)
    if loaded is not None and known is not None and known[0] is spec:
        return known[1]
    path = getattr(loaded, "__file__", None) or (spec.origin if spec and spec.has_location else None)
    try:
        content = None if path is None else Path(path).read_bytes()
    except OSError:
        return None
    if content is None:
        return None
    if loaded is not None:
        _seen[module] = spec, content
    return content


def sources(root: str) -> dict[str, bytes]:
    """The files of a module and of all that it imports, by module: none of Mho, Python, or other installed packages."""
    found: dict[str, bytes] = {}
    ahead = [root]
    while ahead:
        module = ahead.pop()
        if module in found or not (module == root or _is_followed(module, root)):
            continue
        content = remember(module)
        if content is not None:
            found[module] = content
            ahead += _imported(module, _is_package(module), content)
    return found


def digest(root: str) -> str:
    """Tells the code of a module from any other: of its `sources`."""
    found = blake2b(digest_size=10)
    for module, content in sorted(sources(root).items()):
        found.update(f"{module} {len(content)}\n".encode() + content)
    return found.hexdigest()


def code_of(things: Iterable[Any]) -> dict[str, str]:
    """The code of classes and functions of others, and of what classes derive from: digests by module.

    Where a module has no file, the attribute `version` stands in, by `module:name`.

    Raises:
        ValueError: neither.
    """
    found: dict[str, str] = {}
    for thing in things:
        home = _module_of(thing)
        if is_own(home) or home in found:
            continue
        if remember(home) is not None:
            kinds = thing.__mro__ if isinstance(thing, type) else ()
            modules = {home, *(module for module in map(_module_of, kinds) if _is_followed(module, home))}
            found |= {module: digest(module) for module in modules}
        elif hasattr(thing, "version"):
            found[f"{home}:{thing.__qualname__}"] = f"version {thing.version}"
        else:
            raise ValueError(
                f"{home}.{thing.__qualname__}: has no source file, which identifies the code behind results; "
                "write it into a module, or give it an attribute `version: ClassVar[int]`"
            )
    return dict(sorted(found.items()))


def _module_of(thing: Any) -> str:
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return str(kind.__module__)


def _top(module: str) -> str:
    return module.partition(".")[0]


def _is_followed(module: str, root: str) -> bool:
    top = _top(module)
    if top == PACKAGE or top in sys.stdlib_module_names:
        return False
    spec = _spec_of(top)
    places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or ())]
    return top == _top(root) or not any(INSTALLED & set(Path(place).parts) for place in places)


def _spec_of(module: str) -> ModuleSpec | None:
    """Where a module is, without importing any."""
    top, *inner = module.split(".")
    try:
        spec = find_spec(top)
        for name in inner:
            if spec is None or spec.submodule_search_locations is None:
                return None
            spec = PathFinder.find_spec(f"{spec.name}.{name}", list(spec.submodule_search_locations))
    except (ImportError, ValueError, AttributeError):  # a module without a spec, as of a script
        return None
    return spec


def _is_package(module: str) -> bool:
    loaded = sys.modules.get(module)
    spec = getattr(loaded, "__spec__", None) or _spec_of(module)
    return spec is not None and spec.submodule_search_locations is not None


@lru_cache(maxsize=1024)
def _imported(module: str, is_package: bool, content: bytes) -> frozenset[str]:
    """Names of what its import statements may import, modules or not, with the packages that these are in."""
    try:
        nodes = list(ast.walk(ast.parse(content)))
    except (SyntaxError, ValueError):  # no Python: an extension, say
        return frozenset()
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    parts = [name.split(".") for name in names if name]
    return frozenset(".".join(part[:n]) for part in parts for n in range(1, len(part) + 1))
