"""The benchmark of wires runs at a tiny size and writes what it promises."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from mho import timing

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name, value in {"SHORTEST_RUN": 1e-6, "BLOCK": 0.0, "FEWEST": 1}.items():
        monkeypatch.setattr(timing, name, value)
    module = importlib.import_module("wires")
    tiny = {
        "SIZES": (8, 12),
        "READS": {8: 20, 12: 20},
        "ERROR_SIZES": (12,),
        "RESISTANCES": (1.0, 100.0),
        "TILES": (256,),
        "FIGURE_TILES": (256,),
        "SWEEP": (1.0,),
        "CHIPS": 1,
        "CALIBRATION": 4,
        "REMEDIES": {"none": {}, "gain": {"wire_compensation": "gain"}},
    }
    for name, value in tiny.items():
        monkeypatch.setattr(module, name, value)
    return module


def test_all_parts(bench, tmp_path, capsys):
    assert bench.main(["--out", str(tmp_path / "runs"), "--images", "4"]) == 0
    record = json.loads((tmp_path / "runs" / "wires.json").read_text(encoding="utf-8"))
    assert {"command", "machine", "versions", "seed", "images", "weights"} <= record.keys()
    assert [(row["n"], row["work"]) for row in record["speed"]] == [
        (n, work) for n in (8, 12) for work in ("one read", "G_eff", "many reads")
    ]
    assert all(row["mho_ms"] > 0 and (row["error"] is None or row["error"] < 1e-9) for row in record["speed"])
    assert all(max(row["read_error"], row["geff_error"]) < 1e-9 for row in record["errors"])
    assert [row["remedy"] for row in record["accuracy"]] == ["none", "none", "gain"]
    assert (tmp_path / "runs" / "wires.png").is_file()
    assert "error of G_eff" in capsys.readouterr().out


def test_sparse_lu_is_the_same_circuit(bench):
    g, v = bench.array(9, zero=0.3)
    exact = bench.SparseLU(g, 20.0).read(np.stack([v, 2 * v], axis=1))
    assert np.allclose(exact[:, 1], 2 * exact[:, 0])
    assert bench.error(bench.read(g, v, r_word_line=20.0, r_bit_line=20.0), exact[:, 0]) < 1e-10


def test_parts_are_checked(bench, tmp_path, capsys):
    with pytest.raises(SystemExit):
        bench.main(["--only", "sped", "--out", str(tmp_path)])
    assert "--only takes speed, errors, accuracy" in capsys.readouterr().err
