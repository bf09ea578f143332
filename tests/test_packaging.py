"""What is installed: one version, a light face, every public name, and wheels with all the data files."""

import ast
import os
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

import mho

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "numba", "pandas", "matplotlib", "scipy"}


def setup_value(name: str) -> Any:
    """The literal that setup.py gives to `name`, as a variable or as an argument of setup()."""
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == name:
            return ast.literal_eval(node.value)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise KeyError(name)


FOLDERS: dict[str, str] = setup_value("FOLDERS")


def loaded_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after `code`."""
    report = "\nprint('\\nLOADED', *{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}{report}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("LOADED")[1].split())


def test_there_is_one_version() -> None:
    assert mho.__version__ == metadata.version("mho") == setup_value("version")
    assert (
        f"mho {mho.__version__}"
        in subprocess.run([sys.executable, "-m", "mho", "--version"], capture_output=True, text=True, check=True).stdout
    )


@pytest.mark.parametrize(
    "code",
    [
        "import mho; mho.__all__; dir(mho); mho.__version__",
        "from mho.cli import app, run; assert run(app, ['--help']) == 0",
        "from mho.cli import COMMANDS, app, run; assert not any(run(app, [name, '--help']) for name in COMMANDS)",
    ],
)
def test_the_face_is_light(code: str) -> None:
    assert not loaded_after(code) & HEAVY


def test_a_heavy_import_would_be_noticed() -> None:
    assert "scipy" in loaded_after("import scipy")


@pytest.mark.parametrize("name", mho.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(mho, name) is not None
    assert name in dir(mho)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'mho' has no attribute 'siemens'"):
        mho.siemens  # noqa: B018


@pytest.mark.parametrize("folder", sorted({Path(path).parts[0] for path in FOLDERS.values()} | {"tests"}))
def test_annotations_are_those_of_the_oldest_python(folder: str) -> None:
    """Python 3.10 takes no plain `ClassVar` in a class of pydantic's."""
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            plain = isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) in ("ClassVar", "typing.ClassVar")
            assert not plain, f"{file}:{node.lineno}: say what the ClassVar holds"


def test_every_folder_of_the_package_is_declared() -> None:
    tops = {folder for folder in FOLDERS.values() if "/" not in folder}
    found = {init.parent.relative_to(ROOT).as_posix() for top in tops for init in (ROOT / top).rglob("__init__.py")}
    assert found == set(FOLDERS.values())


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with its wheel in `dist`."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for folder in {folder.split("/")[0] for folder in FOLDERS.values()}:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=tree, check=True, capture_output=True)
    return tree


def test_a_wheel_holds_every_file_of_the_package(tree: Path) -> None:
    (wheel,) = (tree / "dist").glob("*.whl")
    packed = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = set()
    for package, folder in FOLDERS.items():
        for file in (tree / folder).rglob("*"):
            inside = file.relative_to(tree / folder).as_posix()
            if file.is_file():
                wanted.add(f"{package.replace('.', '/')}/{inside}")
    assert packed == wanted
    for pattern in ("mho/py.typed", "mho/devices/presets/", "mho/models/weights/", "mho/models/data/mnist-test/"):
        assert any(name.startswith(pattern) for name in packed), f"{pattern} is missing"


def keep_machine_code(package: Path) -> None:
    """Kernels that the tests have compiled, for a copy of the package: to compile them anew takes minutes."""
    for folder in ("crossbar/kernels", "models/kernels"):
        source, target = ROOT / folder, package / folder
        for file in target.glob("*.py"):
            stamp = (source / file.name).stat().st_mtime_ns
            os.utime(file, ns=(stamp, stamp))  # what is kept is of a file of this time
        for kept in source.glob("__pycache__/*.nb[ic]"):
            (target / "__pycache__").mkdir(exist_ok=True)
            shutil.copy2(kept, target / "__pycache__")


def test_the_demo_runs_from_the_wheel_without_the_repository(tree: Path, tmp_path: Path) -> None:
    """In an environment of its own; what the package needs is lent from here, so that no network is needed."""
    (wheel,) = (tree / "dist").glob("*.whl")
    env = tmp_path / "env"
    venv.create(env, with_pip=False)
    (site,) = env.glob("lib/python*/site-packages")
    lent = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site / "lent.pth").write_text("\n".join(lent) + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(env / "bin" / "python"), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-index", "--ignore-installed", str(wheel)], check=True, capture_output=True)
    keep_machine_code(site / "mho")

    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MHO_DATA")}
    where = "import mho; print(mho.__file__)"
    found = subprocess.run(
        [env / "bin" / "python", "-c", where], env=own, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()).is_relative_to(env)
    words = ["demo", "--images", "8", "--vote-images", "4", "--votes", "2", "--jobs", "1", "--out", "found"]
    done = subprocess.run([env / "bin" / "mho", *words], env=own, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "found" / "report.html").is_file()
    assert done.stdout.rstrip().endswith(str(tmp_path / "found" / "report.html"))
