"""The examples in the docstrings of the names that docs/api.md lists run, and give what they show."""

from __future__ import annotations

import doctest
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import mho

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
import pages

PAGE = pages.DOCS / "api.md"
LEAST = 40  # names with an example


def public() -> list[str]:
    """The names that the page lists."""
    lists = re.findall(r":nosignatures:\n\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    return [name for found in lists for name in found.split()]


def named(name: str) -> Any:
    """A name of the package; its modules are imported where they have to be."""
    found: Any = mho
    for part in name.split("."):
        if not hasattr(found, part):
            import_module(f"{found.__name__}.{part}")
        found = getattr(found, part)
    return found


def examples() -> list[doctest.DocTest]:
    """Of the names that the page lists, and of the members of the classes among them."""
    finder, found = doctest.DocTestFinder(exclude_empty=True), []
    for name in public():
        thing = named(name)
        things = {name: thing}
        if isinstance(thing, type):
            ours = [part for part in reversed(thing.__mro__) if part.__module__.startswith("mho.")]
            members = {key: value for part in ours for key, value in vars(part).items()}
            things |= {f"{name}.{key}": value for key, value in members.items() if not key.startswith("_")}
        for path, one in things.items():
            one = getattr(one, "fget", None) or getattr(one, "__func__", None) or one
            if ">>>" in (getattr(one, "__doc__", None) or ""):
                text = str(one.__doc__)
                found.append(finder._parser.get_doctest(text, {}, path, None, 0))  # type: ignore[attr-defined]
    return found


def test_all_public_names_are_listed() -> None:
    listed = set(public())
    assert {
        name
        for name in mho.__all__
        if name not in ("crossbar", "devices", "importing", "mapping", "models", "__version__")
    } <= listed
    for name in listed:
        assert named(name).__doc__, name


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(pages.blocks(PAGE.read_text("utf-8"))[0].code, names)
    found = examples()
    assert len({test.name for test in found}) >= LEAST
    said: list[str] = []
    for test in found:
        test.globs = dict(names)
        doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=said.append)
    assert not said, "".join(said)
