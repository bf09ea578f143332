"""The speed benchmarks run at a tiny size and write what they promise. Nothing depends on how long things take."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch

import mho.timing
from mho.memory import array_bytes

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TINY = {"MLP": (8, 6, 4), "MLP_BATCH": 4, "CNN_BATCH": 2, "CALIBRATION": 8, "VOTES": 2}


@pytest.fixture
def timing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that the scripts time with, with short runs."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = mho.timing
    monkeypatch.setattr(module, "SHORTEST_RUN", 1e-6)
    monkeypatch.setattr(module, "BLOCK", 0.0)
    monkeypatch.setattr(module, "FEWEST", 1)
    return module


@pytest.fixture
def kernels(timing: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark with tiny layers and batches, in a state of its own."""
    module = importlib.import_module("kernels")
    for name, value in TINY.items():
        monkeypatch.setattr(module, name, value)
    sizes = [(12, 6, 3, 12), (20, 4, 2, 10), (16, 8, 5, 8), (18, 10, 3, 6)]
    monkeypatch.setattr(module, "LAYERS", tuple(module.Layer(*size) for size in sizes))
    module.mapped_linear.cache_clear()
    module.mapped_cnn.cache_clear()
    return module


def test_every_row_is_timed_and_written(
    kernels: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs" / "kernels"
    every = ": "  # stands in the name of each timed row, and in that of no limit, which would start fresh processes
    assert kernels.main(["--quick", "--only", every, "--threads", "1,2", "--out", str(out), "--markdown"]) == 0
    record = json.loads((out / "kernels.json").read_text(encoding="utf-8"))
    assert {"date", "command", "machine", "cpu", "cores", "versions"} <= set(record)
    assert record["versions"]["torch"] == torch.__version__
    rows = record["rows"]
    assert [(row["work"], row["threads"]) for row in rows] == [(w.name, n) for w in kernels.works() for n in (1, 2)]
    assert all(row["ratio"] == pytest.approx(row["mho_ms"] / row["torch_ms"]) for row in rows)
    assert all(row["mho_ms"] > 0 and row["reached"] in ("goal", "must", "no", "?") for row in rows)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| kind | work | threads | Mho (ms) | torch (ms) | ratio |")
    assert sum(line.startswith("| ") for line in lines) == len(rows) + 2
    assert any("channels_last" in line for line in lines if line.startswith("- "))
    assert [path.name for path in out.parent.iterdir()] == ["kernels"]
    assert [path.name for path in out.iterdir()] == ["kernels.json"]


def test_memory_of_a_chip_is_reported(kernels: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kernels.main(["--quick", "--only", "arrays of a chip", "--out", str(tmp_path)]) == 0
    (limit,) = json.loads((tmp_path / "kernels.json").read_text(encoding="utf-8"))["limits"]
    assert limit["what"] == "arrays of a chip of Linear 18 x 10"
    assert limit["value"] > 1  # the weights themselves are among them
    assert "must: 3" in capsys.readouterr().out


def test_nothing_is_written_when_something_fails(
    kernels: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kernels.main(["--quick", "--only", "no such row", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "error: --only 'no such row' matches no row\n"

    def fail(*_: object, **__: object) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr(kernels, "measure", fail)
    assert kernels.main(["--out", str(tmp_path / "out")]) == 2
    assert not list(tmp_path.iterdir())
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    assert kernels.main(["--out", str(tmp_path / "thesis.tex")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text(encoding="utf-8") == "years of work"


def test_batch_norms_are_folded_exactly(kernels: ModuleType) -> None:
    net, _, x = kernels.mapped_cnn()
    whole = kernels.mho.models.mnist_cnn(weights="sigma-0.5").eval()
    assert not any("Norm" in type(layer).__name__ or "Noise" in type(layer).__name__ for layer in net)
    with torch.no_grad():
        torch.testing.assert_close(net(x), whole(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("counts", ["", "0", "1,x", "1000"])
def test_bad_numbers_of_threads_are_refused(kernels: ModuleType, counts: str) -> None:
    with pytest.raises(SystemExit):
        kernels.parse(["--threads", counts])


def test_shared_arrays_count_once() -> None:
    class Named(NamedTuple):
        first: np.ndarray
        second: list

    class Slots:
        pass

    whole = np.zeros((10, 4), np.float32)
    thing = Slots()
    thing.parts = {"view": whole[2:5], "whole": Named(whole, [whole.T, whole.reshape(-1)])}  # type: ignore[attr-defined]
    thing.itself = thing  # type: ignore[attr-defined]
    thing.other = (np.zeros(3), 1.5, "text", None, np.float32)  # type: ignore[attr-defined]
    assert array_bytes(thing) == 160 + 24


def test_disturbed_runs_are_left_out(timing: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([(1.0, 1.0), (3.0, 9.0), (1.2, 1.2), (1.1, 1.1)])  # CPU and wall time: the second was interrupted
    monkeypatch.setattr(timing, "_run", lambda *_: next(times))
    found = timing.compare({"work": lambda: None}, 1, runs=3)
    assert (found.seconds, found.runs, found.discarded, found.quiet) == ({"work": 1.1}, 3, 1, True)


def test_a_busy_machine_is_owned_up_to(timing: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_run", lambda *_: (1.0, 9.0))
    found = timing.compare({"work": lambda: None}, 1, runs=3, budget=0.0)
    assert not found.quiet
    assert found.seconds == {"work": 1.0}


def test_a_failing_process_says_why(timing: ModuleType) -> None:
    assert timing.fresh_process("import os; print(os.environ['WORD'])", WORD="yes").output == "yes\n"
    with pytest.raises(ValueError, match=r"a fresh process failed: ZeroDivisionError: .*zero"):
        timing.fresh_process("1 / 0")


def test_peers_say_who_is_missing(
    kernels: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peers = importlib.import_module("peers")
    for name in ("LAYERS", "CALIBRATION", "CNN_BATCH"):
        monkeypatch.setattr(peers, name, getattr(kernels, name))
    absent = peers.Peer("Absent", "no_such_module", "x", lambda work: work.net, "nothing")
    monkeypatch.setattr(peers, "PEERS", (peers.MHO, absent))
    monkeypatch.setattr(peers, "fresh_measure", peers.measure)
    assert peers.main(["--threads", "1", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "peers.json").read_text(encoding="utf-8"))
    assert record["missing"] == {"Absent": "No module named 'no_such_module'"}
    assert [row["work"] for row in record["rows"]] == [
        "Linear 12 x 6, batch 3",
        "Linear 20 x 4, batch 2",
        "MNIST CNN, batch 2",
    ]
    assert "- Absent is not installed here" in capsys.readouterr().out
