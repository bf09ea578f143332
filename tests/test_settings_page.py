"""The page of all settings is what the code says, and says what each setting of the hardware means."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"


@pytest.fixture(scope="module")
def settings() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PAGE.parents[1] / "benchmarks"))
        yield importlib.import_module("settings")


def test_the_page_is_what_the_code_says(settings: ModuleType) -> None:
    assert PAGE.read_text(encoding="utf-8") == settings.page(), "run: python benchmarks/settings.py"


def test_each_setting_is_there_and_has_a_meaning(settings: ModuleType) -> None:
    models = settings.models()
    for path, model in models.items():
        for name, _, _, _, meaning in settings.rows_of(model):
            assert meaning, f"{path}.{name}"

    said = {f"{path}.{name}".lstrip(".") for path, model in models.items() for name, *_ in settings.rows_of(model)}
    parts = {"cell.programming", "cell.drift", "cell.read_noise", "cell.nonlinearity", "adc.kind"}  # which have kinds
    wanted = {f"{path}.{name}".lstrip(".") for path, model in models.items() for name in model.model_fields}
    assert said | parts | set(models) - {""} == wanted


def test_each_kind_is_there_with_all_that_it_takes(settings: ModuleType) -> None:
    """A part of a cell that can be chosen is on the page, and its fields, those of models in it too."""
    listed = [registry for _, registry in settings.KINDS.values()]
    for part in settings.Part.__subclasses__():
        if "registry" in vars(part) and part.__module__.startswith("mho."):
            assert any(part.registry is registry for registry in listed), part
    for _, registry in settings.KINDS.values():
        for kind in map(registry.__getitem__, registry):
            said = {name.split(".")[0] for name, *_ in settings.rows_of(kind, nested=True)}
            assert said | {"kind", "data"} >= set(kind.model_fields), kind
    text = PAGE.read_text(encoding="utf-8")
    for row in ("| `mean.offset` |", "| `fraction` |", "| `string.g_ref` |", "| `data.voltage` |"):
        assert row in text


def test_units_defaults_and_ranges(settings: ModuleType) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert "| `sensing.v_read` | V | (needed) | above 0 | Largest voltage on a word line. |" in text
    assert "| `tile.rows` |  | 256 | from 1 to 65536 | Word lines |" in text
    assert "### `polynomial`" in text
