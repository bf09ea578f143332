"""Kill a sweep again and again, and compare what it ends with.

    python benchmarks/kill_sweep.py [--kills 50] [--jobs 2 1 1 1 1] [--fresh 20] [--minutes 60] [--out docs/results]

A sweep of a small perceptron on MNIST, whose tasks take some hundredths of a second, runs once undisturbed. Then it
is started in a folder of its own and its process killed (SIGKILL) at a random moment, as often as asked for; whenever
it was finished before, it starts anew in an empty folder. At the end it may finish, and its table must equal the
undisturbed one bit for bit, the `_meta` columns aside. No finished task may be lost or done twice. Most starts are
forks of a process that has loaded Mho already, which saves seconds each; one in `--fresh` is a new `python -m mho`.
Workers are new processes in both cases.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import math
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
import yaml
from torch import nn

from mho.cli import app, run
from mho.records import record, write_json

SWEEP = {
    "experiment": "accuracy",
    "model": "kill_sweep:perceptron",
    "data": "mnist",
    "images": 20,
    "calibrate": 20,
    "hardware": "reram",
    "grid": {"sensing.v_read": [0.05, 0.1, 0.2], "seed": list(range(12)), "votes": [1, 3]},
}


def perceptron() -> nn.Module:
    """Untrained; the same each time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))


@dataclass
class Outcome:
    """What became of a sweep that was killed.

    kills: how often; kills_idle of them before a further task was done, or after all were.
    finished: sweeps that ran to their end, each compared with the undisturbed one.
    lost, repeated: finished tasks whose part was gone, or written anew, after a kill or at the end.
    parts: finished tasks at each kill.
    """

    kills: int = 0
    kills_idle: int = 0
    finished: int = 0
    lost: int = 0
    repeated: int = 0
    equal: bool = True
    parts: list[int] = field(default_factory=list)


def results(folder: Path) -> pd.DataFrame:
    """What a finished sweep found."""
    return results_of(pd.read_parquet(folder / "results.parquet"))


def results_of(table: pd.DataFrame) -> pd.DataFrame:
    """A table of a sweep without what is no result."""
    return table[[name for name in table if not name.endswith("_meta")]]


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "parts").glob("[!.]*.parquet")}


def kill_and_finish(
    sweep: Path,
    out: Path,
    whole: pd.DataFrame,
    kills: int,
    jobs: Sequence[int],
    rng: random.Random,
    spread: float,
    fresh: int = 20,
    until: float = math.inf,
) -> Outcome:
    """Run a sweep under SIGKILLs.

    Args:
        sweep: the file.
        out: a folder that is not there yet.
        whole: what it must end with.
        kills: how many.
        jobs: of the sweep, in turn from start to start.
        rng, spread: choose the moments: after a random number of new parts (none a third of the time, so that starts
            are killed too), and a random time of at most `spread` seconds.
        fresh: one start in so many is a new interpreter, the others are forks of this one.
        until: `time.monotonic()` at which the kills end, though they are fewer.
    """
    outcome = Outcome()
    log = out.with_suffix(".log")
    for start in itertools.count():
        arguments = ["sweep", str(sweep), "--out", str(out), "--jobs", str(jobs[start % len(jobs)])]
        before = parts(out)
        last = outcome.kills == kills or time.monotonic() > until
        process = _start(arguments, log, start % fresh == 0)
        if not last:
            further = rng.choice([0, 1, 1]) * rng.randint(1, max(1, (len(whole) - len(before)) // 2))
            _wait(process, out, len(before) + further)
            time.sleep(rng.random() * spread)
            process.kill()
        process.join()
        code = process.exitcode
        after = parts(out)
        outcome.lost += len(before.keys() - after.keys())
        outcome.repeated += sum(after[name] != content for name, content in before.items() if name in after)
        if code not in (0, -signal.SIGKILL):
            text = log.read_text(encoding="utf-8")[-2000:]
            raise RuntimeError(f"a sweep ended with exit code {code}: {text}")
        if not last:
            outcome.kills += 1
            outcome.kills_idle += code == 0 or len(after) == len(before)
            outcome.parts.append(len(after))
        if code == 0:
            outcome.finished += 1
            outcome.equal &= results(out).equals(whole)
        if last:
            return outcome
        if len(after) == len(whole):
            if code != 0:  # all parts, but not the table
                _finish(arguments, log)
                outcome.finished += 1
                outcome.equal &= results(out).equals(whole) and parts(out) == after
            shutil.rmtree(out)
    raise AssertionError


def _start(arguments: list[str], log: Path, fresh: bool) -> multiprocessing.Process:
    """The command in a copy of this process, which has loaded Mho but run nothing of it, or in a new interpreter."""
    importlib.import_module("mho.sweeps.run")
    process = multiprocessing.get_context("fork").Process(target=_command, args=(arguments, log, fresh))
    process.start()
    return process


def _finish(arguments: list[str], log: Path) -> None:
    """The command once more, which only has to write the table."""
    process = _start(arguments, log, fresh=True)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"a sweep without its table alone: {log.read_text(encoding='utf-8')[-2000:]}")


def _command(arguments: list[str], log: Path, fresh: bool) -> None:
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    if fresh:
        os.execv(sys.executable, [sys.executable, "-m", "mho", *arguments])
    sys.exit(run(app, arguments))


def _wait(process: multiprocessing.Process, out: Path, count: int) -> None:
    """Until the sweep holds its folder and has that many parts, or has ended."""
    lock = out / ".lock"
    while process.is_alive():
        started = lock.exists() and f"process {process.pid} " in lock.read_text(encoding="utf-8")
        if started and len(list((out / "parts").glob("[!.]*.parquet"))) >= count:
            return
        time.sleep(0.005)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--jobs", type=int, nargs="+", default=[2, 1, 1, 1, 1], help="in turn, from start to start")
    parser.add_argument("--fresh", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which no more are made")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/kill_sweep"))
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(path)  # where new processes find the network
    with tempfile.TemporaryDirectory() as scratch:
        sweep, out = Path(scratch, "sweep.yaml"), Path(scratch, "killed")
        sweep.write_text(yaml.safe_dump(SWEEP, sort_keys=False), encoding="utf-8")
        command = [sys.executable, "-m", "mho", "sweep", str(sweep), "--out", str(Path(scratch, "whole"))]
        subprocess.run(command, check=True)
        whole = results(Path(scratch, "whole"))
        rng = random.Random(options.seed)
        outcome = kill_and_finish(
            sweep,
            out,
            whole,
            options.kills,
            options.jobs,
            rng,
            1.0,
            options.fresh,
            time.monotonic() + 60 * options.minutes,
        )
    command_line = (
        f"benchmarks/kill_sweep.py --kills {options.kills} --jobs {' '.join(map(str, options.jobs))} "
        f"--fresh {options.fresh} --seed {options.seed}"
    )
    found = {
        **record(("mho", "torch", "numba", "numpy", "joblib", "pyarrow"), command_line),
        "tasks": len(whole),
        "seconds": round(time.perf_counter() - began),
        **vars(outcome),
    }
    write_json(found, options.out / "kill_sweep.json")
    good = outcome.equal and not outcome.lost and not outcome.repeated
    print(
        f"{outcome.kills} kills of a sweep of {len(whole)} tasks ({outcome.kills_idle} with no further task done): "
        f"{outcome.lost} tasks lost, {outcome.repeated} repeated, {outcome.finished} finished tables "
        f"{'equal' if outcome.equal else 'DIFFER FROM'} the undisturbed one"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
