"""The arrows between the folders: who may import whom, which packages, where compiled code lives; and no circles.

The rules hold for every import statement, inside functions and under `if TYPE_CHECKING` too. Packages for drawing are
imported only where something is drawn, inside a function.
"""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("crossbar", "devices", "mapping", "mho", "models")

MAY_IMPORT = {
    "devices": {"devices"},
    "crossbar": {"crossbar", "devices"},
    "mapping": {"mapping", "crossbar", "devices"},
    "models": {"models", "mapping"},
    "mho": set(FOLDERS),
}
PACKAGES = {
    "devices": {"numpy", "scipy", "pydantic"},
    "crossbar": {"numpy", "scipy", "pydantic", "numba", "yaml"},
    "mapping": {"numpy", "scipy", "pydantic", "yaml", "torch", "safetensors", "pandas", "pyarrow"},
    "models": {"numpy", "scipy", "pydantic", "yaml", "torch", "safetensors", "pandas", "rich"},
}
DRAWING = {"mapping": {"matplotlib", "plotly"}}
KERNELS = ("crossbar/kernels", "models/kernels")
KERNELS_OF = {"crossbar": "mho.crossbar.kernels", "models": ("mho.crossbar.kernels", "mho.models.kernels")}
KERNEL_PACKAGES = {"numpy", "numba", "llvmlite"}
COMPILERS = {"njit", "jit", "vectorize", "guvectorize", "intrinsic"}


def module_name(path: str) -> list[str]:
    """The import name of a file, in parts: `crossbar/tile.py` is mho, crossbar, tile."""
    parts = list(Path(path).with_suffix("").parts)
    if parts[0] != "mho":
        parts.insert(0, "mho")
    return parts


def imported(node: ast.AST, path: str) -> list[tuple[int, str]]:
    """What an import statement of the file at `path` imports: its dots (0 if absolute) and the full dotted name."""
    if isinstance(node, ast.Import):
        return [(0, alias.name) for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = base_of(node, path)
    return [(node.level, base)] if node.module else [(node.level, f"{base}.{alias.name}") for alias in node.names]


def base_of(node: ast.ImportFrom, path: str) -> str:
    """The full dotted name of what `from ... import` takes names from."""
    above = module_name(path)[: -node.level] if node.level else []
    return ".".join([*above, *([node.module] if node.module else [])])


def folder_of(name: str) -> str:
    """The top-level folder that the module `name` of the package lives in."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FOLDERS else "mho"


def postponed(tree: ast.Module) -> set[ast.AST]:
    """The nodes inside functions and under `if TYPE_CHECKING`, which an import of the module does not run."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"))
        for inner in ast.walk(node)
    }


def violations(source: str, path: str) -> list[str]:
    """The broken rules in the source of the file at `path` (relative to the root), one line each."""
    tree = ast.parse(source)
    folder = Path(path).parts[0]
    in_kernels = Path(path).parent.as_posix() in KERNELS
    later = postponed(tree)
    found = []

    def broken(node: ast.AST, rule: str) -> None:
        found.append(f"{path}:{node.lineno}: {rule}")  # type: ignore[attr-defined]

    for node in ast.walk(tree):
        for level, name in imported(node, path):
            root = name.split(".")[0]
            if level:
                if not in_kernels and folder_of(name) not in MAY_IMPORT[folder]:
                    broken(node, f"{folder}/ must not import {name}")
                if in_kernels and not name.startswith(KERNELS_OF[folder]):
                    broken(node, f"kernels must not import {name}: they take arrays and scalars")
            elif root == "mho" or root in FOLDERS:
                broken(node, f"imports inside the package are relative, not {name}")
            elif root not in sys.stdlib_module_names:
                allowed = KERNEL_PACKAGES if in_kernels else PACKAGES.get(folder, {root})
                if root not in allowed and not (node in later and root in DRAWING.get(folder, ())):
                    broken(node, f"{Path(path).parent if in_kernels else folder}/ must not import {name}")
        if isinstance(node, ast.FunctionDef) and not in_kernels:
            names = {part for d in node.decorator_list for part in ast.unparse(d).split("(")[0].split(".")}
            if names & COMPILERS:
                broken(node, f"{node.name} is compiled, and so belongs into {' or '.join(KERNELS)}/")
    return found


def arrows(sources: dict[str, str]) -> dict[str, set[str]]:
    """For each module of the package those that it imports, wherever it does; sources by the path of the file."""
    modules = {".".join(part for part in module_name(path) if part != "__init__"): path for path in sources}
    found: dict[str, set[str]] = {module: set() for module in modules}
    for module, path in modules.items():
        for node in ast.walk(ast.parse(sources[path])):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = base_of(node, path)
                found[module] |= {name if (name := f"{base}.{a.name}") in modules else base for a in node.names}
    return found


def circles(found: dict[str, set[str]]) -> set[tuple[str, ...]]:
    """The groups of modules that import one another, be it through others of the group."""

    def behind(module: str) -> set[str]:
        seen: set[str] = set()
        ahead = [module]
        while ahead:
            new = found.get(ahead.pop(), set()) - seen
            seen |= new
            ahead += new
        return seen

    reached = {module: behind(module) for module in found}
    return {tuple(sorted(n for n in reached[m] if m in reached.get(n, ()))) for m in found if m in reached[m]}


def python_files(*folders: str) -> list[str]:
    return [p.relative_to(ROOT).as_posix() for folder in folders for p in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", python_files(*FOLDERS))
def test_the_arrows_hold(path: str) -> None:
    assert violations((ROOT / path).read_text(encoding="utf-8"), path) == []


def test_no_module_imports_itself_through_others() -> None:
    found = arrows({path: (ROOT / path).read_text(encoding="utf-8") for path in python_files(*FOLDERS)})
    assert sum(map(len, found.values())) > 300
    assert circles(found) == set()


def test_no_file_or_folder_hides_a_name() -> None:
    """Importing it would put a module in the place of what the package gives under the name."""
    for init in (path for folder in FOLDERS for path in (ROOT / folder).rglob("__init__.py")):
        given = {
            alias.asname or alias.name
            for node in ast.parse(init.read_text(encoding="utf-8")).body
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }
        hiding = {path.stem for path in init.parent.iterdir() if path.suffix == ".py" or path.is_dir()}
        assert not given & hiding, init


@pytest.mark.parametrize(
    "back",
    [
        "from .chip import Chip",
        "from . import chip",
        "from ..mapping.chip import Chip",
        "def later():\n    from .chip import Chip",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .chip import Chip",
    ],
)
def test_a_circle_is_found(back: str) -> None:
    sources = {
        "mapping/__init__.py": "",
        "mapping/chip.py": "from .report import Report",
        "mapping/report.py": "from .cover import Cover",
        "mapping/cover.py": "from .layers import TileLayer\nfrom .errors import MappingError",
        "mapping/errors.py": "",
    }
    assert circles(arrows(sources)) == set()
    circle = ("mho.mapping.chip", "mho.mapping.cover", "mho.mapping.report")
    assert circles(arrows({**sources, "mapping/cover.py": back})) == {circle}


@pytest.mark.parametrize(
    "path",
    sorted(p.relative_to(ROOT).as_posix() for folder in ("benchmarks", "tests") for p in (ROOT / folder).rglob("*.py")),
)
def test_scripts_and_tests_import_the_package_by_its_name(path: str) -> None:
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        for level, name in imported(node, path):
            assert level or name.split(".")[0] not in set(FOLDERS) - {"mho"}, f"{path}: import mho.{name}"


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("devices/cell.py", "import torch"),
        ("devices/cell.py", "from numba import njit"),
        ("devices/cell.py", "from ..crossbar.tile import Tile"),
        ("devices/__init__.py", "from ..crossbar import tile"),
        ("devices/cell.py", "from .. import crossbar"),
        ("crossbar/tile.py", "from torch import nn"),
        ("crossbar/tile.py", "def load():\n    import torch.nn.functional as F"),
        ("crossbar/tile.py", "from ..mapping import selection"),
        ("crossbar/tile.py", "from mho.devices.cell import Cell"),
        ("crossbar/tile.py", "from devices.cell import Cell"),
        ("devices/cell.py", "if TYPE_CHECKING:\n    from ..crossbar.tile import Tile"),
        ("crossbar/tile.py", "import numba\n@numba.njit(cache=True)\ndef f(x):\n    return x"),
        ("crossbar/kernels/noise.py", "from ..tile import Tile"),
        ("crossbar/kernels/noise.py", "import pydantic"),
        ("models/kernels/dense.py", "import torch"),
        ("models/kernels/dense.py", "from ..noise import Noise"),
        ("models/kernels/dense.py", "from ...crossbar.tile import Tile"),
        ("crossbar/kernels/noise.py", "from ...models.kernels import dense"),
        ("mapping/convert.py", "from ..models.train import train"),
        ("mapping/convert.py", "from .. import vote"),
        ("mapping/convert.py", "import matplotlib.pyplot as plt"),
        ("models/train.py", "from ..crossbar.tile import Tile"),
        ("models/train.py", "from ..cli import app"),
    ],
)
def test_a_broken_arrow_is_found(path: str, source: str) -> None:
    assert len(violations(source, path)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "devices/cell.py",
            "import math\nimport numpy as np\nimport scipy.special\nfrom .sensing import Sense",
        ),
        ("crossbar/tile.py", "from ..devices.cell import Cell\nfrom .kernels import noise"),
        ("crossbar/kernels/noise.py", "from numba import njit\n@njit(cache=True)\ndef f(x):\n    return x"),
        ("models/kernels/dense.py", "import numba\nfrom ...crossbar.kernels.philox import words"),
        ("models/dense_block.py", "from .kernels import dense"),
        ("mapping/convert.py", "import torch\nfrom ..crossbar import tile\nfrom .selection import Selection"),
        ("mapping/architecture/gantt.py", "def gantt():\n    from matplotlib.figure import Figure"),
        ("models/data/mnist.py", "from ...mapping.chip import Chip\nfrom ..network import Net"),
        (
            "mho/__init__.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .mapping.voting.votes import vote",
        ),
    ],
)
def test_an_allowed_import_is_not_reported(path: str, source: str) -> None:
    assert violations(source, path) == []
