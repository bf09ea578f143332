"""Registries: names, duplicates, and entry points."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from mho.devices.registry import Registry

FILES = {
    "things_of_others.py": "import mho_registry_log\nmho_registry_log.loaded.append(1)\ndef good():\n    return 1\n",
    "mho_registry_log.py": "loaded = []\n",
    "adds_itself.py": "from mho_test_registry import REGISTRY as R\n@R.register('self')\ndef thing():\n    return 2\n",
    "fails.py": "raise OSError('no\\nluck')\n",
    "adds_nothing.py": "",
}
POINTS = """[mho.test_things]
good = things_of_others:good
self = adds_itself
fails = fails
nothing = adds_nothing
missing = things_of_others:bad
"""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[Any]:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    info = tmp_path / "things_of_others-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: things-of-others\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(POINTS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    found: Registry[Any] = Registry("thing", "mho.test_things")
    module = type(sys)("mho_test_registry")
    module.REGISTRY = found  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mho_test_registry", module)
    return found


def test_what_is_registered_is_found_by_its_name(registry: Registry[Any]) -> None:
    @registry.register("mine")
    def mine() -> int:
        return 3

    assert registry["mine"] is mine
    assert "mine" in registry
    assert "yours" not in registry
    assert [1] not in registry
    assert list(registry) == ["mine", "good", "self", "fails", "nothing", "missing"]
    assert len(registry) == 6
    assert registry.loaded() == {"mine": mine}


def test_entry_points_are_loaded_when_they_are_asked_for(registry: Registry[Any]) -> None:
    assert "good" in list(registry)
    assert "mho_registry_log" not in sys.modules
    assert registry["good"]() == 1
    assert sys.modules["mho_registry_log"].loaded == [1]
    assert registry["good"]() == 1
    assert sys.modules["mho_registry_log"].loaded == [1]
    assert registry["self"]() == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", r"thing 'fails': its entry point fails does not load: OSError: no luck$"),
        ("missing", r"thing 'missing': its entry point things_of_others:bad does not load: AttributeError"),
        ("nothing", r"thing 'nothing': its entry point adds_nothing does not add it$"),
        ("other", r"thing must be one of good, self, fails, nothing, missing, got 'other'$"),
        ([1], r"thing must be one of good, self, fails, nothing, missing, got \[1\]$"),
    ],
)
def test_what_cannot_be_found_is_one_line(registry: Registry[Any], name: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry[name]


def test_one_name_is_one_thing() -> None:
    registry: Registry[Any] = Registry("thing", "mho.test_nothing")

    def again() -> Any:
        @registry.register("one")
        def one() -> None: ...

        return one

    first, second = again(), again()
    assert first is not second
    assert registry["one"] is second  # the same code, run again
    with pytest.raises(ValueError, match=r"thing 'one' is .*again.<locals>.one already; .*Registry must have a name"):
        registry.add("one", Registry)
    assert registry["one"] is second


@pytest.mark.parametrize("name", ["", " x", "a\nb", 3, None])
def test_a_name_is_text(name: Any) -> None:
    with pytest.raises(TypeError, match="thing: a name must be text of printable characters, got"):
        Registry("thing", "mho.test_nothing").add(name, len)


def test_a_decorator_without_a_name_is_refused() -> None:
    registry: Registry[Any] = Registry("thing", "mho.test_nothing")
    with pytest.raises(TypeError, match="thing: a name must be text of printable characters, got <built-in"):
        registry.register(len)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"thing must be one of none that is known here \(import the module that adds it"
    ):
        registry["one"]


def test_a_check_may_refuse() -> None:
    def check(name: str, thing: Any) -> None:
        raise TypeError(f"{name}: no")

    registry: Registry[Any] = Registry("thing", "mho.test_nothing", check)
    with pytest.raises(TypeError, match=r"^x: no$"):
        registry.register("x")(print)
    assert len(registry) == 0
