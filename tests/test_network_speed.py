"""The benchmark of real networks runs at a tiny size, and tells what got slower. How long it takes does not matter."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

import mho.timing

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
WORDS = {"hidden_size": 16, "intermediate_size": 24, "vocab_size": 50, "num_attention_heads": 2}
SMALL = {**WORDS, "num_hidden_layers": 1, "num_key_value_heads": 1}


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark with short runs, tiny pictures and a tiny decoder."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name, value in {"SHORTEST_RUN": 1e-6, "BLOCK": 0.0, "FEWEST": 1, "WARM_RUN": 0.0}.items():
        monkeypatch.setattr(mho.timing, name, value)
    module = importlib.import_module("network_speed")
    rows = module.network_rows
    for name, value in {"SIZE": 5, "BATCH": 2, "SHORT": 3, "DECODER": SMALL, "KEPT": {}}.items():
        monkeypatch.setattr(rows, name, value)
    return module


def entry(work: str, value: float, threads: int = 1, what: str = "read") -> dict[str, object]:
    return {"work": work, "what": what, "threads": threads, "value": value}


def test_what_got_slower_is_told_the_worst_first(speed: ModuleType) -> None:
    before = [entry("a", 1.0), entry("b", 2.0), entry("c", 1.0), entry("d", 1.0, 2), entry("e", 1.0, what="map")]
    found = [entry("a", 1.2), entry("b", 4.0), entry("c", 1.1), entry("d", 9.0, 2), entry("e", 9.0, what="map")]
    found += [entry("new", 9.0), entry("a", 9.0, 2)]
    assert speed.slower(found, before, 0.15) == [
        "b: 4.00, was 2.00 (100 % slower)",
        "a: 1.20, was 1.00 (20 % slower)",
    ]
    assert speed.slower(found, before, 1.5) == []


def test_an_entry_is_judged_by_its_kind_of_processor_and_at_its_number_of_threads(speed: ModuleType) -> None:
    row = speed.network_rows.Row("r", "read", speed.network_rows.aim((2.0, 1.4), 1.2), SimpleNamespace)
    measured = {"threads": 2, "value": 1.7, "quiet": True}
    assert speed.judged(measured, row, "AVX2") == {**measured, "must": 2.0, "goal": 1.2, "reached": "must"}
    assert speed.judged(measured, row, "AVX-512")["reached"] == "no"
    assert speed.judged({**measured, "value": 1.2}, row, "AVX-512")["reached"] == "goal"
    assert speed.judged({**measured, "quiet": False}, row, "AVX2")["reached"] == "?"
    assert speed.judged({**measured, "threads": 1}, row, "AVX2")["reached"] == "-"
    assert [speed.kind_of(f"a processor with {x}") for x in ("AVX2", "AVX2, AVX-512")] == ["AVX2", "AVX-512"]


def test_rows_are_measured_written_and_compared(
    speed: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--quick", "--only", "1x1", "--threads", "1"]
    assert speed.main([*options, "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text(encoding="utf-8"))
    assert path.stem == record["kind"]
    (row,) = record["rows"]
    assert row["value"] == pytest.approx(row["mho_ms"] / row["torch_ms"])
    assert sum(row["shares"].values()) == pytest.approx(1)
    assert row["limit"] > 0
    assert row["keeps"] in row["shares"]
    lines = capsys.readouterr().out
    assert "arithmetic" in lines
    assert "slower" not in lines
    for factor, code in ((1e-3, 1), (1e3, 0)):
        path.write_text(json.dumps({"rows": [{**row, "value": factor * row["value"]}]}))
        found = speed.main([*options, "--no-limits", "--out", str(tmp_path / "new"), "--check", str(tmp_path)])
        assert (found, "slower: 1x1, 64 to 256" in capsys.readouterr().out) == (code, bool(code))


def test_limits_of_groups_that_are_read_together(speed: ModuleType) -> None:
    row = speed.network_rows.rows()[0]._replace(
        name="groups", subject=lambda: speed.network_rows.convolution(8, 8, 3, groups=8)
    )
    (found,) = speed.measured(row, [1], quick=True, limits=True)
    assert 0 < found["limit"] < found["value"]
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert min(found["shares"][name] for name in speed.PARTS) > 0


def test_limits_are_of_inputs_with_the_zeros_around_them(speed: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(speed.profile_read, "parts", lambda tiles, x, runs: seen.append(x.shape) or {})
    x = torch.rand(2, 3, 6, 5)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=(1, 2)), nn.Conv2d(4, 2, 3)).eval()
    chip = mho.map(net, mho.Hardware.preset("reram"), calibrate=x)
    speed.parts(lambda: chip(x))
    assert seen == [(2, 1, 8, 9, 3), (2, 1, 6, 7, 4)]


def test_what_cannot_be_measured_is_said(
    speed: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert speed.main(["--only", "no such row", *out]) == 2
    assert "'no such row' matches no row" in capsys.readouterr().err
    assert speed.main(["--only", "1x1", "--check", str(tmp_path), *out]) == 2
    assert "has no results of processors with" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert speed.main(["--only", "map GPT-2", *out]) == 2
    assert "map GPT-2 124 M: transformers is not installed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_mapping_and_threads_have_rows(speed: ModuleType) -> None:
    rows = speed.network_rows
    row = rows.Row("tiny", "map", rows.aim(1, 1), lambda: rows.prepared(nn.Linear(6, 4), torch.rand(3, 6)))
    (found,) = speed.measured(row, [1], quick=True, limits=False)
    assert (found["unit"], found["threads"]) == ("s", 2)
    assert found["value"] > 0
    (found,) = speed.measured(row._replace(what="threads"), [1], quick=True, limits=False)
    assert found["value"] > 0
    names = [each.name for each in rows.rows()]
    assert len(set(names)) == len(names)


def test_the_large_decoder_is_measured_at_a_tiny_size(speed: ModuleType) -> None:
    pytest.importorskip("transformers")
    chosen = [row for row in speed.network_rows.rows() if row.large and row.what != "peak"]
    found = [speed.measured(row, [1], quick=True, limits=False)[0] for row in chosen]
    assert [each["unit"] for each in found] == ["s", "of torch's time"]
