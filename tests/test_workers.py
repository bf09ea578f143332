"""Processes of a sweep: one that is killed costs nothing but time, and whatever ends a command says so in a line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from joblib.externals.loky import get_reusable_executor
from sweeps_model import write_files, write_sweep

import mho
from mho.cli import app, run
from mho.sweeps import workers

HERE = Path(__file__).parent
EIGHT = {"model": "sweeps_model:fragile_net", "grid": {"seed": list(range(8)), "votes": [1, 4]}}


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A sweep of 16 tasks on 8 chips, with a network that can kill its process."""
    return {**write_files(tmp_path_factory.mktemp("files")), **EIGHT}


@pytest.fixture(scope="module")
def undisturbed(fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return results(mho.sweep(fields, out=tmp_path_factory.mktemp("undisturbed")))


@pytest.fixture
def fragile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder; a worker that reads when three tasks are done is killed, once.

    Nothing else is promised: what the killed worker has done may be lost with it, and any other may do it again.
    """
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    out = tmp_path / "run"
    monkeypatch.setenv("MHO_TEST_FRAGILE", f"{out} {os.getpid()}")
    get_reusable_executor().shutdown(wait=True)  # workers that other tests have left would not know of it
    return out


def results(table: pd.DataFrame) -> pd.DataFrame:
    return table[[name for name in table if not name.endswith("_meta")]]


def parts(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "parts").glob("[!.]*.parquet")}


def test_a_killed_worker_is_told_and_the_sweep_goes_on(
    fields: dict[str, Any], undisturbed: pd.DataFrame, fragile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ChildProcessError, match=r"a worker ended in the middle of a task: .*SIGKILL") as caught:
        mho.sweep(fields, out=fragile, jobs=2)
    assert "\n" not in str(caught.value)
    before = parts(fragile)
    assert (fragile / "killed").exists()
    assert 3 <= len(before) < 16
    monkeypatch.delenv("MHO_TEST_FRAGILE")
    pd.testing.assert_frame_equal(results(mho.sweep(fields, out=fragile, jobs=2)), undisturbed)
    after = parts(fragile)
    assert len(after) == 16
    assert {name: after[name] for name in before} == before


@contextmanager
def dask(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs="CRITICAL"
    ) as cluster:
        yield cluster.scheduler_address


@contextmanager
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("RAY_DEDUP_LOGS", "0")
    yield None


@pytest.mark.parametrize("cluster", [dask, ray])
def test_a_worker_killed_on_a_cluster_loses_and_doubles_no_row(
    fields: dict[str, Any], undisturbed: pd.DataFrame, fragile: Path, monkeypatch: pytest.MonkeyPatch, cluster: Any
) -> None:
    told: list[int] = []
    with cluster(monkeypatch) as address:
        asked = {**fields, "backend": cluster.__name__, **({"cluster": address} if address else {})}
        table = mho.sweep(asked, out=fragile, jobs=2, progress=lambda done, total: told.append(done))
    assert (fragile / "killed").exists()  # it was
    assert len(parts(fragile)) == 16
    assert told == sorted(set(told))
    assert os.getpid() not in set(table["pid_meta"])
    pd.testing.assert_frame_equal(results(table), undisturbed)


def not_watched() -> None:
    """This process has no watchdog, and does not end by one: the owner of the workers is not its parent."""
    time.sleep(0.1)
    assert not any("(watch)" in thread.name for thread in threading.enumerate())


@pytest.mark.parametrize("votes", [[1, 16], [4]])
def test_a_sweep_of_one_chip_with_two_jobs(tmp_path: Path, votes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)
    path = write_sweep(tmp_path, grid={"votes": votes})
    assert run(app, ["sweep", str(path), "--out", str(tmp_path / "run"), "--jobs", "2"]) == 0
    not_watched()
    assert list(pd.read_parquet(tmp_path / "run" / "results.parquet")["votes"]) == votes


def test_a_search_of_one_chip_with_two_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    monkeypatch.syspath_prepend(HERE)
    sweep = {name: value for name, value in write_files(tmp_path).items() if name != "grid"}
    asked = {**sweep, "search": {"votes": [1, 2, 3, 5, 8]}, "target": 0.3, "trials": 8, "population": 4}
    found = mho.optimize(asked, out=tmp_path / "two", jobs=2)
    not_watched()
    assert str(found) == str(mho.optimize(asked, out=tmp_path / "one"))


def test_the_owner_is_not_watched() -> None:
    before = signal.getsignal(signal.SIGINT)
    workers.attend(os.getpid())
    not_watched()
    assert signal.getsignal(signal.SIGINT) is before


class Running:
    """A command in a session of its own, to be ended; `said` is what it leaves on standard error."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mho", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(HERE)},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # where the tests run in the background
        )

    def wait_for(self, step: str) -> None:
        """Until a line of progress begins so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(step):
                return
        raise AssertionError(self.process.communicate()[1])

    def end(self, number: int, *, group: bool) -> tuple[int, str]:
        (os.killpg if group else os.kill)(self.process.pid, number)
        _, said = self.process.communicate(timeout=100)
        return self.process.returncode, said

    def survivors(self) -> list[str]:
        """Processes of the session that do not end, given time; the dead that nobody buried aside."""
        until = time.monotonic() + 20
        while (found := self._alive()) and time.monotonic() < until:
            time.sleep(0.1)
        return found

    def _alive(self) -> list[str]:
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.process.pid and fields[0] != "Z":
                found.append(stat.parent.name)
        return found


@pytest.mark.parametrize(
    ("number", "group", "code", "line"),
    [
        (signal.SIGINT, True, 130, "mho: interrupted\n"),
        (signal.SIGTERM, False, 143, "mho: ended by SIGTERM\n"),
    ],
)
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_an_interrupted_sweep_ends_with_a_line(
    tmp_path: Path, number: signal.Signals, group: bool, code: int, line: str
) -> None:
    path = write_sweep(tmp_path, model="sweeps_model:slow_net", grid={"seed": list(range(200)), "votes": 9})
    command = Running("sweep", str(path), "--out", str(tmp_path / "run"), "--jobs", "2")
    command.wait_for("tasks: 1 of 200")
    assert command.end(number, group=group) == (code, line)
    assert command.survivors() == []


@pytest.mark.parametrize("command", [["devices", "reram"], ["--help"]])
def test_an_output_that_takes_nothing_is_told(command: list[str]) -> None:
    """A full disk, and a reader that has gone."""
    arguments = [sys.executable, "-m", "mho", *command]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "mho: error: standard output: No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(arguments, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (2, "mho: error: standard output: Broken pipe\n")


def test_a_row_that_cannot_be_written_names_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(HERE)
    path = write_sweep(tmp_path, grid={"votes": [1]})

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mho.sweeps.folder.os.fsync", full)
    assert run(app, ["sweep", str(path), "--out", str(tmp_path / "run")]) == 2
    assert f"mho: error: {tmp_path / 'run'}/hardware.yaml: No space left on device\n" == capsys.readouterr().err


def test_a_model_that_leaves_python_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(HERE)
    path = write_sweep(tmp_path, model="sweeps_model:leaving_net")
    assert run(app, ["sweep", str(path), "--out", str(tmp_path / "run")]) == 2
    assert "mho: error: the process was ended by sys.exit(3)" in capsys.readouterr().err


def test_where_there_is_no_terminal_each_task_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(HERE)
    path = write_sweep(tmp_path, grid={"seed": [0, 1, 2], "votes": [1, 2]})
    assert run(app, ["sweep", str(path), "--out", str(tmp_path / "run")]) == 0
    lines = [line.split(",")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines[1:-1] == ["tasks: 2 of 6", "tasks: 4 of 6", "tasks: 6 of 6"]
