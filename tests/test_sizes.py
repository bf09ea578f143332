"""How long files and functions may be, how many parameters a function may have, and what the scripts may import.

A file has at most 400 lines. A function has at most 60 lines, signature and docstring apart, and 10 parameters, those
by keyword with them, `self` and `cls` apart; in kernels only the parameters count. The parameters of a command are the
options of the command line, as many as people need.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "crossbar", "devices", "mapping", "mho", "models", "tests")
FILE_LINES, FUNCTION_LINES, PARAMETERS = 400, 60, 10
COMMANDS = "mho/commands"
VARIANTS = {  # scripts that vary another one, or do a part of its work
    ("aihwkit_training", "hardware_aware"),
    ("coded_outputs", "hardware_aware"),
    ("coded_outputs", "noise_by_layer"),
    ("densenet", "paper"),
    ("network_rows", "kernels"),
    ("network_speed", "kernels"),
    ("network_speed", "profile_read"),
    ("noise_by_layer", "hardware_aware"),
    ("noise_by_layer_figure", "noise_by_layer"),
    ("paper", "attacks"),
    ("peers", "kernels"),
    ("published_cost", "isaac"),
    ("speed_between", "digests"),
}
USERS = 2  # of a helper of scripts, such as one that draws; what serves more belongs into the package


def functions(tree: ast.Module) -> Iterator[tuple[str, int, int]]:
    """Name, lines and parameters of each function and method."""
    methods = {item for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for item in node.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            names = [part.arg for part in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            names += [part.arg for part in (given.vararg, given.kwarg) if part]
            bound = node in methods and names[:1] in (["self"], ["cls"])
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            yield node.name, (node.end_lineno or node.lineno) - body[0].lineno + 1, len(names) - bound


def too_large(source: str, path: str) -> set[str]:
    """What in the source of the file at `path` is above its limit."""
    found = {f"{path}: lines"} if source.count("\n") > FILE_LINES else set()
    for name, lines, parameters in functions(ast.parse(source)):
        if lines > FUNCTION_LINES and "kernels" not in Path(path).parts:
            found.add(f"{path}: {name}: lines")
        if parameters > PARAMETERS and not path.startswith(COMMANDS):
            found.add(f"{path}: {name}: parameters")
    return found


def borrowed(files: dict[str, str]) -> dict[str, set[str]]:
    """Which scripts import each file or folder of `benchmarks/`, by names; sources by path."""
    found: dict[str, set[str]] = {Path(path).parts[1].removesuffix(".py"): set() for path in files}
    for path, source in files.items():
        own = Path(path).parts[1].removesuffix(".py")
        for node in ast.walk(ast.parse(source)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in {name.partition(".")[0] for name in names} & found.keys() - {own}:
                found[name].add(own)
    return found


def unshared(files: dict[str, str]) -> set[tuple[str, str]]:
    """Pairs of a script and what it imports though that should be in the package."""
    commands = {Path(path).stem for path, source in files.items() if '__name__ == "__main__"' in source}
    return {
        (user, name)
        for name, users in borrowed(files).items()
        for user in users
        if name in commands or len(users) > USERS
    }


def sources(*folders: str) -> dict[str, str]:
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def test_files_functions_and_parameters() -> None:
    files = sources(*FOLDERS)
    assert len(files) > 250
    assert set().union(*(too_large(source, path) for path, source in files.items())) == set()


def test_scripts_share_through_the_package() -> None:
    assert unshared(sources("benchmarks")) == VARIANTS


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("mho/a.py", "x = 1\n" * 400, []),
        ("mho/a.py", "x = 1\n" * 401, ["lines"]),
        ("mho/a.py", "def f():\n" + "    x = 1\n" * 60, []),
        ("mho/a.py", 'def f():\n    """What."""\n' + "    x = 1\n" * 60, []),
        ("mho/a.py", "def f():\n" + "    x = 1\n" * 61, ["f: lines"]),
        ("crossbar/kernels/a.py", "def f():\n" + "    x = 1\n" * 61, []),
        ("mho/commands/a.py", "def f(a, b, c, d, e, g, h, i, j, k, l): ...", []),
        ("mho/a.py", "class A:\n    def f(self, a, b, c, d, e, *, g, h, i, j, **k): ...", []),
        ("mho/a.py", "class A:\n    async def f(self, a, b, c, d, e, *, g, h, i, j, **k): ...", []),
        ("mho/a.py", "def f(self, a, b, c, d, e, *, g, h, i, j, **k): ...", ["f: parameters"]),
        ("mho/a.py", "class A:\n    def f(self, a, b, c, /, d, e, *l, g, h, i, j, **k): ...", ["f: parameters"]),
        ("crossbar/kernels/a.py", "def f(a, b, c, d, e, g, h, i, j, k, l): ...", ["f: parameters"]),
    ],
)
def test_what_is_too_large_is_found(path: str, source: str, found: list[str]) -> None:
    assert too_large(source, path) == {f"{path}: {one}" for one in found}


def test_what_scripts_should_not_share_is_found() -> None:
    main = '\nif __name__ == "__main__":\n    main()\n'
    files = {
        "benchmarks/one.py": f"import mho, numpy\nfrom mho.tables import Column\nimport one_figures{main}",
        "benchmarks/one_figures.py": "import pandas",
        "benchmarks/paper.py": f"from paper.main import main{main}",
        "benchmarks/paper/main.py": "from .one import x\nfrom . import one\nimport one_figures",
    }
    assert unshared(files) == set()
    borrows = {**files, "benchmarks/paper/cells.py": "def f():\n    from one import x"}
    assert unshared(borrows) == {("paper", "one")}
    many = {**files, "benchmarks/two.py": "import one_figures"}
    assert unshared(many) == {(user, "one_figures") for user in ("one", "paper", "two")}
