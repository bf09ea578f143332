"""Built chips beside their published figures: what docs/cost.md says of the ratios holds, and is not by chance."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("published_cost", FOLDER / "published_cost.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


@pytest.fixture(scope="module")
def table(benchmark: ModuleType) -> pd.DataFrame:
    return benchmark.compare().set_index(["chip", "work", "figure"])  # in the order of the file


def test_the_ratios_are_those_of_the_document(table: pd.DataFrame) -> None:
    ratio = table["ratio"].sort_index()
    uniform = ratio["HERMES core", "uniform weights and inputs"]
    assert uniform["tops"] == pytest.approx(1, rel=0.01)
    assert uniform["tops_per_w"] == pytest.approx(0.87, rel=0.02)
    assert uniform["tops_per_mm2"] == pytest.approx(1.35, rel=0.02)
    neurram = ratio["NeuRRAM"].unstack()
    assert neurram["tops"].dropna().between(0.9, 1.1).all()
    assert neurram["tops_per_w"].dropna().between(0.25, 0.32).all()
    assert neurram.loc["one core", "area_mm2"] == pytest.approx(1.17, rel=0.02)
    own = ratio["ISAAC tile", "its own constants"]
    assert own.between(0.995, 1.005).all()
    assert ratio["ISAAC tile", "defaults"]["area_mm2"] == pytest.approx(27, rel=0.02)


def test_the_committed_result_is_what_comes_out(table: pd.DataFrame) -> None:
    committed = pd.read_csv(FOLDER.parent / "docs" / "results" / "published_cost.csv").set_index(table.index.names)
    pd.testing.assert_frame_equal(committed, table, check_exact=False, rtol=1e-4)


def test_a_core_of_one_converter_is_told_apart(benchmark: ModuleType, table: pd.DataFrame) -> None:
    """Negative control: 256 columns that wait for one converter do not make the published rate."""
    chips = benchmark.yaml.safe_load(benchmark.SOURCE.read_text(encoding="utf-8"))
    chips["hermes_core"]["chain"]["columns"] = 256
    rows = {row.figure: row for row in benchmark.hermes(chips["hermes_core"])}
    assert rows["tops"].modelled < 0.01 * rows["tops"].published


def test_it_writes_its_table(benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "published_cost.csv").is_file()
    assert "HERMES core" in capsys.readouterr().out
